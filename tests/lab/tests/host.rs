//! The promises of a lab host: the real KVM with private memory, and commands and files that
//! arrive as they were sent. Boots a lab host for each test; makes the lab ready if it is not.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use tenure_lab::progress::Plain;
use tenure_lab::{BootOptions, Clock, Command, Host, HostError, Lab, Options, Status, Stdin, Target};

const PROBE: &str = "/bin/probe";

fn lab() -> &'static (Lab, PathBuf) {
    static LAB: OnceLock<(Lab, PathBuf)> = OnceLock::new();
    LAB.get_or_init(|| {
        let mut progress = Plain::new(std::io::stderr());
        let lab = Lab::provision(&Options::default(), &mut progress).expect("a lab");
        let target = Target::Example("probe".to_owned());
        let probe = lab.build_static("lab-agent", &target, &mut progress).expect("a probe");
        (lab, probe)
    })
}

fn boot() -> Host {
    let (lab, probe) = lab();
    let extra_files = vec![(probe.clone(), PROBE.to_owned())];
    lab.boot(&BootOptions { extra_files, ..BootOptions::default() }).expect("a host")
}

fn probe(args: &[&str]) -> Command {
    Command::new(PROBE).args(args.iter().copied())
}

fn parent(host: &Host, pid: u32) -> u32 {
    let stat = host.read_to_string(&format!("/proc/{pid}/stat")).expect("its state");
    // The name in brackets may hold anything; state and parent follow it.
    let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)).expect("a parent");
    parent.parse().expect("a number")
}

/// Bytes of all values in no order.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(count).collect()
}

#[test]
fn kvm_offers_vms_with_private_memory() {
    let output = boot().run(probe(&["kvm"])).unwrap();
    assert!(output.status.success(), "{}", output.stderr_text());
    let types = output.stdout_text();
    let types = u32::from_str_radix(types.trim().trim_start_matches("0x"), 16).unwrap();
    assert_eq!(types & 0b11, 0b11, "VM types {types:#x}: default and software-protected");
}

/// What `qemu/` corrects, all of it, from within private memory.
#[test]
fn instructions_in_private_memory_work_without_being_read() {
    let (lab, _) = lab();
    let target = Target::Example("assists".to_owned());
    let assists = lab.build_static("lab-agent", &target, &mut Plain::new(std::io::stderr())).unwrap();
    let host = lab.boot(&BootOptions::default()).unwrap();
    host.put_file(&assists, "/bin/assists").unwrap();
    let output = host.run(Command::new("/bin/assists")).unwrap();
    assert!(output.status.success(), "{}\n{}{}", output.status, output.stdout_text(), output.stderr_text());
}

#[test]
fn ends_are_told_apart() {
    let host = boot();
    for code in [0u32, 1, 77, 255] {
        let output = host.run(probe(&["exit", &code.to_string()])).unwrap();
        assert_eq!(output.status, Status::Exited(code));
    }
    assert_eq!(host.run(probe(&["abort"])).unwrap().status, Status::Signaled(6));
    let error = host.run(Command::new("/bin/none")).unwrap_err();
    assert!(matches!(error, HostError::Refused { .. }) && error.to_string().contains("/bin/none"), "{error}");
    // What was refused leaves the host in order.
    assert!(host.run(probe(&["exit", "0"])).unwrap().status.success());
}

#[test]
fn streams_are_binary_safe_and_apart() {
    let host = boot();
    let data = noise(3 << 20);
    let output = host.run(probe(&["copy"]).stdin(Stdin::Bytes(data.clone()))).unwrap();
    assert!(output.status.success());
    assert!(output.stdout == data);
    assert!(output.stderr.iter().zip(&data).all(|(error, byte)| *error == !byte));
    assert_eq!(output.stderr.len(), data.len());
}

#[test]
fn several_commands_run_at_once_and_each_is_reachable() {
    let host = boot();
    let mut sleeper = host.spawn(probe(&["sleep"])).unwrap();
    let mut line = String::new();
    BufReader::new(&mut sleeper.stdout).read_line(&mut line).unwrap();
    assert_eq!(line, "sleeping\n");

    let mut copier = host.spawn(probe(&["copy"]).stdin(Stdin::Stream)).unwrap();
    assert_ne!(sleeper.pid(), copier.pid());
    let mut stdin = copier.stdin.take().unwrap();
    stdin.write_all(b"first ").unwrap();
    assert!(host.run(probe(&["exit", "0"])).unwrap().status.success());
    stdin.write_all(b"second").unwrap();
    drop(stdin);
    let mut copied = String::new();
    copier.stdout.read_to_string(&mut copied).unwrap();
    assert_eq!(copied, "first second");
    assert_eq!(copier.wait().unwrap(), Status::Exited(0));

    let state = host.read_to_string(&format!("/proc/{}/status", sleeper.pid())).unwrap();
    assert!(state.contains("Name:\tprobe"), "{state}");
    sleeper.kill(15).unwrap();
    assert_eq!(sleeper.wait().unwrap(), Status::Signaled(15));
}

#[test]
fn surroundings_are_as_asked() {
    let host = boot();
    let output = host.run(probe(&["surroundings", "FROM_HERE"]).cwd("/tmp").env("FROM_HERE", "a=b c")).unwrap();
    assert_eq!(output.stdout_text(), "/tmp Ok(\"a=b c\")\n");
    let output = host.run(probe(&["surroundings", "FROM_HERE"])).unwrap();
    assert_eq!(output.stdout_text(), "/ Err(NotPresent)\n");
}

#[test]
fn a_command_runs_in_its_control_group_from_the_start() {
    let host = boot();
    let output = host.run(probe(&["cgroup"]).cgroup("/measured/run")).unwrap();
    assert_eq!(output.stdout_text(), "0::/measured/run\n");
    let output = host.run(probe(&["exit", "3"]).cgroup("measured")).unwrap();
    assert_eq!(output.status, Status::Exited(3));
    let peak = host.read_to_string("/sys/fs/cgroup/measured/memory.peak").unwrap();
    assert!(peak.trim().parse::<u64>().unwrap() > 0);
    let output = host.run(Command::new("/bin/none").cgroup("measured")).unwrap();
    assert!(!output.status.success() && output.stderr_text().contains("/bin/none"), "{output:?}");
    assert!(matches!(host.run(probe(&["exit", "0"]).cgroup("../x")), Err(HostError::Refused { .. })));
}

#[test]
fn an_orphan_delays_nobody_and_is_reaped() {
    let host = boot();
    let output = host.run(probe(&["orphan"])).unwrap();
    assert!(output.status.success());
    let text = output.stdout_text();
    let pid = text.lines().next().unwrap();
    let path = format!("/proc/{pid}/stat");
    assert_eq!(parent(&host, pid.parse().unwrap()), 1);
    host.put("/sys/fs/cgroup/doomed/cgroup.procs", 0o644, &mut pid.as_bytes()).unwrap();
    host.write("/sys/fs/cgroup/doomed/cgroup.kill", "1").unwrap();
    let gone = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        host.get_file(&path).is_err()
    });
    assert!(gone, "{pid} is still there");
}

#[test]
fn files_make_the_round_trip() {
    let host = boot();
    let data = noise(5 << 20);
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("data");
    std::fs::write(&path, &data).unwrap();
    host.put_file(&path, "/run/deep/below/data").unwrap();
    assert!(host.get_file("/run/deep/below/data").unwrap() == data);
    host.write("/run/deep/below/data", "short").unwrap();
    assert_eq!(host.read_to_string("/run/deep/below/data").unwrap(), "short");
    assert!(matches!(host.get_file("/run/none"), Err(HostError::Refused { .. })));
    assert!(matches!(host.write("/proc/none", ""), Err(HostError::Refused { .. })));
}

#[test]
fn files_on_board_from_the_start_are_whole() {
    let (lab, _) = lab();
    let data = noise(40 << 20);
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("data");
    std::fs::write(&path, &data).unwrap();
    let extra_files = vec![(path, "/srv/data".to_owned())];
    let host = lab.boot(&BootOptions { extra_files, ..BootOptions::default() }).unwrap();
    assert!(host.get_file("/srv/data").unwrap() == data);
}

#[test]
fn the_kernel_traces_itself() {
    let host = boot();
    let functions = host.read_to_string("/sys/kernel/tracing/available_filter_functions").unwrap();
    for function in ["kvm_gmem_release", "kvm_vm_release", "kvm_arch_destroy_vm"] {
        assert!(functions.lines().any(|line| line == function), "{function} cannot be traced");
    }
    host.write("/sys/kernel/tracing/kprobe_events", "p:lab/gmem_release kvm_gmem_release").unwrap();
    assert!(host.get_file("/sys/kernel/tracing/events/lab/gmem_release/id").is_ok());
    assert!(host.get_file("/sys/kernel/tracing/events/kvm/kvm_exit/id").is_ok());
    assert!(host.get_file("/sys/kernel/debug/kvm/exits").is_ok());
    assert!(host.get_file("/sys/fs/cgroup/memory.stat").is_ok());
    assert!(host.read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap().contains("memory"));
}

#[test]
fn time_can_follow_instructions() {
    let (lab, probe_path) = lab();
    let options = BootOptions {
        clock: Clock::Instructions,
        cpus: 1,
        extra_files: vec![(probe_path.clone(), PROBE.to_owned())],
        ..BootOptions::default()
    };
    let host = lab.boot(&options).unwrap();
    assert!(host.run(probe(&["exit", "0"])).unwrap().status.success());
}

#[test]
fn a_deadline_is_an_error_with_the_console() {
    let host = boot();
    let error = host.run(probe(&["sleep"]).deadline(Duration::from_millis(300))).unwrap_err();
    assert!(matches!(error, HostError::Deadline { .. }), "{error}");
    assert!(error.to_string().contains("Run /init as init process"), "{error}");
}

#[test]
fn a_machine_that_dies_is_an_error_with_the_console() {
    let host = boot();
    let mut sleeper = host.spawn(probe(&["sleep"])).unwrap();
    // Its parent is the agent; with that gone, process 1 switches off.
    let agent = parent(&host, sleeper.pid());
    host.put("/sys/fs/cgroup/doomed/cgroup.procs", 0o644, &mut agent.to_string().as_bytes()).unwrap();
    let _ = host.write("/sys/fs/cgroup/doomed/cgroup.kill", "1");
    let error = sleeper.wait().unwrap_err();
    assert!(matches!(error, HostError::Lost { .. }), "{error}");
    assert!(error.to_string().contains("the agent ended"), "{error}");
}

#[test]
fn power_off_is_orderly() {
    let console = boot().poweroff().unwrap();
    assert!(console.contains("reboot: Power down"), "{console}");
}

//! The promises of a lab host: those of every bed ([`promises`]), and what only the AMD bed can do. Boots a lab host for
//! each test of the AMD bed, and one for all of the Intel bed; makes the lab ready if it is not.

mod promises;

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use promises::{noise, parent, probe};
use tenure_lab::progress::Plain;
use tenure_lab::{Bed, BootOptions, Clock, Command, Host, HostError, Lab, Options, Target};

const PROBE: &str = "/bin/probe";
/// What a serial line carries in a few seconds.
const ON_A_SERIAL_LINE: usize = 64 << 10;

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

#[test]
fn kvm_offers_vms_with_private_memory() {
    promises::kvm_offers_private_memory(&boot());
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
    promises::ends_are_told_apart(&boot());
}

#[test]
fn streams_are_binary_safe_and_apart() {
    promises::streams_are_binary_safe(&boot(), 3 << 20);
}

#[test]
fn several_commands_run_at_once_and_each_is_reachable() {
    promises::several_commands_at_once(&boot());
}

#[test]
fn surroundings_are_as_asked() {
    promises::surroundings(&boot());
}

#[test]
fn a_command_runs_in_its_control_group_from_the_start() {
    promises::control_group(&boot());
}

#[test]
fn an_orphan_delays_nobody_and_is_reaped() {
    promises::orphan(&boot());
}

#[test]
fn files_make_the_round_trip() {
    promises::files_round_trip(&boot(), 5 << 20);
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

/// The same API, the same promises, another processor and another emulator.
#[test]
fn intel_bed_keeps_the_promises_too() {
    let mut progress = Plain::new(std::io::stderr());
    let lab = Lab::provision(&Options { bed: Bed::Intel, ..Options::default() }, &mut progress).expect("a lab");
    let target = Target::Example("probe".to_owned());
    let probe = lab.build_static("lab-agent", &target, &mut progress).expect("a probe");
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("data");
    let data = noise(ON_A_SERIAL_LINE);
    std::fs::write(&path, &data).unwrap();
    let extra_files = vec![(probe, PROBE.to_owned()), (path, "/srv/data".to_owned())];
    let host = lab.boot(&BootOptions { extra_files, ..BootOptions::for_bed(Bed::Intel) }).expect("a host");
    assert_eq!(host.bed(), Bed::Intel);

    let facts = host.read_to_string("/proc/cpuinfo").unwrap();
    for fact in ["GenuineIntel", "ept", "unrestricted_guest"] {
        assert!(facts.split_whitespace().any(|word| word == fact), "no {fact}: {facts}");
    }
    promises::kvm_offers_private_memory(&host);
    promises::ends_are_told_apart(&host);
    promises::streams_are_binary_safe(&host, ON_A_SERIAL_LINE);
    promises::several_commands_at_once(&host);
    promises::surroundings(&host);
    promises::control_group(&host);
    promises::orphan(&host);
    promises::files_round_trip(&host, ON_A_SERIAL_LINE);
    assert!(host.get_file("/srv/data").unwrap() == data, "a file on board from the start");
    let console = host.poweroff().unwrap();
    assert!(console.contains("reboot: Power down"), "{console}");
}

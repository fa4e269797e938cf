//! What every lab host promises, whatever its bed: the real KVM with private memory, and commands and files that
//! arrive as they were sent.
#![expect(clippy::unwrap_used, reason = "bodies of tests")]

use std::io::{BufRead, BufReader, Read, Write};
use std::time::Duration;

use tenure_lab::{Command, Host, HostError, Status, Stdin};

use crate::PROBE;

pub(crate) fn probe(args: &[&str]) -> Command {
    Command::new(PROBE).args(args.iter().copied())
}

pub(crate) fn parent(host: &Host, pid: u32) -> u32 {
    let stat = host.read_to_string(&format!("/proc/{pid}/stat")).expect("its state");
    // The name in brackets may hold anything; state and parent follow it.
    let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)).expect("a parent");
    parent.parse().expect("a number")
}

/// Bytes of all values in no order.
pub(crate) fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(count).collect()
}

/// The real KVM, with VMs whose memory is private.
pub(crate) fn kvm_offers_private_memory(host: &Host) {
    let output = host.run(probe(&["kvm"])).unwrap();
    assert!(output.status.success(), "{}", output.stderr_text());
    let types = output.stdout_text();
    let types = u32::from_str_radix(types.trim().trim_start_matches("0x"), 16).unwrap();
    assert_eq!(types & 0b11, 0b11, "VM types {types:#x}: default and software-protected");
}

/// Exit codes, signals and refusals arrive as what they were.
pub(crate) fn ends_are_told_apart(host: &Host) {
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

/// Every byte of both streams arrives, in order and in its own stream.
pub(crate) fn streams_are_binary_safe(host: &Host, bytes: usize) {
    let data = noise(bytes);
    let output = host.run(probe(&["copy"]).stdin(Stdin::Bytes(data.clone()))).unwrap();
    assert!(output.status.success());
    assert!(output.stdout == data);
    assert!(output.stderr.iter().zip(&data).all(|(error, byte)| *error == !byte));
    assert_eq!(output.stderr.len(), data.len());
}

/// Commands beside each other do not mix, and each can be written to and sent signals.
pub(crate) fn several_commands_at_once(host: &Host) {
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

/// Working directory and environment are those asked for.
pub(crate) fn surroundings(host: &Host) {
    let output = host.run(probe(&["surroundings", "FROM_HERE"]).cwd("/tmp").env("FROM_HERE", "a=b c")).unwrap();
    assert_eq!(output.stdout_text(), "/tmp Ok(\"a=b c\")\n");
    let output = host.run(probe(&["surroundings", "FROM_HERE"])).unwrap();
    assert_eq!(output.stdout_text(), "/ Err(NotPresent)\n");
}

/// A command is in its control group before it does anything.
pub(crate) fn control_group(host: &Host) {
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

/// What a command leaves behind neither delays its end nor stays a zombie.
pub(crate) fn orphan(host: &Host) {
    let output = host.run(probe(&["orphan"])).unwrap();
    assert!(output.status.success());
    let text = output.stdout_text();
    let pid = text.lines().next().unwrap();
    let path = format!("/proc/{pid}/stat");
    assert_eq!(parent(host, pid.parse().unwrap()), 1);
    host.put("/sys/fs/cgroup/doomed/cgroup.procs", 0o644, &mut pid.as_bytes()).unwrap();
    host.write("/sys/fs/cgroup/doomed/cgroup.kill", "1").unwrap();
    let gone = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        host.get_file(&path).is_err()
    });
    assert!(gone, "{pid} is still there");
}

/// Files arrive as they were, with the directories above them.
pub(crate) fn files_round_trip(host: &Host, bytes: usize) {
    let data = noise(bytes);
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

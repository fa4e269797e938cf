//! `tenure run` from end to end on the machine's own KVM, without privacy: any KVM will do for that. What the guest
//! achieves depends on the KVM (a software KVM cannot execute all of the firmware); how the run is wound up does not.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A guest that is not done by then is asked to end.
const PATIENCE: Duration = Duration::from_secs(10);

fn tenure(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tenure"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Whether a guest can be run here at all.
fn can_run() -> bool {
    let report = tenure(&["check", "--json"]).output().unwrap();
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    let usable = report["tees"]["none"]["usable"] == true;
    if !usable {
        println!("skipped: {}", report["kvm"]["findings"][0]["reason"]);
    }
    usable
}

fn run_self_test(args: &[&str]) -> Output {
    let mut child = tenure(&["run", "--tee", "none", "--memory", "64M"]).args(args).spawn().unwrap();
    let end = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
    // Of a child that has ended but was not waited for, this number is still its own.
    let _ = kill_process(Pid::from_child(&child), Signal::TERM);
    child.wait_with_output().unwrap()
}

fn events(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// pages-before-key: however the guest fared, its end is told in full and nothing of it is left.
#[test]
fn pages_before_key_a_run_ends_with_a_clean_receipt() {
    if !can_run() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.jsonl");
    let output = run_self_test(&["--summary", "--events", path.to_str().unwrap()]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let code = output.status.code().unwrap();
    let events = events(&path);

    let kinds: Vec<_> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!((kinds[0], kinds[kinds.len() - 1]), ("run_started", "teardown"), "{told}");
    assert!(kinds.contains(&"launch_step") && kinds.contains(&"exits"), "{kinds:?}");
    assert_eq!((&events[0]["tee"], &events[0]["memory_bytes"]), (&"none".into(), &(64 << 20).into()));
    let receipt = &events[events.len() - 1];
    assert_eq!((&receipt["clean"], &receipt["receipt"]["debts"]), (&true.into(), &Value::Array(vec![])), "{told}");

    let ended = events.iter().find(|event| event["event"] == "guest_ended").unwrap();
    let by_itself = ended["outcome"]["kind"] == "self_test" && ended["outcome"]["failed_checks"] == 0;
    let by_us = ended["outcome"]["kind"] == "stopped" && ended["outcome"]["by"] == "terminate";
    assert_eq!(code, if by_itself || by_us { 0 } else { 4 }, "{ended} {told}");
    assert!(told.starts_with("warning: tee none: nothing of this guest is private\n"), "{told}");
    assert!(told.contains("\n  teardown    clean\n"), "{told}");
}

/// no-silent-trust: a run whose events are lost is not a success, and says so.
#[test]
fn no_silent_trust_lost_events_are_told() {
    if !can_run() {
        return;
    }
    let output = run_self_test(&["--events", "/dev/full"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(matches!(output.status.code(), Some(1 | 4)), "{told}");
    assert!(told.contains("warning: events file `/dev/full`: ") && told.contains("No space left on device"), "{told}");
}

/// no-silent-trust: files that are not what they should be are told by name before a VM exists.
#[test]
fn no_silent_trust_a_kernel_that_is_none() {
    if !can_run() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let kernel = dir.path().join("kernel");
    for contents in [&b"#!/bin/sh\n"[..], &[0; 4096], &[0xff; 70_000]] {
        fs::write(&kernel, contents).unwrap();
        let output = tenure(&["run", "--tee", "none", "--kernel", kernel.to_str().unwrap()]).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains("error: kernel") && told.contains(kernel.to_str().unwrap()), "{told}");
    }
}

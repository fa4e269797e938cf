//! Predictions from file to file: what `tenure measure snp` writes, `tenure measure diff` reads.

#![expect(clippy::unwrap_used, reason = "a test: what it reads is its own")]

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn tenure(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tenure"))
        .arg("measure")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

/// A prediction of a guest with a real firmware's tables.
fn predicted(arguments: &[&str]) -> Vec<u8> {
    let firmware = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/snp/measure/ovmf_AmdSev_suffix.bin");
    let given = ["snp", "--trace", "--json", "--firmware", firmware.to_str().unwrap()];
    let output = tenure(&[&given, arguments].concat(), b"");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A prediction of a guest with our firmware.
fn predicted_of_ours(arguments: &[&str]) -> Vec<u8> {
    let output = tenure(&[&["snp", "--trace", "--json"], arguments].concat(), b"");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// one-launch: everything our firmware is told lies in one page; what differs there is told by name.
#[test]
fn one_launch_differences_of_our_firmware_have_names() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.json");
    fs::write(&path, predicted_of_ours(&["--cmdline", "quick"])).unwrap();
    let parameters = "then the same page has other contents\nA  0x00000000c000  normal      firmware's parameters\n";
    for (arguments, code, expected) in [
        (&["--cmdline", "quick"][..], 0, vec!["the same launch: "]),
        (
            &["--cmdline", "quick", "--memory", "1G"],
            10,
            vec![parameters, "memory_bytes: 536870912 in A, 1073741824 in B"],
        ),
        (&["--cmdline", "quick", "--vcpus", "2"], 10, vec![parameters, "vcpus: 1 in A, 2 in B"]),
        (&["--cmdline", "quack"], 10, vec![parameters, "command line: "]),
        (&[], 10, vec![parameters, " in A, none in B"]),
        (
            &["--cmdline", "quick", "--vcpu-type", "EPYC-Milan"],
            10,
            vec!["VMSA", "vcpu_type: EPYC in A, EPYC-Milan in B"],
        ),
    ] {
        let output = tenure(&["diff", path.to_str().unwrap(), "-"], &predicted_of_ours(arguments));
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(expected.iter().all(|expected| said.contains(expected)), "{arguments:?}: {said}");
    }
}

/// The keys that programs rely on, of both kinds of firmware.
#[test]
fn keys_of_a_prediction() {
    let keys = |json: &[u8]| {
        let value: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(json).unwrap();
        value.keys().cloned().collect::<Vec<_>>().join(" ")
    };
    let both = "digests firmware_sha256 guest_features pages vcpu_type vmm".to_owned();
    assert_eq!(keys(&predicted(&[])), both);
    let ours =
        "digests firmware firmware_sha256 guest_features memory_bytes pages parameters pieces vcpu_type vmm".to_owned();
    assert_eq!(keys(&predicted_of_ours(&[])), ours);
}

#[test]
fn one_launch_is_found_to_be_one_and_another_to_be_another() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.json");
    fs::write(&path, predicted(&[])).unwrap();
    let kernel = directory.path().join("kernel");
    fs::write(&kernel, "a kernel").unwrap();
    for (arguments, code, expected) in [
        (&[][..], 0, "the same launch: "),
        (&["--vcpus", "3,2"], 10, "then one has more vCPUs"),
        (&["--vcpu-type", "EPYC-Milan"], 10, "vcpu_type: EPYC in A, EPYC-Milan in B"),
        (&["--guest-features", "0x21"], 10, "guest_features: 0x1 in A, 0x21 in B"),
        (&["--vmm", "gce"], 10, "then the same page is added as another type"),
        (&["--kernel", kernel.to_str().unwrap()], 10, "normal      hashes of the kernel"),
    ] {
        let output = tenure(&["diff", path.to_str().unwrap(), "-"], &predicted(arguments));
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}

/// one-launch: a guest in test mode is measured as well, for a test's root to sign: all that its first code believes.
#[test]
fn one_launch_differences_in_test_mode_have_names() {
    let predicted = |arguments: &[&str]| {
        let output = tenure(&[&["sw", "--trace", "--json"], arguments].concat(), b"");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.json");
    let given = ["--cmdline", "quick", "--tsc-khz", "2000000"];
    fs::write(&path, predicted(&given)).unwrap();
    for (arguments, expected) in [
        (&[][..], None),
        (&["--memory", "1G"], Some("memory_bytes: 536870912 in A, 1073741824 in B")),
        (&["--vcpus", "2"], Some("vcpus: 1 in A, 2 in B")),
        (&["--tsc-khz", "2100000"], Some("tsc_khz: 2000000 in A, 2100000 in B")),
        (&["--cmdline", "quack"], Some("command line: ")),
    ] {
        let kept = given.chunks(2).filter(|pair| !arguments.contains(&pair[0])).flatten().copied();
        let other: Vec<_> = kept.chain(arguments.iter().copied()).collect();
        let output = tenure(&["diff", path.to_str().unwrap(), "-"], &predicted(&other));
        let said = String::from_utf8(output.stdout).unwrap();
        match expected {
            None => assert!(said.starts_with("the same launch: ") && output.status.success(), "{said}"),
            Some(named) => assert!(said.contains(named) && output.status.code() == Some(10), "{said}"),
        }
    }
}

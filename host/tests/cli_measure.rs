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

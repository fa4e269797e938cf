//! The kernels at hand answer as the model says: this host's own, and the lab's. Short random runs; `TENURE_LONG_TESTS=1`
//! makes them long.

use std::path::Path;
use std::process::Command as LocalCommand;
use std::time::Duration;

use tenure_conformance::report::Results;
use tenure_lab::progress::Plain;
use tenure_lab::{BootOptions, Command, Lab, Options, Target};

fn operations(short: u32, long: u32) -> String {
    if std::env::var_os("TENURE_LONG_TESTS").is_some() { long } else { short }.to_string()
}

/// Nothing is unexplained, and enough was asked.
fn judge(json: &[u8], said: &str, cases_at_least: usize) {
    let results: Results = serde_json::from_slice(json).expect("results");
    assert!(results.is_good(), "{said}");
    let [passed, differ, ..] = results.counts();
    assert!(passed + differ >= cases_at_least, "only {passed} cases passed and {differ} differ: {said}");
    assert!(results.random.is_some_and(|random| random.operations > 1000), "{said}");
}

#[test]
fn this_hosts_kernel() {
    if !Path::new("/dev/kvm").exists() {
        println!("skipped: this host has no /dev/kvm");
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let json = scratch.path().join("results.json");
    let output = LocalCommand::new(env!("CARGO_BIN_EXE_tenure-conformance"))
        .args(["--ops", &operations(20_000, 200_000), "--json"])
        .arg(&json)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    // Any KVM has the kind "plain".
    judge(&std::fs::read(&json).unwrap_or_else(|error| panic!("{error}: {said}")), &said, 5);
}

#[test]
fn the_labs_kernel() {
    let mut progress = Plain::new(std::io::stderr());
    let lab = Lab::provision(&Options::default(), &mut progress).unwrap();
    let program = Target::Bin("tenure-conformance".to_owned());
    let program = lab.build_static("tenure-conformance", &program, &mut progress).unwrap();
    let extra_files = vec![(program, "/bin/conformance".to_owned())];
    let host = lab.boot(&BootOptions { extra_files, ..BootOptions::default() }).unwrap();
    let command = Command::new("/bin/conformance")
        .args(["--bed", "lab-amd", "--json", "/tmp/results.json", "--ops", &operations(5_000, 200_000)])
        .deadline(Duration::from_secs(3600));
    let output = host.run(command).unwrap();
    let said = output.stdout_text() + &output.stderr_text();
    judge(&host.get_file("/tmp/results.json").unwrap_or_else(|error| panic!("{error}: {said}")), &said, 40);
}

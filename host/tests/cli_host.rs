//! `tenure` on whatever host the tests run on.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs::{self, File};
use std::process::{Command, Output, Stdio};

fn tenure(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tenure"));
    command.args(args).stdin(Stdio::null());
    command
}

fn output(args: &[&str]) -> Output {
    tenure(args).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn check_agrees_with_itself_in_text_json_and_exit_code() {
    let (text, json) = (output(&["check"]), output(&["check", "--json"]));
    let report: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    let capable = report["capable"].as_bool().unwrap();
    let expected = if capable { Some(0) } else { Some(2) };
    assert_eq!((text.status.code(), json.status.code()), (expected, expected));
    let text = String::from_utf8(text.stdout).unwrap();
    assert_eq!(text.contains("\nCapable: --tee auto is "), capable, "{text}");
    for tee in ["snp", "tdx", "sw", "none"] {
        let usable = report["tees"][tee]["usable"].as_bool().unwrap();
        let line = format!("\n{tee:<9}  {}", if usable { "yes" } else { "no " });
        assert!(text.contains(&line), "{tee}: {text}");
    }
    for findings in ["snp", "tdx", "sw"].map(|tee| report["tees"][tee]["findings"].as_array().unwrap()) {
        for finding in findings {
            assert!(finding["reason"].is_string() && finding["remedy"].is_string(), "{finding}");
        }
    }
}

/// Whatever guests there are on this machine.
#[test]
fn audit_agrees_with_itself_in_json_and_exit_code_and_sees_its_own_process() {
    let json = output(&["audit", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    let clean = report["findings"].as_array().unwrap().is_empty();
    assert_eq!(json.status.code(), Some(if clean { 0 } else { 10 }), "{}", stderr(&json));
    assert!(report["processes_looked_at"].as_u64().unwrap() >= 1);
    assert_eq!(report["complete"].as_bool().unwrap(), report["unseen"].as_array().unwrap().is_empty());
    for unseen in report["unseen"].as_array().unwrap() {
        assert!(["what", "why", "so"].iter().all(|key| unseen[key].is_string()), "{unseen}");
    }
    for finding in report["findings"].as_array().unwrap() {
        assert!(finding["evidence"][0].is_string() && finding["remedy"].is_string(), "{finding}");
    }
    let text = output(&["audit"]);
    let says = String::from_utf8(text.stdout).unwrap();
    let nothing = says.contains("\nNothing found");
    assert_eq!(text.status.code(), Some(if nothing { 0 } else { 10 }), "{says}");
}

/// no-silent-trust: what was asked for by name is not replaced by something else.
#[test]
fn no_silent_trust_snp_and_tdx_are_not_built_yet() {
    for tee in ["snp", "tdx"] {
        let output = output(&["run", "--tee", tee]);
        assert_eq!(output.status.code(), Some(2));
        let expected = format!("error: tee {tee} cannot be used here: ");
        let message = stderr(&output);
        assert!(message.starts_with(&expected) && output.stdout.is_empty(), "{message}");
        assert!(message.contains("not built yet") || message.contains("KVM cannot be used"), "{message}");
    }
}

/// no-silent-trust: auto ends where there is no privacy to be had.
#[test]
fn no_silent_trust_auto_never_runs_without_privacy() {
    let report: serde_json::Value = serde_json::from_slice(&output(&["check", "--json"]).stdout).unwrap();
    if report["capable"] == true {
        println!("skipped: this host can run private guests");
        return;
    }
    for args in [&["run"][..], &["run", "--tee", "sw"], &["run", "--guise", "sev"]] {
        let output = output(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let message = stderr(&output);
        assert!(message.starts_with("error: tee "), "{message}");
        assert!(
            message.ends_with("cannot be used here: ") || message.contains("(`tenure check` says what helps)"),
            "{message}"
        );
    }
}

#[test]
fn output_that_cannot_be_written_is_an_error_not_a_panic() {
    let digest = "5a".repeat(48);
    for args in [
        &["check"][..],
        &["check", "--json"],
        &["audit"],
        &["audit", "--json"],
        &["idblock", "create", "--launch-digest", &digest, "--out", "-"],
        &["completions", "bash"],
    ] {
        let full = File::create("/dev/full").unwrap();
        let output = tenure(args).stdout(full).stderr(Stdio::piped()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        let message = stderr(&output);
        assert!(message.starts_with("error: standard output cannot be written: No space left"), "{message}");
    }
}

#[test]
fn nothing_is_coloured_in_a_file() {
    for args in [&["run", "--help"][..], &["run", "--memory", "0"], &["check"], &["audit"]] {
        let output = output(args);
        for text in [&output.stdout, &output.stderr] {
            assert!(!text.contains(&0x1b), "{args:?}: {}", String::from_utf8_lossy(text));
        }
    }
}

#[test]
fn completions_know_commands_and_options() {
    for shell in ["bash", "zsh", "fish"] {
        let output = output(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0));
        let script = String::from_utf8(output.stdout).unwrap();
        for word in ["check", "json", "virtio-console", "guise", "audit", "measure", "idblock"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("tenure.bash");
    fs::write(&script, output(&["completions", "bash"]).stdout).unwrap();
    let bash = Command::new("bash").arg("-n").arg(&script).status().unwrap();
    assert!(bash.success(), "bash can read its completions");
}

#[test]
fn help_of_every_command_has_the_exit_codes() {
    for args in [
        &["--help"][..],
        &["check", "--help"],
        &["run", "--help"],
        &["prove", "--help"],
        &["audit", "--help"],
        &["measure", "snp", "--help"],
        &["idblock", "--help"],
        &["idblock", "create", "--help"],
        &["idblock", "sign", "--help"],
        &["idblock", "inspect", "--help"],
        &["completions", "--help"],
    ] {
        let help = String::from_utf8(output(args).stdout).unwrap();
        for code in tenure::exit::ExitCode::ALL {
            let row = format!("\n  {:<2} {}", code.code(), code.meaning());
            assert!(help.contains(&row), "{args:?}: {row}");
        }
    }
}

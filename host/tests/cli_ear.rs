//! `tenure attest verify --ear`: results for others, in both forms, and when there is none.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use attest::UnixTime;
use attest::ear::{Status, TokenKey, TokenSigner};
use attest::snp::Tier;
use serde_json::Value;

/// 2026-06-01.
const NOW: UnixTime = UnixTime::from_secs(1_780_272_000);
const POLICY: &str = "allow = [\"any-guest\", \"smt\"]\n";

/// Real evidence, a policy that it meets, and keys.
struct Party(tempfile::TempDir);

fn vector(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors").join(name)
}

fn key_file() -> PathBuf {
    vector("snp/idblock/id_key_pkcs8_test.pem")
}

fn key() -> TokenKey {
    TokenSigner::from_pem(&fs::read_to_string(key_file()).unwrap()).unwrap().key()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Party {
    fn new() -> Self {
        let party = Self(tempfile::tempdir().unwrap());
        fs::write(party.path("policy.toml"), POLICY).unwrap();
        party
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut tenure = Command::new(env!("CARGO_BIN_EXE_tenure"));
        tenure
            .args(["attest", "verify", "--policy", "policy.toml", "--now", "2026-06-01T00:00:00Z"])
            .args(arguments)
            .current_dir(self.0.path());
        tenure.output().unwrap()
    }

    /// A Genoa's report, with these further arguments.
    fn genoa(&self, data: &str, arguments: &[&str]) -> Output {
        let [report, vek, ask] = ["real/genoa-v3-ms.report", "real/genoa-v3-ms.vek.der", "amd/ask-genoa.der"]
            .map(|name| vector(&format!("snp/attest/{name}")).to_str().unwrap().to_owned());
        let evidence = ["--report", &report, "--vek", &vek, "--chain", &ask, "--report-data", data];
        self.run(&[&evidence[..], arguments].concat())
    }

    fn ear(&self, data: &str, name: &str, form: &str) -> Output {
        let key = key_file();
        self.genoa(data, &["--ear", name, "--ear-key", key.to_str().unwrap(), "--ear-format", form])
    }
}

/// What the report has in it.
fn data() -> String {
    hex(&fs::read(vector("snp/attest/real/genoa-v3-ms.report")).unwrap()[0x50..0x90])
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn both_forms_say_what_the_verdict_says() {
    let party = Party::new();
    for form in ["jwt", "cwt"] {
        let done = party.ear(&data(), form, form);
        assert_eq!(done.status.code(), Some(0), "{}", said(&done));
        assert!(String::from_utf8_lossy(&done.stdout).contains("PASS"));
    }
    let jwt = fs::read_to_string(party.path("jwt")).unwrap();
    let cwt = fs::read(party.path("cwt")).unwrap();
    let ear = key().read(jwt.trim(), NOW).unwrap();
    assert_eq!(key().read_cwt(&cwt, NOW).unwrap(), ear);
    let cpu = ear.cpu().unwrap();
    assert_eq!((cpu.tier(), cpu.status()), (Tier::Hardware, Status::Affirming));
    assert_eq!(cpu.claims()["claims"]["report_data"], Value::from(data()));
    // An hour, and the key of nobody.
    assert_eq!(ear.expires().as_secs(), NOW.as_secs() + 3600);
    assert!(ear.tee_pubkey().is_null() && ear.resources().is_null());
    // On standard output it is alone.
    let done = party.ear(&data(), "-", "cwt");
    assert_eq!(key().read_cwt(&done.stdout, NOW).unwrap(), ear);
    assert!(said(&done).contains("PASS"));
}

/// Promise: others read it, with code that is not ours.
#[test]
fn another_reader_reads_the_same() {
    let party = Party::new();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/ear-reader/ear_reader.py");
    let read = |form: &str| -> Option<Value> {
        assert_eq!(party.ear(&data(), form, form).status.code(), Some(0));
        let reader = Command::new("python3").arg(&script).arg(key_file()).arg(party.path(form)).output();
        match reader {
            Ok(reader) if reader.status.code() != Some(77) => {
                assert!(reader.status.success(), "{}", said(&reader));
                Some(serde_json::from_slice(&reader.stdout).unwrap())
            }
            other => {
                println!("not run: another_reader_reads_the_same: {:?}", other.map(|reader| said(&reader)));
                None
            }
        }
    };
    let (Some(jwt), Some(mut cwt)) = (read("jwt"), read("cwt")) else { return };
    // The one claim that has no number of the draft's.
    let cpu = cwt["submods"]["cpu0"].as_object_mut().unwrap();
    let tier = cpu.remove("-80003").unwrap();
    cpu.insert("tenure_tier".into(), tier);
    assert_eq!(jwt, cwt);
    assert_eq!(jwt["submods"]["cpu0"]["ear_trustworthiness_vector"]["hardware"], 2);
}

/// no-silent-trust: nothing is signed of what did not pass, and nothing of before is taken for it.
#[test]
fn no_silent_trust_results_of_what_passed_only() {
    let party = Party::new();
    let first = u8::from_str_radix(&data()[..2], 16).unwrap() ^ 1;
    let other = format!("{first:02x}{}", &data()[2..]);
    let done = party.ear(&other, "not-met", "jwt");
    assert_eq!((done.status.code(), party.path("not-met").exists()), (Some(5), false), "{}", said(&done));
    let done = party.ear(&other, "-", "jwt");
    assert!(done.stdout.is_empty() && said(&done).contains("reference.report-data"));

    fs::write(party.path("old"), "of before").unwrap();
    let done = party.ear(&data(), "old", "jwt");
    assert_eq!(done.status.code(), Some(1));
    assert_eq!(said(&done), "error: ear `old` is there already; nothing is written over\n");
    assert_eq!(fs::read_to_string(party.path("old")).unwrap(), "of before");
}

#[test]
fn no_silent_trust_keys_that_are_none() {
    let party = Party::new();
    for name in ["p256_test.pem", "ed25519_test.pem", "encrypted_test.pem"] {
        let file = vector(&format!("snp/idblock/{name}"));
        let done = party.genoa(&data(), &["--ear", "ear", "--ear-key", file.to_str().unwrap()]);
        assert_eq!((done.status.code(), party.path("ear").exists()), (Some(1), false), "{name}");
        assert!(said(&done).ends_with("the token's key is no private key on P-384\n"), "{}", said(&done));
    }
    // A key without a result, and a result without a key or without what makes it fresh.
    for arguments in [&["--ear-key", "k"][..], &["--ear", "ear"]] {
        assert_eq!(party.genoa(&data(), arguments).status.code(), Some(1), "{arguments:?}");
    }
    let key = key_file();
    let done = party.run(&["--report", "r", "--ear", "ear", "--ear-key", key.to_str().unwrap()]);
    assert!(done.status.code() == Some(1) && said(&done).contains("--report-data"), "{}", said(&done));
}

//! `tenure attest verify --ear`: results for others, in both forms, and when there is none.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::UNIX_EPOCH;

use attest::UnixTime;
use attest::ear::{Ear, Status, TokenKey, TokenSigner, TrustClaim};
use attest::snp::Tier;
use base64ct::{Base64UrlUnpadded, Encoding as _};
use serde_json::Value;

/// 2026-06-01.
const NOW: UnixTime = UnixTime::from_secs(1_780_272_000);
const POLICY: &str = "allow = [\"any-guest\", \"smt\"]\n";
/// Where a report has them (firmware ABI specification 56860, "Attestation Report").
const REPORT_DATA: Range<usize> = 0x50..0x90;
const LAUNCH_DIGEST: Range<usize> = 0x90..0xc0;
const GENOA: Real = Real { name: "genoa-v3-ms", product: "genoa" };
const MILAN: Real = Real { name: "milan-v2-virtee", product: "milan" };

/// A real report, and whose key signed it.
struct Real {
    name: &'static str,
    product: &'static str,
}

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

    /// This report, with these further arguments.
    fn real(&self, Real { name, product }: &Real, data: &str, arguments: &[&str]) -> Output {
        let names = [format!("real/{name}.report"), format!("real/{name}.vek.der"), format!("amd/ask-{product}.der")];
        let [report, vek, ask] = names.map(|name| vector(&format!("snp/attest/{name}")).to_str().unwrap().to_owned());
        let evidence = ["--report", &report, "--vek", &vek, "--chain", &ask, "--report-data", data];
        self.run(&[&evidence[..], arguments].concat())
    }

    /// A Genoa's report.
    fn genoa(&self, data: &str, arguments: &[&str]) -> Output {
        self.real(&GENOA, data, arguments)
    }

    /// What is claimed of a report that passes with these further arguments.
    fn claimed(&self, real: &Real, arguments: &[&str]) -> Ear {
        let key = key_file();
        let ear = ["--ear", "-", "--ear-key", key.to_str().unwrap()];
        let done = self.real(real, &real.data(), &[&ear[..], arguments].concat());
        assert_eq!(done.status.code(), Some(0), "{}", said(&done));
        self::key().read(String::from_utf8(done.stdout).unwrap().trim(), NOW).unwrap()
    }

    fn ear(&self, data: &str, name: &str, form: &str) -> Output {
        let key = key_file();
        self.genoa(data, &["--ear", name, "--ear-key", key.to_str().unwrap(), "--ear-format", form])
    }
}

impl Real {
    /// What the report has at this place.
    fn part(&self, place: Range<usize>) -> String {
        hex(&fs::read(vector(&format!("snp/attest/real/{}.report", self.name))).unwrap()[place])
    }

    fn data(&self) -> String {
        self.part(REPORT_DATA)
    }
}

/// What the Genoa's report has in it.
fn data() -> String {
    GENOA.data()
}

/// The same policy, which takes a Milan as well.
fn with_milan() -> String {
    [POLICY, "[products.milan]\n[products.genoa]\n"].concat()
}

/// What judged it, by name.
fn policy_of(ear: &Ear) -> String {
    let ear = serde_json::to_value(ear).unwrap();
    let [policy] = &ear["submods"]["cpu0"]["ear_appraisal_policy_ids"].as_array().unwrap()[..] else { unreachable!() };
    policy.as_str().unwrap().to_owned()
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
    let bytes = (0..128).step_by(2).map(|at| u8::from_str_radix(&data()[at..at + 2], 16).unwrap());
    assert_eq!(ear.nonce(), Base64UrlUnpadded::encode_string(&bytes.collect::<Vec<_>>()));
    // An hour, and the key of nobody.
    assert_eq!(ear.expires().as_secs(), NOW.as_secs() + 3600);
    assert!(ear.tee_pubkey().is_null() && ear.resources().is_null());
    // On standard output it is alone.
    let done = party.ear(&data(), "-", "cwt");
    assert_eq!(key().read_cwt(&done.stdout, NOW).unwrap(), ear);
    assert!(said(&done).contains("PASS"));
}

/// no-silent-trust: whoever reads a token can tell by its policy's name whether two were judged alike. What makes evidence
/// fresh is no part of that, and everything else that was asked for is.
#[test]
fn no_silent_trust_policies_have_one_name_whatever_the_nonce() {
    let party = Party::new();
    fs::write(party.path("policy.toml"), with_milan()).unwrap();
    let [of_genoa, of_milan] = [&GENOA, &MILAN].map(|real| party.claimed(real, &[]));
    assert_ne!(of_genoa.nonce(), of_milan.nonce());
    assert_eq!(policy_of(&of_genoa), policy_of(&of_milan));

    let digest = GENOA.part(LAUNCH_DIGEST);
    let by_digest = policy_of(&party.claimed(&GENOA, &["--launch-digest", &digest]));
    let other = "07".repeat(48);
    let either = policy_of(&party.claimed(&GENOA, &["--launch-digest", &digest, "--launch-digest", &other]));
    assert!(by_digest != policy_of(&of_genoa) && either != by_digest && either != policy_of(&of_genoa));
    fs::write(party.path("policy.toml"), POLICY).unwrap();
    assert_ne!(policy_of(&party.claimed(&GENOA, &[])), policy_of(&of_genoa));
}

/// The same of quotes. Nobody has two real ones of one guest, so they are a test root's, and of today.
#[test]
fn no_silent_trust_policies_of_quotes_have_one_name_whatever_the_nonce() {
    let party = Party::new();
    let attest = |arguments: &[&str]| {
        let mut tenure = Command::new(env!("CARGO_BIN_EXE_tenure"));
        let done = tenure.arg("attest").args(arguments).current_dir(party.0.path()).output().unwrap();
        assert_eq!(done.status.code(), Some(0), "{}", said(&done));
        String::from_utf8(done.stdout).unwrap()
    };
    attest(&["testroot", "init", "root", "--tee", "tdx"]);
    let ear_key = key_file();
    let policy = |mrtd: &str, data: &str| {
        let guest = ["--mrtd", &mrtd.repeat(48), "--report-data", &data.repeat(64)];
        let _ = fs::remove_file(party.0.path().join("quote"));
        attest(&[&["testroot", "sign", "root", "-o", "quote"], &guest[..]].concat());
        let evidence = ["verify", "--quote", "quote", "--collateral", "root/collateral"];
        let below = ["--test-root", "root/root.der", "--allow-test-root", "intel"];
        let ear = ["--ear", "-", "--ear-key", ear_key.to_str().unwrap()];
        let token = attest(&[&evidence[..], &below, &ear, &guest].concat());
        let now = UnixTime::from_secs(UNIX_EPOCH.elapsed().unwrap().as_secs());
        policy_of(&key().read(token.trim(), now).unwrap())
    };
    let first = policy("11", "da");
    assert_eq!(policy("11", "db"), first);
    assert_ne!(policy("12", "da"), first);
}

/// no-silent-trust: what a policy takes in spite of what is known about it is not affirmed to others. On Milan software reads
/// the seed of all keys (arXiv 2605.12990).
#[test]
fn no_silent_trust_a_milans_hardware_is_not_affirmed() {
    let party = Party::new();
    fs::write(party.path("policy.toml"), with_milan()).unwrap();
    for (real, hardware, status) in
        [(MILAN, TrustClaim::VULNERABLE, Status::Warning), (GENOA, TrustClaim::AFFIRMED, Status::Affirming)]
    {
        let ear = party.claimed(&real, &[]);
        let cpu = ear.cpu().unwrap();
        assert_eq!(
            (cpu.tier(), cpu.vector().hardware, cpu.status()),
            (Tier::Hardware, hardware, status),
            "{}",
            real.name
        );
    }
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
    let (Some(jwt), Some(cwt)) = (read("jwt"), read("cwt")) else { return };
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
    for (name, what) in [
        ("p256_test.pem", "something else, or on another curve"),
        ("ed25519_test.pem", "something else, or on another curve"),
        ("encrypted_test.pem", "encrypted"),
    ] {
        let file = vector(&format!("snp/idblock/{name}"));
        let done = party.genoa(&data(), &["--ear", "ear", "--ear-key", file.to_str().unwrap()]);
        assert_eq!((done.status.code(), party.path("ear").exists()), (Some(1), false), "{name}");
        let expected = format!("it is no private key on P-384: it is {what}\n");
        assert!(said(&done).ends_with(&expected), "{}", said(&done));
    }
    // A key without a result, and a result without a key or without what makes it fresh.
    for arguments in [&["--ear-key", "k"][..], &["--ear", "ear"]] {
        assert_eq!(party.genoa(&data(), arguments).status.code(), Some(1), "{arguments:?}");
    }
    let key = key_file();
    let done = party.run(&["--report", "r", "--ear", "ear", "--ear-key", key.to_str().unwrap()]);
    assert!(done.status.code() == Some(1) && said(&done).contains("--report-data"), "{}", said(&done));
}

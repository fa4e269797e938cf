//! `tenure attest` on evidence that other projects published: quotes with what Intel publishes, in each form in which it
//! is served, event logs, and certificates in files of their own. Moments are pinned.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod place;

use std::fs;
use std::path::Path;

use attest::UnixTime;
use attest::ear::{Status, TokenSigner};
use attest::snp::Tier;
use base64ct::{Base64, Encoding};
use place::{Place as Party, failed};
use serde_json::Value;

/// The real quote and its collateral are good then.
const THEN: [&str; 2] = ["--now", "2025-06-25T00:00:00Z"];
const SYNTHETIC: [&str; 6] = ["--now", "2026-06-01T00:00:00Z", "--test-root", "root.der", "--allow-test-root", "intel"];
const MRTD: &str = "--mrtd";

/// What a relying party has.
impl Party {
    fn new() -> Self {
        let party = Self::empty();
        for (from, to) in [
            ("tdx/attest/real/v4-uptodate-phala.quote", "quote"),
            ("tdx/attest/real/v4-uptodate-phala.collateral.json", "collateral.json"),
            ("tdx/attest/real/v4-outofdate-after-tcbr.collateral.json", "later.json"),
            ("tdx/attest/synthetic/root.der", "root.der"),
        ] {
            party.copy(from, to);
        }
        party
    }

    fn copy(&self, from: &str, to: &str) {
        let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors");
        fs::copy(vectors.join(from), self.path(to)).unwrap();
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path(name), bytes).unwrap();
    }

    /// The verdict on the real quote, with these arguments besides.
    fn verdict(&self, args: &[&str]) -> (i32, Value) {
        self.json(&[&["verify", "--quote", "quote"], args].concat())
    }

    /// A synthetic case with a policy of everything that isn't asked about here.
    fn synthetic(&self, case: &str, policy: &str) -> (i32, Value) {
        self.copy(&format!("tdx/attest/synthetic/{case}.quote"), "quote");
        self.copy(&format!("tdx/attest/synthetic/{case}.collateral.json"), "synthetic.json");
        self.write("policy.toml", format!("[tdx]\n{policy}"));
        let given = ["--collateral", "synthetic.json", "--policy", "policy.toml"];
        self.verdict(&[&given[..], &SYNTHETIC].concat())
    }
}

fn mrtd(party: &Party) -> String {
    let (_, shown) = party.attest(&["show", "--quote", "quote", "--json"]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["verified"], false);
    shown["quote"]["mrtd"].as_str().unwrap().to_owned()
}

#[test]
fn a_real_quote_gets_a_verdict_that_says_until_when_it_holds() {
    let party = Party::new();
    let mrtd = mrtd(&party);
    let given = ["verify", "--quote", "quote", "--collateral", "collateral.json", MRTD, &mrtd];
    let (code, said) = party.attest(&[&given[..], &THEN].concat());
    let last = said.lines().last().unwrap();
    assert!(code == 0 && last.starts_with("PASS: ") && last.ends_with("; Intel's root vouches for it"), "{said}");
    assert!(said.contains("\nAt 2025-06-25T00:00:00Z; good until 2025-07-19T10:00:35Z.\n"), "{said}");
    let (code, verdict) = party.verdict(&[&["--collateral", "collateral.json", MRTD, &mrtd][..], &THEN].concat());
    assert_eq!((code, &verdict["verdict"], &verdict["tier"]), (0, &"affirmed".into(), &"hardware".into()));
    assert_eq!(verdict["valid_until"], "2025-07-19T10:00:35Z");
    assert_eq!(verdict["quote"]["platform"]["tcb_status"], "UpToDate");
    assert_eq!(verdict["report"], Value::Null);
}

/// no-silent-trust: each kind of failure has its exit code and its names.
#[test]
fn no_silent_trust_exit_codes() {
    let party = Party::new();
    let mrtd = mrtd(&party);
    let given = ["--collateral", "collateral.json", MRTD, &mrtd];
    let judge = |args: &[&str]| party.verdict(&[&given[..], args].concat());
    // Not what is wanted.
    let other = "00".repeat(48);
    let wrong = ["--rtmr1", &other, "--mrowner", &"11".repeat(48), "--report-data", &"22".repeat(64)];
    let (code, verdict) = judge(&[&THEN[..], &wrong].concat());
    let names = vec!["reference.rtmr1", "reference.mrowner", "reference.report-data"];
    assert_eq!((code, failed(&verdict)), (5, names));
    // Too early, too late, and without any of it.
    assert_eq!(judge(&["--now", "2025-06-01T00:00:00Z"]).0, 3);
    let (code, verdict) = judge(&["--now", "2025-07-25T00:00:00Z"]);
    assert_eq!((code, &verdict["fault"]), (3, &"collateral".into()));
    let (code, verdict) = party.verdict(&THEN);
    let missing = vec!["crl.root.signature", "crl.pck.signature", "tcb-info.form", "qe-identity.form"];
    assert_eq!((code, failed(&verdict)), (3, missing));
    // Revoked: a platform's certificate, and its TCB.
    for (case, name) in [("pck-revoked", "key.revocation"), ("plat-revoked", "tcb.status")] {
        let (code, verdict) = party.synthetic(case, "allow = [\"any-guest\"]");
        assert_eq!((code, failed(&verdict)), (4, vec![name]), "{case}");
    }
    // Changed, or none at all.
    party.copy("tdx/attest/synthetic/mut-body.quote", "quote");
    let (code, verdict) = judge(&THEN);
    assert!(code == 2 && failed(&verdict).contains(&"quote.signature"), "{verdict}");
    party.copy("tdx/attest/real/sgx-v3-quote.quote", "quote");
    assert_eq!(judge(&THEN).0, 2);
    let (code, said) = party.attest(&["show", "--quote", "quote"]);
    assert_eq!((code, &said[..]), (2, "error: quote `quote`: malformed: its version is 3; 4 and 5 are known\n"));
}

/// The last line names what a platform lacks, component by component.
#[test]
fn the_verdict_names_what_a_platform_lacks() {
    let party = Party::new();
    let later = ["verify", "--quote", "quote", "--collateral", "later.json", "--now", "2026-10-15T00:00:00Z"];
    let (code, said) = party.attest(&later);
    let last = said.lines().last().unwrap();
    let status = "policy.tcb-status (OutOfDate: sgx component 0 svn 3 < 4, sgx component 1 svn 3 < 4, \
        tdx component 2 svn 3 < 4, tdx module svn 6 < 11)";
    assert!(code == 5 && last.contains(status), "{last}");
    let advisories = "policy.tcb-advisories (INTEL-SA-01192, INTEL-SA-01245, INTEL-SA-01312, INTEL-SA-01313)";
    assert!(last.contains(advisories), "{last}");
    // What the policy names it accepts.
    let policy = "[tdx]\nallow = [\"any-guest\"]\ntcb-status = [\"OutOfDate\"]\n\
        tcb-advisories = [\"INTEL-SA-01192\", \"INTEL-SA-01245\", \"INTEL-SA-01312\", \"INTEL-SA-01313\"]\n";
    party.write("policy.toml", policy);
    let (code, said) = party.attest(&[&later[..], &["--policy", "policy.toml"]].concat());
    assert_eq!(code, 0, "{said}");

    // What others are told of it is no better for that.
    party.copy("snp/idblock/id_key_pkcs8_test.pem", "key.pem");
    let (_, shown) = party.attest(&["show", "--quote", "quote", "--json"]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let data = shown["quote"]["report_data"].as_str().unwrap();
    let ear = ["--policy", "policy.toml", "--report-data", data, "--ear", "ear", "--ear-key", "key.pem"];
    let (code, said) = party.attest(&[&later[..], &ear].concat());
    assert_eq!(code, 0, "{said}");
    let read = |name: &str| fs::read_to_string(party.path(name)).unwrap();
    let key = TokenSigner::from_pem(&read("key.pem")).unwrap().key();
    let ear = key.read(read("ear").trim(), UnixTime::from_secs(1_792_022_400)).unwrap();
    assert_eq!((ear.cpu().unwrap().tier(), ear.cpu().unwrap().status()), (Tier::Hardware, Status::Warning));
}

/// no-silent-trust: every output that a test's root had a part in says so, and none claims hardware.
#[test]
fn no_silent_trust_a_test_root_is_labelled() {
    let party = Party::new();
    for (case, code) in [("good-v4", 0), ("mut-body", 2), ("attr-debug", 5)] {
        let (found, verdict) = party.synthetic(case, "allow = [\"any-guest\"]");
        assert_eq!((found, &verdict["label"]), (code, &"software-test".into()), "{case}: {verdict}");
        assert_ne!(verdict["tier"], "hardware");
        let line = verdict["line"].as_str().unwrap();
        assert!(line.contains("(software-test)") && !line.contains("Intel's root vouches"), "{line}");
    }
    let quote = ["--quote", "quote", "--test-root", "root.der", "--allow-test-root", "milan"];
    let (code, said) = party.attest(&[&["verify"][..], &quote].concat());
    assert_eq!((code, &said[..]), (1, "error: allow-test-root milan: a quote rests on intel's\n"));
    let report = ["--report", "quote", "--test-root", "root.der", "--allow-test-root", "intel"];
    let (code, said) = party.attest(&[&["verify"][..], &report].concat());
    let error = "error: allow-test-root intel: a report rests on milan's, genoa's or turin's\n";
    assert_eq!((code, &said[..]), (1, error));
}

fn bytes(text: &Value) -> Vec<u8> {
    let digits: Vec<_> = text.as_str().unwrap().chars().map(|digit| digit.to_digit(16).unwrap()).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] << 4 | pair[1]).unwrap()).collect()
}

fn pem(label: &str, der: &[u8]) -> String {
    let base64 = Base64::encode_string(der);
    let lines: Vec<_> = base64.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// Collateral as Intel's service and its caches serve it, a part in each file, whatever the form of its lists.
#[test]
fn collateral_comes_in_every_form_in_which_it_is_served() {
    let party = Party::new();
    let all: Value = serde_json::from_slice(&fs::read(party.path("collateral.json")).unwrap()).unwrap();
    let text = |name: &str| all[name].as_str().unwrap();
    fs::create_dir(party.path("pcs")).unwrap();
    let served = |member: &str, name: &str| {
        format!("{{\"{member}\":{},\"signature\":\"{}\"}}", text(name), text(&format!("{name}_signature")))
    };
    party.write("pcs/tcbInfo.json", served("tcbInfo", "tcb_info"));
    party.write("pcs/qeIdentity.json", served("enclaveIdentity", "qe_identity"));
    party.write("pcs/tcbSignChain.pem", text("tcb_info_issuer_chain"));
    let [root, pck] = ["root_ca_crl", "pck_crl"].map(|name| bytes(&all[name]));
    party.write("pcs/rootCaCrl.der", &root);
    party.write("pcs/intermediateCaCrl.pem", pem("X509 CRL", &pck));
    party.write("root.hex", format!("{}\n", text("root_ca_crl")));
    party.write("policy.toml", "[tdx]\nallow = [\"any-guest\"]\n");
    let judge = |args: &[&str]| party.verdict(&[&THEN[..], &["--policy", "policy.toml"], args].concat());
    let (code, whole) = judge(&["--collateral", "collateral.json"]);
    assert_eq!(code, 0, "{whole}");
    assert_eq!(judge(&["--collateral", "pcs"]), (0, whole.clone()));
    let parts = |tcb_info, root_crl| {
        judge(&[
            "--tcb-info",
            tcb_info,
            "--qe-identity",
            "pcs/qeIdentity.json",
            "--tcb-signing-chain",
            "pcs/tcbSignChain.pem",
            "--root-crl",
            root_crl,
            "--pck-crl",
            "pcs/intermediateCaCrl.pem",
        ])
    };
    assert_eq!(parts("pcs/tcbInfo.json", "root.hex"), (0, whole));
    // A statement is signed as it is written, and a list is nobody's certificate.
    party.write("spaced.json", served("tcbInfo", "tcb_info").replacen("{\"id\"", "{ \"id\"", 1));
    let (code, verdict) = parts("spaced.json", "root.hex");
    assert_eq!((code, failed(&verdict)), (2, vec!["tcb-info.signature"]));
    let (code, verdict) = parts("pcs/tcbInfo.json", "pcs/rootCaCrl.der");
    assert_eq!((code, failed(&verdict)), (0, vec![]));
    // Without the chain of who signed them, nothing is wrong with statements that a later chain could not show to be good.
    fs::remove_file(party.path("pcs/tcbSignChain.pem")).unwrap();
    let (code, verdict) = judge(&["--collateral", "pcs"]);
    assert_eq!((code, failed(&verdict)), (3, vec!["tcb-info.signer", "qe-identity.signer"]));
    party.write("pcs/tcbSignChain.pem", text("tcb_info_issuer_chain"));
    // Whoever verifies has chosen these files: what is wrong with them says nothing of the quote.
    for (args, expected) in [
        (["--collateral", "quote"], "error: collateral `quote` is not UTF-8\n"),
        (
            ["--root-crl", "pcs/tcbSignChain.pem"],
            "error: root-crl `pcs/tcbSignChain.pem`: no list of revoked certificates",
        ),
        (
            ["--tcb-info", "collateral.json"],
            "error: tcb-info `collateral.json` is not JSON of that: missing field `tcbInfo` at line",
        ),
        (["--collateral", "."], "error: collateral `.` has no tcbInfo.json, qeIdentity.json, tcbSignChain.pem, "),
        (["--collateral", "absent"], "error: collateral `absent` cannot be opened: "),
    ] {
        let (code, said) = party.attest(&[&["verify", "--quote", "quote"], &args[..]].concat());
        assert!(code == 1 && said.starts_with(expected), "{code}: {said}");
    }
}

/// no-silent-trust: a log that is not this guest's says nothing of it, whatever else holds.
#[test]
fn no_silent_trust_event_logs_of_others() {
    let party = Party::new();
    party.copy("tdx/eventlog/gce-cos113.ccel", "log");
    party.write("policy.toml", "[tdx]\nallow = [\"any-guest\"]\n");
    let given = ["--collateral", "collateral.json", "--policy", "policy.toml"];
    let judge = |args: &[&str]| party.verdict(&[&given[..], &THEN, args].concat());
    let (code, verdict) = judge(&["--event-log", "log"]);
    assert_eq!((code, failed(&verdict)), (2, vec!["log.rtmr0", "log.rtmr1", "log.rtmr2"]));
    assert_eq!((&verdict["verdict"], &verdict["fault"]), (&"not-met".into(), &"evidence".into()));
    let line = verdict["line"].as_str().unwrap();
    assert!(line.starts_with("FAIL: genuine, but its event log does not hold: 3 of "), "{line}");
    assert_eq!(verdict["event_log"]["events"].as_array().unwrap().len(), 43);
    let (code, verdict) = judge(&[]);
    let skipped = |name: &str| {
        verdict["checks"].as_array().unwrap().iter().any(|check| check["id"] == name && check["outcome"] == "skipped")
    };
    assert!(code == 0 && skipped("log.rtmr0") && skipped("log.data"), "{verdict}");
    let log = fs::read(party.path("log")).unwrap();
    party.write("log", &log[..log.len() - 1]);
    let (code, verdict) = judge(&["--event-log", "log"]);
    assert_eq!((code, failed(&verdict), &verdict["verdict"]), (2, vec!["log.form"], &"not-met".into()));
    let (code, said) = party.attest(&["show", "--quote", "quote", "--event-log", "log"]);
    let expected = "error: event-log `log`: malformed: it ends within the data of event 43, ";
    assert!(code == 2 && said.starts_with(expected), "{said}");
}

/// A log beside the quote of the same machine comes to the same registers, and both are shown.
#[test]
fn what_a_quote_and_its_log_say_is_shown() {
    let party = Party::new();
    party.copy("tdx/attest/real/v4-gce-cos113.quote", "quote");
    party.copy("tdx/eventlog/gce-cos113.ccel", "log");
    let given = ["show", "--quote", "quote", "--event-log", "log"];
    let (code, said) = party.attest(&[&given[..], &["--json"]].concat());
    let shown: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &shown["quote"]["rtmrs"]), (0, &shown["event_log"]["rtmrs"]));
    let events = shown["event_log"]["events"].as_array().unwrap();
    assert!(events.iter().any(|event| event["event"] == "EV_SEPARATOR" && event["measured"] == "own"));
    let grub = |event: &&Value| event["text"].as_str().is_some_and(|text| text.starts_with("grub_cmd: "));
    assert!(events.iter().find(grub).is_some_and(|event| event["measured"] == "elsewhere"));
    let (_, said) = party.attest(&given);
    let line = "event 8   RTMR0 EV_SEPARATOR: 4 bytes of data, digest of its data\n";
    assert!(said.contains(line) && said.ends_with("\nNothing of this was verified: tenure attest verify does that.\n"));
}

/// What only one kind of evidence has is refused for the other.
#[test]
fn no_silent_trust_arguments_for_other_evidence() {
    let party = Party::new();
    for args in [
        &["--quote", "quote", "--certificates", "quote"][..],
        &["--quote", "quote", "--host-data", &"00".repeat(32)],
        &["--report", "quote", "--collateral", "collateral.json"],
        &["--report", "quote", "--event-log", "quote"],
        &["--report", "quote", "--quote", "quote"],
        &["--quote", "quote", "--collateral", "collateral.json", "--tcb-info", "collateral.json"],
        &[],
    ] {
        let (code, said) = party.attest(&[&["verify"], args].concat());
        assert!(code == 1 && said.starts_with("error: the "), "{args:?}: {said}");
    }
    let (code, said) = party.attest(&["verify", "--quote", "-", "--collateral", "-"]);
    let error = "error: quote and collateral are both -: standard input is one of them only\n";
    assert_eq!((code, &said[..]), (1, error));
}

/// A report's certificates as AMD serves them: the key's in DER, the chain in PEM, issuer first.
#[test]
fn certificates_of_a_report_may_be_files_of_their_own() {
    let party = Party::new();
    party.copy("snp/attest/real/genoa-v3-ms.report", "report");
    party.copy("snp/attest/real/genoa-v3-ms.vek.der", "vek.der");
    party.copy("snp/attest/amd/ask-genoa.der", "ask.der");
    party.copy("snp/attest/amd/ask-milan.der", "milan.der");
    party.copy("snp/attest/synthetic/ark-genoa.der", "ark.der");
    let file = |name: &str| fs::read(party.path(name)).unwrap();
    party.write("vek.pem", pem("CERTIFICATE", &file("vek.der")));
    let chain = [pem("CERTIFICATE", &file("ask.der")), pem("CERTIFICATE", &file("ark.der"))];
    party.write("ask.pem", &chain[0]);
    party.write("impostor.pem", chain.concat());
    party.write("three.pem", [&chain[..], &chain[..1]].concat().concat());
    party.write("policy.toml", "allow = [\"smt\", \"any-guest\"]\n");
    let judge = |args: &[&str]| {
        let given = ["verify", "--report", "report", "--policy", "policy.toml", "--now", "2026-06-01T00:00:00Z"];
        party.attest(&[&given[..], args].concat())
    };
    for (vek, chain) in [("vek.der", "ask.der"), ("vek.pem", "ask.pem"), ("vek.der", "ask.pem")] {
        let (code, said) = judge(&["--vek", vek, "--chain", chain]);
        assert_eq!(code, 0, "{said}");
    }
    for (args, code, expected) in [
        (["--vek", "vek.der", "--chain", "milan.der"], 2, "checks failed: "),
        // Its names are AMD's.
        (["--vek", "vek.der", "--chain", "impostor.pem"], 2, "checks failed: chain.ark\n"),
        (["--vek", "ask.der", "--chain", "ask.pem"], 2, "checks failed: key.certificate, "),
        (
            ["--vek", "vek.der", "--chain", "three.pem"],
            1,
            "error: chain `three.pem`: one of 3 certificates, not of 2\n",
        ),
        (
            ["--vek", "impostor.pem", "--chain", "ask.pem"],
            1,
            "error: vek `impostor.pem`: one of 2 certificates, not of 1\n",
        ),
    ] {
        let (found, said) = judge(&args);
        assert!(found == code && said.contains(expected), "{found}: {said}");
    }
    let (code, said) = judge(&["--vek", "vek.der"]);
    assert!(code == 3 && said.ends_with("checks failed: chain.intermediate\n"), "{said}");
}

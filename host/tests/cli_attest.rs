//! `tenure attest` from file to file: a guest on the software platform is launched and asks for a report, and a relying
//! party that has nothing but files judges it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "snp_run/bed.rs"]
#[expect(dead_code, reason = "some of it is for whole runs")]
mod bed;
mod place;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use attest::snp::CertificateTable;
use bed::{Bed, NOT_BUILT, report};
use place::{Place as Party, failed};
use serde_json::Value;
use silicon_kvm::script::Step;
use tenure_silicon::report::EndorsementKey;

/// Good on the day on which everything here is judged.
const NOW: [&str; 2] = ["--now", "2026-06-01T00:00:00Z"];
const GIVEN: [&str; 5] = ["verify", "--report", "report", "--certificates", "table"];
/// The platform is a Milan, which nobody gets who does not name it.
const POLICY: &str = "[products.milan]\nsnp = 23\nmicrocode = 72\n";

/// What a relying party has.
impl Party {
    /// A guest's report with its certificates, the root of its platform, and the prediction of its launch.
    fn new() -> Self {
        static FILES: OnceLock<[(&str, Vec<u8>); 6]> = OnceLock::new();
        let files = FILES.get_or_init(|| {
            let bed = Bed::new(1);
            bed.script(0, [report(0xda, None), Step::Terminate(NOT_BUILT)]);
            bed.run();
            let [guest] = bed.kernel.reports().try_into().unwrap_or_else(|_| unreachable!("one report was asked for"));
            let table = bed.kernel.platform().certificates(EndorsementKey::Vcek).unwrap().to_bytes();
            let ark = CertificateTable::parse(&table).unwrap().endorsements().ark.unwrap().to_vec();
            let measured = |form: &[&str]| {
                let measure = ["measure", "snp", "--memory", "16M", "--vcpus", "1,2", "--vcpu-type", "EPYC-Milan"];
                let measured = Command::new(env!("CARGO_BIN_EXE_tenure")).args(measure).args(form).output().unwrap();
                assert!(measured.status.success(), "{}", String::from_utf8_lossy(&measured.stderr));
                measured.stdout
            };
            [
                ("report", guest.report.to_vec()),
                ("table", table),
                ("ark.der", ark),
                ("digests.json", measured(&["--json"])),
                ("digests.txt", measured(&[])),
                ("policy.toml", POLICY.into()),
            ]
        });
        let party = Self::empty();
        for (name, bytes) in files {
            fs::write(party.path(name), bytes).unwrap();
        }
        party
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(self.path(name)).unwrap();
        change(&mut bytes);
        fs::write(self.path(name), bytes).unwrap();
    }

    /// Verifies the report, with these arguments besides.
    fn verify(&self, args: &[&str]) -> (i32, String) {
        self.attest(&[&GIVEN[..], &NOW, args].concat())
    }

    /// The same with the platform's root, and as JSON.
    fn below_test_root(&self, args: &[&str]) -> (i32, Value) {
        let root = ["--test-root", "ark.der", "--allow-test-root", "milan", "--policy", "policy.toml"];
        self.json(&[&GIVEN[..], &NOW, &root, args].concat())
    }
}

/// one-launch: what was predicted is what the guest's platform signed, and the verdict is a test's.
#[test]
fn one_launch_from_a_prediction_to_a_verdict() {
    let party = Party::new();
    let data = "da".repeat(64);
    let (code, verdict) =
        party.below_test_root(&["--launch-digest", "digests.json", "--vcpus", "1", "--report-data", &data]);
    assert_eq!((code, failed(&verdict)), (0, vec![]), "{verdict}");
    assert_eq!((&verdict["verdict"], &verdict["tier"]), (&"test-passed".into(), &"software-test".into()));
    assert_eq!(verdict["report"]["reported_tcb"]["parts"]["snp"], 23);
    // Of predictions for several numbers of vCPUs any will do, unless one is chosen, in either form.
    assert_eq!(party.below_test_root(&["--launch-digest", "digests.json"]).0, 0);
    assert_eq!(party.below_test_root(&["--launch-digest", "digests.txt"]).0, 0);
    assert_eq!(party.below_test_root(&["--launch-digest", "digests.txt", "--vcpus", "1"]).0, 0);
    assert_eq!(party.below_test_root(&["--launch-digest", "digests.txt", "--vcpus", "2"]).0, 5);
    let (code, verdict) = party.below_test_root(&["--launch-digest", "digests.json", "--vcpus", "2"]);
    assert_eq!((code, failed(&verdict)), (5, vec!["reference.launch-digest"]));
    let check =
        |id: &str| verdict["checks"].as_array().unwrap().iter().find(|check| check["id"] == id).unwrap().clone();
    let digest = check("reference.launch-digest");
    assert_eq!(digest["actual"], verdict["report"]["launch_digest"]);
    assert_ne!(digest["actual"], digest["expected"]);
}

/// no-silent-trust: every output that a test's root had a part in says so, and none claims hardware.
#[test]
fn no_silent_trust_a_test_root_is_labelled() {
    let party = Party::new();
    let root = ["--test-root", "ark.der", "--allow-test-root", "milan", "--policy", "policy.toml"];
    let digest = ["--launch-digest", "digests.json"];
    for (change, code) in [(false, 0), (true, 2)] {
        if change {
            party.change("report", |report| report[0x90] ^= 1);
        }
        let (found, said) = party.verify(&[&root[..], &digest].concat());
        assert_eq!(found, code, "{said}");
        assert!(said.starts_with("software-test: "), "{said}");
        let last = said.lines().last().unwrap();
        assert!(last.contains("(software-test)") && !last.contains("AMD's root"), "{last}");
        let (_, verdict) = party.below_test_root(&digest);
        assert_eq!(verdict["label"], "software-test");
        assert_ne!(verdict["tier"], "hardware");
    }
    // Without being allowed by name it is no root, and neither is the one in the table.
    let party = Party::new();
    let (code, said) = party.verify(&["--policy", "policy.toml", "--launch-digest", "digests.json"]);
    assert_eq!(code, 2);
    assert!(said.lines().last().unwrap().starts_with("FAIL: not genuine: 1 of "), "{said}");
    assert!(said.contains("FAILED   chain.root "), "{said}");
    assert!(!said.contains("software-test"), "{said}");
    assert_eq!(party.verify(&["--test-root", "ark.der"]).0, 1);
}

/// no-silent-trust: each kind of failure has its exit code and its names.
#[test]
fn no_silent_trust_exit_codes() {
    let party = Party::new();
    let digest = ["--launch-digest", "digests.json"];
    let judge = |args: &[&str]| party.below_test_root(&[&digest[..], args].concat());
    // Not what is wanted.
    let (code, verdict) = judge(&["--report-data", &"00".repeat(64), "--host-data", &"11".repeat(32)]);
    assert_eq!((code, failed(&verdict)), (5, vec!["reference.report-data", "reference.host-data"]));
    let (code, verdict) = party.below_test_root(&[]);
    assert_eq!((code, failed(&verdict)), (5, vec!["reference.guest"]));
    fs::write(party.path("policy.toml"), POLICY.replace("72", "73")).unwrap();
    let (code, verdict) = judge(&[]);
    assert_eq!((code, failed(&verdict)), (5, vec!["policy.tcb.microcode", "policy.launch-tcb.microcode"]));
    // Missing: a list that the policy wants, or the certificates.
    fs::write(party.path("policy.toml"), format!("require = [\"revocation-list\"]\n{POLICY}")).unwrap();
    let (code, verdict) = judge(&[]);
    assert_eq!((code, failed(&verdict)), (3, vec!["policy.revocation-list"]));
    let (code, said) = party.attest(&["verify", "--report", "report", NOW[0], NOW[1]]);
    assert_eq!(code, 3, "{said}");
    assert!(said.ends_with("2 of 24 checks failed: chain.intermediate, key.certificate\n"), "{said}");
    // Out of date.
    let late = ["verify", "--report", "report", "--certificates", "table", "--now", "2040-01-01T00:00:00Z"];
    let root = ["--test-root", "ark.der", "--allow-test-root", "milan"];
    let (code, said) = party.attest(&[&late[..], &root].concat());
    assert!(code == 3 && said.ends_with("checks failed: key.validity\n"), "{code}: {said}");
    // Malformed.
    party.change("report", |report| report.truncate(1183));
    assert_eq!(judge(&[]).0, 2);
    let (code, said) = party.attest(&["show", "--report", "report"]);
    assert_eq!((code, said.as_str()), (2, "error: report `report`: malformed: it has 1183 bytes, not 1184\n"));
}

/// no-silent-trust: what came with a report and is malformed is refused with a verdict, as the report itself would be.
#[test]
fn no_silent_trust_tables_that_are_none() {
    let party = Party::new();
    party.change("table", |table| table.truncate(20));
    let (code, verdict) = party.below_test_root(&["--launch-digest", "digests.json"]);
    assert_eq!((code, failed(&verdict)), (2, vec!["chain.table", "chain.intermediate", "key.certificate"]));
    let why = verdict["checks"].as_array().unwrap().iter().find(|check| check["id"] == "chain.table").unwrap();
    assert_eq!(why["actual"], "malformed: the table of 0 certificates has no end: a row of zeros");
}

/// Vectors of others: AMD's list of revoked certificates, and one that takes an issuer back.
#[test]
fn no_silent_trust_what_was_revoked() {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/snp/attest/synthetic");
    let party = Party::new();
    for (from, to) in [
        ("good-vlek.report", "report"),
        ("ark-milan.der", "ark.der"),
        ("crl-milan-good.der", "good.crl"),
        ("crl-milan-asvk-revoked.der", "revoked.crl"),
        ("crl-milan-expired.der", "expired.crl"),
    ] {
        fs::copy(vectors.join(from), party.path(to)).unwrap();
    }
    let [vlek, asvk] = ["good-vlek.vek.der", "asvk-milan.der"].map(|name| fs::read(vectors.join(name)).unwrap());
    let table = tenure_silicon::chain::CertificateTable {
        kind: EndorsementKey::Vlek,
        ark: fs::read(party.path("ark.der")).unwrap(),
        intermediate: asvk,
        vek: vlek,
    };
    fs::write(party.path("table"), table.to_bytes()).unwrap();
    fs::write(
        party.path("policy.toml"),
        "require = [\"revocation-list\"]\nallow = [\"smt\", \"any-guest\"]\n[products.milan]\n",
    )
    .unwrap();
    for (list, code, expected) in [
        ("good.crl", 0, vec![]),
        ("revoked.crl", 4, vec!["chain.revocation"]),
        ("expired.crl", 3, vec!["chain.revocation.validity"]),
        ("ark.der", 2, vec!["chain.revocation.list"]),
    ] {
        let (found, verdict) = party.below_test_root(&["--crl", list]);
        assert_eq!((found, failed(&verdict)), (code, expected), "{list}: {verdict}");
    }
}

/// What a report says is shown, with nobody's word for it.
#[test]
fn what_a_report_says_is_shown() {
    let party = Party::new();
    let (code, said) = party.attest(&["show", "--report", "report"]);
    assert_eq!(code, 0);
    assert!(said.ends_with("\nNothing of this was verified: tenure attest verify does that.\n"), "{said}");
    let (_, said) = party.attest(&["show", "--report", "report", "--json"]);
    let shown: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(shown["verified"], false);
    assert_eq!(shown["report"]["report_data"], "da".repeat(64));
    // A report of version 2 does not say what it is of, and so not how its versions are packed.
    assert_eq!(shown["report"]["reported_tcb"]["parts"], Value::Null);
}

/// one-launch: who has the configuration that launches a guest need not copy anything out of it.
#[test]
fn one_launch_a_configuration_says_what_to_expect() {
    let party = Party::new();
    let config = "tee = \"snp\"\nmemory = \"16M\"\nvcpu-type = \"EPYC-Milan\"\n";
    let judge = |config: &str| {
        fs::write(party.path("guest.toml"), config).unwrap();
        party.below_test_root(&["--guest", "guest.toml"])
    };
    let (code, verdict) = judge(config);
    assert_eq!((code, failed(&verdict)), (0, vec![]), "{verdict}");
    let expects = |id: &str| {
        let checks = verdict["checks"].as_array().unwrap();
        checks.iter().find(|check| check["id"] == id).unwrap()["outcome"] == "passed"
    };
    assert!(expects("reference.launch-digest") && expects("reference.host-data"), "{verdict}");
    let (code, verdict) = judge(&config.replace("16M", "17M"));
    assert_eq!((code, failed(&verdict)), (5, vec!["reference.launch-digest"]));
    let (code, verdict) = judge(&format!("{config}snp-host-data = \"{}\"\n", "11".repeat(32)));
    assert_eq!((code, failed(&verdict)), (5, vec!["reference.host-data"]));

    let refused = |config: &str, expected: &str| {
        fs::write(party.path("guest.toml"), config).unwrap();
        let (code, said) = party.verify(&["--guest", "guest.toml"]);
        assert_eq!((code, said.as_str()), (1, expected));
    };
    refused(
        "memory = \"16M\"\n",
        "error: guest `guest.toml`: tee is auto, but must be snp or sw: another guest has no report\n",
    );
    let frequency =
        "error: guest `guest.toml`: tee is sw, whose launch has the frequency of its host's TSC: give tsc-khz\n";
    refused("tee = \"sw\"\n", frequency);
    refused(
        "memory = 1\n",
        "error: config `guest.toml`, line 1, key `memory`: memory size 1 bytes is not a multiple of the page size 4096\n",
    );
}

/// no-silent-trust: a configuration is one guest. What would take others besides it, or go unread beside it, is refused.
#[test]
fn no_silent_trust_nothing_weakens_a_configuration() {
    let party = Party::new();
    // Another guest than the one whose report it is.
    fs::write(party.path("guest.toml"), "tee = \"snp\"\nmemory = \"17M\"\nvcpu-type = \"EPYC-Milan\"\n").unwrap();
    let (key, host) = ("11".repeat(48), "00".repeat(32));
    let refused = |args: &[&str], expected: &str| {
        let guest: &[&str] = if args.contains(&"--guest") { &[] } else { &["--guest", "guest.toml"] };
        let root = ["--test-root", "ark.der", "--allow-test-root", "milan", "--policy", "policy.toml"];
        let (code, said) = party.verify(&[&root[..], guest, args].concat());
        assert!(code == 1 && said.contains(expected), "{args:?}: {code}: {said}");
        let serve = ["serve", "--resources", "secrets", "--state", "state", "--listen", "127.0.0.1:1"];
        let (code, said) = party.attest(&[&serve[..], guest, args].concat());
        assert!(code == 1 && said.contains(expected), "{args:?}: {code}: {said}");
    };
    for (name, value) in
        [("--launch-digest", "digests.json"), ("--id-key", &key), ("--author-key", &key), ("--host-data", &host)]
    {
        refused(&[name, value], &format!("'--guest <FILE>' cannot be used with '{name} <"));
        refused(&["--tsc-khz", "1000", name, value, "--guest", "guest.toml"], "' cannot be used with '");
    }
    refused(&["--vcpus", "2"], "'--guest <FILE>' cannot be used with '--vcpus <N>'");
    refused(
        &["--tsc-khz", "1000"],
        "error: guest `guest.toml`: tee is snp, whose launch has no frequency in it: tsc-khz is for sw\n",
    );
    // What a configuration doesn't say can be.
    let (code, verdict) = party.below_test_root(&["--guest", "guest.toml", "--chip", &"11".repeat(64)]);
    assert_eq!((code, failed(&verdict)), (5, vec!["reference.launch-digest", "reference.chip"]));
}

/// no-silent-trust: an option that nothing comes of is refused.
#[test]
fn no_silent_trust_no_option_goes_unread() {
    let party = Party::new();
    for (args, expected) in [
        (&["show", "--report", "report", "--event-log", "table"][..], "'--report <FILE|->'"),
        (&["verify", "--report", "report", "--ear-format", "cwt"], "--ear <FILE|->"),
        (&["verify", "--report", "report", "--launch-digest", "digests.json", "--tsc-khz", "1000"], "--tsc-khz <N>'"),
    ] {
        let (code, said) = party.attest(args);
        assert!(code == 1 && said.starts_with("error: the ") && said.contains(expected), "{args:?}: {code}: {said}");
    }
}

/// Where two reports differ is told by name, and nobody vouches for either.
#[test]
fn two_reports_are_compared() {
    let party = Party::new();
    fs::copy(party.path("report"), party.path("other")).unwrap();
    let (code, said) = party.attest(&["diff", "report", "other"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.starts_with("0 of ") && said.ends_with("; nothing of this was verified\n"), "{said}");
    party.change("other", |report| report[0x2a0] ^= 1);
    let (code, said) = party.attest(&["diff", "report", "other"]);
    assert!(code == 10 && said.contains("claims differ, but other bytes do: of the signature"), "{code}: {said}");
    party.change("other", |report| report[0x90] ^= 1);
    let (code, said) = party.attest(&["diff", "report", "other", "--json"]);
    let found: Value = serde_json::from_str(&said).unwrap();
    let claims: Vec<_> = found["different"].as_array().unwrap().iter().map(|claim| &claim["claim"]).collect();
    assert_eq!((code, claims), (10, vec![&Value::from("launch_digest")]));
    assert_eq!((&found["verified"], &found["same_bytes"]), (&false.into(), &false.into()));
}

//! `tenure attest testroot` from file to file: a root is made, signs, and what it signed is judged by a relying party that
//! has to name it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod place;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::Value;
use test_root::TestRoot;
use test_root::chain::Authority;
use test_root::chip::Seed;
use test_root::model::Model;

use place::{Place, failed};

const LABEL: &str = "software-test";

impl Place {
    /// With a root in `root` whose keys everybody has: making others takes seconds.
    fn with_root(model: Model) -> Self {
        let place = Self::empty();
        let keys = tenure_silicon::chain::authority(model).unwrap().to_pkcs8().unwrap();
        let yesterday = UNIX_EPOCH.elapsed().unwrap() - Duration::from_secs(86_400);
        let authority = Authority::from_pkcs8(model, keys.each_ref().map(|key| &key[..]), yesterday).unwrap();
        TestRoot::create(&place.path("root"), authority, Seed([0x5e; 32])).unwrap();
        place
    }

    /// Signs into `report.bin`, in place of what was signed before.
    fn sign(&self, more: &[&str]) -> (i32, String) {
        let _ = fs::remove_file(self.path("report.bin"));
        let (digest, data) = ("11".repeat(48), "da".repeat(64));
        let sign = ["testroot", "sign", "root", "--launch-digest", &digest, "--report-data", &data, "-o", "report.bin"];
        self.attest(&[&sign[..], more].concat())
    }

    /// Verifies that, with these arguments besides.
    fn verify(&self, more: &[&str]) -> (i32, Value) {
        let (digest, data) = ("11".repeat(48), "da".repeat(64));
        let verify = ["verify", "--report", "report.bin", "--certificates", "root/certificates"];
        let wanted = ["--launch-digest", &digest, "--report-data", &data];
        self.json(&[&verify[..], &wanted, more].concat())
    }
}

fn below(product: &str) -> [&str; 4] {
    ["--test-root", "root/ark.der", "--allow-test-root", product]
}

/// The one test that makes keys. no-silent-trust: what rests on them passes as a test, where they are named.
#[test]
fn no_silent_trust_from_a_roots_making_to_a_verdict() {
    let place = Place::empty();
    let (code, said) = place.attest(&["testroot", "init", "root"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.starts_with("software-test: ") && said.contains("\nmade in "), "{said}");
    assert!(said.contains("--test-root root/ark.der --allow-test-root genoa"), "{said}");
    assert_eq!(place.path("root").metadata().unwrap().permissions().mode() & 0o777, 0o700);
    let before = fs::read(place.path("root/ark.key")).unwrap();
    let (code, again) = place.attest(&["testroot", "init", "root"]);
    assert!(code == 1 && again.contains("`root` is there already, and nothing is written over"), "{code}: {again}");
    assert_eq!(fs::read(place.path("root/ark.key")).unwrap(), before);

    let (code, root) = place.json(&["testroot", "show", "root"]);
    assert_eq!((code, &root["label"], &root["product"]), (0, &LABEL.into(), &"genoa".into()));
    assert!(said.contains(root["fingerprint"].as_str().unwrap()) && said.contains(root["chip_id"].as_str().unwrap()));

    assert_eq!(place.sign(&[]).0, 0);
    let (code, verdict) = place.verify(&below("genoa"));
    assert_eq!((code, failed(&verdict)), (0, vec![]), "{verdict}");
    assert_eq!((&verdict["verdict"], &verdict["tier"]), (&"test-passed".into(), &LABEL.into()));
    assert_eq!((&verdict["label"], &verdict["report"]["version"]), (&LABEL.into(), &3.into()));
    let (code, verdict) = place.verify(&[]);
    assert_eq!((code, failed(&verdict), &verdict["verdict"]), (2, vec!["chain.root"], &"rejected".into()));
    assert_eq!(verdict["tier"], Value::Null);
}

/// no-silent-trust: every output of every command says what it is of.
#[test]
fn no_silent_trust_every_output_is_labelled() {
    for (model, product) in [(Model::Milan, "milan"), (Model::Turin, "turin")] {
        let place = Place::with_root(model);
        let (_, shown) = place.attest(&["testroot", "show", "root"]);
        assert!(
            shown.starts_with("software-test: ") && shown.contains(&format!("--allow-test-root {product}")),
            "{shown}"
        );
        assert_eq!(shown.contains("--policy policy.toml"), model == Model::Milan, "{shown}");
        let (code, signed) = place.sign(&[]);
        assert!(code == 0 && signed.starts_with("software-test: "), "{signed}");
        let (_, signed) = place.sign(&["--json"]);
        let signed: Value = serde_json::from_str(&signed).unwrap();
        assert_eq!((&signed["label"], &signed["verified"]), (&LABEL.into(), &false.into()));
        fs::write(place.path("policy.toml"), format!("[products.{product}]\nsnp = 23\n")).unwrap();
        let (code, verdict) = place.verify(&[&below(product)[..], &["--policy", "policy.toml"]].concat());
        assert_eq!((code, &verdict["label"], &verdict["tier"]), (0, &LABEL.into(), &LABEL.into()), "{verdict}");
    }
}

/// What was asked for is what is signed, and the same twice.
#[test]
fn what_is_signed_is_what_was_asked_for() {
    let place = Place::with_root(Model::Turin);
    let host = "4d".repeat(32);
    let more = ["--host-data", &host, "--policy", "abi=1.55", "--vmpl", "2"];
    let (_, signed) = place.sign(&[&more[..], &["--json"]].concat());
    let report = serde_json::from_str::<Value>(&signed).unwrap()["report"].clone();
    assert_eq!((&report["host_data"], &report["version"]), (&host.as_str().into(), &5.into()));
    assert_eq!((&report["launch_digest"], &report["report_data"]), (&"11".repeat(48).into(), &"da".repeat(64).into()));
    assert!(report["policy_names"].as_str().unwrap().starts_with("abi=1.55"), "{report}");
    let bytes = fs::read(place.path("report.bin")).unwrap();
    assert_eq!((bytes.len(), bytes[0x30]), (1184, 2));
    assert_eq!(place.sign(&more).0, 0);
    assert_eq!(fs::read(place.path("report.bin")).unwrap(), bytes);
    // A prediction is taken as it was printed, and never written over; bytes and JSON do not share standard output.
    fs::write(place.path("digest.txt"), "11".repeat(48) + "\n").unwrap();
    let from_file = |out: &str, more: &[&str]| {
        let data = "da".repeat(64);
        let sign = ["testroot", "sign", "root", "--launch-digest", "digest.txt", "--report-data", &data, "--out", out];
        place.attest(&[&sign[..], more].concat())
    };
    let (code, said) = from_file("report.bin", &[]);
    assert_eq!((code, &said[..]), (1, "error: out `report.bin` is there already; nothing is written over\n"));
    assert_eq!(fs::read(place.path("report.bin")).unwrap(), bytes);
    fs::remove_file(place.path("report.bin")).unwrap();
    assert_eq!(from_file("report.bin", &[]).0, 0);
    assert_eq!(place.verify(&below("turin")).0, 0);
    fs::remove_file(place.path("report.bin")).unwrap();
    // So is one for several numbers of vCPUs.
    fs::write(place.path("digest.txt"), format!("   1  {}\n   4  {}\n", "22".repeat(48), "11".repeat(48))).unwrap();
    assert_eq!(from_file("report.bin", &["--vcpus", "4"]).0, 0);
    assert_eq!(place.verify(&below("turin")).0, 0);
    fs::remove_file(place.path("report.bin")).unwrap();
    assert!(from_file("report.bin", &[]).1.ends_with("for 1, 4 vCPUs: --vcpus chooses one\n"));
    assert!(from_file("digest.txt", &[]).1.ends_with("`digest.txt` is the launch-digest: it would be overwritten\n"));
    assert_eq!(from_file("-", &["--json"]).0, 1);
}

/// no-silent-trust: whatever was changed since a root was made or a report signed is found.
#[test]
fn no_silent_trust_what_was_changed() {
    let place = Place::with_root(Model::Genoa);
    assert_eq!(place.sign(&[]).0, 0);
    // Another product's name, or a guest that is not wanted.
    assert_eq!(place.verify(&below("turin")).0, 2);
    let (code, verdict) = place.verify(&[&below("genoa")[..], &["--host-data", &"11".repeat(32)]].concat());
    assert_eq!((code, failed(&verdict)), (5, vec!["reference.host-data"]));
    assert_eq!(place.verify(&below("genoa")).0, 0);
    // The report, the certificates.
    for (file, at) in [("report.bin", 0x90), ("root/certificates", 4000)] {
        let whole = fs::read(place.path(file)).unwrap();
        let mut changed = whole.clone();
        changed[at] ^= 1;
        fs::write(place.path(file), changed).unwrap();
        let (code, verdict) = place.verify(&below("genoa"));
        assert_eq!((code, &verdict["verdict"], &verdict["label"]), (2, &"rejected".into(), &LABEL.into()), "{file}");
        if file == "root/certificates" {
            let (code, said) = place.sign(&[]);
            let words = "`root/certificates` does not belong to the keys and the description in `root`";
            assert!(code == 1 && said.starts_with("error: test root: ") && said.contains(words), "{said}");
        }
        fs::write(place.path(file), whole).unwrap();
    }
    // Keys that others can read.
    fs::set_permissions(place.path("root/chip.key"), Permissions::from_mode(0o640)).unwrap();
    let (code, said) = place.attest(&["testroot", "show", "root"]);
    assert_eq!(
        (code, said.as_str()),
        (
            1,
            "error: test root: `root/chip.key` has mode 0640: others than its owner have rights to it, and might have its \
             keys; chmod go= root/chip.key\n"
        )
    );
}

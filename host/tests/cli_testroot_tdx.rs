//! `tenure attest testroot` for TDX, from file to file: a root is made, signs, and what it signed is judged by a relying
//! party that has to name it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod place;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use place::{Place, failed};

const LABEL: &str = "software-test";
const BELOW: [&str; 4] = ["--test-root", "root/root.der", "--allow-test-root", "intel"];

impl Place {
    /// With a root in it.
    fn new() -> Self {
        Self::making_root().0
    }

    /// The same, and what was said when it was made.
    fn making_root() -> (Self, String) {
        let place = Self::empty();
        let (code, said) = place.attest(&["testroot", "init", "root", "--tee", "tdx"]);
        assert_eq!(code, 0, "{said}");
        (place, said)
    }

    /// Signs into `quote.bin`, in place of what was signed before.
    fn sign(&self, more: &[&str]) -> (i32, String) {
        let _ = fs::remove_file(self.path("quote.bin"));
        let (mrtd, data) = ("11".repeat(48), "da".repeat(64));
        let sign = ["testroot", "sign", "root", "--mrtd", &mrtd, "--report-data", &data, "-o", "quote.bin"];
        self.attest(&[&sign[..], more].concat())
    }

    /// Verifies that, with these arguments besides.
    fn verify(&self, more: &[&str]) -> (i32, Value) {
        let (mrtd, data) = ("11".repeat(48), "da".repeat(64));
        let verify = ["verify", "--quote", "quote.bin", "--collateral", "root/collateral"];
        let wanted = ["--mrtd", &mrtd, "--report-data", &data];
        self.json(&[&verify[..], &wanted, more].concat())
    }
}

/// no-silent-trust: what rests on a root passes as a test, where it is named, and every output says so.
#[test]
fn no_silent_trust_from_a_roots_making_to_a_verdict() {
    let (place, said) = Place::making_root();
    assert!(said.starts_with("software-test: ") && said.contains("\nmade in "), "{said}");
    assert!(said.contains("--test-root root/root.der --allow-test-root intel"), "{said}");
    assert_eq!(place.path("root/root.key").metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let (code, again) = place.attest(&["testroot", "init", "root", "--tee", "tdx"]);
    assert!(code == 1 && again.contains("`root` is there already, and nothing is written over"), "{code}: {again}");

    let (code, root) = place.json(&["testroot", "show", "root"]);
    assert_eq!((code, &root["label"], &root["product"]), (0, &LABEL.into(), &"intel".into()));
    assert!(said.contains(root["fingerprint"].as_str().unwrap()) && said.contains(root["fmspc"].as_str().unwrap()));

    let (code, signed) = place.sign(&[]);
    assert!(code == 0 && signed.starts_with("software-test: "), "{signed}");
    let (code, verdict) = place.verify(&BELOW);
    assert_eq!((code, failed(&verdict)), (0, vec![]), "{verdict}");
    assert_eq!((&verdict["verdict"], &verdict["tier"]), (&"test-passed".into(), &LABEL.into()));
    assert_eq!((&verdict["label"], &verdict["valid_until"]), (&LABEL.into(), &root["not_after"]));
    assert_eq!(verdict["quote"]["platform"]["fmspc"], root["fmspc"]);
    let (code, verdict) = place.verify(&[]);
    assert_eq!((code, failed(&verdict), &verdict["verdict"]), (2, vec!["chain.root"], &"rejected".into()));
    assert_eq!(verdict["tier"], Value::Null);
    // In the year after all of it ended.
    let year: u32 = root["not_after"].as_str().unwrap()[..4].parse().unwrap();
    let ended = format!("{}-01-02T00:00:00Z", year + 1);
    assert_eq!(place.verify(&[&BELOW[..], &["--now", &ended]].concat()).0, 3);
}

/// What was asked for is what is signed, and the same twice.
#[test]
fn what_is_signed_is_what_was_asked_for() {
    let place = Place::new();
    let digest = |byte: u8| format!("{byte:02x}").repeat(48);
    let [zero, one, two, three, config, owner, configured] = [1, 2, 3, 4, 5, 6, 7].map(digest);
    let rtmrs = ["--rtmr0", &zero, "--rtmr1", &one, "--rtmr2", &two, "--rtmr3", &three];
    let host = ["--mrconfigid", &config, "--mrowner", &owner, "--mrownerconfig", &configured];
    let more = [&rtmrs[..], &host].concat();
    let bits = ["--attributes", "0000000050000000", "--xfam", "00000000000602e7", "--quote-version", "5"];
    let (_, signed) = place.sign(&[&more[..], &bits, &["--json"]].concat());
    let signed: Value = serde_json::from_str(&signed).unwrap();
    assert_eq!((&signed["label"], &signed["verified"]), (&LABEL.into(), &false.into()));
    let quote = &signed["quote"];
    assert_eq!((&quote["version"], &quote["mrtd"]), (&5.into(), &"11".repeat(48).into()));
    assert_eq!(quote["rtmrs"], serde_json::json!([zero, one, two, three]));
    assert_eq!((&quote["mrconfigid"], &quote["mrowner"]), (&config.as_str().into(), &owner.as_str().into()));
    assert_eq!((&quote["mrownerconfig"], &quote["xfam"]), (&configured.as_str().into(), &"0x602e7".into()));
    assert_eq!(quote["attribute_names"], serde_json::json!(["sept-ve-disable", "pks"]));
    let bytes = fs::read(place.path("quote.bin")).unwrap();
    assert_eq!(place.sign(&[&more[..], &bits].concat()).0, 0);
    assert_eq!(fs::read(place.path("quote.bin")).unwrap(), bytes);
    let (code, verdict) = place.verify(&[&BELOW[..], &more].concat());
    assert_eq!((code, failed(&verdict)), (0, vec![]), "{verdict}");
    let (code, verdict) = place.verify(&[&BELOW[..], &["--rtmr2", &three]].concat());
    assert_eq!((code, failed(&verdict)), (5, vec!["reference.rtmr2"]));
}

/// A root is of one technology, and so is what it is asked for.
#[test]
fn what_is_of_the_other_technology_is_refused() {
    let place = Place::new();
    let (code, said) = place.attest(&["testroot", "init", "other", "--tee", "tdx", "--product", "genoa"]);
    assert_eq!((code, said.as_str()), (1, "error: product is AMD's; Intel has one root for all of its platforms\n"));
    let (digest, data) = ("11".repeat(48), "da".repeat(64));
    let sign = ["testroot", "sign", "root", "--report-data", &data, "-o", "out.bin"];
    let (code, said) = place.attest(&[&sign[..], &["--launch-digest", &digest]].concat());
    assert_eq!(code, 1);
    assert_eq!(
        said,
        "error: test root: the test root in `root` signs quotes of TDX guests, not reports of SNP guests\n"
    );
    for (args, words) in [
        (&["--mrtd", &digest, "--vmpl", "1"][..], "cannot be used with"),
        (&["--launch-digest", &digest, "--rtmr0", &digest], "cannot be used with"),
        (&["--mrtd", &digest, "--launch-digest", &digest], "cannot be used with"),
        (&[], "required arguments were not provided"),
    ] {
        let (code, said) = place.attest(&[&sign[..], args].concat());
        assert!(code == 1 && said.contains(words), "{args:?}: {code}: {said}");
    }
    // What only quotes have is not passed over beside a report.
    let (code, said) = place.attest(&["verify", "--report", "root/root.der", "--mrtd", &digest]);
    assert!(code == 1 && said.contains("and service-td are for quotes, not for --report"), "{said}");
}

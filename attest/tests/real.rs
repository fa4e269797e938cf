//! Reports that chips signed, with AMD's certificates: what others say of them is what we say. The moment is pinned.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod common;

use attest::snp::report::{Processor, Requester};
use attest::snp::{Anchors, Endorsements, Product, Report, verify};
use attest::{Anchor, UnixTime};
use common::{failed, vector};

/// 2026-06-01.
const NOW: UnixTime = UnixTime::from_secs(1_780_272_000);

/// A report with its key's certificate, and whose.
struct Real {
    name: &'static str,
    product: Product,
    intermediate: &'static str,
    now: UnixTime,
}

const fn vcek(name: &'static str, product: Product, intermediate: &'static str) -> Real {
    Real { name, product, intermediate, now: NOW }
}

const REAL: [Real; 7] = [
    vcek("milan-v2-debug-gsg", Product::Milan, "ask-milan"),
    vcek("milan-v2-virtee", Product::Milan, "ask-milan"),
    vcek("milan-v2-trustee", Product::Milan, "ask-milan"),
    vcek("milan-v3-ms", Product::Milan, "ask-milan"),
    vcek("genoa-v3-ms", Product::Genoa, "ask-genoa"),
    vcek("turin-v5-ms", Product::Turin, "ask-turin"),
    // 2025-06-01: a provider's key is good for a year.
    Real { now: UnixTime::from_secs(1_748_736_000), ..vcek("milan-v3-vlek-trustee", Product::Milan, "asvk-milan") },
];

#[test]
fn every_real_report_is_verified() {
    for Real { name, product, intermediate, now } in REAL {
        let [report, vek] = ["report", "vek.der"].map(|kind| vector(&format!("real/{name}.{kind}")));
        let intermediate = vector(&format!("amd/{intermediate}.der"));
        let endorsements =
            Endorsements { vcek: Some(&vek), vlek: Some(&vek), intermediate: Some(&intermediate), ark: None };
        let verified = verify(&report, &endorsements, &Anchors::amd(), now);
        if let Err(e) = &verified {
            for c in e.checks().iter() {
                println!("{name} {c}");
            }
        }
        assert_eq!(verified.unwrap().anchor(), Anchor::Amd(product), "{name}");
    }
}

//! Law no-silent-trust: nothing that anybody sends makes verification panic, and nothing changed is verified.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod common;

use attest::snp::{Anchors, CertificateTable, Endorsements, Product, verify};
use common::silicon::Evidence;
use common::{NOW, vector};
use proptest::collection::vec;
use proptest::prelude::*;
use tenure_silicon::model::Model;

/// Something done to bytes, at a place in thousandths of them.
#[derive(Clone, Debug)]
enum Change {
    Flip(u8),
    Truncate,
    Repeat(usize),
}

fn changes() -> impl Strategy<Value = Vec<(usize, Change)>> {
    let change = prop_oneof![
        8 => (0..8u8).prop_map(Change::Flip),
        1 => Just(Change::Truncate),
        1 => (1..300usize).prop_map(Change::Repeat),
    ];
    vec((0..1000usize, change), 1..4)
}

fn apply(bytes: &mut Vec<u8>, changes: &[(usize, Change)]) {
    for (place, change) in changes {
        let at = bytes.len() * place / 1000;
        match change {
            Change::Flip(bit) => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << bit),
            Change::Truncate => bytes.truncate(at),
            Change::Repeat(count) => {
                let again = bytes[at..bytes.len().min(at + count)].to_vec();
                bytes.splice(at..at, again);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Certificates reach the verifier before anything vouches for them, keys of theirs included.
    #[test]
    fn no_silent_trust_changed_evidence(which in 0..4usize, changes in changes()) {
        let evidence = Evidence::new(Model::Turin);
        let certificates = &evidence.certificates;
        let good = [&evidence.report, &certificates.vek, &certificates.intermediate, &certificates.ark];
        let mut changed = good.map(Clone::clone);
        apply(&mut changed[which], &changes);
        let [report, vek, intermediate, ark] = &changed;
        let endorsements =
            Endorsements { vcek: Some(vek), vlek: None, intermediate: Some(intermediate), ark: Some(ark), crl: None, ..Endorsements::default() };
        let verdict = verify(report, &endorsements, &evidence.anchors(), NOW);
        // Of the root only the name and the key count, because it vouches for nothing.
        prop_assert!(which == 3 || verdict.is_err() || changed[which] == *good[which]);
        prop_assert!(verify(report, &endorsements, &Anchors::amd(), NOW).is_err());
        let _ = Anchors::none().with_test_root(Product::Turin, ark);
    }

    #[test]
    fn no_silent_trust_changed_tables(changes in changes()) {
        let evidence = Evidence::new(Model::Milan);
        let mut table = evidence.certificates.to_bytes();
        apply(&mut table, &changes);
        if let Ok(table) = CertificateTable::parse(&table) {
            let verdict = verify(&evidence.report, &table.endorsements(), &evidence.anchors(), NOW);
            let same = table.get(attest::snp::certificates::Kind::Vcek) == Some(&evidence.certificates.vek);
            prop_assert!(same || verdict.is_err());
        }
    }

    #[test]
    fn no_silent_trust_random_certificates(noise in vec(any::<u8>(), 0..400)) {
        let endorsements =
            Endorsements { vcek: Some(&noise), vlek: Some(&noise), intermediate: Some(&noise), ark: Some(&noise), crl: Some(&noise), ..Endorsements::default() };
        prop_assert!(verify(&vector("real/turin-v5-ms.report"), &endorsements, &Anchors::amd(), NOW).is_err());
        prop_assert!(verify(&noise, &endorsements, &Anchors::amd(), NOW).is_err());
    }
}

//! Law no-silent-trust: nothing that anybody sends makes verification panic, and nothing changed is verified.

use attest::tdx::{Anchors, Collateral, Quote, SignedJson, verify};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::evidence::Evidence;
use crate::real::phala;

/// The parts of evidence, by number.
fn part(evidence: &mut Evidence, number: usize) -> &mut Vec<u8> {
    let Evidence { quote, tcb_info, qe_identity, root_crl, pck_crl, .. } = evidence;
    match number {
        0 => quote,
        1 => &mut tcb_info.text,
        2 => &mut tcb_info.signature,
        3 => &mut tcb_info.chain,
        4 => &mut qe_identity.text,
        5 => &mut qe_identity.signature,
        6 => &mut qe_identity.chain,
        7 => root_crl,
        _ => pck_crl,
    }
}

/// A place in thousandths, a bit to flip there, and how many bytes to repeat or, below zero, to leave out.
fn changes() -> impl Strategy<Value = Vec<(usize, u8, i16)>> {
    vec((0..1000usize, 0..8u8, prop_oneof![4 => Just(0), 1 => -200..200i16]), 1..4)
}

fn apply(bytes: &mut Vec<u8>, changes: &[(usize, u8, i16)]) {
    for (place, bit, count) in changes {
        let at = bytes.len() * place / 1000;
        let end = bytes.len().min(at + usize::from(count.unsigned_abs()));
        match count {
            0 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << bit),
            1.. => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            _ => drop(bytes.drain(at..end)),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// What is verified says what it said.
    #[test]
    fn no_silent_trust_changed_evidence(number in 0..9usize, changes in changes()) {
        let good = phala();
        let mut changed = good.clone();
        let same = part(&mut changed, number).clone();
        apply(part(&mut changed, number), &changes);
        if let Ok(verified) = changed.verdict() {
            let quote = Quote::parse(&good.quote).unwrap();
            prop_assert_eq!(verified.evidence().quote().signed_bytes(), quote.signed_bytes());
            let original = good.verdict().unwrap();
            prop_assert_eq!(verified.evidence().platform(), original.evidence().platform());
            // Of these not all is signed: zeros after a quote, line ends of a chain, a root that came along.
            prop_assert!([0, 3, 6].contains(&number) || *part(&mut changed, number) == same);
        }
    }

    #[test]
    fn no_silent_trust_random_bytes(noise in vec(any::<u8>(), 0..2000)) {
        prop_assert!(Quote::parse(&noise).is_err());
        let json = Some(SignedJson { text: &noise, signature: &noise, chain: &noise });
        let collateral =
            Collateral { tcb_info: json, qe_identity: json, root_crl: Some(&noise), pck_crl: Some(&noise) };
        let good = phala();
        prop_assert!(verify(&good.quote, &collateral, &good.anchors, good.now).is_err());
        prop_assert!(Anchors::none().with_test_root(&noise).is_err());
    }
}

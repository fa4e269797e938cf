//! Law no-silent-trust: what was changed, exchanged or left out is refused, and for that reason. All of it starts from a
//! quote of a real platform that is verified. The list of all such changes is in `../mutations.rs`.

use attest::UnixTime;
use attest::check::Fault;
use attest::tdx::QuoteError::{self, *};
use attest::tdx::{Allowance, Policy, Quote, ReferenceValues, appraise};

use crate::evidence::{Evidence, vector};
use crate::real::phala;

/// Where the signature data's length is in a quote of version 4, and the data.
const LENGTH_AT: usize = 48 + 584;
const DATA_AT: usize = LENGTH_AT + 4;
/// Where in these data certification data begins, and the QE's own.
const CERTIFICATION: usize = DATA_AT + 128;
const AUTHENTICATED: usize = CERTIFICATION + 6 + 384 + 64;
const QE_CERTIFICATION: usize = AUTHENTICATED + 2 + 32;

const CERTIFICATE_END: &str = "-----END CERTIFICATE-----\n";

fn changed(quote: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut quote = quote.to_vec();
    quote[at..at + bytes.len()].copy_from_slice(bytes);
    quote
}

/// The quote with another chain, all lengths as they should be.
pub fn with_chain(quote: &[u8], chain: &str) -> Vec<u8> {
    let length = |bytes: usize| u32::try_from(bytes).unwrap().to_le_bytes();
    // What is authenticated with the QE's report has another length in some quotes.
    let data = usize::from(u16::from_le_bytes([quote[AUTHENTICATED], quote[AUTHENTICATED + 1]]));
    let certification = AUTHENTICATED + 2 + data;
    let start = certification + 6;
    let mut quote = [&quote[..start], chain.as_bytes()].concat();
    let end = quote.len();
    for at in [LENGTH_AT, CERTIFICATION + 2, certification + 2] {
        quote[at..at + 4].copy_from_slice(&length(end - at - 4));
    }
    quote
}

fn parsed(quote: &[u8]) -> QuoteError {
    let Err(error) = Quote::parse(quote) else { unreachable!("it is a quote") };
    error
}

#[test]
fn no_silent_trust_quotes_of_another_form() {
    let quote = phala().quote;
    let quote = Quote::parse(&quote).unwrap().bytes();
    let said = u32::from_le_bytes(quote[LENGTH_AT..DATA_AT].try_into().unwrap());
    for version in [0, 3, 6, u16::MAX] {
        assert_eq!(parsed(&changed(quote, 0, &version.to_le_bytes())), Version(version));
    }
    assert_eq!(parsed(&changed(quote, 2, &[3])), KeyType(3));
    assert_eq!(parsed(&changed(quote, 4, &[0])), TeeType(0));
    assert_eq!(parsed(&changed(quote, 12, &[0])), Vendor(0x009a_7233_f79c_4ca9_940a_0db3_957f_0607));
    for found in 1..=4 {
        let part = "the QE's certification data";
        assert_eq!(
            parsed(&changed(quote, QE_CERTIFICATION, &[found])),
            Certification { part, found: found.into(), wanted: 5 }
        );
    }
    let part = "the certification data";
    assert_eq!(parsed(&changed(quote, CERTIFICATION, &[5])), Certification { part, found: 5, wanted: 6 });
    let longer = changed(quote, LENGTH_AT, &(said + 1).to_le_bytes());
    assert_eq!(parsed(&longer), Truncated { part: "the signature data", missing: 1 });
    let shorter = changed(quote, LENGTH_AT, &(said - 1).to_le_bytes());
    assert!(matches!(parsed(&shorter), Length { part: "the certification data", .. }));
    let huge = changed(quote, LENGTH_AT, &u32::MAX.to_le_bytes());
    assert!(matches!(parsed(&huge), Truncated { part: "the signature data", .. }));
    let authenticated = changed(quote, AUTHENTICATED, &u16::MAX.to_le_bytes());
    assert!(matches!(parsed(&authenticated), Truncated { part: "the QE's authenticated data", .. }));
    assert_eq!(parsed(&[quote, &[0, 0, 1]].concat()), Trailing(quote.len() + 2));
}

#[test]
fn no_silent_trust_bodies_that_disagree_with_their_length() {
    let quote = vector("real/v5-td15-tcb-not-supported.quote");
    let body = |kind: u16, length: u32| [&kind.to_le_bytes()[..], &length.to_le_bytes()].concat();
    for (kind, said, there) in [(2, 648, 584), (3, 584, 648), (3, 0, 648), (2, u32::MAX, 584), (4, 648, 885)] {
        let error = parsed(&changed(&quote, 48, &body(kind, said)));
        assert_eq!(error, Length { part: "the body", said, there });
    }
    for kind in [0, 1, 5, u16::MAX] {
        assert_eq!(parsed(&changed(&quote, 48, &body(kind, 648))), BodyType(kind));
    }
}

#[test]
fn no_silent_trust_quotes_that_end_anywhere() {
    for name in ["v4-uptodate-phala", "v5-td15-tcb-not-supported", "v5-td15ex", "v4-gce-cos113"] {
        let quote = vector(&format!("real/{name}.quote"));
        let whole = Quote::parse(&quote).unwrap().bytes();
        for end in 0..whole.len() {
            assert!(Quote::parse(&whole[..end]).is_err(), "{name} up to {end:#x}");
        }
    }
}

#[test]
fn no_silent_trust_chains_in_another_order_or_not_whole() {
    let evidence = phala();
    let pem = String::from_utf8(Quote::parse(&evidence.quote).unwrap().pck_chain().to_vec()).unwrap();
    let [key, ca, root, _zero] = pem.split_inclusive(CERTIFICATE_END).collect::<Vec<_>>()[..] else { unreachable!() };
    let rejected = |chain: &[&str]| {
        let quote = with_chain(&evidence.quote, &chain.concat());
        Evidence { quote, ..evidence.clone() }
            .verdict()
            .map(|_| ())
            .map_err(|rejected| crate::evidence::failed(&rejected))
    };
    assert_eq!(rejected(&[key, ca, root]), Ok(()), "as it was");
    for chain in [&[][..], &[key], &[key, ca], &[key, root], &[key, ca, root, root], &[key, ca, "none"]] {
        assert_eq!(rejected(chain).unwrap_err(), ["chain.form"]);
    }
    assert_eq!(rejected(&[ca, key, root]).unwrap_err(), ["chain.intermediate", "key.certificate"]);
    assert_eq!(rejected(&[key, root, ca]).unwrap_err(), ["chain.root", "chain.intermediate"]);
    assert_eq!(rejected(&[root, ca, key]).unwrap_err(), ["chain.root", "key.certificate"]);
    // The platform's own key issues nothing.
    assert_eq!(rejected(&[key, key, root]).unwrap_err(), ["chain.intermediate"]);
}

#[test]
fn no_silent_trust_statements_written_in_another_way() {
    let evidence = phala();
    let spaced = |text: &[u8]| [b"{ ", &text[1..]].concat();
    // The first two members in the other order.
    let turned = |text: &[u8]| {
        let text = String::from_utf8(text.to_vec()).unwrap();
        let (members, rest) = text.match_indices(',').nth(1).map(|(at, _)| text.split_at(at)).unwrap();
        let (first, second) = members[1..].split_once(',').unwrap();
        format!("{{{second},{first}{rest}").into_bytes()
    };
    for rewritten in [spaced, turned] {
        let mut changed = evidence.clone();
        changed.tcb_info.text = rewritten(&changed.tcb_info.text);
        assert_ne!(changed.tcb_info.text, evidence.tcb_info.text);
        assert_eq!(changed.rejected(), ["tcb-info.signature"]);
        let mut changed = evidence.clone();
        changed.qe_identity.text = rewritten(&changed.qe_identity.text);
        assert_eq!(changed.rejected(), ["qe-identity.signature"]);
    }
}

#[test]
fn no_silent_trust_what_stands_in_anothers_place() {
    let evidence = phala();
    let mut swapped = evidence.clone();
    std::mem::swap(&mut swapped.tcb_info.signature, &mut swapped.qe_identity.signature);
    assert_eq!(swapped.rejected(), ["tcb-info.signature", "qe-identity.signature"]);
    let mut swapped = evidence.clone();
    std::mem::swap(&mut swapped.tcb_info.text, &mut swapped.qe_identity.text);
    assert_eq!(
        swapped.rejected(),
        ["tcb-info.signature", "tcb-info.form", "qe-identity.signature", "qe-identity.form"]
    );
    let mut swapped = evidence.clone();
    std::mem::swap(&mut swapped.root_crl, &mut swapped.pck_crl);
    assert_eq!(swapped.rejected(), ["crl.root.signature", "crl.pck.signature"]);
    // A platform's chain signs no statements.
    let mut other = evidence.clone();
    other.tcb_info.chain = Quote::parse(&evidence.quote).unwrap().pck_chain().to_vec();
    assert_eq!(other.rejected(), ["tcb-info.signer"]);
    // What a test's root vouches for is nothing below Intel's, and the other way round.
    let synthetic = Evidence::synthetic("good-v4", "2026-06-01T00:00:00Z");
    let mut other = evidence.clone();
    other.qe_identity = synthetic.qe_identity.clone();
    assert!(other.rejected().contains(&"qe-identity.signer.signature"));
    let other = Evidence { quote: synthetic.quote, ..evidence.clone() };
    assert!(other.rejected().contains(&"chain.root"));
}

/// TCB info is of a platform's kind and its PCE's: either may differ. Whoever could sign such a text would be refused for
/// what it says.
#[test]
fn no_silent_trust_tcb_info_of_another_pce() {
    let mut evidence = phala();
    let text = String::from_utf8(evidence.tcb_info.text).unwrap();
    evidence.tcb_info.text = text.replace(r#""pceId":"0000""#, r#""pceId":"0001""#).into_bytes();
    assert_eq!(evidence.rejected(), ["tcb-info.signature", "tcb-info.platform"]);
}

/// What is missing is collateral's fault, and says nothing of the quote; what is there and bad is somebody's.
#[test]
fn no_silent_trust_statements_without_the_chain_of_who_signed_them() {
    for nothing in [&b""[..], b" \n\0"] {
        let mut info = phala();
        info.tcb_info.chain = nothing.to_vec();
        let mut identity = phala();
        identity.qe_identity.chain = nothing.to_vec();
        for (evidence, name) in [(info, "tcb-info.signer"), (identity, "qe-identity.signer")] {
            let rejected = evidence.verdict().unwrap_err();
            assert_eq!((crate::evidence::failed(&rejected), rejected.fault()), (vec![name], Fault::Collateral));
            assert_eq!(rejected.checks().named(name).unwrap().actual, "missing");
        }
    }
    let mut bad = phala();
    bad.tcb_info.chain = b"no chain".to_vec();
    let rejected = bad.verdict().unwrap_err();
    assert_eq!((crate::evidence::failed(&rejected), rejected.fault()), (vec!["tcb-info.signer"], Fault::Evidence));
}

/// Each thing is good from one second to another.
#[test]
fn no_silent_trust_a_second_too_early_or_too_late() {
    let evidence = Evidence::synthetic("good-v4", "2026-06-01T00:00:00Z");
    assert!(evidence.verdict().is_ok());
    let issued = 1_777_593_600;
    let next = 1_788_220_800;
    for (now, good) in [(issued - 1, false), (issued, true), (next, true), (next + 1, false)] {
        let verdict = Evidence { now: UnixTime::from_secs(now), ..evidence.clone() }.verdict().map(|_| ());
        assert_eq!(verdict.is_ok(), good, "{now}: {verdict:?}");
        if let Err(rejected) = verdict {
            let names = crate::evidence::failed(&rejected);
            assert!(names.contains(&"tcb-info.validity") && names.contains(&"qe-identity.validity"), "{names:?}");
        }
    }
}

/// A bit of every third byte before the certificates, others in each quote: what of it is signed by what.
#[test]
fn no_silent_trust_a_bit_of_what_is_signed() {
    const KEY_AT: usize = DATA_AT + 64;
    const REPORT_AT: usize = CERTIFICATION + 6;
    const QE_SIGNATURE: usize = REPORT_AT + 384;
    for (number, evidence) in [phala(), crate::real::debug()].into_iter().enumerate() {
        let whole = Quote::parse(&evidence.quote).unwrap();
        assert_eq!(whole.attestation_key()[..], evidence.quote[KEY_AT..CERTIFICATION]);
        let authenticated = AUTHENTICATED + 2..AUTHENTICATED + 2 + whole.authenticated_data().len();
        for at in (number..authenticated.end).step_by(3) {
            let mut changed = evidence.clone();
            changed.quote[at] ^= 1 << ((at + 3 * number) % 8);
            let names = changed.rejected();
            if Quote::parse(&changed.quote).is_err() {
                assert_eq!(names, ["quote.form"], "byte {at:#x}");
                let is_number = at < 48 || (LENGTH_AT..DATA_AT).contains(&at);
                let is_certification = (CERTIFICATION..REPORT_AT).contains(&at);
                assert!(is_number || is_certification || (AUTHENTICATED..AUTHENTICATED + 2).contains(&at), "{at:#x}");
                continue;
            }
            let expected: &[&str] = match at {
                0..KEY_AT => &["quote.signature"],
                KEY_AT..CERTIFICATION => &["quote.signature", "qe.binding"],
                REPORT_AT..QE_SIGNATURE => &["qe.signature"],
                QE_SIGNATURE..AUTHENTICATED => &["qe.signature"],
                _ if authenticated.contains(&at) => &["qe.binding"],
                _ => unreachable!("{at:#x} is a length"),
            };
            // Beside that: what is said of TDX module, guest and QE is not what statements are about any more.
            assert!(expected.iter().all(|name| names.contains(name)), "byte {at:#x}: {names:?}");
            let beside = ["quote.attributes", "qe.", "module.", "tcb."];
            let is_known = |name: &&str| expected.contains(name) || beside.iter().any(|it| name.starts_with(it));
            assert!(names.iter().all(is_known), "byte {at:#x}: {names:?}");
        }
    }
}

/// A value that is expected, and the check that compares it.
type Value = (&'static str, fn(&mut ReferenceValues) -> &mut [u8]);

/// Every bit of everything that can be expected of a guest, on both real quotes whose platform is up to date.
#[test]
fn no_silent_trust_a_bit_of_what_is_expected() {
    let values: [Value; 9] = [
        ("reference.mrtd", |it| &mut it.mr_tds[0]),
        ("reference.rtmr0", |it| &mut it.rtmrs[0][0]),
        ("reference.rtmr1", |it| &mut it.rtmrs[1][0]),
        ("reference.rtmr2", |it| &mut it.rtmrs[2][0]),
        ("reference.rtmr3", |it| &mut it.rtmrs[3][0]),
        ("reference.mrconfigid", |it| it.mr_config_id.as_mut().unwrap()),
        ("reference.mrowner", |it| it.mr_owner.as_mut().unwrap()),
        ("reference.mrownerconfig", |it| it.mr_owner_config.as_mut().unwrap()),
        ("reference.report-data", |it| it.report_data.as_mut().unwrap()),
    ];
    let policy = Policy { allow: Allowance::ALL.into(), ..Policy::default() };
    for evidence in [phala(), crate::real::debug()] {
        let verified = evidence.verdict().unwrap();
        let quote = Quote::parse(&evidence.quote).unwrap();
        let mut references = ReferenceValues {
            mr_tds: vec![*quote.mr_td()],
            rtmrs: quote.rtmrs().map(|rtmr| vec![rtmr]),
            mr_config_id: Some(*quote.mr_config_id()),
            mr_owner: Some(*quote.mr_owner()),
            mr_owner_config: Some(*quote.mr_owner_config()),
            report_data: Some(*quote.report_data()),
            mr_service_tds: vec![],
        };
        let fails = |references: &ReferenceValues| -> Vec<_> {
            let appraisal = appraise(&verified, &policy, references);
            appraisal.checks().failed().map(|check| check.id.name()).collect()
        };
        assert_eq!(fails(&references), [""; 0]);
        for (name, value) in values {
            for bit in 0..8 * value(&mut references).len() {
                value(&mut references)[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(fails(&references), [name], "bit {bit}");
                value(&mut references)[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }
}

/// Anybody can say that a guest cannot be debugged.
#[test]
fn no_silent_trust_a_debug_bit_that_was_cleared() {
    let quote = vector("real/v4-debug-td-uptodate.quote");
    let cleared = changed(&quote, 48 + 120, &[0]);
    assert!(!Quote::parse(&cleared).unwrap().td_attributes().debug());
    let evidence = Evidence { quote: cleared, ..crate::real::debug() };
    assert_eq!(evidence.rejected(), ["quote.signature"]);
}

//! Tokens in CBOR beside those in JSON, and what is none.

extern crate std;

use core::time::Duration;
use std::string::String;
use std::vec;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::{Subject, Submodule, TrustClaim, TrustVector, Verifier};
use super::*;
use crate::snp::Tier;

const NOW: UnixTime = UnixTime::from_secs(1_780_272_000);

fn signer(seed: u8) -> TokenSigner {
    TokenSigner::from_bytes(&[seed; 48]).unwrap()
}

fn with(tier: Tier, vector: TrustVector, nonce: &str, claims: Value) -> Ear {
    let verifier = Verifier { developer: "tenure".into(), build: "0".into() };
    let subject = Subject { nonce: nonce.into(), tee_pubkey: json!({ "kty": "EC" }), resources: json!("all") };
    Ear::new(verifier, subject, Submodule::new(tier, vector, "p", claims), NOW, Duration::from_secs(60))
}

fn ear() -> Ear {
    with(Tier::SoftwareTest, TrustVector::default(), "bm9uY2Utbm9uY2U", json!({ "a": 1 }))
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] << 4 | pair[1]).unwrap()).collect()
}

/// The draft's own example of claims in CBOR, without the evidence that it repeats: written here byte by byte as RFC 8949
/// has it, and as the draft has it in JSON.
#[test]
fn claims_are_written_as_in_the_draft() {
    let claims = json!({
        "eat_profile": "tag:ietf.org,2026:rats/ear#04",
        "iat": 1_666_529_184,
        "ear_verifier_id": { "developer": "https://veraison-project.org", "build": "vts 0.0.1" },
        "submods": { "PSA": {
            "ear_status": "contraindicated",
            "ear_trustworthiness_vector": { "instance-identity": 2, "executables": 96, "hardware": 2 },
            "ear_appraisal_policy_ids": ["https://veraison.example/policy/1/60a0068d"],
        } },
    });
    let expected = [
        hex("a4 06 1a635537a0 190109 781d"),
        b"tag:ietf.org,2026:rats/ear#04".to_vec(),
        hex("19010a a1 63505341 a3 1903e8 1860 1903e9 a3 00 02 02 1860 04 02 1903eb 81 782a"),
        b"https://veraison.example/policy/1/60a0068d".to_vec(),
        hex("1903ec a2 00 781c"),
        b"https://veraison-project.org".to_vec(),
        hex("01 69"),
        b"vts 0.0.1".to_vec(),
    ];
    let written = cbor::write(&claims, Place::Ear).unwrap();
    assert_eq!(written, expected.concat());
    assert_eq!(cbor::read(&written).unwrap(), claims);
}

/// What COSE says of a message with one signature: tag 18, ES384 where it is signed, 96 bytes of signature.
#[test]
fn a_token_is_a_cose_message() {
    let token = signer(7).sign_cwt(&ear()).unwrap();
    assert_eq!(token[..8], hex("d2 84 44 a1013822 a0"));
    assert_eq!(token[token.len() - 98..][..2], hex("5860"));
    assert_eq!(signer(7).key().read_cwt(&token, NOW).unwrap(), ear());
    assert_eq!(ear().nonce(), "bm9uY2Utbm9uY2U");
    for now in [NOW.as_secs() - 1, NOW.as_secs() + 60] {
        let found = signer(7).key().read_cwt(&token, UnixTime::from_secs(now));
        assert!(matches!(found, Err(TokenError::Expired { .. })), "{found:?}");
    }
}

/// Promise: what is signed can be read. Claims have no length of their own.
#[test]
fn nothing_is_signed_that_is_too_long_to_be_read() {
    let of = |bytes: usize| Ear { resources: json!("r".repeat(bytes)), ..ear() };
    let rest = signer(7).sign_cwt(&of(MOST / 2)).unwrap().len() - MOST / 2;
    let longest = of(MOST - rest);
    let token = signer(7).sign_cwt(&longest).unwrap();
    assert_eq!((token.len(), signer(7).key().read_cwt(&token, NOW).unwrap()), (MOST, longest));
    for bytes in [MOST - rest + 1, 2 * MOST] {
        let refused = signer(7).sign_cwt(&of(bytes)).unwrap_err();
        assert!(matches!(refused, TokenError::TooLong(length) if length == bytes + rest), "{refused}");
    }
}

/// no-silent-trust: nobody else's key and nothing changed will do.
#[test]
fn no_silent_trust_tokens_are_of_one_key() {
    let key = signer(7).key();
    let other = signer(8).sign_cwt(&ear()).unwrap();
    assert!(matches!(key.read_cwt(&other, NOW), Err(TokenError::Signature)));
    let token = signer(7).sign_cwt(&ear()).unwrap();
    for place in 0..token.len() {
        let mut changed = token.clone();
        changed[place] ^= 1 << (place % 8);
        assert!(key.read_cwt(&changed, NOW).is_err(), "{place}");
        assert!(key.read_cwt(&token[..place], NOW).is_err(), "up to {place}");
    }
    assert!(key.read_cwt(&[&token[..], &[0]].concat(), NOW).is_err());
    assert!(key.read_cwt(&vec![0; MOST + 1], NOW).is_err());
    // What one form says is nothing in the other.
    assert!(key.read_cwt(signer(7).sign(&ear()).unwrap().as_bytes(), NOW).is_err());
}

/// A message with these headers, signed as it should be.
fn message_with(protected: &[u8], unprotected: &[u8], claims: &[u8]) -> Vec<u8> {
    let signature: Signature = signer(7).0.sign(&signed(protected, claims).unwrap());
    let mut message = Encoder::new(Vec::new());
    message.tag(Tag::new(COSE_SIGN1)).unwrap().array(4).unwrap().bytes(protected).unwrap();
    message.writer_mut().extend(unprotected);
    message.bytes(claims).unwrap().bytes(&signature.to_bytes()).unwrap();
    message.into_writer()
}

/// no-silent-trust: the algorithm is one, stands where it is signed, and what must be understood is refused.
#[test]
fn no_silent_trust_headers_decide_nothing() {
    let claims = cbor::write(&serde_json::to_value(ear()).unwrap(), Place::Ear).unwrap();
    let read = |protected: &str, unprotected: &str| {
        let message = message_with(&hex(protected), &hex(unprotected), &claims);
        signer(7).key().read_cwt(&message, NOW)
    };
    assert_eq!(read("a1013822", "a0").unwrap(), ear());
    // A name for the key, and a text that nobody knows, are passed over.
    assert_eq!(read("a301382204413161788100", "a1044131").unwrap(), ear());
    for (protected, unprotected) in [("a10126", "a0"), ("a10105", "a0"), ("a0", "a0"), ("a0", "a1013822")] {
        let found = read(protected, unprotected);
        assert!(matches!(found, Err(TokenError::Algorithm { .. })), "{protected} {unprotected}: {found:?}");
    }
    for (protected, unprotected) in [
        // What must be understood, here and there.
        ("a2013822028103", "a0"),
        ("a1013822", "a1028103"),
        // Twice, with something after it, none, and without an end.
        ("a201382201 3822", "a0"),
        ("a101382200", "a0"),
        ("", "a0"),
        ("bf013822ff", "a0"),
        ("a1013822", "bfff"),
        ("a1013822", "a1013822"),
        ("a1013822", "80"),
    ] {
        let found = read(protected, unprotected);
        assert!(matches!(found, Err(TokenError::Cwt(_))), "{protected} {unprotected}: {found:?}");
    }
}

/// no-silent-trust: claims that are signed are still read in one form only.
#[test]
fn no_silent_trust_claims_have_one_form() {
    let good = cbor::write(&serde_json::to_value(ear()).unwrap(), Place::Ear).unwrap();
    let read = |claims: &[u8]| signer(7).key().read_cwt(&message_with(&hex("a1013822"), &hex("a0"), claims), NOW);
    assert_eq!(read(&good).unwrap(), ear());
    let at = good.windows(2).position(|it| it == [0x04, 0x1a]).unwrap();
    let time = &good[at + 2..at + 6];
    let longer = [&good[..at], &[0x04, 0x1b, 0, 0, 0, 0], time, &good[at + 6..]].concat();
    let key = [&good[..at], &[0x18], &good[at..]].concat();
    // The first two of eight claims in the other order, one twice, one unknown, one by its name.
    let turned = [&good[..1], &good[7..13], &good[1..7], &good[13..]].concat();
    let twice = [&[good[0] + 1], &good[1..7], &good[1..]].concat();
    let unknown = [&[good[0] + 1], &good[1..], &[0x39, 0xff, 0xff, 0x00]].concat();
    let named = [&[good[0] + 1], &good[1..], &hex("6365787000")[..]].concat();
    let endless = [&[0xbf], &good[1..], &[0xff]].concat();
    let trailing = [&good[..], &[0]].concat();
    for (claims, what) in [
        (&longer, "a number longer than it must be"),
        (&key, "a key longer than it must be"),
        (&turned, "another order"),
        (&twice, "a claim twice"),
        (&unknown, "a claim that nobody knows"),
        (&named, "a claim by its name"),
        (&endless, "no length"),
        (&trailing, "something after it"),
    ] {
        let found = read(claims);
        assert!(matches!(found, Err(TokenError::Cwt(_))), "{what}: {found:?}");
    }
    let deep = with(Tier::Hardware, TrustVector::default(), "bm9uY2Utbm9uY2U", {
        (0..20).fold(json!(1), |inside, _| json!([inside]))
    });
    let deep = signer(7).sign_cwt(&deep).unwrap();
    assert!(matches!(signer(7).key().read_cwt(&deep, NOW), Err(TokenError::Cwt("claims are too deep"))));
    // A list that says it has more than there is.
    let mut huge = good.clone();
    huge.splice(0..1, [0xbb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    assert!(read(&huge).is_err());
}

/// A test's root affirms nothing in this form either, whatever is signed.
#[test]
fn no_silent_trust_a_test_root_affirms_no_hardware() {
    let vector = TrustVector { hardware: TrustClaim::AFFIRMED, ..TrustVector::default() };
    let mut claims = serde_json::to_value(with(Tier::SoftwareTest, vector, "bm9uY2Utbm9uY2U", json!({}))).unwrap();
    claims["submods"]["cpu0"]["ear_trustworthiness_vector"] = json!({ "hardware": 2 });
    claims["submods"]["cpu0"]["ear_status"] = json!("affirming");
    let claims = cbor::write(&claims, Place::Ear).unwrap();
    let found = signer(7).key().read_cwt(&message_with(&hex("a1013822"), &hex("a0"), &claims), NOW);
    assert!(matches!(found, Err(TokenError::Inconsistent)), "{found:?}");
}

#[test]
fn nonces_are_bytes() {
    for nonce in ["", "AAAA", "not base64url", "bm9uY2Utbm9uY2U=", &"A".repeat(87)] {
        let ear = with(Tier::Hardware, TrustVector::default(), nonce, json!({}));
        assert!(matches!(signer(7).sign_cwt(&ear), Err(TokenError::Cwt(_))), "{nonce}");
        assert!(signer(7).sign(&ear).is_ok(), "in JSON it is text");
    }
}

fn claims() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..5)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn ears() -> impl Strategy<Value = Ear> {
    let vector = any::<[i8; 8]>().prop_map(|values| {
        let [a, b, c, d, e, f, g, h] = values;
        let names = ["instance-identity", "configuration", "executables", "file-system", "hardware"];
        let more = ["runtime-opaque", "storage-opaque", "sourced-data"];
        let pairs = names.into_iter().chain(more).zip([a, b, c, d, e, f, g, h]);
        let vector: Value = pairs.map(|(name, value)| (String::from(name), json!(value))).collect();
        serde_json::from_value::<TrustVector>(vector).unwrap()
    });
    let tier = prop_oneof![Just(Tier::Hardware), Just(Tier::SoftwareTest)];
    let nonce = prop::collection::vec(any::<u8>(), 8..65);
    (tier, vector, nonce, claims()).prop_map(|(tier, vector, nonce, claims)| {
        use base64ct::Encoding as _;
        with(tier, vector, &base64ct::Base64UrlUnpadded::encode_string(&nonce), claims)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, failure_persistence: None, ..ProptestConfig::default() })]

    /// Both forms of a token say the same.
    #[test]
    fn both_forms_say_the_same(ear in ears()) {
        let (signer, key) = (signer(7), signer(7).key());
        let json = key.read(&signer.sign(&ear).unwrap(), NOW).unwrap();
        let cbor = key.read_cwt(&signer.sign_cwt(&ear).unwrap(), NOW).unwrap();
        prop_assert_eq!(&json, &cbor);
        prop_assert_eq!(&cbor, &ear);
    }

    /// no-silent-trust: any bytes are claims in the one form, or none.
    #[test]
    fn no_silent_trust_any_claims(changes in prop::collection::vec((0..400usize, any::<u8>()), 1..6)) {
        let mut claims = cbor::write(&serde_json::to_value(ear()).unwrap(), Place::Ear).unwrap();
        for (at, byte) in changes {
            let at = at % claims.len();
            claims[at] = byte;
        }
        if let Ok(read) = cbor::read(&claims) {
            prop_assert_eq!(cbor::write(&read, Place::Ear).unwrap(), claims);
        }
    }
}

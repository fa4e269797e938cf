//! Results of appraisals as tokens.

use std::sync::LazyLock;
use std::time::Duration;

use attest::ear::{Ear, Status, Subject, Submodule, TokenKey, TokenSigner, TrustClaim, TrustVector, Verifier};
use attest::parsers;
use attest::snp::Tier;
use serde_json::json;

use crate::vectors::NOW;

pub(crate) const WORDS: &[&str] = &[
    "\\\"ear_status\\\"",
    "\\\"affirming\\\"",
    "\\\"contraindicated\\\"",
    "\\\"hardware\\\"",
    "\\\"software-test\\\"",
    "\\\"tenure_tier\\\"",
    "\\\"instance-identity\\\"",
    "\\\"cpu0\\\"",
    "18446744073709551615",
    "-128",
    "[[[[[[[[[[[[[[[[",
];

static SIGNER: LazyLock<TokenSigner> = LazyLock::new(|| TokenSigner::from_bytes(&[7; 48]).unwrap());
static KEY: LazyLock<TokenKey> = LazyLock::new(|| SIGNER.key());

fn ears() -> Vec<Ear> {
    let vector = TrustVector {
        configuration: TrustClaim::AFFIRMED,
        executables: TrustClaim::BOOT_RECOGNISED,
        hardware: TrustClaim::AFFIRMED,
        ..TrustVector::default()
    };
    let of = |tier, vector| {
        let subject = Subject {
            nonce: "bm9uY2Utbm9uY2U".into(),
            tee_pubkey: json!({ "kty": "EC", "crv": "P-256" }),
            resources: json!("all"),
        };
        let verifier = Verifier { developer: "tenure".into(), build: "0.1.0".into() };
        let cpu = Submodule::new(tier, vector, "policy", json!({ "tee": "snp", "claims": { "vmpl": 0 } }));
        Ear::new(verifier, subject, cpu, NOW, Duration::from_secs(300))
    };
    vec![of(Tier::Hardware, vector), of(Tier::SoftwareTest, vector), of(Tier::Hardware, TrustVector::default())]
}

/// Whatever was read says of a test's root no more than it may, and is written as it was read.
fn judge(ear: &Ear) {
    let cpu = ear.cpu().unwrap();
    assert_eq!(cpu.status(), cpu.vector().status());
    if cpu.tier() != Tier::Hardware {
        assert_eq!(cpu.status(), Status::Contraindicated);
        assert_eq!(
            (cpu.vector().hardware, cpu.vector().runtime_opaque),
            (TrustClaim::UNRECOGNISED, TrustClaim::VISIBLE)
        );
    }
    assert!(ear.expires() > NOW);
    let written = serde_json::to_vec(ear).unwrap();
    assert_eq!(parsers::ear_claims(&written, NOW).as_ref(), Some(ear));
}

/// What a signature would stand for.
pub(crate) fn claims(input: &[u8]) {
    if let Some(ear) = parsers::ear_claims(input, NOW) {
        judge(&ear);
    }
}

pub(crate) fn claims_seeds() -> Vec<Vec<u8>> {
    let seeds: Vec<_> = ears().iter().map(|ear| serde_json::to_vec(ear).unwrap()).collect();
    assert!(seeds.iter().all(|seed| parsers::ear_claims(seed, NOW).is_some()), "a seed is none");
    seeds
}

/// The same in CBOR: claims that are read say in JSON what they said.
pub(crate) fn cbor_claims(input: &[u8]) {
    if let Some(ear) = parsers::cwt_claims(input, NOW) {
        judge(&ear);
        let token = SIGNER.sign_cwt(&ear).unwrap();
        assert_eq!(KEY.read_cwt(&token, NOW).ok(), Some(ear));
    }
}

/// Claims of tokens: the longest text of bytes in them, below its length.
pub(crate) fn cbor_claims_seeds() -> Vec<Vec<u8>> {
    let seeds: Vec<_> = ears().iter().map(|ear| claims_in(&SIGNER.sign_cwt(ear).unwrap())).collect();
    assert!(seeds.iter().all(|seed| parsers::cwt_claims(seed, NOW).is_some()), "a seed is none");
    seeds
}

/// Between the headers, which are always the same, and the signature.
fn claims_in(token: &[u8]) -> Vec<u8> {
    // Tag, list, header in four bytes, no other header; then how long the claims are, in one byte or two.
    let start = if token[8] == 0x58 { 10 } else { 11 };
    token[start..token.len() - 98].to_vec()
}

/// Only what the key's owner signed is read.
pub(crate) fn cwt(input: &[u8]) {
    if let Ok(ear) = KEY.read_cwt(input, NOW) {
        judge(&ear);
        assert!(ears().contains(&ear), "nobody signed that");
    }
}

pub(crate) fn cwt_seeds() -> Vec<Vec<u8>> {
    ears().iter().map(|ear| SIGNER.sign_cwt(ear).unwrap()).collect()
}

/// Only what the key's owner signed is read.
pub(crate) fn jwt(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(ear) = KEY.read(text, NOW) {
        judge(&ear);
        assert!(ears().contains(&ear), "nobody signed that");
    }
}

pub(crate) fn jwt_seeds() -> Vec<Vec<u8>> {
    ears().iter().map(|ear| SIGNER.sign(ear).unwrap().into_bytes()).collect()
}

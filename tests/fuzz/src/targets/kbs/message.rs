//! What guests say to a relying party, one message at a time, and what is encrypted to them.

use std::sync::LazyLock;

use attest_kbs::protocol::answer::Answer;
use attest_kbs::protocol::evidence::{Evidence, no_additional};
use attest_kbs::protocol::jwe::{self, GuestSecret, Jwe};
use attest_kbs::protocol::key::GuestKey;
use attest_kbs::protocol::resource::ResourceName;
use attest_kbs::protocol::{HashAlgorithm, Request, Tee, binding, is_spoken};
use serde_json::json;

use crate::script::Input;
use crate::vectors::vector;

pub(crate) const WORDS: &[&str] = &[
    "\\\"attestation_report\\\"",
    "\\\"cert_chain\\\"",
    "\\\"cert_type\\\"",
    "\\\"certificates\\\"",
    "\\\"cc_eventlog\\\"",
    "\\\"init-data\\\"",
    "\\\"tee-pubkey\\\"",
    "\\\"ECDH-ES+A256KW\\\"",
    "\\\"RSA-OAEP-256\\\"",
    "\\\"AKP\\\"",
    "\\\"supported-hash-algorithms\\\"",
    "\\\"epk\\\"",
    "/../",
    "%2e%2e",
    "\\\\u0000",
    "[[[[[[[[[[[[[[[[",
];

static SECRET: LazyLock<GuestSecret> = LazyLock::new(|| GuestSecret::new().unwrap());

/// The first byte says what it is.
pub(crate) fn message(input: &[u8]) {
    let mut input = Input(input);
    match input.byte() % 6 {
        0 => request(input.0),
        1 => attestation(input.0),
        2 => evidence(Tee::Snp, input.0),
        3 => evidence(Tee::Tdx, input.0),
        4 => sealed(input.0),
        _ => name(input.0),
    }
}

fn request(input: &[u8]) {
    let Ok(Request { version, extra_params, .. }) = serde_json::from_slice(input) else { return };
    assert!(!is_spoken(&version) || version.starts_with("0.4."));
    if let Ok(algorithm) = binding::select(&extra_params) {
        assert_eq!(binding::selected(&binding::challenge_params(algorithm)).unwrap(), algorithm);
    }
    let _ = binding::selected(&extra_params);
}

fn attestation(input: &[u8]) {
    let Ok(said) = serde_json::from_slice::<Answer>(input) else { return };
    let key = &said.runtime_data.tee_pubkey;
    let _ = no_additional(&said.tee_evidence.additional_evidence);
    for tee in [Tee::Snp, Tee::Tdx] {
        judge(tee, said.tee_evidence.primary_evidence.get());
    }
    for algorithm in [HashAlgorithm::Sha256, HashAlgorithm::Sha384, HashAlgorithm::Sha512] {
        let bound = |nonce: &str| binding::report_data(algorithm, nonce, key, "");
        if let Ok(data) = bound(&said.runtime_data.nonce) {
            assert_ne!(bound("another").ok(), Some(data));
        }
    }
    if let Ok(key) = GuestKey::try_from(key) {
        assert!(jwe::seal(&key, b"secret").is_ok(), "a key that nothing can be encrypted to");
    }
}

fn evidence(tee: Tee, input: &[u8]) {
    if let Ok(sent) = std::str::from_utf8(input) {
        judge(tee, sent);
    }
}

/// What was read is written and read again; whoever sent it.
fn judge(tee: Tee, sent: &str) {
    if let Ok(evidence) = Evidence::parse(tee, sent) {
        assert_eq!(evidence.tee(), tee);
        assert_eq!(Evidence::parse(tee, &evidence.to_json().to_string()).unwrap(), evidence);
    }
}

/// Nobody knows the key, so nothing is opened.
fn sealed(input: &[u8]) {
    let Ok(jwe) = serde_json::from_slice::<Jwe>(input) else { return };
    assert!(SECRET.open(&jwe).is_err());
}

fn name(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(name) = text.parse::<ResourceName>() else { return };
    assert_eq!(name.as_str(), text);
    let parts: Vec<_> = text.split('/').collect();
    assert!(parts.len() == 3 && parts.iter().all(|part| !part.is_empty() && !part.starts_with('.')), "{text}");
    assert!(text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'%'));
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let public = SECRET.public();
    let snp = Evidence::Snp { report: vec![2; 64], certificates: Some(vec![0; 24]), launch_log: Some(vec![b'{']) };
    let report = vector("snp/attest/real/milan-v3-ms.report");
    let whole = Evidence::Snp { report, certificates: None, launch_log: None };
    let tdx = Evidence::Tdx { quote: vec![4; 64], event_log: Some(vec![0xff; 16]) };
    let attestation = |evidence: &Evidence| {
        json!({
            "init-data": null,
            "runtime-data": { "nonce": "bm9uY2U=", "tee-pubkey": public },
            "tee-evidence": { "primary_evidence": evidence.to_json(), "additional_evidence": "" },
        })
    };
    let other = GuestKey::try_from(&GuestSecret::new().unwrap().public()).unwrap();
    let of_another = json!(jwe::seal(&other, b"secret").unwrap());
    let chain = json!({
        "attestation_report": { "version": 2, "guest_svn": 0 },
        "cert_chain": [{ "cert_type": "VCEK", "data": [48, 0] }, { "cert_type": { "OTHER": "x" }, "data": [] }],
    });
    let said = [
        (0, json!({ "version": "0.4.0", "tee": "snp", "extra-params": binding::request_params() })),
        (0, json!({ "version": "0.4.9", "tee": "tdx", "extra-params": "" })),
        (1, attestation(&snp)),
        (1, attestation(&tdx)),
        (2, snp.to_json()),
        (2, whole.to_json()),
        (2, chain),
        (3, tdx.to_json()),
        (4, of_another),
    ];
    let mut seeds: Vec<_> =
        said.iter().map(|(kind, said)| [vec![*kind], serde_json::to_vec(said).unwrap()].concat()).collect();
    seeds.extend(["default/key/disk-1.bin", "a/b/..", "a//c"].map(|name| [b"\x05", name.as_bytes()].concat()));
    seeds
}

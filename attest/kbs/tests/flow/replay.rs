//! Law no-silent-trust: evidence is good for one challenge, one session, one key, and for a while.

use std::time::Duration;

use attest_kbs::client::evidence::EvidenceSource as _;
use attest_kbs::client::http::Reply;
use attest_kbs::protocol::jwe::GuestSecret;
use attest_kbs::protocol::{self, HashAlgorithm, TeePubKey, binding};
use attest_kbs::server::config::Config;
use serde_json::{Value, json};

use crate::bed::{Bed, RESOURCE};
use attest_kbs::appraiser::Release;

/// A challenge, and the cookie of its session.
fn challenge(bed: &Bed) -> (String, String) {
    let request = json!({ "version": "0.4.0", "tee": "snp", "extra-params": "" });
    let reply = post(bed, protocol::AUTH, None, &request);
    assert_eq!(reply.status, 200);
    let challenge: Value = serde_json::from_slice(&reply.body).unwrap();
    (challenge["nonce"].as_str().unwrap().to_owned(), reply.cookie(protocol::COOKIE).unwrap())
}

/// What a guest with this key answers.
fn attestation(bed: &Bed, nonce: &str, key: &TeePubKey) -> Value {
    let data = binding::report_data(HashAlgorithm::Sha384, nonce, key, "").unwrap();
    let evidence = bed.guest.clone().evidence(&data).unwrap();
    json!({
        "runtime-data": { "nonce": nonce, "tee-pubkey": key },
        "tee-evidence": { "primary_evidence": evidence.to_json(), "additional_evidence": "" },
    })
}

fn post(bed: &Bed, path: &str, cookie: Option<&str>, what: &Value) -> Reply {
    let cookie = cookie.map(|value| format!("{}={value}", protocol::COOKIE));
    let headers: Vec<_> = cookie.iter().map(|value| ("Cookie", value.as_str())).collect();
    bed.http().request("POST", path, &headers, Some(what.to_string().as_bytes())).unwrap()
}

fn key() -> TeePubKey {
    GuestSecret::new().unwrap().public()
}

/// That it is refused, in the protocol's form, with these words.
fn refused(reply: &Reply, status: u16, kind: &str, words: &str) {
    let said: Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(reply.status, status, "{said}");
    assert_eq!(said["type"], format!("urn:tenure:kbs:{kind}"), "{said}");
    assert!(said["detail"].as_str().unwrap().contains(words), "{said}");
}

#[test]
fn no_silent_trust_a_nonce_is_good_once() {
    let bed = Bed::new();
    let (nonce, cookie) = challenge(&bed);
    let said = attestation(&bed, &nonce, &key());
    assert_eq!(post(&bed, protocol::ATTEST, Some(&cookie), &said).status, 200);
    refused(&post(&bed, protocol::ATTEST, Some(&cookie), &said), 401, "session", "answered before");
    // Nor is one that was answered badly.
    let (nonce, cookie) = challenge(&bed);
    let good = attestation(&bed, &nonce, &key());
    let mut bad = good.clone();
    bad["tee-evidence"]["primary_evidence"]["attestation_report"] = json!("AAAA");
    refused(
        &post(&bed, protocol::ATTEST, Some(&cookie), &bad),
        401,
        "appraisal",
        "(software-test) the evidence is rejected",
    );
    refused(&post(&bed, protocol::ATTEST, Some(&cookie), &good), 401, "session", "answered before");
}

#[test]
fn no_silent_trust_a_nonce_expires() {
    let bed = Bed::with(Config { challenge: Duration::from_secs(1), ..Config::default() }, Release::All);
    let (nonce, cookie) = challenge(&bed);
    let said = attestation(&bed, &nonce, &key());
    std::thread::sleep(Duration::from_millis(2100));
    refused(&post(&bed, protocol::ATTEST, Some(&cookie), &said), 401, "session", "it is over");
}

#[test]
fn no_silent_trust_a_token_expires() {
    let bed = Bed::with(Config { token: Duration::from_secs(1), ..Config::default() }, Release::All);
    let (nonce, cookie) = challenge(&bed);
    let reply = post(&bed, protocol::ATTEST, Some(&cookie), &attestation(&bed, &nonce, &key()));
    let token: Value = serde_json::from_slice(&reply.body).unwrap();
    std::thread::sleep(Duration::from_millis(2100));
    let path = format!("{}{RESOURCE}", protocol::RESOURCE);
    let bearer = format!("Bearer {}", token["token"].as_str().unwrap());
    let reply = bed.http().request("GET", &path, &[("Authorization", &bearer)], None).unwrap();
    refused(&reply, 401, "token", "the token holds from");
    let cookie = format!("{}={cookie}", protocol::COOKIE);
    let reply = bed.http().request("GET", &path, &[("Cookie", &cookie)], None).unwrap();
    refused(&reply, 401, "session", "it is over");
}

#[test]
fn no_silent_trust_sessions_do_not_mix() {
    let bed = Bed::new();
    let [(first, first_cookie), (second, second_cookie)] = [challenge(&bed), challenge(&bed)];
    let said = attestation(&bed, &first, &key());
    refused(
        &post(&bed, protocol::ATTEST, Some(&second_cookie), &said),
        401,
        "session",
        "the nonce is not the session's",
    );
    refused(&post(&bed, protocol::ATTEST, Some("guessed"), &said), 401, "session", "no such session");
    refused(&post(&bed, protocol::ATTEST, None, &said), 401, "credentials", "cookie");
    // Evidence for another's challenge, said to be for this one.
    let mut relayed = attestation(&bed, &second, &key());
    relayed["runtime-data"]["nonce"] = json!(first);
    let reply = post(&bed, protocol::ATTEST, Some(&first_cookie), &relayed);
    refused(&reply, 401, "appraisal", "not-met: reference.report-data");
    // A session in which nothing was attested opens nothing.
    let (_, cookie) = challenge(&bed);
    let path = format!("{}{RESOURCE}", protocol::RESOURCE);
    let cookie = format!("{}={cookie}", protocol::COOKIE);
    let reply = bed.http().request("GET", &path, &[("Cookie", &cookie)], None).unwrap();
    refused(&reply, 401, "session", "nothing was attested");
}

#[test]
fn no_silent_trust_a_relayed_key_gets_nothing() {
    let bed = Bed::new();
    let (nonce, cookie) = challenge(&bed);
    // Somebody in between passes the guest's evidence on, with a key of his own.
    let mut said = attestation(&bed, &nonce, &key());
    said["runtime-data"]["tee-pubkey"] = json!(key());
    refused(
        &post(&bed, protocol::ATTEST, Some(&cookie), &said),
        401,
        "appraisal",
        "(software-test) the evidence is not-met: reference.report-data",
    );
    // What else was bound must be what is bound.
    let (nonce, cookie) = challenge(&bed);
    let mut said = attestation(&bed, &nonce, &key());
    said["tee-evidence"]["additional_evidence"] = json!("{}");
    refused(&post(&bed, protocol::ATTEST, Some(&cookie), &said), 401, "appraisal", "reference.report-data");
}

#[test]
fn no_silent_trust_what_is_not_judged_is_refused() {
    let bed = Bed::new();
    let ask = |version: &str, tee: &str, params: Value| {
        post(&bed, protocol::AUTH, None, &json!({ "version": version, "tee": tee, "extra-params": params }))
    };
    refused(&ask("0.1.1", "snp", json!("")), 401, "version", "0.1.1");
    refused(&ask("0.4.0", "tdx", json!("")), 401, "tee", "tdx");
    refused(&ask("0.4.0", "sample", json!("")), 401, "tee", "sample");
    refused(&ask("0.4.0", "snp", json!({ "supported-hash-algorithms": ["sm3"] })), 401, "binding", "sha384");
    refused(&ask("0.4.0", "nonsense", json!("")), 400, "message", "");
    // These cost nobody a challenge.
    let (nonce, cookie) = challenge(&bed);
    let good = attestation(&bed, &nonce, &key());
    let mut other = good.clone();
    other["tee-evidence"]["additional_evidence"] = json!("{\"nvidia\":{}}");
    refused(&post(&bed, protocol::ATTEST, Some(&cookie), &other), 401, "evidence", "additional_evidence");
    let mut other = good.clone();
    other["runtime-data"]["tee-pubkey"]["crv"] = json!("P-521");
    refused(&post(&bed, protocol::ATTEST, Some(&cookie), &other), 401, "key", "tee-pubkey");
    assert_eq!(post(&bed, protocol::ATTEST, Some(&cookie), &good).status, 200);
}

#[test]
fn no_silent_trust_wrong_tokens() {
    let bed = Bed::new();
    let other = Bed::new();
    let (nonce, cookie) = challenge(&other);
    let reply = post(&other, protocol::ATTEST, Some(&cookie), &attestation(&other, &nonce, &key()));
    let foreign: Value = serde_json::from_slice(&reply.body).unwrap();
    let path = format!("{}{RESOURCE}", protocol::RESOURCE);
    for (header, kind) in [
        (format!("Bearer {}", foreign["token"].as_str().unwrap()), "token"),
        ("Bearer a.b.c".into(), "token"),
        ("Bearer ".into(), "credentials"),
        ("Basic eDp5".into(), "credentials"),
        ("Bearer".into(), "credentials"),
    ] {
        let reply = bed.http().request("GET", &path, &[("Authorization", &header)], None).unwrap();
        refused(&reply, 401, kind, "");
    }
    refused(&bed.http().request("GET", &path, &[], None).unwrap(), 401, "credentials", "neither");
}

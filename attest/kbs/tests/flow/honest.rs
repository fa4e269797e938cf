//! Promise: a guest that is as it should be gets its secret, and nobody else can read it.

use attest_kbs::appraiser::Release;
use attest_kbs::client::{ClientError, Session};
use attest_kbs::protocol::jwe::{GuestSecret, Jwe};
use attest_kbs::server::config::Config;
use base64ct::{Base64UrlUnpadded, Encoding};
use serde_json::Value;

use crate::bed::{Bed, RESOURCE, SECRET};

fn status(error: ClientError) -> u16 {
    match error {
        ClientError::Refused { status, .. } => status,
        other => unreachable!("{other}"),
    }
}

#[test]
fn a_guest_gets_its_secret() {
    let bed = Bed::new();
    let mut session = Session::attest(bed.http(), &mut bed.guest.clone()).unwrap();
    assert_eq!(session.resource(&RESOURCE.parse().unwrap()).unwrap()[..], *SECRET);
    // Once more, in the same session.
    assert_eq!(session.resource(&RESOURCE.parse().unwrap()).unwrap()[..], *SECRET);
    assert_eq!(status(session.resource(&"default/key/other".parse().unwrap()).unwrap_err()), 404);
}

/// no-silent-trust: what rests on a test's root says so, in the token and beside every answer.
#[test]
fn no_silent_trust_a_test_root_is_labelled() {
    let bed = Bed::new();
    let session = Session::attest(bed.http(), &mut bed.guest.clone()).unwrap();
    assert_eq!(session.tier(), "software-test");
    let claims = session.token().split('.').nth(1).unwrap();
    let claims: Value = serde_json::from_slice(&Base64UrlUnpadded::decode_vec(claims).unwrap()).unwrap();
    let cpu = &claims["submods"]["cpu0"];
    assert_eq!(cpu["tenure_tier"], "software-test");
    assert_eq!(cpu["ear_status"], "contraindicated");
    assert_eq!(cpu["ear_trustworthiness_vector"]["hardware"], 97, "{claims}");
    let authorization = format!("Bearer {}", session.token());
    let path = format!("/kbs/v0/resource/{RESOURCE}");
    let reply = bed.http().request("GET", &path, &[("Authorization", &authorization)], None).unwrap();
    assert_eq!((reply.status, reply.header("tenure-tier")), (200, Some("software-test")));
    // Who has the token but not the key has nothing.
    let jwe: Jwe = serde_json::from_slice(&reply.body).unwrap();
    assert!(GuestSecret::new().unwrap().open(&jwe).is_err());
}

#[test]
fn a_token_opens_what_it_is_for() {
    let bed = Bed::with(Config::default(), Release::Only(["default/key/another".to_owned()].into()));
    let mut session = Session::attest(bed.http(), &mut bed.guest.clone()).unwrap();
    assert_eq!(status(session.resource(&RESOURCE.parse().unwrap()).unwrap_err()), 403);
    assert_eq!(status(session.resource(&"default/key/another".parse().unwrap()).unwrap_err()), 404);
}

#[test]
fn who_looks_after_it_sees_how_it_is() {
    let bed = Bed::new();
    Session::attest(bed.http(), &mut bed.guest.clone()).unwrap();
    assert_eq!(bed.get("/healthz"), "ok\n");
    let metrics = bed.get("/metrics");
    for line in [
        "tenure_kbs_requests_total{path=\"auth\",outcome=\"granted\"} 1",
        "tenure_kbs_appraisals_total{verdict=\"test-passed\"} 1",
        "tenure_kbs_sessions 1",
    ] {
        assert!(metrics.lines().any(|it| it == line), "{line}: {metrics}");
    }
}

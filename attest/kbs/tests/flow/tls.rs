//! Promise: with TLS a guest knows who answers, by the one authority that it names. The files in `tls/` are for this
//! alone; their authority's key was thrown away.

use std::path::{Path, PathBuf};

use attest_kbs::client::http::Http;
use attest_kbs::client::tls::{self, Url};
use attest_kbs::client::{ClientError, Session};

use crate::bed::{Bed, RESOURCE, SECRET};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/flow/tls").join(name)
}

#[test]
fn no_silent_trust_who_answers_is_known() {
    let bed = Bed::with_tls(tls::server_config(&file("server.pem"), &file("server.key")).unwrap());
    let url: Url = format!("https://{}", bed.address).parse().unwrap();
    let attest = |authority: &str| {
        let stream = tls::connect(&url, Some(&file(authority))).unwrap();
        Session::attest(Http::new(stream, &url.authority()), &mut bed.guest.clone())
    };
    assert_eq!(attest("ca.pem").unwrap().resource(&RESOURCE.parse().unwrap()).unwrap()[..], *SECRET);
    assert!(matches!(attest("other.pem"), Err(ClientError::Http(_))));
    assert!(tls::connect(&url, None).is_err());
    assert!(tls::connect(&url, Some(&file("nothing.pem"))).is_err());
    // Who speaks plainly gets no answer.
    assert!(bed.http().request("GET", "/healthz", &[], None).is_err());
}

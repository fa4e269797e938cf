//! Promise: with TLS a guest knows who answers, by the one authority that it names. The files in `tls/` are for
//! tests alone; their authority's key was thrown away. `self.pem` signed itself, as an authority.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use attest_kbs::client::http::{Http, HttpError};
use attest_kbs::client::tls::{self, Url};
use attest_kbs::client::{ClientError, Session};
use attest_kbs::server::config::{Config, Limits};
use rustls::ServerConfig;

use crate::bed::{Bed, RESOURCE, SECRET};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/flow/tls").join(name)
}

fn server() -> Arc<ServerConfig> {
    tls::server_config(&file("server.pem"), &file("server.key")).unwrap()
}

#[test]
fn no_silent_trust_who_answers_is_known() {
    let bed = Bed::with_tls(Config::default(), server());
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

/// Slow loris: who greets and says no more, or slowly, loses the connection, and its place.
#[test]
fn no_silent_trust_a_slow_handshake_is_cut_off() {
    let limits = Limits { header_time: Duration::from_millis(500), connections_of_peer: 4, ..Limits::default() };
    let bed = Bed::with_tls(Config { limits, ..Config::default() }, server());
    let began = Instant::now();
    let mut slow: Vec<_> = (0..4).map(|_| bed.connect()).collect();
    // The head of a handshake record of 512 bytes.
    for stream in &mut slow {
        stream.write_all(&[0x16, 3, 1, 2, 0]).unwrap();
    }
    for _ in 0..8 {
        thread::sleep(Duration::from_millis(100));
        for stream in &mut slow {
            let _ = stream.write_all(&[1]);
        }
    }
    for mut stream in slow {
        assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0);
    }
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    let url: Url = format!("https://{}", bed.address).parse().unwrap();
    let stream = tls::connect(&url, Some(&file("ca.pem"))).unwrap();
    assert_eq!(Http::new(stream, &url.authority()).request("GET", "/healthz", &[], None).unwrap().status, 200);
}

/// A record that never ends: of 16 KiB, a byte now and then.
#[test]
fn no_silent_trust_a_handshake_has_an_end() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url: Url = format!("https://{}", listener.local_addr().unwrap()).parse().unwrap();
    let server = thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        for byte in [0x16, 3, 3, 0x40, 0].into_iter().chain([2; 145]) {
            if stream.write_all(&[byte]).is_err() {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
    });
    let patience = Duration::from_millis(300);
    let began = Instant::now();
    let stream = tls::connect(&url, Some(&file("ca.pem"))).unwrap();
    let found = Http::new(stream, &url.authority()).with_patience(patience).request("GET", "/healthz", &[], None);
    assert!(matches!(&found, Err(HttpError::Stream(error)) if error.kind() == ErrorKind::TimedOut), "{found:?}");
    assert!(began.elapsed() < 10 * patience, "{:?}", began.elapsed());
    server.join().unwrap();
}

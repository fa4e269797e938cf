//! Law no-silent-trust: nobody gets more of the service than there is for one, and nothing but what has a name.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use attest_kbs::appraiser::Release;
use attest_kbs::client::Session;
use attest_kbs::protocol::{ATTEST, AUTH, RESOURCE as RESOURCES};
use attest_kbs::server::config::{Config, Limits};
use proptest::prelude::*;

use crate::bed::{Bed, RESOURCE, SECRET};

fn with(limits: Limits) -> Bed {
    Bed::with(Config { limits, ..Config::default() }, Release::All)
}

#[test]
fn no_silent_trust_bodies_have_an_end() {
    let bed = with(Limits { body_bytes: 1000, header_time: Duration::from_millis(500), ..Limits::default() });
    let body = vec![b' '; 1001];
    assert_eq!(bed.http().request("POST", AUTH, &[], Some(&body)).unwrap().status, 413);
    // Who has no session gets an answer, but nothing is kept for him.
    let body = vec![b' '; 600_000];
    assert_eq!(
        Bed::new().http().request("POST", ATTEST, &[("Cookie", "kbs-session-id=x")], Some(&body)).unwrap().status,
        401
    );
    // Nor if nobody says how long it is.
    let chunk = format!("{:x}\r\n{}\r\n", 600, "a".repeat(600));
    let head = format!("POST {AUTH} HTTP/1.1\r\nHost: k\r\nTransfer-Encoding: chunked\r\n\r\n");
    let answer = bed.raw(format!("{head}{chunk}{chunk}0\r\n\r\n").as_bytes());
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    // Nor heads.
    let answer = bed.raw(format!("GET /healthz HTTP/1.1\r\nHost: k\r\nA: {}\r\n\r\n", "a".repeat(100_000)).as_bytes());
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let headers: String = (0..200).map(|number| format!("A{number}: b\r\n")).collect();
    let answer = bed.raw(format!("GET /healthz HTTP/1.1\r\nHost: k\r\n{headers}\r\n").as_bytes());
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

/// Slow loris: who says little, slowly, loses the connection, and nobody else does.
#[test]
fn no_silent_trust_slow_peers_are_cut_off() {
    let time = Duration::from_millis(500);
    let bed = with(Limits { header_time: time, body_time: time, ..Limits::default() });
    let began = Instant::now();
    let mut slow: Vec<_> = (0..20).map(|_| bed.connect()).collect();
    for stream in &mut slow {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: ").unwrap();
    }
    // Slowly, but again and again: that does not help.
    for _ in 0..6 {
        std::thread::sleep(Duration::from_millis(100));
        for stream in &mut slow {
            let _ = stream.write_all(b"k");
        }
    }
    // Somebody who says at once what he wants. A guest in a test may wait longer than that for its report.
    assert_eq!(bed.http().request("GET", "/healthz", &[], None).unwrap().status, 200);
    for mut stream in slow {
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
    }
    // A body that does not come.
    let mut stream = bed.connect();
    stream.write_all(format!("POST {AUTH} HTTP/1.1\r\nHost: k\r\nContent-Length: 100\r\n\r\n{{").as_bytes()).unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    // A connection on which nothing is said.
    let mut stream = bed.connect();
    assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

/// Who does not take what he asked for loses the connection as well.
#[test]
fn no_silent_trust_who_does_not_listen_is_cut_off() {
    let time = Duration::from_millis(700);
    let bed = with(Limits { connection_time: time, rate: 1_000_000, burst: 1_000_000, ..Limits::default() });
    let mut deaf = bed.connect();
    deaf.set_nonblocking(true).unwrap();
    let ask = b"GET /metrics HTTP/1.1\r\nHost: k\r\n\r\n".repeat(1000);
    let began = Instant::now();
    // Until nothing more goes in: what is answered fills what lies between.
    while began.elapsed() < time / 2 {
        if deaf.write(&ask).is_err() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    let is_free = || bed.get("/metrics").lines().any(|line| line == "tenure_kbs_connections 1");
    while !is_free() {
        assert!(began.elapsed() < Duration::from_secs(20), "it is still held");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn no_silent_trust_a_peer_has_its_rate() {
    let bed = with(Limits { rate: 1, burst: 5, ..Limits::default() });
    let mut http = bed.http();
    let statuses: Vec<_> = (0..8).map(|_| http.request("GET", "/healthz", &[], None).unwrap().status).collect();
    assert_eq!(statuses[..5], [200; 5]);
    assert!(statuses[6..].contains(&429), "{statuses:?}");
}

#[test]
fn no_silent_trust_connections_have_places() {
    let bed = with(Limits { connections_of_peer: 3, ..Limits::default() });
    let mut held: Vec<_> = (0..3).map(|_| bed.http()).collect();
    for http in &mut held {
        assert_eq!(http.request("GET", "/healthz", &[], None).unwrap().status, 200);
    }
    assert!(bed.http().request("GET", "/healthz", &[], None).is_err());
    drop(held);
    let free = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        bed.http().request("GET", "/healthz", &[], None).is_ok()
    });
    assert!(free);
}

#[test]
fn no_silent_trust_sessions_have_places() {
    let bed = with(Limits { sessions: 2, ..Limits::default() });
    let body = br#"{"version":"0.4.0","tee":"snp","extra-params":""}"#;
    let statuses = |bed: &Bed| [(); 3].map(|()| bed.http().request("POST", AUTH, &[], Some(body)).unwrap().status);
    assert_eq!(statuses(&bed), [200, 200, 503]);
    assert_eq!(statuses(&with(Limits { sessions_of_peer: 2, ..Limits::default() })), [200, 200, 429]);
}

/// Nothing but a resource is a resource, however it is written.
#[test]
fn no_silent_trust_paths_lead_nowhere_else() {
    let bed = Bed::new();
    std::fs::write(bed.dir.path().join("resources/default/key/.hidden"), "x").unwrap();
    let session = Session::attest(bed.http(), &mut bed.guest.clone()).unwrap();
    let bearer = format!("Bearer {}", session.token());
    let get = |path: &str| {
        let reply = bed.http().request("GET", path, &[("Authorization", &bearer)], None).unwrap();
        (reply.status, String::from_utf8_lossy(&reply.body).into_owned())
    };
    assert_eq!(get(&format!("{RESOURCES}{RESOURCE}")).0, 200);
    assert_eq!(get(&format!("{RESOURCES}{RESOURCE}?version=1")).0, 200, "clients may add questions");
    for path in [
        "../../state/token.key",
        "default/../../state/token.key",
        "..%2f..%2fstate/token.key/x",
        "default/key/../key/disk",
        "default/key/.hidden",
        "default/key",
        "default/key/disk/",
        "/default/key/disk",
        "default//disk",
        "default%2fkey%2fdisk",
        "state/token.key/x",
    ] {
        let (status, said) = get(&format!("{RESOURCES}{path}"));
        assert_eq!(status, 404, "{path}: {said}");
    }
    for (method, path, status) in
        [("POST", "/healthz", 405), ("GET", AUTH, 405), ("DELETE", "/kbs/v0/resource/a/b/c", 405), ("GET", "/", 404)]
    {
        let body = (method == "POST").then_some(&b"{}"[..]);
        assert_eq!(bed.http().request(method, path, &[], body).unwrap().status, status, "{method} {path}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is said, the service goes on, and gives nothing away.
    #[test]
    fn no_silent_trust_any_bytes(
        head in prop_oneof![
            Just("POST /kbs/v0/auth HTTP/1.1\r\nHost: k\r\n"),
            Just("POST /kbs/v0/attest HTTP/1.1\r\nHost: k\r\nCookie: kbs-session-id=x\r\n"),
            Just("GET /kbs/v0/resource/default/key/disk HTTP/1.1\r\nHost: k\r\nAuthorization: Bearer "),
            Just(""),
        ],
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        static BED: std::sync::OnceLock<Bed> = std::sync::OnceLock::new();
        let bed = BED.get_or_init(|| {
            let short = Duration::from_millis(50);
            with(Limits { header_time: short, body_time: short, rate: 100_000, burst: 100_000, ..Limits::default() })
        });
        let said = [head.as_bytes(), &bytes, b"\r\nContent-Length: 3\r\nConnection: close\r\n\r\n{}}"].concat();
        let answer = bed.raw(&said);
        prop_assert!(!answer.contains(std::str::from_utf8(SECRET).unwrap()));
        prop_assert!(!answer.starts_with("HTTP/1.1 5"), "{}", answer);
        prop_assert_eq!(bed.get("/healthz"), "ok\n");
    }
}

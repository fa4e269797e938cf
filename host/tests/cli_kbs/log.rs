//! Promise: the log says who got which secret when, and which lines are of one flow.

use attest_kbs::protocol::COOKIE;
use sha2::{Digest as _, Sha256};

use crate::party::{Party, RESOURCE};

#[test]
fn lines_of_one_flow_belong_together() {
    let party = Party::new();
    let service = party.serve(&party.digest(), &["--release", RESOURCE]);
    let mut sessions = Vec::new();
    for _ in 0..2 {
        let session = attest_kbs::client::Session::attest(service.http(), &mut party.guest.clone()).unwrap();
        sessions.push(session);
    }
    for session in &mut sessions {
        session.resource(&RESOURCE.parse().unwrap()).unwrap();
        session.resource(&"default/key/other".parse().unwrap()).unwrap_err();
    }
    let bearer = format!("Bearer {}", sessions[0].token());
    let path = format!("/kbs/v0/resource/{RESOURCE}");
    assert_eq!(service.http().request("GET", &path, &[("Authorization", &bearer)], None).unwrap().status, 200);
    // What is no cookie of ours could be anything.
    let header = format!("{COOKIE}=hunter2");
    assert_eq!(service.http().request("GET", &path, &[("Cookie", &header)], None).unwrap().status, 401);
    drop(service);
    let log = party.log();
    let lines = |words: &str| log.lines().filter(|line| line.contains(words)).collect::<Vec<_>>();
    let mark = |line: &str| {
        let (_, mark) = line.split_once("session=\"").or_else(|| line.split_once("session="))?;
        Some(mark.chars().take_while(char::is_ascii_hexdigit).collect::<String>())
    };
    let marks: Vec<_> = lines("evidence was judged").iter().map(|line| mark(line).unwrap()).collect();
    assert_eq!(marks.len(), 2, "{log}");
    assert!(marks[0] != marks[1] && marks.iter().all(|mark| mark.len() == 8), "{log}");
    let released: Vec<_> = lines("a resource was released").iter().map(|line| mark(line)).collect();
    assert_eq!(released, [Some(marks[0].clone()), Some(marks[1].clone()), None], "{log}");
    let refused = lines("status=403");
    assert_eq!(refused.iter().map(|line| mark(line).unwrap()).collect::<Vec<_>>(), marks, "{log}");
    assert!(refused.iter().all(|line| line.contains("default/key/other")), "{log}");
    for line in ["evidence was judged", "a resource was released", "refused"].into_iter().flat_map(lines) {
        assert!(line.contains("peer=127.0.0.1"), "{line}");
    }
    let unknown = lines("status=401");
    assert!(unknown.len() == 1 && mark(unknown[0]).is_none(), "{log}");
    let hash = Sha256::digest("hunter2");
    assert!(!log.contains(&snp::hex::text(&hash[..4])), "{log}");
    // In UTC, as the first word: 2026-11-22T20:42:22.123456Z.
    for line in log.lines() {
        let time = line.split_whitespace().next().unwrap();
        assert!(time.starts_with("20") && time.ends_with('Z') && time.get(10..11) == Some("T"), "{line}");
    }
}

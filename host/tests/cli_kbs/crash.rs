//! Promise: kill -9 in the middle of anything loses no resource, and no nonce is good twice.

use std::io;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use attest_kbs::client::Session;
use attest_kbs::client::evidence::EvidenceSource as _;
use attest_kbs::client::http::{Http, HttpError, Reply};
use attest_kbs::client::stream::Timed;
use attest_kbs::protocol::jwe::{GuestSecret, Jwe};
use attest_kbs::protocol::{ATTEST, AUTH, COOKIE, HashAlgorithm, binding};
use serde_json::{Value, json};

use crate::party::{Party, RESOURCE, SECRET, Service};

fn http(service: &Service) -> Http<Timed<TcpStream>> {
    connect(service).unwrap()
}

fn connect(service: &Service) -> io::Result<Http<Timed<TcpStream>>> {
    Ok(Http::new(Timed::new(TcpStream::connect(service.authority())?)?, "kbs"))
}

/// What a guest says to a challenge, and in which session.
struct Answer {
    secret: GuestSecret,
    cookie: String,
    body: String,
}

impl Answer {
    fn new(party: &Party, service: &Service) -> Self {
        let body = json!({ "version": "0.4.0", "tee": "snp", "extra-params": "" }).to_string();
        let reply = http(service).request("POST", AUTH, &[], Some(body.as_bytes())).unwrap();
        let challenge: Value = serde_json::from_slice(&reply.body).unwrap();
        let nonce = challenge["nonce"].as_str().unwrap();
        let secret = GuestSecret::new().unwrap();
        let data = binding::report_data(HashAlgorithm::Sha384, nonce, &secret.public(), "").unwrap();
        let evidence = party.guest.clone().evidence(&data).unwrap().to_json();
        let body = json!({
            "runtime-data": { "nonce": nonce, "tee-pubkey": secret.public() },
            "tee-evidence": { "primary_evidence": evidence, "additional_evidence": "" },
        });
        Self { secret, cookie: format!("{COOKIE}={}", reply.cookie(COOKIE).unwrap()), body: body.to_string() }
    }

    fn send(&self, service: &Service) -> Result<Reply, HttpError> {
        // Who is killed at once is gone before anybody is connected.
        connect(service)?.request("POST", ATTEST, &[("Cookie", &self.cookie)], Some(self.body.as_bytes()))
    }
}

#[test]
fn no_nonce_is_good_twice_and_no_resource_is_lost() {
    let party = Party::new();
    let mut service = party.serve(&party.digest(), &[]);
    let (mut before, mut after) = (0, 0);
    for round in 0..10_u64 {
        let answer = Answer::new(&party, &service);
        let first = thread::scope(|scope| {
            let first = scope.spawn(|| answer.send(&service));
            // From before anything was read until after all was answered.
            thread::sleep(Duration::from_millis(2 * round * round));
            rustix::process::kill_process(
                rustix::process::Pid::from_child(&service.child),
                rustix::process::Signal::KILL,
            )
            .unwrap();
            first.join().unwrap()
        });
        let first = first.is_ok_and(|reply| reply.status == 200);
        service.kill();
        service = party.serve(&party.digest(), &[]);
        if first {
            // What was granted is still so.
            let path = format!("/kbs/v0/resource/{RESOURCE}");
            let reply = http(&service).request("GET", &path, &[("Cookie", &answer.cookie)], None).unwrap();
            let jwe: Jwe = serde_json::from_slice(&reply.body).unwrap();
            assert_eq!(answer.secret.open(&jwe).unwrap()[..], *SECRET.as_bytes());
        }
        // Whatever became of the first attempt, there is one token for a nonce at most.
        let again = [(); 2].map(|()| answer.send(&service).unwrap().status);
        let granted = usize::from(first) + again.iter().filter(|status| **status == 200).count();
        assert!(granted <= 1 && again[1] == 401, "round {round}: first {first}, then {again:?}");
        if first {
            after += 1
        } else {
            before += 1
        }
        // And honest guests are served.
        let mut session = Session::attest(http(&service), &mut party.guest.clone()).unwrap();
        assert_eq!(session.resource(&RESOURCE.parse().unwrap()).unwrap()[..], *SECRET.as_bytes());
    }
    println!("killed before an answer {before} times, after it {after} times");
}

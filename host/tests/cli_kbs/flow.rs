//! Promise: from two command lines to a secret, over a network or without one, and nothing of it in a log.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use attest_kbs::client::evidence::EvidenceSource as _;
use attest_kbs::protocol::jwe::GuestSecret;
use attest_kbs::protocol::{ATTEST, AUTH, COOKIE, HashAlgorithm, binding};
use serde_json::{Value, json};

use crate::party::{self, Party, RESOURCE, SECRET};

#[test]
fn a_guest_asks_over_a_network_and_over_a_device() {
    let party = Party::new();
    let service = party.serve(&party.digest(), &[]);
    let evidence = format!("test:{}", party.device().display());
    let (code, secret, said) = party.request(&["--url", &service.url, "--evidence", &evidence]);
    assert_eq!((code, secret.as_str()), (0, SECRET), "{said}");
    assert!(said.starts_with("software-test: "), "{said}");
    let channel = party.channel(&service);
    let channel = ["--channel", channel.to_str().unwrap(), "--evidence", &evidence, "--out", "secret"];
    let (code, nothing, said) = party.request(&channel);
    assert_eq!((code, nothing.as_str()), (0, ""), "{said}");
    assert_eq!(fs::read_to_string(party.path("secret")).unwrap(), SECRET);
    for name in ["secret", "state/token.key", "state/sessions.redb"] {
        let mode = fs::metadata(party.path(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

/// no-silent-trust: another guest than is wanted is refused, by name of what is wrong and with exit code 5.
#[test]
fn no_silent_trust_another_guest_is_refused() {
    let party = Party::new();
    let service = party.serve(&"ab".repeat(48), &[]);
    let evidence = format!("test:{}", party.device().display());
    let (code, secret, said) = party.request(&["--url", &service.url, "--evidence", &evidence]);
    assert_eq!((code, secret.as_str()), (5, ""), "{said}");
    assert!(said.contains("(software-test) the evidence is not-met: reference.launch-digest"), "{said}");
    // What the relying party would release, but does not have.
    let (code, _, said) = party.request(&["--url", "http://127.0.0.1:1", "--evidence", &evidence]);
    assert_eq!(code, 1, "{said}");
    // A device that nobody answers at is named.
    fs::write(party.path("device"), "").unwrap();
    let (code, _, said) = party.request(&["--channel", "device", "--evidence", &evidence]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("device: the relying party cannot be asked: "), "{said}");
}

/// no-silent-trust: who could have left a key in the directory of the state could sign tokens with it.
#[test]
fn no_silent_trust_a_state_that_others_write_into_is_none() {
    let party = Party::new();
    let state = party.path("state");
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).unwrap();
    let mut service = Command::new(env!("CARGO_BIN_EXE_tenure"))
        .args(["attest", "serve", "--resources", "resources", "--state", "state", "--listen", "127.0.0.1:0"])
        .current_dir(party.dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Until it ends, or says where it listens.
    let mut url = [0];
    let serves = service.stdout.take().unwrap().read(&mut url).unwrap() != 0;
    service.kill().unwrap();
    let ended = service.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(!serves, "{said}");
    assert!(said.contains("state has mode 0777") && said.contains("chmod go-w state"), "{said}");
    assert_eq!(fs::read_dir(&state).unwrap().count(), 0);
}

/// A token is worth nothing to a service that wants something else by now.
#[test]
fn no_silent_trust_a_test_token_ends_with_the_test() {
    let party = Party::new();
    let (token, path) = {
        let service = party.serve(&party.digest(), &[]);
        let http = service.http();
        let session = attest_kbs::client::Session::attest(http, &mut party.guest.clone()).unwrap();
        (format!("Bearer {}", session.token()), format!("/kbs/v0/resource/{RESOURCE}"))
    };
    let ask = |service: &party::Service| {
        let mut http = service.http();
        http.request("GET", &path, &[("Authorization", &token)], None).unwrap().status
    };
    assert_eq!(ask(&party.serve(&party.digest(), &[])), 200, "the same service, begun anew");
    assert_eq!(ask(&party.serve(&"ab".repeat(48), &[])), 401);
}

/// Promise: it ends when it is told to.
#[test]
fn it_ends_when_it_is_told_to() {
    let party = Party::new();
    let mut service = party.serve(&party.digest(), &[]);
    let idle = std::net::TcpStream::connect(service.authority()).unwrap();
    let process = rustix::process::Pid::from_child(&service.child);
    rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
    assert!(service.child.wait().unwrap().success(), "{}", party.log());
    drop(idle);
}

/// Promise: nothing secret is logged, however much is.
#[test]
fn nothing_secret_is_logged() {
    let party = Party::new();
    let service = party.serve(&party.digest(), &["--log", "trace"]);
    let mut http = service.http();
    let body = json!({ "version": "0.4.0", "tee": "snp", "extra-params": "" }).to_string();
    let reply = http.request("POST", AUTH, &[], Some(body.as_bytes())).unwrap();
    let cookie = reply.cookie(COOKIE).unwrap();
    let challenge: Value = serde_json::from_slice(&reply.body).unwrap();
    let nonce = challenge["nonce"].as_str().unwrap();
    let key = GuestSecret::new().unwrap();
    let data = binding::report_data(HashAlgorithm::Sha384, nonce, &key.public(), "").unwrap();
    let evidence = party.guest.clone().evidence(&data).unwrap().to_json();
    let good = json!({
        "runtime-data": { "nonce": nonce, "tee-pubkey": key.public() },
        "tee-evidence": { "primary_evidence": evidence, "additional_evidence": "" },
    });
    // Members in the wrong places, so that something could be said of them.
    let mut bad = good.clone();
    bad["runtime-data"]["tee-pubkey"] = json!(nonce);
    bad["tee-evidence"]["additional_evidence"] = json!(7);
    let header = format!("{COOKIE}={cookie}");
    let headers = [("Cookie", header.as_str())];
    assert_eq!(http.request("POST", ATTEST, &headers, Some(bad.to_string().as_bytes())).unwrap().status, 400);
    let reply = http.request("POST", ATTEST, &headers, Some(good.to_string().as_bytes())).unwrap();
    assert_eq!(reply.status, 200);
    assert_eq!(http.request("POST", ATTEST, &headers, Some(good.to_string().as_bytes())).unwrap().status, 401);
    let token: Value = serde_json::from_slice(&reply.body).unwrap();
    let token = token["token"].as_str().unwrap();
    let path = format!("/kbs/v0/resource/{RESOURCE}");
    let bearer = format!("Bearer {token}");
    assert_eq!(http.request("GET", &path, &[("Authorization", &bearer)], None).unwrap().status, 200);
    assert_eq!(http.request("GET", &path, &[("Authorization", "Bearer mine-alone")], None).unwrap().status, 401);
    drop(service);
    let (log, key_file) = (party.log(), fs::read_to_string(party.path("state/token.key")).unwrap());
    assert!(log.contains("a resource was released") && log.contains("refused"), "{log}");
    let report = good["tee-evidence"]["primary_evidence"]["attestation_report"].as_str().unwrap();
    for secret in
        [SECRET, nonce, &cookie, token, token.rsplit('.').next().unwrap(), "mine-alone", &report[..40], key_file.trim()]
    {
        assert!(!log.contains(secret), "{secret:?} is in {log}");
    }
}

/// Promise: a client that is not ours, in another language, completes the flow.
#[test]
fn another_client_completes_the_flow() {
    let party = Party::new();
    let service = party.serve(&party.digest(), &[]);
    party::another_client("another_client_completes_the_flow", &service, &party.socket(), &[]);
}

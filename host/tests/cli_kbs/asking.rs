//! Promise: whoever asks learns by words and exit code whose fault it is that he gets nothing.

use std::fs;
use std::process::{Command, Stdio};

use crate::party::{Party, RESOURCE, SECRET, Service, device, tls};

/// What the relying party does not like is one code, and what it fails at another.
#[test]
fn refusals_are_one_code_and_failures_another() {
    let party = Party::new();
    let evidence = format!("test:{}", party.device().display());
    let ask = |service: &Service| {
        let (code, _, said) = party.request(&["--url", &service.url, "--evidence", &evidence]);
        (code, said)
    };
    let (code, said) = ask(&party.serve(&party.digest(), &["--max-body", "4096"]));
    assert_eq!(code, 5, "{said}");
    assert!(said.contains("the relying party refuses (413, "), "{said}");
    let (code, said) = ask(&party.serve(&party.digest(), &["--release", "another/one/too"]));
    assert_eq!(code, 5, "{said}");
    assert!(said.contains("the relying party refuses (403, ") && said.contains(RESOURCE), "{said}");
    let service = party.serve(&party.digest(), &["--rate", "1"]);
    let mut http = service.http();
    while http.request("GET", "/healthz", &[], None).unwrap().status == 200 {}
    let (code, said) = ask(&service);
    assert_eq!(code, 5, "{said}");
    assert!(said.contains("the relying party refuses (429, "), "{said}");
    drop(service);

    let service = party.serve(&party.digest(), &[]);
    let file = party.path("resources").join(RESOURCE);
    fs::remove_file(&file).unwrap();
    let (code, said) = ask(&service);
    assert_eq!(code, 5, "{said}");
    assert!(said.contains("the relying party refuses (404, "), "{said}");
    fs::create_dir(&file).unwrap();
    let (code, said) = ask(&service);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("the relying party failed (500, ") && !said.contains("refuses"), "{said}");
}

/// A device that is not there is no evidence that is not genuine.
#[test]
fn what_gives_no_evidence_is_named() {
    let party = Party::new();
    let socket = party.socket();
    for (evidence, words) in [
        ("test:/nonexistent".to_owned(), "--evidence test:/nonexistent: /nonexistent: No such file"),
        (format!("test-tdx:{}", party.path("").display()), "--evidence test-tdx:"),
        (format!("test:{}", socket.display()), "--evidence test:"),
        ("tsm".into(), "--evidence tsm: /sys/kernel/config/tsm/report"),
        ("sev-guest".into(), "--evidence sev-guest: /dev/sev-guest: "),
    ] {
        let (code, _, said) = party.request(&["--url", "http://127.0.0.1:1", "--evidence", &evidence]);
        assert_eq!(code, 1, "{evidence}: {said}");
        assert!(said.contains(words), "{evidence}: {said}");
    }
}

/// no-silent-trust: who names an authority does not get a secret from anybody.
#[test]
fn no_silent_trust_an_authority_is_for_https() {
    let party = Party::new();
    let service = party.serve(&party.digest(), &[]);
    let evidence = format!("test:{}", party.device().display());
    let ask = |url: &str, authority: &[&str]| {
        let (code, secret, said) = party.request(&[&["--url", url, "--evidence", &evidence], authority].concat());
        assert_eq!((code, secret.as_str()), (1, ""), "{said}");
        said
    };
    let ca = tls("ca.pem");
    let said = ask(&service.url, &["--tls-ca", &ca]);
    assert!(said.contains(&format!("--tls-ca {ca}")) && said.contains(&format!("--url {}", service.url)), "{said}");
    drop(service);

    let key = tls("server.key");
    let service = party.serve(&party.digest(), &["--tls-cert", &tls("server.pem"), "--tls-key", &key]);
    fs::write(party.path("empty"), "").unwrap();
    for (authority, words) in [
        (
            &["--tls-ca", &key][..],
            format!("--tls-ca {key}: there is no certificate in it: it must have the authority's"),
        ),
        (&["--tls-ca", "empty"], "--tls-ca empty: there is no certificate in it".into()),
        (&["--tls-ca", "nothing"], "--tls-ca nothing: No such file or directory".into()),
        (&[], format!("--url {}: https needs --tls-ca FILE", service.url)),
        (&["--tls-ca", &tls("other.pem")], "no authority in --tls-ca vouches for the server's certificate".into()),
    ] {
        let said = ask(&service.url, authority);
        assert!(said.contains(&words), "{words}: {said}");
    }
    let asked = ["--url", &service.url, "--evidence", &evidence, "--tls-ca", &ca];
    let (code, secret, said) = party.request(&asked);
    assert_eq!((code, secret.as_str()), (0, SECRET), "{said}");
}

/// A certificate that signed itself as an authority is no server's, and what is needed is said.
#[test]
fn an_authority_is_no_server() {
    let party = Party::new();
    let (pem, key) = (tls("self.pem"), tls("self.key"));
    let service = party.serve(&party.digest(), &["--tls-cert", &pem, "--tls-key", &key]);
    let evidence = format!("test:{}", party.device().display());
    let (code, _, said) = party.request(&["--url", &service.url, "--evidence", &evidence, "--tls-ca", &pem]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("the server's certificate is itself an authority's (CA:TRUE)"), "{said}");
    assert!(said.contains("CA:FALSE"), "{said}");
}

/// A secret that cannot be shown is not asked for.
#[test]
fn a_terminal_is_refused_before_anybody_is_asked() {
    let party = Party::new();
    let (terminal, _other) = device();
    let out = fs::File::options().write(true).open(terminal).unwrap();
    let asked = Command::new(env!("CARGO_BIN_EXE_tenure"))
        .args(["attest", "request", "--resource", RESOURCE, "--url", "http://127.0.0.1:1"])
        .args(["--evidence", "test:/nonexistent"])
        .current_dir(party.dir.path())
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&asked.stderr);
    assert_eq!(asked.status.code(), Some(1), "{said}");
    assert!(said.contains("out - is a terminal"), "{said}");
}

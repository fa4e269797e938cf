//! Promise: whoever asks learns by words and exit code whose fault it is that he gets nothing.

use std::fs;

use crate::party::{Party, SECRET, tls};

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

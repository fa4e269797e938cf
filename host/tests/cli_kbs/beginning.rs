//! Promise: what cannot be served, or not safely, is said before anybody is, by option and file.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::party::{Party, Service, tls};

const LIST: &str = "../tests/vectors/snp/attest/synthetic/crl-milan-good.der";

/// What is said by a service that does not begin.
fn refused(dir: &Path, resources: &str, state: &str, args: &[&str]) -> String {
    let mut service = Command::new(env!("CARGO_BIN_EXE_tenure"))
        .args(["attest", "serve", "--resources", resources, "--state", state])
        .args(if args.contains(&"--listen") { &[][..] } else { &["--listen", "127.0.0.1:0"] })
        .args(args)
        .current_dir(dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Until it ends, or says where it listens.
    let serves = service.stdout.take().unwrap().read(&mut [0]).unwrap() != 0;
    if serves {
        service.kill().unwrap();
    }
    let ended = service.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(!serves, "{resources} {state} {args:?} is served: {said}");
    assert_eq!(ended.status.code(), Some(1), "{said}");
    said
}

/// no-silent-trust: the key of tokens is no resource, by whatever names the two directories go.
#[test]
fn no_silent_trust_the_state_is_no_resource() {
    let party = Party::new();
    symlink(party.path("resources/default"), party.path("link")).unwrap();
    symlink("state/..", party.path("around")).unwrap();
    fs::create_dir(party.path("state")).unwrap();
    // Whatever the umask: others' rights would be refused before.
    for name in ["state", "resources", "resources/default"] {
        fs::set_permissions(party.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    for (resources, state) in [
        ("resources", "resources/default/st"),
        ("resources", "resources"),
        ("resources", "link/st"),
        ("resources", "resources/../link/st"),
        ("link", "resources/default"),
        ("resources/default", "resources"),
        ("link", "./resources"),
        (".", "state"),
        ("around", "state"),
    ] {
        let said = refused(party.dir.path(), resources, state, &["--id-key", &"ab".repeat(48)]);
        for words in [format!("--state {state}"), format!("--resources {resources}")] {
            assert!(said.contains(&words), "{words}: {said}");
        }
    }
    // One whose name only begins like the other's is beside it.
    fs::create_dir(party.path("resources-of-others")).unwrap();
    drop(party.serve(&party.digest(), &["--log", "info"]));
}

#[test]
fn a_list_that_is_none_is_said() {
    let party = Party::new();
    fs::write(party.path("list"), "no list").unwrap();
    let said = refused(party.dir.path(), "resources", "state", &["--id-key", &"ab".repeat(48), "--crl", "list"]);
    assert!(said.contains("--crl `list` must be a list of revoked certificates, and is not"), "{said}");
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join(LIST);
    drop(party.serve(&party.digest(), &["--crl", list.to_str().unwrap()]));
}

/// Whoever serves nobody finds out before guests do.
#[test]
fn that_nobody_can_pass_is_said() {
    let party = Party::new();
    let logged = |args: &[&str]| {
        drop(Service::start(party.dir.path(), args));
        let log = party.log();
        fs::remove_file(party.path("log")).unwrap();
        log
    };
    let words = "every report will be refused";
    assert!(logged(&[]).contains(words));
    assert!(logged(&["--chip", &"ab".repeat(64)]).contains(words));
    assert!(!logged(&["--id-key", &"ab".repeat(48)]).contains(words));
    fs::write(party.path("any.toml"), "allow = [\"any-guest\"]\n").unwrap();
    assert!(!logged(&["--policy", "any.toml"]).contains(words));
}

/// Of certificate and key it is said which is wrong, and what must be in its file.
#[test]
fn certificate_and_key_are_named() {
    let party = Party::new();
    fs::write(party.path("empty"), "").unwrap();
    let begin = |certificate: &str, key: &str| {
        let args = ["--id-key", &"ab".repeat(48), "--tls-cert", certificate, "--tls-key", key];
        refused(party.dir.path(), "resources", "state", &args)
    };
    let (pem, key, other) = (tls("server.pem"), tls("server.key"), tls("self.key"));
    for (certificate, secret, words) in [
        (&*key, &*key, format!("--tls-cert {key}: there is no certificate in it: it must have the service's")),
        ("empty", &key, "--tls-cert empty: there is no certificate in it".into()),
        ("nothing", &key, "--tls-cert nothing: No such file or directory".into()),
        (&pem, &pem, format!("--tls-key {pem}: there is no private key in it")),
        (&pem, "nothing", "--tls-key nothing: No such file or directory".into()),
        (&pem, &other, format!("--tls-key {other} is not the key of the first certificate in --tls-cert {pem}")),
    ] {
        let said = begin(certificate, secret);
        assert!(said.contains(&words), "{words}: {said}");
    }
}

#[test]
fn an_address_is_asked_for_by_example() {
    let party = Party::new();
    for address in ["localhost:0", "8080", "127.0.0.1", ":80"] {
        let said = refused(party.dir.path(), "resources", "state", &["--listen", address]);
        assert!(said.contains("--listen") && said.contains("like 127.0.0.1:8080"), "{said}");
    }
}

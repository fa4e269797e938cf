//! `tenure idblock` with files: from a digest to a signed block, as its owner goes, and what must not happen on the way.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use serde_json::Value;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

struct Owner {
    dir: tempfile::TempDir,
}

impl Owner {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn with_input(&self, args: &[&str], input: &[u8]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tenure"));
        command.arg("idblock").args(args).current_dir(self.dir.path());
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = pipes.spawn().unwrap();
        // It may have refused before it read.
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap()
    }

    fn says(&self, code: i32, args: &[&str]) -> String {
        let output = self.with_input(args, b"");
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    }

    fn json(&self, code: i32, args: &[&str]) -> Value {
        serde_json::from_str(&self.says(code, args)).unwrap()
    }
}

fn vector(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/snp/idblock").join(name);
    path.into_os_string().into_string().unwrap()
}

fn expected(field: &str) -> String {
    let values: Value = serde_json::from_slice(&fs::read(vector("expected.json")).unwrap()).unwrap();
    values[field].as_str().unwrap().to_owned()
}

/// What `tenure measure snp --json` prints, as far as it matters here.
fn measured(digests: &[(u32, &str)]) -> Vec<u8> {
    let digests: Vec<_> =
        digests.iter().map(|(vcpus, digest)| serde_json::json!({ "vcpus": vcpus, "launch_digest": digest })).collect();
    serde_json::to_vec(&serde_json::json!({ "vmm": "qemu", "digests": digests })).unwrap()
}

/// one-launch: what is measured is what is signed, and what others say of the same block and keys. In both forms.
#[test]
fn one_launch_from_a_measurement_to_a_signature() {
    let (id_key, author_key) = (vector("id_key_test.pem"), vector("author_key_test.pem"));
    let digest = expected("launch_digest");
    for format in ["binary", "base64"] {
        let owner = Owner::new();
        let args = ["create", "--launch-digest", "-", "--format", format, "--out", "block", "--json"];
        let created = owner.with_input(&args, &measured(&[(1, &digest)]));
        let created: Value = serde_json::from_slice(&created.stdout).unwrap();
        assert_eq!((created["launch_digest"].as_str(), &created["signature"]), (Some(digest.as_str()), &Value::Null));
        assert_eq!(created["policy"]["value"], expected("policy"));
        if format == "binary" {
            assert_eq!(snp::hex::text(&fs::read(owner.path("block")).unwrap()), expected("id_block"));
        }

        let keys = ["--id-key", &id_key, "--author-key", &author_key];
        let signed = [&["sign", "--block", "block", "--format", format, "--out", "auth", "--json"][..], &keys].concat();
        let signed = owner.json(0, &signed);
        let inspected = ["inspect", "--block", "block", "--auth", "auth", "--launch-digest", &digest, "--json"];
        let inspected = owner.json(0, &inspected);
        assert_eq!(inspected["signature"], signed["signature"]);
        assert_eq!(inspected["signature"]["id_key_digest"], expected("id_key_hash"));
        assert_eq!(inspected["signature"]["author_key_digest"], expected("author_key_hash"));
        assert_eq!(inspected["launch"]["matches"], true);
        assert_eq!(owner.files(), ["auth", "block"], "nothing is left over");
    }
}

/// one-launch: of several launches one is chosen, and another is noticed.
#[test]
fn one_launch_of_several() {
    let owner = Owner::new();
    let (one, four) = ("5a".repeat(48), "a5".repeat(48));
    fs::write(owner.path("digests.json"), measured(&[(1, &one), (4, &four), (4, &four)])).unwrap();
    let create = ["create", "--launch-digest", "digests.json", "--out", "block"];
    let several = owner.says(1, &create);
    assert!(several.contains("for 1, 4, 4 vCPUs: --vcpus chooses one"), "{several}");
    assert!(
        owner.says(1, &[&create[..], &["--vcpus", "2"]].concat()).contains("no digest for 2 vCPUs; it has 1, 4, 4")
    );
    let created = owner.json(0, &[&create[..], &["--vcpus", "4", "--json"]].concat());
    assert_eq!(created["launch_digest"], four);
    fs::write(owner.path("none.json"), measured(&[])).unwrap();
    let none = owner.says(1, &["create", "--launch-digest", "none.json", "--out", "block"]);
    assert_eq!(none, "error: launch-digest `none.json` has no digests in it\n");
    let inspect = ["inspect", "--block", "block", "--launch-digest", "digests.json", "--vcpus"];
    assert!(owner.says(0, &[&inspect[..], &["4"]].concat()).contains("the block is for it"));
    let other = owner.says(10, &[&inspect[..], &["1"]].concat());
    assert!(other.contains(&format!("the block is for another; it is {one}")), "{other}");
}

/// no-silent-trust: any bit of a signed block that is another is found, or it is no ID block any more.
#[test]
fn no_silent_trust_tampered_blocks() {
    let owner = Owner::new();
    owner.says(0, &["create", "--launch-digest", &"5a".repeat(48), "--family-id", "text:web", "--out", "block"]);
    owner.says(0, &["sign", "--block", "block", "--id-key", &vector("id_key_test.pem"), "--out", "auth"]);
    let (block, auth) = (fs::read(owner.path("block")).unwrap(), fs::read(owner.path("auth")).unwrap());
    let inspect = ["inspect", "--block", "changed-block", "--auth", "changed-auth"];
    // Digest, IDs, version, SVN, policy (debug, reserved).
    for (byte, bit, code) in
        [(0, 0, 10), (0x30, 1, 10), (0x4f, 7, 10), (0x50, 1, 1), (0x54, 0, 10), (0x5a, 3, 10), (0x5f, 0, 1)]
    {
        let mut changed = block.clone();
        changed[byte] ^= 1 << bit;
        fs::write(owner.path("changed-block"), changed).unwrap();
        fs::write(owner.path("changed-auth"), &auth).unwrap();
        let said = owner.says(code, &inspect);
        assert!(code == 1 || said.contains("does not hold: ID_AUTH.ID_BLOCK_SIG"), "byte {byte:#x}: {said}");
        assert!(!said.contains("ID_KEY_DIGEST"), "nobody is named who did not sign: {said}");
    }
    fs::write(owner.path("changed-block"), &block).unwrap();
    // Algorithm, reserved, signature, key.
    for byte in [0x0, 0x8, 0x40, 0x244] {
        let mut changed = auth.clone();
        changed[byte] ^= 2;
        fs::write(owner.path("changed-auth"), changed).unwrap();
        let said = owner.says(10, &inspect);
        assert!(said.contains("does not hold: ID_AUTH"), "byte {byte:#x}: {said}");
    }
}

/// no-silent-trust: a refusal leaves what was there as it was.
#[test]
fn no_silent_trust_refusals_write_nothing() {
    let owner = Owner::new();
    fs::copy(vector("id_key_test.pem"), owner.path("key.pem")).unwrap();
    owner.says(0, &["create", "--launch-digest", &"5a".repeat(48), "--out", "block"]);
    let before = (fs::read(owner.path("block")).unwrap(), fs::read(owner.path("key.pem")).unwrap());
    std::os::unix::fs::symlink("key.pem", owner.path("link")).unwrap();
    for out in ["block", "./key.pem", "link"] {
        let said = owner.says(1, &["sign", "--block", "block", "--id-key", "key.pem", "--out", out]);
        assert!(said.contains("would be overwritten"), "{said}");
    }
    for key in ["p256_test.pem", "rsa_test.pem", "ed25519_test.pem", "encrypted_test.pem"] {
        let said = owner.says(1, &["sign", "--block", "block", "--id-key", &vector(key), "--out", "auth"]);
        assert!(said.starts_with("error: id-key `"), "{said}");
    }
    owner.says(1, &["create", "--launch-digest", "absent.json", "--out", "block"]);
    assert_eq!((fs::read(owner.path("block")).unwrap(), fs::read(owner.path("key.pem")).unwrap()), before);
    assert_eq!(owner.files(), ["block", "key.pem", "link"]);
}

#[test]
fn pipes_from_a_digest_to_a_signature() {
    let owner = Owner::new();
    let block = owner.with_input(&["create", "--launch-digest", "-", "--out", "-"], "5a".repeat(48).as_bytes()).stdout;
    assert_eq!(block.len(), 96);
    let sign = ["sign", "--block", "-", "--id-key", &vector("id_key_test.pem"), "--out", "-"];
    let auth = owner.with_input(&sign, &block).stdout;
    assert_eq!(auth.len(), 4096);
    fs::write(owner.path("block"), &block).unwrap();
    // The key in a pipe, and the same signature: RFC 6979.
    let key = fs::read(vector("id_key_pkcs8_test.pem")).unwrap();
    assert_eq!(owner.with_input(&["sign", "--block", "block", "--id-key", "-", "--out", "-"], &key).stdout, auth);
    let inspected = owner.with_input(&["inspect", "--block", "block", "--auth", "-"], &auth);
    let said = String::from_utf8(inspected.stdout).unwrap();
    assert!(said.contains("zeros: there is no author key"), "{said}");
}

/// An ID block is there to be given to others.
#[test]
fn others_may_read_what_the_umask_lets_them() {
    let owner = Owner::new();
    let command = format!(
        "umask 022 && exec {} idblock create --launch-digest {} --out block",
        env!("CARGO_BIN_EXE_tenure"),
        "5a".repeat(48)
    );
    let status = Command::new("sh").args(["-c", &command]).current_dir(owner.dir.path()).stdout(Stdio::null()).status();
    assert!(status.unwrap().success());
    assert_eq!(fs::metadata(owner.path("block")).unwrap().permissions().mode() & 0o777, 0o644);
}

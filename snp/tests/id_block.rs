//! ID blocks: as other tools make them, and wrong in every field. Keys and values are those of
//! `tests/vectors/snp/idblock`.

#![expect(clippy::unwrap_used, reason = "a test: what it reads is its own")]

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use serde_json::Value;
use snp::digest::Digest;
use snp::hex;
use snp::id_block::keys::{IdKey, KeyError};
use snp::id_block::{IdAuth, IdBlock, IdError, ImageIdentity};
use snp::policy::GuestPolicy;
use zerocopy::IntoBytes;

fn vector(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/snp/idblock");
    fs::read_to_string(folder.join(name)).unwrap()
}

fn key(name: &str) -> Result<IdKey, KeyError> {
    IdKey::from_pem(&vector(name))
}

fn signed(author: Option<&IdKey>) -> (IdBlock, IdAuth) {
    let image = ImageIdentity { family_id: *b"family          ", image_id: *b"image           ", guest_svn: 7 };
    let block = IdBlock::new(Digest([0x5a; 48]), GuestPolicy::default(), image);
    (block, IdAuth::sign(&block, &key("id_key_test.pem").unwrap(), author))
}

/// The Python package `sev-snp-measure` makes the same block, and the firmware's digests of the keys are those it
/// computes.
#[test]
fn one_launch_id_block_as_others_make_it() {
    let expected: Value = serde_json::from_str(&vector("expected.json")).unwrap();
    let text = |field: &str| expected[field].as_str().unwrap().to_owned();
    let policy: GuestPolicy = text("policy").parse().unwrap();
    let block = IdBlock::new(text("launch_digest").parse().unwrap(), policy, ImageIdentity::default());
    assert_eq!(hex::text(block.as_bytes()), text("id_block"));
    for id_key in ["id_key_test.pem", "id_key_pkcs8_test.pem"] {
        let auth = IdAuth::sign(&block, &key(id_key).unwrap(), Some(&key("author_key_test.pem").unwrap()));
        let digests = auth.verify(&block).unwrap();
        assert_eq!(digests.id_key.to_string(), text("id_key_hash"));
        assert_eq!(digests.author_key.unwrap().to_string(), text("author_key_hash"));
    }
}

#[test]
fn one_launch_what_is_signed_is_read_back() {
    let author = key("author_key_test.pem").unwrap();
    for author in [None, Some(&author)] {
        let (block, auth) = signed(author);
        let (block_again, auth_again) = (IdBlock::parse(block.as_bytes()), IdAuth::parse(auth.as_bytes()));
        assert_eq!((block_again, auth_again), (Ok(block), Ok(auth.clone())));
        assert_eq!(auth.verify(&block).unwrap().author_key.is_some(), author.is_some());
        assert_eq!(auth.has_author(), author.is_some());
    }
    let (block, _) = signed(None);
    assert_eq!((block.guest_svn(), block.policy()), (7, Ok(GuestPolicy::default())));
}

/// one-launch: an ID block is for one launch.
#[test]
fn one_launch_id_block_for_another_launch() {
    let (block, _) = signed(None);
    assert_eq!(block.check_launch(Digest([0x5a; 48]), GuestPolicy::default()), Ok(()));
    let error = block.check_launch(Digest([0x5b; 48]), GuestPolicy::default()).unwrap_err().to_string();
    assert!(error.contains("LD is 5a5a") && error.contains("5b5b"), "{error}");
    let debug = "smt,debug".parse().unwrap();
    let error = block.check_launch(Digest([0x5a; 48]), debug).unwrap_err().to_string();
    assert!(error.contains("POLICY is 0x30000 in it, and 0xb0000 here"), "{error}");
}

/// no-silent-trust: a key the firmware would not take is named for what it is.
#[test]
fn no_silent_trust_keys_of_other_kinds() {
    for (file, kind) in [("p256_test.pem", "P-256"), ("rsa_test.pem", "RSA"), ("ed25519_test.pem", "Ed25519")] {
        let error = key(file).unwrap_err();
        assert_eq!(error, KeyError::OtherKind(kind.to_owned()));
        assert!(error.to_string().contains("P-384"), "{error}");
    }
    assert_eq!(key("encrypted_test.pem").unwrap_err(), KeyError::Encrypted);
    let old = "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAA==\n-----END EC PRIVATE KEY-----\n";
    assert_eq!(IdKey::from_pem(old).unwrap_err(), KeyError::Encrypted);
    assert_eq!(key("expected.json").unwrap_err(), KeyError::NoKey);
    assert_eq!(IdKey::from_pem("").unwrap_err(), KeyError::NoKey);
    let whole = vector("id_key_test.pem");
    let cut = |bytes: usize| IdKey::from_pem(&whole[..bytes]).unwrap_err();
    assert!(matches!(cut(whole.len() - 40), KeyError::Damaged(_)), "{}", cut(whole.len() - 40));
    assert!(!format!("{:?}", key("id_key_test.pem").unwrap()).contains("dd"), "a key is not shown");
}

/// no-silent-trust: lengths, and the fields that have one value.
#[test]
fn no_silent_trust_fields() {
    let (block, auth) = signed(Some(&key("author_key_test.pem").unwrap()));
    let error = |error: IdError| error.to_string();
    assert_eq!(error(IdBlock::parse(&[0; 95]).unwrap_err()), "ID block has 95 bytes; it has 96");
    assert_eq!(error(IdAuth::parse(&[0; 4097]).unwrap_err()), "ID authentication has 4097 bytes; it has 4096");
    let block_with = |at: usize, value: u8| {
        let mut bytes = block.as_bytes().to_vec();
        bytes[at] = value;
        error(IdBlock::parse(&bytes).unwrap_err())
    };
    assert_eq!(block_with(0x50, 2), "ID_BLOCK.VERSION is 2; it must be 1");
    assert!(block_with(0x5a, 1).contains("bit 17"));
    assert!(block_with(0x5f, 1).contains("reserved"));
    let auth_with = |at: usize, value: u8| {
        let mut bytes = auth.as_bytes().to_vec();
        bytes[at] = value;
        error(IdAuth::parse(&bytes).unwrap().verify(&block).unwrap_err())
    };
    assert_eq!(auth_with(0x000, 2), "ID_AUTH.ID_KEY_ALGO is 2; it must be 1, ECDSA on P-384");
    assert_eq!(auth_with(0x004, 2), "ID_AUTH.AUTH_KEY_ALGO is 2; it must be 0, none, or 1, ECDSA on P-384");
    assert_eq!(auth_with(0x240, 1), "ID_AUTH.ID_KEY.CURVE is 1; it must be 2, P-384");
    assert_eq!(auth_with(0x880, 1), "ID_AUTH.AUTHOR_KEY.CURVE is 1; it must be 2, P-384");
    for reserved in [0x008, 0x03f, 0x644, 0x67f, 0xc84, 0xfff] {
        assert_eq!(auth_with(reserved, 1), "ID_AUTH has bits set that are reserved");
    }
    assert_eq!(auth_with(0x240 + 4 + 48, 1), "ID_AUTH.ID_KEY is no public key on P-384");
    assert_eq!(auth_with(0x240 + 4, 1), "ID_AUTH.ID_KEY is no public key on P-384");
    assert_eq!(auth_with(0x680, 1), "ID_AUTH.ID_KEY_SIG is not the signature of the ID key by the author key");
}

/// no-silent-trust: no bit of a signed block, or of what signs it, can be another.
#[test]
fn no_silent_trust_every_byte_counts() {
    let (block, auth) = signed(Some(&key("author_key_test.pem").unwrap()));
    for byte in 0..size_of::<IdBlock>() {
        let mut bytes = block.as_bytes().to_vec();
        bytes[byte] ^= 1 << (byte % 8);
        let verdict = IdBlock::parse(&bytes).and_then(|changed| auth.verify(&changed));
        assert!(verdict.is_err(), "byte {byte:#x} of the block");
    }
    for byte in 0..size_of::<IdAuth>() {
        let mut bytes = auth.as_bytes().to_vec();
        bytes[byte] ^= 1 << (byte % 8);
        assert!(IdAuth::parse(&bytes).unwrap().verify(&block).is_err(), "byte {byte:#x} of the authentication");
    }
}

proptest! {
    /// no-silent-trust: bytes that nobody signed are refused, and nothing worse.
    #[test]
    fn no_silent_trust_random_bytes(block in prop::collection::vec(any::<u8>(), 0..200), page in prop::collection::vec(any::<u8>(), 4096), pem in ".{0,200}") {
        let (valid, auth) = signed(None);
        if let Ok(block) = IdBlock::parse(&block) {
            prop_assert!(auth.verify(&block).is_err());
        }
        prop_assert!(IdAuth::parse(&page).unwrap().verify(&valid).is_err());
        prop_assert!(IdKey::from_pem(&pem).is_err());
        let _ = IdKey::from_pem(&format!("-----BEGIN PRIVATE KEY-----{pem}"));
    }
}

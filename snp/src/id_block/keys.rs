//! Private keys of owners and authors, from PEM files.
//!
//! Owns reading them, and saying what a file is instead if it is none. Specification: SEC 1 and RFC 5915 (`EC PRIVATE
//! KEY`), RFC 5958 (`PRIVATE KEY`), RFC 7468 (PEM).

use std::fmt;

use p384::SecretKey;
use p384::ecdsa::SigningKey;
use p384::pkcs8::der::pem;
use p384::pkcs8::{DecodePrivateKey, ObjectIdentifier, PrivateKeyInfoRef};
use sec1::EcPrivateKey;

const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");

/// Other keys that people have, by the names they know them by.
const OTHERS: [(ObjectIdentifier, &str); 7] = [
    (ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7"), "P-256"),
    (ObjectIdentifier::new_unwrap("1.3.132.0.35"), "P-521"),
    (ObjectIdentifier::new_unwrap("1.3.132.0.10"), "secp256k1"),
    (ObjectIdentifier::new_unwrap("1.3.132.0.33"), "P-224"),
    (ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1"), "RSA"),
    (ObjectIdentifier::new_unwrap("1.3.101.112"), "Ed25519"),
    (ObjectIdentifier::new_unwrap("1.3.101.113"), "Ed448"),
];

/// A private key on P-384.
#[derive(Clone)]
pub struct IdKey(SigningKey);

/// Why a file holds no such key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Nothing that looks like one.
    #[error(
        "there is no private key in it; it must be PEM, with a line \"-----BEGIN EC PRIVATE KEY-----\" or \
         \"-----BEGIN PRIVATE KEY-----\""
    )]
    NoKey,
    /// A password is needed.
    #[error("the private key in it is encrypted; decrypt it first, as by \"openssl pkey -in FILE\"")]
    Encrypted,
    /// A key of another kind.
    #[error("the key in it is {0}; the firmware wants one on P-384 (secp384r1)")]
    OtherKind(String),
    /// Damaged.
    #[error("the private key in it cannot be read: {0}")]
    Damaged(String),
}

impl IdKey {
    /// Reads the first private key in a PEM file.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let damaged = |error: &dyn fmt::Display| KeyError::Damaged(error.to_string());
        let block = private_key(text)?;
        // As OpenSSL wrote them before PKCS #8, and `openssl ec -aes256` still does (RFC 1421).
        if block.lines().nth(1).is_some_and(|line| line.starts_with("Proc-Type:") && line.contains("ENCRYPTED")) {
            return Err(KeyError::Encrypted);
        }
        let (label, der) = pem::decode_vec(block.as_bytes()).map_err(|error| damaged(&error))?;
        let key = match label {
            "EC PRIVATE KEY" => {
                let key = EcPrivateKey::try_from(der.as_slice()).map_err(|error| damaged(&error))?;
                if let Some(curve) = key.parameters.and_then(|parameters| parameters.named_curve()) {
                    expect_p384(curve)?;
                }
                SecretKey::from_sec1_der(&der).map_err(|error| damaged(&error))?
            }
            "PRIVATE KEY" => {
                let key = PrivateKeyInfoRef::try_from(der.as_slice()).map_err(|error| damaged(&error))?;
                if key.algorithm.oid != EC_PUBLIC_KEY {
                    return Err(KeyError::OtherKind(name(key.algorithm.oid)));
                }
                expect_p384(key.algorithm.parameters_oid().map_err(|error| damaged(&error))?)?;
                SecretKey::from_pkcs8_der(&der).map_err(|error| damaged(&error))?
            }
            "ENCRYPTED PRIVATE KEY" => return Err(KeyError::Encrypted),
            "RSA PRIVATE KEY" => return Err(KeyError::OtherKind("RSA".to_owned())),
            other => return Err(KeyError::OtherKind(format!("a {other:?}"))),
        };
        Ok(Self(key.into()))
    }

    /// The key with this number, big endian; none if there is no such key. For keys that live as long as a test.
    pub fn from_scalar(number: &[u8; 48]) -> Option<Self> {
        SigningKey::from_slice(number).ok().map(Self)
    }

    pub(super) fn signing(&self) -> &SigningKey {
        &self.0
    }
}

impl fmt::Debug for IdKey {
    /// Never the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdKey")
    }
}

/// The first block of a private key; files often have the curve's parameters in front of it.
fn private_key(text: &str) -> Result<&str, KeyError> {
    const BEGIN: &str = "-----BEGIN ";
    const KEY: &str = "PRIVATE KEY-----";
    let starts = text.match_indices(BEGIN).map(|(start, _)| &text[start..]);
    let mut keys = starts.filter(|block| block.lines().next().is_some_and(|line| line.trim_end().ends_with(KEY)));
    let block = keys.next().ok_or(KeyError::NoKey)?;
    // Up to the end of the line that ends it.
    let end = block.find("-----END ").and_then(|end| Some(end + block[end..].find(KEY)? + KEY.len()));
    Ok(&block[..end.ok_or_else(|| KeyError::Damaged("it has no end".to_owned()))?])
}

fn expect_p384(curve: ObjectIdentifier) -> Result<(), KeyError> {
    if curve == P384 { Ok(()) } else { Err(KeyError::OtherKind(name(curve))) }
}

fn name(oid: ObjectIdentifier) -> String {
    let known = OTHERS.iter().find(|(known, _)| *known == oid);
    known.map_or_else(|| format!("of a kind with the object identifier {oid}"), |(_, name)| (*name).to_owned())
}

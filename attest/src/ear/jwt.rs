//! Results as JSON Web Tokens, signed with ECDSA on P-384 (ES384).
//!
//! Owns form and signature. A token is read back with the key that its reader has, and with no other: the key that a
//! header may name decides nothing, nor does the algorithm that it names. Signatures are checked over received bytes.
//!
//! Specifications: RFC 7515 (JWS, compact), RFC 7518 3.4 (ES384), RFC 7519.

use alloc::format;
use alloc::string::{String, ToString};

use base64ct::{Base64UrlUnpadded, Encoding};
use p384::SecretKey;
use p384::ecdsa::signature::{Signer, Verifier as _};
use p384::ecdsa::{Signature, SigningKey, VerifyingKey};
use p384::pkcs8::DecodePrivateKey as _;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Ear;
use crate::UnixTime;

/// More than any token of ours.
pub(super) const MOST: usize = 16 << 10;
/// Where a private key begins.
const KEY_LABELS: [&str; 2] = ["-----BEGIN PRIVATE KEY-----", "-----BEGIN EC PRIVATE KEY-----"];
const ALGORITHM: &str = "ES384";

/// Why a token is worth nothing.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It is no token.
    #[error("the token is no signed JSON Web Token: {0}")]
    Form(&'static str),
    /// It is no token in CBOR, or cannot be one.
    #[error("the token is no signed CBOR Web Token: {0}")]
    Cwt(&'static str),
    /// Another algorithm, or one that must be understood.
    #[error("the token is signed with {found:?}, not {ALGORITHM}")]
    Algorithm {
        /// What its header says.
        found: String,
    },
    /// Somebody else's signature, or none.
    #[error("the token's signature does not hold")]
    Signature,
    /// What is signed is no result.
    #[error("the token's claims are no attestation result: {0}")]
    Claims(serde_json::Error),
    /// A result of another form.
    #[error("the token's claims are not as in this version of EAR")]
    Profile,
    /// It says of hardware what it cannot.
    #[error("the token's claims contradict each other")]
    Inconsistent,
    /// Not at this moment.
    #[error("the token holds from {from} to {to}, and it is {now}")]
    Expired {
        /// From when on it holds.
        from: UnixTime,
        /// From when on it does not.
        to: UnixTime,
        /// The moment.
        now: UnixTime,
    },
    /// More than anybody reads.
    #[error("the token would have {0} bytes, and none of more than {MOST} is read")]
    TooLong(usize),
    /// No key could be made of this.
    #[error("it is no private key on P-384: it is {0}")]
    Key(&'static str),
}

/// Signs results.
#[derive(Clone)]
pub struct TokenSigner(pub(super) SigningKey);

impl core::fmt::Debug for TokenSigner {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("TokenSigner").finish_non_exhaustive()
    }
}

/// Reads what one signer signed.
#[derive(Clone, Debug)]
pub struct TokenKey(pub(super) VerifyingKey);

#[derive(Deserialize)]
struct Header {
    alg: String,
    crit: Option<Value>,
}

impl TokenSigner {
    /// With this private key, a number.
    pub fn from_bytes(secret: &[u8; 48]) -> Result<Self, TokenError> {
        SigningKey::from_slice(secret).map(Self).map_err(|_| TokenError::Key("zero, or too large"))
    }

    /// With the private key in this PEM: PKCS #8, or as OpenSSL writes keys on a curve.
    pub fn from_pem(text: &str) -> Result<Self, TokenError> {
        // OpenSSL writes the name of the curve before the key.
        let start = KEY_LABELS.iter().find_map(|label| text.find(label));
        let key = start.and_then(|start| text.get(start..)).unwrap_or(text);
        let secret = SecretKey::from_pkcs8_pem(key).or_else(|_| SecretKey::from_sec1_pem(key));
        secret.map(|secret| Self(secret.into())).map_err(|_| TokenError::Key(no_key(text)))
    }

    /// What its tokens are read with.
    #[must_use]
    pub fn key(&self) -> TokenKey {
        TokenKey(*self.0.verifying_key())
    }

    /// The result as a token; its header has the key for others. What would not be read is not signed.
    pub fn sign(&self, ear: &Ear) -> Result<String, TokenError> {
        let header = json!({ "alg": ALGORITHM, "typ": "JWT", "jwk": self.key().jwk() });
        let claims = serde_json::to_vec(ear).map_err(TokenError::Claims)?;
        let header = Base64UrlUnpadded::encode_string(header.to_string().as_bytes());
        let signed = format!("{header}.{}", Base64UrlUnpadded::encode_string(&claims));
        let signature: Signature = self.0.sign(signed.as_bytes());
        let token = format!("{signed}.{}", Base64UrlUnpadded::encode_string(&signature.to_bytes()));
        if token.len() > MOST { Err(TokenError::TooLong(token.len())) } else { Ok(token) }
    }
}

/// What a text is that is no key.
fn no_key(text: &str) -> &'static str {
    match text {
        _ if text.contains("ENCRYPTED") => "encrypted",
        _ if text.contains("PUBLIC KEY-----") => "a public one",
        _ if text.contains("-----BEGIN ") => "something else, or on another curve",
        _ => "not PEM",
    }
}

impl TokenKey {
    /// As JSON Web Key.
    #[must_use]
    pub fn jwk(&self) -> Value {
        let point = self.0.to_sec1_point(false);
        let part = |part: Option<&p384::FieldBytes>| part.map(|it| Base64UrlUnpadded::encode_string(it));
        let (x, y) = (part(point.x()), part(point.y()));
        json!({ "kty": "EC", "crv": "P-384", "alg": ALGORITHM, "use": "sig", "x": x, "y": y })
    }

    /// The result in a token, if this key's owner signed it and it holds at this moment.
    pub fn read(&self, token: &str, now: UnixTime) -> Result<Ear, TokenError> {
        if token.len() > MOST {
            return Err(TokenError::Form("it is too long"));
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Form("it has not three parts"))?;
        let (header, claims) = signed.split_once('.').ok_or(TokenError::Form("it has not three parts"))?;
        let decoded =
            |part| Base64UrlUnpadded::decode_vec(part).map_err(|_| TokenError::Form("a part is not base64url"));
        let header: Header =
            serde_json::from_slice(&decoded(header)?).map_err(|_| TokenError::Form("its header is not JSON"))?;
        if header.alg != ALGORITHM || header.crit.is_some() {
            return Err(TokenError::Algorithm { found: header.alg.chars().take(16).collect() });
        }
        let signature = Signature::from_slice(&decoded(signature)?).map_err(|_| TokenError::Signature)?;
        self.0.verify(signed.as_bytes(), &signature).map_err(|_| TokenError::Signature)?;
        let ear: Ear = serde_json::from_slice(&decoded(claims)?).map_err(TokenError::Claims)?;
        ear.check(now)?;
        Ok(ear)
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::super::{Subject, Submodule, TrustVector, Verifier};
    use super::*;
    use crate::snp::Tier;

    const NOW: UnixTime = UnixTime::from_secs(1_780_272_000);

    fn signer(seed: u8) -> TokenSigner {
        TokenSigner::from_bytes(&[seed; 48]).unwrap()
    }

    fn ear() -> Ear {
        let verifier = Verifier { developer: "tenure".into(), build: "0".into() };
        let subject = Subject { nonce: "n".into(), tee_pubkey: json!({ "kty": "EC" }), resources: json!("all") };
        let cpu = Submodule::new(Tier::SoftwareTest, TrustVector::default(), "p", json!({ "a": 1 }));
        Ear::new(verifier, subject, cpu, NOW, Duration::from_secs(60))
    }

    #[test]
    fn what_is_signed_is_read() {
        let token = signer(7).sign(&ear()).unwrap();
        assert_eq!(signer(7).key().read(&token, NOW).unwrap(), ear());
        for now in [NOW.as_secs() - 1, NOW.as_secs() + 60] {
            let found = signer(7).key().read(&token, UnixTime::from_secs(now));
            assert!(matches!(found, Err(TokenError::Expired { .. })), "{found:?}");
        }
    }

    /// Promise: keys are read as OpenSSL writes them, and what is none is called what it is.
    #[test]
    fn keys_as_they_are_written() {
        use p384::pkcs8::LineEnding;
        let key = SecretKey::from_slice(&[7; 48]).unwrap();
        let pem = key.to_sec1_pem(LineEnding::LF).unwrap();
        let with_curve = ["-----BEGIN EC PARAMETERS-----\nBgUrgQQAIg==\n-----END EC PARAMETERS-----\n", &pem].concat();
        for text in [&pem[..], &with_curve] {
            assert_eq!(TokenSigner::from_pem(text).unwrap().key().jwk(), signer(7).key().jwk());
        }
        for (text, expected) in [
            ("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n", "encrypted"),
            ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "a public one"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "something else, or on another curve"),
            ("MHcCAQEEIA", "not PEM"),
        ] {
            let error = TokenSigner::from_pem(text).map(|_| ()).unwrap_err().to_string();
            assert_eq!(error, format!("it is no private key on P-384: it is {expected}"));
        }
    }

    /// Promise: what is signed can be read. Claims have no length of their own.
    #[test]
    fn nothing_is_signed_that_is_too_long_to_be_read() {
        let of = |bytes| Ear { resources: json!("r".repeat(bytes)), ..ear() };
        let length = |bytes| signer(7).sign(&of(bytes)).map(|token| token.len());
        let one = length(0).unwrap();
        // Base64 has four characters for three bytes.
        let most = (MOST - one) / 4 * 3;
        let token = signer(7).sign(&of(most - 3)).unwrap();
        assert!(token.len() > MOST - 16 && signer(7).key().read(&token, NOW).unwrap() == of(most - 3));
        for bytes in [most + 4, 2 * MOST] {
            let refused = signer(7).sign(&of(bytes)).unwrap_err();
            assert!(matches!(refused, TokenError::TooLong(length) if length > MOST), "{refused}");
        }
    }

    /// no-silent-trust: whoever has the token finds the number in it that makes the evidence fresh.
    #[test]
    fn no_silent_trust_nonces_can_be_compared() {
        let token = signer(7).sign(&ear()).unwrap();
        assert_eq!(signer(7).key().read(&token, NOW).unwrap().nonce(), "n");
    }

    /// no-silent-trust: nobody else's key, no other algorithm and nothing changed will do.
    #[test]
    fn no_silent_trust_tokens_are_of_one_key() {
        let key = signer(7).key();
        let other = signer(8).sign(&ear()).unwrap();
        assert!(matches!(key.read(&other, NOW), Err(TokenError::Signature)));
        let token = signer(7).sign(&ear()).unwrap();
        for place in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
            assert!(key.read(&String::from_utf8(changed).unwrap(), NOW).is_err(), "{place}");
        }
        let (_, rest) = token.split_once('.').unwrap();
        let (claims, _) = rest.split_once('.').unwrap();
        for header in [r#"{"alg":"none"}"#, r#"{"alg":"HS384"}"#, r#"{"alg":"ES384","crit":["b64"]}"#] {
            let header = Base64UrlUnpadded::encode_string(header.as_bytes());
            let found = key.read(&format!("{header}.{claims}."), NOW);
            assert!(matches!(found, Err(TokenError::Algorithm { .. })), "{found:?}");
        }
        for text in ["", ".", "..", "a.b", "\u{e9}.\u{e9}.\u{e9}"] {
            assert!(key.read(text, NOW).is_err());
        }
    }
}

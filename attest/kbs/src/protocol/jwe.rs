//! A secret that only one guest can read.
//!
//! Owns both sides: what the service seals and what a guest opens. The header is authenticated as it was received, not
//! as somebody would write it again.
//!
//! Specifications: RFC 7516 (flattened JSON serialization), RFC 7518 4.3 (RSA-OAEP-256), 4.4 (A256KW), 4.6 (ECDH-ES)
//! and 5.3 (A256GCM).

use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes256Gcm, KeyInit, Nonce, Tag};
use aes_kw::KwAes256;
use base64ct::{Base64UrlUnpadded, Encoding};
use kbs_types::TeePubKey;
use p256::SecretKey;
use p256::ecdh::diffie_hellman;
use p256::elliptic_curve::Generate;
use rsa::Oaep;
use rsa::rand_core::{CryptoRng, RngCore};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::key::{ECDH_ES_A256KW, GuestKey, P256, RSA_OAEP_256, members, point};
use super::random;

const A256GCM: &str = "A256GCM";
const ALGORITHM_BYTES: u32 = 14;
const _: () = assert!(ECDH_ES_A256KW.len() == ALGORITHM_BYTES as usize);

/// Why something cannot be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum JweError {
    /// No random numbers.
    #[error("the system has no random numbers: {0}")]
    Random(#[from] Errno),
    /// Of a kind that this guest cannot open.
    #[error("the answer is not encrypted to this guest's key: {0}")]
    Form(&'static str),
    /// Somebody else's, or changed.
    #[error("the answer cannot be decrypted: it is for another key, or was changed")]
    Authentic,
    /// The cipher has a limit, and this is above it.
    #[error("a secret of {bytes} bytes cannot be encrypted")]
    Size {
        /// Its size.
        bytes: usize,
    },
}

/// An encrypted secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Jwe {
    protected: String,
    encrypted_key: String,
    iv: String,
    ciphertext: String,
    tag: String,
}

/// Encrypts a secret to a guest's key.
pub fn seal(key: &GuestKey, secret: &[u8]) -> Result<Jwe, JweError> {
    let content_key = Zeroizing::new(random::<32>()?);
    let (header, encrypted_key) = match key {
        GuestKey::Ec(guest) => {
            let ours = SecretKey::try_generate().map_err(|_| Errno::IO)?;
            let (x, y) = members(&ours.public_key());
            let wrapping = wrapping_key(&ours, guest);
            let mut wrapped = vec![0; 40];
            cipher(&wrapping)?.wrap_key(&content_key[..], &mut wrapped).map_err(|_| JweError::Authentic)?;
            // Clients authenticate the header as they write it: alg, enc, and then the rest by name.
            let epk = format!(r#"{{"crv":"{P256}","kty":"EC","x":"{x}","y":"{y}"}}"#);
            (format!(r#"{{"alg":"{ECDH_ES_A256KW}","enc":"{A256GCM}","epk":{epk}}}"#), wrapped)
        }
        GuestKey::Rsa(guest) => {
            let mut drawn = Drawn { bytes: random()?, used: 0 };
            let wrapped = guest
                .encrypt(&mut drawn, Oaep::new::<rsa::sha2::Sha256>(), &content_key[..])
                .map_err(|_| JweError::Authentic)?;
            if drawn.used > drawn.bytes.len() {
                return Err(Errno::NODATA.into());
            }
            (format!(r#"{{"alg":"{RSA_OAEP_256}","enc":"{A256GCM}"}}"#), wrapped)
        }
    };
    let protected = Base64UrlUnpadded::encode_string(header.as_bytes());
    let iv: [u8; 12] = random()?;
    let mut text = Zeroizing::new(secret.to_vec());
    let gcm = Aes256Gcm::new(&(*content_key).into());
    let tag = gcm
        .encrypt_inout_detached(&Nonce::from(iv), protected.as_bytes(), text.as_mut_slice().into())
        .map_err(|_| JweError::Size { bytes: secret.len() })?;
    Ok(Jwe {
        encrypted_key: Base64UrlUnpadded::encode_string(&encrypted_key),
        iv: Base64UrlUnpadded::encode_string(&iv),
        ciphertext: Base64UrlUnpadded::encode_string(&text),
        tag: Base64UrlUnpadded::encode_string(&tag),
        protected,
    })
}

/// A guest's key, made for one session and never stored.
pub struct GuestSecret(SecretKey);

impl std::fmt::Debug for GuestSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuestSecret").finish_non_exhaustive()
    }
}

impl GuestSecret {
    /// A new one, on P-256.
    pub fn new() -> Result<Self, JweError> {
        Ok(Self(SecretKey::try_generate().map_err(|_| Errno::IO)?))
    }

    /// What the relying party is told of it.
    #[must_use]
    pub fn public(&self) -> TeePubKey {
        let (x, y) = members(&self.0.public_key());
        TeePubKey::EC { crv: P256.into(), alg: ECDH_ES_A256KW.into(), x, y }
    }

    /// What was encrypted to it.
    pub fn open(&self, jwe: &Jwe) -> Result<Zeroizing<Vec<u8>>, JweError> {
        let decoded = |part: &str, name| Base64UrlUnpadded::decode_vec(part).map_err(|_| JweError::Form(name));
        let header: Value = serde_json::from_slice(&decoded(&jwe.protected, "protected is not base64url")?)
            .map_err(|_| JweError::Form("its header is not JSON"))?;
        if header["alg"] != json!(ECDH_ES_A256KW) || header["enc"] != json!(A256GCM) || header.get("crit").is_some() {
            return Err(JweError::Form("its header is not ECDH-ES+A256KW with A256GCM"));
        }
        let epk = &header["epk"];
        if epk["kty"] != json!("EC") || epk["crv"] != json!(P256) {
            return Err(JweError::Form("epk is not on P-256"));
        }
        let [x, y] = ["x", "y"].map(|name| epk[name].as_str().unwrap_or_default());
        let theirs = point(x, y).map_err(|_| JweError::Form("epk is no point on P-256"))?;
        let wrapped = decoded(&jwe.encrypted_key, "encrypted_key is not base64url")?;
        let mut content_key = Zeroizing::new([0; 32]);
        let unwrapped = cipher(&wrapping_key(&self.0, &theirs))?
            .unwrap_key(&wrapped, &mut content_key[..])
            .map_err(|_| JweError::Authentic)?
            .len();
        if unwrapped != content_key.len() {
            return Err(JweError::Authentic);
        }
        let iv: [u8; 12] =
            decoded(&jwe.iv, "iv is not base64url")?.try_into().map_err(|_| JweError::Form("iv has not 12 bytes"))?;
        let tag: [u8; 16] = decoded(&jwe.tag, "tag is not base64url")?
            .try_into()
            .map_err(|_| JweError::Form("tag has not 16 bytes"))?;
        let mut text = Zeroizing::new(decoded(&jwe.ciphertext, "ciphertext is not base64url")?);
        Aes256Gcm::new(&(*content_key).into())
            .decrypt_inout_detached(
                &Nonce::from(iv),
                jwe.protected.as_bytes(),
                text.as_mut_slice().into(),
                &Tag::from(tag),
            )
            .map_err(|_| JweError::Authentic)?;
        Ok(text)
    }
}

fn cipher(key: &[u8; 32]) -> Result<KwAes256, JweError> {
    KwAes256::new_from_slice(key).map_err(|_| JweError::Authentic)
}

/// Concat KDF over what both sides can compute, without names of parties.
fn wrapping_key(ours: &SecretKey, theirs: &p256::PublicKey) -> Zeroizing<[u8; 32]> {
    let shared = diffie_hellman(ours.to_nonzero_scalar(), theirs.as_affine());
    let mut hash = Sha256::new();
    hash.update(1_u32.to_be_bytes());
    hash.update(shared.raw_secret_bytes());
    hash.update(ALGORITHM_BYTES.to_be_bytes());
    hash.update(ECDH_ES_A256KW);
    for number in [0_u32, 0, 256] {
        hash.update(number.to_be_bytes());
    }
    Zeroizing::new(hash.finalize().into())
}

/// Random numbers that were drawn beforehand, so that drawing them cannot fail in between.
struct Drawn {
    bytes: [u8; 64],
    used: usize,
}

impl CryptoRng for Drawn {}

impl RngCore for Drawn {
    fn next_u32(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.fill_bytes(&mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.fill_bytes(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn fill_bytes(&mut self, to: &mut [u8]) {
        let end = self.used.saturating_add(to.len());
        if let Some(from) = self.bytes.get(self.used..end) {
            to.copy_from_slice(from);
        }
        self.used = end;
    }

    fn try_fill_bytes(&mut self, to: &mut [u8]) -> Result<(), rsa::rand_core::Error> {
        self.fill_bytes(to);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop_assert, prop_assume, proptest};

    fn key(secret: &GuestSecret) -> GuestKey {
        GuestKey::try_from(&secret.public()).unwrap()
    }

    /// RFC 7518, appendix C, has this exchange for another length and algorithm; the shared secret is the same.
    #[test]
    fn what_is_sealed_is_opened_by_its_guest_alone() {
        let [guest, other] = [GuestSecret::new().unwrap(), GuestSecret::new().unwrap()];
        let jwe = seal(&key(&guest), b"the secret").unwrap();
        assert_eq!(guest.open(&jwe).unwrap()[..], b"the secret"[..]);
        assert!(matches!(other.open(&jwe), Err(JweError::Authentic)));
        // The same again is another text.
        assert_ne!(seal(&key(&guest), b"the secret").unwrap().ciphertext, jwe.ciphertext);
    }

    /// The clients of confidential-containers write the header again before they authenticate it.
    #[test]
    fn others_write_the_same_header() {
        let guest = GuestSecret::new().unwrap();
        let jwe = seal(&key(&guest), b"s").unwrap();
        let theirs: kbs_types::Response = serde_json::from_value(serde_json::to_value(&jwe).unwrap()).unwrap();
        assert_eq!(theirs.protected.generate_aad().unwrap(), jwe.protected.as_bytes());
    }

    #[test]
    fn rsa_guests_can_open_theirs() {
        let mut drawn = Numbers(1);
        let secret = rsa::RsaPrivateKey::new(&mut drawn, 2048).unwrap();
        let jwe = seal(&GuestKey::Rsa(secret.to_public_key()), b"the secret").unwrap();
        let wrapped = Base64UrlUnpadded::decode_vec(&jwe.encrypted_key).unwrap();
        let content_key: [u8; 32] =
            secret.decrypt(Oaep::new::<rsa::sha2::Sha256>(), &wrapped).unwrap().try_into().unwrap();
        let [iv, mut text, tag] =
            [&jwe.iv, &jwe.ciphertext, &jwe.tag].map(|part| Base64UrlUnpadded::decode_vec(part).unwrap());
        let (iv, tag): ([u8; 12], [u8; 16]) = (iv.try_into().unwrap(), tag.try_into().unwrap());
        Aes256Gcm::new(&content_key.into())
            .decrypt_inout_detached(&iv.into(), jwe.protected.as_bytes(), text.as_mut_slice().into(), &tag.into())
            .unwrap();
        assert_eq!(text, b"the secret");
    }

    proptest! {
        /// no-silent-trust: nothing that was changed is opened, and nothing makes opening panic.
        #[test]
        fn no_silent_trust_changed_answers(part in 0..5usize, place in 0..4096usize, byte in any::<u8>()) {
            let guest = GuestSecret::new().unwrap();
            let mut jwe = seal(&key(&guest), b"the secret").unwrap();
            let parts =
                [&mut jwe.protected, &mut jwe.encrypted_key, &mut jwe.iv, &mut jwe.ciphertext, &mut jwe.tag];
            let part = parts.into_iter().nth(part).unwrap();
            let mut bytes = std::mem::take(part).into_bytes();
            let place = place % bytes.len();
            prop_assume!(bytes[place] != byte & 0x7f);
            bytes[place] = byte & 0x7f;
            *part = String::from_utf8(bytes).unwrap();
            prop_assert!(guest.open(&jwe).is_err());
        }
    }

    /// Numbers that need not be random.
    struct Numbers(u64);

    impl CryptoRng for Numbers {}

    impl RngCore for Numbers {
        fn next_u32(&mut self) -> u32 {
            (self.next_u64() >> 32) as u32
        }

        fn next_u64(&mut self) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            self.0 ^ self.0 >> 29
        }

        fn fill_bytes(&mut self, to: &mut [u8]) {
            to.fill_with(|| self.next_u64().to_be_bytes()[0]);
        }

        fn try_fill_bytes(&mut self, to: &mut [u8]) -> Result<(), rsa::rand_core::Error> {
            self.fill_bytes(to);
            Ok(())
        }
    }
}

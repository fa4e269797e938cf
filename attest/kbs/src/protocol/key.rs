//! Keys of guests, which secrets are encrypted to.
//!
//! Owns which kinds there are: P-256 with ECDH-ES+A256KW, what clients take by themselves, and RSA with RSA-OAEP-256.
//! A key of any other kind is refused before evidence is looked at: nothing could be encrypted to it.
//!
//! Specification: RFC 7518, 6.2 and 6.3.

use base64ct::{Base64UrlUnpadded, Encoding};
use kbs_types::TeePubKey;
use rsa::BigUint;
use rsa::RsaPublicKey;
use rsa::traits::PublicKeyParts;

/// The algorithm of keys on P-256.
pub const ECDH_ES_A256KW: &str = "ECDH-ES+A256KW";
/// The algorithm of RSA keys.
pub const RSA_OAEP_256: &str = "RSA-OAEP-256";
/// The curve.
pub const P256: &str = "P-256";

/// More than any number of a key.
const NUMBER_MOST: usize = 1024;
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;

/// Why nothing can be encrypted to a key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Another kind.
    #[error("tee-pubkey is neither EC on {P256} with {ECDH_ES_A256KW} nor RSA with {RSA_OAEP_256}")]
    Kind,
    /// A number that is none.
    #[error("tee-pubkey has a member {0} that is no number in base64url")]
    Number(&'static str),
    /// Not on the curve.
    #[error("tee-pubkey is no point on {P256}")]
    Point,
    /// Too small, too large, or not a modulus.
    #[error("tee-pubkey has {bits} bits, or is no RSA key; it must have {} to {}", RSA_BITS.start(), RSA_BITS.end())]
    Rsa {
        /// Bits of its modulus.
        bits: usize,
    },
}

/// A key that something can be encrypted to.
#[derive(Clone, Debug)]
pub enum GuestKey {
    /// On P-256.
    Ec(p256::PublicKey),
    /// RSA.
    Rsa(RsaPublicKey),
}

impl TryFrom<&TeePubKey> for GuestKey {
    type Error = KeyError;

    fn try_from(key: &TeePubKey) -> Result<Self, KeyError> {
        match key {
            TeePubKey::EC { crv, alg, x, y } if crv == P256 && alg == ECDH_ES_A256KW => point(x, y).map(Self::Ec),
            TeePubKey::RSA { alg, k_mod, k_exp } if alg == RSA_OAEP_256 => {
                let (n, e) = (number("n", k_mod)?, number("e", k_exp)?);
                let (n, e) = (BigUint::from_bytes_be(&n), BigUint::from_bytes_be(&e));
                let bits = n.bits();
                match RsaPublicKey::new(n, e) {
                    Ok(key) if RSA_BITS.contains(&key.n().bits()) => Ok(Self::Rsa(key)),
                    _ => Err(KeyError::Rsa { bits }),
                }
            }
            _ => Err(KeyError::Kind),
        }
    }
}

/// A point on P-256.
pub(super) fn point(x: &str, y: &str) -> Result<p256::PublicKey, KeyError> {
    let mut bytes = vec![4];
    for (name, part) in [("x", x), ("y", y)] {
        let part = number(name, part)?;
        if part.len() != 32 {
            return Err(KeyError::Number(name));
        }
        bytes.extend(part);
    }
    p256::PublicKey::from_sec1_bytes(&bytes).map_err(|_| KeyError::Point)
}

/// The members x and y of a point.
pub(super) fn members(key: &p256::PublicKey) -> (String, String) {
    let bytes = key.to_sec1_bytes();
    let part = |range| Base64UrlUnpadded::encode_string(bytes.get(range).unwrap_or_default());
    (part(1..33), part(33..65))
}

fn number(name: &'static str, text: &str) -> Result<Vec<u8>, KeyError> {
    if text.len() > NUMBER_MOST {
        return Err(KeyError::Number(name));
    }
    Base64UrlUnpadded::decode_vec(text).map_err(|_| KeyError::Number(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ec(crv: &str, alg: &str, x: &str, y: &str) -> TeePubKey {
        TeePubKey::EC { crv: crv.into(), alg: alg.into(), x: x.into(), y: y.into() }
    }

    /// no-silent-trust: what nothing can be encrypted to is refused.
    #[test]
    fn no_silent_trust_keys_of_guests() {
        // RFC 7518, appendix C: Bob's key.
        let (x, y) = ("weNJy2HscCSM6AEDTDg04biOvhFhyyWvOHQfeF_PxMQ", "e8lnCO-AlStT-NJVX-crhB7QRYhiix03illJOVAOyck");
        assert!(matches!(GuestKey::try_from(&ec(P256, ECDH_ES_A256KW, x, y)), Ok(GuestKey::Ec(_))));
        assert_eq!(members(&point(x, y).unwrap()), (x.into(), y.into()));
        for key in [
            ec("P-384", ECDH_ES_A256KW, x, y),
            ec(P256, "ECDH-ES", x, y),
            ec(P256, ECDH_ES_A256KW, y, x),
            ec(P256, ECDH_ES_A256KW, "", ""),
            ec(P256, ECDH_ES_A256KW, "weNJ+2", y),
            ec(P256, ECDH_ES_A256KW, &"A".repeat(4096), y),
            TeePubKey::RSA { alg: RSA_OAEP_256.into(), k_mod: "AQAB".into(), k_exp: "AQAB".into() },
            TeePubKey::RSA { alg: "RSA1_5".into(), k_mod: "AQAB".into(), k_exp: "AQAB".into() },
            TeePubKey::AKP { alg: "ML-KEM-768+A192KW".into(), public_key: String::new() },
        ] {
            assert!(GuestKey::try_from(&key).is_err(), "{key:?}");
        }
    }
}

//! RSASSA-PSS as AMD's authorities sign: keys of 4096 bits, SHA-384 for everything, 48 bytes of salt.
//!
//! Owns verifying. Nothing here is secret, so nothing takes as long for one number as for another. Does not own how keys
//! and algorithms are written in certificates: see [`mod@crate::x509`].
//!
//! A verdict waits for this more than for anything else, and crates for RSA are made for private keys: what is known of the
//! modulus at compile time, that it is odd and has 64 words, makes it five times as fast. A test compares both.
//!
//! Specification: RFC 8017, sections 5.2.2 (RSAVP1), 8.1.2, 9.1.2 (EMSA-PSS-VERIFY) and B.2.1 (MGF1).

use crypto_bigint::modular::{FixedMontyForm, FixedMontyParams};
use crypto_bigint::{Odd, U4096};
use sha2::{Digest as _, Sha384};

/// Bytes of a modulus, a signature, and a message as it is encoded for one: its first bit is not used.
const BYTES: usize = 512;
const HASH_BYTES: usize = 48;
/// As many as the hash has.
pub(super) const SALT_BYTES: usize = 48;
/// What is masked: zeros, a one, and the salt.
const DATA_BYTES: usize = BYTES - HASH_BYTES - 1;
/// The last byte of an encoded message.
const TRAILER: u8 = 0xbc;

/// A public key.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    modulus: Odd<U4096>,
    exponent: u32,
}

impl Key {
    /// The key of these numbers, big-endian without zeros to spare; none if they cannot be such a key's.
    pub(super) fn new(modulus: &[u8], exponent: &[u8]) -> Option<Self> {
        let modulus: &[u8; BYTES] = modulus.try_into().ok()?;
        let is_whole = modulus[0] >> 7 == 1;
        let modulus = Odd::new(U4096::from_be_slice(modulus)).into_option()?;
        // No longer than 32 bits: otherwise whoever wrote the certificate would say how long this takes.
        let mut word = [0; 4];
        word[4_usize.checked_sub(exponent.len())?..].copy_from_slice(exponent);
        let exponent = u32::from_be_bytes(word);
        (is_whole && exponent >= 3 && exponent % 2 == 1).then_some(Self { modulus, exponent })
    }

    /// Whether this key signed these bytes.
    pub(super) fn verifies(&self, bytes: &[u8], signature: &[u8]) -> bool {
        self.encoded(signature).is_some_and(|encoded| is_encoding_of(&Sha384::digest(bytes), &encoded))
    }

    /// The encoded message that is in a signature: the signature to the power of the exponent.
    fn encoded(&self, signature: &[u8]) -> Option<[u8; BYTES]> {
        let signature: &[u8; BYTES] = signature.try_into().ok()?;
        let signature = U4096::from_be_slice(signature);
        if signature >= *self.modulus.as_ref() {
            return None;
        }
        let signature = FixedMontyForm::new(&signature, &FixedMontyParams::new_vartime(self.modulus));
        let mut power = signature;
        for bit in (0..self.exponent.ilog2()).rev() {
            power = power.square();
            if self.exponent >> bit & 1 == 1 {
                power *= signature;
            }
        }
        power.retrieve().to_be_bytes().as_ref().try_into().ok()
    }
}

/// Whether this is an encoding of the message with this hash.
fn is_encoding_of(hash: &[u8], encoded: &[u8; BYTES]) -> bool {
    let (masked, rest) = encoded.split_at(DATA_BYTES);
    let (check, trailer) = rest.split_at(HASH_BYTES);
    if trailer != [TRAILER] || masked[0] >> 7 != 0 {
        return false;
    }
    let mut data = [0; DATA_BYTES];
    for (counter, (data, masked)) in (0_u32..).zip(data.chunks_mut(HASH_BYTES).zip(masked.chunks(HASH_BYTES))) {
        let mask = Sha384::new().chain_update(check).chain_update(counter.to_be_bytes()).finalize();
        data.iter_mut().zip(masked).zip(mask).for_each(|((data, masked), mask)| *data = masked ^ mask);
    }
    // The bit that is not used is masked like the others, and counts as zero.
    data[0] &= 0x7f;
    let (padding, salt) = data.split_at(DATA_BYTES - SALT_BYTES);
    let Some((1, zeros)) = padding.split_last() else { return false };
    let expected = Sha384::new().chain_update([0; 8]).chain_update(hash).chain_update(salt).finalize();
    zeros.iter().all(|byte| *byte == 0) && expected.as_slice() == check
}

#[cfg(test)]
mod tests;

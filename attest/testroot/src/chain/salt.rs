//! The salt of a signature, and the blinding of its computation: pseudo-random, so that certificates can be made again,
//! and known to nobody who has not the key.

use rsa::rand_core::{CryptoRng, Error, RngCore};
use rsa::traits::PrivateKeyParts as _;
use rsa::{BigUint, RsaPrivateKey};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// A stream that follows from a text and the key that signs it.
pub(super) struct Salt {
    seed: Zeroizing<[u8; 32]>,
    count: u64,
}

impl Salt {
    pub(super) fn new(key: &RsaPrivateKey, text: &[u8]) -> Salt {
        let secret = Zeroizing::new(BigUint::to_bytes_le(key.d()));
        let seed = Sha256::new().chain_update(Sha256::digest(&*secret)).chain_update(text).finalize();
        Salt { seed: Zeroizing::new(seed.into()), count: 0 }
    }
}

impl RngCore for Salt {
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

    fn fill_bytes(&mut self, into: &mut [u8]) {
        for chunk in into.chunks_mut(32) {
            self.count += 1;
            let block = Sha256::new().chain_update(*self.seed).chain_update(self.count.to_le_bytes()).finalize();
            chunk.copy_from_slice(&block[..chunk.len()]);
        }
    }

    fn try_fill_bytes(&mut self, into: &mut [u8]) -> Result<(), Error> {
        self.fill_bytes(into);
        Ok(())
    }
}

/// Nobody tells the stream from chance without the key.
impl CryptoRng for Salt {}

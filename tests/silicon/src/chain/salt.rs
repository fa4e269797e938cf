//! The salt of a signature, and the blinding of its computation: pseudo-random, so that certificates can be made again.

use rsa::rand_core::{CryptoRng, Error, RngCore};
use sha2::{Digest as _, Sha256};

/// A stream that follows from a text.
pub(super) struct Salt {
    seed: [u8; 32],
    count: u64,
}

impl Salt {
    pub(super) fn new(text: &[u8]) -> Salt {
        Salt { seed: Sha256::digest(text).into(), count: 0 }
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
            let block = Sha256::new().chain_update(self.seed).chain_update(self.count.to_le_bytes()).finalize();
            chunk.copy_from_slice(&block[..chunk.len()]);
        }
    }

    fn try_fill_bytes(&mut self, into: &mut [u8]) -> Result<(), Error> {
        self.fill_bytes(into);
        Ok(())
    }
}

/// What it protects is public, keys included.
impl CryptoRng for Salt {}

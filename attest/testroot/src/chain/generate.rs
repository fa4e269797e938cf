//! Keys of authorities from the system's random numbers.
//!
//! Owns the making, all three at once, because it takes seconds. Law no-silent-trust: they are as good as any RSA key and
//! vouch for nothing all the same, because whoever made them can sign whatever he likes.

use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use rsa::RsaPrivateKey;
use rsa::rand_core::{OsRng, RngCore as _};

use super::{AUTHORITIES, AUTHORITY_BITS, Authority, ChainError};
use crate::chip::Seed;
use crate::model::Model;

/// How far the making is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Made {
    /// Keys there are.
    pub keys: usize,
    /// Keys there will be.
    pub of: usize,
}

impl Authority {
    /// Makes the authorities of a product, whose certificates begin then, since 1970; says so whenever there is one more
    /// key.
    pub fn generate(model: Model, from: Duration, mut made: impl FnMut(Made)) -> Result<Authority, ChainError> {
        // The generator panics where this fails.
        random()?;
        let (done, keys) = channel();
        let keys = thread::scope(|scope| -> Result<_, ChainError> {
            for index in 0..AUTHORITIES.len() {
                let done = done.clone();
                let make = move || {
                    // Nobody waits for it any more if another one failed.
                    let _ = done.send((index, RsaPrivateKey::new(&mut OsRng, AUTHORITY_BITS)));
                };
                thread::Builder::new().name("key".into()).spawn_scoped(scope, make).map_err(ChainError::Thread)?;
            }
            drop(done);
            let mut found = [const { None }; AUTHORITIES.len()];
            for (count, (index, key)) in keys.iter().enumerate() {
                found[index] = Some(key.map_err(ChainError::Generate)?);
                made(Made { keys: count + 1, of: AUTHORITIES.len() });
            }
            Ok(found)
        })?;
        match keys {
            [Some(ark), Some(ask), Some(asvk)] => Ok(Authority { model, from, keys: [ark, ask, asvk] }),
            _ => Err(ChainError::Generate(rsa::Error::Internal)),
        }
    }
}

impl Seed {
    /// One from the system's random numbers.
    pub fn generate() -> Result<Seed, ChainError> {
        random().map(Seed)
    }
}

fn random() -> Result<[u8; 32], ChainError> {
    let mut bytes = [0; 32];
    OsRng.try_fill_bytes(&mut bytes).map_err(ChainError::Random)?;
    Ok(bytes)
}

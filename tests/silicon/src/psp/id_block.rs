//! The ID block: what a guest's owner expects the launch to be, signed.
//!
//! Owns both structures and their checks. Specification: 56860, SNP_LAUNCH_FINISH, "ID block" and "ID authentication
//! information".

use sha2::{Digest as _, Sha384};

use crate::bytes::{all_zero, put, take, take_u32, take_u64};
use crate::psp::digest::Digest;
use crate::psp::policy::Policy;
use crate::psp::status::Status;
use crate::signing::{self, KeyPair, PUBLIC_KEY_BYTES, SigningError};
use crate::units::PAGE_BYTES;

pub use test_root::report::Identity;

/// Bytes of an ID block.
pub const ID_BLOCK_BYTES: usize = 96;
/// Its only version.
const VERSION: u32 = 1;
/// ECDSA P-384 with SHA-384.
const ALGORITHM: u32 = 1;
/// Bytes of a signature's field.
const SIGNATURE_FIELD: usize = 512;

const ID_SIGNATURE: usize = 0x040;
const ID_KEY: usize = 0x240;
const KEY_SIGNATURE: usize = 0x680;
const AUTHOR_KEY: usize = 0x880;

/// What LAUNCH_FINISH is given of it.
#[derive(Clone, Copy, Debug)]
pub struct IdentityInput<'a> {
    /// The block.
    pub block: &'a [u8; ID_BLOCK_BYTES],
    /// Signatures and keys (ID_AUTH).
    pub auth: &'a [u8; PAGE_BYTES],
    /// Whether an author's key has signed the ID key (AUTH_KEY_EN).
    pub author_key: bool,
}

/// An ID block's fields, for who builds one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdBlock {
    /// The expected launch digest.
    pub digest: Digest,
    /// FAMILY_ID.
    pub family_id: [u8; 16],
    /// IMAGE_ID.
    pub image_id: [u8; 16],
    /// GUEST_SVN.
    pub guest_svn: u32,
    /// The policy of LAUNCH_START.
    pub policy: Policy,
}

impl IdBlock {
    /// The 96 bytes that are signed.
    pub fn to_bytes(&self) -> [u8; ID_BLOCK_BYTES] {
        let mut block = [0; ID_BLOCK_BYTES];
        put(&mut block, 0x00, &self.digest);
        put(&mut block, 0x30, &self.family_id);
        put(&mut block, 0x40, &self.image_id);
        put(&mut block, 0x50, &VERSION.to_le_bytes());
        put(&mut block, 0x54, &self.guest_svn.to_le_bytes());
        put(&mut block, 0x58, &self.policy.0.to_le_bytes());
        block
    }

    /// ID_AUTH for it, signed by its key and, if there is one, the author's.
    pub fn sign(&self, id_key: &KeyPair, author_key: Option<&KeyPair>) -> [u8; PAGE_BYTES] {
        let mut auth = [0; PAGE_BYTES];
        put(&mut auth, 0, &ALGORITHM.to_le_bytes());
        put(&mut auth, ID_SIGNATURE, &id_key.sign(&self.to_bytes()));
        put(&mut auth, ID_KEY, &id_key.public_key());
        if let Some(author) = author_key {
            put(&mut auth, 4, &ALGORITHM.to_le_bytes());
            put(&mut auth, KEY_SIGNATURE, &author.sign(&id_key.public_key()));
            put(&mut auth, AUTHOR_KEY, &author.public_key());
        }
        auth
    }
}

impl IdentityInput<'_> {
    /// Checks everything, in the order: form, signatures, then whether it is of this launch.
    pub(crate) fn check(&self, digest: &Digest, policy: Policy) -> Result<Identity, Status> {
        let (block, auth) = (self.block, self.auth);
        if take_u32(block, 0x50) != VERSION || !all_zero(&auth[0x08..0x40]) {
            return Err(Status::InvalidParam);
        }
        let id_key: [u8; PUBLIC_KEY_BYTES] = take(auth, ID_KEY);
        check_signature(take_u32(auth, 0), &id_key, block, &auth[ID_SIGNATURE..][..SIGNATURE_FIELD])?;
        let author_key_digest = match self.author_key {
            true => {
                let author: [u8; PUBLIC_KEY_BYTES] = take(auth, AUTHOR_KEY);
                check_signature(take_u32(auth, 4), &author, &id_key, &auth[KEY_SIGNATURE..][..SIGNATURE_FIELD])?;
                Some(Sha384::digest(author).into())
            }
            false => None,
        };
        if take::<48>(block, 0) != *digest {
            return Err(Status::BadMeasurement);
        }
        if take_u64(block, 0x58) != policy.0 {
            return Err(Status::PolicyFailure);
        }
        Ok(Identity {
            family_id: take(block, 0x30),
            image_id: take(block, 0x40),
            guest_svn: take_u32(block, 0x54),
            id_key_digest: Sha384::digest(id_key).into(),
            author_key_digest,
        })
    }
}

fn check_signature(algorithm: u32, key: &[u8; PUBLIC_KEY_BYTES], data: &[u8], signature: &[u8]) -> Result<(), Status> {
    if algorithm != ALGORITHM {
        return Err(Status::InvalidParam);
    }
    signing::verify(key, data, signature).map_err(|error| match error {
        SigningError::Curve(_) | SigningError::Key => Status::InvalidParam,
        SigningError::Malformed | SigningError::Wrong => Status::BadSignature,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block() -> IdBlock {
        let (family_id, image_id) = ([0xfa; 16], [0x1a; 16]);
        IdBlock { digest: [3; 48], family_id, image_id, guest_svn: 7, policy: Policy::usual() }
    }

    fn keys() -> (KeyPair, KeyPair) {
        (KeyPair::from_seed([1; 32]), KeyPair::from_seed([2; 32]))
    }

    fn check(bytes: &[u8; 96], auth: &[u8; 4096], author_key: bool) -> Result<Identity, Status> {
        IdentityInput { block: bytes, auth, author_key }.check(&block().digest, block().policy)
    }

    #[test]
    fn a_signed_block_identifies_the_guest() {
        let (id, author) = keys();
        let auth = block().sign(&id, Some(&author));
        let identity = check(&block().to_bytes(), &auth, true).unwrap();
        assert_eq!((identity.guest_svn, identity.family_id), (7, [0xfa; 16]));
        let digests: [Digest; 2] = [id, author].map(|key| Sha384::digest(key.public_key()).into());
        assert_eq!([identity.id_key_digest, identity.author_key_digest.unwrap()], digests);
        assert_eq!(check(&block().to_bytes(), &auth, false).unwrap().author_key_digest, None);
    }

    #[test]
    fn every_mismatch_has_its_status() {
        let (id, author) = keys();
        let good = block().sign(&id, Some(&author));
        let changed = |at: usize| {
            let mut auth = good;
            auth[at] ^= 1;
            check(&block().to_bytes(), &auth, true).unwrap_err()
        };
        assert_eq!(changed(0x00), Status::InvalidParam, "ID key algorithm");
        assert_eq!(changed(0x04), Status::InvalidParam, "author key algorithm");
        assert_eq!(changed(0x08), Status::InvalidParam, "reserved");
        assert_eq!(changed(ID_KEY), Status::InvalidParam, "curve");
        assert_eq!(changed(ID_SIGNATURE), Status::BadSignature);
        assert_eq!(changed(KEY_SIGNATURE), Status::BadSignature);
        let other = IdBlock { digest: [4; 48], ..block() };
        assert_eq!(check(&other.to_bytes(), &good, true), Err(Status::BadSignature), "signed is another block");
        let signed = other.sign(&id, None);
        assert_eq!(check(&other.to_bytes(), &signed, false), Err(Status::BadMeasurement));
        let other = IdBlock { policy: Policy(0), ..block() };
        assert_eq!(check(&other.to_bytes(), &other.sign(&id, None), false), Err(Status::PolicyFailure));
    }

    #[test]
    fn an_author_who_did_not_sign_is_refused() {
        let (id, author) = keys();
        let mut auth = block().sign(&id, None);
        assert_eq!(check(&block().to_bytes(), &auth, true), Err(Status::InvalidParam), "no author at all");
        put(&mut auth, 4, &ALGORITHM.to_le_bytes());
        put(&mut auth, AUTHOR_KEY, &author.public_key());
        put(&mut auth, KEY_SIGNATURE, &id.sign(&id.public_key()));
        assert_eq!(check(&block().to_bytes(), &auth, true), Err(Status::BadSignature));
    }
}

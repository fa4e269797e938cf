//! ID block and ID authentication: the guest's owner signs what may be launched, and the PSP launches nothing else.
//! Both keys' digests stand in every report.
//!
//! Owns the two structures as they are in memory, signing ([`IdAuth::sign`]) and checking ([`IdAuth::verify`]) them,
//! and the identity they are part of ([`Identity`]). Does not own reading keys: that is [`keys`].
//!
//! Specification: SEV-SNP Firmware ABI (56860), 8.18 `SNP_LAUNCH_FINISH`, "Structure of the ID Block" and "of the ID
//! Authentication Information Structure"; keys and signatures as in its chapter 10, P-384 with SHA-384.

pub mod keys;

use std::fmt;
use std::mem::offset_of;

use p384::ecdsa::signature::{Signer, Verifier};
use p384::ecdsa::{Signature as EcdsaSignature, VerifyingKey};
use sha2::{Digest as _, Sha384};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::digest::Digest;
use crate::policy::{GuestPolicy, PolicyError};
use crate::vmsa::SevFeatures;

use self::keys::IdKey;

/// Bytes of an ID block.
pub const BLOCK_BYTES: usize = 96;
/// Bytes of the ID authentication information: a page.
pub const AUTH_BYTES: usize = 4096;
/// `ID_BLOCK.VERSION`, the only one there is.
const VERSION: u32 = 1;
/// ECDSA on P-384 with SHA-384.
const ALGORITHM_P384_SHA384: u32 = 1;
const ALGORITHM_NONE: u32 = 0;
/// Bytes of a coordinate or of half a signature; P-384 uses 48 of them.
const NUMBER_BYTES: usize = 72;
const P384_BYTES: usize = 48;

/// What of a launch is signed by its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IdBlock {
    /// `LD`: the launch digest that is expected.
    pub launch_digest: [u8; 48],
    /// `FAMILY_ID`: the owner's; the firmware doesn't interpret it.
    pub family_id: [u8; 16],
    /// `IMAGE_ID`: the owner's; the firmware doesn't interpret it.
    pub image_id: [u8; 16],
    version: U32,
    guest_svn: U32,
    policy: U64,
}

/// The owner's names and number for a guest's image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ImageIdentity {
    /// Which family of images.
    pub family_id: [u8; 16],
    /// Which of them.
    pub image_id: [u8; 16],
    /// Its security version.
    pub guest_svn: u32,
}

/// Who signed an ID block, and the signatures.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IdAuth {
    id_key_algorithm: U32,
    author_key_algorithm: U32,
    reserved_008: [u8; 0x38],
    block_signature: Signature,
    id_key: PublicKey,
    reserved_644: [u8; 0x3c],
    id_key_signature: Signature,
    author_key: PublicKey,
    reserved_c84: [u8; 0x37c],
}

/// A signature as the firmware has it: numbers little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Signature {
    r: [u8; NUMBER_BYTES],
    s: [u8; NUMBER_BYTES],
    reserved: [u8; 512 - 2 * NUMBER_BYTES],
}

/// A public key as the firmware has it: numbers little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct PublicKey {
    curve: U32,
    x: [u8; NUMBER_BYTES],
    y: [u8; NUMBER_BYTES],
    reserved: [u8; 1028 - 4 - 2 * NUMBER_BYTES],
}

const _: () = {
    assert!(size_of::<IdBlock>() == BLOCK_BYTES);
    assert!(offset_of!(IdBlock, version) == 0x50);
    assert!(offset_of!(IdBlock, policy) == 0x58);
    assert!(size_of::<IdAuth>() == AUTH_BYTES);
    assert!(offset_of!(IdAuth, block_signature) == 0x040);
    assert!(offset_of!(IdAuth, id_key) == 0x240);
    assert!(offset_of!(IdAuth, id_key_signature) == 0x680);
    assert!(offset_of!(IdAuth, author_key) == 0x880);
};

/// `CURVE` of a key: P-384.
const CURVE_P384: u32 = 2;

/// What hardware signs besides the pages: the identity of an SNP guest's launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// What the platform and the VMM may do.
    pub policy: GuestPolicy,
    /// What of SEV the vCPUs have; it is measured with their registers.
    pub features: SevFeatures,
    /// Bytes of the VMM's that stand in every report.
    pub host_data: [u8; 32],
    /// Who owns the image, if its owner signed it.
    pub signed: Option<Box<SignedBlock>>,
    /// Which keys may sign reports.
    pub report_key: ReportKey,
}

/// An ID block with who signed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedBlock {
    /// The block.
    pub block: IdBlock,
    /// The signatures.
    pub auth: IdAuth,
}

/// Which keys may sign a guest's reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ReportKey {
    /// The chip's own (VCEK), or the cloud provider's (VLEK) if there is one.
    #[default]
    Any,
    /// Only the cloud provider's: `VCEK_DIS`, so that reports don't tell which chip it was.
    OnlyVlek,
}

/// What is wrong with an ID block or its authentication.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not as long as it must be.
    #[error("{what} has {bytes} bytes; it has {expected}")]
    Length {
        /// Which structure.
        what: &'static str,
        /// Bytes it has.
        bytes: usize,
        /// Bytes it should have.
        expected: usize,
    },
    /// A field that cannot have this value.
    #[error("{field} is {value}; it must be {expected}")]
    Field {
        /// By its name in the specification.
        field: &'static str,
        /// What it is.
        value: u32,
        /// What it can be.
        expected: &'static str,
    },
    /// Bytes that must be zero.
    #[error("{0} has bits set that are reserved")]
    Reserved(&'static str),
    /// A policy that is none.
    #[error("ID_BLOCK.POLICY: {0}")]
    Policy(#[from] PolicyError),
    /// A key that is no point of the curve.
    #[error("{0} is no public key on P-384")]
    NoKey(&'static str),
    /// A signature that does not hold.
    #[error("{signature} is not the signature of {what} by {key}")]
    Signature {
        /// Which.
        signature: &'static str,
        /// Of what.
        what: &'static str,
        /// Whose.
        key: &'static str,
    },
    /// It is for another launch.
    #[error("the ID block is for another launch: {field} is {signed} in it, and {launched} here")]
    OtherLaunch {
        /// What differs.
        field: &'static str,
        /// What is signed.
        signed: String,
        /// What would be launched.
        launched: String,
    },
}

/// What a report says of the keys: SHA-384 of each as the firmware has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyDigests {
    /// `ID_KEY_DIGEST`.
    pub id_key: Digest,
    /// `AUTHOR_KEY_DIGEST`, with an author key.
    pub author_key: Option<Digest>,
}

impl IdBlock {
    /// For a launch with this digest and policy.
    #[must_use]
    pub fn new(launch_digest: Digest, policy: GuestPolicy, image: ImageIdentity) -> Self {
        Self {
            launch_digest: launch_digest.0,
            family_id: image.family_id,
            image_id: image.image_id,
            version: U32::new(VERSION),
            guest_svn: U32::new(image.guest_svn),
            policy: U64::new(policy.to_raw()),
        }
    }

    /// Reads one, and checks what can be checked without a key.
    pub fn parse(bytes: &[u8]) -> Result<Self, IdError> {
        let wrong = |_| IdError::Length { what: "ID block", bytes: bytes.len(), expected: BLOCK_BYTES };
        let block = Self::read_from_bytes(bytes).map_err(wrong)?;
        if block.version != VERSION {
            return Err(IdError::Field { field: "ID_BLOCK.VERSION", value: block.version.get(), expected: "1" });
        }
        block.policy()?;
        Ok(block)
    }

    /// The security version its owner gives it.
    #[must_use]
    pub fn guest_svn(&self) -> u32 {
        self.guest_svn.get()
    }

    /// The policy it is for.
    pub fn policy(&self) -> Result<GuestPolicy, PolicyError> {
        GuestPolicy::from_raw(self.policy.get())
    }

    /// Whether it is for a launch with this digest and policy. The firmware asks the same, but only when all is
    /// launched.
    pub fn check_launch(&self, launch_digest: Digest, policy: GuestPolicy) -> Result<(), IdError> {
        let signed = Digest(self.launch_digest);
        let (field, signed, launched) = if signed != launch_digest {
            ("LD", signed.to_string(), launch_digest.to_string())
        } else if self.policy != policy.to_raw() {
            ("POLICY", format!("{:#x}", self.policy), format!("{:#x}", policy.to_raw()))
        } else {
            return Ok(());
        };
        Err(IdError::OtherLaunch { field, signed, launched })
    }
}

impl IdAuth {
    /// Signs `block` with the image's key, and that with its author's, if there is one.
    #[must_use]
    pub fn sign(block: &IdBlock, id_key: &IdKey, author_key: Option<&IdKey>) -> Self {
        let public = PublicKey::of(id_key);
        let mut auth = Self {
            id_key_algorithm: U32::new(ALGORITHM_P384_SHA384),
            block_signature: Signature::by(id_key, block.as_bytes()),
            id_key: public,
            ..Self::new_zeroed()
        };
        if let Some(author) = author_key {
            auth.author_key_algorithm = U32::new(ALGORITHM_P384_SHA384);
            auth.id_key_signature = Signature::by(author, public.as_bytes());
            auth.author_key = PublicKey::of(author);
        }
        auth
    }

    /// Reads one. What it says is checked by [`Self::verify`].
    pub fn parse(bytes: &[u8]) -> Result<Self, IdError> {
        let wrong = |_| IdError::Length { what: "ID authentication", bytes: bytes.len(), expected: AUTH_BYTES };
        Self::read_from_bytes(bytes).map_err(wrong)
    }

    /// Whether an author's key is part of it (`AUTHOR_KEY_EN`).
    #[must_use]
    pub fn has_author(&self) -> bool {
        self.author_key_algorithm != ALGORITHM_NONE
    }

    /// Checks every field, and all signatures.
    pub fn verify(&self, block: &IdBlock) -> Result<KeyDigests, IdError> {
        let algorithm = |field, value: U32, expected| IdError::Field { field, value: value.get(), expected };
        if self.id_key_algorithm != ALGORITHM_P384_SHA384 {
            return Err(algorithm("ID_AUTH.ID_KEY_ALGO", self.id_key_algorithm, "1, ECDSA on P-384"));
        }
        if ![ALGORITHM_NONE, ALGORITHM_P384_SHA384].contains(&self.author_key_algorithm.get()) {
            let expected = "0, none, or 1, ECDSA on P-384";
            return Err(algorithm("ID_AUTH.AUTH_KEY_ALGO", self.author_key_algorithm, expected));
        }
        let zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
        if !zero(&self.reserved_008) || !zero(&self.reserved_644) || !zero(&self.reserved_c84) {
            return Err(IdError::Reserved("ID_AUTH"));
        }
        // Every field first: signatures are a matter of a millisecond each.
        let id_key = self.id_key.read("ID_AUTH.ID_KEY", "ID_AUTH.ID_KEY.CURVE")?;
        let by_id_key = self.block_signature.read("ID_AUTH.ID_BLOCK_SIG")?;
        let author = if self.has_author() {
            let key = self.author_key.read("ID_AUTH.AUTHOR_KEY", "ID_AUTH.AUTHOR_KEY.CURVE")?;
            Some((key, self.id_key_signature.read("ID_AUTH.ID_KEY_SIG")?))
        } else {
            None
        };
        let holds = |key: &VerifyingKey, signature: Option<EcdsaSignature>, message: &[u8]| {
            signature.is_some_and(|signature| key.verify(message, &signature).is_ok())
        };
        if !holds(&id_key, by_id_key, block.as_bytes()) {
            let (signature, what, key) = ("ID_AUTH.ID_BLOCK_SIG", "the ID block", "the ID key");
            return Err(IdError::Signature { signature, what, key });
        }
        let author_key = match author {
            Some((author, by_author)) if !holds(&author, by_author, self.id_key.as_bytes()) => {
                let (signature, what, key) = ("ID_AUTH.ID_KEY_SIG", "the ID key", "the author key");
                return Err(IdError::Signature { signature, what, key });
            }
            Some(_) => Some(self.author_key.digest()),
            None => None,
        };
        Ok(KeyDigests { id_key: self.id_key.digest(), author_key })
    }
}

/// A big-endian number as the firmware has it.
fn little_endian(big_endian: &[u8]) -> [u8; NUMBER_BYTES] {
    let mut number = [0; NUMBER_BYTES];
    for (to, from) in number.iter_mut().zip(big_endian.iter().rev()) {
        *to = *from;
    }
    number
}

/// The other way; `None` if it is larger than P-384 has it.
fn big_endian(number: &[u8; NUMBER_BYTES]) -> Option<[u8; P384_BYTES]> {
    let (low, high) = number.split_at(P384_BYTES);
    let mut bytes: [u8; P384_BYTES] = low.try_into().ok()?;
    bytes.reverse();
    high.iter().all(|byte| *byte == 0).then_some(bytes)
}

impl Signature {
    fn by(key: &IdKey, message: &[u8]) -> Self {
        let signature: EcdsaSignature = key.signing().sign(message);
        let (r, s) = signature.split_bytes();
        Self { r: little_endian(&r), s: little_endian(&s), reserved: [0; _] }
    }

    /// `None` if the numbers are none of a signature.
    fn read(&self, name: &'static str) -> Result<Option<EcdsaSignature>, IdError> {
        if self.reserved.iter().any(|byte| *byte != 0) {
            return Err(IdError::Reserved(name));
        }
        let numbers = big_endian(&self.r).zip(big_endian(&self.s));
        Ok(numbers.and_then(|(r, s)| EcdsaSignature::from_scalars(r, s).ok()))
    }
}

impl PublicKey {
    fn of(key: &IdKey) -> Self {
        let point = key.signing().verifying_key().to_sec1_point(false);
        let coordinate =
            |bytes: Option<&_>| bytes.map_or([0; NUMBER_BYTES], |bytes: &p384::FieldBytes| little_endian(bytes));
        Self { curve: U32::new(CURVE_P384), x: coordinate(point.x()), y: coordinate(point.y()), reserved: [0; _] }
    }

    fn read(&self, name: &'static str, curve: &'static str) -> Result<VerifyingKey, IdError> {
        if self.curve != CURVE_P384 {
            return Err(IdError::Field { field: curve, value: self.curve.get(), expected: "2, P-384" });
        }
        if self.reserved.iter().any(|byte| *byte != 0) {
            return Err(IdError::Reserved(name));
        }
        let (x, y) = big_endian(&self.x).zip(big_endian(&self.y)).ok_or(IdError::NoKey(name))?;
        let point = p384::Sec1Point::from_affine_coordinates(&x.into(), &y.into(), false);
        VerifyingKey::from_sec1_point(&point).map_err(|_| IdError::NoKey(name))
    }

    fn digest(&self) -> Digest {
        Digest(Sha384::digest(self.as_bytes()).into())
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { policy, features, .. } = self;
        write!(f, "signed by hardware: guest policy {:#x} ({policy}), features {:#x}", policy.to_raw(), features.0)?;
        if self.host_data != [0; 32] {
            f.write_str(", host data")?;
        }
        match self.signed.as_deref().map(|signed| signed.auth.has_author()) {
            Some(true) => f.write_str(", an ID block with an author's key")?,
            Some(false) => f.write_str(", an ID block")?,
            None => {}
        }
        match self.report_key {
            ReportKey::Any => Ok(()),
            ReportKey::OnlyVlek => f.write_str("; reports by VLEK only"),
        }
    }
}

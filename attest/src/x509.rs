//! X.509 certificates, as much of them as chains of AMD's and Intel's need.
//!
//! Owns reading a certificate, who signed it (over the bytes that were received), when it is good, and the keys in it;
//! [`crl`] lists of revoked ones, [`name`] names in words. AMD signs with RSASSA-PSS and SHA-384, Intel with ECDSA on P-256
//! and SHA-256. Does not own which certificate may sign which: see [`mod@crate::snp::verify`] and
//! [`mod@crate::tdx::verify`].
//!
//! Specifications: RFC 5280; RFC 4055 for RSASSA-PSS; RFC 5480 for keys on curves; RFC 5758 for ECDSA; AMD 57230 and
//! Intel's "PCK Certificate and CRL Profile" for what of them is used.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::OnceCell;

use der::asn1::{AnyRef, BitStringRef, ObjectIdentifier, UintRef};
use der::referenced::OwnedToRef as _;
use der::{Decode as _, Reader as _, Sequence, SliceReader};
use p384::ecdsa::VerifyingKey;
use rsa::{BigUint, RsaPublicKey};
use x509_cert::certificate::{TbsCertificate, Version};
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{AlgorithmIdentifierRef, SubjectPublicKeyInfoOwned};
use x509_cert::time::Time;

use crate::UnixTime;
use crate::signature::{self, P256Key};

pub(crate) mod crl;
mod name;

const RSASSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const MGF1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.8");
const SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const SECP384R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const SECP256R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const ECDSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");
const KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// Bytes of salt in AMD's signatures: as many as the hash has.
const SALT_BYTES: u8 = 48;
/// Bits of an authority's key.
const RSA_BITS: usize = 4096;
/// More extensions than any certificate of AMD's or Intel's has. Each is compared with all before it, and whoever sends a
/// certificate says how many there are.
const EXTENSIONS_MOST: usize = 64;

/// What is wrong with a certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Not in DER, or not a certificate.
    #[error("not a certificate: {0}")]
    Form(der::Error),
    /// Not version 3.
    #[error("a certificate of another version than 3")]
    Version,
    /// Signed in another way, or it says so in one place only.
    #[error(
        "signed with another algorithm than RSASSA-PSS with SHA-384 and {SALT_BYTES} bytes of salt or ECDSA on P-256 \
         with SHA-256"
    )]
    Algorithm,
    /// More extensions than are read.
    #[error("a certificate with {0} extensions; none has more than {EXTENSIONS_MOST}")]
    Extensions(usize),
    /// The same extension twice.
    #[error("a certificate with two extensions {0}")]
    Twice(ObjectIdentifier),
    /// An extension that must be understood, and isn't.
    #[error("a certificate with the critical extension {0}, which is unknown")]
    Critical(ObjectIdentifier),
    /// It may not issue certificates.
    #[error("not an authority's: it may not sign certificates")]
    NoAuthority,
    /// A key of another kind.
    #[error("a certificate whose key is not {0}")]
    Key(&'static str),
    /// Another key signed, or something else was signed.
    #[error("not signed by that key")]
    Signature,
}

impl From<der::Error> for CertificateError {
    fn from(error: der::Error) -> Self {
        Self::Form(error)
    }
}

/// RSASSA-PSS-params. A trailer field that is left out is 1.
#[derive(Sequence)]
struct PssParameters<'a> {
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    hash: Option<AlgorithmIdentifierRef<'a>>,
    #[asn1(context_specific = "1", tag_mode = "EXPLICIT", optional = "true")]
    mask: Option<AlgorithmIdentifierRef<'a>>,
    #[asn1(context_specific = "2", tag_mode = "EXPLICIT", optional = "true")]
    salt_bytes: Option<u8>,
    #[asn1(context_specific = "3", tag_mode = "EXPLICIT", optional = "true")]
    trailer: Option<u8>,
}

/// RSAPublicKey.
#[derive(Sequence)]
struct RsaKey<'a> {
    modulus: UintRef<'a>,
    exponent: UintRef<'a>,
}

/// How something is signed.
#[derive(Clone, Copy, Debug)]
enum Algorithm {
    PssSha384,
    EcdsaP256Sha256,
}

/// A certificate or a list of revoked ones, as far as they are alike.
#[derive(Debug)]
struct Signed<'a> {
    /// All of it.
    der: &'a [u8],
    /// The bytes that are signed.
    bytes: &'a [u8],
    /// The algorithm in words and as it stands there.
    algorithm: Algorithm,
    named: AlgorithmIdentifierRef<'a>,
    signature: &'a [u8],
}

impl<'a> Signed<'a> {
    fn parse(der: &'a [u8]) -> Result<Self, CertificateError> {
        let mut reader = SliceReader::new(der)?;
        let (bytes, named, signature) = reader.sequence(|reader| {
            let signed = reader.tlv_bytes()?;
            let algorithm = AlgorithmIdentifierRef::decode(reader)?;
            Ok::<_, der::Error>((signed, algorithm, BitStringRef::decode(reader)?))
        })?;
        reader.finish()?;
        let algorithm = if is_pss_sha384(named) {
            Algorithm::PssSha384
        } else if named.oid == ECDSA_SHA256 && named.parameters.is_none() {
            Algorithm::EcdsaP256Sha256
        } else {
            return Err(CertificateError::Algorithm);
        };
        let signature = signature.as_bytes().ok_or(CertificateError::Signature)?;
        Ok(Self { der, bytes, algorithm, named, signature })
    }

    /// That the algorithm is named inside what is signed, too.
    fn names_inside(&self, inside: AlgorithmIdentifierRef<'_>) -> Result<(), CertificateError> {
        if inside == self.named { Ok(()) } else { Err(CertificateError::Algorithm) }
    }

    /// That this key signed it.
    fn is_by(&self, issuer: &Certificate<'_>) -> Result<(), CertificateError> {
        match self.algorithm {
            Algorithm::PssSha384 => {
                let key = issuer.rsa_key()?;
                if signature::rsa_pss(&key, self.bytes, self.signature) {
                    Ok(())
                } else {
                    Err(CertificateError::Signature)
                }
            }
            Algorithm::EcdsaP256Sha256 => {
                let key = issuer.p256_key()?;
                let signature = p256::ecdsa::Signature::from_der(self.signature);
                let signature = signature.map_err(|_| CertificateError::Signature)?;
                let is_signed = signature::ecdsa_p256(key, self.bytes, &signature);
                if is_signed { Ok(()) } else { Err(CertificateError::Signature) }
            }
        }
    }
}

/// A certificate, read and not verified.
#[derive(Debug)]
pub(crate) struct Certificate<'a> {
    signed: Signed<'a>,
    fields: TbsCertificate,
    /// The subject in words: several checks of one verdict name an issuer.
    name: OnceCell<String>,
    /// The key on P-256, if it was asked for: an issuer's signs a list, too, and a signer's two statements.
    p256_key: OnceCell<P256Key>,
}

impl<'a> Certificate<'a> {
    pub(crate) fn parse(der: &'a [u8]) -> Result<Self, CertificateError> {
        let signed = Signed::parse(der)?;
        let fields = TbsCertificate::from_der(signed.bytes)?;
        if fields.version() != Version::V3 {
            return Err(CertificateError::Version);
        }
        signed.names_inside(fields.signature().owned_to_ref())?;
        let certificate = Self { signed, fields, name: OnceCell::new(), p256_key: OnceCell::new() };
        certificate.check_extensions()?;
        Ok(certificate)
    }

    fn check_extensions(&self) -> Result<(), CertificateError> {
        let extensions = self.fields.extensions().map_or(&[][..], Vec::as_slice);
        if extensions.len() > EXTENSIONS_MOST {
            return Err(CertificateError::Extensions(extensions.len()));
        }
        for (index, extension) in extensions.iter().enumerate() {
            let id = extension.extn_id;
            if extensions.iter().take(index).any(|earlier| earlier.extn_id == id) {
                return Err(CertificateError::Twice(id));
            }
            if extension.critical && ![BASIC_CONSTRAINTS, KEY_USAGE].contains(&id) {
                return Err(CertificateError::Critical(id));
            }
        }
        Ok(())
    }

    /// All of it, as it was received.
    pub(crate) fn der(&self) -> &'a [u8] {
        self.signed.der
    }

    pub(crate) fn subject(&self) -> &Name {
        self.fields.subject()
    }

    /// The subject, in words.
    pub(crate) fn name(&self) -> &str {
        self.name.get_or_init(|| name::words(self.subject()))
    }

    pub(crate) fn issuer(&self) -> &Name {
        self.fields.issuer()
    }

    pub(crate) fn serial(&self) -> &SerialNumber {
        self.fields.serial_number()
    }

    /// The subject's common name; nothing unless there is exactly one.
    pub(crate) fn common_name(&self) -> Option<String> {
        let mut names = self.subject().iter().filter(|attribute| attribute.oid == COMMON_NAME);
        let name = names.next().filter(|_| names.next().is_none())?;
        core::str::from_utf8(name.value.value()).ok().map(ToString::to_string)
    }

    /// The key, as it stands there.
    pub(crate) fn key(&self) -> &SubjectPublicKeyInfoOwned {
        self.fields.subject_public_key_info()
    }

    /// From when to when it is good.
    pub(crate) fn validity(&self) -> (UnixTime, UnixTime) {
        let validity = self.fields.validity();
        (moment(validity.not_before), moment(validity.not_after))
    }

    /// The contents of this extension.
    pub(crate) fn extension(&self, id: ObjectIdentifier) -> Option<&[u8]> {
        let extensions = self.fields.extensions()?;
        extensions.iter().find(|extension| extension.extn_id == id).map(|extension| extension.extn_value.as_bytes())
    }

    /// That it may issue certificates.
    pub(crate) fn authority(&self) -> Result<(), CertificateError> {
        let constraints = self.extension(BASIC_CONSTRAINTS).map(BasicConstraints::from_der).transpose()?;
        let usage = self.extension(KEY_USAGE).map(KeyUsage::from_der).transpose()?;
        let may = constraints.is_some_and(|it| it.ca) && usage.is_some_and(|usage| usage.key_cert_sign());
        if may { Ok(()) } else { Err(CertificateError::NoAuthority) }
    }

    /// That this issuer's key signed it. Names are not looked at.
    pub(crate) fn is_signed_by(&self, issuer: &Certificate<'_>) -> Result<(), CertificateError> {
        self.signed.is_by(issuer)
    }

    /// Its key, which must be RSA's.
    pub(crate) fn rsa_key(&self) -> Result<RsaPublicKey, CertificateError> {
        const KIND: CertificateError = CertificateError::Key("RSA of 4096 bits");
        let key = self.key();
        let parameters = key.algorithm.parameters.as_ref().map(AnyRef::from);
        if key.algorithm.oid != RSA_ENCRYPTION || !is_null(parameters) {
            return Err(KIND);
        }
        let bytes = key.subject_public_key.as_bytes().ok_or(KIND)?;
        let RsaKey { modulus, exponent } = RsaKey::from_der(bytes)?;
        let [modulus, exponent] = [modulus, exponent].map(|number| BigUint::from_bytes_be(number.as_bytes()));
        if modulus.bits() != RSA_BITS {
            return Err(KIND);
        }
        RsaPublicKey::new(modulus, exponent).map_err(|_| KIND)
    }

    /// Its key, which must be on P-384.
    pub(crate) fn p384_key(&self) -> Result<VerifyingKey, CertificateError> {
        const KIND: CertificateError = CertificateError::Key("on the curve P-384");
        VerifyingKey::from_sec1_bytes(self.point_on(SECP384R1).ok_or(KIND)?).map_err(|_| KIND)
    }

    /// Its key, which must be on P-256.
    pub(crate) fn p256_key(&self) -> Result<&P256Key, CertificateError> {
        const KIND: CertificateError = CertificateError::Key("on the curve P-256");
        if let Some(key) = self.p256_key.get() {
            return Ok(key);
        }
        let point = self.point_on(SECP256R1).ok_or(KIND)?;
        let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(point).map_err(|_| KIND)?;
        Ok(self.p256_key.get_or_init(|| key.into()))
    }

    fn point_on(&self, curve: ObjectIdentifier) -> Option<&[u8]> {
        let key = self.key();
        let named = key.algorithm.parameters.as_ref().and_then(|curve| curve.decode_as().ok());
        key.subject_public_key.as_bytes().filter(|_| key.algorithm.oid == EC_PUBLIC_KEY && named == Some(curve))
    }
}

fn moment(time: Time) -> UnixTime {
    UnixTime::from_secs(time.to_unix_duration().as_secs())
}

fn is_pss_sha384(algorithm: AlgorithmIdentifierRef<'_>) -> bool {
    let parameters = algorithm.parameters.and_then(|parameters| parameters.decode_as::<PssParameters<'_>>().ok());
    let Some(PssParameters { hash: Some(hash), mask: Some(mask), salt_bytes, trailer }) = parameters else {
        return false;
    };
    let mask_hash = mask.parameters.and_then(|hash| hash.decode_as::<AlgorithmIdentifierRef<'_>>().ok());
    algorithm.oid == RSASSA_PSS
        && is_sha384(hash)
        && mask.oid == MGF1
        && mask_hash.is_some_and(is_sha384)
        && salt_bytes == Some(SALT_BYTES)
        && matches!(trailer, None | Some(1))
}

fn is_sha384(algorithm: AlgorithmIdentifierRef<'_>) -> bool {
    algorithm.oid == SHA384 && is_null(algorithm.parameters)
}

/// Parameters that are left out or NULL: both occur.
fn is_null(parameters: Option<AnyRef<'_>>) -> bool {
    parameters.is_none_or(|parameters| parameters == AnyRef::NULL)
}

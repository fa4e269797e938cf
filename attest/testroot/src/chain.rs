//! Certificates for reports: a chain shaped like AMD's, whose names and keys cannot be taken for AMD's.
//!
//! Owns the authorities ([`Authority`]): a root (ARK), what issues chips' certificates (ASK) and what issues providers'
//! (ASVK), each product its own; the certificates of VCEK and VLEK with AMD's extensions ([`vek`]); and the table in which
//! a host passes certificates to a guest ([`table`]). Keys are given or made ([`generate`]). Whatever they are, this is a
//! software root of trust, and must never pass for hardware's.
//!
//! Specification: "Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface" (AMD 57230): names, extensions,
//! RSASSA-PSS with SHA-384 and 48 bytes of salt. RFC 5280 and RFC 4055 for the rest.

use std::str::FromStr as _;
use std::time::Duration;

use rsa::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, EncodePublicKey as _};
use rsa::traits::PublicKeyParts as _;
use rsa::{Pss, RsaPrivateKey};
use sha2::{Digest as _, Sha256, Sha384};
use x509_cert::certificate::{CertificateInner, TbsCertificateInner, Version};
use x509_cert::der::asn1::{Any, BitString, GeneralizedTime, ObjectIdentifier, OctetString, UtcTime};
use x509_cert::der::{Decode as _, Encode as _};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::{AuthorityKeyIdentifier, BasicConstraints, KeyUsage, KeyUsages, SubjectKeyIdentifier};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_cert::time::{Time, Validity};
use zeroize::Zeroizing;

use crate::model::Model;
use crate::report::EndorsementKey;

pub mod generate;
mod salt;
pub mod table;
pub mod vek;

pub use generate::Made;
pub use table::CertificateTable;
pub use vek::{HwidForm, VekSubject};

/// Bits of an authority's key, as AMD's have.
pub const AUTHORITY_BITS: usize = 4096;
/// Seconds of a year that certificates are good for.
pub(crate) const YEAR: Duration = Duration::from_secs(365 * 86_400);
const AUTHORITY_YEARS: u32 = 20;
/// The last second of 2049: later ones are written otherwise (RFC 5280, 4.1.2.5).
const LAST_UTC_TIME: Duration = Duration::from_secs(2_524_607_999);

const RSASSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
pub(crate) const BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");
pub(crate) const KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");
pub(crate) const SUBJECT_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.14");
/// Keys on a curve.
pub(crate) const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
pub(crate) const AUTHORITY_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.35");

/// RSASSA-PSS-params: SHA-384, MGF1 with SHA-384, 48 bytes of salt, and the trailer field spelled out as AMD does.
const PSS_PARAMETERS: &[u8] = &[
    0x30, 0x39, 0xa0, 0x0f, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02, 0x05, 0x00,
    0xa1, 0x1c, 0x30, 0x1a, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x08, 0x30, 0x0d, 0x06, 0x09,
    0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02, 0x05, 0x00, 0xa2, 0x03, 0x02, 0x01, 0x30, 0xa3, 0x03, 0x02,
    0x01, 0x01,
];
/// Bytes of salt.
const SALT_BYTES: usize = 48;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// Bytes that are no key.
    #[error("the {whose}'s key is no RSA key of {AUTHORITY_BITS} bits in PKCS #8: {source}")]
    Key {
        /// The authority.
        whose: &'static str,
        /// What is wrong with it.
        source: rsa::pkcs8::Error,
    },
    /// A key of another size.
    #[error("the {whose}'s key has {bits} bits, not {AUTHORITY_BITS}")]
    Bits {
        /// The authority.
        whose: &'static str,
        /// Its key's.
        bits: usize,
    },
    /// A private key has no encoding.
    #[error("the private key cannot be encoded: {0}")]
    PrivateKey(rsa::pkcs8::Error),
    /// No key was made.
    #[error("no key can be made: {0}")]
    Generate(rsa::Error),
    /// The system has no random numbers.
    #[error("the system has no random numbers: {0}")]
    Random(rsa::rand_core::Error),
    /// There is no thread to make a key on.
    #[error("no thread can be started to make a key: {0}")]
    Thread(std::io::Error),
    /// A public key has no encoding.
    #[error("the public key cannot be encoded: {0}")]
    PublicKey(#[from] rsa::pkcs8::spki::Error),
    /// A field has no encoding.
    #[error("the certificate cannot be encoded: {0}")]
    Encoding(#[from] x509_cert::der::Error),
    /// Signing failed.
    #[error("the certificate cannot be signed: {0}")]
    Signing(#[from] rsa::Error),
}

/// A product's authorities.
pub struct Authority {
    model: Model,
    from: Duration,
    keys: [RsaPrivateKey; 3],
}

/// Whose keys an authority has, in their order.
pub const AUTHORITIES: [&str; 3] = ["ARK", "ASK", "ASVK"];

/// What is to be certified, by whom.
struct Contents {
    serial: u64,
    issuer: Name,
    subject: Name,
    from: Duration,
    for_years: u32,
    key: SubjectPublicKeyInfoOwned,
    extensions: Vec<Extension>,
}

impl Authority {
    /// The authorities of a product that have these private keys (PKCS #8 in DER; [`AUTHORITIES`] has the order), and whose
    /// certificates begin then, since 1970.
    pub fn from_pkcs8(model: Model, keys: [&[u8]; 3], from: Duration) -> Result<Authority, ChainError> {
        let [ark, ask, asvk] = std::array::from_fn(|index| parse_key(AUTHORITIES[index], keys[index]));
        Ok(Authority { model, from, keys: [ark?, ask?, asvk?] })
    }

    /// Their private keys, in the order and form in which they are taken.
    pub fn to_pkcs8(&self) -> Result<[Zeroizing<Vec<u8>>; 3], ChainError> {
        let encode = |key: &RsaPrivateKey| match key.to_pkcs8_der() {
            Ok(der) => Ok(Zeroizing::new(der.as_bytes().to_vec())),
            Err(error) => Err(ChainError::PrivateKey(error)),
        };
        let [ark, ask, asvk] = self.keys.each_ref().map(encode);
        Ok([ark?, ask?, asvk?])
    }

    /// What their keys are known by: SHA-256 of each public key in DER, in the same order.
    pub fn fingerprints(&self) -> Result<[[u8; 32]; 3], ChainError> {
        let fingerprint = |key| Ok::<_, ChainError>(Sha256::digest(public_key(key)?.to_der()?).into());
        let [ark, ask, asvk] = self.keys.each_ref().map(fingerprint);
        Ok([ark?, ask?, asvk?])
    }

    /// The product.
    pub fn model(&self) -> Model {
        self.model
    }

    /// When certificates begin, since 1970.
    pub fn not_before(&self) -> Duration {
        self.from
    }

    /// When the authorities' certificates end, since 1970.
    pub fn not_after(&self) -> Duration {
        self.from.saturating_add(YEAR * AUTHORITY_YEARS)
    }

    /// The root's certificate, which it issues itself.
    pub fn ark(&self) -> Result<Vec<u8>, ChainError> {
        let name = self.ark_name()?;
        let contents = Contents {
            serial: 1,
            issuer: name.clone(),
            subject: name,
            from: self.from,
            for_years: AUTHORITY_YEARS,
            key: public_key(self.root())?,
            extensions: authority_extensions(self.root(), self.root(), None)?,
        };
        issue(contents, self.root())
    }

    /// The certificate of what issues certificates for this kind of key: ASK or ASVK.
    pub fn intermediate(&self, kind: EndorsementKey) -> Result<Vec<u8>, ChainError> {
        let contents = Contents {
            serial: if kind == EndorsementKey::Vcek { 2 } else { 3 },
            issuer: self.ark_name()?,
            subject: self.intermediate_name(kind)?,
            from: self.from,
            for_years: AUTHORITY_YEARS,
            key: public_key(self.issuer(kind))?,
            extensions: authority_extensions(self.issuer(kind), self.root(), Some(0))?,
        };
        issue(contents, self.root())
    }

    fn root(&self) -> &RsaPrivateKey {
        &self.keys[0]
    }

    fn issuer(&self, kind: EndorsementKey) -> &RsaPrivateKey {
        match kind {
            EndorsementKey::Vcek => &self.keys[1],
            EndorsementKey::Vlek => &self.keys[2],
        }
    }

    fn ark_name(&self) -> Result<Name, ChainError> {
        name(&format!("ARK-{}", self.model.name()))
    }

    fn intermediate_name(&self, kind: EndorsementKey) -> Result<Name, ChainError> {
        match kind {
            EndorsementKey::Vcek => name(&format!("SEV-{}", self.model.name())),
            EndorsementKey::Vlek => name(&format!("SEV-VLEK-{}", self.model.name())),
        }
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("model", &self.model).field("from", &self.from).finish_non_exhaustive()
    }
}

fn parse_key(whose: &'static str, der: &[u8]) -> Result<RsaPrivateKey, ChainError> {
    let key = RsaPrivateKey::from_pkcs8_der(der).map_err(|source| ChainError::Key { whose, source })?;
    match key.n().bits() {
        AUTHORITY_BITS => Ok(key),
        bits => Err(ChainError::Bits { whose, bits }),
    }
}

/// A name that says what it is not.
fn name(common: &str) -> Result<Name, ChainError> {
    Ok(Name::from_str(&format!("CN=TEST {common},OU=software not hardware,O=tenure test platform"))?)
}

fn public_key(key: &RsaPrivateKey) -> Result<SubjectPublicKeyInfoOwned, ChainError> {
    let der = key.to_public_key().to_public_key_der()?;
    Ok(SubjectPublicKeyInfoOwned::from_der(der.as_bytes())?)
}

pub(crate) fn extension(id: ObjectIdentifier, critical: bool, value: &[u8]) -> Result<Extension, ChainError> {
    Ok(Extension { extn_id: id, critical, extn_value: OctetString::new(value)? })
}

fn authority_extensions(
    of: &RsaPrivateKey,
    by: &RsaPrivateKey,
    path_len_constraint: Option<u8>,
) -> Result<Vec<Extension>, ChainError> {
    let usage = KeyUsage(KeyUsages::KeyCertSign | KeyUsages::CRLSign);
    let constraints = BasicConstraints { ca: true, path_len_constraint };
    let subject = SubjectKeyIdentifier(key_identifier(of)?);
    let issuer = AuthorityKeyIdentifier { key_identifier: Some(key_identifier(by)?), ..Default::default() };
    Ok(vec![
        extension(BASIC_CONSTRAINTS, true, &constraints.to_der()?)?,
        extension(KEY_USAGE, true, &usage.to_der()?)?,
        extension(SUBJECT_KEY, false, &subject.to_der()?)?,
        extension(AUTHORITY_KEY, false, &issuer.to_der()?)?,
    ])
}

/// The first 20 bytes of a hash over the key (RFC 7093).
fn key_identifier(key: &RsaPrivateKey) -> Result<OctetString, ChainError> {
    let hash = Sha256::digest(public_key(key)?.subject_public_key.raw_bytes());
    Ok(OctetString::new(&hash[..20])?)
}

fn pss() -> Result<AlgorithmIdentifierOwned, ChainError> {
    Ok(AlgorithmIdentifierOwned { oid: RSASSA_PSS, parameters: Some(Any::from_der(PSS_PARAMETERS)?) })
}

pub(crate) fn time(since_1970: Duration) -> Result<Time, ChainError> {
    Ok(if since_1970 <= LAST_UTC_TIME {
        Time::UtcTime(UtcTime::from_unix_duration(since_1970)?)
    } else {
        Time::GeneralTime(GeneralizedTime::from_unix_duration(since_1970)?)
    })
}

/// Signs a certificate. The salt follows from key and contents, so the same contents give the same bytes.
fn issue(contents: Contents, by: &RsaPrivateKey) -> Result<Vec<u8>, ChainError> {
    let tbs_certificate: TbsCertificateInner = TbsCertificateInner {
        version: Version::V3,
        serial_number: SerialNumber::from(contents.serial),
        signature: pss()?,
        issuer: contents.issuer,
        validity: Validity {
            not_before: time(contents.from)?,
            not_after: time(contents.from.saturating_add(YEAR * contents.for_years))?,
        },
        subject: contents.subject,
        subject_public_key_info: contents.key,
        issuer_unique_id: None,
        subject_unique_id: None,
        extensions: Some(contents.extensions),
    };
    let signed = tbs_certificate.to_der()?;
    let digest = Sha384::digest(&signed);
    let scheme = Pss::new_with_salt::<rsa::sha2::Sha384>(SALT_BYTES);
    let signature = by.sign_with_rng(&mut salt::Salt::new(by, &signed), scheme, &digest)?;
    let certificate: CertificateInner = CertificateInner {
        tbs_certificate,
        signature_algorithm: pss()?,
        signature: BitString::from_bytes(&signature)?,
    };
    Ok(certificate.to_der()?)
}

#[cfg(test)]
mod tests;

//! Certificates for reports: a chain shaped like AMD's, whose names and keys cannot be taken for AMD's.
//!
//! Owns the authorities ([`Authority`]): a root (ARK), what issues chips' certificates (ASK) and what issues providers'
//! (ASVK), each product its own; the certificates of VCEK and VLEK with AMD's extensions ([`vek`]); and the table in which
//! a host passes certificates to a guest ([`table`]). Keys are fixed and public (`keys/README.md`): this is the software
//! root of trust, and must never pass for hardware's.
//!
//! Specification: "Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface" (AMD 57230): names, extensions,
//! RSASSA-PSS with SHA-384 and 48 bytes of salt. RFC 5280 and RFC 4055 for the rest.

use std::str::FromStr as _;
use std::time::Duration;

use rsa::pkcs8::{DecodePrivateKey as _, EncodePublicKey as _};
use rsa::{Pss, RsaPrivateKey};
use sha2::{Digest as _, Sha256, Sha384};
use x509_cert::certificate::{CertificateInner, TbsCertificateInner, Version};
use x509_cert::der::asn1::{Any, BitString, ObjectIdentifier, OctetString, UtcTime};
use x509_cert::der::{Decode as _, Encode as _};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::{AuthorityKeyIdentifier, BasicConstraints, KeyUsage, KeyUsages, SubjectKeyIdentifier};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_cert::time::{Time, Validity};

use crate::model::Model;
use crate::report::EndorsementKey;

mod salt;
pub mod table;
pub mod vek;

pub use table::CertificateTable;
pub use vek::{HwidForm, VekSubject};

/// When the authorities' certificates begin: 2026-01-01.
pub const EPOCH: Duration = Duration::from_secs(1_767_225_600);
const YEAR: Duration = Duration::from_secs(365 * 86_400);
const AUTHORITY_YEARS: u32 = 20;

const RSASSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
const BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");
const KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");
const SUBJECT_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.14");
const AUTHORITY_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.35");

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
    /// A fixed key is damaged.
    #[error("the test key is no PKCS #8 key: {0}")]
    Key(#[from] rsa::pkcs8::Error),
    /// A public key has no encoding.
    #[error("the public key cannot be encoded: {0}")]
    PublicKey(#[from] rsa::pkcs8::spki::Error),
    /// A field has no encoding.
    #[error("the certificate cannot be encoded: {0}")]
    Encoding(#[from] x509_cert::der::Error),
    /// Signing failed.
    #[error("the certificate cannot be signed: {0}")]
    Signing(#[from] rsa::Error),
    /// The platform has no such key, for instance because no VLEK is loaded.
    #[error("the platform has no {0:?}")]
    NoKey(EndorsementKey),
}

/// A product's authorities.
#[derive(Debug)]
pub struct Authority {
    model: Model,
    ark: RsaPrivateKey,
    ask: RsaPrivateKey,
    asvk: RsaPrivateKey,
}

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
    /// The authorities of a product.
    pub fn new(model: Model) -> Result<Authority, ChainError> {
        let [ark, ask, asvk] = match model {
            Model::Milan => [
                &include_bytes!("../keys/milan-ark.key.der")[..],
                include_bytes!("../keys/milan-ask.key.der"),
                include_bytes!("../keys/milan-asvk.key.der"),
            ],
            Model::Genoa => [
                &include_bytes!("../keys/genoa-ark.key.der")[..],
                include_bytes!("../keys/genoa-ask.key.der"),
                include_bytes!("../keys/genoa-asvk.key.der"),
            ],
            Model::Turin => [
                &include_bytes!("../keys/turin-ark.key.der")[..],
                include_bytes!("../keys/turin-ask.key.der"),
                include_bytes!("../keys/turin-asvk.key.der"),
            ],
        };
        let [ark, ask, asvk] = [ark, ask, asvk].map(RsaPrivateKey::from_pkcs8_der);
        Ok(Authority { model, ark: ark?, ask: ask?, asvk: asvk? })
    }

    /// The root's certificate, which it issues itself.
    pub fn ark(&self) -> Result<Vec<u8>, ChainError> {
        let name = self.ark_name()?;
        let contents = Contents {
            serial: 1,
            issuer: name.clone(),
            subject: name,
            from: EPOCH,
            for_years: AUTHORITY_YEARS,
            key: public_key(&self.ark)?,
            extensions: authority_extensions(&self.ark, &self.ark, None)?,
        };
        issue(contents, &self.ark)
    }

    /// The certificate of what issues certificates for this kind of key: ASK or ASVK.
    pub fn intermediate(&self, kind: EndorsementKey) -> Result<Vec<u8>, ChainError> {
        let contents = Contents {
            serial: if kind == EndorsementKey::Vcek { 2 } else { 3 },
            issuer: self.ark_name()?,
            subject: self.intermediate_name(kind)?,
            from: EPOCH,
            for_years: AUTHORITY_YEARS,
            key: public_key(self.issuer(kind))?,
            extensions: authority_extensions(self.issuer(kind), &self.ark, Some(0))?,
        };
        issue(contents, &self.ark)
    }

    fn issuer(&self, kind: EndorsementKey) -> &RsaPrivateKey {
        match kind {
            EndorsementKey::Vcek => &self.ask,
            EndorsementKey::Vlek => &self.asvk,
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

/// A name that says what it is not.
fn name(common: &str) -> Result<Name, ChainError> {
    Ok(Name::from_str(&format!("CN=TEST {common},OU=software not hardware,O=tenure test platform"))?)
}

fn public_key(key: &RsaPrivateKey) -> Result<SubjectPublicKeyInfoOwned, ChainError> {
    let der = key.to_public_key().to_public_key_der()?;
    Ok(SubjectPublicKeyInfoOwned::from_der(der.as_bytes())?)
}

fn extension(id: ObjectIdentifier, critical: bool, value: &[u8]) -> Result<Extension, ChainError> {
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

fn time(since_1970: Duration) -> Result<Time, ChainError> {
    Ok(Time::UtcTime(UtcTime::from_unix_duration(since_1970)?))
}

/// Signs a certificate. The salt follows from the contents, so the same contents give the same bytes.
fn issue(contents: Contents, by: &RsaPrivateKey) -> Result<Vec<u8>, ChainError> {
    let tbs_certificate: TbsCertificateInner = TbsCertificateInner {
        version: Version::V3,
        serial_number: SerialNumber::from(contents.serial),
        signature: pss()?,
        issuer: contents.issuer,
        validity: Validity {
            not_before: time(contents.from)?,
            not_after: time(contents.from + YEAR * contents.for_years)?,
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
    let signature = by.sign_with_rng(&mut salt::Salt::new(&signed), scheme, &digest)?;
    let certificate: CertificateInner = CertificateInner {
        tbs_certificate,
        signature_algorithm: pss()?,
        signature: BitString::from_bytes(&signature)?,
    };
    Ok(certificate.to_der()?)
}

#[cfg(test)]
mod tests;

//! Certificates and lists of revoked ones, shaped like Intel's below a key that cannot be taken for Intel's.
//!
//! Owns the [`Authority`]: a root, what issues platforms' certificates (the platform CA), and what signs statements about
//! platforms. Verifiers look for three common names letter by letter, so those are Intel's; every name as a whole says TEST
//! and "software not hardware". No certificate says where lists are published, because they are not.
//!
//! Specification: Intel SGX PCK Certificate and CRL Profile; RFC 5280, RFC 5480 and RFC 5758.

use std::str::FromStr as _;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use x509_cert::certificate::{CertificateInner, TbsCertificateInner, Version};
use x509_cert::crl::{CertificateList, TbsCertList};
use x509_cert::der::Encode as _;
use x509_cert::der::asn1::{Any, BitString, ObjectIdentifier, OctetString};
use x509_cert::der::pem::{LineEnding, encode_string};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::{
    AuthorityKeyIdentifier, BasicConstraints, CrlNumber, KeyUsage, KeyUsages, SubjectKeyIdentifier,
};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_cert::time::Validity;

use super::collateral::Dates;
use super::keys::KeyPair;
use super::platform::Platform;
use crate::chain::{
    AUTHORITY_KEY, BASIC_CONSTRAINTS, ChainError, EC_PUBLIC_KEY, KEY_USAGE, SUBJECT_KEY, YEAR, extension, time,
};
use crate::chip::Seed;

const SECP256R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const ECDSA_SHA256: AlgorithmIdentifierOwned =
    AlgorithmIdentifierOwned { oid: ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2"), parameters: None };
const CRL_NUMBER: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.20");

const AUTHORITY_YEARS: u32 = 20;
/// Years that other certificates are good for.
pub(super) const LEAF_YEARS: u32 = 7;

const ROOT: &str = "TEST Intel SGX Root CA";
const PLATFORM_CA: &str = "Intel SGX PCK Platform CA";
const PCK: &str = "Intel SGX PCK Certificate";
const TCB_SIGNER: &str = "Intel SGX TCB Signing";

/// What issues certificates and statements.
pub struct Authority {
    root: Issuer,
    platform_ca: Issuer,
    tcb_signer: Issuer,
    from: Duration,
}

/// A key with its name.
struct Issuer {
    key: KeyPair,
    common: &'static str,
}

/// What is certified.
struct Contents<'a> {
    serial: &'a [u8],
    common: &'static str,
    key: &'a KeyPair,
    years: u32,
    kind: Kind,
    more: Option<Extension>,
}

/// What a certificate's key may do.
#[derive(Clone, Copy)]
enum Kind {
    /// Sign certificates, with so many authorities below.
    Authority(Option<u8>),
    /// Sign other things.
    Leaf,
}

impl Authority {
    /// The authority that follows from a seed, and whose certificates begin then, since 1970.
    #[must_use]
    pub fn new(seed: &Seed, from: Duration) -> Authority {
        let issuer = |label, common| Issuer { key: KeyPair::derive(seed, label), common };
        Authority {
            root: issuer("TDX root", ROOT),
            platform_ca: issuer("TDX platform CA", PLATFORM_CA),
            tcb_signer: issuer("TDX TCB signing", TCB_SIGNER),
            from,
        }
    }

    /// When certificates begin, since 1970.
    #[must_use]
    pub fn not_before(&self) -> Duration {
        self.from
    }

    /// When the first of them ends, since 1970.
    #[must_use]
    pub fn not_after(&self) -> Duration {
        self.from.saturating_add(YEAR * LEAF_YEARS)
    }

    /// What its root is known by: SHA-256 of the public key in DER.
    pub fn fingerprint(&self) -> Result<[u8; 32], ChainError> {
        Ok(Sha256::digest(public_key(&self.root.key)?.to_der()?).into())
    }

    /// The root's certificate, which it issues itself.
    pub fn root(&self) -> Result<Vec<u8>, ChainError> {
        let kind = Kind::Authority(Some(1));
        let Issuer { key, common } = &self.root;
        let contents = Contents { serial: &[1], common, key, years: AUTHORITY_YEARS, kind, more: None };
        self.root.issue(contents, self.from)
    }

    /// The certificate of what issues platforms' certificates.
    pub fn platform_ca(&self) -> Result<Vec<u8>, ChainError> {
        let kind = Kind::Authority(Some(0));
        let Issuer { key, common } = &self.platform_ca;
        let contents = Contents { serial: &[2], common, key, years: AUTHORITY_YEARS, kind, more: None };
        self.root.issue(contents, self.from)
    }

    /// The certificate of the key that signs statements about platforms.
    pub fn tcb_signer(&self) -> Result<Vec<u8>, ChainError> {
        let Issuer { key, common } = &self.tcb_signer;
        let contents = Contents { serial: &[3], common, key, years: LEAF_YEARS, kind: Kind::Leaf, more: None };
        self.root.issue(contents, self.from)
    }

    /// The certificate of a platform's key (PCK).
    pub fn pck(&self, platform: &Platform) -> Result<Vec<u8>, ChainError> {
        let (more, serial) = (Some(platform.extension()?), &platform.serial()[..]);
        let contents = Contents { serial, common: PCK, key: platform.key(), years: LEAF_YEARS, kind: Kind::Leaf, more };
        self.platform_ca.issue(contents, self.from)
    }

    /// The certificates that a quote of this platform has with it, in PEM: its own first, the root last.
    pub fn pck_chain(&self, platform: &Platform) -> Result<String, ChainError> {
        pem(&[self.pck(platform)?, self.platform_ca()?, self.root()?])
    }

    /// Those of who issued the platform's certificate, in PEM.
    pub fn platform_ca_chain(&self) -> Result<String, ChainError> {
        pem(&[self.platform_ca()?, self.root()?])
    }

    /// Those of who signs statements, in PEM.
    pub fn signing_chain(&self) -> Result<String, ChainError> {
        pem(&[self.tcb_signer()?, self.root()?])
    }

    /// What the root has revoked: nothing.
    pub fn root_crl(&self, dates: Dates) -> Result<Vec<u8>, ChainError> {
        self.root.list(dates)
    }

    /// Which platforms' certificates were revoked: none.
    pub fn pck_crl(&self, dates: Dates) -> Result<Vec<u8>, ChainError> {
        self.platform_ca.list(dates)
    }

    /// Signs a statement's text: r and s.
    pub(super) fn sign(&self, text: &str) -> [u8; super::keys::PAIR_BYTES] {
        self.tcb_signer.key.sign(text.as_bytes())
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("from", &self.from).finish_non_exhaustive()
    }
}

impl Issuer {
    fn issue(&self, contents: Contents<'_>, from: Duration) -> Result<Vec<u8>, ChainError> {
        let Contents { serial, common, key, years, kind, more } = contents;
        let tbs_certificate: TbsCertificateInner = TbsCertificateInner {
            version: Version::V3,
            serial_number: SerialNumber::new(serial)?,
            signature: ECDSA_SHA256,
            issuer: name(self.common)?,
            validity: Validity { not_before: time(from)?, not_after: time(from.saturating_add(YEAR * years))? },
            subject: name(common)?,
            subject_public_key_info: public_key(key)?,
            issuer_unique_id: None,
            subject_unique_id: None,
            extensions: Some([extensions(key, &self.key, kind)?, more.into_iter().collect()].concat()),
        };
        let signature = BitString::from_bytes(&self.key.sign_der(&tbs_certificate.to_der()?))?;
        let certificate: CertificateInner =
            CertificateInner { tbs_certificate, signature_algorithm: ECDSA_SHA256, signature };
        Ok(certificate.to_der()?)
    }

    /// A list of no certificates.
    fn list(&self, Dates { from, to }: Dates) -> Result<Vec<u8>, ChainError> {
        let number = CrlNumber(x509_cert::der::asn1::Uint::new(&[1])?);
        let tbs_cert_list = TbsCertList {
            version: Version::V2,
            signature: ECDSA_SHA256,
            issuer: name(self.common)?,
            this_update: time(from)?,
            next_update: Some(time(to)?),
            revoked_certificates: None,
            crl_extensions: Some(vec![
                extension(CRL_NUMBER, false, &number.to_der()?)?,
                extension(AUTHORITY_KEY, false, &by(&self.key)?.to_der()?)?,
            ]),
        };
        let signature = BitString::from_bytes(&self.key.sign_der(&tbs_cert_list.to_der()?))?;
        Ok(CertificateList { tbs_cert_list, signature_algorithm: ECDSA_SHA256, signature }.to_der()?)
    }
}

/// A name that says what it is not.
fn name(common: &str) -> Result<Name, ChainError> {
    Ok(Name::from_str(&format!("CN={common},OU=TEST software not hardware,O=TEST tenure test platform"))?)
}

fn public_key(key: &KeyPair) -> Result<SubjectPublicKeyInfoOwned, ChainError> {
    let algorithm = AlgorithmIdentifierOwned { oid: EC_PUBLIC_KEY, parameters: Some(Any::from(&SECP256R1)) };
    Ok(SubjectPublicKeyInfoOwned { algorithm, subject_public_key: BitString::from_bytes(&key.public_point())? })
}

fn extensions(of: &KeyPair, by_key: &KeyPair, kind: Kind) -> Result<Vec<Extension>, ChainError> {
    let (constraints, usage) = match kind {
        Kind::Authority(path_len_constraint) => {
            (BasicConstraints { ca: true, path_len_constraint }, KeyUsages::KeyCertSign | KeyUsages::CRLSign)
        }
        Kind::Leaf => (
            BasicConstraints { ca: false, path_len_constraint: None },
            KeyUsages::DigitalSignature | KeyUsages::NonRepudiation,
        ),
    };
    Ok(vec![
        extension(AUTHORITY_KEY, false, &by(by_key)?.to_der()?)?,
        extension(SUBJECT_KEY, false, &SubjectKeyIdentifier(identifier(of)?).to_der()?)?,
        extension(KEY_USAGE, true, &KeyUsage(usage).to_der()?)?,
        extension(BASIC_CONSTRAINTS, true, &constraints.to_der()?)?,
    ])
}

fn by(key: &KeyPair) -> Result<AuthorityKeyIdentifier, ChainError> {
    Ok(AuthorityKeyIdentifier { key_identifier: Some(identifier(key)?), ..Default::default() })
}

/// The first 20 bytes of a hash over the key (RFC 7093).
fn identifier(key: &KeyPair) -> Result<OctetString, ChainError> {
    Ok(OctetString::new(&Sha256::digest(key.public_point())[..20])?)
}

fn pem(certificates: &[Vec<u8>]) -> Result<String, ChainError> {
    let encode = |der: &Vec<u8>| encode_string("CERTIFICATE", LineEnding::LF, der);
    certificates.iter().map(encode).collect::<Result<String, _>>().map_err(|error| ChainError::Encoding(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tdx::platform::Versions;
    use x509_cert::der::Decode as _;

    /// no-silent-trust: no name of any certificate or list can be taken for Intel's.
    #[test]
    fn no_silent_trust_names_say_what_they_are() {
        let seed = Seed([7; 32]);
        let (from, to) = (Duration::from_secs(1_767_225_600), Duration::from_secs(1_767_225_601));
        let authority = Authority::new(&seed, from);
        let pck = authority.pck(&Platform::new(&seed, Versions::USUAL)).unwrap();
        let (root, ca, signer) = (authority.root(), authority.platform_ca(), authority.tcb_signer());
        for der in [pck, root.unwrap(), ca.unwrap(), signer.unwrap()] {
            let fields = CertificateInner::<x509_cert::certificate::Rfc5280>::from_der(&der).unwrap().tbs_certificate;
            for name in [fields.subject, fields.issuer].map(|name| name.to_string()) {
                assert!(name.contains("OU=TEST software not hardware,O=TEST tenure test platform"), "{name}");
            }
        }
        for der in [authority.root_crl(Dates { from, to }), authority.pck_crl(Dates { from, to })] {
            let issuer = CertificateList::from_der(&der.unwrap()).unwrap().tbs_cert_list.issuer.to_string();
            assert!(issuer.contains("OU=TEST software not hardware"), "{issuer}");
        }
    }
}

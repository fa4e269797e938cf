//! Lists of revoked certificates, as much of them as AMD's need.
//!
//! Owns reading a list, who signed it, from when to when it holds, and which numbers are on it. Does not own whose list
//! counts for what: see [`mod@crate::snp::verify`].
//!
//! Specifications: RFC 5280, section 5; RFC 4055 for RSASSA-PSS; AMD 57230 for what of them AMD uses.

use alloc::string::ToString;
use core::fmt;

use der::asn1::{BitStringRef, ObjectIdentifier, UintRef};
use der::{Decode as _, Encode as _, Reader as _, SliceReader};
use x509_cert::crl::TbsCertList;
use x509_cert::ext::Extensions;
use x509_cert::name::Name;
use x509_cert::spki::AlgorithmIdentifierRef;

use crate::UnixTime;
use crate::hex::Hex;
use crate::x509::{Certificate, CertificateError, is_pss_sha384};

const CRL_NUMBER: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.20");

/// What is wrong with a list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ListError {
    #[error("not a list of revoked certificates: {0}")]
    Form(der::Error),
    #[error("a list that is {0}")]
    Signature(CertificateError),
    #[error("a list that does not say when the next one comes")]
    Endless,
    #[error("a list with the critical extension {0}, which is unknown")]
    Critical(ObjectIdentifier),
}

impl From<der::Error> for ListError {
    fn from(error: der::Error) -> Self {
        Self::Form(error)
    }
}

/// A list, read and not verified.
pub(crate) struct RevocationList<'a> {
    /// The bytes that are signed.
    signed: &'a [u8],
    fields: TbsCertList,
    next: UnixTime,
    signature: &'a [u8],
}

impl<'a> RevocationList<'a> {
    pub(crate) fn parse(der: &'a [u8]) -> Result<Self, ListError> {
        let mut reader = SliceReader::new(der)?;
        let (signed, algorithm, signature) = reader.sequence(|reader| {
            let signed = reader.tlv_bytes()?;
            let algorithm = AlgorithmIdentifierRef::decode(reader)?;
            Ok::<_, der::Error>((signed, algorithm, BitStringRef::decode(reader)?))
        })?;
        reader.finish()?;
        let fields = TbsCertList::from_der(signed)?;
        if !is_pss_sha384(algorithm) || fields.signature.to_der()? != algorithm.to_der()? {
            return Err(ListError::Signature(CertificateError::Algorithm));
        }
        let signature = signature.as_bytes().ok_or(ListError::Signature(CertificateError::Signature))?;
        // An extension that must be understood could say that the list is a part of one, or somebody else's.
        let entries = fields.revoked_certificates.iter().flatten().map(|entry| &entry.crl_entry_extensions);
        for extensions in entries.chain([&fields.crl_extensions]) {
            if let Some(id) = critical(extensions.as_ref()) {
                return Err(ListError::Critical(id));
            }
        }
        let next = fields.next_update.ok_or(ListError::Endless)?.to_unix_duration().as_secs();
        Ok(Self { signed, fields, next: UnixTime::from_secs(next), signature })
    }

    pub(crate) fn issuer(&self) -> &Name {
        &self.fields.issuer
    }

    /// From when on it holds, and when the next one must be there.
    pub(crate) fn validity(&self) -> (UnixTime, UnixTime) {
        (UnixTime::from_secs(self.fields.this_update.to_unix_duration().as_secs()), self.next)
    }

    /// That this key signed it. Names are not looked at.
    pub(crate) fn is_signed_by(&self, issuer: &Certificate<'_>) -> Result<(), ListError> {
        issuer.signed(self.signed, self.signature).map_err(ListError::Signature)
    }

    /// Whether the certificate with this number is on it.
    pub(crate) fn has(&self, serial: &[u8]) -> bool {
        self.fields.revoked_certificates.iter().flatten().any(|entry| entry.serial_number.as_bytes() == serial)
    }
}

impl fmt::Display for RevocationList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let extensions = self.fields.crl_extensions.iter().flatten();
        let number = extensions.filter(|extension| extension.extn_id == CRL_NUMBER).find_map(|extension| {
            UintRef::from_der(extension.extn_value.as_bytes()).ok().map(|it| Hex(it.as_bytes()).to_string())
        });
        let revoked = self.fields.revoked_certificates.as_ref().map_or(0, alloc::vec::Vec::len);
        match number {
            Some(number) => write!(f, "its list 0x{number} of {revoked}"),
            None => write!(f, "its list of {revoked}"),
        }
    }
}

fn critical(extensions: Option<&Extensions>) -> Option<ObjectIdentifier> {
    extensions?.iter().find(|extension| extension.critical).map(|extension| extension.extn_id)
}

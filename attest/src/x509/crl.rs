//! Lists of revoked certificates.
//!
//! Owns reading one, who signed it, when it is good, and which serial numbers are on it. A list that speaks for another
//! issuer, or for a part of what its issuer issued, is not read: it would seem to say more than it does. Does not own
//! which list a certificate must not be on. Specification: RFC 5280, section 5.

use alloc::string::ToString as _;
use alloc::vec::Vec;
use core::fmt;

use der::asn1::{AnyRef, IntRef, ObjectIdentifier, OctetStringRef, UintRef};
use der::{Decode as _, ErrorKind, Reader as _, Sequence, SliceReader, Tag, Tagged as _};
use x509_cert::certificate::Version;
use x509_cert::ext::Extensions;
use x509_cert::name::Name;
use x509_cert::spki::AlgorithmIdentifierRef;
use x509_cert::time::Time;

use super::{Certificate, CertificateError, Signed, moment};
use crate::UnixTime;
use crate::hex::Hex;

/// Most bytes of a serial number: 20, and one for its sign.
const SERIAL_BYTES: usize = 21;
const CRL_NUMBER: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.20");

/// Delta CRL indicator and issuing distribution point: lists that are not whole.
const PARTIAL: [ObjectIdentifier; 2] =
    [ObjectIdentifier::new_unwrap("2.5.29.27"), ObjectIdentifier::new_unwrap("2.5.29.28")];

/// Why bytes are no list that can be relied on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CrlError {
    #[error("not a list of revoked certificates: {0}")]
    Form(der::Error),
    #[error(transparent)]
    Signed(#[from] CertificateError),
    #[error("a list of revoked certificates without the time of the next one")]
    NoNext,
    #[error("a list of revoked certificates with the extension {0}, which is critical or makes it a part of one")]
    Extension(ObjectIdentifier),
}

impl From<der::Error> for CrlError {
    fn from(error: der::Error) -> Self {
        Self::Form(error)
    }
}

/// Why bytes are no list of revoked certificates.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct ListError(CrlError);

/// Whether bytes are a list that could count, in DER: whose it is, and of when, shows only together with evidence.
pub fn expect_list(der: &[u8]) -> Result<(), ListError> {
    Crl::parse(der).map(drop).map_err(ListError)
}

/// TBSCertList.
#[derive(Debug, Sequence)]
struct Fields<'a> {
    version: Version,
    signature: AlgorithmIdentifierRef<'a>,
    issuer: Name,
    this_update: Time,
    next_update: Option<Time>,
    revoked: Option<Vec<Entry<'a>>>,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    extensions: Option<Extensions>,
}

/// One of its revokedCertificates. There may be thousands, so nothing of it is copied.
#[derive(Debug, Sequence)]
struct Entry<'a> {
    serial: IntRef<'a>,
    date: Time,
    extensions: Option<AnyRef<'a>>,
}

/// An extension of that.
#[derive(Sequence)]
struct EntryExtension<'a> {
    id: ObjectIdentifier,
    #[asn1(default = "Default::default")]
    critical: bool,
    value: &'a OctetStringRef,
}

/// A list, read and not verified.
#[derive(Debug)]
pub(crate) struct Crl<'a> {
    signed: Signed<'a>,
    fields: Fields<'a>,
    next: UnixTime,
}

impl<'a> Crl<'a> {
    pub(crate) fn parse(der: &'a [u8]) -> Result<Self, CrlError> {
        let signed = Signed::parse(der)?;
        let fields = Fields::from_der(signed.bytes)?;
        signed.names_inside(fields.signature)?;
        let next = moment(fields.next_update.ok_or(CrlError::NoNext)?);
        fields.extensions.iter().flatten().try_for_each(|it| check(it.extn_id, it.critical))?;
        fields.revoked.iter().flatten().try_for_each(Entry::check)?;
        Ok(Self { signed, fields, next })
    }

    pub(crate) fn issuer(&self) -> &Name {
        &self.fields.issuer
    }

    /// From when to when it is the newest.
    pub(crate) fn validity(&self) -> (UnixTime, UnixTime) {
        (moment(self.fields.this_update), self.next)
    }

    /// Which of its issuer's lists it is, if it says so: later ones have higher numbers.
    pub(crate) fn number(&self) -> Option<u64> {
        let number = self.number_bytes()?;
        let bytes = number.as_bytes();
        // Beyond that it is higher than any floor.
        Some(if bytes.len() > 8 { u64::MAX } else { bytes.iter().fold(0, |all, byte| all << 8 | u64::from(*byte)) })
    }

    fn number_bytes(&self) -> Option<UintRef<'_>> {
        let mut extensions = self.fields.extensions.iter().flatten();
        let number = extensions.find(|extension| extension.extn_id == CRL_NUMBER)?;
        UintRef::from_der(number.extn_value.as_bytes()).ok()
    }

    /// That this issuer's key signed it. Names are not looked at.
    pub(crate) fn is_signed_by(&self, issuer: &Certificate<'_>) -> Result<(), CertificateError> {
        self.signed.is_by(issuer)
    }

    /// Whether this certificate, if the list's issuer issued it, was revoked.
    pub(crate) fn has(&self, certificate: &Certificate<'_>) -> bool {
        self.fields.revoked.iter().flatten().any(|entry| entry.serial.as_bytes() == certificate.serial().as_bytes())
    }
}

impl Entry<'_> {
    fn check(&self) -> Result<(), CrlError> {
        if self.serial.as_bytes().len() > SERIAL_BYTES {
            return Err(der::Error::from(ErrorKind::Overlength).into());
        }
        let Some(extensions) = self.extensions else { return Ok(()) };
        extensions.tag().assert_eq(Tag::Sequence)?;
        let mut reader = SliceReader::new(extensions.value())?;
        while !reader.is_finished() {
            let EntryExtension { id, critical, .. } = EntryExtension::decode(&mut reader)?;
            check(id, critical)?;
        }
        Ok(())
    }
}

/// That an extension of a list or an entry need not be understood.
fn check(id: ObjectIdentifier, is_critical: bool) -> Result<(), CrlError> {
    if is_critical || PARTIAL.contains(&id) { Err(CrlError::Extension(id)) } else { Ok(()) }
}

impl fmt::Display for Crl<'_> {
    /// Which of its issuer's lists it is, and how long.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.number_bytes().map(|it| Hex(it.as_bytes()).to_string());
        let revoked = self.fields.revoked.as_ref().map_or(0, Vec::len);
        match number {
            Some(number) => write!(f, "its list 0x{number} of {revoked}"),
            None => write!(f, "its list of {revoked}"),
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::path::Path;
    use std::string::ToString;
    use std::vec::Vec;

    /// A list of a real issuer's, as its collateral has it.
    fn list(name: &str) -> Vec<u8> {
        let path = "../tests/vectors/tdx/attest/real/v4-uptodate-phala.collateral.json";
        let file = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
        let file: serde_json::Value = serde_json::from_slice(&file).unwrap();
        let digits: Vec<_> = file[name].as_str().unwrap().chars().map(|digit| digit.to_digit(16).unwrap()).collect();
        digits.chunks(2).map(|pair| u8::try_from(pair[0] << 4 | pair[1]).unwrap()).collect()
    }

    #[test]
    fn lists_say_what_they_are_about() {
        let bytes = list("pck_crl");
        let list = Crl::parse(&bytes).unwrap();
        assert!(list.issuer().to_string().contains("Intel SGX PCK Platform CA"));
        assert_eq!(list.number(), Some(1));
        assert!(list.fields.revoked.unwrap().len() > 10, "a real one");
        assert_eq!(expect_list(&bytes), Ok(()));
        assert!(expect_list(&bytes[1..]).is_err());
    }

    /// no-silent-trust: a list that is not whole, or has to be understood in a way that is not known, is none.
    #[test]
    fn no_silent_trust_lists_that_say_less_than_they_seem() {
        let bytes = list("root_ca_crl");
        assert!(Crl::parse(&bytes).is_ok());
        // The CRL number's identifier, 2.5.29.20, as a delta's (27) and as that of a part (28).
        let number = [0x06, 0x03, 0x55, 0x1d, 0x14];
        let at = bytes.windows(number.len()).position(|window| window == number).unwrap() + 4;
        for arc in [27, 28] {
            let mut changed = bytes.clone();
            changed[at] = arc;
            let id = ObjectIdentifier::new_unwrap("2.5.29").push_arc(arc.into()).unwrap();
            assert_eq!(Crl::parse(&changed).unwrap_err(), CrlError::Extension(id));
        }
        // An entry's date, after the list's two, without a month.
        let mut entries = list("pck_crl");
        let mut dates = entries.windows(2).enumerate().filter(|(_, head)| *head == [0x17, 13]);
        let (at, _) = dates.nth(2).unwrap();
        entries[at + 4..at + 6].copy_from_slice(b"13");
        assert!(matches!(Crl::parse(&entries), Err(CrlError::Form(_))));
        for end in 0..bytes.len() {
            assert!(Crl::parse(&bytes[..end]).is_err());
        }
        assert!(Crl::parse(&[&bytes[..], &[0]].concat()).is_err());
    }
}

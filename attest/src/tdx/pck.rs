//! What the certificate of a platform's key (PCK) says of the platform.
//!
//! Owns Intel's extension. What is missing is missing, never a default; what is there twice is malformed.
//! Specification: Intel SGX PCK Certificate and CRL Profile, "SGX TCB" and "PCK certificate extensions".

use alloc::vec::Vec;

use der::asn1::{AnyRef, ObjectIdentifier, OctetStringRef};
use der::{Decode as _, Reader as _, Sequence, SliceReader, Tag, Tagged as _};

use crate::x509::Certificate;

const SGX: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113741.1.13.1");
const TCB: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113741.1.13.1.2");
const PCE_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113741.1.13.1.3");
const FMSPC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113741.1.13.1.4");
/// Below [`TCB`]: components are 1 to 16.
const PCE_SVN: u32 = 17;

/// Why there is no such statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unsaid {
    #[error("not named: {0} is missing")]
    Missing(&'static str),
    #[error("malformed")]
    Malformed,
}

impl From<der::Error> for Unsaid {
    fn from(_: der::Error) -> Self {
        Self::Malformed
    }
}

/// A platform's kind and the versions that its key belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pck {
    /// Family, model, stepping, platform type and custom SKU.
    pub(crate) fmspc: [u8; 6],
    /// The provisioning certification enclave.
    pub(crate) pce_id: [u8; 2],
    /// Versions of the platform's components.
    pub(crate) components: [u8; 16],
    /// Version of the provisioning certification enclave.
    pub(crate) pce_svn: u16,
}

/// One statement: what it is about, and what it is.
#[derive(Sequence)]
struct Statement<'a> {
    id: ObjectIdentifier,
    value: AnyRef<'a>,
}

impl Pck {
    pub(crate) fn of(certificate: &Certificate<'_>) -> Result<Self, Unsaid> {
        Self::read(certificate.extension(SGX).ok_or(Unsaid::Missing("all of it"))?)
    }

    /// Reads the contents of the extension.
    pub(crate) fn read(contents: &[u8]) -> Result<Self, Unsaid> {
        let extension = statements(AnyRef::from_der(contents)?)?;
        let tcb = statements(said(&extension, TCB, "its TCB")?)?;
        let mut components = [0; 16];
        for (number, component) in (1..).zip(&mut components) {
            *component = said(&tcb, under_tcb(number)?, "a component's version")?.decode_as()?;
        }
        Ok(Self {
            fmspc: octets(said(&extension, FMSPC, "its FMSPC")?)?,
            pce_id: octets(said(&extension, PCE_ID, "its PCE-ID")?)?,
            components,
            pce_svn: said(&tcb, under_tcb(PCE_SVN)?, "its PCE's version")?.decode_as()?,
        })
    }
}

fn under_tcb(arc: u32) -> Result<ObjectIdentifier, Unsaid> {
    TCB.push_arc(arc).map_err(|_| Unsaid::Malformed)
}

/// A sequence of statements.
fn statements(sequence: AnyRef<'_>) -> Result<Vec<Statement<'_>>, Unsaid> {
    if sequence.tag() != Tag::Sequence {
        return Err(Unsaid::Malformed);
    }
    let mut reader = SliceReader::new(sequence.value())?;
    let mut statements = Vec::new();
    while !reader.is_finished() {
        statements.push(Statement::decode(&mut reader)?);
    }
    Ok(statements)
}

/// The one statement about this.
fn said<'a>(statements: &[Statement<'a>], id: ObjectIdentifier, what: &'static str) -> Result<AnyRef<'a>, Unsaid> {
    let mut about = statements.iter().filter(|statement| statement.id == id);
    match (about.next(), about.next()) {
        (Some(statement), None) => Ok(statement.value),
        (None, _) => Err(Unsaid::Missing(what)),
        (Some(_), Some(_)) => Err(Unsaid::Malformed),
    }
}

fn octets<const N: usize>(value: AnyRef<'_>) -> Result<[u8; N], Unsaid> {
    value.decode_as::<&OctetStringRef>()?.as_bytes().try_into().map_err(|_| Unsaid::Malformed)
}

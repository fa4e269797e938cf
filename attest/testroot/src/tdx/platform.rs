//! A platform that pretends to run TDX, and everything that its certificate says of it.
//!
//! Owns what follows from its seed (its kind, its numbers, its keys) and the versions on it. Specification: Intel SGX PCK
//! Certificate and CRL Profile, "SGX TCB" and "PCK certificate extensions", for a platform with several packages.

use x509_cert::der::asn1::{Any, ObjectIdentifier, OctetStringRef};
use x509_cert::der::{Encode as _, Tag};
use x509_cert::ext::Extension;

use super::keys::KeyPair;
use crate::chain::{ChainError, extension};
use crate::chip::Seed;

/// Intel's arc for these extensions.
const SGX: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113741.1.13.1");
/// Below [`SGX`].
const PPID: u32 = 1;
const TCB: u32 = 2;
const PCE_ID: u32 = 3;
const FMSPC: u32 = 4;
const SGX_TYPE: u32 = 5;
const INSTANCE: u32 = 6;
const CONFIGURATION: u32 = 7;
/// Below [`TCB`]; components are 1 to 16.
const PCE_SVN: u32 = 17;
const CPU_SVN: u32 = 18;

/// SGX type of platforms with several packages: "scalable".
const SCALABLE: u8 = 1;

/// Security versions on a platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// Of the processor's components; CPUSVN is the same.
    pub components: [u8; 16],
    /// Of the provisioning certification enclave.
    pub pce: u16,
    /// Of the TDX module, minor and major, and what comes with it: TEE_TCB_SVN.
    pub tee: [u8; 16],
    /// Of the quoting enclave.
    pub qe: u16,
}

/// A platform.
#[derive(Clone)]
pub struct Platform {
    seed: Seed,
    versions: Versions,
    key: KeyPair,
    attestation_key: KeyPair,
}

impl Versions {
    /// What a usual machine has: a TDX module 1.5.
    pub const USUAL: Versions = Versions {
        components: [5, 5, 2, 2, 4, 1, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0],
        pce: 13,
        tee: [7, 1, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        qe: 8,
    };
}

impl Platform {
    /// The platform that has this seed, with these versions on it.
    #[must_use]
    pub fn new(seed: &Seed, versions: Versions) -> Platform {
        let [key, attestation_key] = ["PCK", "attestation key"].map(|label| KeyPair::derive(seed, label));
        Platform { seed: *seed, versions, key, attestation_key }
    }

    /// The versions on it.
    #[must_use]
    pub fn versions(&self) -> Versions {
        self.versions
    }

    /// Its kind: another root's is another one.
    #[must_use]
    pub fn fmspc(&self) -> [u8; 6] {
        self.bytes("FMSPC")
    }

    /// Its provisioning certification enclave: Intel's first.
    #[must_use]
    pub fn pce_id(&self) -> [u8; 2] {
        [0; 2]
    }

    /// The TDX module's measurement.
    pub(super) fn mr_seam(&self) -> [u8; 48] {
        self.seed.derive_48("MRSEAM", &[])
    }

    /// The quoting enclave's measurement.
    pub(super) fn qe_measurement(&self) -> [u8; 32] {
        self.bytes("QE MRENCLAVE")
    }

    /// Who signed the quoting enclave.
    pub(super) fn qe_signer(&self) -> [u8; 32] {
        self.bytes("QE MRSIGNER")
    }

    /// The quoting enclave's number on this platform.
    pub(super) fn qe_id(&self) -> [u8; 16] {
        self.bytes("QE ID")
    }

    /// The key that Intel would certify.
    pub(super) fn key(&self) -> &KeyPair {
        &self.key
    }

    /// The key that signs quotes.
    pub(super) fn attestation_key(&self) -> &KeyPair {
        &self.attestation_key
    }

    /// The number of its certificate.
    pub(super) fn serial(&self) -> [u8; 20] {
        let mut serial: [u8; 20] = self.bytes("PCK serial");
        // Neither negative nor shorter than it is.
        serial[0] = serial[0] & 0x7f | 0x40;
        serial
    }

    fn bytes<const N: usize>(&self, label: &str) -> [u8; N] {
        crate::bytes::take(&self.seed.derive(label, &[]), 0)
    }

    /// What its certificate says of it.
    pub(super) fn extension(&self) -> Result<Extension, ChainError> {
        let Versions { components, pce, .. } = self.versions;
        let tcb = below(SGX, TCB)?;
        let mut versions = Vec::new();
        for (number, component) in (1..).zip(components) {
            versions.push(said(below(tcb, number)?, &component)?);
        }
        versions.push(said(below(tcb, PCE_SVN)?, &pce)?);
        versions.push(said(below(tcb, CPU_SVN)?, &OctetStringRef::new(&components)?)?);
        let configuration = below(SGX, CONFIGURATION)?;
        // It is dynamic, keys are cached, and there is SMT: what usual machines say.
        let flags = (1..=3).map(|number| said(below(configuration, number)?, &true)).collect::<Result<Vec<_>, _>>()?;
        let octets = |number, bytes: &[u8]| said(below(SGX, number)?, &OctetStringRef::new(bytes)?);
        let all = [
            octets(PPID, &self.bytes::<16>("PPID"))?,
            sequence(&[tcb.to_der()?, sequence(&versions)?])?,
            octets(PCE_ID, &self.pce_id())?,
            octets(FMSPC, &self.fmspc())?,
            said(below(SGX, SGX_TYPE)?, &Any::new(Tag::Enumerated, [SCALABLE])?)?,
            octets(INSTANCE, &self.bytes::<16>("platform instance"))?,
            sequence(&[configuration.to_der()?, sequence(&flags)?])?,
        ];
        extension(SGX, false, &sequence(&all)?)
    }
}

impl std::fmt::Debug for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Platform").field("versions", &self.versions).finish_non_exhaustive()
    }
}

fn below(arc: ObjectIdentifier, number: u32) -> Result<ObjectIdentifier, ChainError> {
    Ok(arc.push_arc(number).map_err(x509_cert::der::Error::from)?)
}

/// One statement: what it is about, and what it is.
fn said(id: ObjectIdentifier, value: &impl x509_cert::der::Encode) -> Result<Vec<u8>, ChainError> {
    sequence(&[id.to_der()?, value.to_der()?])
}

fn sequence(parts: &[Vec<u8>]) -> Result<Vec<u8>, ChainError> {
    Ok(Any::new(Tag::Sequence, parts.concat())?.to_der()?)
}

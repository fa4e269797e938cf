//! The table in which a host passes certificates to a guest that asks for an extended report.
//!
//! Entries of GUID, offset and length, an empty one at the end, then the certificates. Specification: 56421, "SNP Extended
//! Guest Request"; the GUIDs' bytes stand in the order in which GUIDs are written.

use crate::chain::{Authority, ChainError};
use crate::report::EndorsementKey;

use super::vek::VekSubject;

const VCEK: [u8; 16] = 0x63da758d_e664_4564_adc5_f4b93be8accd_u128.to_be_bytes();
const VLEK: [u8; 16] = 0xa8074bc2_a25a_483e_aae6_39c045a0b8a1_u128.to_be_bytes();
const ASK: [u8; 16] = 0x4ab7b379_bbac_4fe4_a02f_05aef327c782_u128.to_be_bytes();
const ARK: [u8; 16] = 0xc0b406a4_a803_4952_9743_3fb6014cd0ae_u128.to_be_bytes();
const ENTRY_BYTES: usize = 24;

/// A platform's certificates, in DER.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateTable {
    /// Whose key the last one is.
    pub kind: EndorsementKey,
    /// The root.
    pub ark: Vec<u8>,
    /// ASK or ASVK: the table has one GUID for both.
    pub intermediate: Vec<u8>,
    /// VCEK or VLEK.
    pub vek: Vec<u8>,
}

impl CertificateTable {
    /// The certificates of an endorsement key and of who issues them.
    pub fn issue(authority: &Authority, subject: &VekSubject) -> Result<CertificateTable, ChainError> {
        Ok(CertificateTable {
            kind: subject.kind,
            ark: authority.ark()?,
            intermediate: authority.intermediate(subject.kind)?,
            vek: authority.vek(subject)?,
        })
    }

    /// The bytes that the host passes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let vek = match self.kind {
            EndorsementKey::Vcek => VCEK,
            EndorsementKey::Vlek => VLEK,
        };
        let certificates = [(ARK, &self.ark), (ASK, &self.intermediate), (vek, &self.vek)];
        let number = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
        let mut offset = ENTRY_BYTES * (certificates.len() + 1);
        let mut table = Vec::new();
        for (guid, certificate) in certificates {
            table.extend(guid);
            table.extend(number(offset));
            table.extend(number(certificate.len()));
            offset += certificate.len();
        }
        table.resize(ENTRY_BYTES * (certificates.len() + 1), 0);
        table.extend([&self.ark[..], &self.intermediate, &self.vek].concat());
        table
    }
}

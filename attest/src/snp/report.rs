//! Attestation reports, as the firmware writes them.
//!
//! Owns the layout of versions 2 to 5 and what of it must be zero. A report stays the bytes that were received, because
//! that is what is signed; nothing is known of it but by [`Report`]'s methods. Does not own who signed: a report that
//! was parsed says nothing that can be believed, see [`mod@crate::snp::verify`].
//!
//! Version 3 adds family, model and stepping, version 5 the mitigations; 4 is like 3. Specification: 56860,
//! MSG_REPORT_REQ, "ATTESTATION_REPORT"; "ECDSA P-384 with SHA-384" for the signature.

use core::fmt;

use zerocopy::{FromBytes as _, IntoBytes as _};

use super::{PackedTcb, Product};
use layout::{Layout, PackedVersion};

mod layout;

/// Bytes of a report.
pub const REPORT_BYTES: usize = 0x4a0;
/// Bytes of it that are signed: the first ones.
pub const SIGNED_BYTES: usize = 0x2a0;
/// The one signature algorithm there is: ECDSA on P-384 with SHA-384.
pub const ECDSA_P384_SHA384: u32 = 1;

/// VMPL of a report that the host asked for.
const VMPL_HOST: u32 = u32::MAX;
/// Bytes of a number on P-384, in fields of 72.
const NUMBER_BYTES: usize = 48;
/// Bits of KEY_INFO that mean something.
const KEY_INFO_KNOWN: u32 = 0x1f;
/// Bits of a guest policy that mean something, bit 17 among them, which is always one.
const POLICY_KNOWN: u64 = (1 << 26) - 1;
const POLICY_ONE: u64 = 1 << 17;

/// Why bytes are no report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// Another length.
    #[error("it has {0} bytes, not {REPORT_BYTES}")]
    Length(usize),
    /// Another version.
    #[error("its version is {0}; 2 to 5 are known")]
    Version(u32),
    /// Reserved bytes that are not zero.
    #[error("byte {0:#x} is reserved and must be 0")]
    Reserved(usize),
    /// Reserved bits of the policy.
    #[error("guest policy {0:#x}: bit 17 must be 1, and bits from 26 on 0")]
    Policy(u64),
    /// A privilege level that there is not.
    #[error("VMPL {0} does not exist")]
    Vmpl(u32),
    /// Another algorithm.
    #[error("signature algorithm {0} is not ECDSA P-384 with SHA-384 ({ECDSA_P384_SHA384})")]
    SignatureAlgorithm(u32),
    /// Reserved bits of KEY_INFO, or a key that there is not.
    #[error("KEY_INFO {0:#x} has reserved bits or names no known signing key")]
    KeyInfo(u32),
}

/// Who asked the firmware for a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Requester {
    /// The guest, at this privilege level: 0 to 3.
    Vmpl(u8),
    /// The host.
    Host,
}

/// The key that a report says it was signed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SigningKey {
    /// The chip's own (VCEK).
    Vcek,
    /// A provider's (VLEK).
    Vlek,
    /// None: the report is not signed.
    None,
}

/// Family, model and stepping as CPUID combines them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Processor {
    /// Family, with the extended family added.
    pub family: u8,
    /// Model, with the extended model in the high half.
    pub model: u8,
    /// Stepping.
    pub stepping: u8,
}

/// Version of the firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FirmwareVersion {
    /// Of its ABI, major.
    pub major: u8,
    /// Of its ABI, minor.
    pub minor: u8,
    /// Build.
    pub build: u8,
}

/// Mitigations that are in place, a bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mitigations {
    /// When the guest was launched.
    pub launch: u64,
    /// Now.
    pub current: u64,
}

/// A report, well-formed and not verified.
#[derive(Clone, Copy)]
pub struct Report<'a>(&'a Layout);

impl crate::Evidence for Report<'_> {
    type Anchor = super::Anchor;
}

impl<'a> Report<'a> {
    /// Reads a report.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ReportError> {
        let layout = Layout::ref_from_bytes(bytes).map_err(|_| ReportError::Length(bytes.len()))?;
        let report = Self(layout);
        match layout.version.get() {
            2..=5 => {}
            version => return Err(ReportError::Version(version)),
        }
        report.check_reserved()?;
        let policy = layout.policy.get();
        if policy & !POLICY_KNOWN != 0 || policy & POLICY_ONE == 0 {
            return Err(ReportError::Policy(policy));
        }
        match layout.vmpl.get() {
            0..=3 | VMPL_HOST => {}
            vmpl => return Err(ReportError::Vmpl(vmpl)),
        }
        match layout.signature_algorithm.get() {
            ECDSA_P384_SHA384 => {}
            algorithm => return Err(ReportError::SignatureAlgorithm(algorithm)),
        }
        match layout.key_info.get() {
            key_info if key_info & !KEY_INFO_KNOWN == 0 && matches!(key_info >> 2, 0 | 1 | 7) => {}
            key_info => return Err(ReportError::KeyInfo(key_info)),
        }
        Ok(report)
    }

    fn check_reserved(&self) -> Result<(), ReportError> {
        let layout = self.0;
        let version = layout.version.get();
        let reserved: [(usize, &[u8]); 9] = [
            (0x4c, &layout.reserved_4c),
            (0x188, if version < 3 { &layout.cpu } else { &[] }),
            (0x18b, &layout.reserved_18b),
            (0x1eb, core::slice::from_ref(&layout.reserved_1eb)),
            (0x1ef, core::slice::from_ref(&layout.reserved_1ef)),
            (0x1f8, if version < 5 { layout.launch_mitigations.as_bytes() } else { &[] }),
            (0x200, if version < 5 { layout.current_mitigations.as_bytes() } else { &[] }),
            (0x208, &layout.reserved_208),
            // Not signed, and so not to be anything.
            (0x330, &layout.reserved_330),
        ];
        for (at, bytes) in reserved {
            if let Some(index) = bytes.iter().position(|byte| *byte != 0) {
                return Err(ReportError::Reserved(at + index));
            }
        }
        Ok(())
    }

    /// All of it, as it was received.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.0.as_bytes()
    }

    /// What of it is signed, as it was received.
    #[must_use]
    pub fn signed_bytes(&self) -> &'a [u8] {
        &self.0.as_bytes()[..SIGNED_BYTES]
    }

    /// Version of the report's format.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.0.version.get()
    }

    /// The guest's security version, as its ID block says.
    #[must_use]
    pub fn guest_svn(&self) -> u32 {
        self.0.guest_svn.get()
    }

    /// The policy that the guest was launched with.
    #[must_use]
    pub fn policy(&self) -> u64 {
        self.0.policy.get()
    }

    /// FAMILY_ID, as the guest's ID block says.
    #[must_use]
    pub fn family_id(&self) -> &'a [u8; 16] {
        &self.0.family_id
    }

    /// IMAGE_ID, as the guest's ID block says.
    #[must_use]
    pub fn image_id(&self) -> &'a [u8; 16] {
        &self.0.image_id
    }

    /// Who asked for it.
    #[must_use]
    pub fn requester(&self) -> Requester {
        let [level, ..] = self.0.vmpl.get().to_le_bytes();
        if self.0.vmpl.get() == VMPL_HOST { Requester::Host } else { Requester::Vmpl(level) }
    }

    /// The algorithm of its signature: always [`ECDSA_P384_SHA384`].
    #[must_use]
    pub fn signature_algorithm(&self) -> u32 {
        self.0.signature_algorithm.get()
    }

    /// PLATFORM_INFO: what the platform has switched on.
    #[must_use]
    pub fn platform_info(&self) -> u64 {
        self.0.platform_info.get()
    }

    /// The versions that run.
    #[must_use]
    pub fn current_tcb(&self) -> PackedTcb {
        self.0.current_tcb
    }

    /// The versions that the signing key belongs to.
    #[must_use]
    pub fn reported_tcb(&self) -> PackedTcb {
        self.0.reported_tcb
    }

    /// The versions that the platform cannot go back behind.
    #[must_use]
    pub fn committed_tcb(&self) -> PackedTcb {
        self.0.committed_tcb
    }

    /// The versions that ran when the guest was launched.
    #[must_use]
    pub fn launch_tcb(&self) -> PackedTcb {
        self.0.launch_tcb
    }

    /// The key that it says it was signed with.
    #[must_use]
    pub fn signing_key(&self) -> SigningKey {
        match self.0.key_info.get() >> 2 {
            0 => SigningKey::Vcek,
            1 => SigningKey::Vlek,
            _ => SigningKey::None,
        }
    }

    /// Whether an author's key signed the key that signed the guest's ID block.
    #[must_use]
    pub fn author_key_enabled(&self) -> bool {
        self.0.key_info.get() & 1 != 0
    }

    /// Whether the platform keeps its VCEK to itself.
    #[must_use]
    pub fn mask_chip_key(&self) -> bool {
        self.0.key_info.get() & 2 != 0
    }

    /// What who asked wanted to be signed.
    #[must_use]
    pub fn report_data(&self) -> &'a [u8; 64] {
        &self.0.report_data
    }

    /// The launch digest.
    #[must_use]
    pub fn measurement(&self) -> &'a [u8; 48] {
        &self.0.measurement
    }

    /// What the host said at launch.
    #[must_use]
    pub fn host_data(&self) -> &'a [u8; 32] {
        &self.0.host_data
    }

    /// SHA-384 of the key that signed the guest's ID block; zeros if there was none.
    #[must_use]
    pub fn id_key_digest(&self) -> &'a [u8; 48] {
        &self.0.id_key_digest
    }

    /// The same, if there was one.
    #[must_use]
    pub fn id_key(&self) -> Option<&'a [u8; 48]> {
        not_zeros(&self.0.id_key_digest)
    }

    /// SHA-384 of the author's key; zeros if there was none.
    #[must_use]
    pub fn author_key_digest(&self) -> &'a [u8; 48] {
        &self.0.author_key_digest
    }

    /// The same, if it signed the guest's key. The digest alone says that a key was given, the bit that it signed.
    #[must_use]
    pub fn author_key(&self) -> Option<&'a [u8; 48]> {
        not_zeros(&self.0.author_key_digest).filter(|_| self.author_key_enabled())
    }

    /// The guest's number among all guests.
    #[must_use]
    pub fn report_id(&self) -> &'a [u8; 32] {
        &self.0.report_id
    }

    /// The same of its migration agent; all ones if there is none.
    #[must_use]
    pub fn report_id_ma(&self) -> &'a [u8; 32] {
        &self.0.report_id_ma
    }

    /// The processor; reports of version 2 don't say.
    #[must_use]
    pub fn processor(&self) -> Option<Processor> {
        let [family, model, stepping] = self.0.cpu;
        (self.version() >= 3).then_some(Processor { family, model, stepping })
    }

    /// CHIP_ID, which is zeros if it is masked. What it is if a VLEK signed is nobody's to check: see [`Self::chip`].
    #[must_use]
    pub fn chip_id(&self) -> &'a [u8; 64] {
        &self.0.chip_id
    }

    /// The chip, if the report names one that its key belongs to. A VLEK is a provider's and of no chip, so that no chip stands
    /// for what a report says that it signed.
    #[must_use]
    pub fn chip(&self) -> Option<&'a [u8; 64]> {
        not_zeros(&self.0.chip_id).filter(|_| self.signing_key() == SigningKey::Vcek)
    }

    /// The firmware that runs.
    #[must_use]
    pub fn current_version(&self) -> FirmwareVersion {
        self.0.current_version.into()
    }

    /// The firmware that the platform cannot go back behind.
    #[must_use]
    pub fn committed_version(&self) -> FirmwareVersion {
        self.0.committed_version.into()
    }

    /// Mitigations; reports before version 5 don't say.
    #[must_use]
    pub fn mitigations(&self) -> Option<Mitigations> {
        let Layout { launch_mitigations, current_mitigations, .. } = self.0;
        (self.version() >= 5)
            .then_some(Mitigations { launch: launch_mitigations.get(), current: current_mitigations.get() })
    }

    /// The signature's numbers R and S, big-endian; nothing if they are longer than such numbers are.
    #[must_use]
    pub fn signature(&self) -> Option<([u8; NUMBER_BYTES], [u8; NUMBER_BYTES])> {
        Some((number(&self.0.signature_r)?, number(&self.0.signature_s)?))
    }
}

/// A little-endian field as a big-endian number. Were its upper bytes ignored, one signature could be written in many
/// ways.
fn number(field: &[u8; 72]) -> Option<[u8; NUMBER_BYTES]> {
    let (number, rest) = field.split_first_chunk()?;
    let mut number = *number;
    number.reverse();
    rest.iter().all(|byte| *byte == 0).then_some(number)
}

/// What has zeros in it if it is not there.
fn not_zeros<const N: usize>(field: &[u8; N]) -> Option<&[u8; N]> {
    Some(field).filter(|field| field.iter().any(|byte| *byte != 0))
}

impl fmt::Debug for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Report")
            .field("version", &self.version())
            .field("signing_key", &self.signing_key())
            .finish_non_exhaustive()
    }
}

impl Processor {
    /// The product, if it is a known one.
    #[must_use]
    pub const fn product(self) -> Option<Product> {
        Product::from_family_model(self.family, self.model)
    }
}

impl From<PackedVersion> for FirmwareVersion {
    fn from(PackedVersion { build, minor, major }: PackedVersion) -> Self {
        Self { major, minor, build }
    }
}

impl fmt::Display for FirmwareVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{} build {}", self.major, self.minor, self.build)
    }
}

impl fmt::Display for Processor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "family {:#x}, model {:#x}, stepping {}", self.family, self.model, self.stepping)
    }
}

impl fmt::Display for Requester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vmpl(level) => write!(f, "the guest, at VMPL {level}"),
            Self::Host => f.write_str("the host"),
        }
    }
}

impl fmt::Display for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vcek => "VCEK",
            Self::Vlek => "VLEK",
            Self::None => "no key",
        })
    }
}

#[cfg(test)]
mod tests;

//! Attestation reports, as a platform's firmware writes and signs them.
//!
//! Owns the layout of versions 2, 3 and 5: what a guest has to say ([`Statement`]), what its platform adds ([`Platform`]),
//! and whose signature goes below. Version 3 adds family, model and stepping; 5 the mitigation vectors; 4 is not built. It
//! judges nothing: a statement may be as strange as a test wants it. Specification: 56860, MSG_REPORT_REQ,
//! "ATTESTATION_REPORT".

use crate::bytes::put;
use crate::chip::CHIP_ID_BYTES;
use crate::model::{Model, Tcb};
use crate::signing::KeyPair;

/// Bytes of a report.
pub const REPORT_BYTES: usize = 1184;
/// Bytes that are signed.
pub const SIGNED_BYTES: usize = 0x2a0;
/// A guest's policy that allows multithreading and nothing else; bit 17 is always one.
pub const USUAL_POLICY: u64 = 0x3_0000;

/// SIGNATURE_ALGO: ECDSA on P-384 with SHA-384.
const ECDSA_P384_SHA384: u32 = 1;
/// SIGNING_KEY of a report that nobody signed.
const UNSIGNED: u32 = 7;

/// Privilege level of a virtual machine's software, 0 (most) to 3 (least).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Vmpl {
    /// The level that validates pages.
    #[default]
    Vmpl0,
    /// The second level.
    Vmpl1,
    /// The third level.
    Vmpl2,
    /// The least privileged level.
    Vmpl3,
}

/// A key that endorses a platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndorsementKey {
    /// The chip's.
    Vcek,
    /// The provider's.
    Vlek,
}

/// What an ID block says of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// FAMILY_ID.
    pub family_id: [u8; 16],
    /// IMAGE_ID.
    pub image_id: [u8; 16],
    /// GUEST_SVN.
    pub guest_svn: u32,
    /// SHA-384 of the ID key.
    pub id_key_digest: [u8; 48],
    /// SHA-384 of the author's key.
    pub author_key_digest: Option<[u8; 48]>,
}

/// What a report says of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The launch digest.
    pub measurement: [u8; 48],
    /// What the guest wants to have signed (REPORT_DATA).
    pub report_data: [u8; 64],
    /// What its host said at launch (HOST_DATA).
    pub host_data: [u8; 32],
    /// The guest's policy.
    pub policy: u64,
    /// The level that the report is about.
    pub vmpl: Vmpl,
    /// What its owner signed of it, if anything.
    pub identity: Option<Identity>,
    /// The guest's number (REPORT_ID), if whoever launched it has drawn one.
    pub report_id: Option<[u8; 32]>,
}

/// What a report says of a platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// The processor.
    pub model: Model,
    /// The version of its reports.
    pub report_version: u32,
    /// Versions that run.
    pub current_tcb: Tcb,
    /// Versions that cannot be gone back behind.
    pub committed_tcb: Tcb,
    /// Versions that the key belongs to.
    pub reported_tcb: Tcb,
    /// Versions that ran when the guest was launched.
    pub launch_tcb: Tcb,
    /// PLATFORM_INFO.
    pub info: u64,
    /// The firmware that runs.
    pub firmware: Firmware,
    /// The firmware that cannot be gone back behind.
    pub committed_firmware: Firmware,
    /// Mitigations that are in place.
    pub mitigations: u64,
    /// The chip, unless it is not to be named.
    pub chip_id: Option<[u8; CHIP_ID_BYTES]>,
}

/// A version of the firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Firmware {
    /// Of its interface, major.
    pub major: u8,
    /// Of its interface, minor.
    pub minor: u8,
    /// Build.
    pub build: u8,
}

/// Who signs a report.
#[derive(Clone, Copy, Debug)]
pub enum Signer<'a> {
    /// A key of this kind.
    Key(EndorsementKey, &'a KeyPair),
    /// Nobody: the chip keeps its key to itself (MASK_CHIP_KEY).
    Nobody,
}

impl Vmpl {
    /// All levels, most privileged first.
    pub const ALL: [Vmpl; 4] = [Vmpl::Vmpl0, Vmpl::Vmpl1, Vmpl::Vmpl2, Vmpl::Vmpl3];

    /// The level of this number, if there is one.
    pub fn from_number(number: u32) -> Option<Vmpl> {
        Vmpl::ALL.into_iter().find(|vmpl| vmpl.number() == number)
    }

    /// Its number.
    pub fn number(self) -> u32 {
        match self {
            Vmpl::Vmpl0 => 0,
            Vmpl::Vmpl1 => 1,
            Vmpl::Vmpl2 => 2,
            Vmpl::Vmpl3 => 3,
        }
    }

    /// Its place in an array of one value a level.
    pub fn index(self) -> usize {
        match self {
            Vmpl::Vmpl0 => 0,
            Vmpl::Vmpl1 => 1,
            Vmpl::Vmpl2 => 2,
            Vmpl::Vmpl3 => 3,
        }
    }
}

impl EndorsementKey {
    fn number(self) -> u32 {
        match self {
            EndorsementKey::Vcek => 0,
            EndorsementKey::Vlek => 1,
        }
    }
}

impl Statement {
    /// About a guest that was launched as usual and has this digest, at VMPL 0, with nothing else to say.
    pub fn new(measurement: [u8; 48]) -> Statement {
        Statement {
            measurement,
            report_data: [0; 64],
            host_data: [0; 32],
            policy: USUAL_POLICY,
            vmpl: Vmpl::Vmpl0,
            identity: None,
            report_id: None,
        }
    }

    fn put(&self, report: &mut [u8]) {
        put(report, 0x008, &self.policy.to_le_bytes());
        put(report, 0x030, &self.vmpl.number().to_le_bytes());
        put(report, 0x034, &ECDSA_P384_SHA384.to_le_bytes());
        put(report, 0x050, &self.report_data);
        put(report, 0x090, &self.measurement);
        put(report, 0x0c0, &self.host_data);
        if let Some(identity) = self.identity {
            put(report, 0x004, &identity.guest_svn.to_le_bytes());
            put(report, 0x010, &identity.family_id);
            put(report, 0x020, &identity.image_id);
            put(report, 0x0e0, &identity.id_key_digest);
            put(report, 0x110, &identity.author_key_digest.unwrap_or([0; 48]));
        }
        put(report, 0x140, &self.report_id.unwrap_or([0; 32]));
        // No migration agent.
        put(report, 0x160, &[0xff; 32]);
    }
}

impl Platform {
    fn put(&self, report: &mut [u8]) {
        let tcb = |tcb: Tcb| tcb.to_bytes(self.model);
        put(report, 0x000, &self.report_version.to_le_bytes());
        put(report, 0x038, &tcb(self.current_tcb));
        put(report, 0x040, &self.info.to_le_bytes());
        put(report, 0x180, &tcb(self.reported_tcb));
        if self.report_version >= 3 {
            let (family, model, stepping) = self.model.family_model_stepping();
            put(report, 0x188, &[family, model, stepping]);
        }
        put(report, 0x1a0, &self.chip_id.unwrap_or([0; CHIP_ID_BYTES]));
        put(report, 0x1e0, &tcb(self.committed_tcb));
        for (at, firmware) in [(0x1e8, self.firmware), (0x1ec, self.committed_firmware)] {
            put(report, at, &[firmware.build, firmware.minor, firmware.major]);
        }
        put(report, 0x1f0, &tcb(self.launch_tcb));
        if self.report_version >= 5 {
            put(report, 0x1f8, &self.mitigations.to_le_bytes());
            put(report, 0x200, &self.mitigations.to_le_bytes());
        }
    }
}

/// A report of this guest on this platform.
pub fn report(statement: &Statement, platform: &Platform, signer: Signer<'_>) -> [u8; REPORT_BYTES] {
    let mut report = [0; REPORT_BYTES];
    statement.put(&mut report);
    platform.put(&mut report);
    let author = statement.identity.is_some_and(|identity| identity.author_key_digest.is_some());
    let (masked, signing) = match signer {
        Signer::Key(kind, _) => (false, kind.number()),
        Signer::Nobody => (true, UNSIGNED),
    };
    let key_info = u32::from(author) | u32::from(masked) << 1 | signing << 2;
    put(&mut report, 0x048, &key_info.to_le_bytes());
    if let Signer::Key(_, key) = signer {
        let signature = key.sign(&report[..SIGNED_BYTES]);
        put(&mut report, SIGNED_BYTES, &signature);
    }
    report
}

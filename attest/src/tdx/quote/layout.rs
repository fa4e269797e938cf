//! Where in a quote what is.

use core::mem::{offset_of, size_of};

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// What every quote begins with.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Header {
    pub(super) version: U16,
    pub(super) key_type: U16,
    pub(super) tee_type: U32,
    pub(super) qe_svn: U16,
    pub(super) pce_svn: U16,
    pub(super) vendor: [u8; 16],
    pub(super) user_data: [u8; 20],
}

/// What follows the header from version 5 on.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct BodyHeader {
    pub(super) kind: U16,
    pub(super) length: U32,
}

/// TD report of TDX 1.0, with which that of 1.5 begins.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Body {
    pub(super) tee_tcb_svn: [u8; 16],
    pub(super) mr_seam: [u8; 48],
    pub(super) mr_signer_seam: [u8; 48],
    pub(super) seam_attributes: [u8; 8],
    pub(super) td_attributes: U64,
    pub(super) xfam: U64,
    pub(super) mr_td: [u8; 48],
    pub(super) mr_config_id: [u8; 48],
    pub(super) mr_owner: [u8; 48],
    pub(super) mr_owner_config: [u8; 48],
    pub(super) rtmrs: [[u8; 48]; 4],
    pub(super) report_data: [u8; 64],
}

/// What TDX 1.5 adds.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Body15 {
    pub(super) tee_tcb_svn2: [u8; 16],
    pub(super) mr_service_td: [u8; 48],
}

/// What TDX 1.5 says besides where a quote's body is extended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Extension {
    /// Which virtual machine of a partitioned guest asked for the report; 0 if it isn't partitioned, or for its L1 VMM.
    pub vm_id: u8,
    /// The guest's number, another one for each launch.
    pub td_id: [u8; 32],
    /// Hash of what is known of devices.
    pub device_info: [u8; 48],
    /// Hash of the service TDs that were bound when the guest was made.
    pub initial_service_tds: [u8; 48],
    /// Attributes of the service TD that was bound then.
    pub initial_service_td_attributes: [u8; 8],
    /// CPUSVN when the guest was made.
    pub initial_cpu_svn: [u8; 16],
    /// TEE_TCB_SVN when the guest was made.
    pub initial_tee_tcb_svn: [u8; 16],
    /// The kind of platform on which that was.
    pub initial_fmspc: [u8; 12],
    /// Hash of the service TDs that are bound now.
    pub current_service_tds: [u8; 48],
    /// Attributes of the service TD that is bound now.
    pub current_service_td_attributes: [u8; 8],
}

/// The start of the signature data, up to the QE's certification data.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct SignatureHeader {
    pub(super) signature: [u8; 64],
    pub(super) key: [u8; 64],
    pub(super) certification: CertificationHeader,
}

/// What certification data begins with.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct CertificationHeader {
    pub(super) kind: U16,
    pub(super) length: U32,
}

/// Certification data of type 6, up to the data that the QE authenticates.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct QeHeader {
    pub(super) report: EnclaveReport,
    pub(super) signature: [u8; 64],
    pub(super) authenticated_length: U16,
}

/// An enclave's report: the quoting enclave's.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct EnclaveReport {
    pub(crate) cpu_svn: [u8; 16],
    pub(crate) misc_select: [u8; 4],
    pub(crate) reserved_20: [u8; 28],
    pub(crate) attributes: [u8; 16],
    pub(crate) mr_enclave: [u8; 32],
    pub(crate) reserved_96: [u8; 32],
    pub(crate) mr_signer: [u8; 32],
    pub(crate) reserved_160: [u8; 96],
    pub(crate) product: U16,
    pub(crate) svn: U16,
    pub(crate) reserved_260: [u8; 60],
    pub(crate) report_data: [u8; 64],
}

const _: () = {
    assert!(size_of::<Header>() == 48);
    assert!(offset_of!(Header, vendor) == 12);
    assert!(size_of::<BodyHeader>() == 6);
    assert!(size_of::<Body>() == 584);
    assert!(offset_of!(Body, td_attributes) == 120);
    assert!(offset_of!(Body, mr_td) == 136);
    assert!(offset_of!(Body, rtmrs) == 328);
    assert!(offset_of!(Body, report_data) == 520);
    assert!(size_of::<Body>() + size_of::<Body15>() == 648);
    assert!(size_of::<Body>() + size_of::<Body15>() + size_of::<Extension>() == 885);
    assert!(offset_of!(Extension, current_service_tds) == 181);
    assert!(size_of::<SignatureHeader>() == 134);
    assert!(size_of::<EnclaveReport>() == 384);
    assert!(offset_of!(EnclaveReport, mr_signer) == 128);
    assert!(offset_of!(EnclaveReport, product) == 256);
    assert!(offset_of!(EnclaveReport, report_data) == 320);
};

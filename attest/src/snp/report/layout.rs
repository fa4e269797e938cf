//! Where in a report what is.

use core::mem::{offset_of, size_of};

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{REPORT_BYTES, SIGNED_BYTES};
use crate::snp::PackedTcb;

/// ATTESTATION_REPORT.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Layout {
    pub(super) version: U32,
    pub(super) guest_svn: U32,
    pub(super) policy: U64,
    pub(super) family_id: [u8; 16],
    pub(super) image_id: [u8; 16],
    pub(super) vmpl: U32,
    pub(super) signature_algorithm: U32,
    pub(super) current_tcb: PackedTcb,
    pub(super) platform_info: U64,
    pub(super) key_info: U32,
    pub(super) reserved_4c: [u8; 4],
    pub(super) report_data: [u8; 64],
    pub(super) measurement: [u8; 48],
    pub(super) host_data: [u8; 32],
    pub(super) id_key_digest: [u8; 48],
    pub(super) author_key_digest: [u8; 48],
    pub(super) report_id: [u8; 32],
    pub(super) report_id_ma: [u8; 32],
    pub(super) reported_tcb: PackedTcb,
    pub(super) cpu: [u8; 3],
    pub(super) reserved_18b: [u8; 21],
    pub(super) chip_id: [u8; 64],
    pub(super) committed_tcb: PackedTcb,
    pub(super) current_version: PackedVersion,
    pub(super) reserved_1eb: u8,
    pub(super) committed_version: PackedVersion,
    pub(super) reserved_1ef: u8,
    pub(super) launch_tcb: PackedTcb,
    pub(super) launch_mitigations: U64,
    pub(super) current_mitigations: U64,
    pub(super) reserved_208: [u8; 0x98],
    pub(super) signature_r: [u8; 72],
    pub(super) signature_s: [u8; 72],
    pub(super) reserved_330: [u8; 0x170],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct PackedVersion {
    pub(super) build: u8,
    pub(super) minor: u8,
    pub(super) major: u8,
}

const _: () = {
    assert!(size_of::<Layout>() == REPORT_BYTES);
    assert!(offset_of!(Layout, current_tcb) == 0x38);
    assert!(offset_of!(Layout, key_info) == 0x48);
    assert!(offset_of!(Layout, report_data) == 0x50);
    assert!(offset_of!(Layout, measurement) == 0x90);
    assert!(offset_of!(Layout, host_data) == 0xc0);
    assert!(offset_of!(Layout, id_key_digest) == 0xe0);
    assert!(offset_of!(Layout, author_key_digest) == 0x110);
    assert!(offset_of!(Layout, report_id) == 0x140);
    assert!(offset_of!(Layout, reported_tcb) == 0x180);
    assert!(offset_of!(Layout, cpu) == 0x188);
    assert!(offset_of!(Layout, chip_id) == 0x1a0);
    assert!(offset_of!(Layout, committed_tcb) == 0x1e0);
    assert!(offset_of!(Layout, current_version) == 0x1e8);
    assert!(offset_of!(Layout, committed_version) == 0x1ec);
    assert!(offset_of!(Layout, launch_tcb) == 0x1f0);
    assert!(offset_of!(Layout, launch_mitigations) == 0x1f8);
    assert!(offset_of!(Layout, signature_r) == SIGNED_BYTES);
    assert!(offset_of!(Layout, signature_s) == 0x2e8);
};

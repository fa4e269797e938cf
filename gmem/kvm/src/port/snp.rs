//! The commands only an SNP VM has: `KVM_MEMORY_ENCRYPT_OP` with `KVM_SEV_*`.
//!
//! Owns their arguments as typed data. The order in which they are given, and what a failure means, is `snp::launch`'s.
//!
//! Specification: Linux `Documentation/virt/kvm/x86/amd-memory-encryption.rst` (7.2), sections `KVM_SEV_INIT2` and
//! `KVM_SEV_SNP_*`.

use gmem::{GfnRange, PAGE_SIZE, PageCount};

/// Bytes of a page.
const PAGE_BYTES: usize = 4096;
const _: () = assert!(PAGE_BYTES as u64 == PAGE_SIZE);

/// Bytes of `struct snp_id_block`, SEV-SNP Firmware ABI (56860), 8.18.
pub const ID_BLOCK_BYTES: usize = 96;

/// A page of host memory where the kernel wants to find one: at a multiple of its size.
#[derive(Clone, Debug, PartialEq, Eq)]
#[repr(C, align(4096))]
pub struct SourcePage(pub [u8; PAGE_BYTES]);

/// A command to an SNP VM, besides populating it.
#[derive(Debug)]
pub enum SnpCommand<'a> {
    /// `KVM_SEV_INIT2`: the VM gets an ASID. Before any vCPU.
    Init {
        /// `SEV_FEATURES` of its vCPUs without the bit for SNP, which the kernel sets.
        vmsa_features: u64,
    },
    /// `KVM_SEV_SNP_ENABLE_REQ_CERTS` (Linux 7.0): requests for certificates come to us. Before any vCPU.
    EnableCertificateRequests,
    /// `KVM_SEV_SNP_LAUNCH_START`: the PSP makes the guest's context and key.
    LaunchStart {
        /// The guest's policy.
        policy: u64,
    },
    /// `KVM_SEV_SNP_LAUNCH_FINISH`: every vCPU's registers are measured, and the guest can run. Nothing can be
    /// populated any more.
    LaunchFinish(&'a SnpFinish<'a>),
}

/// Pages to populate (`KVM_SEV_SNP_LAUNCH_UPDATE`).
#[derive(Debug)]
pub struct SnpUpdate<'a> {
    /// Where they go; private, and in one slot. (At the end of a slot the kernel stops.)
    pub range: GfnRange,
    /// As what.
    pub page_type: SnpPageType,
    /// What they get: a page for each, or none at all for zeros. The kernel writes to it what the PSP would rather
    /// have in a page of CPUID values that it refused.
    pub source: &'a mut [SourcePage],
    /// How many of them are populated: set by the call, also by one that fails.
    pub done: PageCount,
}

/// What the PSP makes of a page. Registers of vCPUs are added by the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SnpPageType {
    /// Contents that are measured.
    Normal = 1,
    /// Zeros.
    Zero = 3,
    /// Contents that are not measured.
    Unmeasured = 4,
    /// The page the PSP puts the guest's keys in.
    Secrets = 5,
    /// CPUID values that the PSP checks.
    Cpuid = 6,
}

/// How a launch ends.
#[derive(Debug)]
pub struct SnpFinish<'a> {
    /// Who owns the guest.
    pub signed: Option<SignedBlock<'a>>,
    /// Bytes that stand in every report.
    pub host_data: [u8; 32],
    /// Whether reports may be signed with the chip's own key.
    pub vcek: Vcek,
}

/// An ID block and its authentication, as the PSP takes them.
#[derive(Debug, Clone, Copy)]
pub struct SignedBlock<'a> {
    /// `ID_BLOCK`.
    pub block: &'a [u8; ID_BLOCK_BYTES],
    /// `ID_AUTH`.
    pub auth: &'a [u8; PAGE_BYTES],
    /// Whether an author's key is part of it.
    pub author: AuthorKey,
}

/// Whether an ID block comes with an author's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthorKey {
    /// It does.
    Present,
    /// It doesn't.
    Absent,
}

/// Whether a guest's reports may be signed with the chip's own key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vcek {
    /// They may.
    Allowed,
    /// They may not (`VCEK_DIS`).
    Disabled,
}

impl SourcePage {
    /// Zeros.
    pub const ZERO: Self = Self([0; PAGE_BYTES]);

    /// As many pages as `bytes` take, at least `pages`; the rest is zeros.
    pub fn pages_of(bytes: &[u8], pages: usize) -> Vec<Self> {
        let mut copy = vec![Self::ZERO; pages.max(bytes.len().div_ceil(size_of::<Self>()))];
        for (page, part) in copy.iter_mut().zip(bytes.chunks(size_of::<Self>())) {
            page.0[..part.len()].copy_from_slice(part);
        }
        copy
    }
}

impl SnpCommand<'_> {
    /// The kernel's name of it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Init { .. } => "KVM_SEV_INIT2",
            Self::EnableCertificateRequests => "KVM_SEV_SNP_ENABLE_REQ_CERTS",
            Self::LaunchStart { .. } => "KVM_SEV_SNP_LAUNCH_START",
            Self::LaunchFinish(_) => "KVM_SEV_SNP_LAUNCH_FINISH",
        }
    }
}

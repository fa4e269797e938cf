//! The registers a vCPU starts with, as the page that is measured: the VMSA.
//!
//! Owns the page's layout and what each VMM has put into it before the first instruction. Does not own when it is added:
//! Linux does so at `KVM_SEV_SNP_LAUNCH_FINISH`, for each vCPU in turn.
//!
//! Specification: AMD APM volume 2, appendix B, table B-4 ("VMSA Layout, State Save Area for SEV-ES"); reset state in
//! section 14.1.3; `sev_es_sync_vmsa` in Linux `arch/x86/kvm/svm/sev.c`.

use std::mem::offset_of;

use zerocopy::{FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::cpu::CpuModel;

/// Where Linux says a VMSA is when it has it measured: not where it is.
pub const VMSA_GPA: gmem::Gpa = gmem::Gpa(0xffff_ffff_f000);

/// Where the first vCPU starts.
const RESET_VECTOR: u32 = 0xffff_fff0;

/// A segment register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoBytes, FromZeros, Immutable, KnownLayout)]
#[repr(C)]
pub struct Segment {
    /// Selector.
    pub selector: u16,
    /// Bits 55..52 and 47..40 of a descriptor, packed.
    pub attributes: u16,
    /// Limit in bytes.
    pub limit: u32,
    /// Base address.
    pub base: u64,
}

impl Segment {
    const fn real_mode(attributes: u16) -> Self {
        Self { selector: 0, attributes, limit: 0xffff, base: 0 }
    }
}

/// What a VMM has the guest's SEV features be: `SEV_FEATURES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, IntoBytes, FromZeros, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct SevFeatures(pub u64);

impl SevFeatures {
    /// SNP is active: the least there is.
    pub const SNP: Self = Self(1);
    /// The guest's debug registers are swapped in and out as well.
    pub const DEBUG_SWAP: Self = Self(1 << 5);
}

/// A vCPU's registers. Fields that nothing here sets are part of what is reserved.
#[derive(Clone, Debug, PartialEq, Eq, IntoBytes, FromZeros, Immutable, KnownLayout)]
#[repr(C)]
pub struct Vmsa {
    /// `ES`, and so on; `CS` is second.
    pub es: Segment,
    /// Code.
    pub cs: Segment,
    /// Stack.
    pub ss: Segment,
    /// Data.
    pub ds: Segment,
    /// Data.
    pub fs: Segment,
    /// Data.
    pub gs: Segment,
    /// Global descriptor table: limit and base.
    pub gdtr: Segment,
    /// Local descriptor table.
    pub ldtr: Segment,
    /// Interrupt descriptor table: limit and base.
    pub idtr: Segment,
    /// Task.
    pub tr: Segment,
    shadow_stacks: [u64; 5],
    levels: [u8; 8],
    /// Extended feature enable register.
    pub efer: u64,
    reserved_d8: [u64; 13],
    xss: u64,
    /// Control register 4.
    pub cr4: u64,
    cr3: u64,
    /// Control register 0.
    pub cr0: u64,
    /// Debug control.
    pub dr7: u64,
    /// Debug status.
    pub dr6: u64,
    /// Flags.
    pub rflags: u64,
    /// Instruction pointer.
    pub rip: u64,
    reserved_180: [u64; 11],
    /// Stack pointer.
    pub rsp: u64,
    reserved_1e0: [u64; 17],
    /// Page attribute table.
    pub g_pat: u64,
    reserved_270: [u64; 19],
    /// General-purpose register.
    pub rcx: u64,
    /// General-purpose register: the processor's signature at reset.
    pub rdx: u64,
    /// General-purpose register.
    pub rbx: u64,
    reserved_320: u64,
    /// General-purpose register.
    pub rbp: u64,
    /// General-purpose register.
    pub rsi: u64,
    /// General-purpose register.
    pub rdi: u64,
    reserved_340: [u64; 14],
    /// What of SEV the guest has.
    pub sev_features: SevFeatures,
    reserved_3b8: [u64; 6],
    /// Extended control register 0.
    pub xcr0: u64,
    reserved_3f0: [u64; 3],
    /// Control and status of SSE.
    pub mxcsr: u32,
    reserved_40c: [u16; 2],
    /// Control word of x87.
    pub x87_fcw: u16,
    reserved_412: [u16; 3],
    reserved_418: [u64; 381],
}

const _: () = {
    assert!(size_of::<Vmsa>() == 0x1000);
    assert!(offset_of!(Vmsa, tr) == 0x090);
    assert!(offset_of!(Vmsa, efer) == 0x0d0);
    assert!(offset_of!(Vmsa, cr4) == 0x148);
    assert!(offset_of!(Vmsa, cr0) == 0x158);
    assert!(offset_of!(Vmsa, rip) == 0x178);
    assert!(offset_of!(Vmsa, rsp) == 0x1d8);
    assert!(offset_of!(Vmsa, g_pat) == 0x268);
    assert!(offset_of!(Vmsa, rcx) == 0x308);
    assert!(offset_of!(Vmsa, rbp) == 0x328);
    assert!(offset_of!(Vmsa, sev_features) == 0x3b0);
    assert!(offset_of!(Vmsa, xcr0) == 0x3e8);
    assert!(offset_of!(Vmsa, mxcsr) == 0x408);
    assert!(offset_of!(Vmsa, x87_fcw) == 0x410);
};

/// A VMM, by the state it leaves a vCPU in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Vmm {
    /// QEMU, and `tenure`, which does the same so that predictors for the one hold for the other.
    Qemu,
    /// Amazon EC2.
    Ec2,
    /// Google Compute Engine.
    Gce,
}

/// Which of a guest's vCPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The first, which starts at the reset vector.
    Boot,
    /// Any other, which starts where the firmware says.
    Application {
        /// Linear address.
        eip: u32,
    },
}

impl Vmsa {
    /// As `vmm` leaves a vCPU.
    #[must_use]
    pub fn at_reset(vmm: Vmm, cpu: CpuModel, features: SevFeatures, role: Role) -> Self {
        let eip = match role {
            Role::Boot => RESET_VECTOR,
            Role::Application { eip } => eip,
        };
        // What differs between VMMs: attributes as the processor has them after reset, or as it loads them.
        let (cs, ss, tr) = match (vmm, role) {
            (Vmm::Qemu | Vmm::Gce, _) => (0x9b, 0x93, 0x8b),
            (Vmm::Ec2, Role::Boot) => (0x9a, 0x92, 0x83),
            (Vmm::Ec2, Role::Application { .. }) => (0x9b, 0x92, 0x83),
        };
        let (rdx, mxcsr, x87_fcw) = match vmm {
            Vmm::Qemu => (u64::from(cpu.signature()), 0x1f80, 0x37f),
            Vmm::Ec2 | Vmm::Gce => (0x600, 0, 0),
        };
        let data = Segment::real_mode(0x93);
        Self {
            es: data,
            cs: Segment { selector: 0xf000, base: u64::from(eip & 0xffff_0000), ..Segment::real_mode(cs) },
            ss: Segment::real_mode(ss),
            ds: data,
            fs: data,
            gs: data,
            gdtr: Segment::real_mode(0),
            ldtr: Segment::real_mode(0x82),
            idtr: Segment::real_mode(0),
            tr: Segment::real_mode(tr),
            efer: 1 << 12, // SVME, as SEV wants it
            cr4: 1 << 6,   // MCE
            cr0: 1 << 4,   // ET
            dr7: 0x400,
            dr6: 0xffff_0ff0,
            rflags: 2,
            rip: u64::from(eip & 0xffff),
            g_pat: if vmm == Vmm::Gce { 0x0007_0106 } else { 0x0007_0406_0007_0406 },
            rdx,
            sev_features: features,
            xcr0: 1,
            mxcsr,
            x87_fcw,
            ..Self::new_zeroed()
        }
    }
}

//! The registers a vCPU starts with, as the page that is measured: the VMSA.
//!
//! Owns the page's layout and what each VMM has put into it before the first instruction. Does not own when it is
//! added: Linux does so at `KVM_SEV_SNP_LAUNCH_FINISH`, for each vCPU in turn.
//!
//! Specification: AMD APM volume 2, appendix B, table B-4 ("VMSA Layout, State Save Area for SEV-ES"); reset state in
//! section 14.1.3; `sev_es_sync_vmsa` in Linux `arch/x86/kvm/svm/sev.c`.

use std::mem::offset_of;

use zerocopy::{FromZeros, Immutable, IntoBytes, KnownLayout};

use gmem::vcpu::{self, RESET_VECTOR, VcpuState};

use crate::cpu::CpuModel;

/// Where Linux says a VMSA is when it has it measured: not where it is.
pub const VMSA_GPA: gmem::Gpa = gmem::Gpa(0xffff_ffff_f000);

/// `EFER.SVME`: KVM sets it in every guest's.
const EFER_SVME: u64 = 1 << 12;
/// `CR4.MCE`: KVM sets it in every guest's, as it is in the host's.
const CR4_MCE: u64 = 1 << 6;

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

impl From<vcpu::Segment> for Segment {
    fn from(segment: vcpu::Segment) -> Self {
        let vcpu::Segment { selector, attributes, limit, base } = segment;
        Self { selector, attributes, limit, base }
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
    /// Page-table base.
    pub cr3: u64,
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

impl Role {
    /// The registers with which such a vCPU of a guest with this processor starts, as QEMU gives them to KVM.
    #[must_use]
    pub fn first_state(self, cpu: CpuModel) -> VcpuState {
        let eip = match self {
            Self::Boot => RESET_VECTOR,
            Self::Application { eip } => eip,
        };
        VcpuState { rdx: cpu.signature().into(), ..VcpuState::reset_at(eip) }
    }
}

impl Vmsa {
    /// What Linux has measured of a vCPU that starts with these registers: they, and what KVM and a processor's reset
    /// add.
    #[must_use]
    pub fn of(state: &VcpuState, features: SevFeatures) -> Self {
        let data = state.data.into();
        Self {
            es: data,
            cs: state.cs.into(),
            ss: data,
            ds: data,
            fs: data,
            gs: data,
            gdtr: state.gdtr.into(),
            ldtr: state.ldtr.into(),
            idtr: state.idtr.into(),
            tr: state.tr.into(),
            efer: state.efer | EFER_SVME,
            cr4: state.cr4 | CR4_MCE,
            cr3: state.cr3.0,
            cr0: state.cr0,
            dr7: 0x400,
            dr6: 0xffff_0ff0,
            rflags: 2,
            rip: state.rip,
            g_pat: 0x0007_0406_0007_0406,
            rdx: state.rdx,
            rdi: state.rdi,
            sev_features: features,
            xcr0: 1,
            mxcsr: 0x1f80,
            x87_fcw: 0x37f,
            ..Self::new_zeroed()
        }
    }

    /// As `vmm` leaves a vCPU.
    #[must_use]
    pub fn at_reset(vmm: Vmm, cpu: CpuModel, features: SevFeatures, role: Role) -> Self {
        let mut vmsa = Self::of(&role.first_state(cpu), features);
        if vmm != Vmm::Qemu {
            (vmsa.rdx, vmsa.mxcsr, vmsa.x87_fcw) = (0x600, 0, 0);
        }
        match vmm {
            Vmm::Qemu => {}
            // Attributes as a VMM would load them, not as the processor has them after reset.
            Vmm::Ec2 => {
                (vmsa.ss.attributes, vmsa.tr.attributes) = (0x92, 0x83);
                if role == Role::Boot {
                    vmsa.cs.attributes = 0x9a;
                }
            }
            Vmm::Gce => vmsa.g_pat = 0x0007_0106,
        }
        vmsa
    }
}

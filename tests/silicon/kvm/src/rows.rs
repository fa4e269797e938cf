//! Every refusal this kernel knows, each with where it comes from, and how often it was met.
//!
//! Owns the list: a test asks each row once, and counts them by provenance. That says how much of what Linux is said to
//! do our code has met; it is no conformance test of Linux, which nobody asked anything here.

use rustix::io::Errno;

/// Who says that Linux answers so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Provenance {
    /// Read in the source of Linux 7.2.
    Source,
    /// Inferred from its control flow.
    Inferred,
    /// AMD's firmware ABI says so; Linux passes it on.
    Specification,
}

macro_rules! rows {
    ($($variant:ident $errno:ident $provenance:ident $text:literal;)*) => {
        /// A refusal, by the call and why.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Row { $(#[doc = $text] $variant),* }

        impl Row {
            /// All of them, in the order of a launch.
            pub const ALL: &'static [Row] = &[$(Row::$variant),*];

            /// What the caller sees.
            pub const fn errno(self) -> Errno {
                match self { $(Row::$variant => Errno::$errno),* }
            }

            /// Who says so.
            pub const fn provenance(self) -> Provenance {
                match self { $(Row::$variant => Provenance::$provenance),* }
            }

            /// In words.
            pub const fn text(self) -> &'static str {
                match self { $(Row::$variant => $text),* }
            }
        }
    };
}

rows! {
    NotSnp NOTTY Source "an SNP command to a VM of another type";
    InitAgain PERM Source "INIT2: the VM has an ASID already";
    InitAfterVcpu INVAL Source "INIT2: a vCPU exists";
    InitFeatures INVAL Source "INIT2: a VMSA feature that is not supported";
    InitRangeEmpty NOTTY Source "INIT2: no ASIDs are for SNP";
    InitNoAsid BUSY Source "INIT2: no ASID is free, and none can be recycled";
    InitFirmware IO Source "INIT2: the firmware fails";
    CertificatesAfterVcpu INVAL Source "ENABLE_REQ_CERTS: a vCPU exists";
    StartBeforeInit NOTTY Source "LAUNCH_START: the VM has no ASID";
    StartContext NOTTY Source "LAUNCH_START: no context could be made, for any reason";
    StartAgain INVAL Source "LAUNCH_START: there is a context";
    StartPolicy INVAL Source "LAUNCH_START: a policy bit that KVM does not support";
    StartMustBeOne INVAL Source "LAUNCH_START: policy bit 17 is clear";
    StartFirmware IO Specification "LAUNCH_START: the firmware fails";
    UpdateBeforeStart INVAL Source "LAUNCH_UPDATE: there is no context";
    UpdateNoGmem INVAL Source "LAUNCH_UPDATE: no guest_memfd there";
    UpdateInterrupted IO Source "LAUNCH_UPDATE: a signal before the first page, masked";
    UpdateNotPrivate IO Source "LAUNCH_UPDATE: the first page is not private, masked";
    UpdateAssigned IO Source "LAUNCH_UPDATE: the first page is assigned in the RMP, masked";
    UpdateClosed IO Source "LAUNCH_UPDATE: the guest_memfd was closed, masked";
    UpdateFirmware IO Specification "LAUNCH_UPDATE: the firmware fails at the first page";
    UpdateAfterFinish IO Inferred "LAUNCH_UPDATE after FINISH: the firmware refuses";
    VcpuBeforeInit INVAL Source "KVM_RUN of a vCPU that was created before INIT2";
    FinishBeforeStart INVAL Source "LAUNCH_FINISH: there is no context";
    FinishAgain INVAL Source "LAUNCH_FINISH after one that failed: registers were taken over";
    FinishFirmware IO Specification "LAUNCH_FINISH: the firmware fails";
    RegistersAfterFinish INVAL Source "KVM_SET_SREGS of a protected vCPU";
    PrefaultBeforeFinish OPNOTSUPP Source "KVM_PRE_FAULT_MEMORY before FINISH";
    PrefaultNoSlot NOENT Source "KVM_PRE_FAULT_MEMORY: shared, and no slot";
    PrefaultNoGmem FAULT Source "KVM_PRE_FAULT_MEMORY: private, and no guest_memfd";
    HypercallAnswer INVAL Source "KVM_RUN: an answer to a page-state change that is not 0, EINVAL or EAGAIN";
    CertificatesAnswer INVAL Source "KVM_RUN: an answer to a certificate request that is not 0, ENOSPC, EAGAIN or EIO";
    DeadVm IO Source "any call on a dead VM";
}

/// What a port cannot ask for, and so nobody meets here.
pub const NOT_ASKED: [&str; 6] = [
    "D1: a command number that Linux does not know (EINVAL)",
    "D1: a bad descriptor of /dev/sev (EBADF): the port keeps its own",
    "D2 INIT2: flags or a GHCB version (EINVAL): the port sends zeros",
    "D2 LAUNCH_START, LAUNCH_FINISH: flags (EINVAL): the port sends zeros",
    "D2 LAUNCH_FINISH: a vCPU is being created (EBUSY): the VM has one owner",
    "D3: a length of zero, unaligned sources, an unknown page type (EINVAL): the port's types exclude them",
];

//! A kernel for the software SNP platform: the port (`gmem_kvm::port`) as Linux 7.2 behaves on an SNP host.
//!
//! Owns what KVM does between the ioctl and the firmware: slots, attributes and guest_memfd (`host`, `memory`), the
//! commands of a launch and their errnos (`launch`, [`rows`]), vCPUs whose guests are scripts ([`script`], `vcpu`), and
//! the order in which a VM goes. Does not own what the processor and the PSP do: that is `tenure-silicon`, which this
//! drives as Linux drives the real ones.
//!
//! Written from Linux' behaviour, never from `tenure`'s ledger or launch code: a mistake must not be shared. It
//! asserts for itself what no real host does: that no RMP entry names an ASID when its VM goes ([`Complaint`]).
//!
//! Specification: Linux 7.2, `arch/x86/kvm/svm/sev.c`, `virt/kvm/guest_memfd.c`, `virt/kvm/kvm_main.c`.
#![forbid(unsafe_code)]

mod host;
mod launch;
mod memory;
mod port;
pub mod rows;
pub mod script;
mod vcpu;
mod vmsa;

pub use host::{Complaint, SiliconKernel};
pub use port::{SiliconGmem, SiliconVcpu, SiliconVm};

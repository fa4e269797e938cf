//! Guest memory on a kernel.
//!
//! Owns everything that is done to a host kernel on behalf of a guest's memory: the kernel port and its KVM
//! implementation ([`port`], [`kvm`]), the VM and its stages ([`vm`]), conversion ([`convert`]), the shared view
//! ([`shared`]) over its backing ([`backing`]), and teardown with its receipt ([`teardown`], [`evidence`]). This is the
//! only crate that issues KVM ioctls.
//!
//! Does not own what is decided: layouts, launch plans and the ledger are `gmem`'s; what a technology needs is `snp`'s
//! and `tdx`'s; threads, devices and exits are `host`'s.
//!
//! Specification: Linux `Documentation/virt/kvm/api.rst` (7.2), and the laws of `ARCHITECTURE.md`.

#[cfg(test)]
extern crate self as gmem_kvm; // what integration and unit tests share names the crate

pub mod backing;
pub mod convert;
pub mod evidence;
pub mod kvm;
pub mod port;
pub mod probe;
pub mod shared;
pub mod teardown;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod uapi;
pub mod vm;

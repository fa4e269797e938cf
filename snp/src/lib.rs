//! AMD SEV-SNP.
//!
//! Owns what can be known of an SNP guest before it runs: what its firmware asks for ([`ovmf`]), the launch that
//! comes of it ([`plan`]), the registers its vCPUs start with ([`vmsa`], [`cpu`]), the hashes of a kernel that is
//! started directly ([`hashes`]), the CPUID page ([`cpuid_page`]), the order of pages and the launch digest
//! ([`measure`], [`digest`]), what the guest's owner allows and signs ([`policy`], [`id_block`]); and what the
//! platform's firmware says of itself ([`platform`]). All that is pure: no kernel is called. [`launch`] carries a launch out over the kernel port, and says in words what firmware answers
//! ([`status`]).
//!
//! Specifications: AMD APM volume 2 chapter 15, SEV-SNP firmware ABI (56860), GHCB (56421).
#![forbid(unsafe_code)]

pub mod cpu;
pub mod cpuid_page;
pub mod digest;
mod guid;
pub mod hashes;
pub mod hex;
pub mod id_block;
pub mod launch;
pub mod measure;
pub mod ovmf;
pub mod plan;
pub mod platform;
pub mod policy;
pub mod status;
pub mod vmsa;

pub use guid::Guid;

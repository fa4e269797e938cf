//! AMD SEV-SNP.
//!
//! Owns what can be known of an SNP guest before it runs: what its firmware asks for ([`ovmf`]), which pages it is
//! launched with ([`measure`]), the registers its vCPUs start with ([`vmsa`], [`cpu`]), the hashes of a kernel that is
//! started directly ([`hashes`]), the launch digest that comes of all that ([`digest`]), what its owner allows ([`policy`])
//! and signs ([`id_block`]). Pure: no kernel is called.
//!
//! Not built yet: CPUID and secrets pages' contents, GHCB, and the launch code that drives the kernel port; `tenure run
//! --tee snp` says so.
//!
//! Specifications: AMD APM volume 2 chapter 15, SEV-SNP firmware ABI (56860), GHCB (56421).
#![forbid(unsafe_code)]

pub mod cpu;
pub mod digest;
mod guid;
pub mod hashes;
pub mod hex;
pub mod id_block;
pub mod measure;
pub mod ovmf;
pub mod policy;
pub mod vmsa;

pub use guid::Guid;

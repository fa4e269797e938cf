//! AMD SEV-SNP.
//!
//! Will own: guest policy, VMSA, CPUID and secrets pages, page kinds, launch digest, ID block, GHCB constants, and
//! the launch code that drives the kernel port. Owns nothing yet: `tenure run --tee snp` says so.
//!
//! Specifications: AMD APM volume 2 chapter 15, SEV-SNP firmware ABI (56860), GHCB (56421).
#![forbid(unsafe_code)]

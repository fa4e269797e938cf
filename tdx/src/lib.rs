//! Intel TDX.
//!
//! Will own: TD parameters, CPUID, page kinds, MRTD and RTMRs, TDVF metadata, TD HOB, and the launch code that drives
//! the kernel port. Owns nothing yet: `tenure run --tee tdx` says so.
//!
//! Specifications: Intel TDX Module 1.5 ABI (348551), Guest-Hypervisor Communication Interface (348552).
#![forbid(unsafe_code)]

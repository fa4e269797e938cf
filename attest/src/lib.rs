//! Evidence of confidential guests: parse, verify, appraise.
//!
//! Will own: SNP report and TDX quote formats, endorsement chains, policy and appraisal. Knows nothing of launching,
//! and has no KVM, clock or network in its core. Owns nothing yet.
//!
//! Specifications: SEV-SNP firmware ABI (56860) chapter 7, Intel TDX DCAP quoting library (quote formats 4 and 5).
#![forbid(unsafe_code)]

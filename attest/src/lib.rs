//! Evidence of confidential guests: parse, verify, appraise.
//!
//! Owns the formats of SNP reports and TDX quotes, the certificates and statements that endorse them, and whether both
//! are what they say ([`snp`], [`tdx`]). What comes of it is a list of checks ([`check`]) and, if none failed, evidence
//! that was [`Verified`], with the root of trust it rests on: hardware's, or a test's that the caller named.
//! Only such evidence is compared with what somebody wants to see ([`snp::appraise()`], [`tdx::appraise()`]; what
//! comes of it is an [`appraisal`]). Knows nothing of launching, and has no KVM, clock or network: the time is an argument.
//!
//! Specifications: SEV-SNP firmware ABI (56860) chapter 7, VCEK certificates (57230), GHCB (56421) for certificate
//! tables; Intel TDX DCAP Quoting Library API, appendix A, for quotes; Intel SGX PCK Certificate and CRL Profile.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod anchors;
pub mod appraisal;
pub mod check;
pub mod ear;
pub mod eventlog;
mod hex;
mod p256_signature;
#[cfg(feature = "parsers")]
pub mod parsers;
pub mod pem;
mod preset;
pub mod snp;
pub mod tdx;
mod time;
mod verified;
mod x509;

pub use time::{MomentError, UnixTime};
pub use verified::{Evidence, Rejected, Verified};
pub use x509::CertificateError;

//! Evidence of confidential guests: parse, verify, appraise.
//!
//! Owns the format of SNP reports, the certificates that endorse them, and whether both are what they say ([`snp`]).
//! What comes of it is a list of checks ([`check`]) and, if none failed, evidence that was [`Verified`], with the root
//! of trust it rests on ([`Anchor`]): hardware's, or a test's that the caller named. Only such evidence is compared with
//! what somebody wants to see ([`snp::appraise()`]). Will own TDX quotes. Knows nothing of launching, and has no KVM, clock or network: the time is an argument.
//!
//! Specifications: SEV-SNP firmware ABI (56860) chapter 7, VCEK certificates (57230), GHCB (56421) for certificate
//! tables.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod anchor;
pub mod check;
mod hex;
pub mod snp;
mod time;
mod x509;

pub use anchor::{Anchor, Rejected, Verified};
pub use time::{MomentError, UnixTime};
pub use x509::CertificateError;

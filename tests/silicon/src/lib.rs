//! An SEV-SNP platform in software: what the processor and its PSP do for confidential VMs, and nothing of the kernel.
//!
//! Owns the Reverse Map Table and what is in memory ([`rmp`], [`memory`], [`hardware`]), the ASIDs ([`asid`]), the
//! firmware with its messages and reports ([`psp`], [`message`], [`report`]) and certificates for them ([`chain`]);
//! [`platform`] is all of it in one, to be shared by threads. Does not own guest memory files, memory slots, nested page
//! tables or ioctls: whoever calls it is the kernel.
//!
//! Certificates and the form of reports and signatures are `test-root`'s ([`model`], [`signing`]): whatever is signed for in
//! software is signed for by that crate.
//!
//! Both are written from AMD's specifications and share no code with what they test, so that a mistake is not shared:
//! AMD64 Architecture Programmer's Manual (24593, volume 2, 15.36; volume 3 for the instructions), SEV Secure Nested
//! Paging Firmware ABI (56860), Guest-Hypervisor Communication Block (56421). What of it is certain and what is not is
//! in the crate's README.

#![forbid(unsafe_code)]

mod aead;
pub mod asid;
pub mod chain;
pub mod config;
#[cfg(test)]
mod fixture;
pub mod hardware;
pub mod memory;
pub mod message;
pub mod platform;
pub mod psp;
pub mod report;
pub mod rmp;
mod secret;
pub mod units;
pub mod violation;

pub(crate) use test_root::bytes;
pub use test_root::{model, signing};

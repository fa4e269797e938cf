//! An SEV-SNP platform in software: what the processor and its PSP do for confidential VMs, and nothing of the kernel.
//!
//! Owns the Reverse Map Table and what is in memory ([`rmp`], [`memory`], [`hardware`]), the ASIDs ([`asid`]), the
//! firmware with its messages and reports ([`psp`], [`message`], [`report`]) and certificates for them ([`chain`]);
//! [`platform`] is all of it in one, to be shared by threads. Does not own guest memory files, memory slots, nested page
//! tables or ioctls: whoever calls it is the kernel.
//!
//! It is written from AMD's specifications and shares no code with what it tests, so that a mistake is not shared:
//! AMD64 Architecture Programmer's Manual (24593, volume 2, 15.36; volume 3 for the instructions), SEV Secure Nested
//! Paging Firmware ABI (56860), Guest-Hypervisor Communication Block (56421). What of it is certain and what is not is
//! in the crate's README.

#![forbid(unsafe_code)]

mod aead;
pub mod asid;
mod bytes;
pub mod chain;
pub mod config;
#[cfg(test)]
mod fixture;
pub mod hardware;
pub mod memory;
pub mod message;
pub mod model;
pub mod platform;
pub mod psp;
pub mod report;
pub mod rmp;
mod secret;
pub mod signing;
pub mod units;
pub mod violation;

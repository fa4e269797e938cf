//! A platform of TDX in software: it certifies and signs in Intel's formats, and vouches for nothing.
//!
//! Owns a root with an authority for platforms' certificates and a key that signs statements ([`chain`]), a platform below
//! it ([`platform`]), what Intel would publish about it ([`collateral`]), quotes of its guests ([`quote`]), and all of that
//! as a directory ([`root`]). Every key is on P-256 and follows from one seed, so that making a root takes no time.
//!
//! What is written here follows Intel's specifications alone, as the rest of this crate follows AMD's: SGX PCK Certificate
//! and CRL Profile, SGX and TDX Provisioning Certification Service API (version 4), TDX DCAP Quoting Library API.

pub mod chain;
pub mod collateral;
mod keys;
pub mod platform;
pub mod quote;
pub mod root;

pub use collateral::{Collateral, Dates};
pub use quote::{Statement, Version};
pub use root::TdxRoot;

//! A root of trust in software, for tests: it certifies and signs in AMD's formats and in Intel's, and vouches for nothing.
//!
//! Owns certificates of authorities and chips with AMD's extensions ([`chain`]), what a chip derives of its seed ([`chip`]),
//! ECDSA in AMD's form ([`signing`]), the encoding of reports ([`report`]), and a root that lives in a directory ([`root`]);
//! all of the same in Intel's forms, for quotes ([`tdx`]). Does not own what is said in a report: that is a guest's, or a
//! platform's that pretends to have one (`tests/silicon`).
//!
//! `attest`, the verifier, shares no code with this crate, not even a constant, and neither may ever use the other outside
//! of tests: a mistake in a format that both had would be found by nobody. What is written here follows specifications
//! alone, AMD's and (see [`tdx`]) Intel's: SEV Secure Nested Paging Firmware ABI (56860), VCEK Certificate and KDS Interface (57230), Guest-Hypervisor
//! Communication Block (56421).
//!
//! Law no-silent-trust: every name in a certificate says TEST, and no root made here is among a verifier's own. Whoever
//! verifies has to name it, and gets `software-test` for it.

#![forbid(unsafe_code)]

pub mod bytes;
pub mod chain;
pub mod chip;
#[cfg(test)]
mod fixture;
pub mod model;
pub mod report;
pub mod root;
pub mod signing;
pub mod tdx;

pub use report::Statement;
pub use root::{AnyRoot, TestRoot, TestRootError};
pub use tdx::TdxRoot;

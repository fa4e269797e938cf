//! Guest memory as data.
//!
//! Owns addresses and ranges ([`address`]), where things are in a guest ([`layout`]), who may own each page
//! ([`ledger`]), and what is launched ([`launch`]), down to a vCPU's first registers ([`vcpu`]). Pure: no kernel, no
//! I/O, no `unsafe`; builds anywhere. The crate `gmem-kvm` does to a kernel what is decided and recorded here.
//!
//! Specification: the laws *known-owner* and *one-launch* of `ARCHITECTURE.md`; everything else is our own format.
#![forbid(unsafe_code)]

pub mod address;
pub mod launch;
pub mod layout;
pub mod ledger;
pub mod vcpu;

pub use address::{ByteLen, Gfn, GfnRange, Gpa, PAGE_SIZE, PageCount};

//! AMD SEV-SNP.
//!
//! Owns attestation reports ([`report`]), the table in which certificates come ([`certificates`]), the roots they are
//! followed to ([`Anchors`]), and whether all of it fits ([`verify()`]). Does not own what a guest should be like:
//! whoever has a verified report compares its fields with what is wanted.

pub mod anchors;
pub mod certificates;
mod product;
pub mod report;
pub mod tcb;
mod vek;
pub mod verify;

pub use anchors::{AnchorError, Anchors};
pub use certificates::{CertificateTable, Endorsements};
pub use product::Product;
pub use report::{Report, ReportError};
pub use tcb::{PackedTcb, Tcb};
pub use verify::verify;

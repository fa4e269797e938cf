//! AMD SEV-SNP.
//!
//! Owns attestation reports ([`report`]), the table in which certificates come ([`certificates`]), the roots they are
//! followed to ([`Anchors`]), and whether all of it fits ([`verify()`]); then what somebody wants of a guest and its
//! platform ([`Policy`], [`ReferenceValues`]), and whether a verified report says that ([`appraise()`]).

pub mod anchors;
pub mod appraise;
pub mod certificates;
pub mod policy;
mod product;
pub mod report;
pub mod tcb;
pub(crate) mod vek;
pub mod verify;

pub use crate::appraisal::{Tier, Verdict};
pub use crate::x509::crl::{ListError, expect_list};
pub use anchors::{Anchor, Anchors};
pub use appraise::{Appraisal, ReferenceValues, appraise};
pub use certificates::{CertificateTable, Endorsements};
pub use policy::{Allowance, Policy, Preset, Requirement, TcbFloor};
pub use product::Product;
pub use report::{Report, ReportError};
pub use tcb::{PackedTcb, Tcb};
pub use verify::verify;

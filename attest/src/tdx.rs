//! Intel TDX.
//!
//! Owns quotes ([`quote`]), what Intel publishes about platforms ([`collateral`]), the roots both are followed to
//! ([`Anchors`]), what all of it says of a platform ([`tcb`]), and whether it fits ([`verify()`]); then what somebody wants
//! of a guest and its platform ([`Policy`], [`ReferenceValues`]), and whether a verified quote says that ([`appraise()`]).

pub mod anchors;
pub mod appraise;
pub mod collateral;
pub(crate) mod pck;
pub mod policy;
pub mod quote;
pub mod tcb;
pub mod verify;

pub use crate::appraisal::{Tier, Verdict};
pub use anchors::{Anchor, Anchors};
pub use appraise::{Appraisal, ReferenceValues, appraise};
pub use collateral::{Collateral, SignedJson};
pub use policy::{Allowance, Bits, Policy, Preset};
pub use quote::{Extension, Quote, QuoteError, TdAttributes};
pub use tcb::TcbStatus;
pub use verify::{Endorsed, Platform, verify};

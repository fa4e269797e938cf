//! Intel TDX.
//!
//! Owns quotes ([`quote`]), what Intel publishes about platforms ([`collateral`]), the roots both are followed to
//! ([`Anchors`]), what all of it says of a platform ([`tcb`]), and whether it fits ([`verify()`]). Does not own what a
//! guest should be like: whoever has a verified quote compares its fields, attributes and status with what is wanted.

pub mod anchors;
pub mod collateral;
pub(crate) mod pck;
pub(crate) mod pem;
pub mod quote;
pub mod tcb;
pub mod verify;

pub use anchors::{Anchor, Anchors};
pub use collateral::{Collateral, SignedJson};
pub use quote::{Quote, QuoteError, TdAttributes};
pub use tcb::TcbStatus;
pub use verify::{Endorsed, Platform, verify};

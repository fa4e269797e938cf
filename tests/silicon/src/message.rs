//! Messages between a guest and the PSP, which the host carries and cannot read.
//!
//! Owns the header ([`header`]), the firmware's side (`firmware`, `answers`) and, for tests, a guest's side
//! ([`channel`]), which is written apart from it. A key protects requests with odd numbers and responses with even ones,
//! each number once. Specification: 56860, SNP_GUEST_REQUEST and "Guest messages".

mod answers;
pub mod channel;
mod firmware;
pub mod header;

pub use channel::{GuestChannel, ResponseError};
pub use header::{Header, MAX_PAYLOAD, MessageKind};

#[cfg(test)]
mod tests;

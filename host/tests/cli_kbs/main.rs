//! `tenure attest serve` and `request` as processes: a relying party, and guests of a platform in software that ask it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod asking;
mod beginning;
mod crash;
mod flow;
#[path = "../../../attest/kbs/tests/flow/guest.rs"]
mod guest;
mod log;
mod party;
mod tdx;

//! TDX quotes, their collateral, and what both are worth. Moments are pinned: collateral ends.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]
#![allow(unreachable_pub, reason = "nothing is reached from outside a test")]

mod any_bytes;
mod appraise;
mod evidence;
mod known;
mod mutations;
mod oracle;
mod real;
mod sample;
mod synthetic;

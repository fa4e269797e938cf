//! `tenure`'s launch, conversion and teardown of SNP guests, on the software platform: the code that runs on hardware,
//! line for line. What passes here is *silicon-run*; it says nothing of real silicon.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod bed;
mod digests;
mod failures;
mod id_blocks;
mod lives;
mod memory;
mod rows;

//! Kernels for tests: one in memory ([`fake`]), and one whose calls fail on demand ([`faulty`], [`fault`]) in front of any
//! other, the real one included; with what a kernel can answer to each ([`errnos`]). And what this crate passes to a kernel,
//! for who compares it with a kernel's headers ([`abi`]).
//!
//! Part of the crate because the laws are tested against them here, in `host` and in the lab alike; only there with the
//! feature `testing`, and never in what is shipped.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a kernel for tests ends a test that misuses it")]

pub mod abi;
pub mod errnos;
pub mod fake;
pub mod fault;
pub mod faulty;

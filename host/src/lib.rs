//! The program `tenure` as a library: everything around a guest.
//!
//! Owns the command line ([`cli`]), configuration ([`config`]), what is asked of the host before a guest starts, the
//! run itself, and what people and programs are told about it ([`events`], [`exit`]). Not owned: guest memory, its
//! kernel interface and its laws (`gmem`, `gmem-kvm`), and the first code in the guest (`guest-fw`).
//!
//! Reading order: `main.rs`, [`cli`], [`config`], then the run.
#![forbid(unsafe_code)]

pub mod audit;
pub mod check;
pub mod cli;
pub mod config;
pub mod devices;
pub mod events;
pub mod evidence;
pub mod exit;
pub mod firmware;
pub mod idblock;
pub mod measure;
pub mod output;
pub mod paint;
pub mod progress;
pub mod prove;
pub mod relay;
pub mod relying_party;
pub mod report;
pub mod run;
pub mod selftest;
pub mod stop;
pub mod summary;
pub mod testroot;

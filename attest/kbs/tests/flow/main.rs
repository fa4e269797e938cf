//! The whole flow on loopback: a service, and guests of a platform in software that show it reports.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bed;
mod crowd;
mod guest;
mod honest;
mod limits;
mod replay;
mod tls;

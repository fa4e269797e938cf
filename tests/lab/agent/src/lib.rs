//! What the lab's host side and the agent inside share: the protocol between them.
//!
//! A package of its own, so that a change of the host side does not rebuild the agent.
#![forbid(unsafe_code)]

pub mod proto;

//! The KBS protocol, from both ends.

pub(crate) mod answer;
pub(crate) mod message;
pub(crate) mod service;

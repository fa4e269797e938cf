//! What tests of `tenure` on a lab host need: one lab host for all of them, and a
//! running `tenure` with its console, messages and events.

pub(crate) mod bed;
pub(crate) mod vmm;

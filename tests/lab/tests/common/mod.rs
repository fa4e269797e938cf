//! What tests of `tenure` on a lab host need: a harness for cases in sequence, one lab host for all of them, and a
//! running `tenure` with its console, messages and events.

pub(crate) mod bed;
pub(crate) mod harness;
pub(crate) mod vmm;

//! The targets, by what they read.

pub(crate) mod certificates;
pub(crate) mod policy;
pub(crate) mod snp;
pub(crate) mod tdx;

//! The targets, by what they read.

pub(crate) mod appraisal;
pub(crate) mod certificates;
pub(crate) mod kbs;
pub(crate) mod log;
pub(crate) mod policy;
pub(crate) mod snp;
pub(crate) mod tdx;
pub(crate) mod token;

#![forbid(unsafe_code)]
pub mod binding;
pub mod closing;
pub mod conversion;
pub mod lifetime;
pub mod mapping;
pub mod protocol;
pub mod runner;
pub mod suite;

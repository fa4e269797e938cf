//! The threads as executable models: the kernel's protocols around guest_memfd, and our own on top of them, as threads
//! that take their steps in every order there is.
//!
//! Owns the models, what is claimed of each by name, and the mutants: broken forms, each of which must be caught by the
//! claim it was made for. (A checker that finds nothing wrong anywhere proves nothing.) Each model is small enough to
//! be read beside the mail it comes from, and says in its first lines which mail that is, which functions of Linux 7.2
//! it mirrors, what one step is, what it leaves out, and why that is sound or what it hides. Not owned: code under
//! test. A model shows that a protocol is right; that some code follows it is for that code's own tests.
//!
//! | model | from | question |
//! |---|---|---|
//! | [`binding`] | Bonzini 2024-12-22, Tng 2026-06-03 | is `slot->gmem.file` safe without RCU? |
//! | [`mapping`] | Christopherson 2019-11-08 | can a page be mapped after it was taken away? |
//! | [`lifetime`] | Tng 2023-08-07, Christopherson 2023-08-09 | bind at creation, or at memslot? |
//! | [`closing`] | the same, and Linux 7.2 | in which order may a VM be closed? |
//! | [`conversion`] | `gmem/kvm` | does our own protocol keep laws *no-stale-copy* and *shared-only*? |
//!
//! The search is [Stateright](https://docs.rs/stateright)'s; [`protocol`] is the language models are written in,
//! [`runner`] leads from one to the other, [`suite`] is everything that is checked, [`report`] shows it, and
//! [`document`] makes `docs/bind-at-creation.md` of the third model.
//!
//! `cargo test -p tenure-model` runs all of it; `cargo run -p tenure-model -- --help` says what else there is.
#![forbid(unsafe_code)]

pub mod binding;
pub mod closing;
pub mod conversion;
pub mod document;
pub mod lifetime;
pub mod mapping;
pub mod protocol;
pub mod report;
pub mod runner;
pub mod suite;

//! Secrets for attested guests, over the KBS protocol.
//!
//! Owns the flow between a guest and a relying party: challenge, evidence, token, secret. [`protocol`] is what both
//! say, [`server`] the relying party as a service, [`client`] the guest's side. Does not own what evidence is worth:
//! the service asks an [`appraiser::Appraiser`], and a program brings one. No KVM.
//!
//! A secret leaves the service only encrypted to a key that evidence was bound to, on behalf of a token that the
//! service signed itself and has just read back. A challenge is answered once, and that it was is on disk before
//! anybody gets an answer.
//!
//! Specification: the KBS attestation protocol of confidential-containers/trustee, version 0.4.0.
#![forbid(unsafe_code)]

pub mod appraiser;
pub mod client;
pub mod protocol;
pub mod resources;
pub mod server;
pub mod state;
pub mod store;
pub mod token;

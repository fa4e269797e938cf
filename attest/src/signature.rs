//! Whether a key signed something: the three kinds of signatures that evidence rests on.
//!
//! Owns who computes it, which is most of what a verdict takes. With the feature `aws-lc-rs` that crate does, over AWS-LC, in assembly;
//! otherwise the crates `rsa`, `p256` and `p384`, which need nothing but Rust. What a key is and what a signature on a curve,
//! these say in either case. Tests compare both.
//!
//! Specifications: RFC 8017, section 8.1.2 (RSASSA-PSS); FIPS 186-5, section 6.4.2 (ECDSA).

#[cfg(any(test, feature = "aws-lc-rs"))]
mod by_aws_lc;
#[cfg(any(test, not(feature = "aws-lc-rs")))]
mod by_rust;

#[cfg(feature = "aws-lc-rs")]
pub(crate) use by_aws_lc::{P256Key, ecdsa_p256, ecdsa_p384, rsa_pss};
#[cfg(not(feature = "aws-lc-rs"))]
pub(crate) use by_rust::{P256Key, ecdsa_p256, ecdsa_p384, rsa_pss};

#[cfg(test)]
mod tests;

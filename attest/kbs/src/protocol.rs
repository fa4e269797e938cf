//! What guest and relying party say to each other.
//!
//! Owns names, versions, answers to challenges ([`answer`]), what a guest's evidence is bound to ([`binding`]), the forms of evidence ([`evidence`]), keys
//! of guests ([`key`]) and what is encrypted to them ([`jwe`]). Messages are those of `kbs-types`. Does not own who may
//! say what when: that is the service's.
//!
//! Specification: the KBS attestation protocol of confidential-containers/trustee, version 0.4.0.

pub mod answer;
pub mod binding;
pub mod evidence;
pub mod jwe;
pub mod key;
pub mod resource;

use base64ct::{Base64, Encoding};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};

pub use kbs_types::{
    Attestation, Challenge, CompositeEvidence, ErrorInformation, HashAlgorithm, Request, RuntimeData, Tee, TeePubKey,
};

/// The version that our client says.
pub const VERSION: &str = "0.4.0";
/// Patches of it differ in nothing that is said.
const VERSIONS: &str = "0.4.";
/// The cookie that names a session.
pub const COOKIE: &str = "kbs-session-id";
/// Where sessions begin.
pub const AUTH: &str = "/kbs/v0/auth";
/// Where evidence goes.
pub const ATTEST: &str = "/kbs/v0/attest";
/// Where resources are, followed by repository, type and tag.
pub const RESOURCE: &str = "/kbs/v0/resource/";
/// A header of answers that rest on evidence: `hardware`, or `software-test`.
pub const TIER_HEADER: &str = "tenure-tier";

/// The answer to evidence.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Token {
    /// The token.
    pub token: String,
}

/// Whether the service speaks this version.
#[must_use]
pub fn is_spoken(version: &str) -> bool {
    version.strip_prefix(VERSIONS).is_some_and(|patch| patch.len() <= 4 && patch.parse::<u16>().is_ok())
}

/// Bytes that nobody can guess.
pub fn random<const N: usize>() -> Result<[u8; N], Errno> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        match getrandom(bytes.get_mut(filled..).unwrap_or_default(), GetRandomFlags::empty()) {
            Ok(more) => filled += more,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

/// A number that is used once, as guests are told it.
pub fn nonce() -> Result<String, Errno> {
    random::<32>().map(|bytes| Base64::encode_string(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_that_are_spoken() {
        for (version, spoken) in
            [("0.4.0", true), ("0.4.1", true), ("0.1.1", false), ("0.4", false), ("0.4.", false), ("0.40.0", false)]
        {
            assert_eq!(is_spoken(version), spoken, "{version}");
        }
    }
}

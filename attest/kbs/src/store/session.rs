//! One session, as it is stored.
//!
//! Owns when it is over.

use std::net::IpAddr;

use attest::UnixTime;
use kbs_types::{HashAlgorithm, Tee};
use serde::{Deserialize, Serialize};

/// Seconds by which a clock may be set back while sessions last.
const SLACK: u64 = 5;

/// What a guest was asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// The number that must come back.
    pub nonce: String,
    /// The technology that it says it has.
    pub tee: Tee,
    /// How its evidence is bound.
    pub algorithm: HashAlgorithm,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Session {
    /// Since when it is as it is.
    #[serde(default)]
    since: u64,
    expires: u64,
    /// Who began it.
    #[serde(default)]
    pub(super) peer: Option<IpAddr>,
    pub(super) state: State,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum State {
    Asked(Asked),
    Used,
    Attested { token: String },
}

impl Session {
    pub(super) fn begun(asked: Asked, peer: IpAddr, expires: UnixTime, now: UnixTime) -> Self {
        let (since, expires) = (now.as_secs(), expires.as_secs());
        Self { since, expires, peer: Some(peer), state: State::Asked(asked) }
    }

    pub(super) fn used(self) -> Self {
        Self { state: State::Used, ..self }
    }

    pub(super) fn attested(self, token: String, expires: UnixTime, now: UnixTime) -> Self {
        let (since, expires) = (now.as_secs(), expires.as_secs());
        Self { since, expires, state: State::Attested { token }, ..self }
    }

    /// What cannot be read is none.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// Whether it still counts. One of the future was begun while the clock was wrong, and would stay until then.
    pub(super) const fn is_live(&self, now: UnixTime) -> bool {
        now.as_secs() < self.expires && self.since <= now.as_secs().saturating_add(SLACK)
    }
}

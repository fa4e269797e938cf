//! What a test root of TDX says of itself: `root.toml`.
//!
//! Owns its keys and their meaning. It is public, and everything in it follows from the seed or goes into certificates and
//! statements, so that a change is found.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::chain::ChainError;
use crate::root::about::{Label, Moment, VERSION, hex, known_version};
use crate::tdx::chain::Authority;
use crate::tdx::platform::{Platform, Versions};

/// Versions of a platform that is made now.
pub(super) const USUAL: Versions = Versions::USUAL;

/// Comments in front of the keys.
const OPENING: &str = "\
# A root of trust for tests: software, not hardware. Whoever has this directory signs what he likes with it, so what
# rests on it is worth nothing but to those who test. root.der and collateral are public; root.key is not.
";

/// The description.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct About {
    label: Label,
    version: u32,
    tee: Tee,
    fmspc: String,
    not_before: Moment,
    not_after: Moment,
    tcb: Svns,
    keys: Fingerprints,
}

/// Roots of reports do not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Tee {
    Tdx,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Svns {
    tee: [u8; 16],
    components: [u8; 16],
    pce: u16,
    qe: u16,
}

/// SHA-256 of public keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fingerprints {
    root: String,
}

impl About {
    /// Of this authority and the platform below it.
    pub(super) fn of(authority: &Authority, platform: &Platform) -> Result<About, ChainError> {
        let Versions { components, pce, tee, qe } = platform.versions();
        Ok(About {
            label: Label::SoftwareTest,
            version: VERSION,
            tee: Tee::Tdx,
            fmspc: hex(&platform.fmspc()),
            not_before: Moment(authority.not_before()),
            not_after: Moment(authority.not_after()),
            tcb: Svns { tee, components, pce, qe },
            keys: Fingerprints { root: hex(&authority.fingerprint()?) },
        })
    }

    /// From the file.
    pub(super) fn parse(bytes: &[u8]) -> Result<About, String> {
        let text = str::from_utf8(bytes).map_err(|error| error.to_string())?;
        let about: About = toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        known_version(about.version)?;
        Ok(about)
    }

    /// The file.
    pub(super) fn to_text(&self) -> Result<String, String> {
        toml::to_string(self).map(|text| format!("{OPENING}\n{text}")).map_err(|error| error.to_string())
    }

    /// The root's key's.
    pub(super) fn fingerprint(&self) -> &str {
        &self.keys.root
    }

    /// When it begins.
    pub(super) fn from(&self) -> Duration {
        self.not_before.0
    }

    /// What is on the platform.
    pub(super) fn versions(&self) -> Versions {
        let Svns { tee, components, pce, qe } = self.tcb;
        Versions { components, pce, tee, qe }
    }
}

//! What a test root says of itself: `root.toml`.
//!
//! Owns its keys and their meaning. It is public, and everything in it follows from the private files or goes into
//! certificates, so that a change is found.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use x509_cert::der::DateTime;

use crate::chain::{Authority, ChainError, YEAR, vek};
use crate::chip::Seed;
use crate::model::{Model, Tcb};

/// Labels everything of which a test root is part.
pub const LABEL: &str = "software-test";
/// The description's only version.
pub(crate) const VERSION: u32 = 1;

/// Comments in front of the keys.
const OPENING: &str = "\
# A root of trust for tests: software, not hardware. Whoever has this directory signs what he likes with it, so what
# rests on it is worth nothing but to those who test. ark.der and certificates are public; files named .key are not.
";

/// The description.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct About {
    label: Label,
    version: u32,
    product: Product,
    chip_id: String,
    not_before: Moment,
    not_after: Moment,
    tcb: Versions,
    keys: Fingerprints,
}

/// Nothing else is a test root's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Label {
    #[serde(rename = "software-test")]
    SoftwareTest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Product {
    Milan,
    Genoa,
    Turin,
}

/// As RFC 3339 writes it, to the second, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) struct Moment(pub(crate) Duration);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Versions {
    #[serde(default)]
    fmc: u8,
    boot_loader: u8,
    tee: u8,
    snp: u8,
    microcode: u8,
}

/// SHA-256 of public keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fingerprints {
    ark: String,
    ask: String,
    asvk: String,
}

impl About {
    /// Of these authorities and the chip with this seed, with these versions on it.
    pub(super) fn of(authority: &Authority, seed: &Seed, tcb: Tcb) -> Result<About, ChainError> {
        let model = authority.model();
        let id = seed.chip_id(model);
        let not_before = authority.not_before();
        let Tcb { fmc, boot_loader, tee, snp, microcode } = tcb;
        let [ark, ask, asvk] = authority.fingerprints()?.map(|key| hex(&key));
        Ok(About {
            label: Label::SoftwareTest,
            version: VERSION,
            product: model.into(),
            chip_id: hex(&id[..model.chip_id_bytes()]),
            not_before: Moment(not_before),
            not_after: Moment(authority.not_after().min(not_before.saturating_add(YEAR * vek::VCEK_YEARS))),
            tcb: Versions { fmc, boot_loader, tee, snp, microcode },
            keys: Fingerprints { ark, ask, asvk },
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
    pub(super) fn to_text(&self) -> Result<String, toml::ser::Error> {
        Ok(format!("{OPENING}\n{}", toml::to_string(self)?))
    }

    pub(super) fn model(&self) -> Model {
        self.product.into()
    }

    pub(super) fn tcb(&self) -> Tcb {
        let Versions { fmc, boot_loader, tee, snp, microcode } = self.tcb;
        Tcb { fmc, boot_loader, tee, snp, microcode }
    }

    /// The root's key's.
    pub(super) fn fingerprint(&self) -> &str {
        &self.keys.ark
    }

    /// When it begins.
    pub(super) fn from(&self) -> Duration {
        self.not_before.0
    }

    /// When it ends.
    pub(super) fn to(&self) -> Duration {
        self.not_after.0
    }
}

/// Looks whether a description can be understood.
pub(crate) fn known_version(version: u32) -> Result<(), String> {
    match version {
        VERSION => Ok(()),
        version => Err(format!("version {version} is not known; there is {VERSION}")),
    }
}

/// Two digits a byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A moment since 1970 in words.
pub(crate) fn moment(since_1970: Duration) -> String {
    Moment(since_1970).to_string()
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match DateTime::from_unix_duration(self.0) {
            Ok(moment) => moment.fmt(f),
            Err(_) => write!(f, "{} s after 1970", self.0.as_secs()),
        }
    }
}

impl From<Moment> for String {
    fn from(moment: Moment) -> String {
        moment.to_string()
    }
}

impl TryFrom<String> for Moment {
    type Error = String;

    fn try_from(text: String) -> Result<Moment, String> {
        let moment = DateTime::from_str(&text);
        let moment = moment.map_err(|_| format!("{text:?} is no moment; write it like 2026-11-22T00:00:00Z"))?;
        Ok(Moment(moment.unix_duration()))
    }
}

impl From<Model> for Product {
    fn from(model: Model) -> Product {
        match model {
            Model::Milan => Product::Milan,
            Model::Genoa => Product::Genoa,
            Model::Turin => Product::Turin,
        }
    }
}

impl From<Product> for Model {
    fn from(product: Product) -> Model {
        match product {
            Product::Milan => Model::Milan,
            Product::Genoa => Model::Genoa,
            Product::Turin => Model::Turin,
        }
    }
}

//! Which technology a directory's root stands in for.
//!
//! Owns the one question before everything else. What the description says besides is read by the root that it is of.

use std::path::Path;

use serde::Deserialize;

use super::files::{Secrecy, expect_directory, read_file};
use super::{ABOUT, TestRoot, TestRootError};
use crate::tdx::TdxRoot;

/// What signs evidence of guests: each of one technology.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reports of SNP guests.
    Snp,
    /// Quotes of TDX guests.
    Tdx,
}

/// A root of either kind.
#[derive(Debug)]
pub enum AnyRoot {
    /// One for reports.
    Snp(Box<TestRoot>),
    /// One for quotes.
    Tdx(Box<TdxRoot>),
}

#[derive(Deserialize)]
struct Said {
    tee: Option<String>,
}

impl Kind {
    /// What the description in this directory says. One that nobody can read is left to whom it should be of.
    pub(super) fn of(dir: &Path) -> Result<Kind, TestRootError> {
        expect_directory(dir)?;
        let text = read_file(&dir.join(ABOUT), Secrecy::Public)?;
        let said = str::from_utf8(&text).ok().and_then(|text| toml::from_str::<Said>(text).ok());
        Ok(if said.and_then(|said| said.tee).as_deref() == Some("tdx") { Kind::Tdx } else { Kind::Snp })
    }

    /// What is signed below such a root.
    #[must_use]
    pub fn signs(self) -> &'static str {
        match self {
            Kind::Snp => "reports of SNP guests",
            Kind::Tdx => "quotes of TDX guests",
        }
    }
}

impl AnyRoot {
    /// Loads the root in this directory, and checks everything about it.
    pub fn load(dir: &Path) -> Result<AnyRoot, TestRootError> {
        match Kind::of(dir)? {
            Kind::Snp => TestRoot::load(dir).map(|root| AnyRoot::Snp(Box::new(root))),
            Kind::Tdx => TdxRoot::load(dir).map(|root| AnyRoot::Tdx(Box::new(root))),
        }
    }
}

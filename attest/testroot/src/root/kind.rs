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
    /// What the description in this directory says, if anybody can read it.
    pub(crate) fn of(dir: &Path) -> Result<Option<Kind>, TestRootError> {
        expect_directory(dir)?;
        let text = read_file(&dir.join(ABOUT), Secrecy::Public)?;
        let said = str::from_utf8(&text).ok().and_then(|text| toml::from_str::<Said>(text).ok());
        Ok(said.map(|said| if said.tee.as_deref() == Some("tdx") { Kind::Tdx } else { Kind::Snp }))
    }

    /// That the root in this directory is not of another kind. One whose description nobody can read may be.
    pub(crate) fn expect(self, dir: &Path) -> Result<(), TestRootError> {
        match Kind::of(dir)? {
            Some(is) if is != self => Err(TestRootError::OtherKind { dir: dir.to_owned(), is, wanted: self }),
            _ => Ok(()),
        }
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
            None | Some(Kind::Snp) => TestRoot::load(dir).map(|root| AnyRoot::Snp(Box::new(root))),
            Some(Kind::Tdx) => TdxRoot::load(dir).map(|root| AnyRoot::Tdx(Box::new(root))),
        }
    }
}

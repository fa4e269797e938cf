//! A root of TDX that lives in a directory: made once, then loaded by whatever has something to sign.
//!
//! Owns [`TdxRoot`], and the checks of what is loaded: that its seed is private, that everything else is what follows from
//! that and the description, byte for byte, and that it holds today. Statements and lists are made with the root, and
//! are good for as long as its certificates: real ones would be for a month, and a test would begin to fail one day. For
//! tests of that day there are others ([`TdxRoot::collateral_of`]).

use std::fmt;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use super::chain::Authority;
use super::collateral::{Collateral, Dates};
use super::platform::Platform;
use super::quote::{self, Statement};
use crate::chain::ChainError;
use crate::chip::Seed;
use crate::root::about::moment;
use crate::root::create::{expect_absent, place, yesterday};
use crate::root::files::{Secrecy, make_directory, read_file, read_seed, write_file};
use crate::root::{ABOUT, Kind, TestRootError};
use about::About;

mod about;
#[cfg(test)]
mod tests;

/// The seed of every key. Private.
pub const KEY: &str = "root.key";
/// The root's certificate in DER: the anchor. Public.
pub const ANCHOR: &str = "root.der";
/// The directory of what is published about the platform. Public.
pub const COLLATERAL: &str = "collateral";

/// A root of trust for tests in place of Intel's, with one platform below it.
pub struct TdxRoot {
    about: About,
    authority: Authority,
    platform: Platform,
    anchor: Vec<u8>,
    chain: String,
    collateral: Collateral,
}

impl TdxRoot {
    /// Makes a root of the system's random numbers, and puts it into this directory, which must not be there yet.
    pub fn init(dir: &Path) -> Result<TdxRoot, TestRootError> {
        TdxRoot::create(dir, Seed::generate()?, yesterday(UNIX_EPOCH.elapsed()?))
    }

    /// Puts the root that has this seed into this directory, which must not be there yet. It begins then, since 1970.
    pub fn create(dir: &Path, seed: Seed, from: Duration) -> Result<TdxRoot, TestRootError> {
        expect_absent(dir)?;
        let about = About::of(&Authority::new(&seed, from), &Platform::new(&seed, about::USUAL))?;
        let text = about.to_text().map_err(|why| TestRootError::About { path: dir.join(ABOUT), why })?;
        let root = TdxRoot::assemble(&seed, about)?;
        place(dir, |dir| {
            write_file(&dir.join(KEY), &seed.0, Secrecy::Private)?;
            write_file(&dir.join(ABOUT), text.as_bytes(), Secrecy::Public)?;
            write_file(&dir.join(ANCHOR), &root.anchor, Secrecy::Public)?;
            root.collateral.write(&dir.join(COLLATERAL))
        })?;
        Ok(root)
    }

    /// Loads the root in this directory, and checks everything about it.
    pub fn load(dir: &Path) -> Result<TdxRoot, TestRootError> {
        TdxRoot::load_at(dir, UNIX_EPOCH.elapsed()?)
    }

    /// The same as if it were this moment, since 1970.
    pub fn load_at(dir: &Path, now: Duration) -> Result<TdxRoot, TestRootError> {
        Kind::Tdx.expect(dir)?;
        let public = |path: &str| read_file(&dir.join(path), Secrecy::Public);
        let about = About::parse(&public(ABOUT)?).map_err(|why| TestRootError::About { path: dir.join(ABOUT), why })?;
        let seed = read_seed(&dir.join(KEY))?;
        let root = TdxRoot::assemble(&seed, about)?;
        let differs = |name: &str| TestRootError::Differs { path: dir.join(name), dir: dir.to_owned() };
        if About::of(&root.authority, &root.platform)? != root.about {
            return Err(differs(ABOUT));
        }
        let collateral = root.collateral.parts().map(|(name, part)| (format!("{COLLATERAL}/{name}"), part));
        for (name, part) in [(ANCHOR.to_owned(), &root.anchor[..])].into_iter().chain(collateral) {
            if *public(&name)? != part {
                return Err(differs(&name));
            }
        }
        let Dates { from, to } = root.dates();
        if !(from..=to).contains(&now) {
            let [from, to, now] = [from, to, now].map(moment);
            return Err(TestRootError::Validity { dir: dir.to_owned(), from, to, now });
        }
        Ok(root)
    }

    /// What follows from seed and description.
    fn assemble(seed: &Seed, about: About) -> Result<TdxRoot, ChainError> {
        let authority = Authority::new(seed, about.from());
        let platform = Platform::new(seed, about.versions());
        let dates = Dates { from: authority.not_before(), to: authority.not_after() };
        let collateral = Collateral::new(&authority, &platform, dates)?;
        let (anchor, chain) = (authority.root()?, authority.pck_chain(&platform)?);
        Ok(TdxRoot { about, authority, platform, anchor, chain, collateral })
    }

    /// When everything about it begins, and the first of it ends.
    #[must_use]
    pub fn dates(&self) -> Dates {
        Dates { from: self.authority.not_before(), to: self.authority.not_after() }
    }

    /// The root's certificate, in DER: what a relying party has to name to accept anything below it.
    #[must_use]
    pub fn anchor(&self) -> &[u8] {
        &self.anchor
    }

    /// SHA-256 of the root's public key in DER, in hexadecimal: what it is known by.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        self.about.fingerprint()
    }

    /// The platform below it.
    #[must_use]
    pub fn platform(&self) -> &Platform {
        &self.platform
    }

    /// What issues certificates and statements below it.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// What is published about the platform.
    #[must_use]
    pub fn collateral(&self) -> &Collateral {
        &self.collateral
    }

    /// The same as it would be published at another time.
    pub fn collateral_of(&self, dates: Dates) -> Result<Collateral, ChainError> {
        Collateral::new(&self.authority, &self.platform, dates)
    }

    /// Signs a quote about a guest. The same statement gives the same bytes.
    ///
    /// Nobody has looked whether it is true: whoever calls this vouches for that, and this root vouches for nothing.
    #[must_use]
    pub fn sign(&self, statement: &Statement) -> Vec<u8> {
        quote::quote(statement, &self.platform, &self.chain)
    }
}

impl Collateral {
    /// Writes all of it into a directory that is not there yet, in a file for each part.
    pub fn write(&self, dir: &Path) -> Result<(), TestRootError> {
        make_directory(dir)?;
        self.parts().into_iter().try_for_each(|(name, part)| write_file(&dir.join(name), part, Secrecy::Public))
    }
}

impl fmt::Debug for TdxRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TdxRoot").field("about", &self.about).finish_non_exhaustive()
    }
}

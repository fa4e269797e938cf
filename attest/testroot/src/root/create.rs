//! The making of a test root's directory: whole, or not there at all.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use super::about::About;
use super::files::{self, Files};
use super::{TestRoot, TestRootError};
use crate::chain::{Authority, Made};
use crate::chip::Seed;
use crate::model::{Model, Tcb};

const DAY: u64 = 86_400;

impl TestRoot {
    /// Makes a root for tests of what stands in for this product, with keys from the system's random numbers, and puts it
    /// into this directory, which must not be there yet. Takes seconds, and says whenever there is one more key.
    pub fn init(dir: &Path, product: Model, made: impl FnMut(Made)) -> Result<TestRoot, TestRootError> {
        // Before the seconds, not after them.
        expect_absent(dir)?;
        expect_folder(dir)?;
        let from = yesterday(UNIX_EPOCH.elapsed()?);
        let authority = Authority::generate(product, from, made)?;
        TestRoot::create(dir, authority, Seed::generate()?)
    }

    /// Puts a root with these authorities, and a chip with this seed, into this directory, which must not be there yet.
    pub fn create(dir: &Path, authority: Authority, seed: Seed) -> Result<TestRoot, TestRootError> {
        expect_absent(dir)?;
        let about = About::of(&authority, &seed, Tcb::usual(authority.model()))?;
        let keys = authority.to_pkcs8()?;
        let text = about
            .to_text()
            .map_err(|error| TestRootError::About { path: dir.join(super::ABOUT), why: error.to_string() })?;
        let root = TestRoot::assemble(about, authority, seed)?;
        let files = Files {
            keys,
            seed,
            about: text.into_bytes(),
            anchor: root.anchor.clone(),
            certificates: root.certificates.clone(),
        };
        place(dir, |dir| files::write(dir, &files))?;
        Ok(root)
    }
}

/// Midnight before the last one, so that clocks may differ.
pub(crate) fn yesterday(now: Duration) -> Duration {
    Duration::from_secs((now.as_secs() / DAY).saturating_sub(1) * DAY)
}

pub(crate) fn expect_absent(dir: &Path) -> Result<(), TestRootError> {
    match dir.symlink_metadata() {
        Ok(_) => Err(TestRootError::Exists(dir.to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(source) => Err(TestRootError::Write { path: dir.to_owned(), source }),
    }
}

/// Where the directory goes.
fn folder(dir: &Path) -> &Path {
    dir.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn expect_folder(dir: &Path) -> Result<(), TestRootError> {
    if folder(dir).is_dir() {
        return Ok(());
    }
    let source = io::Error::new(ErrorKind::NotFound, "the directory that it goes into does not exist");
    Err(TestRootError::Write { path: dir.to_owned(), source })
}

/// Has everything written beside its place and moves it there.
pub(crate) fn place(dir: &Path, fill: impl FnOnce(&Path) -> Result<(), TestRootError>) -> Result<(), TestRootError> {
    expect_folder(dir)?;
    let write = |source| TestRootError::Write { path: dir.to_owned(), source };
    let private = Permissions::from_mode(files::DIR_MODE);
    let beside = tempfile::Builder::new().prefix(".test-root-").permissions(private).tempdir_in(folder(dir));
    // The reason only: nobody knows the temporary directory's name.
    let beside = beside.map_err(|error| write(error.kind().into()))?;
    fill(beside.path())?;
    // If something got there in between, this replaces nothing but an empty directory.
    fs::rename(beside.path(), dir).map_err(write)?;
    let _ = beside.keep();
    Ok(())
}

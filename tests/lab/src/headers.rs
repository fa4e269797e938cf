//! The kernel's headers for user space, as a suite of the distribution's archive has them.
//!
//! Owns: fetching them; of the package only what a compiler for this machine reads is kept. Does not own: what is
//! compiled with them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Error;
use crate::archive::Archive;
use crate::cache::{self, Cache, Key, at};
use crate::progress::Progress;

const RECIPE: u32 = 1;
const PACKAGE: &str = "linux-libc-dev";
/// Their directories below `usr/include`, and where a compiler looks for them.
const DIRECTORIES: [(&str, &str); 3] =
    [("linux", "linux"), ("asm-generic", "asm-generic"), ("x86_64-linux-gnu/asm", "asm")];

/// A suite's kernel headers, fetched if they are not in the cache: a directory for a compiler's `-isystem`.
pub fn kernel_headers(place: Option<&Path>, suite: &str, progress: &mut dyn Progress) -> Result<PathBuf, Error> {
    let cache = Cache::open(place)?;
    let archive = Archive::open(&cache, Some(suite), progress)?;
    let version = archive.version(PACKAGE)?;
    let mut key = Key::new("headers", RECIPE);
    key.add("package", PACKAGE);
    key.add("version", &version);
    if let Some(entry) = cache.get("headers", &key) {
        return Ok(entry);
    }
    let locked = cache.lock(progress)?;
    locked.get_or_build("headers", &key, |scratch, result| {
        let name = format!("fetching {PACKAGE} {version}");
        progress
            .step(&name, Duration::from_secs(5), |progress| archive.unpack(PACKAGE, &version, scratch, progress))?;
        let include = scratch.join("usr/include");
        for (from, to) in DIRECTORIES {
            copy(&include.join(from), &result.join(to)).map_err(Error::from)?;
        }
        Ok(())
    })
}

/// Copies a directory with all below it. Some packages have links to files elsewhere in them: those are followed.
fn copy(from: &Path, to: &Path) -> Result<(), cache::Error> {
    fs::create_dir(to).map_err(at(to))?;
    for entry in fs::read_dir(from).map_err(at(from))? {
        let entry = entry.map_err(at(from))?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to)?;
        } else {
            fs::copy(&from, &to).map_err(at(&from))?;
        }
    }
    Ok(())
}

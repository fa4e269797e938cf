//! Where finished artefacts live, outside of any checkout, and how they get there whole.
//!
//! Owns: the cache's place, its keys, its lock, and that an entry appears complete or not at all.
//! Does not own: what an entry holds.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::progress::Progress;

/// Why the cache cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No place could be derived from the environment.
    #[error("none of TENURE_LAB_CACHE, XDG_CACHE_HOME and HOME names a directory for the lab's cache")]
    NoPlace,
    /// A file operation failed.
    #[error("lab cache {path}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Attaches the path to a file operation's error.
pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { path, source }
}

/// Everything an artefact depends on, one named ingredient after the other.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    hash: Sha256,
    listing: String,
}

impl Key {
    /// A key for a kind of artefact, made by this version of its recipe.
    #[must_use]
    pub(crate) fn new(kind: &str, recipe_version: u32) -> Self {
        let mut key = Self { hash: Sha256::new(), listing: String::new() };
        key.add("kind", kind);
        key.add("recipe", recipe_version.to_string());
        key
    }

    /// Adds an ingredient. Lengths are hashed too: ingredients cannot flow into each other.
    pub(crate) fn add(&mut self, name: &str, value: impl AsRef<[u8]>) {
        let value = value.as_ref();
        for part in [name.as_bytes(), value] {
            self.hash.update((part.len() as u64).to_le_bytes());
            self.hash.update(part);
        }
        let shown = match std::str::from_utf8(value) {
            Ok(text) if text.len() < 100 && !text.contains('\n') => text.to_owned(),
            _ => format!("sha256 {}", hex(&Sha256::digest(value))),
        };
        self.listing.push_str(&format!("{name}: {shown}\n"));
    }

    /// The key itself, in hexadecimal.
    #[must_use]
    pub(crate) fn digest(&self) -> String {
        hex(&self.hash.clone().finalize())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The cache directory.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    root: PathBuf,
}

impl Cache {
    /// Opens `place`, or what the environment says: `TENURE_LAB_CACHE`, else `tenure/lab` under
    /// `XDG_CACHE_HOME`, else under `~/.cache`.
    pub(crate) fn open(place: Option<&Path>) -> Result<Self, Error> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let root = place
            .map(Path::to_owned)
            .or_else(|| variable("TENURE_LAB_CACHE"))
            .or_else(|| variable("XDG_CACHE_HOME").map(|base| base.join("tenure/lab")))
            .or_else(|| variable("HOME").map(|base| base.join(".cache/tenure/lab")))
            .ok_or(Error::NoPlace)?;
        fs::create_dir_all(&root).map_err(at(&root))?;
        let root = root.canonicalize().map_err(at(&root))?;
        Ok(Self { root })
    }

    /// Its directory.
    #[must_use]
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The entry with this key, if it is there.
    #[must_use]
    pub(crate) fn get(&self, kind: &str, key: &Key) -> Option<PathBuf> {
        Some(self.entry(kind, key)).filter(|path| path.is_dir())
    }

    fn entry(&self, kind: &str, key: &Key) -> PathBuf {
        self.root.join(format!("{kind}-{}", &key.digest()[..20]))
    }

    /// Waits until nobody else builds, and clears away what a killed build left behind.
    pub(crate) fn lock(&self, progress: &mut dyn Progress) -> Result<Locked<'_>, Error> {
        let path = self.root.join("lock");
        let file = File::create(&path).map_err(at(&path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                progress.note("another run is provisioning the lab; waiting for it");
                file.lock().map_err(at(&path))?;
            }
            Err(TryLockError::Error(source)) => return Err(at(&path)(source)),
        }
        let building = self.root.join("building");
        fs::create_dir_all(&building).map_err(at(&building))?;
        for stale in fs::read_dir(&building).map_err(at(&building))?.flatten() {
            // The tools of a killed build may still be at it; what resists now is removed next time.
            let _ = fs::remove_dir_all(stale.path());
        }
        // A name of its own, so that such tools cannot get at what is built now.
        let scratch = TempDir::new_in(&building).map_err(at(&building))?;
        Ok(Locked { cache: self, scratch, _lock: file })
    }
}

/// The right to add to the cache; the lock ends with the value, or with the process.
#[derive(Debug)]
pub(crate) struct Locked<'a> {
    cache: &'a Cache,
    scratch: TempDir,
    _lock: File,
}

impl Locked<'_> {
    /// The entry with this key, built now if it is not there: `build` gets a scratch directory
    /// and, below it, the directory to fill. What fails or is interrupted leaves no entry.
    pub(crate) fn get_or_build<E: From<Error>>(
        &self,
        kind: &str,
        key: &Key,
        build: impl FnOnce(&Path, &Path) -> Result<(), E>,
    ) -> Result<PathBuf, E> {
        let entry = self.cache.entry(kind, key);
        if entry.is_dir() {
            return Ok(entry);
        }
        let scratch = self.scratch.path().join(kind);
        let result = scratch.join("result");
        fs::create_dir_all(&result).map_err(at(&result))?;
        build(&scratch, &result)?;
        let listing = result.join("INGREDIENTS");
        fs::write(&listing, &key.listing).map_err(at(&listing))?;
        fs::rename(&result, &entry).map_err(at(&entry))?;
        fs::remove_dir_all(&scratch).map_err(at(&scratch))?;
        Ok(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    fn key(parts: &[(&str, &str)]) -> Key {
        let mut key = Key::new("test", 1);
        parts.iter().for_each(|(name, value)| key.add(name, value));
        key
    }

    #[test]
    fn every_ingredient_and_its_boundaries_count() {
        let keys = [
            key(&[]),
            key(&[("a", "")]),
            key(&[("", "a")]),
            key(&[("a", "b")]),
            key(&[("ab", "")]),
            key(&[("a", "b"), ("c", "d")]),
            key(&[("c", "d"), ("a", "b")]),
            Key::new("test", 2),
            Key::new("other", 1),
        ];
        let digests: std::collections::BTreeSet<String> = keys.iter().map(Key::digest).collect();
        assert_eq!(digests.len(), keys.len());
        assert_eq!(key(&[("a", "b")]).digest(), key(&[("a", "b")]).digest());
    }

    #[test]
    fn a_failed_build_leaves_no_entry_and_the_next_one_starts_clean() {
        let place = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(place.path())).unwrap();
        let key = key(&[]);
        let locked = cache.lock(&mut Silent).unwrap();
        let failed = locked.get_or_build::<Error>("thing", &key, |_, result| {
            fs::write(result.join("half"), "x").unwrap();
            Err(Error::NoPlace)
        });
        assert!(failed.is_err());
        assert_eq!(cache.get("thing", &key), None);
        drop(locked);
        // As a killed build leaves it.
        fs::create_dir_all(place.path().join("building/old/thing/result")).unwrap();

        let locked = cache.lock(&mut Silent).unwrap();
        assert!(!place.path().join("building/old").exists());
        let build = |_: &Path, result: &Path| fs::write(result.join("whole"), "x").map_err(at(result));
        let entry = locked.get_or_build("thing", &key, build).unwrap();
        assert_eq!(cache.get("thing", &key), Some(entry.clone()));
        let mut names: Vec<_> = fs::read_dir(&entry).unwrap().map(|file| file.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["INGREDIENTS", "whole"]);

        // The second time nothing is built.
        let again = locked.get_or_build::<Error>("thing", &key, |_, _| Err(Error::NoPlace)).unwrap();
        assert_eq!(again, entry);
    }

    #[test]
    fn two_builders_take_turns() {
        let place = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(place.path())).unwrap();
        let locked = cache.lock(&mut Silent).unwrap();
        let second = File::create(place.path().join("lock")).unwrap();
        assert!(matches!(second.try_lock(), Err(TryLockError::WouldBlock)));
        drop(locked);
        assert!(second.try_lock().is_ok());
    }
}

//! The directory in which a service keeps what it knows and what it signs with.
//!
//! Owns who may have put something there: whoever else can write into it could have left a key of tokens and sign with it
//! what the service then believes. What is looked at is what is used: files are opened below the very directory that was
//! checked.

use std::fs::{DirBuilder, File, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, openat, unlinkat};
use rustix::io::Errno;
use rustix::process::{Uid, geteuid};
use zeroize::Zeroizing;

use crate::protocol::random;

/// Rights that let others put files there.
const OTHERS_WRITE: u32 = 0o022;
/// Rights of everybody but the owner.
const OTHERS: u32 = 0o077;
/// Who can change everything anyway.
const ROOT: u32 = 0;
const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);

/// Why nothing is kept there.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The system.
    #[error("{path}: {source}")]
    File {
        /// The directory, or a file of it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something of another kind is in its place.
    #[error("{path} is not a regular file")]
    Kind {
        /// What is wrong.
        path: PathBuf,
    },
    /// Somebody else's, who can do with it whatever he wants.
    #[error(
        "{path} belongs to user {owner}, who could sign this service's tokens: it must be user {us}'s, who runs it, or root's; \
         give another directory, or look what is in it, then chown {us} {path}"
    )]
    Owner {
        /// The directory, or a file of it.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        us: u32,
    },
    /// Others may write into it.
    #[error(
        "{path} has mode {mode:04o}: others may put a key into it that they can sign tokens with; look what is in it, then \
         chmod go-w {path}"
    )]
    Writable {
        /// The directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Others have rights to a file that is private.
    #[error("{path}: its mode is {mode:o}; nobody but its owner may have access (chmod 600)")]
    Mode {
        /// Which.
        path: PathBuf,
        /// What it is.
        mode: u32,
    },
}

/// A directory into which nobody but us and root can put anything, held open.
#[derive(Clone, Debug)]
pub struct StateDirectory {
    path: PathBuf,
    directory: Arc<File>,
}

impl StateDirectory {
    /// This one, made for nobody else if there is none.
    pub fn make(path: &Path) -> Result<Self, StateError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|source| StateError::File { path: path.into(), source })?;
        Self::open(path)
    }

    /// One that is there.
    fn open(path: &Path) -> Result<Self, StateError> {
        let failed = |source| StateError::File { path: path.into(), source };
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
        let directory = File::from(openat(CWD, path, flags, Mode::empty()).map_err(|error| failed(error.into()))?);
        let metadata = directory.metadata().map_err(failed)?;
        expect_owner(path, metadata.uid(), geteuid())?;
        // Who may only look into it gets no further than its private files.
        let mode = metadata.mode() & 0o7777;
        if mode & OTHERS_WRITE != 0 {
            return Err(StateError::Writable { path: path.into(), mode });
        }
        Ok(Self { path: path.into(), directory: Arc::new(directory) })
    }

    /// A file that only its owner has rights to, us or root; a new one if there is none.
    pub fn private(&self, name: &str, new: impl FnOnce() -> io::Result<Zeroizing<String>>) -> Result<File, StateError> {
        let path = self.path_of(name);
        let failed = |source| StateError::File { path: path.clone(), source };
        let file = match self.file(name, OFlags::RDONLY) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                new().and_then(|text| self.write(name, text.as_bytes())).map_err(failed)?;
                self.file(name, OFlags::RDONLY)
            }
            found => found,
        };
        let file = file.map_err(failed)?;
        expect_private(&path, &file)?;
        Ok(file)
    }

    /// A file that only its owner has rights to, us or root, to be read and written; an empty one if there is none.
    pub fn database(&self, name: &str) -> Result<File, StateError> {
        let path = self.path_of(name);
        let file = self.file(name, OFlags::RDWR | OFlags::CREATE);
        let file = file.map_err(|source| StateError::File { path: path.clone(), source })?;
        expect_private(&path, &file)?;
        Ok(file)
    }

    /// By what name a file of it is known.
    #[must_use]
    pub fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn file(&self, name: &str, flags: OFlags) -> io::Result<File> {
        // A pipe must not make anybody wait.
        let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        Ok(openat(&self.directory, name, flags, PRIVATE)?.into())
    }

    /// Either all of it or nothing is there afterwards, for its owner alone; one that somebody else just made stays.
    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let part = format!("{name}.{:032x}", u128::from_le_bytes(random()?));
        // Of a name that nobody knows beforehand; if something has it all the same, it is left alone.
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut file = File::from(openat(&self.directory, &part, flags, PRIVATE)?);
        let mut write = || -> io::Result<()> {
            file.set_permissions(Permissions::from_mode(PRIVATE.bits()))?;
            file.write_all(bytes)?;
            file.sync_all()?;
            match linkat(&self.directory, &part, &self.directory, name, AtFlags::empty()) {
                Err(Errno::EXIST) => Ok(()),
                linked => Ok(linked?),
            }
        };
        let written = write();
        unlinkat(&self.directory, &part, AtFlags::empty())?;
        written?;
        self.directory.sync_all()
    }
}

/// A file that only its owner has rights to, us or root.
fn expect_private(path: &Path, file: &File) -> Result<(), StateError> {
    let metadata = file.metadata().map_err(|source| StateError::File { path: path.into(), source })?;
    if !metadata.is_file() {
        return Err(StateError::Kind { path: path.into() });
    }
    expect_owner(path, metadata.uid(), geteuid())?;
    let mode = metadata.mode() & 0o7777;
    if mode & OTHERS != 0 {
        return Err(StateError::Mode { path: path.into(), mode });
    }
    Ok(())
}

/// Who owns it could give himself every right.
fn expect_owner(path: &Path, owner: u32, us: Uid) -> Result<(), StateError> {
    if owner == us.as_raw() || owner == ROOT {
        return Ok(());
    }
    Err(StateError::Owner { path: path.into(), owner, us: us.as_raw() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{FileType, mknodat};
    use std::fs;
    use std::os::unix::fs::{chown, symlink};

    const NAME: &str = "token.key";

    fn new() -> io::Result<Zeroizing<String>> {
        Ok(Zeroizing::new("new".into()))
    }

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    /// no-silent-trust: who can write into the directory could have left a key in it.
    #[test]
    fn no_silent_trust_nobody_else_writes_into_it() {
        let dir = tempfile::tempdir().unwrap();
        for (mode, is_good) in
            [(0o700, true), (0o755, true), (0o720, false), (0o702, false), (0o777, false), (0o1777, false)]
        {
            chmod(dir.path(), mode);
            let found = StateDirectory::make(dir.path());
            assert_eq!(found.is_ok(), is_good, "{mode:o}: {found:?}");
            let Err(error) = found else { continue };
            assert!(matches!(error, StateError::Writable { mode: found, .. } if found == mode), "{error}");
            let said = error.to_string();
            assert!(said.contains(&format!("chmod go-w {}", dir.path().display())), "{said}");
        }
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(StateDirectory::open(&file).is_err());
    }

    /// no-silent-trust: neither the directory nor a key in it is somebody else's.
    #[test]
    fn no_silent_trust_it_is_ours_or_roots() {
        let us = Uid::from_raw(1000);
        let path = Path::new("state");
        assert!([1000, 0].into_iter().all(|owner| expect_owner(path, owner, us).is_ok()));
        let said = expect_owner(path, 1001, us).unwrap_err().to_string();
        assert!(said.starts_with("state belongs to user 1001") && said.contains("user 1000"), "{said}");
        if !geteuid().is_root() {
            println!("not run: only root can give files away");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let state = StateDirectory::make(&path).unwrap();
        state.private(NAME, new).unwrap();
        chown(path.join(NAME), Some(1001), None).unwrap();
        assert!(matches!(state.private(NAME, new), Err(StateError::Owner { owner: 1001, .. })));
        chown(&path, Some(1001), None).unwrap();
        assert!(matches!(StateDirectory::make(&path), Err(StateError::Owner { owner: 1001, .. })));
    }

    /// no-silent-trust: what lies where a private file belongs, or where it is made, is neither believed nor written to.
    #[test]
    fn no_silent_trust_what_was_left_there() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDirectory::make(&dir.path().join("state")).unwrap();
        let path = state.path_of(NAME);
        let victim = dir.path().join("victim");
        fs::write(&victim, "").unwrap();
        chmod(&victim, 0o644);
        symlink(&victim, &path).unwrap();
        assert!(matches!(state.private(NAME, new), Err(StateError::Mode { mode: 0o644, .. })));
        assert!(matches!(state.database(NAME), Err(StateError::Mode { mode: 0o644, .. })));
        fs::remove_file(&victim).unwrap();
        assert!(matches!(state.private(NAME, new), Err(StateError::File { .. })));
        assert!(!victim.exists(), "a link that leads nowhere leads nowhere still");
        fs::remove_file(&path).unwrap();
        mknodat(CWD, &path, FileType::Fifo, PRIVATE, 0).unwrap();
        assert!(matches!(state.private(NAME, new), Err(StateError::Kind { .. })));
        assert!(matches!(state.database(NAME), Err(StateError::Kind { .. })));
        assert_eq!(fs::read_dir(&state.path).unwrap().count(), 1, "nothing is left behind");
    }
}

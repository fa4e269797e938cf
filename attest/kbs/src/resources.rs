//! Resources: files in a directory, repository/type/tag.
//!
//! Owns how a name becomes a file's contents. The kernel itself resolves the name below the directory and nowhere else:
//! symbolic links that stay in it are followed, as orchestrators make them, and those that lead out of it are not.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;
use zeroize::Zeroizing;

use crate::protocol::resource::ResourceName;

/// How often a name is looked up that the kernel cannot resolve for the moment.
const TRIES: u32 = 128;

/// Why a resource cannot be released.
#[derive(Debug, thiserror::Error)]
pub enum ResourcesError {
    /// There is none, or a link that leads away.
    #[error("there is no resource {0}")]
    NotFound(ResourceName),
    /// Not a file.
    #[error("resource {0} is not a file")]
    Kind(ResourceName),
    /// Larger than is allowed.
    #[error("resource {name} has more than {most} bytes")]
    Size {
        /// Which.
        name: ResourceName,
        /// What is allowed.
        most: u64,
    },
    /// Something failed.
    #[error("resource {name}: {source}")]
    File {
        /// Which.
        name: ResourceName,
        /// Why.
        source: io::Error,
    },
}

/// A directory of resources.
#[derive(Debug)]
pub struct Resources {
    directory: OwnedFd,
    most: u64,
}

impl Resources {
    /// Those in this directory, of at most so many bytes each.
    pub fn open(directory: &Path, most: u64) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
        Ok(Self { directory: openat(CWD, directory, flags, Mode::empty())?, most })
    }

    /// What is in one.
    pub fn read(&self, name: &ResourceName) -> Result<Zeroizing<Vec<u8>>, ResourcesError> {
        let failed = |source: io::Error| ResourcesError::File { name: name.clone(), source };
        // A pipe must not make anybody wait.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let file = match again(|| openat2(&self.directory, name.as_str(), flags, Mode::empty(), resolve)) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::XDEV | Errno::LOOP) => {
                return Err(ResourcesError::NotFound(name.clone()));
            }
            Err(error) => return Err(failed(error.into())),
        };
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(ResourcesError::Kind(name.clone()));
        }
        let too_large = || ResourcesError::Size { name: name.clone(), most: self.most };
        if metadata.len() > self.most {
            return Err(too_large());
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(metadata.len() + 1).unwrap_or_default()));
        file.take(self.most + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > self.most {
            return Err(too_large());
        }
        Ok(bytes)
    }
}

/// Tries something until it is not interrupted. The kernel is not sure of `..` below a directory if anything on the machine
/// was renamed or mounted meanwhile, and leaves it to its caller to ask again (openat2(2), EAGAIN).
fn again<T>(mut attempt: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    let mut tries = 1;
    loop {
        match attempt() {
            Err(Errno::AGAIN | Errno::INTR) if tries < TRIES => tries += 1,
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;
    use std::time::{Duration, Instant};

    /// no-silent-trust: nothing outside the directory is a resource.
    #[test]
    fn no_silent_trust_links_lead_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("in"), dir.path().join("out"));
        fs::create_dir_all(inside.join("a/b")).unwrap();
        fs::create_dir_all(outside.join("b")).unwrap();
        fs::write(inside.join("a/b/real"), "secret").unwrap();
        fs::write(inside.join("a/b/large"), [0; 9]).unwrap();
        fs::create_dir(inside.join("a/b/directory")).unwrap();
        fs::write(outside.join("b/c"), "elsewhere").unwrap();
        symlink("real", inside.join("a/b/link")).unwrap();
        symlink(outside.join("b/c"), inside.join("a/b/absolute")).unwrap();
        symlink("../../../out/b/c", inside.join("a/b/relative")).unwrap();
        symlink(&outside, inside.join("o")).unwrap();
        symlink("loop", inside.join("a/b/loop")).unwrap();
        let resources = Resources::open(&inside, 8).unwrap();
        let read = |name: &str| resources.read(&name.parse().unwrap());
        assert_eq!(read("a/b/real").unwrap()[..], b"secret"[..]);
        assert_eq!(read("a/b/link").unwrap()[..], b"secret"[..]);
        for name in ["a/b/none", "a/b/absolute", "a/b/relative", "o/b/c", "a/b/loop", "a/real/x"] {
            assert!(matches!(read(name), Err(ResourcesError::NotFound(_))), "{name}");
        }
        assert!(matches!(read("a/b/directory"), Err(ResourcesError::Kind(_))));
        assert!(matches!(read("a/b/large"), Err(ResourcesError::Size { .. })));
    }

    #[test]
    fn what_never_ends_is_not_tried_for_ever() {
        let ending = |errors: u32, error: Errno| {
            let mut tries = 0;
            let found = again(|| {
                tries += 1;
                if tries > errors { Ok(()) } else { Err(error) }
            });
            (found, tries)
        };
        for error in [Errno::AGAIN, Errno::INTR] {
            assert_eq!(ending(TRIES - 1, error), (Ok(()), TRIES));
            assert_eq!(ending(TRIES, error), (Err(error), TRIES));
        }
        assert_eq!(ending(1, Errno::NOENT), (Err(Errno::NOENT), 1));
    }

    /// Promise: a name is found whatever else is renamed on the machine at the same time.
    #[test]
    fn names_are_found_while_others_change() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/b/real"), "secret").unwrap();
        symlink("../b/../b/../b/real", dir.path().join("a/b/link")).unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let names = ["one", "other"].map(|name| elsewhere.path().join(name));
        fs::write(&names[0], "").unwrap();
        let resources = Resources::open(dir.path(), 8).unwrap();
        let name = "a/b/link".parse().unwrap();
        let (going_on, began) = (AtomicBool::new(true), Instant::now());
        thread::scope(|scope| {
            scope.spawn(|| {
                while going_on.load(Ordering::Relaxed) {
                    fs::rename(&names[0], &names[1]).unwrap();
                    fs::rename(&names[1], &names[0]).unwrap();
                }
            });
            let mut read = Ok(Zeroizing::default());
            while began.elapsed() < Duration::from_secs(1) && read.is_ok() {
                read = resources.read(&name);
            }
            going_on.store(false, Ordering::Relaxed);
            assert_eq!(read.unwrap()[..], b"secret"[..]);
        });
    }
}

//! The files of a test root.
//!
//! Owns their names, who may read them, and reading and writing them. Public ones a relying party takes away; private ones
//! are read only if nobody but their owner can have read or changed them. Law no-silent-trust: sizes have a limit.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;
use zeroize::Zeroizing;

use super::TestRootError;
use crate::chip::Seed;

/// The root's certificate in DER: the anchor. Public.
pub const ANCHOR: &str = "ark.der";
/// The table of certificates. Public.
pub const CERTIFICATES: &str = "certificates";
/// The description. Public.
pub const ABOUT: &str = "root.toml";
/// Private keys of ARK, ASK and ASVK, PKCS #8 in DER.
pub const KEYS: [&str; 3] = ["ark.key", "ask.key", "asvk.key"];
/// The seed of the chip's keys. Private.
pub const CHIP_KEY: &str = "chip.key";

/// More than any file has.
const MOST: u64 = 1 << 16;
/// The directory's mode.
pub(super) const DIR_MODE: u32 = 0o700;
const PRIVATE_MODE: u32 = 0o600;
const PUBLIC_MODE: u32 = 0o644;
const PUBLIC_DIR_MODE: u32 = 0o755;
/// Rights of everybody but the owner.
const OTHERS: u32 = 0o077;
/// Those of them that let others put files there.
const OTHERS_WRITE: u32 = 0o022;

/// A file.
type Bytes = Zeroizing<Vec<u8>>;

/// Everything in the directory.
pub(super) struct Files {
    pub(super) keys: [Bytes; 3],
    pub(super) seed: Seed,
    pub(super) about: Vec<u8>,
    pub(super) anchor: Vec<u8>,
    pub(super) certificates: Vec<u8>,
}

/// Who may read a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Secrecy {
    Private,
    Public,
}

/// Reads everything, if private files are private.
pub(super) fn read(dir: &Path) -> Result<Files, TestRootError> {
    expect_directory(dir)?;
    let [ark, ask, asvk] = KEYS.map(|name| read_file(&dir.join(name), Secrecy::Private));
    let keys = [ark?, ask?, asvk?];
    let seed = read_seed(&dir.join(CHIP_KEY))?;
    let public = |name| read_file(&dir.join(name), Secrecy::Public).map(|bytes| bytes.to_vec());
    Ok(Files { keys, seed, about: public(ABOUT)?, anchor: public(ANCHOR)?, certificates: public(CERTIFICATES)? })
}

/// Reads what secrets are derived of.
pub(crate) fn read_seed(path: &Path) -> Result<Seed, TestRootError> {
    let seed = read_file(path, Secrecy::Private)?;
    let bytes = seed.len();
    Ok(Seed(seed[..].try_into().map_err(|_| TestRootError::Seed { path: path.to_owned(), bytes })?))
}

/// That it is a directory, into which nobody else can put anything.
pub(crate) fn expect_directory(dir: &Path) -> Result<(), TestRootError> {
    let read = |source| TestRootError::Read { path: dir.to_owned(), source };
    let metadata = dir.metadata().map_err(read)?;
    if !metadata.is_dir() {
        return Err(TestRootError::Kind { path: dir.to_owned(), wanted: "directory" });
    }
    // Who may only look into it gets no further than its private files.
    let mode = metadata.permissions().mode();
    if mode & OTHERS_WRITE != 0 {
        return Err(TestRootError::Mode { path: dir.to_owned(), mode: mode & 0o7777 });
    }
    Ok(())
}

/// Reads a file, if it is one, and as private as it has to be.
pub(crate) fn read_file(path: &Path, secrecy: Secrecy) -> Result<Bytes, TestRootError> {
    let read = |source| TestRootError::Read { path: path.to_owned(), source };
    // What is looked at is what was opened; a pipe must not keep us waiting for somebody to write.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(read)?;
    let metadata = file.metadata().map_err(read)?;
    if !metadata.is_file() {
        return Err(TestRootError::Kind { path: path.to_owned(), wanted: "regular file" });
    }
    if secrecy == Secrecy::Private {
        expect_private(path, metadata.permissions().mode())?;
    }
    // At its full size at once, so that no copies of a key are left behind by growing.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(metadata.len().min(MOST) + 1).unwrap_or(0)));
    file.take(MOST + 1).read_to_end(&mut bytes).map_err(read)?;
    if bytes.len() as u64 > MOST {
        return Err(TestRootError::TooLarge { path: path.to_owned(), most: MOST });
    }
    Ok(bytes)
}

/// A file that we can read and its owner alone has rights to is ours, or we are root.
fn expect_private(path: &Path, mode: u32) -> Result<(), TestRootError> {
    if mode & OTHERS == 0 {
        return Ok(());
    }
    Err(TestRootError::Mode { path: path.to_owned(), mode: mode & 0o7777 })
}

/// Writes everything into an empty directory.
pub(super) fn write(dir: &Path, files: &Files) -> Result<(), TestRootError> {
    for (name, key) in KEYS.iter().zip(&files.keys) {
        write_file(&dir.join(name), key, Secrecy::Private)?;
    }
    write_file(&dir.join(CHIP_KEY), &files.seed.0, Secrecy::Private)?;
    write_file(&dir.join(ABOUT), &files.about, Secrecy::Public)?;
    write_file(&dir.join(ANCHOR), &files.anchor, Secrecy::Public)?;
    write_file(&dir.join(CERTIFICATES), &files.certificates, Secrecy::Public)
}

/// Makes a directory for what is public.
pub(crate) fn make_directory(path: &Path) -> Result<(), TestRootError> {
    let made = DirBuilder::new().mode(PUBLIC_DIR_MODE).create(path);
    made.map_err(|source| TestRootError::Write { path: path.to_owned(), source })
}

/// Writes a file that is not there yet.
pub(crate) fn write_file(path: &Path, bytes: &[u8], secrecy: Secrecy) -> Result<(), TestRootError> {
    let mode = match secrecy {
        Secrecy::Private => PRIVATE_MODE,
        Secrecy::Public => PUBLIC_MODE,
    };
    let write = || -> std::io::Result<()> {
        let mut file: File = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|source| TestRootError::Write { path: path.to_owned(), source })
}

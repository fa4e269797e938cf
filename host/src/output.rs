//! A file that somebody asked for: whole, or not there at all.
//!
//! Owns writing it beside its place and moving it there, and the refusal to write over what it was made from or what is no
//! file. Does not own what is in it.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Where something goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// `-`: to standard output.
    Stdout,
    /// To a file.
    File(PathBuf),
}

/// Why something cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// It is what it would be made from.
    #[error("`{}` is the {what}: it would be overwritten", path.display())]
    IsInput {
        /// The output.
        path: PathBuf,
        /// The setting that names it as input.
        what: &'static str,
    },
    /// Something of before.
    #[error("`{}` is there already; nothing is written over", path.display())]
    There {
        /// The output.
        path: PathBuf,
    },
    /// A directory, a pipe, or a device.
    #[error("`{}` is not a regular file", path.display())]
    NotAFile {
        /// The output.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("`{}` cannot be written: {source}", path.display())]
    Write {
        /// The output.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A terminal would obey these bytes.
    #[error("- is a terminal, and binary is not for one; --format base64 is, or give --out a file")]
    Terminal,
    /// Others could read over somebody's shoulder, and a terminal would obey these bytes.
    #[error("- is a terminal, and a secret is not for one; give --out a file")]
    SecretTerminal,
    /// Standard output.
    #[error("standard output cannot be written: {0}")]
    Stdout(io::Error),
}

impl OutputError {
    /// The same, said of the setting that names the output.
    pub fn of(&self, setting: &str) -> String {
        match self {
            Self::Stdout(_) => self.to_string(),
            _ => format!("{setting} {self}"),
        }
    }
}

impl From<OsString> for Output {
    fn from(text: OsString) -> Self {
        if text == "-" { Self::Stdout } else { Self::File(text.into()) }
    }
}

impl Output {
    /// Refuses to write over one of these inputs, each with the name of its setting, by whatever name it goes there.
    pub fn spares<'a>(&self, inputs: impl IntoIterator<Item = (&'static str, &'a Path)>) -> Result<(), OutputError> {
        let Self::File(path) = self else { return Ok(()) };
        // What isn't there yet is no input; what cannot be looked at cannot be written either, which is said then.
        let Ok(out) = fs::metadata(path) else { return Ok(()) };
        let is_out = |input: &Path| fs::metadata(input).is_ok_and(|it| (it.dev(), it.ino()) == (out.dev(), out.ino()));
        match inputs.into_iter().find(|(_, input)| is_out(input)) {
            Some((what, _)) => Err(OutputError::IsInput { path: path.clone(), what }),
            None => Ok(()),
        }
    }

    /// Refuses to write over anything at all, a link that leads nowhere included.
    pub fn is_new(&self) -> Result<(), OutputError> {
        match self {
            Self::File(path) if fs::symlink_metadata(path).is_ok() => Err(OutputError::There { path: path.clone() }),
            _ => Ok(()),
        }
    }

    /// Refuses what cannot be written to, as far as that can be told before there is anything to write: for what takes
    /// long to make.
    pub fn has_a_place(&self) -> Result<(), OutputError> {
        let Self::File(path) = self else { return Ok(()) };
        let target = target(path)?;
        let folder = folder(&target);
        let refused = |source| OutputError::Write { path: path.clone(), source };
        // Made and gone at once: rights, file systems and quotas have more to say than anybody can guess.
        tempfile::tempfile_in(folder).map(drop).map_err(|error| refused(without_its_name(error, folder)))
    }

    /// The same for a secret, which is not for a terminal: who cannot have it need not ask for it.
    pub fn has_a_place_for_a_secret(&self) -> Result<(), OutputError> {
        self.expect_no_terminal(OutputError::SecretTerminal)?;
        self.has_a_place()
    }

    fn expect_no_terminal(&self, otherwise: OutputError) -> Result<(), OutputError> {
        if *self == Self::Stdout && io::stdout().is_terminal() { Err(otherwise) } else { Ok(()) }
    }

    /// Writes text.
    pub fn write_text(&self, text: &str) -> Result<(), OutputError> {
        self.write(text.as_bytes())
    }

    /// Writes bytes that are no text.
    pub fn write_binary(&self, bytes: &[u8]) -> Result<(), OutputError> {
        self.expect_no_terminal(OutputError::Terminal)?;
        self.write(bytes)
    }

    /// Writes a secret: a file of it is for its owner alone.
    pub fn write_secret(&self, secret: &[u8]) -> Result<(), OutputError> {
        self.expect_no_terminal(OutputError::SecretTerminal)?;
        self.write_with(secret, 0o600)
    }

    /// With the rights that any new file gets: the umask takes its share.
    fn write(&self, bytes: &[u8]) -> Result<(), OutputError> {
        self.write_with(bytes, 0o666)
    }

    fn write_with(&self, bytes: &[u8], rights: u32) -> Result<(), OutputError> {
        match self {
            Self::Stdout => {
                let mut out = io::stdout();
                // Without a line's end bytes would wait until the process ends, and errors with them.
                out.write_all(bytes).and_then(|()| out.flush()).map_err(OutputError::Stdout)
            }
            Self::File(path) => {
                let target = target(path)?;
                replace(&target, bytes, rights).map_err(|source| OutputError::Write { path: path.clone(), source })
            }
        }
    }
}

/// What is written for a path: a link stays, and what it points at is replaced. A device never is.
fn target(path: &Path) -> Result<PathBuf, OutputError> {
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if fs::metadata(&target).is_ok_and(|there| !there.is_file()) {
        return Err(OutputError::NotAFile { path: path.to_owned() });
    }
    Ok(target)
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Puts a file there at once. Whoever reads it sees the old bytes or the new ones.
fn replace(path: &Path, bytes: &[u8], rights: u32) -> io::Result<()> {
    let folder = folder(path);
    let mut builder = tempfile::Builder::new();
    let rights = Permissions::from_mode(rights);
    let mut file = builder
        .prefix(".tenure-")
        .permissions(rights)
        .tempfile_in(folder)
        .map_err(|error| without_its_name(error, folder))?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// The reason only: nobody knows the temporary file's name.
fn without_its_name(error: io::Error, folder: &Path) -> io::Error {
    match error.kind() {
        kind @ ErrorKind::NotFound if !folder.exists() => io::Error::new(kind, "its directory does not exist"),
        kind => kind.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn file(path: PathBuf) -> Output {
        Output::from(path.into_os_string())
    }

    #[test]
    fn a_file_is_replaced_and_nothing_is_left_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("block");
        file(path.clone()).write_binary(b"first").unwrap();
        file(path.clone()).write_text("second\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second\n");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_ne!(fs::metadata(&path).unwrap().mode() & 0o400, 0);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o111, 0);
        file(path.clone()).write_secret(b"secret").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_link_stays_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("block"), dir.path().join("link"));
        fs::write(&path, "old").unwrap();
        symlink("block", &link).unwrap();
        file(link.clone()).write_text("new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    /// no-silent-trust: an input is spared under all of its names, and a device under any.
    #[test]
    fn no_silent_trust_what_is_spared() {
        let dir = tempfile::tempdir().unwrap();
        let name = |name| dir.path().join(name);
        fs::write(name("key"), "key").unwrap();
        symlink("key", name("link")).unwrap();
        fs::hard_link(name("key"), name("same")).unwrap();
        for out in ["key", "link", "same"] {
            let verdict = file(name(out)).spares([("block", name("absent").as_path()), ("id-key", &name("key"))]);
            let error = verdict.unwrap_err().to_string();
            assert!(error.ends_with("is the id-key: it would be overwritten"), "{error}");
        }
        assert!(file(name("new")).spares([("id-key", name("key").as_path())]).is_ok());
        assert!(Output::Stdout.spares([("id-key", name("key").as_path())]).is_ok());
        symlink("nowhere", name("dangling")).unwrap();
        for there in ["key", "link", "dangling"] {
            let error = file(name(there)).is_new().unwrap_err().to_string();
            assert!(error.ends_with("is there already; nothing is written over"), "{error}");
        }
        assert!(file(name("new")).is_new().is_ok() && Output::Stdout.is_new().is_ok());
        let error = |path: PathBuf| file(path).write_text("").unwrap_err().to_string();
        assert!(error(dir.path().to_owned()).ends_with("is not a regular file"));
        assert!(error("/dev/null".into()).contains("not a regular file"));
        for path in [dir.path().to_owned(), "/dev/null".into(), name("absent/block")] {
            assert_eq!(file(path.clone()).has_a_place().unwrap_err().to_string(), error(path));
        }
        assert!(file(name("new")).has_a_place().is_ok() && !name("new").exists());
        let absent = error(name("absent/block"));
        assert!(absent.ends_with("absent/block` cannot be written: its directory does not exist"), "{absent}");
    }
}

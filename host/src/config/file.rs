//! The configuration file: TOML with the flags' names as keys.
//!
//! Every error names the file, the line, and the key. Relative paths in it are relative to the file, so that a
//! configuration and its kernel can be moved together.

use super::Settings;
use super::address::Address;
use super::values::VirtioConsole;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// A configuration file is a page of text; what is longer is some other file.
const MAX_LEN: u64 = 1 << 20;

/// Why a configuration file is refused.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("config `{}` cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is no configuration file at all.
    #[error("config `{}` is longer than {MAX_LEN} bytes", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// A line of it is wrong.
    #[error("config `{}`, line {line}{}: {message}", path.display(), key.as_ref().map(|key| format!(", key `{key}`")).unwrap_or_default())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key on that line.
        key: Option<String>,
        /// What is wrong.
        message: String,
    },
}

/// Reads the settings in the file at `path`.
pub fn read(path: &Path) -> Result<Settings, FileError> {
    let unreadable = |source| FileError::Unreadable { path: path.to_owned(), source };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(MAX_LEN + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > MAX_LEN {
        return Err(FileError::TooLong { path: path.to_owned() });
    }
    parse(&text, path)
}

/// Parses `text`, the contents of the file at `path`.
pub fn parse(text: &str, path: &Path) -> Result<Settings, FileError> {
    let mut settings: Settings = toml::from_str(text).map_err(|error| invalid(text, path, &error))?;
    let base = path.parent().unwrap_or(Path::new(""));
    let paths = [
        &mut settings.kernel,
        &mut settings.initrd,
        &mut settings.events,
        &mut settings.firmware,
        &mut settings.test_root,
        &mut settings.snp_id_block,
        &mut settings.snp_id_auth,
        &mut settings.snp_certificates,
    ];
    for setting in paths.into_iter().flatten() {
        *setting = base.join(&*setting);
    }
    if let Some(VirtioConsole::File(setting) | VirtioConsole::Unix(setting)) = &mut settings.virtio_console {
        *setting = base.join(&*setting);
    }
    if let Some(Address::Unix(setting)) = &mut settings.relying_party {
        *setting = base.join(&*setting);
    }
    Ok(settings)
}

fn invalid(text: &str, path: &Path, error: &toml::de::Error) -> FileError {
    let (line, key, message) = toml_place(text, error);
    FileError::Invalid { path: path.to_owned(), line, key, message }
}

/// Where a file is wrong: the line, from 1, the key on it or the table that begins there, and what is wrong.
pub(crate) fn toml_place(text: &str, error: &toml::de::Error) -> (usize, Option<String>, String) {
    let start = error.span().map_or(0, |span| span.start).min(text.len());
    let before = text.get(..start).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let this_line = text.get(line_start..).and_then(|rest| rest.lines().next()).unwrap_or("");
    let key = table(this_line).or_else(|| this_line.split_once('=').map(|(key, _)| key.trim().trim_matches('"')));
    let key = key.map(str::to_owned);
    let message = error.message().trim().replace('\n', ", ");
    (before.matches('\n').count() + 1, key.filter(|key| !key.is_empty()), message)
}

/// The table that begins with this line, if one does.
fn table(line: &str) -> Option<&str> {
    let (name, _) = line.trim().strip_prefix('[')?.split_once(']')?;
    let is_bare = |char: char| char.is_ascii_alphanumeric() || ['-', '_', '.'].contains(&char);
    name.chars().all(is_bare).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn error(text: &str) -> String {
        parse(text, "dir/vm.toml".as_ref()).unwrap_err().to_string()
    }

    #[test]
    fn every_setting() {
        let text = r#"
            tee = "sw"
            guise = "sev"
            kernel = "bzImage"
            initrd = "/boot/initrd"
            cmdline = "console=ttyS0"
            memory = "512M"
            vcpus = 2
            virtio-console = "unix:con.sock"
            relying-party = "unix:rp.sock"
            test-root = "root"
            firmware = "OVMF.fd"
            snp-policy = "smt"
            snp-host-data = "0000000000000000000000000000000000000000000000000000000000000000"
            snp-id-block = "block"
            snp-id-auth = "auth"
            snp-vlek-only = false
            snp-certificates = "certificates"
            snp-resets = 1
            vcpu-type = "EPYC"
            events = "events.jsonl"
            summary = true
            log = "info"
        "#;
        let settings = parse(text, "dir/vm.toml".as_ref()).unwrap();
        assert_eq!(settings.kernel, Some("dir/bzImage".into()));
        assert_eq!(settings.initrd, Some("/boot/initrd".into()));
        assert_eq!(settings.virtio_console, Some(VirtioConsole::Unix("dir/con.sock".into())));
        assert_eq!(settings.relying_party, Some(Address::Unix("dir/rp.sock".into())));
        assert_eq!(settings.test_root, Some("dir/root".into()));
        // Every field was given, so nothing is left for a base to fill in.
        assert_eq!(format!("{settings:?}").matches("None").count(), 0);
        assert_eq!(parse("memory = 536870912", "a".as_ref()).unwrap().memory, settings.memory);
    }

    #[test]
    fn no_silent_trust_errors_name_file_line_and_key() {
        let cases = [
            ("vcpus = 1\nmemroy = \"1G\"", "line 2, key `memroy`: unknown field `memroy`, expected one of `tee`"),
            ("memory = \"0\"", "line 1, key `memory`: memory size 0 bytes is below"),
            ("memory = -4096", "line 1, key `memory`: memory size `-4096` is not a whole number"),
            ("memory = 1.5", "line 1, key `memory`: invalid type: floating point `1.5`"),
            ("\n\nvcpus = 256", "line 3, key `vcpus`: vcpus `256` is not a number from 1 to 255"),
            ("vcpus = \"two\"", "line 1, key `vcpus`: invalid type: string \"two\""),
            ("tee = \"sgx\"", "line 1, key `tee`: unknown variant `sgx`, expected one of `auto`"),
            ("cmdline = \"a\\nb\"", "line 1, key `cmdline`: cmdline has the control character '\\n'"),
            (
                "relying-party = \"host\"",
                "line 1, key `relying-party`: address `host` is neither HOST:PORT nor unix:PATH",
            ),
            ("summary = \"yes\"", "line 1, key `summary`: invalid type"),
            ("[run]\nvcpus = 1", "line 1, key `run`: unknown field `run`"),
            ("vcpus = 1\nvcpus = 2", "line 2, key `vcpus`: duplicate key"),
            ("vcpus", "line 1"),
        ];
        for (text, expected) in cases {
            let error = error(text);
            assert!(error.starts_with(&format!("config `dir/vm.toml`, {expected}")), "{text:?}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn no_silent_trust_unreadable_files() {
        let dir = tempfile::tempdir().unwrap();
        let absent = dir.path().join("absent.toml");
        let error = read(&absent).unwrap_err().to_string();
        assert!(error.starts_with(&format!("config `{}` cannot be read: No such file", absent.display())), "{error}");
        assert!(read(dir.path()).unwrap_err().to_string().contains("cannot be read: Is a directory"));
        let binary = dir.path().join("binary");
        std::fs::write(&binary, [0xff; 64]).unwrap();
        assert!(read(&binary).unwrap_err().to_string().contains("cannot be read: stream did not contain valid UTF-8"));
        let endless = read("/dev/zero".as_ref()).unwrap_err().to_string();
        assert_eq!(endless, "config `/dev/zero` is longer than 1048576 bytes");
    }

    proptest! {
        /// no-silent-trust: no text makes the parser panic, and its errors stay on one line.
        #[test]
        fn any_text_parses_or_is_an_error(text in "(.|\n){0,60}") {
            if let Err(error) = parse(&text, "x".as_ref()) {
                prop_assert!(error.to_string().starts_with("config `x`, line "));
            }
        }
    }
}

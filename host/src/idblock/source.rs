//! Where blocks, keys and launch digests come from: files, pipes, standard input, and what `tenure measure snp`
//! printed.
//!
//! Owns reading them whole, with a limit, and choosing a digest among several.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;
use snp::digest::Digest;
use snp::hex::HexError;

use super::IdBlockError;
use crate::config::inputs::InputError;
use crate::measure::DigestFor;

/// More than a trace of the largest guest.
const JSON_MAX: u64 = 1 << 26;

/// Where something comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `-`: from standard input.
    Stdin,
    /// From a file, or a pipe with a name.
    File(PathBuf),
}

/// A launch digest, or where it is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DigestSource {
    /// As it is.
    Digest(Digest),
    /// In what `tenure measure snp` printed.
    Measured(Source),
}

/// Why a text is no launch digest, and names none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no launch digest: {0}; a file's name is known by a . or / in it, as in ./digests")]
pub struct DigestSourceError(HexError);

impl From<OsString> for Source {
    fn from(text: OsString) -> Self {
        if text == "-" { Self::Stdin } else { Self::File(text.into()) }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdin => f.write_str("on standard input"),
            Self::File(path) => write!(f, "`{}`", path.display()),
        }
    }
}

impl Source {
    /// Its path, if it has one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Stdin => None,
            Self::File(path) => Some(path),
        }
    }

    /// All of it. Pipes have their place here: a key needs not be in a file.
    pub(crate) fn read(&self, what: &'static str, most: u64) -> Result<Vec<u8>, IdBlockError> {
        let mut bytes = Vec::new();
        match self {
            Self::Stdin => {
                let read = io::stdin().lock().take(most + 1).read_to_end(&mut bytes);
                read.map_err(|source| IdBlockError::Stdin { what, source })?;
            }
            Self::File(path) => {
                let open = |source| InputError::Open { what, path: path.clone(), source };
                let read = |source| InputError::Read { what, path: path.clone(), source };
                File::open(path).map_err(open)?.take(most + 1).read_to_end(&mut bytes).map_err(read)?;
            }
        }
        match (bytes.len() as u64, self) {
            (0, Self::Stdin) => Err(IdBlockError::StdinEmpty(what)),
            (0, Self::File(path)) => Err(InputError::Empty { what, path: path.clone() }.into()),
            (len, _) if len > most => Err(IdBlockError::TooLarge { what, from: self.clone(), most }),
            _ => Ok(bytes),
        }
    }
}

/// Refuses to read two things from standard input.
pub fn one_stdin<'a>(sources: impl IntoIterator<Item = (&'static str, &'a Source)>) -> Result<(), IdBlockError> {
    let mut stdin = sources.into_iter().filter(|(_, source)| **source == Source::Stdin);
    match (stdin.next(), stdin.next()) {
        (Some((first, _)), Some((second, _))) => Err(IdBlockError::StdinTwice(first, second)),
        _ => Ok(()),
    }
}

impl FromStr for DigestSource {
    type Err = DigestSourceError;

    /// 96 hexadecimal digits, `-`, or the name of a file, which has a `.` or a `/` in it: so a slip in a digest is
    /// never taken for a file's name.
    fn from_str(text: &str) -> Result<Self, DigestSourceError> {
        if text == "-" || text.contains(['.', '/']) {
            Ok(Self::Measured(OsString::from(text).into()))
        } else {
            text.parse().map(Self::Digest).map_err(DigestSourceError)
        }
    }
}

impl DigestSource {
    /// Where it is to be read.
    pub fn source(&self) -> Option<&Source> {
        match self {
            Self::Digest(_) => None,
            Self::Measured(source) => Some(source),
        }
    }

    /// The digest; of several, that for so many vCPUs.
    pub fn read(&self, vcpus: Option<u32>) -> Result<Digest, IdBlockError> {
        let alone = |digest| vcpus.map_or(Ok(digest), |vcpus| Err(IdBlockError::NothingToChoose(vcpus)));
        let from = match self {
            Self::Digest(digest) => return alone(*digest),
            Self::Measured(from) => from,
        };
        match Measured::read(from)? {
            Measured::Alone(digest) => alone(digest),
            Measured::For(digests) => choose(from, &digests, vcpus),
        }
    }

    /// Every digest there is; of several, those for so many vCPUs if that is said.
    pub fn read_all(&self, vcpus: Option<u32>) -> Result<Vec<Digest>, IdBlockError> {
        match (vcpus, self) {
            (None, Self::Measured(from)) => match Measured::read(from)? {
                Measured::Alone(digest) => Ok(vec![digest]),
                Measured::For(digests) => digests.iter().map(|digest| digest_of(from, digest)).collect(),
            },
            _ => Ok(vec![self.read(vcpus)?]),
        }
    }
}

/// What `tenure measure snp` printed.
#[derive(Debug)]
enum Measured {
    /// A digest as it is.
    Alone(Digest),
    /// At least one, each with its number of vCPUs.
    For(Vec<DigestFor>),
}

/// What is wanted of `tenure measure snp --json`.
#[derive(Deserialize)]
struct Prediction {
    digests: Vec<DigestFor>,
}

impl Measured {
    fn read(from: &Source) -> Result<Self, IdBlockError> {
        let bytes = from.read("launch-digest", JSON_MAX)?;
        Self::parse(from, &String::from_utf8_lossy(&bytes))
    }

    fn parse(from: &Source, text: &str) -> Result<Self, IdBlockError> {
        if text.trim_start().starts_with('{') {
            let json = |source| IdBlockError::Json { from: from.clone(), source };
            let Prediction { digests } = serde_json::from_str(text).map_err(json)?;
            return if digests.is_empty() { Err(IdBlockError::None(from.clone())) } else { Ok(Self::For(digests)) };
        }
        // Without `--json` one digest is printed as it is, and of several each after its number of vCPUs.
        if !text.trim().contains(char::is_whitespace) {
            let digest = text.trim().parse().map_err(|source| IdBlockError::Digest { from: from.clone(), source })?;
            return Ok(Self::Alone(digest));
        }
        let numbered = |(index, line): (usize, &str)| {
            line_of(line).ok_or_else(|| IdBlockError::Line { from: from.clone(), line: index + 1 })
        };
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        lines.map(numbered).collect::<Result<_, _>>().map(Self::For)
    }
}

/// A number of vCPUs, and what should be a digest.
fn line_of(line: &str) -> Option<DigestFor> {
    let (vcpus, digest) = line.trim().split_once(char::is_whitespace)?;
    let digest = digest.trim_start();
    (!digest.contains(char::is_whitespace))
        .then(|| Some(DigestFor { vcpus: vcpus.parse().ok()?, launch_digest: digest.to_owned() }))?
}

fn digest_of(from: &Source, digest: &DigestFor) -> Result<Digest, IdBlockError> {
    let wrong = |source| IdBlockError::JsonDigest { from: from.clone(), vcpus: digest.vcpus, source };
    digest.launch_digest.parse().map_err(wrong)
}

fn choose(from: &Source, digests: &[DigestFor], vcpus: Option<u32>) -> Result<Digest, IdBlockError> {
    let there = digests.iter().map(|digest| digest.vcpus.to_string()).collect::<Vec<_>>().join(", ");
    let mut fitting: Vec<_> = digests.iter().filter(|digest| vcpus.is_none_or(|vcpus| digest.vcpus == vcpus)).collect();
    // The same number may have been asked for twice.
    fitting.dedup();
    match (fitting.as_slice(), vcpus) {
        ([one], _) => digest_of(from, one),
        ([], Some(wanted)) => Err(IdBlockError::OtherVcpus { from: from.clone(), wanted, there }),
        _ => Err(IdBlockError::Several { from: from.clone(), there }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// no-silent-trust: a slip in a digest is no file that isn't there.
    #[test]
    fn no_silent_trust_digests_and_files() {
        let source = |text: &str| text.parse::<DigestSource>();
        assert_eq!(source(&"5a".repeat(48)), Ok(DigestSource::Digest(Digest([0x5a; 48]))));
        assert_eq!(source("-"), Ok(DigestSource::Measured(Source::Stdin)));
        for file in ["digest.json", "./digest", "/tmp/digest"] {
            assert_eq!(source(file), Ok(DigestSource::Measured(Source::File(file.into()))));
        }
        for slip in ["5a".repeat(47), "5a".repeat(49), "5g".repeat(48), "digest".to_owned(), String::new()] {
            let error = source(&slip).unwrap_err().to_string();
            assert!(error.contains("hexadecimal digit") && error.contains("./digests"), "{error}");
        }
    }

    /// What is printed without `--json` says as much as with it; several digests without their numbers say too little.
    #[test]
    fn no_silent_trust_digests_in_text() {
        let read = |text: &str, vcpus| match Measured::parse(&Source::Stdin, text).map_err(|error| error.to_string())? {
            Measured::Alone(digest) => Ok(digest),
            Measured::For(digests) => choose(&Source::Stdin, &digests, vcpus).map_err(|error| error.to_string()),
        };
        let (one, four) = ("11".repeat(48), "44".repeat(48));
        let text = format!("   1  {one}\n   4  {four}\n");
        assert_eq!(read(&text, Some(4)), Ok(Digest([0x44; 48])));
        assert_eq!(read(&format!(" 4 {four}"), None), Ok(Digest([0x44; 48])));
        assert_eq!(read(&format!("\n{one}\r\n"), None), Ok(Digest([0x11; 48])));
        for (text, vcpus, expected) in [
            (
                text.clone(),
                None,
                "launch-digest on standard input has several digests, for 1, 4 vCPUs: --vcpus chooses one",
            ),
            (text.clone(), Some(2), "launch-digest on standard input has no digest for 2 vCPUs; it has 1, 4"),
            (
                format!("{one}\n{four}\n"),
                Some(4),
                "launch-digest on standard input, line 1: a digest alone, or on each line",
            ),
            (
                format!("1 {one}\n\nfour {four}\n"),
                Some(4),
                "launch-digest on standard input, line 3: a digest alone, or",
            ),
            (
                format!("0x1000  normal  {one}  label\n{one}\n"),
                None,
                "launch-digest on standard input, line 1: a digest",
            ),
            (format!("1 {one}\n4 44\n"), Some(4), "launch-digest on standard input, digest for 4 vCPUs: it has 2 char"),
        ] {
            let error = read(&text, vcpus).unwrap_err();
            assert!(error.starts_with(expected), "{text:?}: {error}");
        }
    }

    proptest! {
        /// no-silent-trust: JSON of any kind is read or refused.
        #[test]
        fn no_silent_trust_any_json(json in "\\{[\\PC]{0,60}") {
            prop_assert!(Measured::parse(&Source::Stdin, &json).is_err());
        }

        /// no-silent-trust: text of any kind, too.
        #[test]
        fn no_silent_trust_any_text(text in "[\\PC\n]{0,60}") {
            let measured = Measured::parse(&Source::Stdin, &text);
            prop_assert!(measured.is_err() || matches!(measured, Ok(Measured::For(_))));
        }
    }
}

//! ID blocks as people have them: in files, signed with keys in files, for a launch that was measured before.
//!
//! Owns reading blocks, keys and launch digests from where people keep them, the two forms of a block's file, and what is
//! said of a block ([`Report`]). Does not own the structures, signatures and keys: those are [`snp::id_block`]'s.
//!
//! Specification: as [`snp::id_block`]; Base64 of RFC 4648, as QEMU's `sev-snp-guest` takes both in `id-block` and
//! `id-auth`.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use base64ct::{Base64, Encoding};
use serde::{Deserialize, Serialize};
use snp::digest::Digest;
use snp::hex::{self, HexError};
use snp::id_block::keys::{IdKey, KeyError};
use snp::id_block::{AUTH_BYTES, BLOCK_BYTES, IdAuth, IdBlock, IdError};
use snp::policy::GuestPolicy;

use crate::config::inputs::InputError;
use crate::measure::DigestFor;
use crate::output::{Output, OutputError};
use crate::paint::is_printable;

/// More than any block, authentication or key there is, whatever surrounds it.
const SMALL_MAX: u64 = 1 << 16;
/// More than a trace of the largest guest.
const JSON_MAX: u64 = 1 << 26;
/// Bytes of a family's and of an image's ID.
const ID_BYTES: usize = 16;

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

/// An ID that an owner gives an image or a family of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OwnerId(pub [u8; ID_BYTES]);

/// How a block or its authentication is written. Both are read without being told which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The bytes.
    Binary,
    /// One line of Base64.
    Base64,
}

/// Why an ID is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OwnerIdError {
    /// Not the digits it should be.
    #[error("{0}; a name is written with text: in front, as in text:web-server")]
    Hex(HexError),
    /// A text that doesn't fit.
    #[error("the text has {0} bytes; it has 1 to {ID_BYTES}")]
    Length(usize),
    /// A text with what cannot be shown.
    #[error("the text has {0:?} in it, which cannot be shown; hexadecimal digits can say it")]
    Character(char),
}

/// Why a text is no launch digest, and names none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no launch digest: {0}; a file's name is known by a . or / in it, as in ./digests")]
pub struct DigestSourceError(HexError);

/// Why there is no ID block, or nothing can be said of one.
#[derive(Debug, thiserror::Error)]
pub enum IdBlockError {
    /// A file.
    #[error(transparent)]
    Input(#[from] InputError),
    /// Standard input.
    #[error("{what}: standard input cannot be read: {source}")]
    Stdin {
        /// The setting.
        what: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// Standard input ended at once.
    #[error("{0}: standard input is empty")]
    StdinEmpty(&'static str),
    /// Standard input for several things.
    #[error("{0} and {1} are both -: standard input is one of them only")]
    StdinTwice(&'static str, &'static str),
    /// Far larger than it can be.
    #[error("{what} {from} has more than {most} bytes")]
    TooLarge {
        /// The setting.
        what: &'static str,
        /// Where it was read.
        from: Source,
        /// What would be enough.
        most: u64,
    },
    /// Not what it should be.
    #[error("{what} {from}{decoded}: {source}")]
    Structure {
        /// The setting.
        what: &'static str,
        /// Where it was read.
        from: Source,
        /// Whether it was decoded first, in words.
        decoded: &'static str,
        /// What is wrong with it.
        source: IdError,
    },
    /// Not what it should be, wherever it was read.
    #[error("block: {0}")]
    Block(IdError),
    /// No key, or none of the kind.
    #[error("{what} {from}: {source}")]
    Key {
        /// The setting.
        what: &'static str,
        /// Where it was read.
        from: Source,
        /// What is wrong with it.
        source: KeyError,
    },
    /// Text that is no digest.
    #[error("launch-digest {from}: {source}; or it is JSON, as tenure measure snp --json prints it")]
    Digest {
        /// Where it was read.
        from: Source,
        /// What is wrong with it.
        source: HexError,
    },
    /// JSON of something else.
    #[error("launch-digest {from} is not what tenure measure snp --json prints: {source}")]
    Json {
        /// Where it was read.
        from: Source,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A digest in it is none.
    #[error("launch-digest {from}, digest for {vcpus} vCPUs: {source}")]
    JsonDigest {
        /// Where it was read.
        from: Source,
        /// For how many vCPUs.
        vcpus: u32,
        /// What is wrong with it.
        source: HexError,
    },
    /// No digest at all.
    #[error("launch-digest {0} has no digests in it")]
    None(Source),
    /// More than one digest.
    #[error("launch-digest {from} has several digests, for {there} vCPUs: --vcpus chooses one")]
    Several {
        /// Where it was read.
        from: Source,
        /// Numbers of vCPUs there are.
        there: String,
    },
    /// No digest for so many vCPUs.
    #[error("launch-digest {from} has no digest for {wanted} vCPUs; it has {there}")]
    OtherVcpus {
        /// Where it was read.
        from: Source,
        /// What was asked for.
        wanted: u32,
        /// Numbers of vCPUs there are.
        there: String,
    },
    /// A digest alone is for any number of vCPUs, or for none.
    #[error(
        "vcpus {0}: this launch digest doesn't say for how many vCPUs it is; what tenure measure snp --json prints does"
    )]
    NothingToChoose(u32),
    /// Signed, and the signature does not hold.
    #[error("what was signed here does not hold, and is not written: {0}")]
    NotHolding(IdError),
    /// Two things for standard output.
    #[error("out - and json: standard output is one of them only")]
    OneOutput,
    /// The output.
    #[error(transparent)]
    Output(#[from] OutputError),
}

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
    fn read(&self, what: &'static str, most: u64) -> Result<Vec<u8>, IdBlockError> {
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

    /// 96 hexadecimal digits, `-`, or the name of a file, which has a `.` or a `/` in it: so a slip in a digest is never
    /// taken for a file's name.
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
        let bytes = from.read("launch-digest", JSON_MAX)?;
        let text = String::from_utf8_lossy(&bytes);
        // Without `--json` the digest is printed as it is.
        if !text.trim_start().starts_with('{') {
            let digest = text.trim().parse();
            return alone(digest.map_err(|source| IdBlockError::Digest { from: from.clone(), source })?);
        }
        choose(from, &text, vcpus)
    }
}

/// What is wanted of `tenure measure snp --json`.
#[derive(Deserialize)]
struct Measured {
    digests: Vec<DigestFor>,
}

fn choose(from: &Source, json: &str, vcpus: Option<u32>) -> Result<Digest, IdBlockError> {
    let from = || from.clone();
    let measured: Measured =
        serde_json::from_str(json).map_err(|source| IdBlockError::Json { from: from(), source })?;
    if measured.digests.is_empty() {
        return Err(IdBlockError::None(from()));
    }
    let there = measured.digests.iter().map(|digest| digest.vcpus.to_string()).collect::<Vec<_>>().join(", ");
    let mut fitting: Vec<_> =
        measured.digests.iter().filter(|digest| vcpus.is_none_or(|vcpus| digest.vcpus == vcpus)).collect();
    // The same number may have been asked for twice.
    fitting.dedup();
    match (fitting.as_slice(), vcpus) {
        ([one], _) => {
            let wrong = |source| IdBlockError::JsonDigest { from: from(), vcpus: one.vcpus, source };
            one.launch_digest.parse().map_err(wrong)
        }
        ([], Some(wanted)) => Err(IdBlockError::OtherVcpus { from: from(), wanted, there }),
        _ => Err(IdBlockError::Several { from: from(), there }),
    }
}

impl FromStr for OwnerId {
    type Err = OwnerIdError;

    /// 32 hexadecimal digits, with `hex:` in front or not, or a text of at most 16 bytes with `text:` in front, which zeros
    /// follow.
    fn from_str(text: &str) -> Result<Self, OwnerIdError> {
        let Some(name) = text.strip_prefix("text:") else {
            return hex::parse(text.strip_prefix("hex:").unwrap_or(text)).map(Self).map_err(OwnerIdError::Hex);
        };
        if let Some(character) = name.chars().find(|character| !is_printable(*character)) {
            return Err(OwnerIdError::Character(character));
        }
        let mut id = [0; ID_BYTES];
        match id.get_mut(..name.len()) {
            Some(start) if !start.is_empty() => start.copy_from_slice(name.as_bytes()),
            _ => return Err(OwnerIdError::Length(name.len())),
        }
        Ok(Self(id))
    }
}

impl OwnerId {
    /// What it says, if it is a text that zeros follow.
    pub fn text(&self) -> Option<&str> {
        let end = self.0.iter().rposition(|byte| *byte != 0)? + 1;
        std::str::from_utf8(self.0.get(..end)?).ok().filter(|text| text.chars().all(is_printable))
    }
}

/// Reads an ID block, in either form.
pub fn block(from: &Source) -> Result<IdBlock, IdBlockError> {
    structure("block", from, BLOCK_BYTES, IdBlock::parse)
}

/// Reads an ID block's authentication, in either form.
pub fn auth(from: &Source) -> Result<IdAuth, IdBlockError> {
    structure("auth", from, AUTH_BYTES, IdAuth::parse)
}

fn structure<T>(
    what: &'static str,
    from: &Source,
    len: usize,
    parse: impl Fn(&[u8]) -> Result<T, IdError>,
) -> Result<T, IdBlockError> {
    let read = from.read(what, SMALL_MAX)?;
    let (bytes, decoded) = match (read.len() == len, decode(&read)) {
        (false, Some(bytes)) => (bytes, ", decoded from base64"),
        _ => (read, ""),
    };
    parse(&bytes).map_err(|source| IdBlockError::Structure { what, from: from.clone(), decoded, source })
}

/// What Base64 says, if it is that; in lines of any length.
fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let text: Vec<u8> = text.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    Base64::decode_vec(std::str::from_utf8(&text).ok()?).ok()
}

/// Reads a key to sign with. It is never shown, nor is anything of the file it is in.
pub fn key(what: &'static str, from: &Source) -> Result<IdKey, IdBlockError> {
    let wrong = |source| IdBlockError::Key { what, from: from.clone(), source };
    let text = String::from_utf8(from.read(what, SMALL_MAX)?).map_err(|_| wrong(KeyError::NoKey))?;
    IdKey::from_pem(&text).map_err(wrong)
}

/// Signs a block, and checks what came of it as the firmware will.
pub fn sign(block: &IdBlock, id_key: &IdKey, author_key: Option<&IdKey>) -> Result<IdAuth, IdBlockError> {
    let auth = IdAuth::sign(block, id_key, author_key);
    auth.verify(block).map_err(IdBlockError::NotHolding)?;
    Ok(auth)
}

/// Writes a block or its authentication.
pub fn write(bytes: &[u8], form: Form, to: &Output) -> Result<(), OutputError> {
    match form {
        Form::Binary => to.write_binary(bytes),
        Form::Base64 => to.write_text(&(Base64::encode_string(bytes) + "\n")),
    }
}

/// What there is to say of an ID block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// `LD`, 96 hexadecimal digits.
    pub launch_digest: String,
    /// `FAMILY_ID`.
    pub family_id: IdReport,
    /// `IMAGE_ID`.
    pub image_id: IdReport,
    /// `GUEST_SVN`.
    pub guest_svn: u32,
    /// `POLICY`.
    pub policy: PolicyReport,
    /// What its authentication says, if it was looked at.
    pub signature: Option<SignatureReport>,
    /// Whether it is for a launch, if that was asked.
    pub launch: Option<LaunchReport>,
}

/// An owner's ID.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IdReport {
    /// 32 hexadecimal digits.
    pub hex: String,
    /// As text, if it is one.
    pub text: Option<String>,
}

/// A guest policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyReport {
    /// As the firmware has it, in hexadecimal.
    pub value: String,
    /// By names, as `--policy` takes it.
    pub names: String,
    /// Least version of the firmware's ABI.
    pub abi: String,
    /// Its flags.
    pub flags: Vec<FlagReport>,
}

/// A flag of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FlagReport {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub means: &'static str,
}

/// Signatures of an ID block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SignatureReport {
    /// Whether all of them hold.
    pub holds: bool,
    /// What does not.
    pub wrong: Option<String>,
    /// `ID_KEY_DIGEST` of the guest's reports.
    pub id_key_digest: Option<String>,
    /// `AUTHOR_KEY_DIGEST` of the guest's reports, with an author's key.
    pub author_key_digest: Option<String>,
}

/// A launch that a block may be for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LaunchReport {
    /// Its digest.
    pub launch_digest: String,
    /// Whether the block is for it.
    pub matches: bool,
}

impl Report {
    /// Of a block, and of what is known besides.
    pub fn of(block: &IdBlock, auth: Option<&IdAuth>, launch: Option<Digest>) -> Result<Self, IdBlockError> {
        Ok(Self {
            launch_digest: Digest(block.launch_digest).to_string(),
            family_id: OwnerId(block.family_id).into(),
            image_id: OwnerId(block.image_id).into(),
            guest_svn: block.guest_svn(),
            policy: block.policy().map_err(|error| IdBlockError::Block(error.into()))?.into(),
            signature: auth.map(|auth| SignatureReport::of(block, auth)),
            launch: launch.map(|launch| LaunchReport {
                launch_digest: launch.to_string(),
                matches: launch == Digest(block.launch_digest),
            }),
        })
    }

    /// Whether nothing was found that does not hold.
    pub fn holds(&self) -> bool {
        self.signature.as_ref().is_none_or(|signature| signature.holds)
            && self.launch.as_ref().is_none_or(|launch| launch.matches)
    }
}

impl SignatureReport {
    fn of(block: &IdBlock, auth: &IdAuth) -> Self {
        match auth.verify(block) {
            Ok(keys) => Self {
                holds: true,
                wrong: None,
                id_key_digest: Some(keys.id_key.to_string()),
                author_key_digest: keys.author_key.map(|key| key.to_string()),
            },
            Err(error) => {
                Self { holds: false, wrong: Some(error.to_string()), id_key_digest: None, author_key_digest: None }
            }
        }
    }
}

impl From<OwnerId> for IdReport {
    fn from(id: OwnerId) -> Self {
        Self { hex: hex::text(&id.0), text: id.text().map(str::to_owned) }
    }
}

impl From<GuestPolicy> for PolicyReport {
    fn from(policy: GuestPolicy) -> Self {
        Self {
            value: format!("{:#x}", policy.to_raw()),
            names: policy.to_string(),
            abi: format!("{}.{}", policy.abi_major, policy.abi_minor),
            flags: policy.described().map(|(name, means)| FlagReport { name, means }).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_are_digits_or_texts() {
        let id = |text: &str| text.parse::<OwnerId>();
        assert_eq!(id("text:web"), Ok(OwnerId(*b"web\0\0\0\0\0\0\0\0\0\0\0\0\0")));
        assert_eq!(id("text:0123456789abcdef").unwrap().text(), Some("0123456789abcdef"));
        assert_eq!(id("000102030405060708090a0b0c0d0e0f"), id("hex:000102030405060708090A0B0C0D0E0F"));
        assert_eq!(id("text:hex:").unwrap().text(), Some("hex:"));
        assert_eq!(OwnerId::default().text(), None);
        assert_eq!(OwnerId(*b"a\0b\0\0\0\0\0\0\0\0\0\0\0\0\0").text(), None);
        assert_eq!(OwnerId([0xff; 16]).text(), None);
    }

    /// no-silent-trust: what is neither is refused, and told how it could be.
    #[test]
    fn no_silent_trust_ids() {
        let error = |text: &str| text.parse::<OwnerId>().unwrap_err().to_string();
        assert!(error("web-server").starts_with("it has 10 characters; 32 hexadecimal digits are wanted"));
        assert!(error("web-server").contains("text:web-server"));
        assert!(error("hex:00").contains("32 hexadecimal"));
        assert_eq!(error("text:"), "the text has 0 bytes; it has 1 to 16");
        assert_eq!(error("text:ein-zu-langer-Name"), "the text has 18 bytes; it has 1 to 16");
        assert!(error("text:a\nb").contains("'\\n'"));
        assert!(error("text:a\u{202e}b").contains("cannot be shown"));
    }

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

    #[test]
    fn base64_is_read_in_lines_of_any_length() {
        assert_eq!(decode(b"AAEC\r\nAw==\n"), Some(vec![0, 1, 2, 3]));
        assert_eq!(decode(b" AAECAw== "), Some(vec![0, 1, 2, 3]));
        for wrong in [&b"AAECAw"[..], b"AAECAw=", b"AAEC!w==", b"\xff\xfe"] {
            assert_eq!(decode(wrong), None);
        }
    }

    proptest! {
        #[test]
        fn a_text_is_shown_as_it_was_written(text in "\\PC{1,5}") {
            if let Ok(id) = format!("text:{text}").parse::<OwnerId>() {
                prop_assert_eq!(id.text(), Some(text.as_str()));
            }
        }

        /// no-silent-trust: JSON of any kind is read or refused.
        #[test]
        fn no_silent_trust_any_json(json in "\\{[\\PC]{0,60}", vcpus in prop::option::of(0u32..3)) {
            prop_assert!(choose(&Source::Stdin, &json, vcpus).is_err());
        }
    }
}

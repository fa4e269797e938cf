//! ID blocks as people have them: in files, signed with keys in files, for a launch that was measured before.
//!
//! Owns reading blocks, keys and launch digests from where people keep them ([`Source`]), the two forms of a block's
//! file, and what is said of a block ([`Report`]). Does not own the structures, signatures and keys: those are
//! [`snp::id_block`]'s.
//!
//! Specification: as [`snp::id_block`]; Base64 of RFC 4648, as QEMU's `sev-snp-guest` takes both in `id-block` and
//! `id-auth`.

mod owner_id;
mod report;
mod source;

use std::io;

use base64ct::{Base64, Encoding};
use snp::hex::HexError;
use snp::id_block::keys::{IdKey, KeyError};
use snp::id_block::{AUTH_BYTES, BLOCK_BYTES, IdAuth, IdBlock, IdError};

use crate::config::inputs::InputError;
use crate::output::{Output, OutputError};

pub use owner_id::{OwnerId, OwnerIdError};
pub use report::{FlagReport, IdReport, LaunchReport, PolicyReport, Report, SignatureReport};
pub use source::{DigestSource, DigestSourceError, Source, one_stdin};

/// More than any block, authentication or key there is, whatever surrounds it.
const SMALL_MAX: u64 = 1 << 16;

/// How a block or its authentication is written. Both are read without being told which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The bytes.
    Binary,
    /// One line of Base64.
    Base64,
}

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
    /// Several digests of which nobody knows for how many vCPUs each is, or something else.
    #[error(
        "launch-digest {from}, line {line}: a digest alone, or on each line a number of vCPUs and the digest for so many, is \
         what tenure measure prints; a trace is read as JSON"
    )]
    Line {
        /// Where it was read.
        from: Source,
        /// The line, from 1.
        line: usize,
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
        "vcpus {0}: this launch digest doesn't say for how many vCPUs it is; what tenure measure snp --json prints does, and \
         without --json what it prints for several numbers of vCPUs"
    )]
    NothingToChoose(u32),
    /// Signed, and the signature does not hold.
    #[error("what was signed here does not hold, and is not written: {0}")]
    NotHolding(IdError),
    /// Two things for standard output.
    #[error("out - and json: standard output is one of them only")]
    OneOutput,
    /// The output.
    #[error("{}", .0.of("out"))]
    Output(#[from] OutputError),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_in_lines_of_any_length() {
        assert_eq!(decode(b"AAEC\r\nAw==\n"), Some(vec![0, 1, 2, 3]));
        assert_eq!(decode(b" AAECAw== "), Some(vec![0, 1, 2, 3]));
        for wrong in [&b"AAECAw"[..], b"AAECAw=", b"AAEC!w==", b"\xff\xfe"] {
            assert_eq!(decode(wrong), None);
        }
    }
}

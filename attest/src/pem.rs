//! Certificates and lists of revoked ones in PEM.
//!
//! Owns taking a text apart: blocks of one kind and nothing else. Does not own their order or who signed whom. Nothing here
//! is secret, so what decodes need not take as long for every text.
//! Specification: RFC 7468, section 3, strict form.

use alloc::vec::Vec;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use memchr::memmem;

/// What a certificate is called.
pub const CERTIFICATE: &str = "CERTIFICATE";
/// What a list of revoked certificates is called.
pub const CRL: &str = "X509 CRL";
const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";
const DASHES: &[u8] = b"-----";
/// Characters of a line that is not the last.
const LINE_BYTES: usize = 64;

/// Why bytes are no such text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// Something else is there, or something is wrong with it.
    #[error("malformed: certificate {0} is none in PEM")]
    Form(usize),
    /// Fewer or more than there should be.
    #[error("one of {found} certificates, not of {wanted}")]
    Count {
        /// How many there are, or one more than there may be.
        found: usize,
        /// How many there should be.
        wanted: usize,
    },
}

/// Whether this means to be PEM.
#[must_use]
pub fn is_pem(bytes: &[u8]) -> bool {
    bytes.trim_ascii_start().starts_with(BEGIN)
}

/// What the blocks of this kind contain, which may be this many at most, in their order. Zeros may follow: the text may
/// be one of C's.
pub fn blocks(pem: &[u8], label: &str, most: usize) -> Result<Vec<Vec<u8>>, PemError> {
    let mut rest = trim(pem);
    let mut blocks = Vec::new();
    while !rest.is_empty() {
        let number = blocks.len() + 1;
        if number > most {
            return Err(PemError::Count { found: number, wanted: most });
        }
        let (block, after) = split(rest).ok_or(PemError::Form(number))?;
        blocks.push(contents(block, label).ok_or(PemError::Form(number))?);
        rest = after.trim_ascii_start();
    }
    Ok(blocks)
}

/// The certificates of a chain of this many, in DER.
pub(crate) fn chain<const COUNT: usize>(pem: &[u8]) -> Result<[Vec<u8>; COUNT], PemError> {
    let chain = blocks(pem, CERTIFICATE, COUNT)?;
    let found = chain.len();
    chain.try_into().map_err(|_| PemError::Count { found, wanted: COUNT })
}

/// The first block, and what follows it.
fn split(pem: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memmem::find(pem, END)? + END.len();
    let end = end + memmem::find(&pem[end..], DASHES)? + DASHES.len();
    pem.split_at_checked(end)
}

/// What a block of this kind contains: lines as long as they may be, and a last one of what is left.
fn contents(block: &[u8], label: &str) -> Option<Vec<u8>> {
    let text = block.strip_prefix(BEGIN)?.strip_prefix(label.as_bytes())?.strip_prefix(DASHES)?;
    let text = text.strip_suffix(DASHES)?.strip_suffix(label.as_bytes())?.strip_suffix(END)?;
    let text = text.strip_prefix(b"\r").unwrap_or(text).strip_prefix(b"\n")?.strip_suffix(b"\n")?;
    let mut digits = Vec::with_capacity(text.len());
    for line in text.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line)) {
        let is_after_whole_lines = digits.len().is_multiple_of(LINE_BYTES);
        if !is_after_whole_lines || !(1..=LINE_BYTES).contains(&line.len()) {
            return None;
        }
        digits.extend_from_slice(line);
    }
    BASE64_STANDARD.decode(digits).ok()
}

fn trim(pem: &[u8]) -> &[u8] {
    let end = pem.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    pem[..end].trim_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::{String, ToString};
    use alloc::vec;
    use der::pem::LineEnding;
    use proptest::prelude::*;

    const ONE: &str = "-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n";

    fn two(pem: &str) -> Result<[Vec<u8>; 2], String> {
        chain(pem.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn chains_are_taken_apart_whether_zeros_follow_or_not() {
        let bytes = [vec![1, 2, 3], vec![1, 2, 3]];
        assert_eq!(two(&[ONE, ONE].concat()).unwrap(), bytes);
        assert_eq!(two(&[ONE, "\n", ONE, "\0\0"].concat()).unwrap(), bytes);
    }

    #[test]
    fn texts_are_known_by_their_beginning() {
        assert!(is_pem(ONE.as_bytes()) && is_pem([" \n", ONE].concat().as_bytes()));
        assert!(!is_pem(&[0x30, 0x82]) && !is_pem(b"") && !is_pem(b"3082"));
        let crl = ONE.replace(CERTIFICATE, CRL);
        assert_eq!(blocks(crl.as_bytes(), CRL, 1).unwrap(), [[1, 2, 3]]);
        assert_eq!(blocks(crl.as_bytes(), CERTIFICATE, 1).unwrap_err(), PemError::Form(1));
        assert_eq!(blocks(b"", CRL, 1), Ok(vec![]));
    }

    proptest! {
        /// no-silent-trust: what is read here, other readers read, and as the same; what others write, is read here.
        #[test]
        fn no_silent_trust_others_read_the_same(
            contents in prop::collection::vec(any::<u8>(), 1..200),
            crlf in any::<bool>(),
            change in prop::option::of((any::<prop::sample::Index>(), prop::sample::select(&b"\r\n =-A/\0"[..]), any::<bool>())),
        ) {
            let ending = if crlf { LineEnding::CRLF } else { LineEnding::LF };
            let mut text = der::pem::encode_string(CERTIFICATE, ending, &contents).unwrap().into_bytes();
            if let Some((at, byte, is_more)) = change {
                let at = at.index(text.len());
                if is_more { text.insert(at, byte) } else { text[at] = byte }
            }
            let found = blocks(&text, CERTIFICATE, 1);
            if change.is_none() {
                prop_assert_eq!(found.as_deref(), Ok(&[contents][..]));
            } else if let Ok([found]) = found.as_deref() {
                prop_assert_eq!(der::pem::decode_vec(trim(&text)).unwrap(), (CERTIFICATE, found.clone()));
            }
        }
    }

    /// no-silent-trust: a chain has what it should have and nothing else.
    #[test]
    fn no_silent_trust_chains_that_are_none() {
        let key = "-----BEGIN PUBLIC KEY-----\nAQID\n-----END PUBLIC KEY-----\n";
        for (pem, expected) in [
            ("".into(), "one of 0 certificates, not of 2"),
            (ONE.into(), "one of 1 certificates, not of 2"),
            ([ONE, ONE, ONE].concat(), "one of 3 certificates, not of 2"),
            ([ONE, key].concat(), "malformed: certificate 2 is none in PEM"),
            ([key, ONE].concat(), "malformed: certificate 1 is none in PEM"),
            ([ONE, "\0", ONE].concat(), "malformed: certificate 2 is none in PEM"),
            ([ONE, ONE, "more"].concat(), "one of 3 certificates, not of 2"),
            (ONE.replace("AQID", "AQI"), "malformed: certificate 1 is none in PEM"),
            (ONE.replace("AQID", "AQID\nAQID"), "malformed: certificate 1 is none in PEM"),
            (ONE.replace("AQID", ""), "malformed: certificate 1 is none in PEM"),
            (ONE.replace("AQID", "AR=="), "malformed: certificate 1 is none in PEM"),
        ] {
            assert_eq!(two(&pem).unwrap_err(), expected);
        }
    }
}

//! The names an owner gives images and families of images.
//!
//! Owns how people write and read them; the firmware only carries them. Specification: as [`snp::id_block`],
//! `FAMILY_ID` and `IMAGE_ID`.

use std::str::FromStr;

use snp::hex::{self, HexError};

use crate::paint::is_printable;

/// Bytes of a family's and of an image's ID.
const ID_BYTES: usize = 16;

/// An ID that an owner gives an image or a family of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OwnerId(pub [u8; ID_BYTES]);

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

impl FromStr for OwnerId {
    type Err = OwnerIdError;

    /// 32 hexadecimal digits, with `hex:` in front or not, or a text of at most 16 bytes with `text:` in front, which
    /// zeros follow.
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

    proptest! {
        #[test]
        fn a_text_is_shown_as_it_was_written(text in "\\PC{1,5}") {
            if let Ok(id) = format!("text:{text}").parse::<OwnerId>() {
                prop_assert_eq!(id.text(), Some(text.as_str()));
            }
        }
    }
}

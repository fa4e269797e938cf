//! Bytes as people write them: hexadecimal digits, two a byte, none to spare.
//!
//! Owns reading and writing them. Does not own what the bytes are.

/// Why a text is not these bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HexError {
    /// Too short or too long.
    #[error("it has {characters} characters; {expected} hexadecimal digits are wanted")]
    Length {
        /// Characters it has.
        characters: usize,
        /// Digits it should have.
        expected: usize,
    },
    /// Something else among the digits.
    #[error("character {position} of it is {character:?}, which is no hexadecimal digit")]
    Digit {
        /// Which character, the first being 1.
        position: usize,
        /// What it is.
        character: char,
    },
}

/// Reads exactly `N` bytes.
pub fn parse<const N: usize>(text: &str) -> Result<[u8; N], HexError> {
    let characters = text.chars().count();
    if characters != 2 * N {
        return Err(HexError::Length { characters, expected: 2 * N });
    }
    expect_digits(text)?;
    let mut bytes = [0; N];
    base16ct::mixed::decode(text, &mut bytes).map_err(|_| HexError::Length { characters, expected: 2 * N })?;
    Ok(bytes)
}

/// Reads at most so many bytes.
pub fn parse_up_to(text: &str, most: usize) -> Result<Vec<u8>, HexError> {
    let characters = text.chars().count();
    if characters > 2 * most || !characters.is_multiple_of(2) {
        let expected = (characters + 1).min(2 * most);
        return Err(HexError::Length { characters, expected });
    }
    expect_digits(text)?;
    base16ct::mixed::decode_vec(text).map_err(|_| HexError::Length { characters, expected: characters + 1 })
}

fn expect_digits(text: &str) -> Result<(), HexError> {
    let slip = text.chars().enumerate().find(|(_, character)| !character.is_ascii_hexdigit());
    slip.map_or(Ok(()), |(index, character)| Err(HexError::Digit { position: index + 1, character }))
}

/// Writes bytes, in lower case.
#[must_use]
pub fn text(bytes: &[u8]) -> String {
    base16ct::lower::encode_string(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// no-silent-trust: a slip is shown, wherever it is.
    #[test]
    fn no_silent_trust_slips() {
        let error = |text: &str| parse::<2>(text).unwrap_err().to_string();
        assert_eq!(error("123"), "it has 3 characters; 4 hexadecimal digits are wanted");
        assert_eq!(error(""), "it has 0 characters; 4 hexadecimal digits are wanted");
        assert_eq!(error("0x12"), "character 2 of it is 'x', which is no hexadecimal digit");
        assert_eq!(parse_up_to("123", 9).unwrap_err().to_string(), error("123"));
        assert_eq!(error("12é4"), "character 3 of it is 'é', which is no hexadecimal digit");
        assert_eq!(parse_up_to("12é4", 9).unwrap_err().to_string(), error("12é4"));
    }

    #[test]
    fn digits_come_in_pairs() {
        assert_eq!(parse_up_to("0aFf", 9), Ok(vec![0x0a, 0xff]));
        assert_eq!(parse_up_to("", 9), Ok(vec![]));
        for text in ["0", "0g", "+0", "é"] {
            assert!(parse_up_to(text, 9).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(bytes in any::<[u8; 48]>()) {
            prop_assert_eq!(parse(&text(&bytes)), Ok(bytes));
            prop_assert_eq!(parse(&text(&bytes).to_uppercase()), Ok(bytes));
            prop_assert_eq!(parse_up_to(&text(&bytes), 48), Ok(bytes.to_vec()));
            prop_assert_eq!(parse_up_to(&text(&bytes).to_uppercase(), 48), Ok(bytes.to_vec()));
            prop_assert!(parse_up_to(&text(&bytes), 47).is_err());
        }

        /// no-silent-trust: any text is read or refused.
        #[test]
        fn no_silent_trust_any_text(text in "\\PC{0,9}") {
            let _ = parse::<4>(&text);
            let _ = parse_up_to(&text, 4);
        }
    }
}

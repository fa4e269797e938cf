//! What a terminal is shown: colours where there are any, and nothing it would obey.
//!
//! Owns when to use colours, which ones there are, and which characters of others' text may reach a terminal. Does not own
//! any text.

use std::io;

use rustix::termios::isatty;

/// Whether to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    /// For terminals.
    Colours,
    /// For files and pipes.
    Plain,
}

pub(crate) const BOLD: &str = "1";
pub(crate) const RED: &str = "31;1";
pub(crate) const YELLOW: &str = "33";
pub(crate) const GREEN: &str = "32";

impl Paint {
    /// Colours on terminals that have them, unless somebody does not want any (no-color.org).
    pub fn on_stdout() -> Self {
        let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        if isatty(io::stdout()) && !is_set("NO_COLOR") && !is_dumb { Self::Colours } else { Self::Plain }
    }

    pub(crate) fn on(self, text: &str, colour: &str) -> String {
        match self {
            Self::Colours => format!("\x1b[{colour}m{text}\x1b[0m"),
            Self::Plain => text.to_owned(),
        }
    }
}

/// Neither control characters nor those that change the order of what is around them.
pub(crate) fn is_printable(char: char) -> bool {
    !char.is_control() && !matches!(char, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

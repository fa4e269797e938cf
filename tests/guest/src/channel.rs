//! What guest and host say to each other over a channel, one session after the other.
//!
//! A session begins with a byte of the guest's that says how it goes on. The guest asks for all of them, in the order of
//! [`SESSIONS`], and the host counts them.

/// The name of the channel that leads to the host's side.
pub const NAME: &str = "tenure.relying-party";
/// Bytes of the guest's last words.
pub const LAST_WORDS_LEN: usize = 200_000;

/// How a session goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Session {
    /// An exchange ([`crate::protocol`]), after which the guest closes.
    GuestCloses,
    /// An exchange, after which the host closes.
    HostCloses,
    /// [`last_words`], after which the guest closes at once. There is no answer.
    LastWords,
}

/// What a guest asks for: after each kind of end each kind of beginning.
pub const SESSIONS: [Session; 7] = [
    Session::GuestCloses,
    Session::HostCloses,
    Session::HostCloses,
    Session::LastWords,
    Session::LastWords,
    Session::HostCloses,
    Session::GuestCloses,
];

impl Session {
    const ALL: [Self; 3] = [Self::GuestCloses, Self::HostCloses, Self::LastWords];

    /// The first byte of the session.
    pub const fn byte(self) -> u8 {
        match self {
            Self::GuestCloses => b'g',
            Self::HostCloses => b'h',
            Self::LastWords => b'l',
        }
    }

    /// The session that begins with `byte`.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|session| session.byte() == byte)
    }
}

/// What is said before closing without waiting for an answer.
pub fn last_words() -> Vec<u8> {
    (0..LAST_WORDS_LEN).map(|at| (at * 7 + at / 251).to_le_bytes()[0]).collect()
}

//! Moments, as whoever verifies says them.

use core::fmt;
use core::time::Duration;

use der::DateTime;

/// Seconds since 1970, leap seconds not counted. Nothing here asks a clock: a verdict is about a moment that is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(u64);

impl UnixTime {
    /// This many seconds after 1970 began.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds)
    }

    /// Seconds since 1970 began.
    #[must_use]
    pub const fn as_secs(self) -> u64 {
        self.0
    }
}

impl fmt::Display for UnixTime {
    /// As in RFC 3339; as a number after the year 9999.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match DateTime::from_unix_duration(Duration::from_secs(self.0)) {
            Ok(date) => write!(f, "{date}"),
            Err(_) => write!(f, "second {} since 1970", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn it_is_written_as_people_do() {
        assert_eq!(UnixTime::from_secs(1_780_272_000).to_string(), "2026-06-01T00:00:00Z");
        assert_eq!(UnixTime::from_secs(u64::MAX).to_string(), "second 18446744073709551615 since 1970");
    }
}

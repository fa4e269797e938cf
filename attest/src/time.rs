//! Moments, as whoever verifies says them.

use core::fmt;
use core::str::FromStr;
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

/// Why a text is no moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no moment as RFC 3339 writes them in UTC, like 2026-06-01T00:00:00Z")]
pub struct MomentError;

impl FromStr for UnixTime {
    type Err = MomentError;

    /// As in RFC 3339, in UTC and by whole seconds.
    fn from_str(text: &str) -> Result<Self, MomentError> {
        let date: DateTime = text.parse().map_err(|_| MomentError)?;
        Ok(Self(date.unix_duration().as_secs()))
    }
}

impl fmt::Display for UnixTime {
    /// As in RFC 3339; as a number after the year 9999.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Digit by digit: verdicts are full of moments.
        match DateTime::from_unix_duration(Duration::from_secs(self.0)) {
            Ok(date) => {
                let mut text = *b"0000-00-00T00:00:00Z";
                let [century, year] =
                    [date.year() / 100, date.year() % 100].map(|it| u8::try_from(it).unwrap_or_default());
                let parts = [century, year, date.month(), date.day(), date.hour(), date.minutes(), date.seconds()];
                for (at, number) in [0, 2, 5, 8, 11, 14, 17].into_iter().zip(parts) {
                    (text[at], text[at + 1]) = (b'0' + number / 10, b'0' + number % 10);
                }
                f.write_str(core::str::from_utf8(&text).unwrap_or_default())
            }
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
        assert_eq!("2026-06-01T00:00:00Z".parse(), Ok(UnixTime::from_secs(1_780_272_000)));
        for text in
            ["", "2026-06-01", "2026-06-01T00:00:00", "2026-06-31T00:00:00Z", "1780272000", "2026-06-01T00:00:00+02:00"]
        {
            assert_eq!(text.parse::<UnixTime>(), Err(MomentError), "{text}");
        }
        for seconds in [0, 1, 951_868_799, 951_868_800, 4_102_444_799, 253_402_300_799] {
            let date = DateTime::from_unix_duration(Duration::from_secs(seconds)).unwrap();
            assert_eq!(UnixTime::from_secs(seconds).to_string(), date.to_string());
        }
        assert_eq!(UnixTime::from_secs(u64::MAX).to_string(), "second 18446744073709551615 since 1970");
    }
}

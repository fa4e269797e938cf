//! How single fields are written.

use alloc::format;
use alloc::string::String;

use der::DateTime;
use serde::de::{Deserialize as _, Deserializer, Error};

use crate::UnixTime;
use crate::tdx::tcb::TcbStatus;

/// Two hexadecimal digits a byte, upper or lower case.
pub(super) fn bytes<'de, D: Deserializer<'de>, const N: usize>(from: D) -> Result<[u8; N], D::Error> {
    let text = String::deserialize(from)?;
    let wrong = || D::Error::custom(format!("{text:?} is not {} hexadecimal digits", 2 * N));
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return Err(wrong()) };
    if pairs.len() != N {
        return Err(wrong());
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(pairs) {
        let [high, low] = pair.map(|digit| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok()));
        *byte = high.ok_or_else(wrong)? << 4 | low.ok_or_else(wrong)?;
    }
    Ok(bytes)
}

/// As in RFC 3339, in UTC.
pub(super) fn moment<'de, D: Deserializer<'de>>(from: D) -> Result<UnixTime, D::Error> {
    let text = String::deserialize(from)?;
    let date: DateTime = text.parse().map_err(|_| D::Error::custom(format!("{text:?} is no date and time in UTC")))?;
    Ok(UnixTime::from_secs(date.unix_duration().as_secs()))
}

/// What a platform can be.
pub(super) fn platform_status<'de, D: Deserializer<'de>>(from: D) -> Result<TcbStatus, D::Error> {
    const ALL: [TcbStatus; 7] = [
        TcbStatus::UpToDate,
        TcbStatus::SwHardeningNeeded,
        TcbStatus::ConfigurationNeeded,
        TcbStatus::ConfigurationAndSwHardeningNeeded,
        TcbStatus::OutOfDate,
        TcbStatus::OutOfDateConfigurationNeeded,
        TcbStatus::Revoked,
    ];
    status(from, &ALL)
}

/// What a module or a quoting enclave can be.
pub(super) fn component_status<'de, D: Deserializer<'de>>(from: D) -> Result<TcbStatus, D::Error> {
    status(from, &[TcbStatus::UpToDate, TcbStatus::OutOfDate, TcbStatus::Revoked])
}

fn status<'de, D: Deserializer<'de>>(from: D, known: &[TcbStatus]) -> Result<TcbStatus, D::Error> {
    let text = String::deserialize(from)?;
    let named = known.iter().copied().find(|status| status.name() == text);
    named.ok_or_else(|| D::Error::custom(format!("the TCB status {text:?} is unknown here")))
}

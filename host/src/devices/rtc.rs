//! The real-time clock of a PC, as far as Linux reads it: the host's UTC time, read only.
//!
//! Without it Linux waits seconds at boot for an update that never ends: ports nobody claims read as all ones, which
//! says "update in progress". Does not own alarms or interrupts; there are none.
//!
//! Specification: Motorola MC146818A, "Address map" and "Registers". The century register is where PCs have it.

use std::sync::atomic::{AtomicU8, Ordering};

use time::OffsetDateTime;

use super::bus::{Event, PioDevice};

/// Ports the clock takes: index and data.
pub const RTC_PORTS: u16 = 2;

const SECONDS: u8 = 0x00;
const MINUTES: u8 = 0x02;
const HOURS: u8 = 0x04;
const WEEKDAY: u8 = 0x06;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const REGISTER_A: u8 = 0x0a;
const REGISTER_B: u8 = 0x0b;
const REGISTER_D: u8 = 0x0d;
const CENTURY: u8 = 0x32;
/// Register A: a time base of 32,768 Hz, and never an update in progress.
const TIME_BASE: u8 = 0b010 << 4;
/// Register B: hours from 0 to 23; numbers are binary-coded decimals because bit 2 is clear.
const HOURS_24: u8 = 1 << 1;
/// Register D: the battery is good.
const VALID: u8 = 1 << 7;
/// Bit 7 of the index port masks the NMI.
const INDEX_MASK: u8 = 0x7f;

/// The clock.
#[derive(Debug, Default)]
pub struct Rtc {
    index: AtomicU8,
}

impl PioDevice for Rtc {
    fn read(&self, offset: u16, data: &mut [u8]) {
        let index = self.index.load(Ordering::Relaxed);
        for (byte, port) in data.iter_mut().zip(offset..) {
            // The index port cannot be read.
            *byte = if port == 1 { register(index, OffsetDateTime::now_utc()) } else { 0xff };
        }
    }

    fn write(&self, offset: u16, data: &[u8]) -> Option<Event> {
        if let (0, Some(index)) = (offset, data.first()) {
            self.index.store(index & INDEX_MASK, Ordering::Relaxed);
        }
        None
    }
}

/// What a register holds at `now`.
fn register(index: u8, now: OffsetDateTime) -> u8 {
    let year = u32::try_from(now.year()).unwrap_or(0);
    match index {
        SECONDS => decimal(now.second().into()),
        MINUTES => decimal(now.minute().into()),
        HOURS => decimal(now.hour().into()),
        WEEKDAY => now.weekday().number_from_sunday(),
        DAY => decimal(now.day().into()),
        MONTH => decimal(u8::from(now.month()).into()),
        YEAR => decimal(year % 100),
        CENTURY => decimal(year / 100 % 100),
        REGISTER_A => TIME_BASE,
        REGISTER_B => HOURS_24,
        REGISTER_D => VALID,
        _ => 0,
    }
}

/// A number below 100 as two decimal digits.
fn decimal(number: u32) -> u8 {
    u8::try_from(number / 10 % 10 * 16 + number % 10).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(rtc: &Rtc, index: u8) -> u8 {
        assert_eq!(rtc.write(0, &[index]), None);
        let mut data = [0];
        rtc.read(1, &mut data);
        data[0]
    }

    #[test]
    fn the_time_is_in_decimal_digits() {
        // 2026-11-20 07:36:59 UTC, a Friday.
        let now = OffsetDateTime::from_unix_timestamp(1_795_160_219).unwrap();
        let registers = [SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR, CENTURY].map(|index| register(index, now));
        assert_eq!(registers, [0x59, 0x36, 0x07, 6, 0x20, 0x11, 0x26, 0x20]);
    }

    /// Linux waits for this bit to clear, for seconds, at every boot.
    #[test]
    fn no_update_is_ever_in_progress() {
        let rtc = Rtc::default();
        assert_eq!(read(&rtc, REGISTER_A) & 0x80, 0);
        assert_eq!(read(&rtc, REGISTER_A | 0x80) & 0x80, 0, "the NMI mask is no part of the index");
        assert_eq!(read(&rtc, REGISTER_D), VALID);
    }

    /// no-silent-trust: no register a guest can name or write does any harm.
    #[test]
    fn no_silent_trust_every_register_can_be_read_and_none_written() {
        let rtc = Rtc::default();
        for index in 0..=u8::MAX {
            assert_eq!(rtc.write(0, &[index]), None);
            assert_eq!(rtc.write(1, &[0xff]), None);
            let mut data = [0; 2];
            rtc.read(0, &mut data);
        }
        assert_eq!(read(&rtc, REGISTER_B), HOURS_24);
    }
}

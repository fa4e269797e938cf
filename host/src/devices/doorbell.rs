//! The doorbell: how firmware and test guests speak to the VMM.
//!
//! Owns the port's behaviour; the commands are in [`guest_fw::abi::Doorbell`]. Only a 32-bit write rings.

use crate::devices::bus::{Event, PioDevice};
use guest_fw::abi;

/// Ports the doorbell takes.
pub const DOORBELL_PORTS: u16 = 4;

/// The doorbell.
#[derive(Debug, Clone, Copy, Default)]
pub struct Doorbell;

impl PioDevice for Doorbell {
    fn read(&self, _offset: u16, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn write(&self, _offset: u16, data: &[u8]) -> Option<Event> {
        let value = u32::from_le_bytes(data.try_into().ok()?);
        Some(match abi::Doorbell::from_raw(value) {
            Some((command, argument)) => Event::Doorbell { command, argument },
            None => Event::UnknownDoorbell { value },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn narrow_writes_do_not_ring() {
        assert_eq!(Doorbell.write(0, &[1]), None);
        assert_eq!(Doorbell.write(2, &[1, 0]), None);
        let rung = Event::Doorbell { command: abi::Doorbell::Mark, argument: 7 };
        assert_eq!(Doorbell.write(0, &abi::Doorbell::Mark.to_raw(7).to_le_bytes()), Some(rung));
    }

    proptest! {
        /// no-silent-trust: every value rings, as a command or as an unknown one.
        #[test]
        fn no_silent_trust_any_value(value in any::<u32>()) {
            let expected = match value & 0xff {
                1..=5 => {
                    let (command, argument) = abi::Doorbell::from_raw(value).unwrap();
                    prop_assert_eq!(argument, value >> 8);
                    Event::Doorbell { command, argument }
                }
                _ => Event::UnknownDoorbell { value },
            };
            prop_assert_eq!(Doorbell.write(0, &value.to_le_bytes()), Some(expected));
        }
    }
}

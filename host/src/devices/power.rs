//! Power off and reset.
//!
//! Owns the ACPI PM1a blocks (ACPI 6.5 §4.8.3), the reset control register a FADT names (§4.8.3.6) and the one command
//! of an i8042 keyboard controller Linux still tries. There are no ACPI events: no status bit is ever set, and the SCI
//! is never raised.

use crate::devices::bus::{Event, PioDevice};
use crate::devices::lock;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};

/// How a guest reset the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetBy {
    /// Reset control register.
    ResetControl,
    /// i8042 command 0xfe, pulse the reset line.
    I8042,
}

/// Ports of the PM1a event block.
pub const PM1_EVENT_PORTS: u16 = 4;
/// Ports of the PM1a control block.
pub const PM1_CONTROL_PORTS: u16 = 2;

/// PM1 control: SCI interrupts are on, which says the machine is in ACPI mode. There is no other mode.
const SCI_EN: u16 = 1 << 0;
/// PM1 control: go to sleep now.
const SLP_EN: u16 = 1 << 13;
/// PM1 control: which sleep, bits 12:10.
const SLP_TYP_SHIFT: u16 = 10;
const SLP_TYP_MASK: u16 = 0b111;
/// The sleep type of S5, soft off. The firmware's `\_S5` package says the same.
pub const SLP_TYP_S5: u16 = 0;

/// PM1a event block, 4 ports: status at 0, enable at 2.
#[derive(Debug, Default)]
pub struct Pm1Event {
    enable: Mutex<[u8; 2]>,
}

impl PioDevice for Pm1Event {
    fn read(&self, offset: u16, data: &mut [u8]) {
        let [low, high] = *lock(&self.enable);
        let block = [0, 0, low, high];
        copy_from_block(&block, offset, data);
    }

    fn write(&self, offset: u16, data: &[u8]) -> Option<Event> {
        let mut enable = lock(&self.enable);
        for (byte, at) in data.iter().zip(usize::from(offset)..) {
            // Status bits are cleared by writing ones to them, and none is ever set.
            if let Some(register) = at.checked_sub(2).and_then(|at| enable.get_mut(at)) {
                *register = *byte;
            }
        }
        None
    }
}

/// PM1a control block, 2 ports.
#[derive(Debug, Default)]
pub struct Pm1Control {
    written: Mutex<[u8; 2]>,
}

impl PioDevice for Pm1Control {
    fn read(&self, offset: u16, data: &mut [u8]) {
        // SLP_EN is write-only.
        let value = u16::from_le_bytes(*lock(&self.written)) & !SLP_EN | SCI_EN;
        copy_from_block(&value.to_le_bytes(), offset, data);
    }

    fn write(&self, offset: u16, data: &[u8]) -> Option<Event> {
        let mut written = lock(&self.written);
        for (byte, at) in data.iter().zip(usize::from(offset)..) {
            if let Some(register) = written.get_mut(at) {
                *register = *byte;
            }
        }
        let value = u16::from_le_bytes(*written);
        *written = (value & !SLP_EN).to_le_bytes();
        let off = value & SLP_EN != 0 && value >> SLP_TYP_SHIFT & SLP_TYP_MASK == SLP_TYP_S5;
        off.then_some(Event::PowerOff)
    }
}

/// Reset control register, 1 port: a write with bit 2 set resets.
#[derive(Debug, Default)]
pub struct ResetControl {
    value: AtomicU8,
}

const RESET_CPU: u8 = 1 << 2;

impl PioDevice for ResetControl {
    fn read(&self, _offset: u16, data: &mut [u8]) {
        data.fill(self.value.load(Ordering::Relaxed));
    }

    fn write(&self, _offset: u16, data: &[u8]) -> Option<Event> {
        let value = *data.first()?;
        self.value.store(value & !RESET_CPU, Ordering::Relaxed);
        (value & RESET_CPU != 0).then_some(Event::Reset(ResetBy::ResetControl))
    }
}

/// Status and command port of an i8042 without keyboard or mouse. Its status is always "nothing to read, ready for a
/// command", which keeps a guest from waiting for it before a reset.
#[derive(Debug, Default)]
pub struct I8042;

const I8042_PULSE_RESET: u8 = 0xfe;

impl PioDevice for I8042 {
    fn read(&self, _offset: u16, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, _offset: u16, data: &[u8]) -> Option<Event> {
        (data.first() == Some(&I8042_PULSE_RESET)).then_some(Event::Reset(ResetBy::I8042))
    }
}

/// Copies registers out of their block; ports the block does not have read as zero.
fn copy_from_block(block: &[u8], offset: u16, data: &mut [u8]) {
    for (byte, at) in data.iter_mut().zip(usize::from(offset)..) {
        *byte = block.get(at).copied().unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_word(device: &dyn PioDevice, offset: u16) -> u16 {
        let mut data = [0xaa; 2];
        device.read(offset, &mut data);
        u16::from_le_bytes(data)
    }

    /// The order Linux switches off in: type first, then type and enable.
    #[test]
    fn s5_powers_off() {
        let control = Pm1Control::default();
        assert_eq!(read_word(&control, 0), SCI_EN);
        assert_eq!(control.write(0, &SCI_EN.to_le_bytes()), None);
        assert_eq!(control.write(0, &(SCI_EN | SLP_EN).to_le_bytes()), Some(Event::PowerOff));
        assert_eq!(control.write(1, &[0x20]), Some(Event::PowerOff));
        assert_eq!(read_word(&control, 0), SCI_EN);
    }

    #[test]
    fn other_sleep_states_do_nothing() {
        for sleep_type in 1..=SLP_TYP_MASK {
            let control = Pm1Control::default();
            assert_eq!(control.write(0, &(SLP_EN | sleep_type << SLP_TYP_SHIFT).to_le_bytes()), None);
            assert_eq!(read_word(&control, 0), SCI_EN | sleep_type << SLP_TYP_SHIFT);
        }
    }

    #[test]
    fn pm1_enable_is_storage_and_status_stays_clear() {
        let events = Pm1Event::default();
        assert_eq!(events.write(0, &[0xff, 0xff, 0x21, 0x03]), None);
        assert_eq!(read_word(&events, 0), 0);
        assert_eq!(read_word(&events, 2), 0x321);
    }

    #[test]
    fn resets_name_their_register() {
        assert_eq!(ResetControl::default().write(0, &[0x02]), None);
        assert_eq!(ResetControl::default().write(0, &[0x06]), Some(Event::Reset(ResetBy::ResetControl)));
        assert_eq!(I8042.write(0, &[0xfe]), Some(Event::Reset(ResetBy::I8042)));
        assert_eq!(I8042.write(0, &[0xd1]), None);
        let mut status = [0xff];
        I8042.read(0, &mut status);
        assert_eq!(status, [0]);
    }

    proptest! {
        /// no-silent-trust: power off needs exactly SLP_EN with type 0, however the bits arrive.
        #[test]
        fn no_silent_trust_pm1_control(writes in proptest::collection::vec((0u16..2, any::<u16>(), 1usize..3), 1..20)) {
            let control = Pm1Control::default();
            let mut model = [0u8; 2];
            for (offset, value, len) in writes {
                let len = len.min(2 - usize::from(offset));
                let bytes = value.to_le_bytes();
                let event = control.write(offset, &bytes[..len]);
                model[usize::from(offset)..][..len].copy_from_slice(&bytes[..len]);
                let off = u16::from_le_bytes(model) & 0b11_1100_0000_0000 == SLP_EN;
                prop_assert_eq!(event == Some(Event::PowerOff), off);
                model[1] &= 0xdf;
            }
        }
    }
}

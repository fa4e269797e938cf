//! The serial console, and the lock that keeps lines of several processors whole.
//!
//! Writes to the transmit register of a 16550 without asking for room: the VMM's device takes a byte at any time, and
//! each question would be an exit. Specification: National Semiconductor PC16550D data sheet, 8.0 (registers).

use crate::abi::FALLBACK_SERIAL_PORT;
use crate::cpu;
use core::fmt::{self, Write};
use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, AtomicU16, Ordering};

/// Start of every line.
pub const PREFIX: &str = "tenure-fw: ";
/// How often a line's writer asks for the lock before it writes anyway: a crashed processor may hold it for ever.
const LOCK_PATIENCE: u32 = 10_000_000;

static PORT: AtomicU16 = AtomicU16::new(FALLBACK_SERIAL_PORT);
static QUIET: AtomicBool = AtomicBool::new(false);
static BUSY: AtomicBool = AtomicBool::new(false);

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verbosity {
    /// Progress and problems.
    Normal,
    /// Problems only.
    Quiet,
}

/// Moves the console to `port`, the first of a 16550.
pub fn configure(port: u16, verbosity: Verbosity) {
    PORT.store(port, Ordering::Relaxed);
    QUIET.store(verbosity == Verbosity::Quiet, Ordering::Relaxed);
}

/// Says a line of progress, unless quiet.
pub fn say(line: fmt::Arguments<'_>) {
    if !QUIET.load(Ordering::Relaxed) {
        announce(line);
    }
}

/// Says a line that must be seen: a problem, or a result.
pub fn announce(line: fmt::Arguments<'_>) {
    let mut patience = LOCK_PATIENCE;
    while BUSY.swap(true, Ordering::Acquire) && patience > 0 {
        patience -= 1;
        spin_loop();
    }
    // A console that cannot be written to has nobody to tell.
    let _ = writeln!(Port(PORT.load(Ordering::Relaxed)), "{PREFIX}{line}\r");
    BUSY.store(false, Ordering::Release);
}

struct Port(u16);

impl Write for Port {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            cpu::out8(self.0, byte);
        }
        Ok(())
    }
}

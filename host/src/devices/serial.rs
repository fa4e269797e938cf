//! The serial console: a 16550 at COM1.
//!
//! Owns the ports, the interrupt and the flow of input; the UART itself is `vm-superio`'s. Output goes to any writer,
//! byte by byte as the guest sends it, on the vCPU's thread. A writer that fails loses bytes, which are counted, and
//! never stops the guest.

use crate::devices::bus::{Event, PioDevice};
use crate::devices::interrupt::{IrqLine, pulse};
use crate::devices::lock;
use std::convert::Infallible;
use std::fmt;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use vm_superio::Trigger;
use vm_superio::serial::{Serial as Uart, SerialEvents};

/// Ports a 16550 takes.
pub const SERIAL_PORTS: u16 = 8;

/// Where the guest's output goes.
pub type SerialOutput = Box<dyn Write + Send>;

/// What went through a serial port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SerialCounts {
    /// Bytes from the guest that reached the writer.
    pub output_bytes: u64,
    /// Bytes from the guest the writer refused.
    pub lost_bytes: u64,
    /// Bytes to the guest.
    pub input_bytes: u64,
}

/// Input was given up because the port was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("serial input closed with {left} bytes left")]
pub struct InputClosed {
    /// Bytes that did not reach the guest.
    pub left: usize,
}

#[derive(Debug, Default)]
struct Counters {
    output: AtomicU64,
    lost: AtomicU64,
    input: AtomicU64,
}

impl SerialEvents for Counters {
    fn buffer_read(&self) {}
    fn out_byte(&self) {
        self.output.fetch_add(1, Ordering::Relaxed);
    }
    fn tx_lost_byte(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }
    fn in_buffer_empty(&self) {}
}

/// COM1's line is edge-triggered.
struct Edge(Arc<dyn IrqLine>);

impl Trigger for Edge {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        pulse(&*self.0);
        Ok(())
    }
}

struct State {
    uart: Uart<Edge, Arc<Counters>, SerialOutput>,
    input_closed: bool,
}

/// A serial port.
pub struct Serial {
    state: Mutex<State>,
    /// The guest did something that may have made room for input.
    room: Condvar,
    counters: Arc<Counters>,
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serial").field("counters", &self.counters).finish_non_exhaustive()
    }
}

impl Serial {
    /// A port that interrupts through `irq` and writes to `output`.
    pub fn new(irq: Arc<dyn IrqLine>, output: SerialOutput) -> Self {
        let counters = Arc::<Counters>::default();
        let uart = Uart::with_events(Edge(irq), Arc::clone(&counters), output);
        Self { state: Mutex::new(State { uart, input_closed: false }), room: Condvar::new(), counters }
    }

    /// Gives the guest as many bytes of `input` as its FIFO has room for, and says how many that were.
    pub fn enqueue(&self, input: &[u8]) -> usize {
        self.enqueue_locked(&mut lock(&self.state), input)
    }

    /// Gives the guest all of `input`, waiting for room as long as it takes. [`Self::close_input`] ends the wait.
    pub fn enqueue_all(&self, mut input: &[u8]) -> Result<(), InputClosed> {
        let mut state = lock(&self.state);
        while !input.is_empty() {
            if state.input_closed {
                return Err(InputClosed { left: input.len() });
            }
            match self.enqueue_locked(&mut state, input) {
                0 => state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner),
                accepted => input = &input[accepted..],
            }
        }
        Ok(())
    }

    /// Takes no more input and releases whoever waits in [`Self::enqueue_all`].
    pub fn close_input(&self) {
        lock(&self.state).input_closed = true;
        self.room.notify_all();
    }

    /// What went through so far.
    pub fn counts(&self) -> SerialCounts {
        SerialCounts {
            output_bytes: self.counters.output.load(Ordering::Relaxed),
            lost_bytes: self.counters.lost.load(Ordering::Relaxed),
            input_bytes: self.counters.input.load(Ordering::Relaxed),
        }
    }

    fn enqueue_locked(&self, state: &mut State, input: &[u8]) -> usize {
        // Its errors are a full FIFO, which is no room, and a failing interrupt, which ours is not.
        let accepted = state.uart.enqueue_raw_bytes(input).unwrap_or(0);
        self.counters.input.fetch_add(accepted as u64, Ordering::Relaxed);
        accepted
    }
}

impl PioDevice for Serial {
    fn read(&self, offset: u16, data: &mut [u8]) {
        let mut state = lock(&self.state);
        for (byte, register) in data.iter_mut().zip(offset..) {
            *byte = register_number(register).map_or(0xff, |register| state.uart.read(register));
        }
        drop(state);
        self.room.notify_all();
    }

    fn write(&self, offset: u16, data: &[u8]) -> Option<Event> {
        let mut state = lock(&self.state);
        for (byte, register) in data.iter().zip(offset..) {
            let Some(register) = register_number(register) else { continue };
            // A byte the writer refused is counted by `Counters`; the guest must not be held up by it.
            if let Err(error) = state.uart.write(register, *byte) {
                tracing::trace!(%error, "serial output lost");
            }
        }
        drop(state);
        // Leaving loopback mode makes room as well as reading does.
        self.room.notify_all();
        None
    }
}

fn register_number(offset: u16) -> Option<u8> {
    u8::try_from(offset).ok().filter(|offset| u16::from(*offset) < SERIAL_PORTS)
}

#[cfg(test)]
mod tests;

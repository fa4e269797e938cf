//! How the firmware gives up: a line on the serial port, a ring of the doorbell, and never another instruction.
#![expect(unsafe_code, reason = "ends in a processor shutdown, which exists only as assembly")]

use crate::abi::{Doorbell, FirmwareFault};
use crate::{cpu, serial};
use core::arch::asm;
use core::fmt;
use core::sync::atomic::{AtomicU16, Ordering};

/// The doorbell's port; zero as long as it is not known.
static DOORBELL: AtomicU16 = AtomicU16::new(0);

/// Where the doorbell is.
pub fn configure(doorbell_port: u16) {
    DOORBELL.store(doorbell_port, Ordering::Relaxed);
}

/// Rings the doorbell, if it is known.
pub fn ring(command: Doorbell, argument: u32) {
    let port = DOORBELL.load(Ordering::Relaxed);
    if port != 0 {
        cpu::out32(port, command.to_raw(argument));
    }
}

/// Says why, tells the VMM, and stops.
pub fn die(fault: FirmwareFault, why: fmt::Arguments<'_>) -> ! {
    serial::announce(why);
    ring(Doorbell::Fault, fault as u32);
    // The VMM does not end the guest at the doorbell, or the doorbell is not known: a processor shutdown is the one
    // thing every VMM notices.
    shutdown()
}

/// What an exception leaves on the stack (APM vol. 2 §8.9.3), below it the vector the gate's stub pushed.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct ExceptionFrame {
    /// Which exception.
    pub vector: u64,
    /// The CPU's error code, or zero.
    pub error_code: u64,
    /// Where it happened.
    pub rip: u64,
    /// Code segment.
    pub cs: u64,
    /// Flags.
    pub rflags: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Stack segment.
    pub ss: u64,
}

/// An exception: none is expected, so all end here.
pub fn exception(frame: &ExceptionFrame) -> ! {
    let ExceptionFrame { vector, error_code, rip, rsp, .. } = *frame;
    let cr2 = cpu::fault_address();
    die(
        FirmwareFault::Crash,
        format_args!("exception {vector}: error code {error_code:#x}, rip {rip:#x}, rsp {rsp:#x}, cr2 {cr2:#x}"),
    )
}

/// An exception with no gate to go to, at which the processor shuts down (APM vol. 2 §8.2.9).
fn shutdown() -> ! {
    let no_gates = [0u16; 5];
    // SAFETY: what the processor can no longer do is the purpose.
    unsafe { asm!("lidt [{}]", "int3", in(reg) &raw const no_gates, options(nostack)) };
    cpu::halt()
}

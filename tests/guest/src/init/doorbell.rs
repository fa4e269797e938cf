//! Rings the VMM's doorbell.

use gmem::layout::DOORBELL_PORT;
use guest_fw::abi::Doorbell;
use std::arch::asm;

/// Ports of the doorbell.
const PORTS: libc::c_ulong = 4;

/// Rings [`Doorbell::Mark`] with `argument`. A kernel that lets nobody at the ports (lockdown, or built without
/// `ioperm`) makes this do nothing, and so does a VMM without a doorbell.
#[allow(unsafe_code, reason = "only the instruction itself can make a 32-bit port write from user space")]
pub(super) fn mark(argument: u32) {
    // SAFETY: gives this thread access to four ports that are only the doorbell's; memory is not involved.
    let allowed = unsafe { libc::ioperm(DOORBELL_PORT.into(), PORTS, 1) };
    if allowed != 0 {
        return;
    }
    let value = Doorbell::Mark.to_raw(argument);
    // SAFETY: the port is allowed to us, see above, and writing to it changes no memory of ours.
    unsafe {
        asm!("out dx, eax", in("dx") DOORBELL_PORT, in("eax") value, options(nomem, nostack, preserves_flags));
    }
}

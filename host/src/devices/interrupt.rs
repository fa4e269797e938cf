//! The seam between devices and interrupt controllers.
//!
//! Owns the trait a device pulls its line through. The implementation belongs to whoever owns the VM, because the
//! controllers are in the kernel (or, under TDX, split between kernel and VMM).

use std::fmt::Debug;
use std::sync::Arc;

pub use gmem_kvm::port::Level;

/// One interrupt line of one device.
pub trait IrqLine: Debug + Send + Sync {
    /// Drives the line. Setting a level it already has is allowed and changes nothing.
    fn set(&self, level: Level);
}

/// Interrupts an edge-triggered input once.
pub(crate) fn pulse(line: &dyn IrqLine) {
    line.set(Level::High);
    line.set(Level::Low);
}

impl<L: IrqLine + ?Sized> IrqLine for Arc<L> {
    fn set(&self, level: Level) {
        (**self).set(level);
    }
}

//! The seam between devices and interrupt controllers.
//!
//! Owns the trait a device pulls its line through, and a line that several devices share. The implementation belongs to
//! whoever owns the VM, because the controllers are in the kernel (or, under TDX, split between kernel and VMM).

use super::lock;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

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

/// A level-triggered line that several devices pull: it is high while one of them wants it to be, as INTx pins that are
/// wired together are (PCI Local Bus 3.0 §2.2.6).
#[derive(Debug)]
pub struct SharedLine {
    line: Arc<dyn IrqLine>,
    /// How many devices pull. The line is driven under this lock, or two changes could overtake each other.
    pulling: Mutex<usize>,
}

impl SharedLine {
    /// Devices share `line`, which is low.
    pub fn new(line: Arc<dyn IrqLine>) -> Arc<Self> {
        Arc::new(Self { line, pulling: Mutex::new(0) })
    }

    /// The line as one more device sees it.
    pub fn pin(self: &Arc<Self>) -> Arc<dyn IrqLine> {
        Arc::new(Pin { shared: Arc::clone(self), level: Mutex::new(Level::Low) })
    }
}

/// One device's part of a shared line.
#[derive(Debug)]
struct Pin {
    shared: Arc<SharedLine>,
    level: Mutex<Level>,
}

impl IrqLine for Pin {
    fn set(&self, level: Level) {
        let mut own = lock(&self.level);
        if *own == level {
            return;
        }
        *own = level;
        let mut pulling = lock(&self.shared.pulling);
        let before = *pulling;
        *pulling = match level {
            Level::High => before + 1,
            Level::Low => before.saturating_sub(1),
        };
        if (before == 0) != (*pulling == 0) {
            self.shared.line.set(level);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::test_support::TestLine;
    use proptest::prelude::*;
    use std::thread;

    proptest! {
        /// The line is high exactly while a device pulls it, and is not driven when nothing changes.
        #[test]
        fn a_shared_line_is_high_while_anybody_pulls(
            steps in proptest::collection::vec((0usize..3, any::<bool>()), 0..40)
        ) {
            let line = Arc::new(TestLine::default());
            let shared = SharedLine::new(line.clone());
            let pins = [shared.pin(), shared.pin(), shared.pin()];
            let (mut levels, mut rises) = ([false; 3], 0);
            for (pin, high) in steps {
                let before = levels.contains(&true);
                levels[pin] = high;
                rises += u64::from(!before && high);
                pins[pin].set(if high { Level::High } else { Level::Low });
                prop_assert_eq!(line.is_high(), levels.contains(&true));
            }
            prop_assert_eq!(line.rises(), rises);
        }
    }

    /// Devices that pull at the same time leave the line as it should be.
    #[test]
    fn a_shared_line_survives_devices_that_pull_at_once() {
        let line = Arc::new(TestLine::default());
        let shared = SharedLine::new(line.clone());
        let pins = [shared.pin(), shared.pin()];
        for last in [Level::Low, Level::High, Level::Low] {
            thread::scope(|scope| {
                for pin in &pins {
                    scope.spawn(move || {
                        for _ in 0..2_000 {
                            pin.set(Level::High);
                            pin.set(Level::Low);
                        }
                        pin.set(last);
                    });
                }
            });
            assert_eq!(line.is_high(), last == Level::High);
        }
    }
}

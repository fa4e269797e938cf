//! What epochs are built of: atomic words and how to pass the time.
//!
//! A module of its own so that `gmem/kvm/tests/epoch_orders.rs` can put those of a model checker in its place.

use std::time::Duration;

pub(super) use std::sync::atomic::{AtomicU64, Ordering, fence};

/// Passes the time between two looks, the more the longer it has taken.
pub(super) fn pause(spins: u32) {
    match spins {
        0..100 => std::hint::spin_loop(),
        100..1000 => std::thread::yield_now(),
        _ => std::thread::sleep(Duration::from_micros(100)),
    }
}

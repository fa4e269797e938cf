//! What the store is built of: atomic words, locks, and how many of them go together.
//!
//! A module of its own so that `gmem/tests/ledger_orders.rs` can put the atomics of a model checker and smaller sizes
//! in its place and run the same store.

pub(super) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
pub(super) use std::sync::{Mutex, MutexGuard, OnceLock};

/// Pages an entry stands for: 2 MiB.
pub(super) const PAGES_PER_ENTRY: usize = 512;
/// Leaves allocated together: 16 KiB at a time, enough for 128 MiB of mixed memory.
pub(super) const LEAVES_PER_BUCKET: usize = 64;

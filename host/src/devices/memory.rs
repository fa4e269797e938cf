//! The only way a device reaches guest memory (law 5, shared-only).
//!
//! Owns the trait; the implementation over the VM's shared view belongs to whoever owns the VM. A guard is the proof
//! that its holder may touch memory now: it refuses every page that is not shared, and a conversion waits until the
//! guards older than it are gone. So a guard lives for one copy and never across anything that may block.

use vm_memory::GuestMemory;

/// Guest memory as devices see it.
pub trait SharedMemory: Send + Sync {
    /// Access to what is shared, while it lives.
    type Guard<'a>: GuestMemory
    where
        Self: 'a;

    /// Begins an access.
    fn enter(&self) -> Self::Guard<'_>;
}

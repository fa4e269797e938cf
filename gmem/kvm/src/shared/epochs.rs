//! Epochs: how a conversion waits for the guards that were there before it, and for no others.
//!
//! Memory ordering, each with what it is for:
//!
//! - `enter` announces itself, then looks at epoch and ledger; a wait ends the epoch (the ledger was marked before), then
//!   looks for announcements. Both have a sequentially consistent fence in between, so at least one sees the other: the
//!   guard finds that its epoch is over and tries again, or the wait sees it.
//! - A guard of the new epoch is not waited for. It must see the mark: the wait releases the new epoch, and the fence in
//!   `enter` makes the look at it an acquire.
//! - What a guard wrote must be over when the wait ends: leaving releases, the wait acquires.
//!
//! `gmem/kvm/tests/epoch_orders.rs` runs this very file under a model checker. It fails without either fence, without the
//! second look at the epoch, and with leaving or the wait's look relaxed; the release it cannot tell from its absence.

use super::words::{AtomicU64, Ordering, fence, pause};

/// Counts guards by the epoch they entered in, so that a conversion can wait for those that were there before it.
#[derive(Debug, Default)]
pub(crate) struct Epochs {
    current: AtomicU64,
    /// Guards of even and odd epochs. Two suffice, because waits are serialised and leave the old parity at zero.
    active: [AtomicU64; 2],
}

impl Epochs {
    /// Announces a guard; what it returns goes to [`Self::leave`].
    pub(crate) fn enter(&self) -> usize {
        loop {
            let epoch = self.current.load(Ordering::Relaxed);
            let parity = usize::from(epoch % 2 == 1);
            self.active[parity].fetch_add(1, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            if self.current.load(Ordering::Relaxed) == epoch {
                return parity;
            }
            // The epoch ended while we announced ourselves: whoever ended it may not have seen us.
            self.active[parity].fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// A guard is gone.
    pub(crate) fn leave(&self, parity: usize) {
        self.active[parity].fetch_sub(1, Ordering::Release);
    }

    /// Waits until every guard that existed at the call is gone; `false` if it gave up before, because `give_up` said
    /// so. Callers serialise (a conversion holds its VM's conversion lock), and nobody waits again after giving up.
    pub(crate) fn wait_for_older(&self, give_up: impl Fn() -> bool) -> bool {
        let old = self.current.fetch_add(1, Ordering::Release);
        fence(Ordering::SeqCst);
        let parity = usize::from(old % 2 == 1);
        let mut spins = 0u32;
        while self.active[parity].load(Ordering::Acquire) != 0 {
            if give_up() {
                return false;
            }
            spins = spins.saturating_add(1);
            pause(spins);
        }
        true
    }

    /// How many waits there have been.
    #[cfg(test)]
    pub(crate) fn waits(&self) -> u64 {
        self.current.load(Ordering::Relaxed)
    }
}

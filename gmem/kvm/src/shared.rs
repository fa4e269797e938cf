//! The one way host code reaches guest memory: law *shared-only*.
//!
//! A [`SharedView`] is cheap to clone and can do nothing by itself. [`SharedView::enter`] gives a [`Guard`], which *is*
//! the `vm_memory::GuestMemory` that devices and loaders work on: it refuses every page the ledger does not call
//! shared. A conversion first marks its pages in the ledger, then waits for all guards that are older than the mark
//! (`Epochs::wait_for_older`): from then on no host access can land in them.
//!
//! A guard must not be held over blocking I/O, or conversions (and with them guests) stand still. A thread that holds one
//! cannot convert: it would wait for itself, so it is refused ([`crate::convert::ConvertError::GuardHeld`]).

mod epochs;
mod words;

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use gmem::ledger::Ledger;
use gmem::{ByteLen, GfnRange, Gpa};
use vm_memory::bitmap::BS;
use vm_memory::guest_memory::{Error as MemoryError, GuestMemorySliceIterator, Result as MemoryResult};
use vm_memory::mmap::GuestRegionMmap;
use vm_memory::{GuestAddress, GuestMemory, GuestMemoryBackend, GuestRegionCollection, Permissions};

use crate::backing::Region;

pub(crate) use epochs::Epochs;

/// Every RAM region's mapping, in guest-physical order.
type Mappings = GuestRegionCollection<GuestRegionMmap>;

thread_local! {
    /// Guards this thread holds, of whichever VM.
    static HELD: Cell<u32> = const { Cell::new(0) };
}

/// Whether this thread holds a guard, of whichever VM: a conversion it asks for could wait for that guard forever.
pub(crate) fn this_thread_holds_a_guard() -> bool {
    HELD.get() != 0
}

/// Guest memory as host code may see it: only what is shared.
#[derive(Clone)]
pub struct SharedView {
    ledger: Arc<Ledger>,
    epochs: Arc<Epochs>,
    mappings: Arc<Mappings>,
}

impl fmt::Debug for SharedView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedView").field("ram", self.ledger.ram()).finish_non_exhaustive()
    }
}

impl SharedView {
    /// A view of `regions`, which are all of the ledger's RAM; `None` if their addresses make no sense together.
    pub(crate) fn new(ledger: Arc<Ledger>, epochs: Arc<Epochs>, regions: &[Arc<Region>]) -> Option<Self> {
        let mapped = regions.iter().map(|region| region.guest_region()).collect::<Option<Vec<_>>>()?;
        let mappings = Arc::new(GuestRegionCollection::from_regions(mapped).ok()?);
        Some(Self { ledger, epochs, mappings })
    }

    /// Access to shared memory, as long as the guard lives.
    pub fn enter(&self) -> Guard<'_> {
        HELD.set(HELD.get() + 1);
        Guard { view: self, parity: self.epochs.enter(), stays_in_its_thread: PhantomData }
    }
}

/// Leave to touch shared memory. Conversions of the pages it sees wait until it is dropped.
#[must_use]
pub struct Guard<'a> {
    view: &'a SharedView,
    parity: usize,
    /// Guards are counted by thread.
    stays_in_its_thread: PhantomData<*const ()>,
}

impl fmt::Debug for Guard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("parity", &self.parity).finish_non_exhaustive()
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.view.epochs.leave(self.parity);
        HELD.set(HELD.get().saturating_sub(1));
    }
}

impl Guard<'_> {
    /// Whether every byte is RAM and shared now. It stays so until the guard is dropped or the answer is used: a
    /// conversion that begins later waits for this guard before it changes anything.
    fn is_shared(&self, addr: GuestAddress, count: usize) -> bool {
        let len = ByteLen(count as u64);
        GfnRange::covering(Gpa(addr.0), len).is_ok_and(|range| self.view.ledger.is_shared(range))
    }
}

impl GuestMemory for Guard<'_> {
    type PhysicalMemory = Mappings;
    type Bitmap = ();

    fn check_range(&self, addr: GuestAddress, count: usize, _access: Permissions) -> bool {
        count == 0
            || (self.is_shared(addr, count) && GuestMemoryBackend::check_range(&*self.view.mappings, addr, count))
    }

    fn get_slices<'a>(
        &'a self,
        addr: GuestAddress,
        count: usize,
        _access: Permissions,
    ) -> MemoryResult<impl GuestMemorySliceIterator<'a, BS<'a, Self::Bitmap>>> {
        if count != 0 && !self.is_shared(addr, count) {
            return Err(MemoryError::InvalidGuestAddress(addr));
        }
        Ok(GuestMemoryBackend::get_slices(&*self.view.mappings, addr, count))
    }
}

//! Conversion of pages between private and shared: laws *no-stale-copy* and *known-owner*.
//!
//! One path for every technology. A request waits for those that came before it and overlap it, and is worked off in
//! pieces of at most 2 MiB, so that requests elsewhere get their turn and teardown need not wait for a long one. Pieces
//! of one VM are serialised. For each piece:
//!
//! 1. the ledger marks the pages as converting, which keeps new host access out ([`crate::shared`]);
//! 2. host accesses that were under way are waited for;
//! 3. the kernel is told the new owner. Up to here a failure is an abort: nothing was lost. An outcome that isn't
//!    known leaves the pages *in doubt*, and only teardown ends that;
//! 4. the losing side's copy is discarded. The conversion is done whatever comes of it; a discard that fails is a
//!    [`Debt`], tried again with the next request and at teardown, and shown on the receipt;
//! 5. the ledger records the new owner.
//!
//! Where pages live is a seam: this is the *split* scheme, in which shared pages are in a memfd and private ones in a
//! guest_memfd, so that step 4 discards one of two copies. A kernel whose guest_memfd converts in place would replace
//! steps 3 and 4 (`Core::convert_piece`).

mod desk;

use std::fmt;
use std::slice;
use std::sync::atomic::Ordering;

use smallvec::{SmallVec, smallvec};

use gmem::ledger::{LedgerError, Owner, PageState};
use gmem::{GfnRange, PageCount};

use crate::port::{CallError, KernelGmem, KernelVm};
use crate::shared::this_thread_holds_a_guard;
use crate::vm::{Core, lock};

/// Pages worked off under one hold of the conversion lock: 2 MiB, what one entry of the ledger covers.
const PIECE: PageCount = PageCount::new(512);

use desk::Batch;
pub(crate) use desk::ConversionDesk;

/// A discard that failed: the losing side still has a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Debt {
    /// Which pages.
    pub range: GfnRange,
    /// Whose copy is left over.
    pub side: Owner,
    /// Why it could not be discarded.
    pub reason: String,
}

/// Pages whose owner nobody knows, because the kernel's answer proves neither that it did its part nor that it did not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubt {
    /// Which pages; those of them that had the wanted owner before have it still.
    pub range: GfnRange,
    /// Whose they were to become.
    pub to: Owner,
    /// What the kernel answered.
    pub reason: String,
}

/// What conversions left behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unsettled {
    /// Stale copies that could not be discarded.
    pub debts: Vec<Debt>,
    /// Owners nobody knows.
    pub doubts: Vec<Doubt>,
}

/// What a conversion did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Converted {
    /// Pages that changed owner.
    pub changed: PageCount,
    /// Pages that had the wanted owner already.
    pub already: PageCount,
    /// Of those that changed owner, pages whose losing side still has a copy: a [`Debt`], tried again later.
    pub owed: PageCount,
}

/// What became of a piece whose conversion the kernel refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The kernel certainly changed nothing, and nor did we.
    AsBefore,
    /// Nobody knows who owns its pages; only teardown ends that.
    InDoubt,
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AsBefore => "as before",
            Self::InDoubt => "in doubt",
        })
    }
}

/// Why a conversion did not happen, or only in part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// The ledger refuses: not RAM, or in doubt. Nothing was changed.
    #[error(transparent)]
    Refused(#[from] LedgerError),
    /// The kernel refused; what was asked for before `range` is converted, what comes after it is as before.
    #[error("cannot convert {range}: {source}; it is {fate}, {done} before it are converted")]
    Kernel {
        /// The piece that failed.
        range: GfnRange,
        /// What became of it.
        fate: Fate,
        /// Pages of the request that have the wanted owner all the same.
        done: PageCount,
        /// What the kernel said.
        #[source]
        source: CallError,
    },
    /// A stale copy could not be discarded yet. Nothing was changed.
    #[error("cannot convert: a stale {} copy of {} could not be discarded: {}", .0.side, .0.range, .0.reason)]
    Owed(Debt),
    /// This VM has no private memory.
    #[error("this VM has no private memory")]
    NoPrivateMemory,
    /// This thread holds a guard on shared memory; the conversion would wait for it forever.
    #[error("cannot convert {range}: this thread holds a guard on shared memory, which the conversion would wait for")]
    GuardHeld {
        /// What was to be converted.
        range: GfnRange,
    },
    /// The VM is being torn down. Pieces before that are converted, the rest is as before.
    #[error("the VM is being torn down")]
    Gone,
}

impl<V: KernelVm> Core<V> {
    /// Gives the pages of `range` to `owner`.
    pub(crate) fn convert(&self, range: GfnRange, owner: Owner) -> Result<Converted, ConvertError> {
        if !self.vm_type.has_private_memory() {
            return Err(ConvertError::NoPrivateMemory);
        }
        if this_thread_holds_a_guard() {
            return Err(ConvertError::GuardHeld { range });
        }
        if let Some(answer) = self.convert_at_once(range, owner) {
            return answer;
        }
        self.ledger.check_ram(range)?;
        let turn = self.desk.line_up(range, owner);
        loop {
            if let Some(answer) = turn.wait(|| self.is_closing()) {
                return answer;
            }
            let mut unsettled = lock(&self.desk.unsettled);
            if let Some(batch) = turn.lead() {
                let refused = self.check_batch(&mut unsettled, &batch, owner);
                drop(unsettled);
                return self.carry_out(batch, &refused, owner);
            }
        }
    }

    /// Converts a range of one piece if nobody else converts or waits to: so it is most often, and then there is no need
    /// of a line.
    fn convert_at_once(&self, range: GfnRange, owner: Owner) -> Option<Result<Converted, ConvertError>> {
        if to_boundary(range) < range.pages() {
            return None;
        }
        let _alone = self.desk.alone()?;
        let mut unsettled = lock(&self.desk.unsettled);
        self.pay(&mut unsettled.debts);
        let mut member = Member::new(range);
        let converted = self
            .check_request(&unsettled, range, owner)
            .and_then(|()| self.convert_piece(&mut unsettled, range, owner, slice::from_mut(&mut member)));
        Some(match converted {
            Ok(()) => Ok(member.converted()),
            Err(error) => Err(member.failed_at(range, error)),
        })
    }

    /// Pays debts, and says which requests of the batch are refused as a whole before any of it is carried out.
    fn check_batch(&self, unsettled: &mut Unsettled, batch: &Batch<'_>, owner: Owner) -> Vec<(GfnRange, ConvertError)> {
        self.pay(&mut unsettled.debts);
        let refuse = |range| self.check_request(unsettled, range, owner).err().map(|error| (range, error));
        batch.ranges().filter_map(refuse).collect()
    }

    /// Converts the ranges of a batch that are not refused, those that adjoin each other as one. The answer is the
    /// leader's.
    fn carry_out(
        &self,
        batch: Batch<'_>,
        refused: &[(GfnRange, ConvertError)],
        owner: Owner,
    ) -> Result<Converted, ConvertError> {
        let mut runs: SmallVec<[Run; 1]> = SmallVec::new();
        for range in batch.ranges().filter(|range| refused.iter().all(|(of, _)| of != range)) {
            match runs.last_mut().and_then(|run| Some((run.range.joined(range)?, run))) {
                Some((joined, run)) => {
                    run.range = joined;
                    run.members.push(Member::new(range));
                }
                None => runs.push(Run::new(range)),
            }
        }
        runs.iter_mut().for_each(|run| self.convert_run(run, owner));
        batch.answer(|range| match refused.iter().find(|(of, _)| *of == range) {
            Some((_, error)) => Err(error.clone()),
            None => runs.iter().find_map(|run| run.answer(range)).unwrap_or(Err(ConvertError::Gone)),
        })
    }

    fn convert_run(&self, run: &mut Run, owner: Owner) {
        for piece in pieces(run.range) {
            let mut unsettled = lock(&self.desk.unsettled);
            if let Err(error) = self.convert_piece(&mut unsettled, piece, owner, &mut run.members) {
                run.failed = Some((piece, error));
                break;
            }
        }
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    /// As overlapping requests wait, what holds here holds until the request's end.
    fn check_request(&self, unsettled: &Unsettled, range: GfnRange, owner: Owner) -> Result<(), ConvertError> {
        if self.is_closing() {
            return Err(ConvertError::Gone);
        }
        if unsettled.debts.is_empty() && !self.desk.may_be_in_doubt(unsettled) {
            return Ok(());
        }
        // A leftover must not come back to life as the new owner's contents.
        if let Some(debt) = unsettled.debts.iter().find(|debt| debt.side == owner && debt.range.overlaps(range)) {
            return Err(ConvertError::Owed(debt.clone()));
        }
        // The ledger refuses a piece as a whole; here it is the whole request, and nobody else's.
        match self.ledger.first_in(range, PageState::InDoubt) {
            Some(page) => Err(LedgerError::NotConvertible { page, state: PageState::InDoubt, to: owner }.into()),
            None => Ok(()),
        }
    }

    /// Converts what of `piece` has not got this owner yet, and counts it for whom it belongs to. `unsettled` is the
    /// conversion lock.
    fn convert_piece(
        &self,
        unsettled: &mut Unsettled,
        piece: GfnRange,
        owner: Owner,
        members: &mut [Member],
    ) -> Result<(), ConvertError> {
        if self.is_closing() {
            return Err(ConvertError::Gone);
        }
        let conversion = self.ledger.begin(piece, owner)?;
        let (Some(first), Some(last)) = (conversion.parts().first(), conversion.parts().last()) else {
            conversion.abort();
            return Ok(());
        };
        if !self.epochs.wait_for_older(|| self.is_closing()) {
            conversion.abort();
            return Err(ConvertError::Gone);
        }
        // One call for all parts: pages in between have the wanted owner already, for the kernel that is no change.
        let hull = first.hull(*last);
        if let Err(source) = self.vm.set_owner(hull, owner) {
            let fate = if changed_nothing(&source) {
                conversion.abort();
                Fate::AsBefore
            } else {
                conversion.in_doubt();
                unsettled.doubts.push(Doubt { range: hull, to: owner, reason: source.to_string() });
                Fate::InDoubt
            };
            return Err(ConvertError::Kernel { range: hull, fate, done: PageCount::default(), source });
        }
        for part in conversion.parts() {
            let debt = self.discard_losing_side(*part, owner).err();
            members.iter_mut().for_each(|member| member.count(*part, debt.as_ref()));
            unsettled.debts.extend(debt);
        }
        conversion.commit();
        Ok(())
    }

    /// Discards the copy of whoever just lost `part` to `winner`.
    fn discard_losing_side(&self, part: GfnRange, winner: Owner) -> Result<(), Debt> {
        let (side, result) = match winner {
            Owner::Shared => (Owner::Private, self.discard_private(part).map_err(|error| error.to_string())),
            Owner::Private => {
                let mut regions = self.ram.iter();
                (Owner::Shared, regions.try_for_each(|region| region.discard(part)).map_err(|error| error.to_string()))
            }
        };
        result.map_err(|reason| Debt { range: part, side, reason })
    }

    fn discard_private(&self, part: GfnRange) -> Result<(), CallError> {
        let gmem = lock(&self.gmem);
        match (gmem.as_ref(), self.ledger.ram().index_of(part.start())) {
            (Some(file), Some(index)) => file.discard(PageCount::new(index), part.pages()),
            // Closed, and its pages with it, or never there: nothing is left over.
            _ => Ok(()),
        }
    }

    /// Tries once more to discard what could not be discarded.
    fn pay(&self, debts: &mut Vec<Debt>) {
        debts.retain_mut(|debt| match self.discard_losing_side(debt.range, debt.side.other()) {
            Ok(()) => false,
            Err(again) => {
                *debt = again;
                true
            }
        });
    }

    /// Makes conversions stop at their next piece, or before it if they wait for something.
    pub(crate) fn begin_closing(&self) {
        self.closing.store(true, Ordering::SeqCst);
        self.desk.wake();
    }

    /// Tries every debt a last time and says what remains. No conversion begins after this.
    pub(crate) fn settle(&self) -> Unsettled {
        self.begin_closing();
        let mut unsettled = lock(&self.desk.unsettled);
        self.pay(&mut unsettled.debts);
        unsettled.clone()
    }
}

/// Adjoining requests that are carried out as one, and what becomes of them.
struct Run {
    range: GfnRange,
    members: SmallVec<[Member; 2]>,
    /// The piece that ended it before its end, and why.
    failed: Option<(GfnRange, ConvertError)>,
}

/// One of them. It keeps counts and not which pages changed: their number is the guest's to choose.
struct Member {
    range: GfnRange,
    changed: u64,
    owed: u64,
}

impl Member {
    fn new(range: GfnRange) -> Self {
        Self { range, changed: 0, owed: 0 }
    }

    /// Pages that changed owner, and the debt they left.
    fn count(&mut self, changed: GfnRange, debt: Option<&Debt>) {
        let own = changed.intersection(self.range).map_or(0, |own| own.pages().get());
        self.changed += own;
        self.owed += if debt.is_some() { own } else { 0 };
    }

    /// The answer when all pieces are done.
    fn converted(&self) -> Converted {
        Converted {
            changed: PageCount::new(self.changed),
            already: PageCount::new(self.range.pages().get() - self.changed),
            owed: PageCount::new(self.owed),
        }
    }

    /// The answer when this piece failed. Pieces are worked off from the lowest address up.
    fn failed_at(&self, piece: GfnRange, mut error: ConvertError) -> ConvertError {
        if let ConvertError::Kernel { done, .. } = &mut error {
            *done = PageCount::new(piece.start().number().saturating_sub(self.range.start().number()));
        }
        error
    }
}

impl Run {
    fn new(range: GfnRange) -> Self {
        Self { range, members: smallvec![Member::new(range)], failed: None }
    }

    /// The answer to the request for `range`; `None` if it is not part of this run.
    fn answer(&self, range: GfnRange) -> Option<Result<Converted, ConvertError>> {
        let member = self.members.iter().find(|member| member.range == range)?;
        let reached = |piece: &GfnRange| piece.start().number() < range.end_number();
        Some(match self.failed.as_ref().filter(|(piece, _)| reached(piece)) {
            Some((piece, error)) => Err(member.failed_at(*piece, error.clone())),
            None => Ok(member.converted()),
        })
    }
}

/// Pages from the start of a range to the next multiple of [`PIECE`].
fn to_boundary(range: GfnRange) -> PageCount {
    PageCount::new(PIECE.get() - range.start().number() % PIECE.get())
}

/// Pieces of at most [`PIECE`] pages that do not cross a multiple of it, so that each is one ledger entry.
fn pieces(range: GfnRange) -> impl Iterator<Item = GfnRange> {
    let mut rest = Some(range);
    std::iter::from_fn(move || {
        let range = rest?;
        let (piece, after) = range.split_at(to_boundary(range));
        rest = after;
        piece
    })
}

/// Whether this errno of `KVM_SET_MEMORY_ATTRIBUTES` proves that no attribute changed: it is returned before the first
/// one is stored (`kvm_vm_ioctl_set_mem_attributes` in Linux 7.2).
fn changed_nothing(error: &CallError) -> bool {
    use rustix::io::Errno;
    [Errno::INVAL, Errno::NOMEM, Errno::IO, Errno::FAULT, Errno::NOTTY]
        .iter()
        .any(|errno| errno.raw_os_error() == error.errno)
}

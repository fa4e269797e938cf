//! The thread that creates and deletes slots: `kvm_set_memory_region` with `kvm_gmem_bind` and `kvm_gmem_unbind`.
//!
//! It binds a slot, deletes it, and binds another one to the same range. Creating takes the file's reference for the
//! length of the call only; the slot keeps a bare pointer.

use super::{Binding, Case, Change, Memory, State, Thread};
use crate::protocol::Steps;

/// Where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Memslot {
    Bind { slot: usize, at: Bind },
    Delete { slot: usize, at: Delete },
    Unbind { slot: usize, at: Unbind },
    Done,
}

/// Creating a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Bind {
    Begin,
    HasSlotsLock,
    HasFile,
    HasInvalidateLock,
    Bound,
    Unlocked,
    /// The file's reference is dropped; the slot is not yet to be found.
    Unpublished,
    Failed,
    Leave,
}

/// Deleting one, up to `kvm_free_memslot`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Delete {
    Begin,
    HasSlotsLock,
    TakenOut,
    Leave,
}

/// `kvm_gmem_unbind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Unbind {
    Begin,
    NoPointer,
    HasPointer,
    HasFile,
    HasInvalidateLock,
    Cleared,
    Unlocked,
    Refused(Case),
    /// Has the invalidate lock, but no reference: not in Linux 7.2.
    RefusedHasLock,
    RefusedCleared,
    /// Unbound: what is left is to free the slot.
    Unbound,
}

impl Memslot {
    /// Binds slot 0.
    pub(super) fn begin() -> Self {
        Self::Bind { slot: 0, at: Bind::Begin }
    }

    /// Between two calls.
    pub(super) fn is_outside(self) -> bool {
        matches!(self, Self::Bind { at: Bind::Begin, .. } | Self::Delete { at: Delete::Begin, .. } | Self::Done)
    }

    /// Waits for the invalidate lock, with `slots_lock` held.
    pub(super) fn wants_invalidate_lock(self, how: &Binding) -> bool {
        match self {
            Self::Bind { at: Bind::HasFile, .. } | Self::Unbind { at: Unbind::HasFile, .. } => true,
            Self::Unbind { at: Unbind::Refused(_), .. } => how.refused_locks,
            _ => false,
        }
    }

    /// What comes after a slot's creation or deletion.
    fn next(self) -> Self {
        match self {
            Self::Bind { slot: 0, .. } => Self::Delete { slot: 0, at: Delete::Begin },
            Self::Delete { slot: 0, .. } | Self::Unbind { slot: 0, .. } => Self::Bind { slot: 1, at: Bind::Begin },
            _ => Self::Done,
        }
    }
}

/// What this thread can do next.
pub(super) fn steps(how: &Binding, steps: &mut Steps<'_, State>) {
    match steps.state().memslot {
        Memslot::Bind { slot, at } => bind(how, slot, at, steps),
        Memslot::Delete { slot, at } => delete(how, slot, at, steps),
        Memslot::Unbind { slot, at } => unbind(how, slot, at, steps),
        Memslot::Done => {}
    }
}

fn bind(how: &Binding, slot: usize, at: Bind, steps: &mut Steps<'_, State>) {
    const WHO: &str = "bind";
    let s = steps.state();
    let go = move |s: &mut State, at| s.memslot = Memslot::Bind { slot, at };
    match at {
        Bind::Begin if s.slots_lock.is_none() => steps.add(WHO, "takes slots_lock, allocates a slot", |s| {
            s.slots_lock = Some(Thread::Memslot);
            s.slots[slot].memory = Memory::Allocated;
            go(s, Bind::HasSlotsLock);
        }),
        Bind::HasSlotsLock if s.fd_open => steps.add(WHO, "fget: has a reference to the file", |s| {
            s.file_refs += 1;
            go(s, Bind::HasFile);
        }),
        Bind::HasSlotsLock => steps.add(WHO, "fget fails: the descriptor is closed", |s| go(s, Bind::Failed)),
        Bind::HasFile if how.is(Change::PublishedEarly) && s.active != Some(slot) => {
            steps.add(WHO, "publishes the slot, which is not bound yet", |s| s.active = Some(slot));
        }
        Bind::HasFile if s.invalidate_lock.is_none() => steps.add(WHO, "takes the invalidate lock", |s| {
            s.invalidate_lock = Some(Thread::Memslot);
            go(s, Bind::HasInvalidateLock);
        }),
        Bind::HasInvalidateLock => steps.add(WHO, "stores pointer and binding", |s| {
            s.use_of(s.gmem, "bind stored into a gmem_file that was freed");
            s.slots[slot].file = true;
            s.binding = Some(slot);
            go(s, Bind::Bound);
        }),
        Bind::Bound => steps.add(WHO, "drops the invalidate lock", |s| {
            s.invalidate_lock = None;
            go(s, Bind::Unlocked);
        }),
        Bind::Unlocked if how.is(Change::SlotPinsFile) => {
            steps.add(WHO, "leaves its reference to the slot", |s| go(s, Bind::Unpublished));
        }
        Bind::Unlocked => steps.add(WHO, "fput: drops its reference to the file", |s| {
            s.put_file();
            go(s, Bind::Unpublished);
        }),
        Bind::Unpublished => steps.add(WHO, "publishes the slot", |s| {
            s.active = Some(slot);
            go(s, Bind::Leave);
        }),
        Bind::Failed => steps.add(WHO, "frees the slot again", |s| {
            s.free_slot(slot);
            go(s, Bind::Leave);
        }),
        Bind::Leave => steps.add(WHO, "drops slots_lock", |s| {
            s.slots_lock = None;
            s.memslot = s.memslot.next();
        }),
        Bind::Begin | Bind::HasFile => {}
    }
}

fn delete(how: &Binding, slot: usize, at: Delete, steps: &mut Steps<'_, State>) {
    const WHO: &str = "delete";
    let s = steps.state();
    let go = move |s: &mut State, at| s.memslot = Memslot::Delete { slot, at };
    let unbind = move |s: &mut State| s.memslot = Memslot::Unbind { slot, at: Unbind::Begin };
    match at {
        Delete::Begin if s.slots_lock.is_none() => steps.add(WHO, "takes slots_lock", |s| {
            s.slots_lock = Some(Thread::Memslot);
            go(s, Delete::HasSlotsLock);
        }),
        Delete::HasSlotsLock if s.active != Some(slot) => {
            steps.add(WHO, "finds no such slot", |s| go(s, Delete::Leave));
        }
        Delete::HasSlotsLock => steps.add(WHO, "takes the slot out of the active set", |s| {
            s.active = None;
            let inside = s.vcpus.map(|vcpu| vcpu.is_inside());
            s.awaited = inside;
            go(s, Delete::TakenOut);
        }),
        Delete::TakenOut if how.is(Change::NoSrcuWait) => steps.add(WHO, "does not wait for kvm->srcu", |s| {
            s.awaited = Default::default();
            unbind(s);
        }),
        Delete::TakenOut if s.awaited.iter().all(|awaited| !awaited) => {
            steps.add(WHO, "synchronize_srcu: all older readers have left", unbind);
        }
        Delete::Leave => steps.add(WHO, "drops slots_lock", |s| {
            s.slots_lock = None;
            s.memslot = s.memslot.next();
        }),
        Delete::Begin | Delete::TakenOut => {}
    }
}

fn unbind(how: &Binding, slot: usize, at: Unbind, steps: &mut Steps<'_, State>) {
    const WHO: &str = "unbind";
    let s = steps.state();
    let go = move |s: &mut State, at| s.memslot = Memslot::Unbind { slot, at };
    let clear = move |s: &mut State| {
        s.use_of(s.file, "unbind followed a pointer to a file that was freed");
        s.use_of(s.gmem, "unbind cleared bindings of a gmem_file that was freed");
        if !s.slots[slot].file {
            s.use_of(Memory::NotYet, "unbind followed a pointer that had become NULL");
        }
        s.binding = None;
        s.slots[slot].file = false;
    };
    match at {
        Unbind::Begin if s.slots[slot].file => {
            steps.add(WHO, "finds slot->gmem.file", |s| go(s, Unbind::HasPointer));
        }
        Unbind::Begin => steps.add(WHO, "finds slot->gmem.file NULL", |s| go(s, Unbind::NoPointer)),
        Unbind::NoPointer => steps.add(WHO, "has nothing to do", |s| go(s, Unbind::Unbound)),
        Unbind::HasPointer if s.file_refs != 0 || how.is(Change::ReferenceUnchecked) => {
            steps.add(WHO, "gets a reference to the file", |s| {
                s.get_file(how);
                go(s, Unbind::HasFile);
            });
        }
        Unbind::HasPointer => steps.add(WHO, refused(s.case()), |s| go(s, Unbind::Refused(s.case()))),
        Unbind::Refused(_) if how.is(Change::NoRefusedBranch) => {
            steps.add(WHO, "gives up and clears nothing", |s| go(s, Unbind::Unbound));
        }
        Unbind::Refused(_) if how.refused_locks => {
            if s.invalidate_lock.is_none() {
                steps.add(WHO, "takes the invalidate lock of the file's mapping", |s| {
                    s.use_of(s.file, "unbind followed a pointer to a file that was freed");
                    s.invalidate_lock = Some(Thread::Memslot);
                    go(s, Unbind::RefusedHasLock);
                });
            }
        }
        Unbind::Refused(_) => steps.add(WHO, "clears binding and pointer without the invalidate lock", |s| {
            clear(s);
            go(s, Unbind::Unbound);
        }),
        Unbind::RefusedHasLock => steps.add(WHO, "clears binding and pointer", |s| {
            clear(s);
            go(s, Unbind::RefusedCleared);
        }),
        Unbind::RefusedCleared => steps.add(WHO, "drops the invalidate lock", |s| {
            s.invalidate_lock = None;
            go(s, Unbind::Unbound);
        }),
        Unbind::HasFile if how.is(Change::UnbindLockless) => {
            steps.add(WHO, "clears binding and pointer without the invalidate lock", |s| {
                clear(s);
                go(s, Unbind::Unlocked);
            });
        }
        Unbind::HasFile if s.invalidate_lock.is_none() => steps.add(WHO, "takes the invalidate lock", |s| {
            s.invalidate_lock = Some(Thread::Memslot);
            go(s, Unbind::HasInvalidateLock);
        }),
        Unbind::HasInvalidateLock => steps.add(WHO, "clears binding and pointer", |s| {
            clear(s);
            go(s, Unbind::Cleared);
        }),
        Unbind::Cleared => steps.add(WHO, "drops the invalidate lock", |s| {
            s.invalidate_lock = None;
            go(s, Unbind::Unlocked);
        }),
        Unbind::Unlocked => steps.add(WHO, "fput: drops its reference to the file", |s| {
            s.put_file();
            if how.is(Change::SlotPinsFile) {
                s.put_file();
            }
            go(s, Unbind::Unbound);
        }),
        Unbind::Unbound => steps.add("delete", "frees the slot, drops slots_lock", |s| {
            s.free_slot(slot);
            s.slots_lock = None;
            s.memslot = s.memslot.next();
        }),
        Unbind::HasFile => {}
    }
}

/// A refusal, by Yan Zhao's case.
pub(super) fn refused(case: Case) -> &'static str {
    match case {
        Case::Soon => "is refused the reference (case 1: release will be called)",
        Case::BeforeLock => "is refused the reference (case 2: release has not got slots_lock)",
        Case::HoldsLock => "is refused the reference (case 3: release holds slots_lock)",
        Case::AfterLock => "is refused the reference (case 4: release has dropped slots_lock)",
        Case::Completed => "is refused the reference (case 5: release has returned)",
    }
}

//! The end of a file: `kvm_gmem_release`, which the last `fput` calls from task work, and what the VFS does after it.

use super::{Binding, Case, Change, Memory, State, Thread};
use crate::protocol::Steps;

/// Where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Release {
    NotCalled,
    Called,
    /// v11's order only.
    HasInvalidateLockOnly,
    HasSlotsLock,
    HasBoth,
    /// Pointers are NULL.
    Severed,
    /// The mapping's list does not name the file any more.
    Delisted,
    InvalidateUnlocked,
    SlotsUnlocked,
    /// Bindings and `gmem_file` are gone.
    Destroyed,
    PutVm,
    /// The VFS has freed the file.
    Done,
}

impl Release {
    /// Yan Zhao's case.
    pub(super) fn case(self) -> Case {
        match self {
            Self::NotCalled => Case::Soon,
            Self::Called | Self::HasInvalidateLockOnly => Case::BeforeLock,
            Self::HasSlotsLock | Self::HasBoth | Self::Severed | Self::Delisted | Self::InvalidateUnlocked => {
                Case::HoldsLock
            }
            Self::SlotsUnlocked | Self::Destroyed | Self::PutVm => Case::AfterLock,
            Self::Done => Case::Completed,
        }
    }

    /// Whether nobody else can find the file's bindings any more.
    pub(super) fn has_delisted(self) -> bool {
        self >= Self::Delisted
    }
}

/// The close of another file on the same inode, which has no bindings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Sibling {
    Absent,
    Open,
    HasFirst,
    HasBoth,
    HasFirstAgain,
    Done,
}

const WHO: &str = "release";

/// What it can do next.
pub(super) fn steps(how: &Binding, steps: &mut Steps<'_, State>) {
    let s = steps.state();
    let v11 = how.is(Change::LockOrderV11);
    let unlocked = how.is(Change::ReleaseUnlocked);
    let slots_lock_free = s.slots_lock.is_none() || unlocked;
    match s.release {
        Release::NotCalled if s.file_refs == 0 => steps.add(WHO, "is called: the last reference is gone", |s| {
            s.use_of(s.vm, "release used a VM that was freed");
            s.release = Release::Called;
        }),
        Release::Called if v11 && s.invalidate_lock.is_none() => steps.add(WHO, "takes the invalidate lock", |s| {
            s.invalidate_lock = Some(Thread::Release);
            s.release = Release::HasInvalidateLockOnly;
        }),
        Release::Called if !v11 && slots_lock_free => {
            let does = if unlocked { "does not take slots_lock" } else { "takes slots_lock" };
            steps.add(WHO, does, |s| {
                s.use_of(s.vm, "release locked a VM that was freed");
                take_slots_lock(s, unlocked);
                s.release = Release::HasSlotsLock;
            });
        }
        Release::HasInvalidateLockOnly if slots_lock_free => steps.add(WHO, "takes slots_lock", |s| {
            take_slots_lock(s, unlocked);
            s.release = Release::HasBoth;
        }),
        Release::HasSlotsLock if s.invalidate_lock.is_none() => steps.add(WHO, "takes the invalidate lock", |s| {
            s.invalidate_lock = Some(Thread::Release);
            s.release = Release::HasBoth;
        }),
        Release::HasBoth if s.binding.is_some() => steps.add(WHO, "sets the bound slot's pointer to NULL", |s| {
            if let Some(slot) = s.binding {
                s.use_of(s.slots[slot].memory, "release wrote to a slot that was freed");
                s.slots[slot].file = false;
            }
            s.release = Release::Severed;
        }),
        Release::HasBoth => steps.add(WHO, "finds nothing bound", |s| s.release = Release::Severed),
        Release::Severed => steps.add(WHO, "zaps what the file maps, and takes itself off the mapping's list", |s| {
            s.release = Release::Delisted;
        }),
        Release::Delisted => steps.add(WHO, "drops the invalidate lock", |s| {
            s.invalidate_lock = None;
            s.release = Release::InvalidateUnlocked;
        }),
        Release::InvalidateUnlocked => steps.add(WHO, "drops slots_lock", |s| {
            if !unlocked {
                s.slots_lock = None;
            }
            s.release = Release::SlotsUnlocked;
        }),
        Release::SlotsUnlocked => steps.add(WHO, "destroys the bindings and frees the gmem_file", |s| {
            s.use_of(s.gmem, "release freed a gmem_file twice");
            s.binding = None;
            s.gmem = Memory::Freed;
            s.release = Release::Destroyed;
        }),
        Release::Destroyed => steps.add(WHO, "drops its reference to the VM", |s| {
            if !how.is(Change::FilePinsNoVm) {
                s.vm_refs -= 1;
            }
            s.release = Release::PutVm;
        }),
        Release::PutVm => steps.add(WHO, "returns; the VFS frees the file", |s| {
            s.file = Memory::Freed;
            s.release = Release::Done;
        }),
        // Counts of that file are its new owner's; here it only has to be one that isn't zero.
        Release::Done if s.file == Memory::Freed => {
            steps.add("somebody", "opens a file and gets the freed one's memory", |s| {
                s.file = Memory::SomebodyElses;
                s.file_refs += 1;
            });
        }
        Release::NotCalled | Release::Called | Release::HasInvalidateLockOnly | Release::HasSlotsLock => {}
        Release::Done => {}
    }
}

fn take_slots_lock(s: &mut State, unlocked: bool) {
    if !unlocked {
        s.slots_lock = Some(Thread::Release);
    }
}

/// What the other file's release can do next: the same two locks, in the same order.
pub(super) fn sibling_steps(how: &Binding, steps: &mut Steps<'_, State>) {
    const WHO: &str = "release of the other file";
    let s = steps.state();
    let v11 = how.is(Change::LockOrderV11);
    let (first_free, second_free) = match v11 {
        true => (s.invalidate_lock.is_none(), s.slots_lock.is_none()),
        false => (s.slots_lock.is_none(), s.invalidate_lock.is_none()),
    };
    let words = |wanted_v11: bool, slots: &'static str, invalidate: &'static str| {
        if v11 == wanted_v11 { invalidate } else { slots }
    };
    match s.sibling {
        Sibling::Open if first_free => {
            steps.add(WHO, words(true, "takes slots_lock", "takes the invalidate lock"), |s| {
                *first(s, v11) = Some(Thread::Sibling);
                s.sibling = Sibling::HasFirst;
            });
        }
        Sibling::HasFirst if second_free => {
            steps.add(WHO, words(false, "takes slots_lock", "takes the invalidate lock"), |s| {
                *first(s, !v11) = Some(Thread::Sibling);
                s.sibling = Sibling::HasBoth;
            });
        }
        Sibling::HasBoth => steps.add(WHO, words(false, "drops slots_lock", "drops the invalidate lock"), |s| {
            *first(s, !v11) = None;
            s.sibling = Sibling::HasFirstAgain;
        }),
        Sibling::HasFirstAgain => {
            steps.add(WHO, words(true, "drops slots_lock", "drops the invalidate lock"), |s| {
                *first(s, v11) = None;
                s.sibling = Sibling::Done;
            });
        }
        Sibling::Absent | Sibling::Done | Sibling::Open | Sibling::HasFirst => {}
    }
}

/// The lock that is the outer one in this order.
fn first(s: &mut State, v11: bool) -> &mut Option<Thread> {
    if v11 { &mut s.invalidate_lock } else { &mut s.slots_lock }
}

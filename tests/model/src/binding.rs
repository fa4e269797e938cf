//! Binding a guest_memfd to memory slots: is `slot->gmem.file` safe without RCU?
//!
//! The mails: `Re: [PATCH 2/2] KVM: guest_memfd: Remove RCU-protected attribute from slot->gmem.file` (Paolo Bonzini,
//! 2024-12-22) says in three points why readers of the pointer need no RCU; `Re: [PATCH] KVM: guest_memfd: Elaborate on
//! how release() vs. get_pfn() is safe against UAF` (Ackerley Tng, 2026-06-03) has Yan Zhao's five cases of what a
//! refused reference can mean, and why only two of them can meet an unbind. The lock order of `[RFC PATCH v11 12/29]
//! KVM: Add KVM_CREATE_GUEST_MEMFD ioctl()` (quoted by Ackerley Tng, 2023-08-07) is a form of this model.
//!
//! Mirrored, by their names in Linux 7.2: `kvm_set_memory_region` with `kvm_gmem_bind` and `kvm_gmem_unbind`
//! (`binding/memslot.rs`), `kvm_gmem_release` (`binding/release.rs`), `kvm_gmem_get_pfn`, `kvm_gmem_populate` and
//! `kvm_gmem_punch_hole` (`binding/readers.rs`).
//!
//! Found on the way: v11's order (invalidate lock, then `slots_lock`) is an inversion, but no deadlock by itself.
//! Whoever takes the invalidate lock inside `slots_lock` has a reference to the file, and that keeps the file's release
//! away. It takes a second file on the inode, or an unbind that takes the lock although it was refused the reference.
//! The latter is what the mail of 2026 weighs, and with the order of Linux 7.2 it is as safe as the mail says.
//!
//! **One step** is one access to what threads share: taking or dropping a lock or a reference, one read or write of the
//! pointer, one use of what it points to. Memory that was freed is never forgotten, so that every later use of it is
//! seen.
//!
//! **Left out, and why that is sound.** One VM, one inode; one file, or two for the lock order; each slot binds the
//! same range, so that the xarray is one entry. A slot goes from the active set in one round; KVM takes two, publishing
//! a copy marked invalid first, whose pointer is NULL: a reader of the copy learns nothing this model lacks.
//! `synchronize_srcu` waits for exactly the readers that were there when it began, the least it promises. No call is
//! under way when the VM's descriptor is closed; vCPUs' descriptors are closed with it. `fput` defers: `release` runs
//! as a thread of its own at any later time, holding nothing, which is what task work amounts to. Pages and mappings
//! are [`crate::mapping`]'s, and the end of the VM is one step because no file is left by then (that is a claim here).
//! **Hidden by it:** memory ordering. The `file_ref` counter's barriers, which the first mail cites, are taken as
//! given.

mod memslot;
mod readers;
mod release;

use crate::protocol::{Claim, Protocol, Steps};
use crate::suite::{Case as Check, Study};

/// A thread that takes locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Thread {
    Memslot,
    Release,
    Sibling,
    Populate,
    Punch,
}

/// Memory from the allocator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Memory {
    NotYet,
    Allocated,
    Freed,
    /// Freed, and somebody else's file since: `struct file` is type-stable, its memory may be reused at once.
    SomebodyElses,
}

/// How far `kvm_gmem_release` has come when a reference is refused: the five cases of Yan Zhao.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Case {
    /// 1: it is to be invoked soon.
    Soon,
    /// 2: it is being invoked, before holding `slots_lock`.
    BeforeLock,
    /// 3: it is being invoked, holding `slots_lock`.
    HoldsLock,
    /// 4: it is being invoked, after releasing `slots_lock`.
    AfterLock,
    /// 5: it has been invoked and completed.
    Completed,
}

const SLOTS: usize = 2;
const VCPUS: usize = 2;

/// `struct kvm_memory_slot`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Slot {
    memory: Memory,
    /// Whether `slot->gmem.file` names the file; NULL if not.
    file: bool,
}

/// Everything shared, and where every thread is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    /// `kvm->slots_lock`.
    slots_lock: Option<Thread>,
    /// The mapping's invalidate lock; one for all files of the inode.
    invalidate_lock: Option<Thread>,
    /// The descriptor table's reference.
    fd_open: bool,
    /// `struct file`, and its count.
    file: Memory,
    file_refs: u8,
    /// `struct gmem_file`, the file's private data.
    gmem: Memory,
    /// Its xarray of bindings: who is bound to the one range.
    binding: Option<usize>,
    slots: [Slot; SLOTS],
    /// The slot that readers under `kvm->srcu` can find.
    active: Option<usize>,
    /// Readers a `synchronize_srcu` still waits for.
    awaited: [bool; VCPUS],
    /// `struct kvm`: one reference is the VM descriptor's, one the guest_memfd file's.
    vm: Memory,
    vm_refs: u8,
    vm_fd_open: bool,

    memslot: memslot::Memslot,
    release: release::Release,
    sibling: release::Sibling,
    vcpus: [readers::Vcpu; VCPUS],
    populate: readers::Populate,
    punch: readers::Punch,

    /// What was done to memory that was not there any more.
    misuse: Option<&'static str>,
}

/// What can be different.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    None,
    /// `kvm_gmem_unbind` returns if the reference is refused, as before commit ae431059e75d.
    NoRefusedBranch,
    /// `kvm_gmem_unbind` never takes the invalidate lock.
    UnbindLockless,
    /// `kvm_gmem_get_file` counts up without looking whether the count was zero.
    ReferenceUnchecked,
    /// `kvm_gmem_get_file` doesn't look at the pointer again once it has the reference.
    PointerReadOnce,
    /// A new slot can be found before it is bound.
    PublishedEarly,
    /// A slot is unbound and freed without a wait for `kvm->srcu`.
    NoSrcuWait,
    /// `kvm_gmem_release` does not take `slots_lock`.
    ReleaseUnlocked,
    /// `kvm_gmem_release` takes the invalidate lock first, as in v11.
    LockOrderV11,
    /// A bound slot keeps its reference to the file, which keeps its reference to the VM.
    SlotPinsFile,
    /// The file does not keep the VM alive.
    FilePinsNoVm,
}

/// The protocol.
#[derive(Debug, Clone, Copy)]
struct Binding {
    change: Change,
    /// Whether a second file on the same inode is being closed.
    second_file: bool,
    /// Whether an unbind that is refused the reference takes the invalidate lock all the same.
    refused_locks: bool,
}

impl Binding {
    const fn with(change: Change) -> Self {
        Self { change, second_file: false, refused_locks: false }
    }

    fn is(&self, change: Change) -> bool {
        self.change == change
    }
}

impl State {
    /// Notes a use of memory that isn't what the user takes it for.
    fn use_of(&mut self, memory: Memory, what: &'static str) {
        if memory != Memory::Allocated && self.misuse.is_none() {
            self.misuse = Some(what);
        }
    }

    /// How far release is.
    fn case(&self) -> Case {
        self.release.case()
    }

    /// `file_ref_get`: counts up unless the count is zero. The unchecked form counts up anyway.
    fn get_file(&mut self, how: &Binding) -> bool {
        let counts = self.file_refs != 0 || how.is(Change::ReferenceUnchecked);
        if counts {
            self.file_refs += 1;
        }
        counts
    }

    fn put_file(&mut self) {
        self.file_refs = self.file_refs.saturating_sub(1);
    }

    /// What `kvm_free_memslot` leaves.
    fn free_slot(&mut self, slot: usize) {
        self.slots[slot].memory = Memory::Freed;
    }

    /// Nobody is inside a call.
    fn users_are_outside(&self) -> bool {
        use readers::{Populate, Punch, Vcpu};
        self.memslot.is_outside()
            && self.vcpus.iter().all(|vcpu| matches!(vcpu, Vcpu::Outside | Vcpu::Done))
            && matches!(self.populate, Populate::Begin | Populate::Done)
            && matches!(self.punch, Punch::Begin | Punch::Done)
            && matches!(self.sibling, release::Sibling::Absent | release::Sibling::Open | release::Sibling::Done)
    }
}

impl Protocol for Binding {
    type State = State;

    fn starts(&self) -> Vec<State> {
        vec![State {
            slots_lock: None,
            invalidate_lock: None,
            fd_open: true,
            file: Memory::Allocated,
            file_refs: 1,
            gmem: Memory::Allocated,
            binding: None,
            slots: [Slot { memory: Memory::NotYet, file: false }; SLOTS],
            active: None,
            awaited: [false; VCPUS],
            vm: Memory::Allocated,
            vm_refs: if self.is(Change::FilePinsNoVm) { 1 } else { 2 },
            vm_fd_open: true,
            memslot: memslot::Memslot::begin(),
            release: release::Release::NotCalled,
            sibling: if self.second_file { release::Sibling::Open } else { release::Sibling::Absent },
            vcpus: [readers::Vcpu::Outside; VCPUS],
            populate: readers::Populate::Begin,
            punch: readers::Punch::Begin,
            misuse: None,
        }]
    }

    fn steps(&self, steps: &mut Steps<'_, State>) {
        let s = steps.state();
        // Past this nothing can be relied on.
        if s.misuse.is_some() {
            return;
        }
        // Of schedules of the same length the one whose steps come first here is shown: descriptors close late.
        //
        // Every call on the VM is made through its descriptor, and is over when that is closed.
        if s.vm_fd_open {
            memslot::steps(self, steps);
            release::sibling_steps(self, steps);
            readers::get_pfn_steps(self, steps);
            readers::populate_steps(self, steps);
            readers::punch_steps(steps);
        }
        release::steps(self, steps);
        if s.fd_open {
            steps.add("close", "closes the guest_memfd's descriptor", |s| {
                s.fd_open = false;
                s.put_file();
            });
        }
        if s.vm_fd_open && s.users_are_outside() {
            steps.add("close", "closes the VM's descriptor", |s| {
                s.vm_fd_open = false;
                s.vm_refs -= 1;
            });
        }
        if s.vm_refs == 0 && s.vm == Memory::Allocated {
            steps.add("VM", "is destroyed: frees the slots it has left, then itself", |s| {
                for slot in 0..SLOTS {
                    if s.slots[slot].memory == Memory::Allocated {
                        if s.slots[slot].file {
                            s.slots[slot].file = false;
                            s.binding = None;
                        }
                        s.free_slot(slot);
                    }
                }
                s.vm = Memory::Freed;
            });
        }
    }

    fn is_over(&self, s: &State) -> bool {
        let released = s.file_refs != 0 || s.release == release::Release::Done;
        let destroyed = s.vm_refs != 0 || s.vm == Memory::Freed;
        s.misuse.is_some() || (s.users_are_outside() && !s.fd_open && !s.vm_fd_open && released && destroyed)
    }
}

/// Whether some reader is where its reference has just been refused, in this case.
fn get_pfn_refused(s: &State, case: Case) -> bool {
    s.vcpus.contains(&readers::Vcpu::Refused(case))
}

fn unbind_refused(s: &State, case: Case) -> bool {
    matches!(s.memslot, memslot::Memslot::Unbind { at: memslot::Unbind::Refused(seen), .. } if seen == case)
}

/// As long as anybody can follow the file's bindings, they name slots that exist; and a slot that exists names no file
/// that is gone.
fn no_dangling_binding(s: &State) -> bool {
    let slot_exists = |slot: usize| s.slots[slot].memory == Memory::Allocated;
    let follows = s.gmem == Memory::Allocated && !s.release.has_delisted();
    let bindings = !follows || s.binding.is_none_or(slot_exists);
    let pointers = s.slots.iter().all(|slot| {
        slot.memory != Memory::Allocated || !slot.file || (s.file == Memory::Allocated && s.gmem == Memory::Allocated)
    });
    bindings && pointers
}

/// Nobody waits for the invalidate lock with `slots_lock` in hand while its holder waits for `slots_lock`.
fn no_circular_wait(how: &Binding, s: &State) -> bool {
    let wants_invalidate = match s.slots_lock {
        Some(Thread::Memslot) => s.memslot.wants_invalidate_lock(how),
        Some(Thread::Populate) => matches!(s.populate, readers::Populate::HasFile(_)),
        Some(Thread::Release) => s.release == release::Release::HasSlotsLock,
        Some(Thread::Sibling) => s.sibling == release::Sibling::HasFirst,
        Some(Thread::Punch) | None => false,
    };
    let wants_slots = match s.invalidate_lock {
        Some(Thread::Release) => s.release == release::Release::HasInvalidateLockOnly,
        Some(Thread::Sibling) => s.sibling == release::Sibling::HasFirst,
        _ => false,
    };
    !(wants_invalidate && wants_slots)
}

const UAF: &str = "no use after free";
const DANGLING: &str = "no dangling binding";
const LEAK: &str = "no leaked reference";
const SEES: &str = "get_pfn finds no pointer only if the file is being closed";
const OUTLIVES: &str = "no file outlives its VM";
const DEADLOCK: &str = "no deadlock";
const CIRCLE: &str = "no circular wait";

type Of = Claim<Binding>;

fn claims() -> Vec<Of> {
    vec![
        Of::always(UAF, |_, s| s.misuse.is_none()),
        Of::always(DANGLING, |_, s| no_dangling_binding(s)),
        Of::at_end(LEAK, |_, s| {
            let freed = |memory| memory != Memory::Allocated;
            s.misuse.is_some()
                || (freed(s.file) && freed(s.gmem) && s.vm_refs == 0 && s.slots.iter().all(|slot| freed(slot.memory)))
        }),
        Of::always(SEES, |_, s| !s.vcpus.contains(&readers::Vcpu::NoPointer) || s.release >= release::Release::Severed),
        Of::always(OUTLIVES, |_, s| s.vm == Memory::Allocated || s.gmem != Memory::Allocated),
        Of::always(CIRCLE, no_circular_wait),
        Of::no_deadlock(),
        Of::sometimes("release finds a slot bound", |_, s| {
            s.release == release::Release::HasBoth && s.binding.is_some()
        }),
        Of::sometimes("get_pfn has somebody else's file for a moment", |_, s| {
            s.vcpus.contains(&readers::Vcpu::WrongFile) && s.file == Memory::SomebodyElses
        }),
        Of::sometimes("unbind clears with the file in hand", |_, s| {
            matches!(s.memslot, memslot::Memslot::Unbind { at: memslot::Unbind::Cleared, .. })
        }),
        Of::sometimes("the range is bound a second time", |_, s| s.binding == Some(1)),
        Of::sometimes("get_pfn is refused in case 1", |_, s| get_pfn_refused(s, Case::Soon)),
        Of::sometimes("get_pfn is refused in case 2", |_, s| get_pfn_refused(s, Case::BeforeLock)),
        Of::sometimes("get_pfn is refused in case 3", |_, s| get_pfn_refused(s, Case::HoldsLock)),
        Of::sometimes("get_pfn is refused in case 4", |_, s| get_pfn_refused(s, Case::AfterLock)),
        Of::sometimes("get_pfn is refused in case 5", |_, s| get_pfn_refused(s, Case::Completed)),
        Of::sometimes("unbind is refused in case 1", |_, s| unbind_refused(s, Case::Soon)),
        Of::sometimes("unbind is refused in case 2", |_, s| unbind_refused(s, Case::BeforeLock)),
        Of::always("unbind is never refused in case 3", |_, s| !unbind_refused(s, Case::HoldsLock)),
        Of::always("unbind is never refused in case 4", |_, s| !unbind_refused(s, Case::AfterLock)),
        Of::always("unbind is never refused in case 5", |_, s| !unbind_refused(s, Case::Completed)),
        Of::always("unbind finds no pointer only after release dropped slots_lock", |_, s| {
            !matches!(s.memslot, memslot::Memslot::Unbind { at: memslot::Unbind::NoPointer, .. })
                || s.case() >= Case::AfterLock
        }),
    ]
}

/// What is checked of this model.
pub fn cases() -> Vec<Check> {
    let sound = Binding::with(Change::None);
    let v11 = Binding::with(Change::LockOrderV11);
    let refused_v11 = Binding { refused_locks: true, ..v11 };
    Study::of("binding", claims())
        .sound(&sound)
        .variation("two files on the inode", &Binding { second_file: true, ..sound })
        .variation("refused unbind takes the invalidate lock", &Binding { refused_locks: true, ..sound })
        .variation("v11's lock order, one file on the inode", &v11)
        .mutant("v11's lock order, two files on the inode", &Binding { second_file: true, ..v11 }, &[CIRCLE, DEADLOCK])
        .mutant("v11's lock order, refused unbind takes the invalidate lock", &refused_v11, &[CIRCLE, DEADLOCK])
        .mutant("unbind gives up when refused", &Binding::with(Change::NoRefusedBranch), &[UAF, DANGLING])
        .mutant("unbind without the invalidate lock", &Binding::with(Change::UnbindLockless), &[UAF])
        .mutant("reference taken from zero", &Binding::with(Change::ReferenceUnchecked), &[UAF])
        .mutant("pointer not looked at again", &Binding::with(Change::PointerReadOnce), &[UAF])
        .mutant("slot published before it is bound", &Binding::with(Change::PublishedEarly), &[SEES])
        .mutant("slot freed before the SRCU wait", &Binding::with(Change::NoSrcuWait), &[UAF, SEES])
        .mutant(
            "release without slots_lock",
            &Binding::with(Change::ReleaseUnlocked),
            &[
                UAF,
                "unbind is never refused in case 3",
                "unbind is never refused in case 4",
                "unbind is never refused in case 5",
            ],
        )
        .mutant("slot pins file, file pins VM", &Binding::with(Change::SlotPinsFile), &[LEAK])
        .mutant("file does not pin VM", &Binding::with(Change::FilePinsNoVm), &[UAF, OUTLIVES])
        .cases()
}

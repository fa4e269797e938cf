//! Those who follow pointers: `kvm_gmem_get_pfn` under `kvm->srcu`, `kvm_gmem_populate` under `slots_lock`, and
//! `kvm_gmem_punch_hole`, which follows the bindings from the other end, under the invalidate lock.

use super::memslot::refused;
use super::{Binding, Case, Change, State, Thread};
use crate::protocol::Steps;

/// Where a vCPU is in its fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Vcpu {
    Outside,
    Inside,
    HasSlot(usize),
    /// Has found NULL in a slot.
    NoPointer,
    HasPointer(usize),
    Refused(Case),
    HasReference(usize),
    /// The pointer still names the file: the reference is one to the right file.
    HasFile(usize),
    Used,
    /// The reference turned out to be one to somebody else's file.
    WrongFile,
    Leave,
    Done,
}

impl Vcpu {
    /// Whether it is between `srcu_read_lock` and `srcu_read_unlock`.
    pub(super) fn is_inside(self) -> bool {
        !matches!(self, Self::Outside | Self::Done)
    }
}

/// What each vCPU can do next.
pub(super) fn get_pfn_steps(how: &Binding, steps: &mut Steps<'_, State>) {
    const WHO: [&str; super::VCPUS] = ["get_pfn on vCPU 0", "get_pfn on vCPU 1"];
    let s = steps.state();
    for (cpu, vcpu) in s.vcpus.iter().enumerate() {
        let who = WHO[cpu];
        let go = move |s: &mut State, to| s.vcpus[cpu] = to;
        match *vcpu {
            Vcpu::Outside => steps.add(who, "srcu_read_lock", |s| go(s, Vcpu::Inside)),
            Vcpu::Inside => match s.active {
                Some(slot) => steps.add(who, "finds the slot", |s| go(s, Vcpu::HasSlot(slot))),
                None => steps.add(who, "finds no slot", |s| go(s, Vcpu::Leave)),
            },
            Vcpu::HasSlot(slot) => {
                let read = |s: &mut State| s.use_of(s.slots[slot].memory, "get_pfn read a slot that was freed");
                if s.slots[slot].file {
                    steps.add(who, "reads slot->gmem.file", |s| {
                        read(s);
                        go(s, Vcpu::HasPointer(slot));
                    });
                } else {
                    steps.add(who, "reads slot->gmem.file, which is NULL", |s| {
                        read(s);
                        go(s, Vcpu::NoPointer);
                    });
                }
            }
            Vcpu::HasPointer(slot) if s.file_refs != 0 || how.is(Change::ReferenceUnchecked) => {
                steps.add(who, "gets a reference to the file", |s| {
                    s.get_file(how);
                    let second_look = !how.is(Change::PointerReadOnce);
                    go(s, if second_look { Vcpu::HasReference(slot) } else { Vcpu::HasFile(slot) });
                });
            }
            Vcpu::HasPointer(_) => steps.add(who, refused(s.case()), |s| go(s, Vcpu::Refused(s.case()))),
            Vcpu::NoPointer | Vcpu::Refused(_) => steps.add(who, "gives up: EFAULT", |s| go(s, Vcpu::Leave)),
            Vcpu::HasReference(slot) => {
                let read = |s: &mut State| s.use_of(s.slots[slot].memory, "get_pfn read a slot that was freed");
                let same = s.slots[slot].file;
                let does = if same { "finds the pointer unchanged" } else { "finds the pointer changed" };
                steps.add(who, does, |s| {
                    read(s);
                    go(s, if same { Vcpu::HasFile(slot) } else { Vcpu::WrongFile });
                });
            }
            Vcpu::WrongFile => steps.add(who, "fput: drops that reference", |s| {
                s.put_file();
                go(s, Vcpu::Leave);
            }),
            Vcpu::HasFile(slot) => steps.add(who, "looks the page up in the file", |s| {
                s.use_of(s.file, "get_pfn used a file that was not the one it looked for any more");
                s.use_of(s.gmem, "get_pfn used a gmem_file that was freed");
                s.use_of(s.slots[slot].memory, "get_pfn read a slot that was freed");
                go(s, Vcpu::Used);
            }),
            Vcpu::Used => steps.add(who, "fput: drops its reference to the file", |s| {
                s.put_file();
                go(s, Vcpu::Leave);
            }),
            Vcpu::Leave => steps.add(who, "srcu_read_unlock", |s| {
                s.awaited[cpu] = false;
                go(s, Vcpu::Done);
            }),
            Vcpu::Done => {}
        }
    }
}

/// Where `kvm_gmem_populate` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Populate {
    Begin,
    HasSlotsLock,
    HasPointer(usize),
    HasFile(usize),
    HasInvalidateLock(usize),
    Used,
    Unlocked,
    Leave,
    Done,
}

/// What it can do next.
pub(super) fn populate_steps(how: &Binding, steps: &mut Steps<'_, State>) {
    const WHO: &str = "populate";
    let s = steps.state();
    let go = |s: &mut State, to| s.populate = to;
    match s.populate {
        Populate::Begin if s.slots_lock.is_none() => steps.add(WHO, "takes slots_lock", |s| {
            s.slots_lock = Some(Thread::Populate);
            go(s, Populate::HasSlotsLock);
        }),
        Populate::HasSlotsLock => match s.active.filter(|slot| s.slots[*slot].file) {
            Some(slot) => steps.add(WHO, "reads slot->gmem.file", |s| {
                s.use_of(s.slots[slot].memory, "populate read a slot that was freed");
                go(s, Populate::HasPointer(slot));
            }),
            None => steps.add(WHO, "finds no slot, or no file in it", |s| go(s, Populate::Leave)),
        },
        Populate::HasPointer(slot) if s.file_refs != 0 || how.is(Change::ReferenceUnchecked) => {
            steps.add(WHO, "gets a reference to the file", |s| {
                s.get_file(how);
                go(s, Populate::HasFile(slot));
            });
        }
        Populate::HasPointer(_) => steps.add(WHO, refused(s.case()), |s| go(s, Populate::Leave)),
        Populate::HasFile(slot) if s.invalidate_lock.is_none() => steps.add(WHO, "takes the invalidate lock", |s| {
            s.invalidate_lock = Some(Thread::Populate);
            go(s, Populate::HasInvalidateLock(slot));
        }),
        Populate::HasInvalidateLock(slot) => steps.add(WHO, "puts contents into a page of the file", |s| {
            s.use_of(s.file, "populate used a file that was freed");
            s.use_of(s.gmem, "populate used a gmem_file that was freed");
            s.use_of(s.slots[slot].memory, "populate read a slot that was freed");
            go(s, Populate::Used);
        }),
        Populate::Used => steps.add(WHO, "drops the invalidate lock", |s| {
            s.invalidate_lock = None;
            go(s, Populate::Unlocked);
        }),
        Populate::Unlocked => steps.add(WHO, "fput: drops its reference to the file", |s| {
            s.put_file();
            go(s, Populate::Leave);
        }),
        Populate::Leave => steps.add(WHO, "drops slots_lock", |s| {
            s.slots_lock = None;
            go(s, Populate::Done);
        }),
        Populate::Begin | Populate::HasFile(_) | Populate::Done => {}
    }
}

/// Where `kvm_gmem_punch_hole` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Punch {
    Begin,
    HasFile,
    HasInvalidateLock,
    Follows(usize),
    Zapped,
    Unlocked,
    Done,
}

/// What it can do next.
pub(super) fn punch_steps(steps: &mut Steps<'_, State>) {
    const WHO: &str = "punch_hole";
    let s = steps.state();
    let go = |s: &mut State, to| s.punch = to;
    match s.punch {
        Punch::Begin if s.fd_open => steps.add(WHO, "fget: has a reference to the file", |s| {
            s.file_refs += 1;
            go(s, Punch::HasFile);
        }),
        Punch::Begin => steps.add(WHO, "fget fails: the descriptor is closed", |s| go(s, Punch::Done)),
        Punch::HasFile if s.invalidate_lock.is_none() => steps.add(WHO, "takes the invalidate lock", |s| {
            s.invalidate_lock = Some(Thread::Punch);
            go(s, Punch::HasInvalidateLock);
        }),
        Punch::HasInvalidateLock => match s.binding {
            Some(slot) => steps.add(WHO, "finds a binding", |s| {
                s.use_of(s.gmem, "punch_hole used a gmem_file that was freed");
                go(s, Punch::Follows(slot));
            }),
            None => steps.add(WHO, "finds nothing bound", |s| {
                s.use_of(s.gmem, "punch_hole used a gmem_file that was freed");
                go(s, Punch::Zapped);
            }),
        },
        Punch::Follows(slot) => steps.add(WHO, "zaps what the bound slot maps", |s| {
            s.use_of(s.slots[slot].memory, "punch_hole used a slot that was freed");
            go(s, Punch::Zapped);
        }),
        Punch::Zapped => steps.add(WHO, "drops the invalidate lock", |s| {
            s.invalidate_lock = None;
            go(s, Punch::Unlocked);
        }),
        Punch::Unlocked => steps.add(WHO, "fput: drops its reference to the file", |s| {
            s.put_file();
            go(s, Punch::Done);
        }),
        Punch::HasFile | Punch::Done => {}
    }
}

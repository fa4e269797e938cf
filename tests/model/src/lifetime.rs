//! Whose is a guest_memfd, and since when: bind at creation against bind at memslot.
//!
//! The mails: `Re: [RFC PATCH v11 12/29] KVM: Add KVM_CREATE_GUEST_MEMFD ioctl() for guest-specific backing memory`,
//! Ackerley Tng (2023-08-07) with the proposal that a memory slot should take a reference to the file, so that the file
//! belongs to a VM only while it is bound, and Sean Christopherson's answer (2023-08-09) with three ways to keep one
//! VM's memory from another, and why none of them is good enough. [`crate::document`] makes a table of what is found
//! here.
//!
//! Mirrored: `kvm_gmem_create`, `kvm_gmem_bind`, `kvm_gmem_unbind`, `kvm_gmem_release`, `kvm_destroy_vm`, the eviction
//! of the inode with `kvm_gmem_free_folio`, `kvm_gmem_prepare_folio` (SNP: `sev_gmem_prepare`), allocation and
//! recycling of ASIDs, and the adding, blocking and removing of Secure EPT leaves. The proposal's own code is not
//! mirrored, only its rules of ownership.
//!
//! **One step** is one system call of the VMM, one access of a guest, or one of the pieces in which the kernel ends a
//! file or a VM. The VMM is hostile: it may do anything at any time that descriptors and the design allow.
//!
//! **Left out, and why that is sound.** Two VMs, A whose memory it is and B that comes later; one file with one page;
//! two ASIDs. Races inside a call are [`crate::binding`]'s. Every design gets the best kernel it could have: a VM that
//! ends unbinds its slots before it frees its key; a free of pages at an unbind is over when the unbind is.
//! **Hidden by it:** what firmware and TDX module would refuse. A reuse of an ASID that KVM allows counts as one here,
//! whatever `SNP_ACTIVATE` may say to it.

mod steps;

use crate::protocol::{Claim, Protocol, Steps};
use crate::runner::{Exploration, explore};
use crate::suite::{Case, Expected, Form, Study};

/// How a file comes to belong to a VM, and what becomes of its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Design {
    /// Bound at creation, the file pins the VM: Linux 7.2.
    Creation,
    /// The same kernel, and a VMM that closes the file before its VM.
    CreationClosedFirst,
    /// Bound at creation, and the file's reference to the VM is dropped after the pages are freed: no kernel yet.
    CreationPagesFirst,
    /// A slot takes a reference to the file; the first slot decides the VM, the last one's end undecides it.
    Memslot,
    /// (a): the same, but once decided it stays so.
    NeverAnother,
    /// (b): pages are freed with the last slot.
    FreeAtUnbind,
    /// (c): pages are freed when a slot of another VM is bound.
    FreeAtForeignBind,
    /// Ours to compare: (a), and the VM frees the pages of its files before its key.
    FreeAtVmEnd,
}

impl Design {
    /// All, in the table's order.
    pub const ALL: [Self; 8] = [
        Self::Creation,
        Self::CreationClosedFirst,
        Self::CreationPagesFirst,
        Self::Memslot,
        Self::NeverAnother,
        Self::FreeAtUnbind,
        Self::FreeAtForeignBind,
        Self::FreeAtVmEnd,
    ];

    /// As the table has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Creation => "at creation (Linux 7.2)",
            Self::CreationClosedFirst => "at creation, file closed before VM",
            Self::CreationPagesFirst => "at creation, pages freed before the VM is put",
            Self::Memslot => "at memslot, bare",
            Self::NeverAnother => "at memslot, (a) never another VM",
            Self::FreeAtUnbind => "at memslot, (b) free at unbind",
            Self::FreeAtForeignBind => "at memslot, (c) free at foreign bind",
            Self::FreeAtVmEnd => "at memslot, (a) and free when the VM ends",
        }
    }

    const fn binds_at_creation(self) -> bool {
        matches!(self, Self::Creation | Self::CreationClosedFirst | Self::CreationPagesFirst)
    }
}

/// What makes memory private.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Technology {
    /// Nothing but KVM: `KVM_X86_SW_PROTECTED_VM`.
    Plain,
    /// An RMP entry names the ASID of a page's owner.
    Snp,
    /// A slot's end takes its pages out of the Secure EPT, as in Linux 7.2; contents are lost with that.
    TdxRemoving,
    /// A slot's end only blocks them: they stay the TD's, contents and all. No kernel does that.
    TdxDeferred,
}

impl Technology {
    /// All, in the table's order.
    pub const ALL: [Self; 4] = [Self::Plain, Self::Snp, Self::TdxRemoving, Self::TdxDeferred];

    /// As the table has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Snp => "SNP",
            Self::TdxRemoving => "TDX",
            Self::TdxDeferred => "deferred TDX",
        }
    }

    const fn is_tdx(self) -> bool {
        matches!(self, Self::TdxRemoving | Self::TdxDeferred)
    }
}

/// What a design should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Property {
    /// No page of VM A is readable in VM B.
    Private,
    /// No page is mapped into a VM while it is assigned to another one's key.
    RightKey,
    /// No ASID is given to a VM while the RMP names it as another one's.
    FreshAsid,
    /// No page is left to a TD that is gone, where nobody could reclaim it.
    Reclaimable,
    /// What a guest wrote is there after its slot was deleted and created again.
    Survives,
    /// Memory that nothing names any more is free.
    Released,
    /// A VM ends when its descriptors are closed.
    VmEnds,
    /// Closing the file takes no memory from a VM that has it in a slot.
    SlotKeeps,
}

impl Property {
    /// All, in the table's order.
    pub const ALL: [Self; 8] = [
        Self::Private,
        Self::RightKey,
        Self::FreshAsid,
        Self::Reclaimable,
        Self::Survives,
        Self::Released,
        Self::VmEnds,
        Self::SlotKeeps,
    ];

    /// As the claim has it.
    pub const fn name(self) -> &'static str {
        self.claim().name
    }

    /// Whether the question makes sense for this technology.
    pub const fn applies_to(self, technology: Technology) -> bool {
        match self {
            Self::RightKey => !matches!(technology, Technology::Plain),
            Self::FreshAsid => matches!(technology, Technology::Snp),
            Self::Reclaimable => technology.is_tdx(),
            Self::Private | Self::Survives | Self::Released | Self::VmEnds | Self::SlotKeeps => true,
        }
    }

    const fn claim(self) -> Claim<Lifetime> {
        match self {
            Self::Private => Claim::always("no page of VM A is readable in VM B", |_, s: &State| !s.seen.leak),
            Self::RightKey => {
                Claim::always("no page is mapped under another VM's key", |_, s: &State| !s.seen.wrong_key)
            }
            Self::FreshAsid => {
                Claim::always("no ASID is reused while the RMP names it", |_, s: &State| !s.seen.reused_asid)
            }
            Self::Reclaimable => Claim::always("no page is left to a TD that is gone", |_, s: &State| {
                s.page.and_then(|page| page.owner).is_none_or(|owner| s.vms[owner.index()].life != Life::Destroyed)
            }),
            Self::Survives => {
                Claim::always("contents survive deleting and recreating a slot", |_, s: &State| !s.seen.loss)
            }
            Self::Released => Claim::always("memory that nothing names is free", |_, s: &State| {
                s.file != File::Gone || s.page.is_none()
            }),
            Self::VmEnds => Claim::always("a VM ends with its descriptors", |protocol, s: &State| {
                let closed = |vm: &Vm| !vm.fd_open && !matches!(vm.life, Life::NotYet | Life::Destroyed);
                protocol.has_work(s) || !s.vms.iter().any(closed)
            }),
            Self::SlotKeeps => Claim::always("closing the file takes nothing from a VM", |_, s: &State| !s.seen.taken),
        }
    }
}

/// A virtual machine, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Who {
    A,
    B,
}

impl Who {
    const BOTH: [Self; 2] = [Self::A, Self::B];

    const fn index(self) -> usize {
        match self {
            Self::A => 0,
            Self::B => 1,
        }
    }

    const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Life {
    NotYet,
    Alive,
    /// Its slots are unbound, its key is still its own.
    Unbound,
    Destroyed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Vm {
    life: Life,
    fd_open: bool,
    /// Index of its ASID.
    asid: usize,
    slot: Slot,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Slot {
    Absent,
    Bound,
    /// The file was closed under it.
    Severed,
}

/// The file's life after its last reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum File {
    Open,
    /// `kvm_gmem_release` has severed the slots.
    Severed,
    /// It has dropped its reference to the VM; the pages are still there.
    VmPut,
    /// The pages are freed, the reference to the VM is still there.
    Emptied,
    Gone,
}

/// The page of the file, while there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Page {
    /// Whose data it holds.
    written_by: Option<Who>,
    /// Whose ASID the RMP names, or in whose Secure EPT it is.
    owner: Option<Who>,
}

/// What cannot be undone once it was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Seen {
    leak: bool,
    wrong_key: bool,
    reused_asid: bool,
    loss: bool,
    taken: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    vms: [Vm; 2],
    fd_open: bool,
    file: File,
    /// The file's VM.
    belongs_to: Option<Who>,
    /// The last one it had.
    belonged_to: Option<Who>,
    page: Option<Page>,
    /// Guest A may count on finding what it wrote.
    a_counts_on_it: bool,
    seen: Seen,
}

/// One cell's worth of it.
#[derive(Debug, Clone, Copy)]
struct Lifetime {
    design: Design,
    technology: Technology,
}

impl State {
    fn vm(&mut self, who: Who) -> &mut Vm {
        &mut self.vms[who.index()]
    }
}

impl Lifetime {
    /// Whether the file keeps VM A alive.
    fn file_pins_vm(&self, s: &State) -> bool {
        self.design.binds_at_creation() && !matches!(s.file, File::VmPut | File::Gone)
    }

    /// Whether nothing keeps this VM alive any more.
    fn is_unreferenced(&self, s: &State, who: Who) -> bool {
        let is_pinned = who == Who::A && self.file_pins_vm(s);
        !s.vms[who.index()].fd_open && !is_pinned
    }

    /// Whether nothing keeps the file open any more.
    fn is_file_unreferenced(&self, s: &State) -> bool {
        let bound = s.vms.iter().any(|vm| vm.slot == Slot::Bound);
        !s.fd_open && (self.design.binds_at_creation() || !bound)
    }

    /// Whether the kernel is in the middle of something.
    fn has_work(&self, s: &State) -> bool {
        let dying = |who: &Who| {
            let life = s.vms[who.index()].life;
            matches!(life, Life::Alive | Life::Unbound) && self.is_unreferenced(s, *who)
        };
        Who::BOTH.iter().any(dying) || (self.is_file_unreferenced(s) && s.file != File::Gone)
    }
}

impl Protocol for Lifetime {
    type State = State;

    fn starts(&self) -> Vec<State> {
        let vm = |life, fd_open| Vm { life, fd_open, asid: 0, slot: Slot::Absent };
        vec![State {
            vms: [vm(Life::Alive, true), vm(Life::NotYet, false)],
            fd_open: true,
            file: File::Open,
            belongs_to: self.design.binds_at_creation().then_some(Who::A),
            belonged_to: None,
            page: None,
            a_counts_on_it: false,
            seen: Seen::default(),
        }]
    }

    fn steps(&self, steps: &mut Steps<'_, State>) {
        // Of schedules of the same length the one whose steps come first here is shown.
        self.guest_steps(steps);
        self.vmm_steps(steps);
        self.vm_steps(steps);
        self.file_steps(steps);
        self.create_b(steps);
    }

    fn is_over(&self, s: &State) -> bool {
        !s.fd_open && s.vms.iter().all(|vm| !vm.fd_open) && !self.has_work(s)
    }
}

/// One cell of the table.
#[derive(Debug, Clone)]
pub struct Cell {
    /// The row.
    pub design: Design,
    /// For what.
    pub technology: Technology,
    /// The column.
    pub property: Property,
    /// What was found: with a schedule the design lacks the property.
    pub exploration: Exploration,
}

/// Every cell in which the question makes sense.
pub fn cells() -> Vec<Cell> {
    let of = |(design, technology, property): (Design, Technology, Property)| {
        let exploration = explore(&Lifetime { design, technology }, &[property.claim()]);
        Cell { design, technology, property, exploration }
    };
    questions().map(of).collect()
}

fn questions() -> impl Iterator<Item = (Design, Technology, Property)> {
    let with_technology = |design| Technology::ALL.into_iter().map(move |technology| (design, technology));
    Design::ALL.into_iter().flat_map(with_technology).flat_map(|(design, technology)| {
        let asked = Property::ALL.into_iter().filter(move |property| property.applies_to(technology));
        asked.map(move |property| (design, technology, property))
    })
}

/// What is checked of this model: every cell, and that nobody waits for ever in any design.
pub fn cases() -> Vec<Case> {
    let mut study = Study::of("lifetime", Vec::new());
    for design in Design::ALL {
        for technology in Technology::ALL {
            let form = || Form::Design(format!("{}, {}", design.name(), technology.name()));
            let protocol = Lifetime { design, technology };
            study.push(form(), &protocol, vec![Claim::no_deadlock()], Expected::Holds);
            for property in Property::ALL.into_iter().filter(|property| property.applies_to(technology)) {
                study.push(form(), &protocol, vec![property.claim()], Expected::Recorded);
            }
        }
    }
    study.cases()
}

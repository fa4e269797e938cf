//! In which order descriptors and mappings of a VM are closed, by the VMM or because it dies.
//!
//! Where it comes from: in `Re: [RFC PATCH v11 12/29] KVM: Add KVM_CREATE_GUEST_MEMFD ioctl()` (2023-08-09) Sean
//! Christopherson says that RMP entries must not outlive the VM, and that anything created in the scope of a VM should
//! pin it. In Linux 7.2 a guest_memfd does pin its VM, yet `kvm_gmem_release` drops that reference before the VFS
//! evicts the inode. If it was the last one, the VM is destroyed and its ASID free while the RMP still names it for the
//! file's pages. The kernel does not exclude that; an order of closing does. Law *pages-before-key*.
//!
//! Mirrored: `kvm_gmem_release`, `kvm_put_kvm`, `kvm_destroy_vm`, `kvm_gmem_free_folio`; for a process that dies
//! `exit_mm`, `close_files` and `task_work_run`; of our own code `gmem_kvm::teardown`, whose order is taken from its
//! type [`Closing`], and the move of the descriptor in `gmem/kvm/src/kvm/gmem_fd.rs`.
//!
//! **One step** is one system call, one release of one descriptor or mapping by a dying process, or one of the two
//! pieces in which the kernel ends a file.
//!
//! **Left out, and why that is sound.** `close` of a last reference runs release and eviction before it returns, and a
//! dying process runs its releases one after the other, so nothing of the same process comes between the two pieces. A
//! dying process goes through its descriptors upward and queues their releases; the queue is run newest first: the
//! highest descriptor is released first. Mappings go when the last thread or onlooker gives the address space up: here
//! at any moment of the dying. Slots pin nothing, so deleting them is a step without effect. Pages exist from when the
//! guest runs until their file is evicted: that the guest may have touched none only helps.
//! **Hidden by it:** whether somebody really takes the ASID in that moment; [`crate::lifetime`] has the VM that does.

mod ours;

use gmem_kvm::teardown::Closing;

use crate::protocol::{Claim, Protocol, Steps};
use crate::runner::{Schedule, count_endings, explore};
use crate::suite::{Case, Expected, Form, Study};

/// What a process holds of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Handle {
    Vm,
    Vcpu,
    /// The mapping of the vCPU's `kvm_run`.
    KvmRun,
    /// A mapping of the guest_memfd.
    GmemMapping,
    /// A second guest_memfd.
    SecondGmem,
    /// The descriptor as the kernel installed it, before it was moved.
    FirstGmem,
    /// A child's copy of that.
    Inherited,
    Gmem,
}

impl Handle {
    const ALL: [Self; 8] = [
        Self::Vm,
        Self::Vcpu,
        Self::KvmRun,
        Self::GmemMapping,
        Self::SecondGmem,
        Self::FirstGmem,
        Self::Inherited,
        Self::Gmem,
    ];

    const fn index(self) -> usize {
        self as usize
    }

    const fn is_mapping(self) -> bool {
        matches!(self, Self::KvmRun | Self::GmemMapping)
    }

    /// The guest_memfd it refers to, by number.
    const fn file(self) -> Option<usize> {
        match self {
            Self::Gmem | Self::GmemMapping | Self::FirstGmem | Self::Inherited => Some(0),
            Self::SecondGmem => Some(1),
            Self::Vm | Self::Vcpu | Self::KvmRun => None,
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Vm => "the VM's descriptor",
            Self::Vcpu => "the vCPU's descriptor",
            Self::KvmRun => "the mapping of kvm_run",
            Self::Gmem => "the guest_memfd",
            Self::SecondGmem => "the second guest_memfd",
            Self::GmemMapping => "the mapping of the guest_memfd",
            Self::FirstGmem => "the guest_memfd's first descriptor",
            Self::Inherited => "the inherited descriptor",
        }
    }
}

/// A guest_memfd's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum File {
    Absent,
    Open,
    /// The last reference is gone; nothing has been done about it.
    Released,
    /// The reference to the VM is dropped, the pages are there.
    VmPut,
    /// The pages are freed, the reference to the VM is there.
    Emptied,
    Gone,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    open: [bool; Handle::ALL.len()],
    /// Descriptor numbers; those of mappings mean nothing.
    number: [u8; Handle::ALL.len()],
    files: [File; 2],
    /// Whether the RMP has entries for the file's pages.
    pages: [bool; 2],
    key_is_free: bool,
    is_dying: bool,
    /// How far our own plan is.
    done: usize,
    /// What was given up last.
    last: Option<Handle>,
    /// The RMP named a free ASID at some moment.
    named: bool,
}

impl State {
    fn with(held: &[(Handle, u8)]) -> Self {
        let mut state = Self {
            open: [false; Handle::ALL.len()],
            number: [0; Handle::ALL.len()],
            files: [File::Absent; 2],
            pages: [false; 2],
            key_is_free: false,
            is_dying: false,
            done: 0,
            last: None,
            named: false,
        };
        held.iter().for_each(|(handle, number)| state.get(*handle, *number));
        state
    }

    fn has(&self, handle: Handle) -> bool {
        self.open[handle.index()]
    }

    fn get(&mut self, handle: Handle, number: u8) {
        self.open[handle.index()] = true;
        self.number[handle.index()] = number;
        if let Some(file) = handle.file() {
            self.files[file] = File::Open;
        }
    }

    fn held(&self) -> impl Iterator<Item = Handle> + '_ {
        Handle::ALL.into_iter().filter(|handle| self.has(*handle))
    }

    /// The file the kernel is in the middle of ending.
    fn file_under_way(&self) -> Option<usize> {
        self.files.iter().position(|file| matches!(file, File::Released | File::VmPut | File::Emptied))
    }

    /// Drops one reference, and notes what goes with the last ones.
    fn drop_handle(&mut self, handle: Handle) {
        self.open[handle.index()] = false;
        self.last = Some(handle);
        if let Some(file) = handle.file()
            && !self.held().any(|other| other.file() == Some(file))
        {
            self.files[file] = File::Released;
        }
        self.settle();
    }

    /// Destroys the VM if nothing refers to it.
    fn settle(&mut self) {
        let pins = |file: &File| matches!(file, File::Open | File::Released | File::Emptied);
        let is_pinned = [Handle::Vm, Handle::Vcpu, Handle::KvmRun].iter().any(|handle| self.has(*handle))
            || self.files.iter().any(pins);
        self.key_is_free |= !is_pinned;
        self.named |= self.key_is_free && self.pages.contains(&true);
    }
}

/// The kernel's order in ending a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kernel {
    /// Linux 7.2: the reference to the VM first.
    VmFirst,
    /// Pages first: no kernel yet.
    PagesFirst,
}

/// Who closes what when.
#[derive(Debug, Clone)]
enum Plan {
    /// The VMM closes what it holds in any order.
    AnyOrder,
    /// The same, once it has punched all pages out of its files.
    PunchesFirst,
    /// It dies at once, with descriptors numbered in any way.
    Dies,
    /// It closes in any order, and may die at any moment.
    AnyOrderDies,
    /// What `tenure` does from the creation of a VM on, dying at any moment.
    Ours(ours::Ours),
}

/// The protocol.
#[derive(Debug, Clone)]
struct Orders {
    plan: Plan,
    kernel: Kernel,
}

impl Orders {
    fn ours(change: ours::Change) -> Self {
        Self { plan: Plan::Ours(ours::Ours::new(change)), kernel: Kernel::VmFirst }
    }

    fn any(plan: Plan) -> Self {
        Self { plan, kernel: Kernel::VmFirst }
    }

    fn with_pages_first(plan: Plan) -> Self {
        Self { plan, kernel: Kernel::PagesFirst }
    }

    fn end_file(&self, file: usize, steps: &mut Steps<'_, State>) {
        const WHO: &str = "kernel";
        let s = steps.state();
        let put = |then: File| {
            move |s: &mut State| {
                s.files[file] = then;
                s.settle();
            }
        };
        let evict = |then: File| {
            move |s: &mut State| {
                s.files[file] = then;
                s.pages[file] = false;
                s.settle();
            }
        };
        let put_words = {
            let mut after = s.clone();
            put(File::VmPut)(&mut after);
            let last = after.key_is_free && !s.key_is_free;
            if last {
                "release drops the last reference to the VM: its ASID is free"
            } else {
                "release drops its reference to the VM"
            }
        };
        let evict_words =
            if s.pages[file] { "frees the file's pages, resets their RMP entries" } else { "evicts the inode" };
        match (s.files[file], self.kernel) {
            (File::Released, Kernel::VmFirst) => steps.add(WHO, put_words, put(File::VmPut)),
            (File::VmPut, _) => steps.add(WHO, evict_words, evict(File::Gone)),
            (File::Released, Kernel::PagesFirst) => steps.add(WHO, evict_words, evict(File::Emptied)),
            (File::Emptied, _) => steps.add(WHO, put_words, put(File::Gone)),
            (File::Absent | File::Open | File::Gone, _) => {}
        }
    }

    /// A dying process: its highest descriptor next, and a mapping at any time.
    fn die(steps: &mut Steps<'_, State>) {
        let s = steps.state();
        let own = || s.held().filter(|handle| *handle != Handle::Inherited);
        let highest = own().filter(|handle| !handle.is_mapping()).max_by_key(|handle| s.number[handle.index()]);
        for handle in own().filter(|handle| handle.is_mapping()).chain(highest) {
            let number = s.number[handle.index()];
            let does = match handle.is_mapping() {
                true => format!("drops {}", handle.words()),
                false => format!("closes descriptor {number}, {}", handle.words()),
            };
            steps.add("dying process", does, |s| s.drop_handle(handle));
        }
    }
}

impl Protocol for Orders {
    type State = State;

    fn starts(&self) -> Vec<State> {
        use Handle::{Gmem, GmemMapping, KvmRun, SecondGmem, Vcpu, Vm};
        let mappings = [(KvmRun, 0), (GmemMapping, 0)];
        let numbered = |order: Vec<Handle>| {
            let numbered = (3..).zip(order).map(|(number, handle)| (handle, number));
            State { pages: [true; 2], ..State::with(&numbered.chain(mappings).collect::<Vec<_>>()) }
        };
        let in_any_way = || permutations([Vm, Vcpu, Gmem, SecondGmem]).into_iter().map(numbered);
        let in_one_way = || numbered(vec![Vm, Vcpu, Gmem, SecondGmem]);
        match &self.plan {
            Plan::AnyOrder => vec![in_one_way()],
            Plan::PunchesFirst => vec![State { pages: [false; 2], ..in_one_way() }],
            Plan::Dies => in_any_way().map(|start| State { is_dying: true, ..start }).collect(),
            Plan::AnyOrderDies => in_any_way().collect(),
            Plan::Ours(_) => vec![State::with(&[])],
        }
    }

    fn steps(&self, steps: &mut Steps<'_, State>) {
        let s = steps.state();
        if let Some(file) = s.file_under_way() {
            return self.end_file(file, steps);
        }
        if s.has(Handle::Inherited) && !s.has(Handle::FirstGmem) {
            steps.add("child", "exits: closes the inherited descriptor", |s| s.drop_handle(Handle::Inherited));
        }
        if s.is_dying {
            return Self::die(steps);
        }
        match &self.plan {
            Plan::AnyOrder | Plan::PunchesFirst | Plan::AnyOrderDies => {
                for handle in s.held() {
                    let does = if handle.is_mapping() { "undoes" } else { "closes" };
                    steps.add("VMM", format!("{does} {}", handle.words()), |s| s.drop_handle(handle));
                }
                if matches!(self.plan, Plan::AnyOrderDies) && s.held().next().is_some() {
                    steps.add("VMM", "dies", |s| s.is_dying = true);
                }
            }
            Plan::Dies => {}
            Plan::Ours(ours) => ours.steps(steps),
        }
    }

    fn is_over(&self, s: &State) -> bool {
        let ended = match &self.plan {
            Plan::Ours(ours) => s.is_dying || ours.is_over(s),
            Plan::AnyOrder | Plan::PunchesFirst | Plan::Dies | Plan::AnyOrderDies => true,
        };
        ended && s.held().next().is_none() && s.file_under_way().is_none()
    }

    fn describe_start(&self, start: &State) -> Option<String> {
        let mut held: Vec<_> = start.held().filter(|handle| !handle.is_mapping()).collect();
        held.sort_by_key(|handle| start.number[handle.index()]);
        let numbered = held.iter().map(|handle| format!("{} is {}", handle.words(), start.number[handle.index()]));
        let numbered: Vec<_> = numbered.collect();
        matches!(self.plan, Plan::Dies | Plan::AnyOrderDies).then(|| numbered.join(", "))
    }
}

fn permutations<const N: usize>(items: [Handle; N]) -> Vec<Vec<Handle>> {
    let mut all: Vec<Vec<Handle>> = vec![Vec::new()];
    for _ in 0..N {
        let longer = all.into_iter().flat_map(|taken| {
            let left: Vec<_> = items.into_iter().filter(|item| !taken.contains(item)).collect();
            left.into_iter().map(move |next| taken.iter().copied().chain([next]).collect())
        });
        all = longer.collect();
    }
    all
}

/// The law.
const NAMED: &str = "pages-before-key: the RMP never names a free ASID";

fn claims() -> Vec<Claim<Orders>> {
    type Of = Claim<Orders>;
    vec![
        Of::always(NAMED, |_, s| !s.named),
        Of::at_end("in the end everything is free", |_, s| {
            let free = s.key_is_free && !s.pages.contains(&true);
            free || s.files[0] == File::Absent
        }),
        Of::no_deadlock(),
        Of::sometimes("a dying process frees the pages itself", |_, s| s.is_dying && s.files[0] == File::Released),
    ]
}

/// Which orders Linux 7.2 needs to be spared.
const RULE: Claim<Orders> =
    Claim::at_end("an order is bad exactly if a guest_memfd, or a mapping of one, goes last", {
        |_, s: &State| s.named == s.last.is_some_and(|handle| handle.file().is_some())
    });

/// What is checked of this model.
pub fn cases() -> Vec<Case> {
    use ours::Change;
    let mut study = Study::of("closing", claims())
        .sound(&Orders::ours(Change::None))
        .variation("any order, pages freed before the VM is put", &Orders::with_pages_first(Plan::AnyOrder))
        .variation(
            "any order and death, pages freed before the VM is put",
            &Orders::with_pages_first(Plan::AnyOrderDies),
        )
        .variation("any order, pages punched out first", &Orders::any(Plan::PunchesFirst))
        .mutant("any order", &Orders::any(Plan::AnyOrder), &[NAMED])
        .mutant("any numbering, dies", &Orders::any(Plan::Dies), &[NAMED])
        .mutant("VM closed first", &Orders::ours(Change::VmFirst), &[NAMED])
        .mutant("guest_memfd numbered below the VM", &Orders::ours(Change::NotMoved), &[NAMED])
        .mutant("a child inherits the descriptor", &Orders::ours(Change::Inherited), &[NAMED])
        .mutant("a mapping of the guest_memfd is forgotten", &Orders::ours(Change::ForgottenMapping), &[NAMED]);
    let all = Orders::any(Plan::AnyOrderDies);
    study.push(Form::Variation("any order and death"), &all, vec![RULE], Expected::Holds);
    study.cases()
}

/// How many orders are good, and how many bad.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Count {
    /// Orders of what.
    pub of: &'static str,
    /// Those in which the RMP never names a free ASID.
    pub good: u64,
    /// Those in which it does for a moment.
    pub bad: u64,
}

/// Counts orders, in Linux 7.2's kernel if nothing else is said.
pub fn counts() -> Vec<Count> {
    let count = |of, orders: &Orders| {
        let endings = count_endings(orders, |s| s.named);
        let ways = |named| endings.get(&named).copied().unwrap_or(0);
        Count { of, good: ways(false), bad: ways(true) }
    };
    vec![
        count(
            "orders of closing the VM, a vCPU, its kvm_run mapping, two guest_memfds and a mapping of one",
            &Orders::any(Plan::AnyOrder),
        ),
        count(
            "deaths of a process that holds these, by numbering of descriptors and moment the mappings go",
            &Orders::any(Plan::Dies),
        ),
        count(
            "orders of closing them, by numbering, with a death at any moment or none",
            &Orders::any(Plan::AnyOrderDies),
        ),
        count(
            "the same, had the kernel freed pages before it puts the VM",
            &Orders::with_pages_first(Plan::AnyOrderDies),
        ),
        count(
            "ways through the life of a VM of tenure's, with a death at any moment or none",
            &Orders::ours(ours::Change::None),
        ),
    ]
}

/// A shortest order in which Linux 7.2's RMP names a free ASID.
pub fn shortest_bad_order() -> Option<Schedule> {
    let law = claims().into_iter().find(|claim| claim.name == NAMED)?;
    explore(&Orders::any(Plan::AnyOrder), &[law]).schedule
}

/// The order of the law, as `gmem_kvm::teardown` declares it.
fn order_of_teardown() -> Vec<Closing> {
    let mut order = vec![Closing::Vm, Closing::Vcpus(1), Closing::GuestMemfd, Closing::Slot(0), Closing::VcpusStopped];
    order.sort();
    order
}

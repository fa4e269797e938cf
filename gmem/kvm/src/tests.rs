//! Tests of the laws on a kernel in memory, one file for each law, and what they share.

mod known_owner;
mod no_silent_trust;
mod no_stale_copy;
mod pages_before_key;
mod same_rules;
mod shared_only;

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use gmem::launch::{Contents, PageKind, Plan, PlannedRegion, Vcpus};
use gmem::layout::RamLayout;
use gmem::ledger::{Owner, PageState};
use gmem::vcpu::VcpuState;
use gmem::{ByteLen, Gfn, GfnRange, PAGE_SIZE, PageCount};
use rustix::fs::SeekFrom;

use crate::port::{CallError, VmType};
use crate::testing::fake::{Call, FakeKernel, FakeVcpu, FakeVm, Record};
use crate::testing::fault::{Faults, PortCall};
use crate::testing::faulty::Faulty;
use crate::vm::{Launching, Sealed, Vm, VmHandle};

/// The least RAM there can be: 4096 pages.
const SMALL: ByteLen = ByteLen(16 << 20);
/// RAM in two runs: 2 GiB and, from 4 GiB on, 1 GiB.
const SPLIT: ByteLen = ByteLen(3 << 30);

fn range(start: u64, pages: u64) -> GfnRange {
    GfnRange::new(Gfn::new(start).unwrap(), PageCount::new(pages)).unwrap()
}

fn frame(number: u64) -> Gfn {
    Gfn::new(number).unwrap()
}

/// A launched VM on a kernel of its own.
struct Rig {
    kernel: FakeKernel,
    faults: Arc<Faults>,
    vm: Vm<TestVm, Sealed>,
    vcpus: Vec<TestVcpu>,
}

type TestVm = Faulty<FakeVm>;
type TestVcpu = Faulty<FakeVcpu>;

impl Rig {
    fn new() -> Self {
        Self::with_ram(SMALL)
    }

    fn with_ram(ram: ByteLen) -> Self {
        let (kernel, faults) = (FakeKernel::default(), Arc::<Faults>::default());
        let mut vm = created(&kernel, &faults, ram);
        let mut vcpus = Vec::new();
        launch_steps().iter().for_each(|step| step(&mut vm, &mut vcpus).unwrap());
        Self { kernel, faults, vm: vm.seal().unwrap(), vcpus }
    }

    /// A closed gate that every call of this kind comes to before it takes effect.
    fn gate_before(&self, call: PortCall) -> Gate {
        let gate = Gate::default();
        let hook_gate = gate.clone();
        self.kernel.before(call, move |_| hook_gate.pass());
        gate
    }

    fn id(&self) -> u32 {
        self.vm.core.vm.inner().id()
    }

    fn handle(&self) -> VmHandle<TestVm> {
        self.vm.handle()
    }

    fn state(&self, gfn: u64) -> PageState {
        self.vm.ledger().state(frame(gfn)).unwrap()
    }

    fn convert(&self, range: GfnRange, owner: Owner) {
        self.handle().convert(range, owner).unwrap();
    }

    fn guest_write(&self, gfn: u64, value: u64) {
        self.kernel.guest_write(self.id(), gfn, value).unwrap();
    }

    fn guest_read(&self, gfn: u64) -> u64 {
        self.kernel.guest_read(self.id(), gfn).unwrap()
    }

    /// Whether shared memory holds anything for a frame, whoever owns it.
    fn has_shared_copy(&self, gfn: u64) -> bool {
        self.vm.core.ram.iter().any(|region| {
            let Some(inside) = region.range().intersection(range(gfn, 1)) else { return false };
            let offset = (inside.start().number() - region.range().start().number()) * PAGE_SIZE;
            rustix::fs::seek(region.file(), SeekFrom::Data(offset)) == Ok(offset)
        })
    }

    /// known-owner and no-stale-copy at a quiescent point: for `frames`, the ledger says what the kernel was told, and
    /// the side that doesn't own a page has no copy of it.
    fn assert_agrees(&self, frames: GfnRange) {
        let private = self.kernel.private_frames(self.id());
        for gfn in frames.frames().map(Gfn::number) {
            match self.state(gfn) {
                PageState::Shared => {
                    assert!(!private.contains(gfn), "ledger: {gfn:#x} shared, kernel: private");
                    assert!(!self.kernel.has_private_copy(self.id(), gfn), "{gfn:#x} is shared with a private copy");
                }
                PageState::PrivateUntouched | PageState::PrivatePopulated => {
                    assert!(private.contains(gfn), "ledger: {gfn:#x} private, kernel: shared");
                    assert!(!self.has_shared_copy(gfn), "{gfn:#x} is private with a shared copy");
                }
                other => panic!("{gfn:#x} is {other} at a quiescent point"),
            }
        }
    }

    fn owner_calls(&self) -> Vec<Record> {
        let record = self.kernel.record();
        record.into_iter().filter(|record| record.call.kind() == Some(PortCall::SetOwner)).collect()
    }
}

type Step = fn(&mut Vm<TestVm, Launching>, &mut Vec<TestVcpu>) -> Result<(), crate::vm::LaunchError>;

/// What a launch does after creation, in order.
fn launch_steps() -> Vec<Step> {
    let add_vcpu: Step = |vm, vcpus| {
        vcpus.push(vm.add_vcpu()?);
        Ok(())
    };
    vec![
        |vm, _| vm.add_ram(),
        |vm, _| vm.mark_ram_private(),
        |vm, _| vm.enable_conversion_requests(),
        |vm, _| vm.stage(&plan(*vm.ledger().ram())),
        |vm, _| vm.trap_msrs(&[0xc001_0131]),
        |vm, _| vm.create_interrupt_controller(),
        add_vcpu,
        add_vcpu,
    ]
}

fn created(kernel: &FakeKernel, faults: &Arc<Faults>, ram: ByteLen) -> Vm<TestVm, Launching> {
    Vm::create(&Faulty::new(kernel.clone(), Arc::clone(faults)), VmType::SwProtected, RamLayout::new(ram).unwrap())
        .unwrap()
}

/// One staged region above RAM.
fn plan(ram: RamLayout) -> Plan {
    let mut plan = Plan::new(ram, Vcpus { count: 2, boot: VcpuState::LONG_MODE, application: None });
    let range = ram.staging(PageCount::new(2), 40).unwrap();
    let contents = Contents::new(vec![0x5a; 5000]);
    plan.push(PlannedRegion { range, kind: PageKind::Staged, label: "test".to_owned(), contents }).unwrap();
    plan
}

/// Far longer than anything takes; only what never happens reaches it.
const NEVER: Duration = Duration::from_secs(30);

/// A door that threads wait at until a test opens it.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<GateState>, Condvar)>);

#[derive(Default)]
struct GateState {
    open: bool,
    arrived: usize,
}

impl Gate {
    fn pass(&self) {
        self.0.0.lock().unwrap().arrived += 1;
        self.wait_until(|state| state.open);
    }

    fn open(&self) {
        self.0.0.lock().unwrap().open = true;
        self.0.1.notify_all();
    }

    /// Returns once so many threads have come to the door.
    fn wait_for_arrivals(&self, count: usize) {
        self.wait_until(|state| state.arrived >= count);
    }

    fn wait_until(&self, condition: impl Fn(&GateState) -> bool) {
        let (state, changed) = &*self.0;
        changed.notify_all();
        let waited = changed.wait_timeout_while(state.lock().unwrap(), NEVER, |state| !condition(state)).unwrap();
        assert!(!waited.1.timed_out(), "this never happens");
    }
}

/// Returns once `condition` holds.
fn wait_until(mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < NEVER, "this never happens");
        std::thread::yield_now();
    }
}

fn position(record: &[Record], wanted: impl Fn(&Call) -> bool) -> Option<usize> {
    record.iter().position(|record| wanted(&record.call))
}

/// The errno behind a failed launch step.
fn errno_of(error: &CallError) -> i32 {
    error.errno
}

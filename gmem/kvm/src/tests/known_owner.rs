//! Law *known-owner*: the ledger says who may own each page, as the kernel was told.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use gmem::ledger::{Owner, PageState};
use gmem::{Gfn, GfnRange};
use proptest::prelude::*;
use vm_memory::{GuestAddress, GuestMemory, Permissions};

use super::{Rig, SMALL, created, range};
use crate::convert::{ConvertError, Fate};
use crate::testing::fake::errno::{EAGAIN, EINTR, EINVAL, EIO, ENOMEM};
use crate::testing::fake::{Call, FakeKernel, Frames, Record};
use crate::testing::fault::{Effect, PortCall};

/// The frames the random conversions are about: around several boundaries between pieces of 2 MiB.
const FRAMES: (u64, u64) = (440, 1400);

type Requests = Vec<(GfnRange, Owner)>;

fn owners() -> impl Strategy<Value = Owner> {
    prop_oneof![Just(Owner::Shared), Just(Owner::Private)]
}

/// What one thread asks for: mostly a few pages, sometimes several pieces.
fn requests() -> impl Strategy<Value = Requests> {
    let pages = prop_oneof![4 => 1..40u64, 1 => 40..1000u64];
    let request = (FRAMES.0..FRAMES.0 + 400, pages, owners());
    prop::collection::vec(request.prop_map(|(start, pages, owner)| (range(start, pages), owner)), 1..8)
}

/// What the kernel was told, followed frame by frame from the call record alone.
struct Told {
    private: Frames,
    /// How often each frame changed.
    changes: BTreeMap<u64, u64>,
}

impl Told {
    fn follow(&mut self, record: &[Record]) {
        for entry in record.iter().filter(|entry| entry.errno.is_none()) {
            let Call::SetOwner { range, owner } = &entry.call else { continue };
            for gfn in range.frames().map(Gfn::number) {
                let frame = super::range(gfn, 1);
                let changed = match owner {
                    Owner::Private => self.private.insert(frame),
                    Owner::Shared => self.private.remove(frame),
                };
                *self.changes.entry(gfn).or_default() += changed;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Several threads convert at random. Whenever they rest, the ledger agrees with the kernel's own attributes, only
    /// the owner has a copy, pages that changed hands are empty, and those that didn't hold what they held. The numbers
    /// reported add up to what the kernel was told.
    #[test]
    fn known_owner_ledger_and_kernel_agree(rounds in prop::collection::vec(prop::collection::vec(requests(), 3), 1..4)) {
        let rig = Rig::new();
        let all = range(FRAMES.0, FRAMES.1);
        let mut told = Told { private: Frames::default(), changes: BTreeMap::new() };
        told.follow(&rig.kernel.record());
        prop_assert_eq!(told.private.len(), 4096);
        for (number, threads) in (1u64..).zip(rounds) {
            let stamp = |gfn: u64| (number << 32) | gfn;
            all.frames().for_each(|gfn| rig.guest_write(gfn.number(), stamp(gfn.number())));
            let seen = rig.kernel.record().len();
            let reported: u64 = thread::scope(|scope| {
                let run = |requests: Requests| {
                    let handle = rig.handle();
                    move || -> u64 {
                        requests.iter().map(|(range, owner)| {
                            let converted = handle.convert(*range, *owner).unwrap();
                            assert_eq!(converted.changed.get() + converted.already.get(), range.pages().get());
                            converted.changed.get()
                        }).sum()
                    }
                };
                let threads: Vec<_> = threads.into_iter().map(|requests| scope.spawn(run(requests))).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).sum()
            });
            told.changes.clear();
            told.follow(&rig.kernel.record()[seen..]);
            prop_assert_eq!(reported, told.changes.values().sum::<u64>());
            prop_assert_eq!(&told.private, &rig.kernel.private_frames(rig.id()));
            rig.assert_agrees(all);
            for gfn in all.frames().map(Gfn::number) {
                let changed = told.changes.get(&gfn).is_some_and(|changes| *changes != 0);
                prop_assert_eq!(rig.guest_read(gfn), if changed { 0 } else { stamp(gfn) }, "frame {:#x}", gfn);
            }
        }
        let census = rig.vm.ledger().census();
        prop_assert_eq!(census.private().get(), told.private.len());
        prop_assert!(rig.vm.teardown(rig.vcpus).is_clean());
    }

    /// Calls fail at random. What the kernel certainly did not do is undone, what nobody knows is in doubt and stays so,
    /// and a page is never taken for one that has no copy when it has.
    #[test]
    fn known_owner_survives_failing_calls(
        requests in requests(),
        faults in prop::collection::vec((prop_oneof![Just(PortCall::SetOwner), Just(PortCall::Discard)], 1..6u64, fault()), 0..6),
    ) {
        let rig = Rig::new();
        for (kind, nth, (errno, effect)) in &faults {
            // A kernel that says EIO, ENOMEM or EINVAL has done nothing; a punched hole that failed was not punched.
            let effect = if *kind == PortCall::Discard { Effect::Nothing } else { *effect };
            rig.faults.fail(*kind, *nth, *errno, effect);
        }
        let all = range(FRAMES.0, FRAMES.1);
        let mut doubtful = BTreeSet::new();
        for (request, owner) in requests {
            let before: BTreeMap<_, _> = request.frames().map(|gfn| (gfn, rig.state(gfn.number()))).collect();
            let result = rig.handle().convert(request, owner);
            if let Err(ConvertError::Kernel { range, fate, source, done }) = &result {
                prop_assert!(request.start().number() + done.get() <= range.start().number());
                for gfn in request.frames().take(usize::try_from(done.get()).unwrap()) {
                    prop_assert_eq!(owner_of(rig.state(gfn.number())), Some(owner));
                }
                let nothing_done = [EIO, ENOMEM, EINVAL].contains(&source.errno);
                prop_assert_eq!(*fate, if nothing_done { Fate::AsBefore } else { Fate::InDoubt });
                for gfn in range.frames() {
                    let after = rig.state(gfn.number());
                    if nothing_done || owner_of(before[&gfn]) == Some(owner) {
                        prop_assert_eq!(after, before[&gfn]);
                    } else {
                        prop_assert_eq!(after, PageState::InDoubt);
                        doubtful.insert(gfn);
                    }
                }
            }
            for gfn in &doubtful {
                prop_assert_eq!(rig.state(gfn.number()), PageState::InDoubt);
            }
            for gfn in all.frames().filter(|gfn| !doubtful.contains(gfn)).map(Gfn::number) {
                let private = rig.kernel.is_private(rig.id(), gfn);
                let expected = if private { Owner::Private } else { Owner::Shared };
                prop_assert_eq!(owner_of(rig.state(gfn)), Some(expected), "frame {:#x}", gfn);
            }
        }
        rig.faults.heal();
        let (kernel, doubts) = (rig.kernel.clone(), doubtful.len() as u64);
        let receipt = rig.vm.teardown(rig.vcpus);
        prop_assert_eq!(receipt.pages.in_doubt.get(), doubts);
        prop_assert_eq!(receipt.is_clean(), doubts == 0);
        prop_assert!(kernel.is_empty());
    }
}

fn fault() -> impl Strategy<Value = (i32, Effect)> {
    let harmless = prop_oneof![Just(ENOMEM), Just(EINVAL), Just(EIO)].prop_map(|errno| (errno, Effect::Nothing));
    let unknown = (prop_oneof![Just(EINTR), Just(EAGAIN)], prop_oneof![Just(Effect::Nothing), Just(Effect::Done)]);
    prop_oneof![harmless, unknown]
}

fn owner_of(state: PageState) -> Option<Owner> {
    match state {
        PageState::Shared => Some(Owner::Shared),
        PageState::PrivateUntouched | PageState::PrivatePopulated => Some(Owner::Private),
        _ => None,
    }
}

/// An errno that proves nothing leaves the pages in doubt, whether the kernel did its part or not; only teardown ends it.
#[test]
fn known_owner_unknown_outcome_is_in_doubt_until_teardown() {
    for effect in [Effect::Nothing, Effect::Done] {
        for (from, to) in [(Owner::Private, Owner::Shared), (Owner::Shared, Owner::Private)] {
            let rig = Rig::new();
            rig.convert(range(0x500, 4), from);
            rig.faults.fail(PortCall::SetOwner, 1, EINTR, effect);
            let discards = |kernel: &FakeKernel| {
                kernel.record().iter().filter(|entry| entry.call.kind() == Some(PortCall::Discard)).count()
            };
            let before = discards(&rig.kernel);
            assert!(matches!(rig.handle().convert(range(0x501, 2), to), Err(ConvertError::Kernel { .. })));
            assert_eq!(discards(&rig.kernel), before, "nobody knows which copy is the stale one");
            let told = rig.owner_calls().len();
            // Nobody may rely on them: neither a conversion, of them alone or with others, nor the host.
            for request in [range(0x501, 1), range(0x500, 4), range(0, 4096)] {
                for owner in [Owner::Shared, Owner::Private] {
                    let refused = rig.handle().convert(request, owner);
                    assert!(matches!(refused, Err(ConvertError::Refused(_))), "{request} to {owner}: {refused:?}");
                }
            }
            assert_eq!(rig.owner_calls().len(), told, "a refused request must not be carried out in part");
            let handle = rig.handle();
            assert!(!handle.shared().enter().check_range(GuestAddress(0x50_1000), 1, Permissions::Read));
            // Their neighbours are as they were.
            for gfn in [0x500, 0x503] {
                assert_eq!(owner_of(rig.state(gfn)), Some(from));
            }
            rig.convert(range(0x503, 1), from.other());
            let kernel = rig.kernel.clone();
            let receipt = rig.vm.teardown(rig.vcpus);
            assert_eq!(receipt.pages.in_doubt.get(), 2);
            assert!(!receipt.is_clean());
            assert!(kernel.is_empty());
        }
    }
}

/// A thread that dies in the middle of a conversion leaves doubt about its pages only, and nobody else is stopped.
#[test]
fn known_owner_a_panic_leaves_doubt() {
    let rig = Rig::new();
    rig.kernel.before(PortCall::SetOwner, |call| {
        if let Call::SetOwner { range: asked, .. } = call {
            assert!(!asked.contains(Gfn::new(0x700).unwrap()), "as planned");
        }
    });
    let handle = rig.handle();
    catch_unwind(AssertUnwindSafe(|| handle.convert(range(0x700, 2), Owner::Shared))).unwrap_err();
    assert_eq!([rig.state(0x700), rig.state(0x701)], [PageState::InDoubt; 2]);
    rig.convert(range(0x702, 1), Owner::Shared);
    rig.convert(range(0x6ff, 1), Owner::Shared);
    let receipt = rig.vm.teardown(rig.vcpus);
    assert_eq!(receipt.pages.in_doubt.get(), 2);
    assert!(receipt.pages_before_key());
}

/// Marking RAM private tells the kernel what the ledger says, also if a page was given away before.
#[test]
fn known_owner_marking_follows_the_ledger() {
    let kernel = FakeKernel::default();
    let mut vm = created(&kernel, &Arc::default(), SMALL);
    vm.add_ram().unwrap();
    vm.handle().convert(range(0x100, 3), Owner::Shared).unwrap();
    vm.mark_ram_private().unwrap();
    let private = kernel.private_frames(vm.core.vm.inner().id());
    for gfn in 0..4096 {
        assert_eq!(private.contains(gfn), !(0x100..0x103).contains(&gfn), "{gfn:#x}");
        assert_eq!(
            owner_of(vm.ledger().state(Gfn::new(gfn).unwrap()).unwrap()) == Some(Owner::Private),
            private.contains(gfn)
        );
    }
}

/// What has that owner already is no change, and the kernel isn't bothered.
#[test]
fn known_owner_no_change_is_no_call() {
    let rig = Rig::new();
    rig.convert(range(0x100, 8), Owner::Shared);
    let told = rig.owner_calls().len();
    rig.guest_write(0x104, 9);
    rig.convert(range(0x100, 8), Owner::Shared);
    rig.convert(range(0x200, 4), Owner::Private);
    assert_eq!(rig.owner_calls().len(), told);
    assert_eq!(rig.guest_read(0x104), 9);
    // Mixed: only what changes loses its contents.
    let converted = rig.handle().convert(range(0xfe, 12), Owner::Shared).unwrap();
    assert_eq!((converted.changed.get(), converted.already.get()), (4, 8));
    assert_eq!(rig.guest_read(0x104), 9);
}

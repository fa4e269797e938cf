//! Law *no-stale-copy*: a conversion leaves one copy.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use gmem::ledger::{Owner, PageState};
use gmem::{GfnRange, PageCount};
use vm_memory::{Bytes, GuestAddress, GuestMemory, Permissions};

use super::{Rig, position, range, wait_until};
use crate::convert::{ConvertError, Converted};
use crate::testing::fake::Call;
use crate::testing::fake::errno::{EAGAIN, EIO, ENOMEM};
use crate::testing::fault::{Effect, PortCall};

/// Keep out, drain, attribute, discard: what is true when the kernel is told, both ways.
#[test]
fn no_stale_copy_order_to_private() {
    let rig = Rig::new();
    let page = range(0x300, 1);
    rig.convert(page, Owner::Shared);
    rig.guest_write(0x300, 7);
    let (handle, region) = (rig.handle(), Arc::clone(&rig.vm.core.ram[0]));
    let seen = Arc::new(AtomicU64::new(0));
    let hook_seen = Arc::clone(&seen);
    rig.kernel.before(PortCall::SetOwner, move |_| {
        // Keep-out comes before the attribute.
        let guard = handle.shared().enter();
        assert!(!guard.check_range(GuestAddress(0x30_0000), 1, Permissions::Read));
        // The discard comes after it: what was shared is still there.
        let mut value = [0; 8];
        rustix::io::pread(region.file(), &mut value, 0x30_0000).unwrap();
        hook_seen.store(u64::from_ne_bytes(value), Ordering::SeqCst);
    });
    rig.convert(page, Owner::Private);
    assert_eq!(seen.load(Ordering::SeqCst), 7);
    assert!(!rig.has_shared_copy(0x300));
    assert_eq!(rig.guest_read(0x300), 0);
}

#[test]
fn no_stale_copy_order_to_shared() {
    let rig = Rig::new();
    rig.guest_write(0x300, 7);
    let handle = rig.handle();
    let refused = move |_: &Call| {
        let guard = handle.shared().enter();
        assert!(!guard.check_range(GuestAddress(0x30_0000), 1, Permissions::Read));
    };
    // Keep-out holds from before the attribute until after the discard.
    rig.kernel.before(PortCall::SetOwner, refused.clone());
    rig.kernel.before(PortCall::Discard, refused);
    rig.convert(range(0x300, 1), Owner::Shared);
    let record = rig.kernel.record();
    let told = position(&record, |call| matches!(call, Call::SetOwner { owner: Owner::Shared, .. })).unwrap();
    let discarded = position(&record, |call| *call == Call::Discard { first: 0x300, pages: 1 }).unwrap();
    assert!(told < discarded);
    assert_eq!(rig.guest_read(0x300), 0);
    rig.assert_agrees(range(0x2ff, 3));
}

/// Draining: an access under way when the conversion began is over before the kernel is told.
#[test]
fn no_stale_copy_drains_before_the_attribute() {
    let rig = Rig::new();
    let page = range(0x300, 1);
    rig.convert(page, Owner::Shared);
    let (view, handle) = (rig.handle(), rig.handle());
    let guard = view.shared().enter();
    thread::scope(|scope| {
        let converter = scope.spawn(|| handle.convert(page, Owner::Private));
        wait_until(|| rig.state(0x300) == PageState::ConvertingToPrivate);
        // The older guard's access still lands, and is not lost silently: it is over before the page changes hands.
        rig.kernel.note("guard leaves");
        drop(guard);
        converter.join().unwrap().unwrap();
    });
    let record = rig.kernel.record();
    let left = position(&record, |call| *call == Call::Note("guard leaves")).unwrap();
    let told = record.iter().rposition(|entry| entry.call.kind() == Some(PortCall::SetOwner)).unwrap();
    assert!(left < told, "the kernel was told while an older access was under way");
}

/// Before the attribute a failure is an abort with nothing lost.
#[test]
fn no_stale_copy_abort_loses_nothing() {
    let rig = Rig::new();
    rig.convert(range(0x200, 1), Owner::Shared);
    for (gfn, from, to) in [(0x200, Owner::Shared, Owner::Private), (0x201, Owner::Private, Owner::Shared)] {
        rig.guest_write(gfn, 0xabcd);
        let before = rig.kernel.record().len();
        rig.faults.fail(PortCall::SetOwner, 1, ENOMEM, Effect::Nothing);
        let error = rig.handle().convert(range(gfn, 1), to).unwrap_err();
        assert!(matches!(&error, ConvertError::Kernel { source, .. } if source.errno == ENOMEM), "{error}");
        assert_eq!(rig.guest_read(gfn), 0xabcd, "lost by a failed conversion from {from}");
        assert!(!rig.kernel.record()[before..].iter().any(|entry| entry.call.kind() == Some(PortCall::Discard)));
        rig.assert_agrees(range(gfn, 1));
        // Nothing stands in the way of another try.
        rig.convert(range(gfn, 1), to);
        assert_eq!(rig.guest_read(gfn), 0);
    }
}

/// A failed discard of the private side: a debt, which keeps the page from going back, is paid with the next request.
#[test]
fn no_stale_copy_failed_private_discard_is_a_debt() {
    let rig = Rig::new();
    rig.guest_write(0x300, 0x5ec_1e7);
    rig.faults.fail_always(PortCall::Discard, EIO);
    let converted = rig.handle().convert(range(0x300, 1), Owner::Shared).unwrap();
    assert_eq!((converted.changed.get(), converted.owed.get()), (1, 1));
    assert_eq!(rig.state(0x300), PageState::Shared);
    assert_eq!(rig.guest_read(0x300), 0, "the new owner starts with nothing");
    assert!(rig.kernel.has_private_copy(rig.id(), 0x300));

    // Not even as part of a request that begins far away, and then not at all.
    let told = rig.owner_calls().len();
    for refused in [range(0x300, 1), range(0x100, 0x800)] {
        let error = rig.handle().convert(refused, Owner::Private).unwrap_err();
        assert!(matches!(&error, ConvertError::Owed(debt) if debt.range == range(0x300, 1)), "{error}");
    }
    assert_eq!(rig.owner_calls().len(), told);
    assert_eq!(rig.state(0x300), PageState::Shared);

    // Whoever asks for anything pays.
    rig.faults.heal();
    rig.convert(range(0x400, 1), Owner::Shared);
    assert!(!rig.kernel.has_private_copy(rig.id(), 0x300));
    rig.convert(range(0x300, 1), Owner::Private);
    assert_eq!(rig.guest_read(0x300), 0, "the old private copy came back to life");
    assert!(rig.vm.teardown(rig.vcpus).is_clean());
}

/// The same for the shared side.
#[test]
fn no_stale_copy_failed_shared_discard_is_a_debt() {
    let rig = Rig::new();
    rig.convert(range(0x300, 1), Owner::Shared);
    rig.guest_write(0x300, 0xdead);
    let broken = UndiscardableFile::take(rig.vm.core.ram[0].file());
    rig.convert(range(0x300, 1), Owner::Private);
    assert_eq!(rig.guest_read(0x300), 0);
    assert!(rig.has_shared_copy(0x300));
    let error = rig.handle().convert(range(0x300, 1), Owner::Shared).unwrap_err();
    assert!(matches!(&error, ConvertError::Owed(debt) if debt.side == Owner::Shared), "{error}");
    broken.give_back();
    rig.convert(range(0x300, 1), Owner::Shared);
    assert_eq!(rig.guest_read(0x300), 0, "the old shared copy came back to life");
    rig.assert_agrees(range(0x2ff, 3));
}

/// A debt nobody could pay is on the receipt, and the teardown is not called clean.
#[test]
fn no_stale_copy_debts_are_on_the_receipt() {
    let rig = Rig::new();
    rig.guest_write(0x300, 1);
    rig.faults.fail_always(PortCall::Discard, EIO);
    rig.convert(range(0x2ff, 2), Owner::Shared);
    let kernel = rig.kernel.clone();
    let receipt = rig.vm.teardown(rig.vcpus);
    assert_eq!(receipt.unsettled.debts.len(), 1);
    assert_eq!((receipt.unsettled.debts[0].range, receipt.unsettled.debts[0].side), (range(0x2ff, 2), Owner::Private));
    assert!(!receipt.is_clean());
    assert!(receipt.pages_before_key());
    assert!(kernel.is_empty());
}

/// A debt that teardown itself can pay is paid.
#[test]
fn no_stale_copy_teardown_pays() {
    let rig = Rig::new();
    rig.guest_write(0x300, 1);
    rig.faults.fail(PortCall::Discard, 1, EIO, Effect::Nothing);
    rig.convert(range(0x300, 1), Owner::Shared);
    let receipt = rig.vm.teardown(rig.vcpus);
    assert!(receipt.unsettled.debts.is_empty() && receipt.is_clean());
}

/// A request waits for an earlier one that overlaps it, as a whole: the last one wins on every page.
#[test]
fn no_stale_copy_overlapping_requests_serialise() {
    let rig = Rig::new();
    let (first, second) = (range(0, 2048), range(1024, 2048));
    let gate = rig.gate_before(PortCall::SetOwner);
    let (one, other) = (rig.handle(), rig.handle());
    thread::scope(|scope| {
        let one = scope.spawn(move || one.convert(first, Owner::Shared));
        gate.wait_for_arrivals(1);
        let other = scope.spawn(move || other.convert(second, Owner::Private));
        wait_until(|| rig.vm.core.desk.requests() == 2);
        gate.open();
        assert_eq!(one.join().unwrap().unwrap().changed.get(), 2048);
        let other = other.join().unwrap().unwrap();
        assert_eq!((other.changed.get(), other.already.get()), (1024, 1024));
    });
    assert_eq!(rig.vm.core.desk.requests(), 0);
    let pages = rig.vm.ledger().census();
    assert_eq!(pages.shared.get(), 1024);
    rig.assert_agrees(range(0, 4096));
    let owners: Vec<_> = rig.owner_calls().into_iter().skip(1).map(|entry| entry.call).collect();
    let last_shared = owners.iter().rposition(|call| matches!(call, Call::SetOwner { owner: Owner::Shared, .. }));
    let first_private = owners.iter().position(|call| matches!(call, Call::SetOwner { owner: Owner::Private, .. }));
    assert!(last_shared < first_private, "{owners:?}");
}

/// What the kernel was told from the first request of `requests` on, each of them made by a thread of its own while the
/// conversion of a page far away is in the kernel; and what was answered.
fn asked_at_once(rig: &Rig, requests: &[(GfnRange, Owner)]) -> (Vec<Call>, Vec<Result<Converted, ConvertError>>) {
    // Not shared by an earlier call of this.
    let far = range(0xf00 + requests.len() as u64, 1);
    let told = rig.owner_calls().len() + 1;
    let gate = rig.gate_before(PortCall::SetOwner);
    let first = rig.handle();
    let answers = thread::scope(|scope| {
        let first = scope.spawn(move || first.convert(far, Owner::Shared));
        gate.wait_for_arrivals(1);
        let mut threads = Vec::new();
        for (number, &(range, owner)) in requests.iter().enumerate() {
            let handle = rig.handle();
            threads.push(scope.spawn(move || handle.convert(range, owner)));
            wait_until(|| rig.vm.core.desk.requests() == number + 2);
        }
        gate.open();
        assert_eq!(first.join().unwrap().unwrap().changed.get(), 1);
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(rig.vm.core.desk.requests(), 0);
    (rig.owner_calls().into_iter().skip(told).map(|entry| entry.call).collect(), answers)
}

fn converted(changed: u64, already: u64) -> Converted {
    Converted { changed: PageCount::new(changed), already: PageCount::new(already), owed: PageCount::default() }
}

/// Requests that adjoin each other and wait at the same time are carried out as one, whatever order they came in;
/// those that want something else, or lie elsewhere, are not. Everybody hears about their own pages.
#[test]
fn no_stale_copy_adjoining_requests_are_merged() {
    let rig = Rig::new();
    rig.convert(range(0x302, 1), Owner::Shared);
    let wanted = [(0x300, 1), (0x302, 2), (0x301, 1), (0x306, 1)].map(|(first, pages)| range(first, pages));
    let mut requests = wanted.map(|range| (range, Owner::Shared)).to_vec();
    requests.push((range(0x2ff, 1), Owner::Private));
    let (mut told, answers) = asked_at_once(&rig, &requests);
    // Which of the two runs gets the lock first is the scheduler's choice; what is private already is no call.
    told.sort_by_key(|call| format!("{call:?}"));
    let shared = |first, pages| Call::SetOwner { range: range(first, pages), owner: Owner::Shared };
    assert_eq!(told, [shared(0x300, 4), shared(0x306, 1)]);
    let expected = [converted(1, 0), converted(1, 1), converted(1, 0), converted(1, 0), converted(0, 1)];
    assert_eq!(answers, expected.map(Ok));
    rig.assert_agrees(range(0x2f0, 32));
    assert!(rig.vm.teardown(rig.vcpus).is_clean());
}

/// An earlier request that overlaps is waited for, though a neighbour could take its successor along.
#[test]
fn no_stale_copy_merging_overtakes_nobody() {
    let rig = Rig::new();
    let requests = [(0x301, 1, Owner::Private), (0x300, 1, Owner::Shared), (0x301, 1, Owner::Shared)];
    let requests = requests.map(|(first, pages, owner)| (range(first, pages), owner));
    let (_, answers) = asked_at_once(&rig, &requests);
    assert_eq!(answers, [converted(0, 1), converted(1, 0), converted(1, 0)].map(Ok));
    assert_eq!((rig.state(0x300), rig.state(0x301)), (PageState::Shared, PageState::Shared));
    rig.assert_agrees(range(0x2ff, 4));
}

/// One refusal or failure is not everybody's: who was refused hears of it, who comes before the failing piece is done.
#[test]
fn no_stale_copy_merged_requests_fail_for_themselves() {
    let rig = Rig::new();
    rig.faults.fail(PortCall::SetOwner, 1, EAGAIN, Effect::Nothing);
    rig.handle().convert(range(0x301, 1), Owner::Shared).unwrap_err();
    assert_eq!(rig.state(0x301), PageState::InDoubt);
    // The one far away is the first call, [0x1ff, 0x200) the second, [0x200, 0x201) the third.
    rig.faults.fail(PortCall::SetOwner, 3, ENOMEM, Effect::Nothing);
    let pages = [0x1ff, 0x200, 0x300, 0x301, 0x302].map(|first| (range(first, 1), Owner::Shared));
    let (_, answers) = asked_at_once(&rig, &pages[..2]);
    assert_eq!(answers[0], Ok(converted(1, 0)));
    assert!(
        matches!(&answers[1], Err(ConvertError::Kernel { range: at, .. }) if *at == range(0x200, 1)),
        "{answers:?}"
    );
    let (_, answers) = asked_at_once(&rig, &pages[2..]);
    assert_eq!((&answers[0], &answers[2]), (&Ok(converted(1, 0)), &Ok(converted(1, 0))));
    assert!(matches!(&answers[1], Err(ConvertError::Refused(_))), "{answers:?}");
    assert_eq!(rig.vm.ledger().census().in_doubt.get(), 1);
}

/// A conversion under way stops at the next piece once the VM closes; what is done is done, the rest is as before.
#[test]
fn no_stale_copy_conversion_stops_at_closing() {
    let rig = Rig::new();
    let (handle, calls) = (rig.handle(), AtomicU64::new(0));
    rig.kernel.before(PortCall::SetOwner, move |_| {
        if calls.fetch_add(1, Ordering::SeqCst) == 1 {
            handle.begin_closing();
        }
    });
    assert_eq!(rig.handle().convert(range(0, 4096), Owner::Shared), Err(ConvertError::Gone));
    assert_eq!(rig.vm.ledger().census().shared.get(), 1024);
    rig.assert_agrees(range(0, 4096));
    assert_eq!(rig.handle().convert(range(4000, 1), Owner::Shared), Err(ConvertError::Gone));
    assert!(rig.vm.teardown(rig.vcpus).is_clean());
}

/// So does one that waits for its turn, though the one before it is still in the kernel.
#[test]
fn no_stale_copy_waiting_request_stops_at_closing() {
    let rig = Rig::new();
    let gate = rig.gate_before(PortCall::SetOwner);
    let (one, other) = (rig.handle(), rig.handle());
    thread::scope(|scope| {
        let one = scope.spawn(move || one.convert(range(0, 1), Owner::Shared));
        gate.wait_for_arrivals(1);
        let other = scope.spawn(move || other.convert(range(0, 1), Owner::Private));
        wait_until(|| rig.vm.core.desk.requests() == 2);
        rig.handle().begin_closing();
        assert_eq!(other.join().unwrap(), Err(ConvertError::Gone));
        gate.open();
        assert_eq!(one.join().unwrap().unwrap().changed.get(), 1);
    });
    rig.assert_agrees(range(0, 2));
}

/// RAM above the hole has its place in the file too: what is discarded is what was lost.
#[test]
fn no_stale_copy_above_four_gib() {
    let rig = Rig::with_ram(super::SPLIT);
    let first_high = (4u64 << 30) / 4096;
    for gfn in [first_high, first_high + 77, 0x7_ffff] {
        rig.guest_write(gfn, gfn);
        rig.convert(range(gfn, 1), Owner::Shared);
        assert!(!rig.kernel.has_private_copy(rig.id(), gfn));
        rig.guest_write(gfn, gfn);
        let read: u64 = rig.handle().shared().enter().read_obj(GuestAddress(gfn * 4096)).unwrap();
        assert_eq!(read, gfn);
        rig.convert(range(gfn, 1), Owner::Private);
        assert!(!rig.has_shared_copy(gfn));
    }
    rig.assert_agrees(range(first_high, 256));
}

/// Converting to and fro leaves memory use flat.
#[test]
fn no_stale_copy_to_and_fro_is_flat() {
    let rig = Rig::new();
    let pages = range(500, 24);
    for turn in 0..500 {
        for owner in [Owner::Shared, Owner::Private] {
            pages.frames().for_each(|gfn| rig.guest_write(gfn.number(), turn + 1));
            rig.convert(pages, owner);
            pages.frames().for_each(|gfn| assert_eq!(rig.guest_read(gfn.number()), 0));
        }
    }
    let resident = rig.vm.resident();
    assert_eq!((resident.private.unwrap().get(), resident.shared.get()), (0, 0));
    rig.assert_agrees(pages);
}

/// A file whose descriptor was replaced by a read-only one: punching holes fails with EBADF.
struct UndiscardableFile {
    number: i32,
    writable: OwnedFd,
}

impl UndiscardableFile {
    fn take(file: &std::fs::File) -> Self {
        let number = file.as_raw_fd();
        let writable = file.as_fd().try_clone_to_owned().unwrap();
        let read_only = std::fs::File::open(format!("/proc/self/fd/{number}")).unwrap();
        replace(number, read_only.as_fd());
        Self { number, writable }
    }

    fn give_back(self) {
        replace(self.number, self.writable.as_fd());
    }
}

#[expect(unsafe_code, reason = "dup2 onto a number that somebody else owns")]
fn replace(number: i32, by: std::os::fd::BorrowedFd<'_>) {
    // SAFETY: the number is open and its owner keeps it; it is not closed here, only made to mean another file.
    let mut target = std::mem::ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(number) });
    rustix::io::dup2(by, &mut target).unwrap();
    // What the standard library made close-on-exec stays so.
    rustix::io::fcntl_setfd(&*target, rustix::io::FdFlags::CLOEXEC).unwrap();
}

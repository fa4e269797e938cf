//! Law *shared-only*: host code reaches what is shared, and nothing else.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use gmem::ledger::{Owner, PageState};
use vm_memory::{Bytes, GuestAddress, GuestMemory, Permissions};

use super::{NEVER, Rig, SPLIT, range, wait_until};
use crate::convert::ConvertError;
use crate::testing::fake::Call;
use crate::testing::fake::errno::EINTR;
use crate::testing::fault::{Effect, PortCall};

fn may_touch(guard: &impl GuestMemory, address: u64, len: usize) -> bool {
    let checked = guard.check_range(GuestAddress(address), len, Permissions::ReadWrite);
    let sliced = guard.get_slices(GuestAddress(address), len, Permissions::ReadWrite).is_ok_and(|slices| {
        let mut total = 0;
        for slice in slices {
            match slice {
                Ok(slice) => total += slice.len(),
                Err(_) => return false,
            }
        }
        total == len
    });
    assert_eq!(checked, sliced, "asking and doing differ at {address:#x}+{len}");
    checked
}

/// Private, converting, in doubt, outside of RAM: refused, to the byte.
#[test]
fn shared_only_refuses_what_is_not_shared() {
    let rig = Rig::new();
    rig.convert(range(0x10, 4), Owner::Shared);
    rig.faults.fail(PortCall::SetOwner, 1, EINTR, Effect::Done);
    rig.handle().convert(range(0x13, 1), Owner::Private).unwrap_err();
    let handle = rig.handle();
    let guard = handle.shared().enter();
    assert!(may_touch(&guard, 0x1_0000, 0x3000));
    assert!(may_touch(&guard, 0x1_2fff, 1));
    for (address, len, why) in [
        (0x0, 1, "private"),
        (0xffff, 2, "starts in a private page"),
        (0x1_2fff, 2, "ends in a page in doubt"),
        (0x1_3000, 8, "in doubt"),
        (0x1_0000, 0x1_0000, "runs into private pages"),
        (0x100_0000, 1, "beyond RAM"),
        (0xff_ffff, 2, "runs out of RAM"),
        (u64::MAX, 1, "the last byte there is"),
        (u64::MAX, 2, "wraps"),
        (0x1_0000, usize::MAX, "all there is"),
    ] {
        assert!(!may_touch(&guard, address, len), "{why}: {address:#x}+{len:#x}");
        let mut buffer = vec![0; len.min(16)];
        if len <= 16 {
            assert!(guard.read_slice(&mut buffer, GuestAddress(address)).is_err(), "{why}");
            assert!(guard.write_slice(&buffer, GuestAddress(address)).is_err(), "{why}");
        }
    }
    assert!(guard.physical_memory().is_none(), "a way around the check");
}

/// The hole between low and high RAM is not memory, and no access runs across it.
#[test]
fn shared_only_refuses_the_hole() {
    let rig = Rig::with_ram(SPLIT);
    rig.convert(range(0x7_ffff, 1), Owner::Shared);
    rig.convert(range(0x10_0000, 1), Owner::Shared);
    let handle = rig.handle();
    let guard = handle.shared().enter();
    assert!(may_touch(&guard, 0x7fff_f000, 0x1000));
    assert!(may_touch(&guard, 0x1_0000_0000, 0x1000));
    assert!(!may_touch(&guard, 0x8000_0000, 1));
    assert!(!may_touch(&guard, 0xfee0_0000, 4));
    assert!(!may_touch(&guard, 0x7fff_f000, 0x1001));
    assert!(!may_touch(&guard, 0x7fff_f000, 0x8000_2000));
}

/// A conversion waits for a guard that was there before it, and not for one that came later.
#[test]
fn shared_only_waits_for_older_guards_only() {
    let rig = Rig::new();
    let page = range(0x40, 1);
    rig.convert(page, Owner::Shared);
    let handle = rig.handle();
    let older = handle.shared().enter();
    let told = rig.owner_calls().len();
    let waits = rig.vm.core.epochs.waits();
    let (done, is_done) = mpsc::channel();
    thread::scope(|scope| {
        let converter = rig.handle();
        scope.spawn(move || done.send(converter.convert(page, Owner::Private)).unwrap());
        wait_until(|| rig.vm.core.epochs.waits() != waits);
        assert_eq!(rig.state(0x40), PageState::ConvertingToPrivate);
        let newer = handle.shared().enter();
        assert!(!may_touch(&newer, 0x4_0000, 1), "a guard that came later must not reach the page");
        assert!(!may_touch(&older, 0x4_0000, 1), "nor does the older one begin anything new");
        // However long it takes: not before the older guard has left.
        thread::sleep(Duration::from_millis(20));
        assert_eq!(rig.owner_calls().len(), told, "the kernel was told under an older guard");
        drop(older);
        is_done.recv_timeout(NEVER).expect("a conversion waits for a newer guard").unwrap();
        drop(newer);
    });
    assert_eq!(rig.owner_calls().len(), told + 1);
}

/// A thread that holds a guard and asks for a conversion would wait for itself: it is told so, at once.
#[test]
fn shared_only_own_guard_does_not_deadlock() {
    let rig = Rig::new();
    rig.convert(range(0x40, 1), Owner::Shared);
    let (handle, (done, is_done)) = (rig.handle(), mpsc::channel());
    // In a thread of its own, which is left behind if it waits for itself after all.
    let thread = thread::spawn(move || {
        let guard = handle.shared().enter();
        let inner = handle.shared().enter();
        let under_two = handle.convert(range(0x80, 1), Owner::Shared);
        drop(guard);
        let under_one = handle.convert(range(0x80, 1), Owner::Shared);
        drop(inner);
        done.send([under_two, under_one, handle.convert(range(0x80, 1), Owner::Shared)]).unwrap();
    });
    let [under_two, under_one, free] = is_done.recv_timeout(NEVER).expect("a thread waits for itself");
    thread.join().unwrap();
    assert_eq!(under_two, Err(ConvertError::GuardHeld { range: range(0x80, 1) }));
    assert_eq!(under_one, under_two);
    assert_eq!(free.unwrap().changed.get(), 1);
}

/// A guard held by one thread while another converts some other page: both go on once the guard is dropped, and the
/// page under the guard stays reachable all the time.
#[test]
fn shared_only_guard_held_over_a_conversion_elsewhere() {
    let rig = Rig::new();
    rig.convert(range(0x40, 1), Owner::Shared);
    let handle = rig.handle();
    let guard = handle.shared().enter();
    let (done, is_done) = mpsc::channel();
    thread::scope(|scope| {
        let converter = rig.handle();
        scope.spawn(move || done.send(converter.convert(range(0x80, 1), Owner::Shared)).unwrap());
        wait_until(|| rig.state(0x80) == PageState::ConvertingToShared);
        guard.write_obj(5u64, GuestAddress(0x4_0000)).unwrap();
        assert_eq!(guard.read_obj::<u64>(GuestAddress(0x4_0000)).unwrap(), 5);
        drop(guard);
        is_done.recv_timeout(NEVER).expect("a conversion does not go on").unwrap();
    });
}

/// A guard that never goes away holds a conversion up, but not the VM's end: the conversion is aborted.
#[test]
fn shared_only_a_stuck_guard_does_not_stop_teardown() {
    let rig = Rig::new();
    let page = range(0x40, 1);
    rig.convert(page, Owner::Shared);
    rig.guest_write(0x40, 77);
    let handle = rig.handle();
    let told = rig.owner_calls().len();
    let kernel = rig.kernel.clone();
    let (receipt, converted, guard) = thread::scope(|scope| {
        // Inside, so that a failure lets go of it and whoever waits goes on.
        let guard = handle.shared().enter();
        let (converter, (converted, is_converted)) = (rig.handle(), mpsc::channel());
        scope.spawn(move || converted.send(converter.convert(page, Owner::Private)).unwrap());
        wait_until(|| rig.state(0x40) == PageState::ConvertingToPrivate);
        let ((vm, vcpus), (down, is_down)) = ((rig.vm, rig.vcpus), mpsc::channel());
        scope.spawn(move || down.send(vm.teardown(vcpus)).unwrap());
        let receipt = is_down.recv_timeout(NEVER).expect("a guard stops teardown");
        (receipt, is_converted.recv_timeout(NEVER).unwrap(), guard)
    });
    assert_eq!(converted, Err(ConvertError::Gone));
    assert!(receipt.is_clean(), "{receipt:?}");
    assert_eq!(receipt.pages.shared.get(), 1, "an aborted conversion changes nothing");
    let told_now = kernel.record().iter().filter(|entry| entry.call.kind() == Some(PortCall::SetOwner)).count();
    assert_eq!(told_now, told);
    assert!(kernel.is_empty());
    // The guard's memory is still there, though nothing new can be reached in it.
    assert!(!may_touch(&guard, 0x4_0000, 8));
}

/// Device threads enter, check and write; another thread converts to and fro. From the moment the kernel is told until
/// the page is shared again, nothing lands in it.
#[test]
fn shared_only_no_write_lands_after_its_conversion_began() {
    const PAGES: u64 = 8;
    const FIRST: u64 = 0x1fc;
    const TURNS: u64 = 1500;
    let rig = Rig::new();
    let pages = range(FIRST, PAGES);
    rig.convert(pages, Owner::Shared);
    let (stop, landed, late) = (AtomicBool::new(false), AtomicU64::new(0), Arc::new(AtomicU64::new(0)));

    // When the kernel is told, all that was under way must have landed: the page does not change any more.
    let (hook_late, region) = (Arc::clone(&late), Arc::clone(&rig.vm.core.ram[0]));
    rig.kernel.before(PortCall::SetOwner, move |call| {
        let Call::SetOwner { range, owner: Owner::Private } = call else { return };
        let look = || {
            let mut stamps = Vec::new();
            for gfn in range.frames() {
                let mut stamp = [0; 8];
                rustix::io::pread(region.file(), &mut stamp, gfn.gpa().0).unwrap();
                stamps.push(u64::from_ne_bytes(stamp));
            }
            stamps
        };
        let before = look();
        (0..3).for_each(|_| thread::yield_now());
        hook_late.fetch_add(u64::from(look() != before), Ordering::Relaxed);
    });

    let devices = 3;
    thread::scope(|scope| {
        for device in 1..=devices {
            let (view, stop, landed) = (rig.handle(), &stop, &landed);
            scope.spawn(move || {
                let mut stamp = device << 32;
                while !stop.load(Ordering::Relaxed) {
                    stamp += 1;
                    let at = GuestAddress((FIRST + stamp % PAGES) * 4096);
                    let guard = view.shared().enter();
                    // Checked now, written later: the guard is what keeps the two together.
                    let Ok(mut slices) = guard.get_slices(at, 8, Permissions::Write) else { continue };
                    if stamp % 3 == 0 {
                        thread::yield_now();
                    }
                    slices.next().unwrap().unwrap().write_obj(stamp, 0).unwrap();
                    landed.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for turn in 0..TURNS {
            let part = range(FIRST + turn % PAGES, 1 + turn % (PAGES - turn % PAGES));
            rig.convert(part, Owner::Private);
            let in_part = || part.frames().map(|gfn| gfn.number());
            in_part().for_each(|gfn| rig.guest_write(gfn, 0xfeed));
            thread::yield_now();
            for gfn in in_part() {
                assert!(!rig.has_shared_copy(gfn), "a device wrote to private page {gfn:#x} in turn {turn}");
                assert_eq!(rig.guest_read(gfn), 0xfeed);
            }
            rig.convert(part, Owner::Shared);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(late.load(Ordering::Relaxed), 0, "writes landed after their page's conversion began");
    assert_ne!(landed.load(Ordering::Relaxed), 0, "no device ever wrote: nothing was tested");
    rig.assert_agrees(pages);
}

/// After teardown nothing can be reached, whoever still has a view.
#[test]
fn shared_only_nothing_after_teardown() {
    let rig = Rig::new();
    rig.convert(range(0x40, 1), Owner::Shared);
    let handle = rig.handle();
    assert!(may_touch(&handle.shared().enter(), 0x4_0000, 8));
    assert!(rig.vm.teardown(rig.vcpus).is_clean());
    assert!(!may_touch(&handle.shared().enter(), 0x4_0000, 8));
}

//! Law *no-silent-trust*: bad input is refused by name before anything is done.

use std::sync::Arc;

use gmem::layout::RamLayout;
use gmem::ledger::{LedgerError, Owner};
use gmem::{GfnRange, Gpa, PageCount};

use super::{Rig, SMALL, SPLIT, created, errno_of, range};
use crate::convert::ConvertError;
use crate::port::{GmemUse, KernelVm, VmType};
use crate::testing::fake::errno::{EINVAL, EIO};
use crate::testing::fake::{Call, FakeKernel};
use crate::testing::fault::{Effect, Faults, PortCall};
use crate::vm::{LaunchError, Vm};

/// A guest may ask for anything; what is not RAM is refused as a whole, and the kernel hears nothing of it.
#[test]
fn no_silent_trust_bad_ranges() {
    let rig = Rig::with_ram(SPLIT);
    let told = rig.kernel.record().len();
    let hole = (2u64 << 30) / 4096;
    let end = (5u64 << 30) / 4096;
    let bad = [
        (range(hole, 1), hole),
        (range(hole - 1, 2), hole),
        (range(0xfee00, 1), 0xfee00),
        (range(0, end), hole),
        (range(end, 1), end),
        (range(end - 1, 2), end),
        (range(0, 1 << 52), hole),
        (range((1 << 52) - 1, 1), (1 << 52) - 1),
    ];
    for (range, culprit) in bad {
        for owner in [Owner::Shared, Owner::Private] {
            match rig.handle().convert(range, owner) {
                Err(ConvertError::Refused(LedgerError::OutsideRam { page, .. })) => {
                    assert_eq!(page.number(), culprit, "{range}");
                }
                other => panic!("{range} to {owner}: {other:?}"),
            }
        }
    }
    assert_eq!(rig.kernel.record().len(), told);
    // What is no range at all never gets that far.
    for (gpa, pages) in [(0x1001, 1), (0, 0), (0x1000, 1 << 63), (!0xfff, 2)] {
        assert!(GfnRange::from_request(Gpa(gpa), PageCount::new(pages)).is_err(), "{gpa:#x}+{pages}");
    }
}

/// However much is asked for, the kernel is asked in bounded pieces: 2 MiB a conversion, 1 GiB when RAM is marked.
#[test]
fn no_silent_trust_ranges_are_worked_off_in_pieces() {
    let rig = Rig::with_ram(SPLIT);
    rig.convert(range(300, 5000), Owner::Shared);
    let sizes = |owner: Owner| {
        let calls = rig.owner_calls();
        let asked = calls.into_iter().filter_map(|entry| match entry.call {
            Call::SetOwner { range, owner: other } if other == owner => Some(range.pages().get()),
            _ => None,
        });
        asked.collect::<Vec<_>>()
    };
    assert_eq!(sizes(Owner::Private), [1 << 18, 1 << 18, 1 << 18]);
    let shared = sizes(Owner::Shared);
    assert_eq!(shared.iter().sum::<u64>(), 5000);
    assert!(shared.iter().all(|pages| *pages <= 512), "{shared:?}");
}

/// Privacy is never lost by an omission: nothing runs before RAM is private.
#[test]
fn no_silent_trust_no_vcpu_before_ram_is_private() {
    let (kernel, faults) = (FakeKernel::default(), Arc::<Faults>::default());
    let mut vm = created(&kernel, &faults, SMALL);
    assert!(matches!(vm.add_vcpu(), Err(LaunchError::Plan { step: "create vCPU", .. })));
    vm.add_ram().unwrap();
    assert!(vm.add_vcpu().is_err());
    faults.fail(PortCall::SetOwner, 1, EIO, Effect::Nothing);
    vm.mark_ram_private().unwrap_err();
    assert!(vm.add_vcpu().is_err());
    vm.mark_ram_private().unwrap();
    vm.add_vcpu().unwrap();
}

/// Marking twice would cost as much as the first time: the kernel is asked once.
#[test]
fn no_silent_trust_ram_is_marked_once() {
    let kernel = FakeKernel::default();
    let mut vm = created(&kernel, &Arc::default(), SMALL);
    vm.add_ram().unwrap();
    vm.mark_ram_private().unwrap();
    vm.mark_ram_private().unwrap();
    let marks = kernel.record().iter().filter(|entry| entry.call.kind() == Some(PortCall::SetOwner)).count();
    assert_eq!(marks, 1);
}

/// A VM without private memory says so instead of pretending.
#[test]
fn no_silent_trust_no_privacy_where_there_is_none() {
    let kernel = FakeKernel::default();
    let mut vm = Vm::create(&kernel, VmType::Default, RamLayout::new(SMALL).unwrap()).unwrap();
    vm.add_ram().unwrap();
    assert!(matches!(vm.mark_ram_private(), Err(LaunchError::Plan { step: "mark RAM private", .. })));
    assert_eq!(vm.handle().convert(range(0, 1), Owner::Private), Err(ConvertError::NoPrivateMemory));
    assert!(
        !kernel
            .record()
            .iter()
            .any(|entry| matches!(entry.call.kind(), Some(PortCall::SetOwner | PortCall::CreateGmem)))
    );
    let vcpu = vm.add_vcpu().unwrap();
    assert!(vm.seal().unwrap().teardown(vec![vcpu]).is_clean());
}

/// An error names the call, what it was asked for, and the errno.
#[test]
fn no_silent_trust_errors_name_call_and_value() {
    let kernel = FakeKernel::default();
    let mut vm = created(&kernel, &Arc::default(), SMALL);
    vm.add_ram().unwrap();
    let again = vm.add_ram().unwrap_err();
    let LaunchError::Kernel { step: "create RAM slot", source } = &again else { panic!("{again}") };
    assert_eq!(errno_of(source), EINVAL);
    assert!(again.to_string().contains("errno 22"), "{again}");
    let error = vm.core.vm.create_gmem(PageCount::new(u64::MAX), GmemUse::Private).unwrap_err();
    assert_eq!(errno_of(&error), EINVAL);
}

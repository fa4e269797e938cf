//! Conversions, registers in guest memory, requests: what a running guest does with its pages.

use gmem::Gpa;
use gmem::ledger::{Owner, PageState};
use silicon_kvm::script::{Step, Way};
use snp::launch::Certificates;
use tenure_silicon::model::Model;

use crate::bed::{
    End, assert_refines, drive, drive_all, identity, kernel, launch, ours, pages, run, script, tear_down,
};

/// Free memory of our firmware's guest.
const FREE: u64 = 0x100_0000;

fn change(gpa: u64, count: u64, to: Owner, way: Way) -> Step {
    Step::PageState { range: pages(gpa, count), to, way, works: true }
}

/// no-stale-copy: what was private is gone once it is shared, and the other way round; by both ways of asking, and by
/// 4 KiB and by 2 MiB.
#[test]
fn no_stale_copy_there_and_back() {
    for (way, count) in [(Way::Msr, 3), (Way::Buffer, 512)] {
        let kernel = kernel(Model::Milan);
        let private = pages(FREE, count);
        script(
            &kernel,
            0,
            [
                Step::Validate(private),
                Step::Write(Gpa(FREE), 0x5ec2e7),
                Step::Expect(Gpa(FREE), 0x5ec2e7),
                Step::Rescind(private),
                change(FREE, count, Owner::Shared, way),
                Step::ExpectShared(Gpa(FREE), 0),
                Step::WriteShared(Gpa(FREE), 0xb1ab),
                Step::ExpectShared(Gpa(FREE), 0xb1ab),
                change(FREE, count, Owner::Private, way),
                Step::Validate(private),
                Step::ExpectOther(Gpa(FREE), 0xb1ab),
                Step::ExpectOther(Gpa(FREE), 0x5ec2e7),
                Step::Rescind(private),
                change(FREE, count, Owner::Shared, way),
                Step::ExpectShared(Gpa(FREE), 0),
            ],
        );
        let mut guest = run(&kernel, &ours(1, identity()));
        assert_eq!(drive_all(&kernel, &mut guest), [End::Done]);
        assert_eq!(guest.0.handle().page_state(Gpa(FREE)), Some(PageState::Shared));
        tear_down(&kernel, guest);
    }
}

/// known-owner: a guest that just touches pages as it likes has them converted for it.
#[test]
fn known_owner_implicit_conversions() {
    let kernel = kernel(Model::Genoa);
    script(
        &kernel,
        0,
        [
            Step::WriteShared(Gpa(FREE), 7),
            Step::ExpectShared(Gpa(FREE), 7),
            Step::Validate(pages(FREE, 1)),
            Step::ExpectOther(Gpa(FREE), 7),
            Step::WriteShared(Gpa(FREE + 0x1000), 8),
        ],
    );
    let mut guest = run(&kernel, &ours(1, identity()));
    assert_eq!(drive_all(&kernel, &mut guest), [End::Done]);
    let state = |offset| guest.0.handle().page_state(Gpa(FREE + offset));
    assert_eq!((state(0), state(0x1000)), (Some(PageState::PrivateUntouched), Some(PageState::Shared)));
    tear_down(&kernel, guest);
}

/// known-owner: what the launch populated can be shared and comes back empty.
#[test]
fn known_owner_populated_pages_can_be_shared() {
    let kernel = kernel(Model::Milan);
    let firmware = pages(guest_fw::abi::FW_BASE, 1);
    script(&kernel, 0, [Step::Rescind(firmware), change(guest_fw::abi::FW_BASE, 1, Owner::Shared, Way::Msr)]);
    let mut guest = run(&kernel, &ours(1, identity()));
    assert_eq!(guest.0.handle().page_state(Gpa(guest_fw::abi::FW_BASE)), Some(PageState::PrivatePopulated));
    assert_eq!(drive_all(&kernel, &mut guest), [End::Done]);
    assert_eq!(guest.0.handle().page_state(Gpa(guest_fw::abi::FW_BASE)), Some(PageState::Shared));
    tear_down(&kernel, guest);
}

/// no-silent-trust: a request beyond RAM is refused, and the guest goes on.
#[test]
fn no_silent_trust_beyond_ram() {
    let kernel = kernel(Model::Milan);
    let range = pages(crate::bed::MEMORY.0 - 0x1000, 2);
    let beyond = Step::PageState { range, to: Owner::Shared, way: Way::Buffer, works: false };
    script(&kernel, 0, [beyond, Step::Terminate(0x100)]);
    let mut guest = run(&kernel, &ours(1, identity()));
    assert_eq!(drive_all(&kernel, &mut guest), [End::Terminated(0x100)]);
    tear_down(&kernel, guest);
}

/// AP creation: the second vCPU starts with registers the first made; converting their page takes them away, and
/// running it then is an entry that fails.
#[test]
fn an_application_processor_is_created_and_loses_its_registers() {
    const VMSA: u64 = FREE + 0x5000;
    let kernel = kernel(Model::Milan);
    script(&kernel, 0, [Step::Validate(pages(VMSA, 1)), Step::CreateAp { vcpu: 1, vmsa: Gpa(VMSA) }]);
    script(&kernel, 1, [Step::Validate(pages(FREE, 1)), Step::Write(Gpa(FREE), 1), Step::Expect(Gpa(FREE), 1)]);
    let (vm, mut vcpus) = run(&kernel, &ours(2, identity()));
    let handle = vm.handle();
    let mut second = vcpus.pop().unwrap();
    assert_eq!(drive(&handle, &mut second, |_| {}), End::Done, "it waits");
    assert_eq!(handle.page_state(Gpa(FREE)), Some(PageState::PrivateUntouched));
    assert_eq!(drive(&handle, &mut vcpus[0], |_| {}), End::Done);
    assert_eq!(drive(&handle, &mut second, |_| {}), End::Done, "it runs");
    handle.convert(pages(VMSA, 1), Owner::Shared).unwrap();
    assert_eq!(drive(&handle, &mut second, |_| {}), End::NoRegisters);
    assert_refines(&kernel, vm.ledger());
    vcpus.push(second);
    tear_down(&kernel, (vm, vcpus));
}

/// A guest asks for certificates with its report: served, too small a room, and refused.
#[test]
fn certificates_are_the_hosts_to_give() {
    let kernel = kernel(Model::Milan);
    let (secrets, room) = (Gpa(guest_fw::abi::SNP_SECRETS), pages(FREE, 2));
    let ask = || Step::Report { secrets, data: [1; 64], certificates: Some(room) };
    script(&kernel, 0, [change(FREE, 2, Owner::Shared, Way::Buffer), ask(), ask()]);
    let plan = ours(1, identity());
    let Ok((vm, mut vcpus)) = launch(&kernel, &plan, Certificates::Ours) else { panic!("not launched") };
    let (handle, mut asked) = (vm.handle(), 0);
    let end = drive(&handle, &mut vcpus[0], |request| {
        asked += 1;
        assert_eq!((request.gpa, *request.pages), (Gpa(FREE), 2));
        if asked == 2 {
            (*request.pages, *request.answer) = (3, 28);
        }
    });
    assert_eq!((end, asked, kernel.reports().len()), (End::Done, 2, 1));
    let complaints = format!("{:?}", kernel.complaints());
    assert!(complaints.contains("errno 28, 3 pages are needed"), "{complaints}");
    let receipt = vm.teardown(vcpus);
    assert!(receipt.is_clean(), "{receipt:?}");
    assert!(kernel.is_empty());
}

//! The firmware's commands, one by one.

use super::*;
use crate::asid::{AsidConfig, GuestKind};
use crate::fixture::{CONTEXT, Machine, SECRETS, at, config, private_read};
use crate::model::Model;
use crate::psp::cpuid::CpuidFunction;
use crate::rmp::{AccessFault, Assignment, PageState};
use crate::signing::KeyPair;
use crate::units::{Asid, Gpa, PAGE_BYTES};
use crate::violation::Violation;

const PAGE: (Pfn, Gpa) = (Pfn(0x30), Gpa(0x10_0000));
const TEXT: [u8; PAGE_BYTES] = [0xa5; PAGE_BYTES];

#[test]
fn nothing_works_before_init_and_init_works_once() {
    let config = config(Model::Milan);
    let (mut hw, mut psp) = (Hardware::new(&config), Psp::new(&config));
    assert_eq!(psp.gctx_create(&mut hw, CONTEXT), Err(Status::InvalidPlatformState));
    assert_eq!(psp.set_config(SnpConfig::default()), Err(Status::InvalidPlatformState));
    assert_eq!(psp.df_flush(&mut hw), Err(Status::InvalidPlatformState));
    assert_eq!(psp.platform_status().state, PlatformState::Uninitialized);
    psp.init(&mut hw).unwrap();
    assert_eq!(psp.init(&mut hw), Err(Status::InvalidPlatformState));
    assert!(psp.platform_status().is_rmp_init);
}

#[test]
fn a_context_is_made_of_a_firmware_page() {
    let mut machine = Machine::milan();
    let Machine { hw, psp } = &mut machine;
    assert_eq!(psp.gctx_create(hw, CONTEXT), Err(Status::InvalidPageState));
    assert_eq!(psp.gctx_create(hw, Pfn(1 << 40)), Err(Status::InvalidAddress));
    machine.firmware(CONTEXT);
    machine.psp.gctx_create(&mut machine.hw, CONTEXT).unwrap();
    assert_eq!(machine.hw.rmp.entry(CONTEXT).unwrap().state(), PageState::Context);
    assert_eq!(machine.psp.platform_status().guest_count, 1);
}

#[test]
fn commands_come_in_the_order_of_a_launch() {
    let mut machine = Machine::milan();
    let asid = machine.hw.asids.allocate(GuestKind::Snp).unwrap();
    machine.firmware(CONTEXT);
    let Machine { hw, psp } = &mut machine;
    assert_eq!(psp.launch_start(CONTEXT, Policy::usual(), [0; 16]), Err(Status::InvalidGuest));
    psp.gctx_create(hw, CONTEXT).unwrap();
    assert_eq!(psp.activate(hw, CONTEXT, asid), Err(Status::InvalidGuestState));
    assert_eq!(psp.launch_finish(CONTEXT, LaunchFinish::default()), Err(Status::InvalidGuestState));
    psp.launch_start(CONTEXT, Policy::usual(), [0; 16]).unwrap();
    assert_eq!(psp.launch_start(CONTEXT, Policy::usual(), [0; 16]), Err(Status::InvalidGuestState));
    assert_eq!(machine.add(asid, PAGE, PageKind::Normal, &TEXT), Err(Status::Inactive));
    let Machine { hw, psp } = &mut machine;
    psp.activate(hw, CONTEXT, asid).unwrap();
    assert_eq!(psp.activate(hw, CONTEXT, asid), Err(Status::Active));
    psp.launch_update(hw, CONTEXT, LaunchUpdate::new(PAGE.0, PageKind::Normal)).unwrap();
    psp.launch_finish(CONTEXT, LaunchFinish::default()).unwrap();
    assert_eq!(psp.guest_status(CONTEXT).unwrap().state, GuestState::Running);
    assert_eq!(psp.launch_finish(CONTEXT, LaunchFinish::default()), Err(Status::InvalidGuestState));
}

#[test]
fn sealed_is_sealed_for_the_firmware_too() {
    let mut machine = Machine::milan();
    let asid = machine.running();
    assert_eq!(machine.add(asid, PAGE, PageKind::Normal, &TEXT), Err(Status::InvalidGuestState));
}

#[test]
fn a_policy_the_platform_cannot_keep_starts_no_launch() {
    let mut machine = Machine::milan();
    machine.firmware(CONTEXT);
    machine.psp.gctx_create(&mut machine.hw, CONTEXT).unwrap();
    let refused = machine.psp.launch_start(CONTEXT, Policy(Policy::RESERVED_ONE), [0; 16]);
    assert_eq!(refused, Err(Status::PolicyFailure), "SMT is on");
    machine.psp.launch_start(CONTEXT, Policy::usual(), [0; 16]).unwrap();
}

#[test]
fn a_launched_page_is_the_guests_alone() {
    let mut machine = Machine::milan();
    let asid = machine.started(Policy::usual());
    machine.add(asid, PAGE, PageKind::Normal, &TEXT).unwrap();
    assert_eq!(machine.hw.rmp.entry(PAGE.0).unwrap().state(), PageState::GuestValid);
    assert_eq!(machine.hw.guest_read(private_read(asid), at(PAGE)).unwrap(), TEXT);
    assert_ne!(machine.hw.host_read(PAGE.0), TEXT);
    assert!(machine.hw.host_write(PAGE.0, &TEXT).is_err());
    let other = machine.hw.guest_read(private_read(Asid(asid.0 + 1)), at(PAGE));
    assert!(matches!(other, Err(AccessFault::Nested(_))));
}

#[test]
fn plaintext_does_not_come_back_with_the_page() {
    let mut machine = Machine::milan();
    let asid = machine.started(Policy::usual());
    machine.add(asid, PAGE, PageKind::Normal, &TEXT).unwrap();
    machine.hw.rmp.rmpupdate(PAGE.0, Assignment::default()).unwrap();
    let left = machine.hw.host_read(PAGE.0);
    assert!(left.iter().zip(TEXT).filter(|(left, text)| **left == *text).count() < 64);
}

#[test]
fn hidden_ciphertext_reads_as_nothing() {
    let base = config(Model::Turin);
    let asids = AsidConfig { ciphertext_hiding: Some(8), ..base.asids };
    let mut machine = Machine::new(&Config { asids, ..base });
    let asid = machine.started(Policy(Policy::usual().0 | Policy::CIPHERTEXT_HIDING));
    machine.add(asid, PAGE, PageKind::Normal, &TEXT).unwrap();
    assert_eq!(machine.hw.host_read(PAGE.0), [0xff; PAGE_BYTES]);
    assert!(machine.psp.platform_status().ciphertext_hiding_en);
}

#[test]
fn each_kind_of_page_gets_its_contents() {
    let mut machine = Machine::milan();
    let asid = machine.started(Policy::usual());
    let mut add = |pfn: u64, kind| {
        let page = (Pfn(pfn), Gpa(pfn << 12));
        machine.add(asid, page, kind, &TEXT).unwrap();
        machine.hw.guest_read(private_read(asid), at(page)).unwrap()
    };
    assert_eq!(add(0x40, PageKind::Normal), TEXT);
    assert_eq!(add(0x41, PageKind::Unmeasured), TEXT);
    assert_eq!(add(0x42, PageKind::Vmsa), TEXT);
    assert_eq!(add(0x43, PageKind::Zero), [0; PAGE_BYTES]);
    let secrets = add(0x44, PageKind::Secrets);
    let keys = secrets::vmpcks(&secrets);
    assert_eq!(&keys, &machine.psp.guest(CONTEXT).unwrap().vmpcks);
    assert!(machine.hw.rmp.entry(Pfn(0x42)).unwrap().vmsa);
    assert!(!machine.hw.rmp.entry(Pfn(0x41)).unwrap().vmsa);
}

/// The answer is that of the Python package sev-snp-measure 0.0.13 for these six pages.
#[test]
fn the_launch_digest_is_what_a_third_party_predicts() {
    let mut machine = Machine::milan();
    let asid = machine.started(Policy::usual());
    let (normal, vmsa) = ([0x11; PAGE_BYTES], [0x22; PAGE_BYTES]);
    machine.add(asid, (Pfn(0x41), Gpa(0x1000)), PageKind::Normal, &normal).unwrap();
    machine.add(asid, (Pfn(0x42), Gpa(0x2000)), PageKind::Zero, &normal).unwrap();
    machine.add(asid, (Pfn(0x43), Gpa(0x3000)), PageKind::Unmeasured, &normal).unwrap();
    machine.add(asid, (Pfn(0x44), Gpa(0x4000)), PageKind::Secrets, &normal).unwrap();
    machine.add(asid, (Pfn(0x45), Gpa(0x5000)), PageKind::Cpuid, &cpuid::page(&[])).unwrap();
    machine.add(asid, (Pfn(0x46), Gpa(0xffff_ffff_f000)), PageKind::Vmsa, &vmsa).unwrap();
    let digest: String =
        machine.psp.guest(CONTEXT).unwrap().digest().iter().map(|byte| format!("{byte:02x}")).collect();
    let predicted = "877fa8c12ae980d67c4cf1ed172240effe64fc23c1629d6f841ff464e75279497cf7dac752f05562e84bd83639309f15";
    assert_eq!(digest, predicted);
}

#[test]
fn two_megabytes_are_measured_as_512_pages() {
    let digest = |large: bool| {
        let mut machine = Machine::milan();
        let asid = machine.started(Policy::usual());
        let (base, gpa) = (Pfn(512), Gpa(2 << 20));
        let big = Assignment { assigned: true, asid, gpa, size: PageSize::Size2M, immutable: true };
        if large {
            machine.hw.rmp.rmpupdate(base, big).unwrap();
            let update = LaunchUpdate { size: PageSize::Size2M, ..LaunchUpdate::new(base, PageKind::Normal) };
            machine.psp.launch_update(&mut machine.hw, CONTEXT, update).unwrap();
        } else {
            for page in 0..512 {
                let at = (Pfn(base.0 + page), gpa.plus_pages(page));
                machine.add(asid, at, PageKind::Normal, &[0; PAGE_BYTES]).unwrap();
            }
        }
        machine.psp.guest(CONTEXT).unwrap().digest()
    };
    assert_eq!(digest(true), digest(false));
}

#[test]
fn an_unfit_page_is_not_added_and_not_measured() {
    let mut machine = Machine::milan();
    let asid = machine.started(Policy::usual());
    let assigned = Assignment { assigned: true, asid, gpa: PAGE.1, immutable: true, ..Assignment::default() };
    let update = LaunchUpdate::new(PAGE.0, PageKind::Normal);
    let mut refused = |update, assigned: Option<Assignment>, status| {
        if let Some(assigned) = assigned {
            machine.hw.rmp.rmpupdate(PAGE.0, assigned).unwrap();
        }
        assert_eq!(machine.psp.launch_update(&mut machine.hw, CONTEXT, update), Err(status));
        assert_eq!(machine.psp.guest(CONTEXT).unwrap().digest(), [0; 48]);
        let _ = machine.hw.rmp.reclaim(PAGE.0, PageSize::Size4K);
    };
    refused(update, None, Status::InvalidPageState);
    refused(update, Some(Assignment { immutable: false, ..assigned }), Status::InvalidPageState);
    refused(update, Some(Assignment { asid: Asid(9), ..assigned }), Status::InvalidPageOwner);
    refused(LaunchUpdate { size: PageSize::Size2M, ..update }, Some(assigned), Status::InvalidPageSize);
    let unknown = LaunchUpdate { permissions: [crate::rmp::Permissions(0x80); 3], ..update };
    refused(unknown, Some(assigned), Status::InvalidParam);
    refused(LaunchUpdate { pfn: Pfn(1 << 40), ..update }, None, Status::InvalidAddress);
}

#[test]
fn a_cpuid_page_the_processor_does_not_match_comes_back_corrected() {
    let mut machine = Machine::milan();
    let asid = machine.started(Policy::usual());
    let wrong = CpuidFunction { function: 7, registers: [0, u32::MAX, 0, 0], ..CpuidFunction::default() };
    let proposed = cpuid::page(&[wrong]);
    assert_eq!(machine.add(asid, PAGE, PageKind::Cpuid, &proposed), Err(Status::InvalidParam));
    assert_eq!(machine.psp.guest(CONTEXT).unwrap().digest(), [0; 48]);
    machine.psp.page_reclaim(&mut machine.hw, PAGE.0, PageSize::Size4K).unwrap();
    machine.hw.rmp.rmpupdate(PAGE.0, Assignment::default()).unwrap();
    let corrected = machine.hw.host_read(PAGE.0);
    assert_eq!(corrected, cpuid::page(&[wrong.corrected()]));
    machine.add(asid, PAGE, PageKind::Cpuid, &corrected).unwrap();
}

#[test]
fn an_id_block_of_another_launch_does_not_finish_this_one() {
    let mut machine = Machine::milan();
    let asid = machine.started(Policy::usual());
    machine.add(asid, PAGE, PageKind::Normal, &TEXT).unwrap();
    let digest = machine.psp.guest(CONTEXT).unwrap().digest();
    let good = IdBlock { digest, family_id: [1; 16], image_id: [2; 16], guest_svn: 3, policy: Policy::usual() };
    let key = KeyPair::from_seed([1; 32]);
    let mut finish = |block: IdBlock| {
        let (bytes, auth) = (block.to_bytes(), block.sign(&key, None));
        let identity = Some(IdentityInput { block: &bytes, auth: &auth, author_key: false });
        machine.psp.launch_finish(CONTEXT, LaunchFinish { identity, host_data: [4; 32], vcek_disabled: true })
    };
    assert_eq!(finish(IdBlock { digest: [0; 48], ..good }), Err(Status::BadMeasurement));
    assert_eq!(finish(IdBlock { policy: Policy(0), ..good }), Err(Status::PolicyFailure));
    finish(good).unwrap();
    let guest = machine.psp.guest(CONTEXT).unwrap();
    assert_eq!((guest.host_data(), guest.identity().unwrap().guest_svn), ([4; 32], 3));
    assert!(machine.psp.guest_status(CONTEXT).unwrap().vcek_disabled);
}

#[test]
fn an_asid_is_bound_to_one_guest_and_flushed_between_two() {
    let mut machine = Machine::milan();
    let asid = machine.started(Policy::usual());
    let second = Pfn(0x50);
    machine.firmware(second);
    let Machine { hw, psp } = &mut machine;
    psp.gctx_create(hw, second).unwrap();
    psp.launch_start(second, Policy::usual(), [0; 16]).unwrap();
    assert_eq!(psp.activate(hw, second, asid), Err(Status::AsidOwned));
    assert_eq!(psp.activate(hw, second, Asid(0)), Err(Status::InvalidAsid));
    assert_eq!(psp.activate(hw, second, Asid(17)), Err(Status::InvalidAsid), "an ASID of SEV guests");
    psp.decommission(hw, CONTEXT).unwrap();
    assert_eq!(psp.activate(hw, second, asid), Err(Status::DfFlushRequired));
    assert_eq!(psp.df_flush(hw), Err(Status::WbinvdRequired));
    hw.asids.wbinvd_all();
    psp.df_flush(hw).unwrap();
    psp.activate(hw, second, asid).unwrap();
}

#[test]
fn a_decommissioned_guest_is_gone_and_its_page_is_the_firmwares() {
    let mut machine = Machine::milan();
    let asid = machine.running();
    let Machine { hw, psp } = &mut machine;
    psp.decommission(hw, CONTEXT).unwrap();
    assert_eq!(psp.guest_status(CONTEXT), Err(Status::InvalidGuest));
    assert_eq!(psp.decommission(hw, CONTEXT), Err(Status::InvalidGuest));
    assert_eq!(hw.rmp.entry(CONTEXT).unwrap().state(), PageState::Firmware);
    // Its pages are still there, and no key reads them any more: what law pages-before-key is about.
    assert_eq!(hw.rmp.pages_of(asid), 1);
    let left = hw.guest_read(private_read(asid), at(SECRETS)).unwrap();
    assert_eq!(left, hw.memory.read(SECRETS.0, None));
}

#[test]
fn a_new_guest_of_an_old_asid_cannot_read_the_old_ones_pages() {
    let mut machine = Machine::milan();
    let asid = machine.started(Policy::usual());
    machine.add(asid, PAGE, PageKind::Normal, &TEXT).unwrap();
    let Machine { hw, psp } = &mut machine;
    psp.decommission(hw, CONTEXT).unwrap();
    hw.asids.wbinvd_all();
    psp.df_flush(hw).unwrap();
    psp.gctx_create(hw, CONTEXT).unwrap();
    psp.launch_start(CONTEXT, Policy::usual(), [0; 16]).unwrap();
    psp.activate(hw, CONTEXT, asid).unwrap();
    // The RMP still names the ASID, so the access passes: only the key differs.
    assert_ne!(hw.guest_read(private_read(asid), at(PAGE)).unwrap(), TEXT);
}

#[test]
fn pages_are_reclaimed_by_state_and_size() {
    let mut machine = Machine::milan();
    machine.firmware(PAGE.0);
    let Machine { hw, psp } = &mut machine;
    assert_eq!(psp.page_reclaim(hw, PAGE.0, PageSize::Size2M), Err(Status::InvalidPageSize));
    assert_eq!(psp.page_reclaim(hw, Pfn(1 << 40), PageSize::Size4K), Err(Status::InvalidAddress));
    psp.page_reclaim(hw, PAGE.0, PageSize::Size4K).unwrap();
    assert_eq!(psp.page_reclaim(hw, PAGE.0, PageSize::Size4K), Err(Status::InvalidPageState));
}

#[test]
fn reported_versions_never_exceed_committed_ones() {
    let base = config(Model::Milan);
    let newer = Tcb { snp: base.committed_tcb.snp + 1, ..base.committed_tcb };
    let mut machine = Machine::new(&Config { current_tcb: newer, ..base.clone() });
    let psp = &mut machine.psp;
    let packed = |tcb: Tcb| tcb.to_bytes(Model::Milan);
    let report = |tcb| SnpConfig { reported_tcb: packed(tcb), ..SnpConfig::default() };
    assert_eq!(psp.set_config(report(newer)), Err(Status::InvalidParam));
    psp.set_config(report(Tcb { snp: 1, ..base.committed_tcb })).unwrap();
    assert_eq!(psp.platform_status().reported_tcb[6], 1);
    psp.set_config(SnpConfig::default()).unwrap();
    assert_eq!(psp.platform_status().reported_tcb, packed(base.committed_tcb));
    psp.commit().unwrap();
    assert_eq!(psp.platform_status().reported_tcb, packed(newer));
    let reserved = SnpConfig { reported_tcb: [0, 0, 1, 0, 0, 0, 0, 0], ..SnpConfig::default() };
    assert_eq!(psp.set_config(reserved), Err(Status::InvalidParam));
    let mut bytes = [0; 64];
    bytes[8] = 3;
    assert!(SnpConfig::from_bytes(&bytes).is_ok_and(|config| config.mask_chip_id && config.mask_chip_key));
    bytes[12] = 1;
    assert_eq!(SnpConfig::from_bytes(&bytes), Err(Status::InvalidParam));
}

#[test]
fn a_vlek_is_loaded_if_it_was_wrapped_for_this_chip() {
    let mut machine = Machine::milan();
    let tcb = machine.psp.config().committed_tcb;
    let good = machine.psp.wrap_vlek([9; 32], tcb);
    for at in [0x000, 0x010, 0x1a0] {
        let mut bad = good;
        bad[at] ^= 1;
        assert_eq!(machine.psp.vlek_load(&bad), Err(Status::BadMeasurement), "byte {at:#x}");
    }
    let mut newer = good;
    newer[0x196] += 1;
    assert_eq!(machine.psp.vlek_load(&newer), Err(Status::InvalidParam));
    assert!(!machine.psp.platform_status().vlek_en);
    machine.psp.vlek_load(&good).unwrap();
    assert!(machine.psp.platform_status().vlek_en);
}

#[test]
fn a_status_has_its_fields_where_the_driver_reads_them() {
    let mut machine = Machine::milan();
    machine.running();
    let bytes = machine.psp.platform_status().to_bytes();
    assert_eq!(bytes[..5], [1, 55, 1, 3, 40]);
    assert_eq!(bytes[8..12], (1u32 << 3).to_le_bytes());
    assert_eq!(bytes[12..16], 1u32.to_le_bytes());
    assert_eq!(bytes[16..24], machine.psp.config().current_tcb.to_bytes(Model::Milan));
}

#[test]
fn a_shutdown_needs_flushed_caches_and_says_what_the_firmware_keeps() {
    let mut machine = Machine::milan();
    machine.running();
    let Machine { hw, psp } = &mut machine;
    psp.decommission(hw, CONTEXT).unwrap();
    assert_eq!(psp.shutdown(hw), Err(Status::DfFlushRequired));
    hw.asids.wbinvd_all();
    psp.df_flush(hw).unwrap();
    assert_eq!(psp.shutdown(hw), Ok(Some(Violation::FirmwarePagesLeft(1))));
    assert_eq!(psp.shutdown(hw), Ok(None));
    psp.init(hw).unwrap();
    assert_eq!(hw.rmp.entries().count(), 0);
}

#[test]
fn features_are_those_of_the_model() {
    let ecx = |model| Machine::new(&config(model)).psp.feature_info().ecx();
    assert_eq!([ecx(Model::Milan), ecx(Model::Turin)], [0, 1 << 2 | 1 << 4 | 1 << 5]);
}

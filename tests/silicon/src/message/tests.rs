//! Both sides of the messages against each other, and everything a host can do in between.

use super::*;
use crate::bytes::{put, take, take_u32};
use crate::fixture::{CONTEXT, Machine, REQUEST, RESPONSE, SECRETS, at, private_read};
use crate::psp::cpuid::CpuidFunction;
use crate::psp::secrets::vmpcks;
use crate::psp::{PageKind, Policy, Status};
use crate::report::{REPORT_BYTES, SIGNED_BYTES};
use crate::rmp::Assignment;
use crate::units::{Page, PageSize};

/// A machine whose guest runs, and the guest's end at a level.
fn talking(vmpl: u8) -> (Machine, GuestChannel) {
    let mut machine = Machine::milan();
    let asid = machine.running();
    let secrets = machine.hw.guest_read(private_read(asid), at(SECRETS)).unwrap();
    (machine, GuestChannel::new(vmpl, vmpcks(&secrets)[usize::from(vmpl)]))
}

/// What the kernel does: gives the response's page to the firmware, and takes it back.
fn carry(machine: &mut Machine, request: &Page) -> Result<Page, Status> {
    machine.hw.host_write(REQUEST, request).unwrap();
    machine.firmware(RESPONSE);
    let outcome = machine.psp.guest_request(&mut machine.hw, CONTEXT, REQUEST, RESPONSE);
    machine.psp.page_reclaim(&mut machine.hw, RESPONSE, PageSize::Size4K).unwrap();
    machine.hw.rmp.rmpupdate(RESPONSE, Assignment::default()).unwrap();
    outcome.map(|()| machine.hw.host_read(RESPONSE))
}

fn ask(machine: &mut Machine, guest: &mut GuestChannel, kind: u8, payload: &[u8]) -> Vec<u8> {
    let response = carry(machine, &guest.request(kind, payload)).unwrap();
    let (answered, text) = guest.response(&response).unwrap();
    assert_eq!(answered, kind + 1);
    text
}

fn report_request(data: u8, vmpl: u32, key: u32) -> Vec<u8> {
    let mut request = vec![0; 0x60];
    put(&mut request, 0, &[data; 64]);
    put(&mut request, 0x40, &vmpl.to_le_bytes());
    put(&mut request, 0x44, &key.to_le_bytes());
    request
}

fn key_request(select: u32, fields: u64, vmpl: u32, svn: u32) -> Vec<u8> {
    let mut request = vec![0; 0x20];
    put(&mut request, 0, &select.to_le_bytes());
    put(&mut request, 8, &fields.to_le_bytes());
    put(&mut request, 0x10, &vmpl.to_le_bytes());
    put(&mut request, 0x14, &svn.to_le_bytes());
    request
}

#[test]
fn a_guest_gets_reports_about_itself() {
    let (mut machine, mut guest) = talking(0);
    for round in 1..4 {
        let text = ask(&mut machine, &mut guest, 5, &report_request(round, 1, 0));
        assert_eq!((take_u32(&text, 0), take_u32(&text, 4)), (0, 1184));
        assert_eq!(text.len(), 0x20 + REPORT_BYTES);
        assert_eq!(text[0x20 + 0x50], round);
        assert_eq!(take::<48>(&text, 0x20 + 0x90), machine.psp.guest(CONTEXT).unwrap().digest());
        assert!(text[0x20 + SIGNED_BYTES..].iter().any(|byte| *byte != 0));
    }
}

#[test]
fn what_is_wrong_with_a_request_is_the_responses_status() {
    let (mut machine, mut guest) = talking(2);
    let mut status = |kind, payload: &[u8]| take_u32(&ask(&mut machine, &mut guest, kind, payload), 0);
    assert_eq!(status(5, &report_request(0, 2, 0)), 0);
    assert_eq!(status(5, &report_request(0, 1, 0)), 0x16, "a more privileged level than the key's");
    assert_eq!(status(5, &report_request(0, 4, 0)), 0x16, "no level");
    assert_eq!(status(5, &report_request(0, 3, 3)), 0x16, "no key");
    assert_eq!(status(5, &report_request(0, 3, 2)), 0x27, "no VLEK is loaded");
    assert_eq!(status(5, &[0; 0x5f]), 0x16, "too short");
    assert_eq!(status(3, &key_request(0, 1 << 6, 2, 0)), 0x16, "no field");
    assert_eq!(status(3, &key_request(0, 0, 2, 1)), 0x16, "above the guest's SVN");
    assert_eq!(status(3, &key_request(0, 0, 1, 0)), 0x16, "a more privileged level");
    assert_eq!(status(3, &key_request(4, 0, 2, 0)), 0x27, "no VLEK is loaded");
    assert_eq!(status(1, &[0xff; 16]), 0x16, "too many functions");
}

#[test]
fn a_response_that_was_kept_changed_or_swapped_is_not_accepted() {
    let (mut machine, mut guest) = talking(0);
    let first = carry(&mut machine, &guest.request(5, &report_request(1, 0, 0))).unwrap();
    for byte in [0x00, 0x34, 0x36, 0x60, 0x4ff] {
        let mut changed = first;
        changed[byte] ^= 1;
        assert_eq!(guest.response(&changed), Err(ResponseError::Unauthentic), "byte {byte:#x}");
    }
    guest.response(&first).unwrap();
    assert_eq!(guest.response(&first), Err(ResponseError::Number { found: 2, expected: 4 }));
}

#[test]
fn a_request_that_was_changed_does_not_authenticate() {
    let (mut machine, mut guest) = talking(0);
    let good = guest.request(5, &report_request(1, 0, 0));
    for byte in [0x00, 0x34, 0x35, 0x60, 0xbf] {
        let mut changed = good;
        changed[byte] ^= 1;
        assert_eq!(carry(&mut machine, &changed), Err(Status::BadMeasurement), "byte {byte:#x}");
    }
    for byte in [0x10, 0x28, 0x30, 0x31, 0x32, 0x38, 0x3d, 0x5f] {
        let mut changed = good;
        changed[byte] ^= 0x80;
        assert_eq!(carry(&mut machine, &changed), Err(Status::InvalidParam), "byte {byte:#x}");
    }
    let mut other_key = good;
    other_key[0x3c] = 1;
    assert_eq!(carry(&mut machine, &other_key), Err(Status::BadMeasurement));
    // None of that used the number up.
    guest.response(&carry(&mut machine, &good).unwrap()).unwrap();
}

#[test]
fn a_number_is_good_once() {
    let (mut machine, mut guest) = talking(0);
    let first = guest.request(5, &report_request(1, 0, 0));
    guest.response(&carry(&mut machine, &first).unwrap()).unwrap();
    assert_eq!(carry(&mut machine, &first), Err(Status::InvalidParam), "replayed");
    let mut ahead = guest.request(5, &report_request(1, 0, 0));
    ahead[0x20] += 2;
    assert_eq!(carry(&mut machine, &ahead), Err(Status::InvalidParam));
    ask(&mut machine, &mut guest, 5, &report_request(1, 0, 0));
}

#[test]
fn levels_have_keys_and_numbers_of_their_own() {
    let (mut machine, mut first) = talking(0);
    let key = machine.psp.guest(CONTEXT).unwrap().vmpcks[3];
    let mut last = GuestChannel::new(3, key);
    ask(&mut machine, &mut first, 5, &report_request(1, 0, 0));
    ask(&mut machine, &mut last, 5, &report_request(1, 3, 0));
    ask(&mut machine, &mut first, 5, &report_request(1, 3, 0));
}

#[test]
fn a_key_runs_out_of_numbers_before_one_is_used_twice() {
    let (mut machine, guest) = talking(0);
    machine.psp.guests.get_mut(&CONTEXT).unwrap().messages[0] = u64::MAX - 1;
    let request = guest.request(5, &report_request(1, 0, 0));
    assert_eq!(carry(&mut machine, &request), Err(Status::AeadOflow));
}

#[test]
fn unknown_types_and_versions_are_refused() {
    let (mut machine, guest) = talking(0);
    for kind in [0, 2, 6, 7, 19] {
        assert_eq!(carry(&mut machine, &guest.request(kind, &[])), Err(Status::InvalidParam), "type {kind}");
    }
}

#[test]
fn a_derived_key_depends_on_what_it_is_mixed_with() {
    let (mut machine, mut guest) = talking(0);
    let mut key = |request: &[u8]| -> [u8; 32] {
        let text = ask(&mut machine, &mut guest, 3, request);
        assert_eq!(take_u32(&text, 0), 0);
        take(&text, 0x20)
    };
    let chips = key(&key_request(0, 0, 0, 0));
    assert_eq!(chips, key(&key_request(0, 0, 0, 0)));
    for other in [key_request(1, 0, 0, 0), key_request(0, 0b1000, 0, 0), key_request(0, 0, 1, 0)] {
        assert_ne!(chips, key(&other));
    }
    let (mut machine, mut guest) = talking(0);
    let again = take::<32>(&ask(&mut machine, &mut guest, 3, &key_request(0, 0, 0, 0)), 0x20);
    assert_eq!(chips, again, "the same chip, another guest, nothing of it mixed in");
}

#[test]
fn cpuid_is_answered_with_what_the_processor_has() {
    let (mut machine, mut guest) = talking(0);
    let wrong = CpuidFunction { function: 7, registers: [0, u32::MAX, 0, 0], ..CpuidFunction::default() };
    let mut ask_cpuid = |function: CpuidFunction| {
        let mut request = vec![0; 16];
        put(&mut request, 0, &1u32.to_le_bytes());
        request.extend(function.to_bytes());
        let text = ask(&mut machine, &mut guest, 1, &request);
        (take_u32(&text, 0), take_u32(&text, 4), CpuidFunction::from_bytes(&text[16..]))
    };
    assert_eq!(ask_cpuid(wrong), (0x16, 1, wrong.corrected()));
    assert_eq!(ask_cpuid(wrong.corrected()), (0, 1, wrong.corrected()));
}

#[test]
fn only_a_running_guest_is_answered_and_only_in_a_firmware_page() {
    let mut machine = Machine::milan();
    let asid = machine.started(Policy::usual());
    machine.add(asid, SECRETS, PageKind::Secrets, &[0; 4096]).unwrap();
    let guest = GuestChannel::new(0, machine.psp.guest(CONTEXT).unwrap().vmpcks[0]);
    let request = guest.request(5, &report_request(1, 0, 0));
    assert_eq!(carry(&mut machine, &request), Err(Status::InvalidGuestState));
    machine.psp.launch_finish(CONTEXT, Default::default()).unwrap();
    machine.hw.host_write(REQUEST, &request).unwrap();
    let Machine { hw, psp } = &mut machine;
    assert_eq!(psp.guest_request(hw, CONTEXT, REQUEST, RESPONSE), Err(Status::InvalidPageState));
    assert!(carry(&mut machine, &request).is_ok());
}

#[test]
fn the_host_sees_no_report_on_its_way() {
    let (mut machine, guest) = talking(0);
    let response = carry(&mut machine, &guest.request(5, &report_request(0x77, 0, 0))).unwrap();
    let digest = machine.psp.guest(CONTEXT).unwrap().digest();
    assert!(!response.windows(48).any(|window| window == digest || window == [0x77; 48]));
}

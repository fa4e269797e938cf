//! Law 8, no-silent-trust: header and piece table come from the host.

use super::*;
use crate::abi::{ACPI_BASE, AP_TRAMPOLINE, ZERO_PAGE};
use proptest::prelude::*;
use zerocopy::{FromBytes, FromZeros};

const STAGING_GPA: u64 = 0x1_4000_0000;
const IMAGE_LEN: u64 = 0x1_8000;
const MIB: u64 = 1 << 20;

fn header() -> StagingHeader {
    StagingHeader {
        magic: STAGING_MAGIC,
        version: ABI_VERSION,
        tee: TEE_SW,
        staging_gpa: STAGING_GPA,
        staging_len: 64 * MIB,
        image_offset: 0x8_0000,
        ram_low_len: 512 * MIB,
        ram_high_len: 512 * MIB,
        pieces_offset: 0x1000,
        piece_count: 4,
        vcpus: 2,
        tsc_khz: 2_596_100,
        payload: PAYLOAD_LINUX,
        doorbell_port: 0xd80,
        serial_port: 0x3f8,
        pci_io_base: 0xc000,
        pci_io_len: 0x1000,
        pci_gsi: 10,
        flags: 0,
    }
}

fn table() -> [Piece; 4] {
    let piece = |kind, src_offset, dst_gpa, len| Piece { kind, reserved: 0, src_offset, dst_gpa, len, sha256: [0; 32] };
    [
        piece(1, 0x10_0000, SETUP_COPY, 0x5000),
        piece(2, 0x10_5000, 16 * MIB, 12 * MIB),
        piece(3, 0xd0_5000, 480 * MIB, 30 * MIB + 17),
        piece(4, 0x2d0_6000, CMDLINE, 30),
    ]
}

fn refused(change: impl FnOnce(&mut StagingHeader)) -> HeaderError {
    let mut header = header();
    change(&mut header);
    check_header(&header, STAGING_GPA, IMAGE_LEN).unwrap_err()
}

fn refused_piece(change: impl FnOnce(&mut [Piece; 4])) -> PieceError {
    let header = header();
    let place = check_header(&header, STAGING_GPA, IMAGE_LEN).unwrap();
    let mut table = table();
    change(&mut table);
    check_pieces(&header, &place.ram, &table).unwrap_err()
}

#[test]
fn a_plan_as_the_vmm_makes_it_is_accepted() {
    let place = check_header(&header(), STAGING_GPA, IMAGE_LEN).unwrap();
    assert_eq!(place.staging, GpaRange::new(STAGING_GPA, 64 * MIB).unwrap());
    assert_eq!(place.ram.end(), (1 << 32) + 512 * MIB);
    let pieces = check_pieces(&header(), &place.ram, &table()).unwrap();
    assert_eq!(pieces.iter().count(), 4);
    assert_eq!(pieces.initrd.unwrap().destination().len(), 30 * MIB + 17);
}

#[test]
fn no_silent_trust_header_fields() {
    assert_eq!(refused(|h| h.magic = 7), HeaderError::Magic(7));
    assert_eq!(refused(|h| h.version = 9), HeaderError::Version(9));
    let moved = HeaderError::Address { field: 0x1000, register: STAGING_GPA };
    assert_eq!(refused(|h| h.staging_gpa = 0x1000), moved);
    type Change = fn(&mut StagingHeader);
    let cases: &[(Change, &str)] = &[
        (|h| h.tee = 2, "tee is 0x2, which is unknown"),
        (|h| h.staging_len = 0, "staging_len is 0x0, which is empty"),
        (|h| h.staging_len += 1, "staging_len is 0x4000001, which is not aligned"),
        (|h| h.ram_low_len = 3 * MIB, "ram_low_len is 0x300000, which is too little for the firmware"),
        (|h| h.ram_low_len = 0xfee0_0000, "ram_low_len is 0xfee00000, which is beyond the start of the 32-bit hole"),
        (|h| h.ram_high_len = 1 << 47, "ram_high_len is 0x800000000000, which is more than can be mapped"),
        (|h| h.vcpus = 0, "vcpus is 0x0, which is not between 1 and 255"),
        (|h| h.vcpus = 256, "vcpus is 0x100, which is not between 1 and 255"),
        (|h| h.tsc_khz = 0, "tsc_khz is 0x0, which is not a frequency"),
        (|h| h.payload = 3, "payload is 0x3, which is unknown"),
        (|h| h.flags = 2, "flags is 0x2, which is more than the known flags"),
        (|h| h.piece_count = 17, "piece_count is 0x11, which is more than 16"),
        (|h| h.pci_gsi = 4, "pci_gsi is 0x4, which is not a free line of the PIC"),
        (|h| h.serial_port = 0xfffa, "serial_port is 0xfffa, which is beyond the last I/O port"),
        (|h| h.doorbell_port = 0x3fe, "doorbell_port is 0x3fe, which is in the way of another port"),
        (|h| h.doorbell_port = 0x602, "doorbell_port is 0x602, which is in the way of another port"),
        (|h| h.pci_io_len = 0x4001, "pci_io_base is 0xc000, which is beyond the last I/O port"),
        (|h| h.pci_io_base = 0x3f0, "pci_io_base is 0x3f0, which is in the way of another port"),
        (|h| h.pieces_offset = 4, "pieces_offset is 0x4, which is not aligned"),
    ];
    for (change, text) in cases {
        assert_eq!(refused(change).to_string(), *text);
    }
    let outside = refused(|h| h.pieces_offset = u64::MAX - 7);
    assert!(matches!(outside, HeaderError::Outside { what: "piece table", .. }), "{outside}");
    let outside = refused(|h| h.image_offset = h.staging_len - 1);
    assert!(matches!(outside, HeaderError::Outside { what: "image", .. }), "{outside}");
}

#[test]
fn no_silent_trust_staging_place() {
    for (gpa, len) in [
        (1 << 32, 64 * MIB),                  // in high RAM
        (512 * MIB, 64 * MIB),                // below 4 GiB
        ((1 << 47) - 4096, 8192),             // beyond the lower half
        (u64::MAX - 4095, 4096),              // wraps
        ((1 << 32) + 512 * MIB - 4096, 4096), // last page of high RAM
    ] {
        let mut header = header();
        (header.staging_gpa, header.staging_len) = (gpa, len);
        let error = check_header(&header, gpa, 0x100).unwrap_err();
        assert!(matches!(error, HeaderError::Place(_)), "{gpa:#x}: {error}");
    }
}

#[test]
fn no_silent_trust_piece_fields() {
    let at = |index, problem| PieceError { index, problem };
    assert_eq!(refused_piece(|t| t[2].kind = 9), at(2, PieceProblem::Kind(9)));
    assert_eq!(refused_piece(|t| t[0].reserved = 1), at(0, PieceProblem::Reserved(1)));
    let zero = at(1, PieceProblem::Length(0));
    assert_eq!(refused_piece(|t| t[1].len = 0), zero);
    assert_eq!(refused_piece(|t| t[0].len = SETUP_MAX + 1), at(0, PieceProblem::Length(SETUP_MAX + 1)));
    assert_eq!(refused_piece(|t| t[3].len = CMDLINE_MAX + 1), at(3, PieceProblem::Length(CMDLINE_MAX + 1)));
    let twice = refused_piece(|t| (t[2].kind, t[2].len) = (2, 4096));
    assert_eq!(twice, at(2, PieceProblem::Repeated(PieceKind::KernelPayload)));
    for (offset, len) in [(0x10_0001, 0x1000), (64 * MIB, 1), (63 * MIB, MIB + 1), (u64::MAX - 4095, 4096)] {
        let error = refused_piece(|t| (t[1].src_offset, t[1].len) = (offset, len));
        assert_eq!(error, at(1, PieceProblem::Source { offset, len }));
    }
}

#[test]
fn no_silent_trust_piece_destinations() {
    for (gpa, len, why) in [
        (0, 4096, "in the first MiB"),
        (ZERO_PAGE, 4096, "in the first MiB"),
        (AP_TRAMPOLINE, 4096, "in the first MiB"),
        (CMDLINE, 4096, "in the first MiB"),
        (ACPI_BASE, 4096, "in the first MiB"),
        (FW_BASE, 4096, "the firmware's own place"),
        (FW_END - 4096, 8192, "the firmware's own place"),
        (480 * MIB - 1, 4096, "not page aligned"),
        (512 * MIB, 4096, "not RAM"),
        (512 * MIB - 4096, 8192, "not RAM"),
        (0xfee0_0000, 4096, "not RAM"),
        ((1 << 32) + 512 * MIB, 4096, "not RAM"),
        (STAGING_GPA, 4096, "not RAM"),
        (u64::MAX - 4095, 8192, "beyond 64 bits"),
        (16 * MIB, 4096, "taken by another piece"),
        (28 * MIB - 4096, 4096, "taken by another piece"),
    ] {
        let error = refused_piece(|t| (t[2].dst_gpa, t[2].len) = (gpa, len));
        assert_eq!(error.problem, PieceProblem::Destination { gpa, len, why }, "{gpa:#x}");
    }
    let error = refused_piece(|t| t[3].dst_gpa += 1);
    assert!(error.to_string().ends_with("is not the place of its kind"), "{error}");
}

#[test]
fn the_self_test_takes_options_and_no_kernel() {
    let mut header = header();
    header.payload = PAYLOAD_SELF_TEST;
    let place = check_header(&header, STAGING_GPA, IMAGE_LEN).unwrap();
    let options = &table()[3..];
    assert!(check_pieces(&header, &place.ram, options).unwrap().cmdline.is_some());
    assert!(check_pieces(&header, &place.ram, &[]).is_ok());
    let error = check_pieces(&header, &place.ram, &table()).unwrap_err();
    assert_eq!(error.problem, PieceProblem::Unwanted(PieceKind::KernelSetup));
}

/// A header in which any fields are replaced by interesting numbers.
fn mutated() -> impl Strategy<Value = StagingHeader> {
    let numbers = prop_oneof![
        any::<u64>(),
        Just(0),
        Just(u64::MAX),
        (0u32..64).prop_map(|bit| 1 << bit),
        (0u64..1 << 20).prop_map(|page| page << 12),
    ];
    proptest::collection::vec((0usize..12, numbers), 0..3).prop_map(|changes| {
        let mut words: [u64; 12] = zerocopy::transmute!(header());
        for (index, value) in changes {
            words[index] = value;
        }
        StagingHeader::read_from_bytes(zerocopy::IntoBytes::as_bytes(&words)).unwrap()
    })
}

fn any_piece() -> impl Strategy<Value = Piece> {
    let place =
        || prop_oneof![any::<u64>(), (0u64..0x14_0000).prop_map(|page| page << 12), Just(CMDLINE), Just(SETUP_COPY)];
    let len = prop_oneof![any::<u64>(), 0u64..0x100_0000];
    (0u32..6, 0u32..2, place(), place(), len).prop_map(|(kind, reserved, src_offset, dst_gpa, len)| Piece {
        kind,
        reserved: reserved & kind,
        src_offset,
        dst_gpa,
        len,
        sha256: [0; 32],
    })
}

proptest! {
    /// Whatever the bytes, the answer is an error or a plan in which nothing overlaps and everything fits.
    #[test]
    fn an_accepted_header_is_consistent(header in mutated(), register in prop_oneof![Just(STAGING_GPA), any::<u64>()]) {
        if let Ok(place) = check_header(&header, register, IMAGE_LEN) {
            prop_assert_eq!(place.staging.start(), register);
            prop_assert!(place.ram.ranges().iter().all(|ram| !ram.overlaps(place.staging)));
            prop_assert!(place.staging.start() >= FOUR_GIB && place.staging.end() <= ADDRESS_MAX);
            prop_assert!(place.ram.low.len() >= FW_END);
            let table_end = header.pieces_offset + u64::from(header.piece_count) * 64;
            prop_assert!(table_end <= header.staging_len && header.image_offset + IMAGE_LEN <= header.staging_len);
        }
    }

    #[test]
    fn an_accepted_table_is_consistent(table in proptest::collection::vec(any_piece(), 0..5)) {
        let header = header();
        let place = check_header(&header, STAGING_GPA, IMAGE_LEN).unwrap();
        if let Ok(pieces) = check_pieces(&header, &place.ram, &table) {
            prop_assert_eq!(pieces.iter().count(), table.len());
            let claimed = [
                GpaRange::new(ZERO_PAGE, PAGE_SIZE).unwrap(),
                GpaRange::new(AP_TRAMPOLINE, PAGE_SIZE).unwrap(),
                GpaRange::between(ACPI_BASE, FW_END),
            ];
            let all: Vec<GpaRange> = pieces.iter().map(|piece| piece.destination()).chain(claimed).collect();
            for (index, range) in all.iter().enumerate() {
                prop_assert!(place.ram.contains(*range));
                prop_assert!(all[index + 1..].iter().all(|other| !range.overlaps(*other)));
            }
            prop_assert!(pieces.iter().all(|piece| piece.src_offset + piece.len <= header.staging_len));
        }
    }

    /// Bytes of no meaning at all never panic.
    #[test]
    fn any_bytes_are_an_answer_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 96), pieces in proptest::collection::vec(any::<u8>(), 256)) {
        let mut header = StagingHeader::read_from_bytes(&bytes).unwrap();
        let _ = check_header(&header, header.staging_gpa, IMAGE_LEN);
        header.magic = STAGING_MAGIC;
        header.version = ABI_VERSION;
        let _ = check_header(&header, header.staging_gpa, IMAGE_LEN);
        let mut table: [Piece; 4] = FromZeros::new_zeroed();
        zerocopy::IntoBytes::as_mut_bytes(&mut table).copy_from_slice(&pieces);
        let ram = Ram { low: GpaRange::between(0, 512 * MIB), high: GpaRange::between(FOUR_GIB, FOUR_GIB) };
        let _ = check_pieces(&header, &ram, &table);
    }
}

//! Walks the tables as an operating system would.

use super::*;
use crate::abi::{ACPI_BASE, PM1A_CONTROL_PORT, PM1A_EVENT_PORT};
use proptest::prelude::*;

const BASE: u32 = 0xe_0000;

fn machine(vcpus: u32) -> Machine {
    Machine { vcpus, serial_port: 0x3f8, pci_io_base: 0xc000, pci_io_len: 0x1000, pci_gsi: 10 }
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
}

/// The table at an address, its length, signature and checksum checked.
fn table<'a>(block: &'a [u8], gpa: u64, signature: &[u8; 4]) -> &'a [u8] {
    let bytes = &block[usize::try_from(gpa).unwrap() - BASE as usize..];
    assert_eq!(&bytes[..4], signature);
    let table = &bytes[..u32_at(bytes, 4) as usize];
    if signature != b"FACS" {
        assert_eq!(sum(table), 0, "checksum of {}", String::from_utf8_lossy(signature));
    }
    table
}

fn tables(block: &[u8]) -> (&[u8], &[u8]) {
    assert_eq!(&block[..8], b"RSD PTR ");
    assert_eq!(sum(&block[..20]), 0);
    assert_eq!(sum(&block[..36]), 0);
    let xsdt = table(block, u64_at(block, 24), b"XSDT");
    assert_eq!(xsdt.len(), 36 + 2 * 8);
    (table(block, u64_at(xsdt, 36), b"FACP"), table(block, u64_at(xsdt, 44), b"APIC"))
}

#[test]
fn the_address_of_the_rsdp_is_the_one_the_zero_page_names() {
    assert_eq!(u64::from(BASE), ACPI_BASE);
}

#[test]
fn fadt_names_power_and_reset_registers() {
    let block = build(&machine(1), BASE).unwrap();
    let (fadt, _) = tables(&block);
    assert_eq!((fadt.len(), fadt[8]), (276, 6));
    assert_eq!(u32_at(fadt, 48), 0, "SMI_CMD: always in ACPI mode");
    assert_eq!(u32_at(fadt, 56), u32::from(PM1A_EVENT_PORT));
    assert_eq!(u32_at(fadt, 64), u32::from(PM1A_CONTROL_PORT));
    assert_eq!(u32_at(fadt, 76), 0, "no PM timer");
    assert_eq!((fadt[88], fadt[89], fadt[91]), (4, 2, 0));
    assert_eq!(u64_at(fadt, 120), 0xcf9, "RESET_REG");
    assert_eq!(fadt[128], 6, "RESET_VALUE");
    assert_eq!((fadt[148], fadt[149], u64_at(fadt, 152)), (1, 32, 0x600), "X_PM1a_EVT_BLK");
    assert_eq!((fadt[172], fadt[173], u64_at(fadt, 176)), (1, 16, 0x604), "X_PM1a_CNT_BLK");
    let facs = u32_at(fadt, 36);
    assert_eq!(facs % 64, 0);
    table(&block, facs.into(), b"FACS");
    assert_eq!(u64::from(u32_at(fadt, 40)), u64_at(fadt, 140), "DSDT and X_DSDT");
    table(&block, u64_at(fadt, 140), b"DSDT");
}

/// Finds a name in byte code and returns what follows it.
fn after<'a>(code: &'a [u8], name: &[u8; 4]) -> &'a [u8] {
    let at = code.windows(4).position(|window| window == name).unwrap();
    &code[at + 4..]
}

/// Reads an integer of byte code (ACPI 6.5 §20.2.3) and returns what follows it.
fn integer(code: &[u8]) -> (u64, &[u8]) {
    let len = match code[0] {
        0 | 1 => return (code[0].into(), &code[1..]),
        0x0a => 1,
        0x0b => 2,
        0x0c => 4,
        0x0e => 8,
        other => panic!("{other:#x} is not an integer"),
    };
    let mut value = [0; 8];
    value[..len].copy_from_slice(&code[1..1 + len]);
    (u64::from_le_bytes(value), &code[1 + len..])
}

/// Enters a package (§20.2.5.4): the number of its elements, and the first of them.
fn package(code: &[u8]) -> (u8, &[u8]) {
    assert_eq!(code[0], 0x12, "not a package");
    // The upper two bits of the first byte of a length say how many bytes follow it (§20.2.4).
    let elements = 2 + usize::from(code[1] >> 6);
    (code[elements], &code[elements + 1..])
}

#[test]
fn dsdt_s5_agrees_with_the_value_the_self_test_writes() {
    let block = build(&machine(1), BASE).unwrap();
    let (fadt, _) = tables(&block);
    let dsdt = table(&block, u64_at(fadt, 140), b"DSDT");
    let (count, elements) = package(after(dsdt, b"_S5_"));
    assert_eq!(count, 4);
    let (sleep_type, _) = integer(elements);
    assert_eq!(u64::from(crate::abi::POWER_OFF), sleep_type << 10 | 1 << 13);
}

#[test]
fn dsdt_routes_every_pin_of_every_device() {
    let block = build(&machine(1), BASE).unwrap();
    let (fadt, _) = tables(&block);
    let dsdt = table(&block, u64_at(fadt, 140), b"DSDT");
    let (count, mut rest) = package(after(dsdt, b"_PRT"));
    assert_eq!(count, 128);
    for device in 0..32u64 {
        for pin in 0..4 {
            let (count, mut element) = package(rest);
            assert_eq!(count, 4);
            for expected in [device << 16 | 0xffff, pin, 0, 10] {
                let (value, next) = integer(element);
                assert_eq!(value, expected, "device {device} pin {pin}");
                element = next;
            }
            rest = element;
        }
    }
}

#[test]
fn more_tables_than_room_are_an_error() {
    assert!(build(&machine(255), BASE).is_ok());
    assert!(build(&machine(1), 0xf_f800).is_err());
}

proptest! {
    /// Every processor has exactly one x2APIC entry; there is no xAPIC entry and no I/O APIC.
    #[test]
    fn madt_lists_each_processor_once(vcpus in 1u32..=255) {
        let block = build(&machine(vcpus), BASE).unwrap();
        let (_, madt) = tables(&block);
        prop_assert_eq!(u32_at(madt, 40), 1, "PCAT_COMPAT");
        let mut ids = Vec::new();
        let mut rest = &madt[44..];
        while !rest.is_empty() {
            match rest[0] {
                9 => {
                    prop_assert_eq!(u32_at(rest, 8), 1, "enabled");
                    prop_assert_eq!(u32_at(rest, 4), u32_at(rest, 12));
                    ids.push(u32_at(rest, 4));
                }
                10 => prop_assert_eq!(u32_at(rest, 4), u32::MAX),
                kind => prop_assert!(false, "entry of type {}", kind),
            }
            rest = &rest[usize::from(rest[1])..];
        }
        prop_assert_eq!(ids, (0..vcpus).collect::<Vec<_>>());
    }
}

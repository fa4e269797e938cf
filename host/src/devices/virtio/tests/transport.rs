//! Capabilities, negotiation, interrupts and resets.

use super::*;
use crate::devices::test_support::driver::{
    ACCESS_PLATFORM, CONSOLE, Capability, Driver, VERSION_1, capabilities, config_address, config_read, config_write,
    inb, inl, inw, out,
};
use crate::devices::test_support::{TestMemory, devices};
use vm_memory::{Bytes, GuestAddress};

#[test]
fn capabilities_lie_in_the_bar() {
    let memory = TestMemory::new(MEMORY);
    let (devices, _) = devices(&memory);
    let bus = devices.bus();
    assert_eq!(config_read(bus, CONSOLE, 0), 0x1043_1af4);
    assert_eq!(config_read(bus, CONSOLE, 0x3c), 0x0000_010a, "INTA at interrupt 10");
    let found = capabilities(bus, CONSOLE);
    let mut kinds: Vec<u8> = found.iter().map(|capability| capability.kind).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, [1, 2, 3, 4, 5]);
    let mut parts: Vec<&Capability> = found.iter().filter(|capability| capability.kind != 5).collect();
    parts.sort_unstable_by_key(|capability| capability.offset);
    for pair in parts.windows(2) {
        assert!(pair[0].offset + pair[0].length <= pair[1].offset, "{pair:?}");
    }
    assert!(parts.iter().all(|part| part.offset.is_multiple_of(4) && part.offset + part.length <= 256));
    let notify = found.iter().find(|capability| capability.kind == 2).unwrap();
    assert_eq!(config_read(bus, CONSOLE, notify.at + 16), 0, "one address for all queues");
}

#[test]
fn features_must_be_offered_and_complete() {
    let memory = TestMemory::new(MEMORY);
    let (devices, _) = devices(&memory);
    let driver = Driver::bind(devices.bus(), &memory);
    assert_eq!(driver.offered(), VERSION_1 | ACCESS_PLATFORM);
    for refused in [0, VERSION_1, ACCESS_PLATFORM, VERSION_1 | ACCESS_PLATFORM | 1, u64::MAX] {
        assert!(!driver.negotiate(refused), "{refused:#x}");
        // Without FEATURES_OK there is no DRIVER_OK.
        driver.set_status(0xf);
        assert_eq!(driver.status(), 0x3);
    }
    assert!(driver.negotiate(VERSION_1 | ACCESS_PLATFORM));
    // What was accepted stays, and status bits cannot be taken back.
    out(&driver.bus, driver.common + 12, &0u32.to_le_bytes());
    assert_eq!(inl(&driver.bus, driver.common + 12), 3);
    driver.set_status(1);
    assert_eq!(driver.status(), 0xb);
    driver.set_status(0);
    assert_eq!(driver.status(), 0);
    assert_eq!(inl(&driver.bus, driver.common + 12), 0);
}

#[test]
fn queue_registers_follow_the_selected_queue() {
    let memory = TestMemory::new(MEMORY);
    let (devices, _) = devices(&memory);
    let driver = Driver::bind(devices.bus(), &memory);
    let bus = &driver.bus;
    assert_eq!(inw(bus, driver.common + 0x12), 2);
    out(bus, driver.common + 0x16, &[2, 0]);
    assert_eq!(inw(bus, driver.common + 0x18), 0, "a queue that does not exist");
    assert!(driver.negotiate(VERSION_1 | ACCESS_PLATFORM));
    driver.enable(&transmit_queue());
    assert_eq!(inw(bus, driver.common + 0x1c), 1);
    // An enabled queue cannot be moved.
    out(bus, driver.common + 0x20, &[0xff; 4]);
    out(bus, driver.common + 0x18, &[1, 0]);
    assert_eq!(u64::from(inl(bus, driver.common + 0x20)), TRANSMIT_RINGS);
    assert_eq!(inw(bus, driver.common + 0x18), 64);
    out(bus, driver.common + 0x16, &[0, 0]);
    assert_eq!(inw(bus, driver.common + 0x1c), 0);
    assert_eq!(inw(bus, driver.common + 0x18), 64);
}

#[test]
fn interrupts_are_levels_acknowledged_by_reading() {
    let memory = TestMemory::new(MEMORY);
    let (mut devices, line, driver) = started(&memory);
    let mut queue = transmit_queue();
    driver.start(&[queue]);
    driver.descriptor(&queue, 0, BUFFERS, 4, 0, 0);
    driver.offer(&mut queue, 0);
    assert_eq!(driver.wait_used(&mut queue), (0, 0));
    while !line.is_high() {
        std::thread::yield_now();
    }
    let status = |driver: &Driver| config_read(&driver.bus, CONSOLE, 0x04) >> 16 & 0b1000;
    assert_eq!(status(&driver), 0b1000);
    // A driver can keep the pin quiet without losing the interrupt.
    config_write(&driver.bus, CONSOLE, 0x04, 0b101 | 1 << 10);
    assert!(!line.is_high());
    config_write(&driver.bus, CONSOLE, 0x04, 0b101);
    assert!(line.is_high());
    assert_eq!(inb(&driver.bus, driver.isr), 1);
    assert!(!line.is_high());
    assert_eq!((inb(&driver.bus, driver.isr), status(&driver)), (0, 0));
    // A driver that polls is not interrupted.
    memory.guest().write_obj(1u16, GuestAddress(queue.available)).unwrap();
    driver.offer(&mut queue, 0);
    driver.wait_used(&mut queue);
    devices.stop().unwrap();
    assert_eq!((inb(&driver.bus, driver.isr), line.rises()), (0, 2));
}

#[test]
fn registers_are_reachable_through_configuration_space() {
    let memory = TestMemory::new(MEMORY);
    let (devices, _) = devices(&memory);
    let bus = devices.bus();
    let found = capabilities(bus, CONSOLE);
    let at = |kind| *found.iter().find(|capability| capability.kind == kind).unwrap();
    let (window, common) = (at(5).at, at(1).offset);
    let aim = |offset: u32, length: u32| {
        config_write(bus, CONSOLE, window + 8, offset);
        config_write(bus, CONSOLE, window + 12, length);
    };
    // Without the I/O BAR being decoded at all.
    aim(common + 0x14, 1);
    config_write(bus, CONSOLE, window + 16, 0x03);
    assert_eq!(config_read(bus, CONSOLE, window + 16) & 0xff, 0x03);
    aim(common + 0x12, 2);
    assert_eq!(config_read(bus, CONSOLE, window + 16) & 0xffff, 2);
    // Descriptions of no access are not accesses.
    for (offset, length) in [(common + 1, 2), (255, 2), (common, 3), (0x1_0000, 4), (u32::MAX, 4), (common, 0)] {
        aim(offset, length);
        config_write(bus, CONSOLE, window + 16, 0);
        config_read(bus, CONSOLE, window + 16);
    }
    aim(common + 0x14, 1);
    assert_eq!(config_read(bus, CONSOLE, window + 16) & 0xff, 0x03);
    out(bus, 0xcf8, &config_address(CONSOLE, window + 16));
    assert_eq!(inb(bus, 0xcfc), 0x03);
}

#[test]
fn reset_takes_everything_back() {
    let memory = TestMemory::new(MEMORY);
    let (mut devices, line, driver) = started(&memory);
    for round in 1..=20u64 {
        let mut queue = transmit_queue();
        driver.start(&[receive_queue(), queue]);
        assert_eq!(driver.status(), 0xf);
        driver.descriptor(&queue, 5, BUFFERS, 4, 0, 0);
        driver.offer(&mut queue, 5);
        assert_eq!(driver.wait_used(&mut queue), (5, 0));
        driver.set_status(0);
        assert_eq!((driver.status(), line.is_high(), inb(&driver.bus, driver.isr)), (0, false, 0));
        out(&driver.bus, driver.common + 0x16, &[1, 0]);
        assert_eq!(inw(&driver.bus, driver.common + 0x1c), 0);
        // After a reset the rings are the driver's: nothing in them is looked at or changed.
        driver.offer(&mut queue, 5);
        assert_eq!(driver.used(&mut queue), None);
        assert_eq!(devices.counts().console.chains, round);
    }
    devices.stop().unwrap();
    assert_eq!(devices.counts().console.resets, 2 * 20);
}

//! no-silent-trust: a guest may write anything anywhere.

use super::*;
use crate::devices::test_support::driver::{ACCESS_PLATFORM, CONSOLE, Driver, NEXT, VERSION_1, WRITE, config_address};
use crate::devices::test_support::{PAGE, TestMemory, devices};
use proptest::prelude::*;
use std::sync::Arc;
use std::thread;
use vm_memory::{Bytes, GuestAddress};

/// Lets `abuse` use a transmit queue, and expects that the device asks for a reset and still stops.
fn breaks_the_ring(what: &str, abuse: impl FnOnce(&Driver, &mut Queue)) {
    let memory = TestMemory::new(MEMORY);
    let (mut devices, _, driver) = started(&memory);
    let mut tx = transmit_queue();
    driver.start(&[tx]);
    abuse(&driver, &mut tx);
    while driver.status() & NEEDS_RESET == 0 {
        assert_eq!(driver.used(&mut tx), None, "{what}");
    }
    devices.stop().unwrap();
    let counts = devices.counts().console;
    assert_eq!((counts.broken_rings, counts.refused_rings), (1, 0), "{what}");
}

#[test]
fn no_silent_trust_rings() {
    breaks_the_ring("a chain that is a loop", |driver, tx| {
        driver.descriptor(tx, 0, BUFFERS, 1, NEXT, 1);
        driver.descriptor(tx, 1, BUFFERS, 1, NEXT, 0);
        driver.offer(tx, 0);
    });
    breaks_the_ring("a link out of the table", |driver, tx| {
        driver.descriptor(tx, 0, BUFFERS, 1, NEXT, 64);
        driver.offer(tx, 0);
    });
    breaks_the_ring("a head out of the table", |driver, tx| driver.offer(tx, 64));
    breaks_the_ring("more chains than the queue has", |driver, tx| {
        driver.memory.guest().write_obj(65u16, GuestAddress(tx.available + 2)).unwrap();
        driver.notify(1);
    });
    breaks_the_ring("more than 4 GiB in a chain", |driver, tx| {
        driver.descriptor(tx, 0, BUFFERS, u32::MAX, NEXT, 1);
        driver.descriptor(tx, 1, BUFFERS, 1, 0, 0);
        driver.offer(tx, 0);
    });
    breaks_the_ring("an indirect table, which is not offered, that loops", |driver, tx| {
        let table = Queue::at(9, 64, BUFFERS);
        driver.descriptor(&table, 0, BUFFERS, 1, NEXT, 0);
        driver.descriptor(tx, 0, BUFFERS, 16 * 64, 4, 0);
        driver.offer(tx, 0);
    });
}

#[test]
fn no_silent_trust_queue_setup() {
    let memory = TestMemory::new(MEMORY);
    let (devices, _) = devices(&memory);
    let driver = Driver::bind(devices.bus(), &memory);
    let good = transmit_queue();
    let bad = [
        ("size 0", Queue { size: 0, ..good }),
        ("size not a power of two", Queue { size: 48, ..good }),
        ("size above the maximum", Queue { size: 128, ..good }),
        ("misaligned descriptors", Queue { descriptors: good.descriptors + 8, ..good }),
        ("misaligned available ring", Queue { available: good.available + 1, ..good }),
        ("misaligned used ring", Queue { used: good.used + 2, ..good }),
    ];
    for (what, queue) in bad {
        assert!(driver.negotiate(VERSION_1 | ACCESS_PLATFORM));
        driver.enable(&queue);
        assert_eq!(driver.status(), 0xb | NEEDS_RESET, "{what}");
    }
    assert_eq!(devices.counts().console.broken_rings, 6);
    // Rings outside memory are found out when the driver says it is ready, and rings that wrap around as well.
    for descriptors in [MEMORY as u64, u64::MAX - 0xf, 1 << 60] {
        assert!(driver.negotiate(VERSION_1 | ACCESS_PLATFORM));
        driver.enable(&Queue { descriptors, ..good });
        driver.set_status(0xf);
        assert_eq!(driver.status(), 0xf | NEEDS_RESET, "{descriptors:#x}");
    }
    assert_eq!(devices.counts().console.refused_rings, 3);
}

#[test]
fn no_silent_trust_notifications() {
    let memory = TestMemory::new(MEMORY);
    let (mut devices, _, driver) = started(&memory);
    // Before any set-up, for queues that are there and queues that are not.
    for queue in [0, 1, 2, 0xffff] {
        driver.notify(queue);
    }
    driver.start(&[]);
    driver.notify(1);
    assert_eq!(driver.status(), 0xf);
    devices.stop().unwrap();
    let counts = devices.counts().console;
    assert_eq!((counts.notifications, counts.bad_notifications), (3, 2));
}

/// A buffer of 4 GiB over and over: outside memory it is refused, inside it is copied in bounded pieces.
#[test]
fn no_silent_trust_lengths() {
    let memory = TestMemory::new(MEMORY);
    let (mut devices, _, driver) = started(&memory);
    let mut tx = transmit_queue();
    driver.start(&[tx]);
    for (head, address) in [(0, MEMORY as u64), (1, u64::MAX - 10), (2, u64::MAX - u64::from(u32::MAX) + 1)] {
        driver.descriptor(&tx, head, address, u32::MAX, 0, 0);
        driver.offer(&mut tx, head);
        assert_eq!(driver.wait_used(&mut tx), (head.into(), 0));
    }
    // Starts inside memory and runs out of it: what is inside goes out.
    driver.descriptor(&tx, 3, MEMORY as u64 - 0x2_0000, u32::MAX, 0, 0);
    let out = devices.console().from_guest();
    let got = thread::scope(|scope| {
        let host = scope.spawn(|| {
            let mut buffer = vec![0; 0x1_0000];
            (0..2).map(|_| out.receive(&mut buffer)).sum::<usize>()
        });
        driver.offer(&mut tx, 3);
        driver.wait_used(&mut tx);
        host.join().unwrap()
    });
    assert!(got > 0 && got <= 0x2_0000);
    devices.stop().unwrap();
    assert_eq!(devices.counts().console.refused_reads, 4);
}

/// One step of a guest gone mad.
#[derive(Debug, Clone)]
enum Step {
    Port(u16, u32, usize),
    Register(u16, u32, usize),
    Config(u8, u32),
    Descriptor(u16, u16, u64, u32, u16, u16),
    Offer(u16, u16),
    Memory(u64, u16),
    Start,
}

fn step() -> impl Strategy<Value = Step> {
    let address = prop_oneof![
        0u64..MEMORY as u64,
        PRIVATE.start - 100..PRIVATE.end,
        Just(BUFFERS),
        Just(u64::MAX - 100),
        any::<u64>()
    ];
    let len = prop_oneof![0u32..0x3000, any::<u32>()];
    let rings = prop_oneof![RECEIVE_RINGS..RECEIVE_RINGS + 3 * PAGE, TRANSMIT_RINGS..TRANSMIT_RINGS + 3 * PAGE];
    prop_oneof![
        2 => (any::<u16>(), any::<u32>(), 0usize..3).prop_map(|(port, value, width)| Step::Port(port, value, width)),
        6 => (0u16..0x70, prop_oneof![0u32..16, any::<u32>()], 0usize..3).prop_map(|(at, value, width)| Step::Register(at, value, width)),
        2 => (any::<u8>(), any::<u32>()).prop_map(|(register, value)| Step::Config(register, value)),
        6 => (0u16..2, 0u16..64, address, len, 0u16..8, 0u16..66).prop_map(|(q, at, address, len, flags, next)| Step::Descriptor(q, at, address, len, flags, next)),
        6 => (0u16..2, 0u16..65).prop_map(|(queue, head)| Step::Offer(queue, head)),
        2 => (rings, any::<u16>()).prop_map(|(address, value)| Step::Memory(address & !1, value)),
        3 => Just(Step::Start),
    ]
}

/// What private memory holds; it must never come out, and never change.
const SECRET: u8 = 0xa5;
const PRIVATE: std::ops::Range<u64> = 0x30_0000..0x30_0000 + 16 * PAGE;

fn run(steps: &[Step]) {
    let memory = TestMemory::new(MEMORY);
    for page in (PRIVATE.start..PRIVATE.end).step_by(4096) {
        memory.guest().write_slice(&[SECRET; 4096], GuestAddress(page)).unwrap();
        memory.make_private(page);
    }
    let (mut devices, _) = devices(&memory);
    devices.start().unwrap();
    let bus = Arc::clone(devices.bus());
    let driver = Driver::bind(&bus, &memory);
    let mut queues = [receive_queue(), transmit_queue()];
    let (to_guest, from_guest) = (devices.console().to_guest(), devices.console().from_guest());
    let came_out = thread::scope(|scope| {
        scope.spawn(move || while to_guest.send(&[0x11; 500]).is_ok() {});
        let host = scope.spawn(move || {
            let mut buffer = [0; 4096];
            let mut secrets = 0;
            loop {
                match from_guest.receive(&mut buffer) {
                    0 => return secrets,
                    len => secrets += buffer[..len].iter().filter(|byte| **byte == SECRET).count(),
                }
            }
        });
        for step in steps {
            match *step {
                // Ports that end the VM are somebody else's test.
                Step::Port(port, value, width) => drop(bus.write(port, &value.to_le_bytes()[..1 << width])),
                Step::Register(at, value, width) => {
                    let _ = bus.write(driver.common + at, &value.to_le_bytes()[..1 << width]);
                    bus.read(driver.common + at, &mut [0; 4][..1 << width]);
                }
                Step::Config(register, value) => {
                    let _ = bus.write(0xcf8, &config_address(CONSOLE, register));
                    let _ = bus.write(0xcfc, &value.to_le_bytes());
                }
                Step::Descriptor(queue, at, address, len, flags, next) => {
                    driver.descriptor(&queues[usize::from(queue)], at, address, len, flags ^ WRITE, next);
                }
                Step::Offer(queue, head) => {
                    let slot = u64::from(head % 64);
                    let queue = &mut queues[usize::from(queue)];
                    memory.guest().write_obj(head, GuestAddress(queue.available + 4 + 2 * slot)).unwrap();
                    let index = GuestAddress(queue.available + 2);
                    let before: u16 = memory.guest().read_obj(index).unwrap();
                    memory.guest().write_obj(before.wrapping_add(1), index).unwrap();
                    let _ = bus.write(driver.notify, &queue.index.to_le_bytes());
                }
                Step::Memory(address, value) => memory.guest().write_obj(value, GuestAddress(address)).unwrap(),
                Step::Start => {
                    // The BAR may have been moved away by now; then this does nothing, as for a guest.
                    let _ = bus.write(0xcf8, &config_address(CONSOLE, 0x10));
                    let _ = bus.write(0xcfc, &0xc001u32.to_le_bytes());
                    let _ = bus.write(0xcf8, &config_address(CONSOLE, 0x04));
                    let _ = bus.write(0xcfc, &5u32.to_le_bytes());
                    driver.start(&queues);
                }
            }
        }
        devices.stop().unwrap();
        host.join().unwrap()
    });
    assert_eq!(came_out, 0, "private bytes came out");
    let mut data = vec![0; usize::try_from(PRIVATE.end - PRIVATE.start).unwrap()];
    memory.guest().read_slice(&mut data, GuestAddress(PRIVATE.start)).unwrap();
    assert!(data.iter().all(|byte| *byte == SECRET), "private memory changed");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    /// no-silent-trust and shared-only: whatever a guest writes to ports, configuration space, rings and descriptors,
    /// the device threads neither panic nor hang, and private memory is neither read nor written.
    #[test]
    fn no_silent_trust_anything(steps in proptest::collection::vec(step(), 1..120)) {
        run(&steps);
    }
}

//! no-silent-trust: a guest may say anything about ports, and do anything to their queues.

use super::*;
use crate::devices::test_support::driver::config_address;
use proptest::prelude::*;

/// Messages that mean nothing are counted and change nothing.
#[test]
fn no_silent_trust_messages() {
    let memory = TestMemory::new(MEMORY);
    let (mut devices, _, [one, _two]) = served(&memory);
    let mut guest = Guest::ready(&devices, &memory);
    let bad = [
        (2, PORT_READY, 1),
        (2, PORT_OPEN, 1),
        (NO_PORT, PORT_OPEN, 0),
        (NO_PORT, PORT_READY, 1),
        (0, PORT_OPEN, 2),
        (0, PORT_OPEN, 0xffff),
        (0, PORT_READY, 2),
        (0, DEVICE_READY, 2),
        (0, PORT_ADD, 1),
        (0, PORT_NAME, 1),
        (0, 2, 1),
        (0, 4, 1),
        (0, 5, 1),
        (0, 8, 1),
        (0, 0xffff, 1),
    ];
    for (id, event, value) in bad {
        guest.say(id, event, value);
    }
    // Too short, of no length, and out of shared memory.
    let at = buffer(CONTROL_TRANSMIT, 1);
    guest.say_bytes(at, &[0, 0, 0, 0, 6, 0, 1]);
    guest.say_bytes(at, &[]);
    memory.make_private(at);
    guest.say_bytes(at, &[0, 0, 0, 0, 6, 0, 1, 0]);
    memory.make_shared(at);
    assert_eq!(guest.heard(), None);
    let (_, counts) = devices.counts().channels.unwrap();
    assert_eq!((counts.bad_messages, counts.sessions), (bad.len() as u64 + 3, 0));
    // What follows a message means nothing, and neither does repeating one.
    guest.say_bytes(at, &[[0, 0, 0, 0, 6, 0, 1, 0].as_slice(), &[0xff; 4000]].concat());
    guest.open(0);
    guest.write(0, b"one session");
    guest.close(0);
    guest.close(0);
    assert_eq!(all_of(&one.accept().unwrap()), b"one session");
    devices.stop().unwrap();
    assert_eq!(devices.counts().channels.unwrap().1.sessions, 1);
}

/// However much a guest asks, it is answered once for each buffer it gives: nothing is kept but what is so.
#[test]
fn no_silent_trust_a_flood_of_requests() {
    let memory = TestMemory::new(MEMORY);
    let (mut devices, _, _channels) = served(&memory);
    let driver = Driver::bind_to(CHANNELS, devices.bus(), &memory);
    let queues: Vec<Queue> = (0..QUEUES).map(queue).collect();
    driver.start_with(MULTIPORT, &queues);
    let mut guest = Guest { driver, queues, free: Default::default() };
    for _ in 0..500 {
        guest.say(NO_PORT, DEVICE_READY, 1);
        guest.say(1, PORT_READY, 1);
        guest.open(1);
        guest.close(1);
    }
    // No buffer was there for any answer. Two are, then many.
    let receive = |guest: &mut Guest, heads: std::ops::Range<u16>| {
        for head in heads {
            let queue = &mut guest.queues[usize::from(CONTROL_RECEIVE)];
            guest.driver.descriptor(queue, head, buffer(CONTROL_RECEIVE, head), 4096, WRITE, 0);
            guest.driver.offer(queue, head);
        }
    };
    receive(&mut guest, 0..2);
    // Of a port that the driver says it has, it need not be told that there is one.
    assert_eq!(guest.hear(), said(0, PORT_ADD, 1));
    assert_eq!(guest.hear(), (1, PORT_NAME, 1, NAMES[1].to_owned()));
    receive(&mut guest, 2..60);
    assert_eq!(guest.hear(), said(1, PORT_OPEN, 1));
    devices.stop().unwrap();
    assert_eq!(guest.heard(), None);
}

/// A buffer for messages that is private, or too small, costs the guest a message and nobody else anything.
#[test]
fn no_silent_trust_buffers_for_messages() {
    let memory = TestMemory::new(MEMORY);
    let (mut devices, _, _channels) = served(&memory);
    let driver = Driver::bind_to(CHANNELS, devices.bus(), &memory);
    let queues: Vec<Queue> = (0..QUEUES).map(queue).collect();
    driver.start_with(MULTIPORT, &queues);
    let mut guest = Guest { driver, queues, free: Default::default() };
    guest.say(NO_PORT, DEVICE_READY, 1);
    let private = buffer(CONTROL_RECEIVE, 0);
    memory.guest().write_slice(&[0xa5; 8], GuestAddress(private)).unwrap();
    memory.make_private(private);
    let queue = &mut guest.queues[usize::from(CONTROL_RECEIVE)];
    for (head, address, len, written) in
        [(0, private, 4096, 0), (1, private + PAGE, 3, 3), (2, private + 2 * PAGE, 64, 8)]
    {
        guest.driver.descriptor(queue, head, address, len, WRITE, 0);
        guest.driver.offer(queue, head);
        assert_eq!(guest.driver.wait_used(queue), (head.into(), written));
    }
    devices.stop().unwrap();
    let mut kept = [0; 8];
    memory.guest().read_slice(&mut kept, GuestAddress(private)).unwrap();
    assert_eq!(kept, [0xa5; 8]);
    let mut second = [0; 8];
    memory.guest().read_slice(&mut second, GuestAddress(private + 2 * PAGE)).unwrap();
    assert_eq!(parse(&second), said(1, PORT_ADD, 1), "the message that was refused was said again, the short one not");
}

/// A ring whose index says that more is there than can be: found out when the port is opened or closed.
#[test]
fn no_silent_trust_a_ring_that_lies_about_what_was_sent() {
    let memory = TestMemory::new(MEMORY);
    let (mut devices, _, _channels) = served(&memory);
    let mut guest = Guest::ready(&devices, &memory);
    let index = GuestAddress(guest.queues[usize::from(TRANSMIT[0])].available + 2);
    // Nobody is notified.
    memory.guest().write_obj(65u16, index).unwrap();
    let message = [0u8, 0, 0, 0, 6, 0, 1, 0];
    let at = buffer(CONTROL_TRANSMIT, 0);
    memory.guest().write_slice(&message, GuestAddress(at)).unwrap();
    let queue = &mut guest.queues[usize::from(CONTROL_TRANSMIT)];
    guest.driver.offer(queue, 0);
    while guest.driver.status() & NEEDS_RESET == 0 {
        thread::yield_now();
    }
    devices.stop().unwrap();
    assert_eq!(devices.counts().channels.unwrap().0.broken_rings, 1);
}

/// One step of a guest gone mad.
#[derive(Debug, Clone)]
enum Step {
    Register(u16, u32, usize),
    Config(u8, u32),
    Descriptor(u16, u16, u64, u32, u16, u16),
    Offer(u16, u16),
    Ring(u16, u64, u16),
    Say(u32, u16, u16),
    Start,
}

/// What private memory holds; it must never come out, and never change.
const SECRET: u8 = 0xa5;
const PRIVATE: std::ops::Range<u64> = 0x30_0000..0x30_0000 + 16 * PAGE;

fn step() -> impl Strategy<Value = Step> {
    let address = prop_oneof![
        0u64..MEMORY as u64,
        PRIVATE.start - 100..PRIVATE.end,
        Just(BUFFERS),
        Just(u64::MAX - 100),
        any::<u64>()
    ];
    let len = prop_oneof![0u32..0x3000, any::<u32>()];
    let id = prop_oneof![0u32..3, Just(NO_PORT), any::<u32>()];
    let event = prop_oneof![0u16..9, Just(PORT_OPEN), any::<u16>()];
    prop_oneof![
        4 => (0u16..0x70, prop_oneof![0u32..16, any::<u32>()], 0usize..3).prop_map(|(at, value, width)| Step::Register(at, value, width)),
        1 => (any::<u8>(), any::<u32>()).prop_map(|(register, value)| Step::Config(register, value)),
        6 => (0..QUEUES, 0u16..64, address, len, 0u16..8, 0u16..66).prop_map(|(q, at, address, len, flags, next)| Step::Descriptor(q, at, address, len, flags, next)),
        6 => (0..QUEUES, 0u16..65).prop_map(|(queue, head)| Step::Offer(queue, head)),
        1 => (0..QUEUES, 0..3 * PAGE, any::<u16>()).prop_map(|(queue, at, value)| Step::Ring(queue, at & !1, value)),
        9 => (id, event, prop_oneof![0u16..3, any::<u16>()]).prop_map(|(id, event, value)| Step::Say(id, event, value)),
        3 => Just(Step::Start),
    ]
}

fn run(steps: &[Step]) {
    let memory = TestMemory::new(MEMORY);
    for page in (PRIVATE.start..PRIVATE.end).step_by(4096) {
        memory.guest().write_slice(&[SECRET; 4096], GuestAddress(page)).unwrap();
        memory.make_private(page);
    }
    let (mut devices, _, channels) = served(&memory);
    let bus = Arc::clone(devices.bus());
    let driver = Driver::bind_to(CHANNELS, &bus, &memory);
    let queues: Vec<Queue> = (0..QUEUES).map(queue).collect();
    let came_out = thread::scope(|scope| {
        let servers = channels.map(|channel| {
            scope.spawn(move || {
                let mut secrets = 0;
                while let Some(session) = channel.accept() {
                    let session = &session;
                    secrets += thread::scope(|scope| {
                        scope.spawn(|| while session.send(&[0x11; 500]).is_ok() {});
                        all_of(session).iter().filter(|byte| **byte == SECRET).count()
                    });
                }
                secrets
            })
        });
        let offer = |queue: &Queue, head: u16| {
            let index = GuestAddress(queue.available + 2);
            let before: u16 = memory.guest().read_obj(index).unwrap();
            let slot = GuestAddress(queue.available + 4 + 2 * u64::from(before % 64));
            memory.guest().write_obj(head, slot).unwrap();
            memory.guest().write_obj(before.wrapping_add(1), index).unwrap();
            let _ = bus.write(driver.notify, &queue.index.to_le_bytes());
        };
        for step in steps {
            match *step {
                Step::Register(at, value, width) => {
                    let _ = bus.write(driver.common + at, &value.to_le_bytes()[..1 << width]);
                    bus.read(driver.common + at, &mut [0; 4][..1 << width]);
                }
                Step::Config(register, value) => {
                    let _ = bus.write(0xcf8, &config_address(CHANNELS, register));
                    let _ = bus.write(0xcfc, &value.to_le_bytes());
                }
                Step::Descriptor(queue, at, address, len, flags, next) => {
                    driver.descriptor(&queues[usize::from(queue)], at, address, len, flags ^ WRITE, next);
                }
                Step::Offer(queue, head) => offer(&queues[usize::from(queue)], head),
                Step::Ring(queue, at, value) => {
                    let ring = queues[usize::from(queue)].descriptors;
                    memory.guest().write_obj(value, GuestAddress(ring + at)).unwrap();
                }
                Step::Say(id, event, value) => {
                    let message = [&id.to_le_bytes()[..], &event.to_le_bytes(), &value.to_le_bytes()].concat();
                    let (queue, at) = (&queues[usize::from(CONTROL_TRANSMIT)], buffer(CONTROL_TRANSMIT, 63));
                    memory.guest().write_slice(&message, GuestAddress(at)).unwrap();
                    driver.descriptor(queue, 63, at, 8, 0, 0);
                    offer(queue, 63);
                }
                Step::Start => {
                    // The BAR may have been moved away by now; then this does nothing, as for a guest.
                    let base = (u32::from(driver.common) | 1).to_le_bytes();
                    for (register, value) in [(0x10, base), (0x04, [5, 0, 0, 0])] {
                        let _ = bus.write(0xcf8, &config_address(CHANNELS, register));
                        let _ = bus.write(0xcfc, &value);
                    }
                    driver.start_with(MULTIPORT, &queues);
                }
            }
        }
        devices.stop().unwrap();
        servers.into_iter().map(|server| server.join().unwrap()).sum::<usize>()
    });
    assert_eq!(came_out, 0, "private bytes came out");
    let mut data = vec![0; usize::try_from(PRIVATE.end - PRIVATE.start).unwrap()];
    memory.guest().read_slice(&mut data, GuestAddress(PRIVATE.start)).unwrap();
    assert!(data.iter().all(|byte| *byte == SECRET), "private memory changed");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    /// no-silent-trust and shared-only: whatever a guest says and writes, the threads of the channels neither panic nor
    /// hang, servers are released, and private memory is neither read nor written.
    #[test]
    fn no_silent_trust_anything(steps in proptest::collection::vec(step(), 1..150)) {
        run(&steps);
    }
}

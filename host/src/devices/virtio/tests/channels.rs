//! Channels as a guest sees them: a driver that does what Linux' does, and what it would find.

mod hostile;
mod sessions;

use super::*;
use crate::devices::test_support::driver::{CHANNELS, NEXT, WRITE, config_read, inb, inl};
use crate::devices::test_support::{PAGE, devices_with_channels};
use crate::devices::virtio::channels::Channel;
use std::collections::VecDeque;
use std::thread;
use vm_memory::{Bytes, GuestAddress};

const MULTIPORT: u64 = 1 << 1;
const NAMES: [&str; 2] = ["tenure.one", "tenure.two"];
const QUEUES: u16 = 6;
const CONTROL_RECEIVE: u16 = 2;
const CONTROL_TRANSMIT: u16 = 3;
/// Receive and transmit queues of the ports.
const RECEIVE: [u16; 2] = [0, 4];
const TRANSMIT: [u16; 2] = [1, 5];

const DEVICE_READY: u16 = 0;
const PORT_ADD: u16 = 1;
const PORT_READY: u16 = 3;
const PORT_OPEN: u16 = 6;
const PORT_NAME: u16 = 7;
/// Of no port.
const NO_PORT: u32 = u32::MAX;

fn queue(index: u16) -> Queue {
    Queue::at(index, 64, 0x1_0000 * (u64::from(index) + 1))
}

/// Where the buffer of a chain is.
fn buffer(queue: u16, head: u16) -> u64 {
    BUFFERS + (u64::from(queue) * 64 + u64::from(head)) * PAGE
}

/// A message, and what follows it.
type Said = (u32, u16, u16, String);

fn said(id: u32, event: u16, value: u16) -> Said {
    (id, event, value, String::new())
}

/// A guest's driver, as far as Linux' goes.
struct Guest {
    driver: Driver,
    queues: Vec<Queue>,
    /// Heads of transmit queues that are the driver's.
    free: [VecDeque<u16>; 2],
}

impl Guest {
    /// Has the device ready, with all receive buffers made available.
    fn start(devices: &Devices<TestMemory>, memory: &Arc<TestMemory>) -> Self {
        let driver = Driver::bind_to(CHANNELS, devices.bus(), memory);
        let queues: Vec<Queue> = (0..QUEUES).map(queue).collect();
        driver.start_with(MULTIPORT, &queues);
        let mut guest = Self { driver, queues, free: [(0..64).collect(), (0..64).collect()] };
        for queue in [CONTROL_RECEIVE, RECEIVE[0], RECEIVE[1]] {
            for head in 0..64 {
                guest.driver.descriptor(&guest.queues[usize::from(queue)], head, buffer(queue, head), 4096, WRITE, 0);
                guest.driver.offer(&mut guest.queues[usize::from(queue)], head);
            }
        }
        guest
    }

    /// The same, with both ports taken and found connected.
    fn ready(devices: &Devices<TestMemory>, memory: &Arc<TestMemory>) -> Self {
        let mut guest = Self::start(devices, memory);
        guest.say(NO_PORT, DEVICE_READY, 1);
        for port in [0, 1] {
            assert_eq!(guest.hear(), said(port, PORT_ADD, 1));
        }
        for port in [0, 1] {
            guest.say(port, PORT_READY, 1);
            assert_eq!(guest.hear(), (port, PORT_NAME, 1, NAMES[port as usize].to_owned()));
            assert_eq!(guest.hear(), said(port, PORT_OPEN, 1));
        }
        guest
    }

    /// Sends a message and spins until the device took it.
    fn say(&mut self, id: u32, event: u16, value: u16) {
        let message = [&id.to_le_bytes()[..], &event.to_le_bytes(), &value.to_le_bytes()].concat();
        self.say_bytes(buffer(CONTROL_TRANSMIT, 0), &message);
    }

    fn say_bytes(&mut self, at: u64, message: &[u8]) {
        self.driver.memory.guest().write_slice(message, GuestAddress(at)).unwrap();
        let queue = &mut self.queues[usize::from(CONTROL_TRANSMIT)];
        self.driver.descriptor(queue, 0, at, u32::try_from(message.len()).unwrap(), 0, 0);
        self.driver.offer(queue, 0);
        assert_eq!(self.driver.wait_used(queue), (0, 0));
    }

    /// Waits for a message.
    fn hear(&mut self) -> Said {
        parse(&self.wait_received(CONTROL_RECEIVE))
    }

    /// A message, if there is one.
    fn heard(&mut self) -> Option<Said> {
        self.received(CONTROL_RECEIVE).map(|bytes| parse(&bytes))
    }

    fn open(&mut self, port: usize) {
        self.say(u32::try_from(port).unwrap(), PORT_OPEN, 1);
    }

    /// As Linux: once the host was told, all that nobody read is thrown away.
    fn close(&mut self, port: usize) {
        self.say(u32::try_from(port).unwrap(), PORT_OPEN, 0);
        while self.received(RECEIVE[port]).is_some() {}
    }

    /// Writes up to a page without waiting for the device to take it; only for a free descriptor.
    fn write(&mut self, port: usize, data: &[u8]) {
        let queue = &mut self.queues[usize::from(TRANSMIT[port])];
        while let Some((head, _)) = self.driver.used(queue) {
            self.free[port].push_back(u16::try_from(head).unwrap());
        }
        let head = self.free[port].pop_front().unwrap_or_else(|| self.driver.wait_used(queue).0.try_into().unwrap());
        let at = buffer(TRANSMIT[port], head);
        self.driver.memory.guest().write_slice(data, GuestAddress(at)).unwrap();
        self.driver.descriptor(queue, head, at, u32::try_from(data.len()).unwrap(), 0, 0);
        self.driver.offer(queue, head);
    }

    fn read(&mut self, port: usize) -> Vec<u8> {
        self.wait_received(RECEIVE[port])
    }

    fn wait_received(&mut self, queue: u16) -> Vec<u8> {
        loop {
            if let Some(bytes) = self.received(queue) {
                return bytes;
            }
            assert_eq!(self.driver.status() & NEEDS_RESET, 0, "the device needs a reset");
            thread::yield_now();
        }
    }

    /// What the device put into the next buffer, which is made available again.
    fn received(&mut self, index: u16) -> Option<Vec<u8>> {
        let queue = &mut self.queues[usize::from(index)];
        let (head, len) = self.driver.used(queue)?;
        let head = u16::try_from(head).unwrap();
        let mut bytes = vec![0; usize::try_from(len).unwrap()];
        self.driver.memory.guest().read_slice(&mut bytes, GuestAddress(buffer(index, head))).unwrap();
        self.driver.offer(queue, head);
        Some(bytes)
    }
}

fn parse(bytes: &[u8]) -> Said {
    let [a, b, c, d, e, f, g, h] = *bytes.first_chunk().unwrap();
    let name = String::from_utf8(bytes[8..].to_vec()).unwrap();
    (u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([e, f]), u16::from_le_bytes([g, h]), name)
}

/// Devices at work, and the host's ends of both channels.
fn served(memory: &Arc<TestMemory>) -> (Devices<TestMemory>, Arc<TestLine>, [Channel; 2]) {
    let (mut devices, line) = devices_with_channels(memory, &NAMES);
    devices.start().unwrap();
    let channels = NAMES.map(|name| devices.channel(name).unwrap());
    (devices, line, channels)
}

/// Everything the guest sends until it closes the channel.
fn all_of(session: &crate::devices::virtio::channels::Session) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = [0; 1000];
    loop {
        match session.receive(&mut buffer) {
            0 => return all,
            len => all.extend_from_slice(&buffer[..len]),
        }
    }
}

/// Nothing of it is there unless it was asked for.
#[test]
fn there_is_no_device_without_channels() {
    let memory = TestMemory::new(MEMORY);
    let (without, _) = devices(&memory);
    assert_eq!(config_read(without.bus(), CHANNELS, 0), u32::MAX);
    assert_eq!(without.counts().channels, None);
    assert!(without.channel(NAMES[0]).is_none());
    let (with, _) = devices_with_channels(&memory, &NAMES);
    assert_eq!(config_read(with.bus(), CHANNELS, 0), 0x1043_1af4);
    assert_eq!(config_read(with.bus(), CHANNELS, 0x3c), 0x0000_010a, "INTA at the line of all devices");
    assert!(with.counts().channels.is_some());
}

#[test]
fn channels_must_be_told_apart() {
    let memory = TestMemory::new(MEMORY);
    let refused = |names: &[&'static str]| {
        let wiring = crate::devices::Wiring {
            serial_irq: Arc::new(TestLine::default()),
            pci_irq: Arc::new(TestLine::default()),
            serial_output: Box::new(std::io::sink()),
            channels: names.to_vec(),
        };
        Devices::new(wiring, Arc::clone(&memory)).err().map(|error| error.to_string()).unwrap()
    };
    assert_eq!(refused(&["a", "b", "a"]), "there are two channels a");
    assert_eq!(refused(&["x"; 32]), "32 channels: a device has 1 to 31");
}

/// The order of what is said is Linux': a port it has not taken it does not listen for.
#[test]
fn a_guest_finds_ports_and_their_names() {
    let memory = TestMemory::new(MEMORY);
    let (mut devices, _) = devices_with_channels(&memory, &NAMES);
    devices.start().unwrap();
    // Only one is served.
    let _second = devices.channel(NAMES[1]).unwrap();
    assert!(devices.channel(NAMES[1]).is_none(), "somebody has it");
    assert!(devices.channel("tenure.three").is_none());
    let mut guest = Guest::start(&devices, &memory);
    assert_eq!(guest.driver.offered() & 0xffff_ffff, MULTIPORT);
    assert_eq!(inl(&guest.driver.bus, guest.driver.config + 4), 2, "max_nr_ports");
    assert_eq!(guest.heard(), None, "nothing before the driver is ready");
    guest.say(NO_PORT, DEVICE_READY, 1);
    assert_eq!([guest.hear(), guest.hear()], [said(0, PORT_ADD, 1), said(1, PORT_ADD, 1)]);
    guest.say(1, PORT_READY, 1);
    assert_eq!(guest.hear(), (1, PORT_NAME, 1, "tenure.two".to_owned()));
    assert_eq!(guest.hear(), said(1, PORT_OPEN, 1));
    guest.say(0, PORT_READY, 1);
    assert_eq!(guest.hear(), (0, PORT_NAME, 1, "tenure.one".to_owned()));
    assert_eq!(guest.hear(), said(0, PORT_OPEN, 0), "nobody is there");
    // Somebody comes, and goes.
    let first = devices.channel(NAMES[0]).unwrap();
    assert_eq!(guest.hear(), said(0, PORT_OPEN, 1));
    drop(first);
    assert_eq!(guest.hear(), said(0, PORT_OPEN, 0));
    // A driver that could not take a port hears no more of it.
    guest.say(0, PORT_READY, 0);
    let _first = devices.channel(NAMES[0]).unwrap();
    // One that wakes up from hibernation asks like this.
    guest.say(1, PORT_READY, 1);
    assert_eq!(guest.hear(), (1, PORT_NAME, 1, "tenure.two".to_owned()));
    assert_eq!(guest.hear(), said(1, PORT_OPEN, 1));
    devices.stop().unwrap();
    assert_eq!(guest.heard(), None);
}

/// Console and channels have one line, which stays high until both were heard.
#[test]
fn two_functions_share_one_line() {
    let memory = TestMemory::new(MEMORY);
    let (mut devices, line, _channels) = served(&memory);
    let mut guest = Guest::start(&devices, &memory);
    let console = Driver::bind(devices.bus(), &memory);
    // The console's rings are where they are in no other queue's way.
    let mut rx = Queue::at(0, 64, 0x3a_0000);
    console.start(&[rx]);
    console.descriptor(&rx, 0, 0x3b_0000, 16, WRITE, 0);
    console.offer(&mut rx, 0);
    devices.console().to_guest().send_all(b"console").unwrap();
    assert_eq!(console.wait_used(&mut rx), (0, 7));
    guest.say(NO_PORT, DEVICE_READY, 1);
    while !line.is_high() {
        thread::yield_now();
    }
    guest.hear();
    guest.hear();
    devices.stop().unwrap();
    assert!(line.is_high());
    assert_eq!(inb(&guest.driver.bus, guest.driver.isr), 1);
    assert!(line.is_high(), "the console's interrupt is not acknowledged yet");
    assert_eq!(inb(&console.bus, console.isr), 1);
    assert!(!line.is_high());
}

/// Buffers in several pieces, the last of them too small for what is to be said.
#[test]
fn a_chain_of_two_buffers_is_one_message() {
    let memory = TestMemory::new(MEMORY);
    let (mut devices, _, [one, _two]) = served(&memory);
    let mut guest = Guest::ready(&devices, &memory);
    guest.open(0);
    let session = one.accept().unwrap();
    let queue = &mut guest.queues[usize::from(TRANSMIT[0])];
    let at = buffer(TRANSMIT[0], 0);
    memory.guest().write_slice(b"in two parts", GuestAddress(at)).unwrap();
    guest.driver.descriptor(queue, 0, at, 3, NEXT, 1);
    guest.driver.descriptor(queue, 1, at + 3, 9, 0, 0);
    guest.driver.offer(queue, 0);
    assert_eq!(guest.driver.wait_used(queue), (0, 0));
    guest.say(0, PORT_OPEN, 0);
    assert_eq!(all_of(&session), b"in two parts");
    devices.stop().unwrap();
}

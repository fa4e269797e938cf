//! Data arrives complete, in both directions, however slowly it is fetched; and private memory is never touched.

use super::*;
use crate::devices::pipe::BytePipe;
use crate::devices::test_support::driver::{Driver, NEXT, WRITE, inb};
use crate::devices::test_support::{PAGE, TestMemory};
use std::thread;
use vm_memory::{Bytes, GuestAddress};

const MIB: usize = 1 << 20;

fn bytes(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 251 + seed).to_le_bytes()[0]).collect()
}

/// Sends `data` as the guest does, in chains of two buffers of odd sizes.
fn transmit(driver: &Driver, queue: &mut Queue, data: &[u8]) {
    let mut free: Vec<u16> = (0..queue.size / 2).map(|pair| pair * 2).collect();
    for chunk in data.chunks(4099) {
        let head = free.pop().unwrap_or_else(|| u16::try_from(driver.wait_used(queue).0).unwrap());
        let buffer = BUFFERS + u64::from(head) * 2 * PAGE;
        let (first, second) = chunk.split_at(chunk.len() / 3);
        driver.memory.guest().write_slice(first, GuestAddress(buffer)).unwrap();
        driver.memory.guest().write_slice(second, GuestAddress(buffer + 2 * PAGE)).unwrap();
        let [first, second] = [first, second].map(|part| u32::try_from(part.len()).unwrap());
        driver.descriptor(queue, head, buffer, first, NEXT, head + 1);
        driver.descriptor(queue, head + 1, buffer + 2 * PAGE, second, 0, 0);
        driver.offer(queue, head);
    }
}

/// Receives `len` bytes as the guest does, with buffers of one page.
fn receive(driver: &Driver, queue: &mut Queue, len: usize) -> Vec<u8> {
    let base = BUFFERS + 0x10_0000;
    for head in 0..queue.size {
        driver.descriptor(queue, head, base + u64::from(head) * PAGE, 4096, WRITE, 0);
        driver.offer(queue, head);
    }
    let mut got = Vec::new();
    while got.len() < len {
        let (head, written) = driver.wait_used(queue);
        let mut data = vec![0; usize::try_from(written).unwrap()];
        driver.memory.guest().read_slice(&mut data, GuestAddress(base + u64::from(head) * PAGE)).unwrap();
        got.extend(data);
        driver.offer(queue, u16::try_from(head).unwrap());
    }
    got
}

/// Takes `len` bytes out of a pipe, a few at a time, so that the other side has to wait.
fn drain(pipe: &BytePipe, len: usize) -> Vec<u8> {
    let mut got = Vec::new();
    let mut buffer = [0; 1000];
    while got.len() < len {
        let received = pipe.receive(&mut buffer);
        got.extend_from_slice(&buffer[..received]);
    }
    got
}

#[test]
fn a_mebibyte_each_way_at_the_same_time() {
    let memory = TestMemory::new(MEMORY);
    let (mut devices, line, driver) = started(&memory);
    let (mut rx, mut tx) = (receive_queue(), transmit_queue());
    driver.start(&[rx, tx]);
    let (to_guest, from_guest) = (bytes(1, MIB), bytes(2, MIB));
    let (host_in, host_out) = (devices.console().to_guest(), devices.console().from_guest());
    thread::scope(|scope| {
        let host_sends = scope.spawn(|| host_in.send_all(&to_guest));
        let host_gets = scope.spawn(|| drain(&host_out, MIB));
        scope.spawn(|| transmit(&driver, &mut tx, &from_guest));
        assert!(receive(&driver, &mut rx, MIB) == to_guest);
        assert!(host_gets.join().unwrap() == from_guest);
        host_sends.join().unwrap().unwrap();
    });
    devices.stop().unwrap();
    let counts = devices.counts().console;
    assert_eq!((counts.read_bytes, counts.written_bytes), (MIB as u64, MIB as u64));
    assert_eq!((counts.refused_reads, counts.refused_writes, counts.refused_rings), (0, 0, 0));
    assert!(line.rises() > 0);
}

/// Nobody takes what the guest sends: the device waits, resets and stops all the same.
#[test]
fn a_host_that_does_not_listen_holds_up_nobody() {
    let memory = TestMemory::new(MEMORY);
    let (mut devices, _, driver) = started(&memory);
    let mut tx = transmit_queue();
    driver.start(&[tx]);
    for head in 0..tx.size {
        driver.descriptor(&tx, head, BUFFERS, 0x1_0000, 0, 0);
        driver.offer(&mut tx, head);
    }
    // The pipe is full after one buffer; the next chain is stuck.
    driver.wait_used(&mut tx);
    driver.set_status(0);
    assert_eq!(driver.status(), 0);
    devices.stop().unwrap();
    assert_eq!(devices.counts().console.chains, 1);
    // What was sent is still there.
    assert!(drain(&devices.console().from_guest(), 0x1_0000).len() >= 0x1_0000);
}

#[test]
fn closing_the_hosts_side_eats_no_buffers() {
    let memory = TestMemory::new(MEMORY);
    let (mut devices, _, driver) = started(&memory);
    let mut rx = receive_queue();
    driver.start(&[rx]);
    devices.console().to_guest().send_all(b"last words").unwrap();
    devices.console().to_guest().close();
    for head in 0..4 {
        driver.descriptor(&rx, head, BUFFERS, 16, WRITE, 0);
        driver.offer(&mut rx, head);
    }
    assert_eq!(driver.wait_used(&mut rx), (0, 10));
    devices.stop().unwrap();
    assert_eq!(driver.used(&mut rx), None);
}

/// shared-only: rings in private memory. This is a guest that was never told to share.
#[test]
fn shared_only_rings() {
    let memory = TestMemory::new(MEMORY);
    let (mut devices, line, driver) = started(&memory);
    for part in 0..3 {
        memory.make_private(TRANSMIT_RINGS + part * PAGE);
        driver.start(&[receive_queue(), transmit_queue()]);
        assert_eq!(driver.status(), 0xf | NEEDS_RESET);
        assert!(line.is_high());
        assert_eq!(inb(&driver.bus, driver.isr), 2, "a change of status, not of a queue");
        driver.notify(1);
        memory.make_shared(TRANSMIT_RINGS + part * PAGE);
        // Sharing it afterwards does not help: only a reset does.
        driver.notify(1);
        assert_eq!(driver.status(), 0xf | NEEDS_RESET);
    }
    let (mut tx, data) = (transmit_queue(), bytes(3, 10_000));
    driver.start(&[receive_queue(), tx]);
    transmit(&driver, &mut tx, &data);
    assert!(drain(&devices.console().from_guest(), data.len()) == data);
    devices.stop().unwrap();
    assert_eq!(devices.counts().console.refused_rings, 3);
}

/// shared-only: any part of the rings that becomes private while they are used.
#[test]
fn shared_only_rings_at_any_time() {
    let memory = TestMemory::new(MEMORY);
    let (mut devices, _, driver) = started(&memory);
    for part in 0..3 {
        let mut tx = transmit_queue();
        driver.start(&[tx]);
        driver.descriptor(&tx, 0, BUFFERS, 4, 0, 0);
        driver.offer(&mut tx, 0);
        driver.wait_used(&mut tx);
        memory.make_private(TRANSMIT_RINGS + part * PAGE);
        driver.offer(&mut tx, 0);
        while driver.status() & NEEDS_RESET == 0 {
            assert_eq!(driver.used(&mut tx), None);
        }
        memory.make_shared(TRANSMIT_RINGS + part * PAGE);
    }
    devices.stop().unwrap();
    let counts = devices.counts().console;
    assert_eq!((counts.refused_rings, counts.broken_rings), (3, 0));
}

/// A chain that was being worked off when the driver reset the device does not turn up in the rings after it.
#[test]
fn chains_from_before_a_reset_are_forgotten() {
    let memory = TestMemory::new(MEMORY);
    let (mut devices, _, driver) = started(&memory);
    let mut tx = transmit_queue();
    driver.start(&[tx]);
    for head in [0, 1] {
        driver.descriptor(&tx, head, BUFFERS, 0x1_0000, 0, 0);
        driver.offer(&mut tx, head);
    }
    // Only now is the second one certainly taken: the pipe holds the first, and somebody waits with the second. Two reads
    // are of the first, what it holds and that there is no more.
    driver.wait_used(&mut tx);
    while devices.counts().console.accepted_reads < 3 {
        thread::yield_now();
    }
    let mut tx = transmit_queue();
    driver.start(&[tx]);
    driver.descriptor(&tx, 7, BUFFERS, 1, 0, 0);
    driver.offer(&mut tx, 7);
    drain(&devices.console().from_guest(), 0x2_0001);
    assert_eq!(driver.wait_used(&mut tx), (7, 0));
    devices.stop().unwrap();
    assert_eq!(driver.used(&mut tx), None);
    assert_eq!(devices.counts().console.chains, 2);
}

/// shared-only: buffers in private memory are neither read nor written, the driver gets them back, and what they
/// could not hold goes into the next.
#[test]
fn shared_only_buffers() {
    let memory = TestMemory::new(MEMORY);
    let (mut devices, _, driver) = started(&memory);
    let (mut rx, mut tx) = (receive_queue(), transmit_queue());
    driver.start(&[rx, tx]);
    let (private, shared) = (BUFFERS, BUFFERS + PAGE);
    memory.guest().write_slice(b"secret", GuestAddress(private)).unwrap();
    memory.guest().write_slice(b"public", GuestAddress(shared)).unwrap();
    memory.make_private(private);

    // The second crosses from shared to private memory.
    for (head, address) in [(0, private), (1, private - 3), (2, shared)] {
        driver.descriptor(&tx, head, address, 6, 0, 0);
        driver.offer(&mut tx, head);
        assert_eq!(driver.wait_used(&mut tx), (head.into(), 0));
    }
    let mut got = [0; 16];
    let len = devices.console().from_guest().receive(&mut got);
    assert_eq!(&got[..len], b"public");

    devices.console().to_guest().send_all(b"answer").unwrap();
    for (head, address, written) in [(0, private, 0), (1, private - 3, 0), (2, shared, 6)] {
        driver.descriptor(&rx, head, address, 6, WRITE, 0);
        driver.offer(&mut rx, head);
        assert_eq!(driver.wait_used(&mut rx), (head.into(), written));
    }
    devices.stop().unwrap();
    let read = |address| {
        let mut data = [0; 6];
        memory.guest().read_slice(&mut data, GuestAddress(address)).unwrap();
        data
    };
    assert_eq!((&read(private), &read(shared)), (b"secret", b"answer"));
    let counts = devices.counts().console;
    assert_eq!((counts.accepted_reads, counts.refused_reads), (2, 2));
    assert_eq!((counts.accepted_writes, counts.refused_writes), (1, 2));
}

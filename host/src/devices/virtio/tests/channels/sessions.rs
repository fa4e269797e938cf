//! Sessions: who ends them, and that the bytes of one are not another's.

use super::*;
use crate::devices::virtio::channels::Session;
use proptest::prelude::*;

const MIB: usize = 1 << 20;

fn bytes(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 251 + seed).to_le_bytes()[0]).collect()
}

/// Reads as the guest does until it is told that the host hung up.
fn read_to_end(guest: &mut Guest, port: usize) -> Vec<u8> {
    let mut got = Vec::new();
    let id = u32::try_from(port).unwrap();
    loop {
        // In Linux' order: data that is there is read even if the host hung up.
        let hung_up = guest.heard();
        while let Some(data) = guest.received(RECEIVE[port]) {
            got.extend(data);
        }
        if let Some(message) = hung_up {
            assert_eq!(message, said(id, PORT_OPEN, 0));
            return got;
        }
        thread::yield_now();
    }
}

#[test]
fn a_mebibyte_each_way_on_each_channel() {
    let memory = TestMemory::new(MEMORY);
    let (mut devices, _, channels) = served(&memory);
    let mut guest = Guest::ready(&devices, &memory);
    for port in [0, 1] {
        let (to_guest, from_guest) = (bytes(port, MIB), bytes(port + 7, MIB));
        guest.open(port);
        let session = channels[port].accept().unwrap();
        thread::scope(|scope| {
            let (session, to_guest) = (&session, &to_guest);
            let got = scope.spawn(|| all_of(session));
            for chunk in from_guest.chunks(4000) {
                guest.write(port, chunk);
            }
            scope.spawn(|| session.send(to_guest).unwrap());
            let mut received = Vec::new();
            while received.len() < MIB {
                received.extend(guest.read(port));
            }
            assert!(received == *to_guest);
            guest.close(port);
            assert!(got.join().unwrap() == from_guest);
        });
    }
    devices.stop().unwrap();
    let (counts, channels) = devices.counts().channels.unwrap();
    assert!(counts.read_bytes >= 2 * MIB as u64 && counts.written_bytes >= 2 * MIB as u64);
    assert_eq!((counts.refused_reads, counts.refused_writes, counts.broken_rings), (0, 0, 0));
    assert_eq!((channels.sessions, channels.bad_messages), (2, 0));
}

/// The guest closes: what it sent before arrives, what it did not read does not reach the next program.
#[test]
fn a_guest_that_closes_first() {
    let memory = TestMemory::new(MEMORY);
    let (mut devices, _, [one, _two]) = served(&memory);
    let mut guest = Guest::ready(&devices, &memory);
    for round in 0..3 {
        guest.open(0);
        let session = one.accept().unwrap();
        assert!(!session.has_ended());
        // More than pipe and buffers hold.
        let old = thread::spawn({
            let session = Arc::new(session);
            let sender = Arc::clone(&session);
            move || (sender.send(&vec![b'o'; 4 * MIB]), session)
        });
        assert_eq!(guest.read(0)[0], b'o', "round {round}");
        for chunk in bytes(round, 20_000).chunks(4096) {
            guest.write(0, chunk);
        }
        guest.close(0);
        let (sent, session) = old.join().unwrap();
        assert_eq!(sent.unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
        assert!(session.has_ended());
        assert_eq!(all_of(&session), bytes(round, 20_000));
        // The next program finds nothing of the first.
        guest.open(0);
        let session = one.accept().unwrap();
        session.send(b"new").unwrap();
        assert_eq!(guest.read(0), b"new");
        guest.close(0);
        assert_eq!(guest.heard(), None, "the host was connected all the time");
    }
    devices.stop().unwrap();
}

/// The host hangs up: the guest reads what was sent before and then the end; what it sends is lost. Once it has closed,
/// the channel is there for the next program.
#[test]
fn a_host_that_hangs_up_first() {
    let memory = TestMemory::new(MEMORY);
    let (mut devices, _, [_one, two]) = served(&memory);
    let mut guest = Guest::ready(&devices, &memory);
    for round in 0..3 {
        guest.open(1);
        let session = two.accept().unwrap();
        let data = bytes(round, 300_000);
        let server = thread::spawn({
            let data = data.clone();
            move || session.send(&data)
        });
        assert!(read_to_end(&mut guest, 1) == data);
        server.join().unwrap().unwrap();
        guest.write(1, b"too late");
        guest.close(1);
        assert_eq!(guest.hear(), said(1, PORT_OPEN, 1), "round {round}");
    }
    devices.stop().unwrap();
    assert_eq!(two.accept().map(|session| all_of(&session)), None);
}

/// A program that closes before the host has answered, and a host that hangs up then: the guest need not be told.
#[test]
fn both_sides_at_once() {
    let memory = TestMemory::new(MEMORY);
    let (mut devices, _, [one, _two]) = served(&memory);
    let mut guest = Guest::ready(&devices, &memory);
    for _ in 0..50 {
        guest.open(0);
        guest.write(0, b"x");
        let session = one.accept().unwrap();
        let hanging_up = thread::spawn(move || drop(session));
        guest.close(0);
        hanging_up.join().unwrap();
    }
    // Whatever it was told in between, in the end the host is connected.
    let mut connected = true;
    let mut silent = 0;
    while !connected || silent < 100 {
        match guest.heard() {
            Some((0, PORT_OPEN, value, _)) => (connected, silent) = (value == 1, 0),
            Some(other) => panic!("{other:?}"),
            None => silent += 1,
        }
        thread::yield_now();
    }
    guest.open(0);
    guest.write(0, b"the end");
    guest.close(0);
    assert_eq!(all_of(&one.accept().unwrap()), b"the end");
    devices.stop().unwrap();
}

/// no-silent-trust: a guest that opens and closes faster than it is served is hung up on, and has the channel again
/// once it is.
#[test]
fn no_silent_trust_too_many_sessions() {
    let memory = TestMemory::new(MEMORY);
    let (mut devices, _, [one, _two]) = served(&memory);
    let mut guest = Guest::ready(&devices, &memory);
    // Who says nothing is no session at all.
    for _ in 0..100 {
        guest.open(0);
        guest.close(0);
    }
    for _ in 0..16 {
        guest.open(0);
        guest.write(0, b"!");
        guest.close(0);
    }
    assert_eq!(guest.heard(), None);
    guest.open(0);
    assert_eq!(guest.hear(), said(0, PORT_OPEN, 0));
    guest.write(0, b"lost");
    guest.close(0);
    assert_eq!(guest.hear(), said(0, PORT_OPEN, 1));
    for _ in 0..16 {
        assert_eq!(all_of(&one.accept().unwrap()), b"!");
    }
    guest.open(0);
    guest.write(0, b"heard");
    guest.close(0);
    assert_eq!(all_of(&one.accept().unwrap()), b"heard");
    devices.stop().unwrap();
    let (_, counts) = devices.counts().channels.unwrap();
    assert_eq!((counts.sessions, counts.refused_sessions), (117, 1));
}

/// A driver that resets the device ends what was open; the next one begins from the start.
#[test]
fn a_reset_ends_sessions() {
    let memory = TestMemory::new(MEMORY);
    let (mut devices, _, [one, _two]) = served(&memory);
    for round in 0..5 {
        let mut guest = Guest::ready(&devices, &memory);
        guest.open(0);
        guest.write(0, b"before");
        let session = one.accept().unwrap();
        let mut first = [0; 6];
        assert_eq!(session.receive(&mut first), 6);
        let waiting = thread::spawn(move || all_of(&session));
        guest.driver.set_status(0);
        assert_eq!(waiting.join().unwrap(), b"", "round {round}");
    }
    // Through configuration space as well.
    let mut guest = Guest::ready(&devices, &memory);
    guest.open(0);
    let session = one.accept().unwrap();
    let window = crate::devices::test_support::driver::capabilities(devices.bus(), CHANNELS);
    let window = window.iter().find(|capability| capability.kind == 5).unwrap().at;
    for (register, value) in [(window + 8, 0x14), (window + 12, 1), (window + 16, 0)] {
        crate::devices::test_support::driver::config_write(devices.bus(), CHANNELS, register, value);
    }
    assert_eq!((guest.driver.status(), all_of(&session)), (0, Vec::new()));
    devices.stop().unwrap();
}

/// pages-before-key: whoever waits for the guest is released when the devices stop.
#[test]
fn pages_before_key_servers_end_with_the_devices() {
    let memory = TestMemory::new(MEMORY);
    let (mut devices, _, [one, two]) = served(&memory);
    let mut guest = Guest::ready(&devices, &memory);
    guest.open(0);
    guest.write(0, b"last words");
    let session = one.accept().unwrap();
    let servers = [
        thread::spawn(move || {
            let mut heard = all_of(&session);
            // More than there is room for.
            let unsent = session.send(&vec![0; 4 * MIB]).is_err();
            heard.push(u8::from(unsent));
            heard
        }),
        thread::spawn(move || two.accept().map(|session| all_of(&session)).unwrap_or_default()),
    ];
    while devices.counts().channels.unwrap().0.read_bytes < 4 * 8 + 10 {
        thread::yield_now();
    }
    devices.stop().unwrap();
    let held = Arc::strong_count(&memory);
    let heard = servers.map(|server| server.join().unwrap());
    assert_eq!(heard, [b"last words\x01".to_vec(), Vec::new()]);
    // What servers held was nothing of the guest's memory.
    assert_eq!(Arc::strong_count(&memory), held);
    drop((devices, guest));
    assert_eq!(Arc::strong_count(&memory), 1);
    assert!(one.accept().is_none());
}

/// What programs in the guest do, one after the other.
#[derive(Debug, Clone)]
struct Program {
    writes: Vec<usize>,
    host: Host,
}

/// What the host does with it.
#[derive(Debug, Clone, Copy)]
enum Host {
    Reads,
    Answers(usize),
    HangsUp,
}

fn program() -> impl Strategy<Value = Program> {
    let host =
        prop_oneof![3 => Just(Host::Reads), 3 => (1usize..20_000).prop_map(Host::Answers), 1 => Just(Host::HangsUp)];
    (proptest::collection::vec(1usize..4096, 0..30), host).prop_map(|(writes, host)| Program { writes, host })
}

fn serve(session: &Session, host: Host, number: usize) -> Vec<u8> {
    match host {
        Host::HangsUp => Vec::new(),
        Host::Reads => all_of(session),
        Host::Answers(len) => {
            // The guest may be gone by now.
            let _ = session.send(&vec![u8::try_from(number).unwrap(); len]);
            all_of(session)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Programs that open, write and close as fast as they can: the host gets exactly what each of them wrote, in order,
    /// and none finds what was for another.
    #[test]
    fn bytes_stay_in_their_session(programs in proptest::collection::vec(program(), 1..12)) {
        let memory = TestMemory::new(MEMORY);
        let (mut devices, _, [one, _two]) = served(&memory);
        let mut guest = Guest::ready(&devices, &memory);
        let spoken: Vec<(usize, &Program)> =
            (1..).zip(&programs).filter(|(_, program)| !program.writes.is_empty()).collect();
        thread::scope(|scope| {
            let server = scope.spawn(|| {
                spoken.iter().map(|(number, program)| {
                    // A program that wrote nothing may be met or not.
                    loop {
                        let session = one.accept().unwrap();
                        let mut first = [0];
                        if session.receive(&mut first) == 1 {
                            let rest = serve(&session, program.host, *number);
                            return [first.to_vec(), rest].concat();
                        }
                    }
                }).collect::<Vec<_>>()
            });
            for (number, program) in (1..).zip(&programs) {
                guest.open(0);
                for len in &program.writes {
                    guest.write(0, &vec![u8::try_from(number).unwrap(); *len]);
                    while let Some(data) = guest.received(RECEIVE[0]) {
                        assert!(data.iter().all(|byte| usize::from(*byte) == number), "{number} got {data:?}");
                    }
                }
                guest.close(0);
                while guest.heard().is_some() {}
            }
            for ((number, program), got) in spoken.iter().zip(server.join().unwrap()) {
                let sum: usize = program.writes.iter().sum();
                assert!(got.iter().all(|byte| usize::from(*byte) == *number), "session {number} got {got:?}");
                match program.host {
                    Host::HangsUp => assert_eq!(got.len(), 1),
                    Host::Reads | Host::Answers(_) => assert_eq!(got.len(), sum),
                }
            }
        });
        devices.stop().unwrap();
    }
}

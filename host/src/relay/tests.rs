//! Sessions and connections end together, whoever ends first, and nothing that was said is lost on the way.

use super::*;
use crate::devices::pipe::BytePipe;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;

fn relay(address: &str) -> (Relay, EventLog) {
    let events = EventLog::in_memory();
    let peer = Peer::look_up("relying-party", &address.parse().unwrap()).unwrap();
    (Relay::new(RELYING_PARTY, peer, events.clone()), events)
}

fn told(events: &EventLog) -> Vec<Event> {
    events.collected().into_iter().map(|timed| timed.event).collect()
}

fn ended(by: Side, bytes_from_guest: u64, bytes_to_guest: u64, address: &str) -> Event {
    let (channel, address) = (RELYING_PARTY.into(), address.to_owned());
    Event::RelayEnded { channel, address, by, bytes_from_guest, bytes_to_guest, error: None }
}

fn connected(address: &str) -> Event {
    Event::RelayConnected { channel: RELYING_PARTY.into(), address: address.to_owned() }
}

fn read_all(pipe: &BytePipe) -> Vec<u8> {
    let mut all = Vec::new();
    pipe.clone().read_to_end(&mut all).unwrap();
    all
}

fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

/// What the device does when the guest closes the channel.
fn close(reads: &BytePipe, writes: &BytePipe) {
    reads.close();
    writes.close();
}

const MIB: usize = 1 << 20;

#[test]
fn a_guest_that_closes_first_is_heard_to_its_end() {
    let (listener, address) = listen();
    let (mut relay, events) = relay(&address);
    for _ in 0..2 {
        let (session, reads, writes) = Session::without_device();
        let heard = thread::scope(|scope| {
            scope.spawn(|| relay.serve(&session));
            let peer = scope.spawn(|| {
                let (mut stream, _) = listener.accept().unwrap();
                stream.write_all(b"hello").unwrap();
                let mut heard = Vec::new();
                stream.read_to_end(&mut heard).unwrap();
                heard
            });
            writes.send_all(&[7]).unwrap();
            let mut hello = [0; 5];
            reads.clone().read_exact(&mut hello).unwrap();
            assert_eq!(&hello, b"hello");
            writes.send_all(&vec![8; MIB]).unwrap();
            close(&reads, &writes);
            peer.join().unwrap()
        });
        assert_eq!((heard.len(), heard[0], heard[MIB]), (MIB + 1, 7, 8));
    }
    let once = [connected(&address), ended(Side::Guest, MIB as u64 + 1, 5, &address)];
    assert_eq!(told(&events), [once.clone(), once].concat());
}

#[test]
fn a_peer_that_closes_first_is_heard_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rp");
    let listener = UnixListener::bind(&path).unwrap();
    let address = format!("unix:{}", path.display());
    let (mut relay, events) = relay(&address);
    let (session, reads, writes) = Session::without_device();
    thread::scope(|scope| {
        scope.spawn(|| relay.serve(&session));
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 7];
            stream.read_exact(&mut request).unwrap();
            stream.write_all(&vec![9; MIB]).unwrap();
        });
        writes.send_all(b"request").unwrap();
        assert!(read_all(&reads) == vec![9; MIB]);
    });
    assert!(session.has_ended() && writes.is_closed());
    assert_eq!(told(&events), [connected(&address), ended(Side::Peer, 7, MIB as u64, &address)]);
}

/// Nobody listens: the guest is hung up on, and each time it is told with address and reason.
#[test]
fn a_peer_that_is_not_there() {
    let (listener, address) = listen();
    drop(listener);
    let (mut relay, events) = relay(&address);
    for _ in 0..2 {
        let (session, reads, writes) = Session::without_device();
        writes.send_all(b"request").unwrap();
        relay.serve(&session);
        assert_eq!(read_all(&reads), b"");
    }
    let failed = Event::RelayFailed {
        channel: RELYING_PARTY.into(),
        address,
        error: "Connection refused (os error 111)".to_owned(),
    };
    assert_eq!(told(&events), [failed.clone(), failed]);
}

#[test]
fn a_guest_that_says_nothing_is_not_connected() {
    let (listener, address) = listen();
    listener.set_nonblocking(true).unwrap();
    let (mut relay, events) = relay(&address);
    let (session, reads, writes) = Session::without_device();
    close(&reads, &writes);
    relay.serve(&session);
    assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert_eq!(told(&events), []);
}

/// pages-before-key: a peer that neither reads nor closes does not outlast the guest by much.
#[test]
fn pages_before_key_a_stuck_peer_is_left() {
    let (listener, address) = listen();
    let (mut relay, events) = relay(&address);
    let (session, reads, writes) = Session::without_device();
    thread::scope(|scope| {
        let serving = scope.spawn(|| relay.serve(&session));
        let filling = scope.spawn(|| while writes.send(&[1; 4096]).is_ok() {});
        let (stream, _) = listener.accept().unwrap();
        // Until nothing more goes in.
        while !told(&events).iter().any(|event| matches!(event, Event::RelayConnected { .. })) {
            thread::yield_now();
        }
        thread::sleep(Duration::from_millis(300));
        let since = Instant::now();
        close(&reads, &writes);
        serving.join().unwrap();
        filling.join().unwrap();
        assert!(since.elapsed() < 4 * LINGER, "{:?}", since.elapsed());
        drop(stream);
    });
    assert!(matches!(told(&events)[1], Event::RelayEnded { by: Side::Guest, .. }), "{:?}", told(&events));
}

//! A channel of the guest's that leads to a socket: one connection for each session.
//!
//! Owns the connection, from the first byte of a guest's program to whichever side closes first, and what is told of it.
//! What is said on it is not looked at. Does not own channels (`devices::virtio::channels`) or the thread that serves
//! one (`run::wiring`); while there is a connection, a second one carries what the peer sends.
//!
//! A program that opens the channel and says nothing costs the peer nothing. One that has said all and closes has its
//! last bytes delivered all the same, if the peer takes them within [`LINGER`].

mod connect;

pub use attest_kbs::client::port::RELYING_PARTY;

use crate::config::address::Address;
use crate::devices::virtio::channels::Session;
use crate::events::{Event, EventLog, Side};
use crate::run::ChannelServer;
pub use connect::Peer;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// How long a peer may take to take or send what is left when the guest has closed its side.
pub const LINGER: Duration = Duration::from_secs(1);
/// How often somebody who waits for the peer looks at the guest.
const GLANCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
/// Most bytes taken at a time.
const PIECE: usize = 1 << 16;

/// Why an address cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{setting} `{address}` cannot be looked up: {source}")]
pub struct RelayError {
    /// The setting.
    pub setting: &'static str,
    /// The address.
    pub address: Address,
    /// What the system says.
    pub source: io::Error,
}

/// Connects sessions of one channel with one address.
#[derive(Debug)]
pub struct Relay {
    channel: &'static str,
    peer: Peer,
    events: EventLog,
    /// A failure was told already. A guest can have as many as it likes; all are events.
    warned: bool,
}

/// How a connection was.
#[derive(Debug)]
struct Carried {
    from_guest: u64,
    to_guest: u64,
    by: Side,
    error: Option<io::Error>,
}

impl Relay {
    /// A relay from `channel` to a peer.
    pub fn new(channel: &'static str, peer: Peer, events: EventLog) -> Self {
        Self { channel, peer, events, warned: false }
    }

    /// As a run wants it.
    pub fn into_server(mut self) -> ChannelServer {
        ChannelServer { channel: self.channel, serve: Box::new(move |session| self.serve(session)) }
    }

    /// Serves one session.
    pub fn serve(&mut self, session: &Session) {
        let mut first = vec![0; PIECE];
        let len = session.receive(&mut first);
        if len == 0 {
            return;
        }
        let carried = self.peer.connect(session).and_then(|socket| {
            let (channel, address) = (self.channel.into(), self.peer.to_string());
            self.events.emit(Event::RelayConnected { channel, address });
            carry(session, &socket, &first[..len])
        });
        let (channel, address) = (self.channel.into(), self.peer.to_string());
        match carried {
            Ok(Carried { from_guest, to_guest, by, error }) => self.events.emit(Event::RelayEnded {
                channel,
                address,
                by,
                bytes_from_guest: from_guest,
                bytes_to_guest: to_guest,
                error: error.map(|error| error.to_string()),
            }),
            Err(error) => {
                if !std::mem::replace(&mut self.warned, true) {
                    tracing::warn!(channel = self.channel, %address, %error, "cannot connect the guest");
                }
                self.events.emit(Event::RelayFailed { channel, address, error: error.to_string() });
            }
        }
        session.hang_up();
    }
}

/// Carries bytes until one side closes. Fails if there is no thread for the other direction.
fn carry(session: &Session, socket: &OwnedFd, first: &[u8]) -> io::Result<Carried> {
    thread::scope(|scope| {
        let (done, is_done) = mpsc::channel();
        let input = move || {
            let carried = to_guest(session, socket);
            // Nobody may be waiting for it any more.
            let _ = done.send(());
            carried
        };
        let input = thread::Builder::new().name("relay input".into()).spawn_scoped(scope, input)?;
        let mut from_guest = 0;
        let sent = from_guest_to(session, socket, first, &mut from_guest);
        // The peer learns that nothing more comes, and may say what it has to, before it is cut off. Errors mean that
        // it is gone.
        let _ = shutdown(socket, Shutdown::Write);
        if sent.is_ok() {
            let _ = is_done.recv_timeout(LINGER);
        }
        let _ = shutdown(socket, Shutdown::Both);
        let (to_guest, by, received) =
            input.join().unwrap_or_else(|_| (0, Side::Peer, Err(io::Error::other("the relay's thread panicked"))));
        Ok(Carried { from_guest, to_guest, by, error: sent.and(received).err() })
    })
}

/// Carries what the guest says, until it closes the channel or the peer is gone.
fn from_guest_to(session: &Session, socket: &OwnedFd, first: &[u8], carried: &mut u64) -> io::Result<()> {
    send_all(session, socket, first)?;
    *carried += first.len() as u64;
    let mut buffer = vec![0; PIECE];
    loop {
        let len = session.receive(&mut buffer);
        if len == 0 {
            return Ok(());
        }
        if let Err(error) = send_all(session, socket, &buffer[..len]) {
            // A peer that has hung up does not want the rest, and nothing failed; one that was given up has lost it.
            let hung_up = session.has_ended() && error.kind() != io::ErrorKind::TimedOut;
            return if hung_up { Ok(()) } else { Err(error) };
        }
        *carried += len as u64;
    }
}

/// Carries what the peer says, until it closes the connection; once the guest has closed the channel, nowhere.
fn to_guest(session: &Session, socket: &OwnedFd) -> (u64, Side, io::Result<()>) {
    let mut buffer = vec![0; PIECE];
    let (mut carried, mut ended_by) = (0, None);
    loop {
        let received = match recv(socket, buffer.as_mut_slice(), RecvFlags::empty()) {
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => match poll(&mut [PollFd::new(socket, PollFlags::IN)], None) {
                Ok(_) | Err(Errno::INTR) => continue,
                Err(error) => Err(error),
            },
            other => other.map(|(_, len)| len),
        };
        match received {
            Ok(len @ 1..) => {
                if ended_by.is_none() && session.send(&buffer[..len]).is_ok() {
                    carried += len as u64;
                } else {
                    ended_by = Some(Side::Guest);
                }
            }
            end => {
                let by = ended_by.unwrap_or(if session.has_ended() { Side::Guest } else { Side::Peer });
                session.hang_up();
                // Of a connection that is over for the guest it does not matter how it ends.
                let result = if by == Side::Guest { Ok(()) } else { end.map(drop).map_err(io::Error::from) };
                return (carried, by, result);
            }
        }
    }
}

/// Sends all of `data`. A peer that does not take it is waited for as long as the guest has the channel open.
fn send_all(session: &Session, socket: &OwnedFd, mut data: &[u8]) -> io::Result<()> {
    let mut since: Option<Instant> = None;
    while !data.is_empty() {
        match send(socket, data, SendFlags::NOSIGNAL) {
            Ok(len) => (data, since) = (&data[len..], None),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                if session.has_ended() && since.get_or_insert_with(Instant::now).elapsed() > LINGER {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                match poll(&mut [PollFd::new(socket, PollFlags::OUT)], Some(&GLANCE)) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;

//! The way to a peer.
//!
//! Owns looking an address up, once, before there is a guest, and connecting to it with an end to waiting: a peer that
//! does not answer must not outlast the run.

use super::{GLANCE, LINGER, RelayError};
use crate::config::address::Address;
use crate::devices::virtio::channels::Session;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{set_tcp_nodelay, socket_error};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long a peer may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Somebody a guest is connected to.
#[derive(Debug, Clone)]
pub struct Peer {
    address: Address,
    targets: Vec<Target>,
}

#[derive(Debug, Clone)]
enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Peer {
    /// Looks `address` up, the value of `setting`: later changes of what a name stands for do not count.
    pub fn look_up(setting: &'static str, address: &Address) -> Result<Self, RelayError> {
        let failed = |source| RelayError { setting, address: address.clone(), source };
        let targets = match address {
            Address::Unix(path) => vec![Target::Unix(path.clone())],
            Address::Tcp { host, port } => {
                (host.as_str(), *port).to_socket_addrs().map_err(failed)?.map(Target::Tcp).collect()
            }
        };
        if targets.is_empty() {
            return Err(failed(io::ErrorKind::AddrNotAvailable.into()));
        }
        Ok(Self { address: address.clone(), targets })
    }

    /// Connects to the first of the peer's addresses that answers. When the guest closes the channel meanwhile, it is not
    /// waited for much longer. The socket never blocks.
    pub(super) fn connect(&self, session: &Session) -> io::Result<OwnedFd> {
        let mut deadline = Instant::now() + PATIENCE;
        let mut go_on = || {
            if session.has_ended() {
                deadline = deadline.min(Instant::now() + LINGER);
            }
            Instant::now() < deadline
        };
        let mut result = Err(io::ErrorKind::AddrNotAvailable.into());
        for target in &self.targets {
            result = target.connect(&mut go_on);
            if result.is_ok() {
                break;
            }
        }
        result
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

impl Target {
    fn connect(&self, mut go_on: impl FnMut() -> bool) -> io::Result<OwnedFd> {
        let family = match self {
            Self::Tcp(SocketAddr::V4(_)) => AddressFamily::INET,
            Self::Tcp(SocketAddr::V6(_)) => AddressFamily::INET6,
            Self::Unix(_) => AddressFamily::UNIX,
        };
        let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
        loop {
            let begun = match self {
                Self::Tcp(address) => connect(&socket, address),
                Self::Unix(path) => connect(&socket, &SocketAddrUnix::new(path)?),
            };
            match begun {
                Ok(()) => break,
                Err(Errno::INPROGRESS) => {
                    finish(&socket, &mut go_on)?;
                    break;
                }
                // A Unix socket whose queue is full.
                Err(Errno::AGAIN | Errno::INTR) if go_on() => std::thread::sleep(Duration::from_millis(20)),
                Err(error) => return Err(error.into()),
            }
        }
        if matches!(self, Self::Tcp(_)) {
            // Requests and answers are short; together they would wait for each other's acknowledgements.
            set_tcp_nodelay(&socket, true)?;
        }
        Ok(socket)
    }
}

/// Waits until the peer has answered.
fn finish(socket: &OwnedFd, mut go_on: impl FnMut() -> bool) -> io::Result<()> {
    loop {
        match poll(&mut [PollFd::new(socket, PollFlags::OUT)], Some(&GLANCE)) {
            Ok(0) if !go_on() => return Err(io::ErrorKind::TimedOut.into()),
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(socket_error(socket)??),
            Err(error) => return Err(error.into()),
        }
    }
}

//! The host's side of tests over a channel: somebody who listens on a port of the loopback device.
//!
//! `channel-peer PORT` serves the sessions of [`test_guest::channel`], each a connection, and says what each was. The lab
//! host has a loopback device that nobody has switched on: that is done here.

use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, sendto, socket_with};
use test_guest::channel::{SESSIONS, Session, last_words};
use test_guest::protocol::{Side, exchange};

/// How long the guest may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(600);
/// The loopback device is always the first.
const LOOPBACK: i32 = 1;
/// `RTM_NEWLINK`, `NLM_F_REQUEST` and `IFF_UP` (rtnetlink(7), netlink(7), netdevice(7)).
const RTM_NEWLINK: u16 = 16;
const NLM_F_REQUEST: u16 = 1;
const IFF_UP: u32 = 1;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("channel-peer: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let port = std::env::args().nth(1).and_then(|port| port.parse().ok()).context("usage: channel-peer PORT")?;
    switch_loopback_on().context("the loopback device")?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    println!("listening");
    for (number, expected) in (1..).zip(SESSIONS) {
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        let what = serve(&mut stream, expected).with_context(|| format!("session {number}, {expected:?}"))?;
        println!("session {number} {expected:?}: {what}");
    }
    Ok(())
}

fn serve(stream: &mut TcpStream, expected: Session) -> Result<String> {
    let mut first = [0];
    stream.read_exact(&mut first).context("the first byte")?;
    ensure!(Session::from_byte(first[0]) == Some(expected), "it began with {first:?}");
    let said = match expected {
        Session::LastWords => {
            let mut said = vec![0; last_words().len()];
            stream.read_exact(&mut said).context("last words")?;
            ensure!(said == last_words(), "the last words are others");
            format!("{} bytes", said.len())
        }
        Session::GuestCloses | Session::HostCloses => format!("{} bytes each way", exchange(stream, Side::Host)?),
    };
    if expected != Session::HostCloses {
        match stream.read(&mut first) {
            Ok(0) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            other => anyhow::bail!("{other:?} instead of the end"),
        }
    }
    Ok(said)
}

/// A header without flags but "request", and `struct ifinfomsg`. The device gets its address, 127.0.0.1, by itself.
fn switch_loopback_on() -> Result<()> {
    let mut message = Vec::new();
    message.extend(32u32.to_ne_bytes());
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([0; 4]);
    message.extend(LOOPBACK.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes());
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    // The kernel acts on it before this returns.
    sendto(&socket, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    Ok(())
}

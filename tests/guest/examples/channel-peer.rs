//! The host's side of tests over a channel: somebody who listens on a port of the loopback device.
//!
//! `channel-peer PORT` serves the sessions of [`test_guest::channel`], each a connection, and says what each was.

use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use test_guest::channel::{SESSIONS, Session, last_words};
use test_guest::protocol::{Side, exchange};

/// How long the guest may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(600);
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

//! The host's side of tests over virtio-console, for a VMM whose virtio-console is a socket.
//!
//! `virtio-peer SOCKET` connects as soon as somebody listens, does one exchange ([`test_guest::protocol`]) and says how
//! many bytes went each way. `virtio-peer SOCKET COUNT` receives that many buffers of the firmware's self-test
//! ([`guest_fw::selftest::virtio`]) and checks every word of them.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use guest_fw::selftest::virtio::word;
use test_guest::protocol::{Side, exchange};

/// What the self-test sends at a time.
const BUFFER_LEN: usize = 4096;
/// How long the VMM may take to listen.
const LISTENS_WITHIN: Duration = Duration::from_secs(60);
/// How long the guest may be silent: it has to boot first.
const SILENCE_MAX: Duration = Duration::from_secs(600);

fn main() -> ExitCode {
    match run() {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("virtio-peer: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<String> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().context("usage: virtio-peer SOCKET [COUNT]")?;
    let count = arguments.next().map(|count| count.parse()).transpose().context("COUNT")?;
    let mut stream = connect(&path)?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    match count {
        None => Ok(format!("{} bytes each way", exchange(&mut stream, Side::Host)?)),
        Some(count) => receive(&mut stream, count),
    }
}

/// Receives buffers, all of them, in order.
fn receive(stream: &mut UnixStream, count: u32) -> Result<String> {
    let mut buffer = [0; BUFFER_LEN];
    for number in 0..count {
        stream.read_exact(&mut buffer).with_context(|| format!("buffer {number} of {count}"))?;
        for (index, bytes) in (0..).zip(buffer.as_chunks().0) {
            let (got, expected) = (u64::from_le_bytes(*bytes), word(number, index));
            ensure!(got == expected, "word {index} of buffer {number} is {got:#x} instead of {expected:#x}");
        }
    }
    Ok(format!("{count} buffers"))
}

fn connect(path: &str) -> Result<UnixStream> {
    let began = Instant::now();
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(error) if began.elapsed() > LISTENS_WITHIN => bail!("{path}: {error}"),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

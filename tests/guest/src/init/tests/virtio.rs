//! The `virtio` test.

use anyhow::{Context, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::thread;
use std::time::{Duration, Instant};
use test_guest::protocol::{self, PAYLOAD_MAX, Side};

const CONSOLE: &str = "/dev/hvc0";
const DEFAULT_KIB: u64 = 1024;
/// How long the kernel may take to find the device.
const APPEARS_WITHIN: Duration = Duration::from_secs(10);
/// How long the host may be silent before the test gives up.
const SILENCE_MAX: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };

/// Exchanges `kib` KiB each way with the host.
pub(super) fn test(kib: Option<u64>) -> anyhow::Result<String> {
    let kib = kib.unwrap_or(DEFAULT_KIB);
    let len = usize::try_from(kib).ok().and_then(|kib| kib.checked_mul(1024)).filter(|len| *len <= PAYLOAD_MAX);
    let len = len.with_context(|| format!("{kib} KiB is more than {PAYLOAD_MAX} bytes"))?;
    let mut console = Console { file: open()?, received: 0, sent: 0 };
    let begun = Instant::now();
    let exchanged = protocol::exchange(&mut console, Side::Guest { len });
    exchanged.with_context(|| format!("{} bytes received, {} sent", console.received, console.sent))?;
    let elapsed = begun.elapsed().as_millis();
    Ok(format!("kib_each_way {kib} elapsed_ms {elapsed}"))
}

/// Opens the console as a stream of bytes: without line editing, echo or flow control characters.
fn open() -> anyhow::Result<File> {
    let begun = Instant::now();
    let console = loop {
        match OpenOptions::new().read(true).write(true).open(CONSOLE) {
            Ok(console) => break console,
            Err(error) => ensure!(begun.elapsed() < APPEARS_WITHIN, "opening {CONSOLE}: {error}"),
        }
        thread::sleep(Duration::from_millis(50));
    };
    let mut settings = tcgetattr(&console).with_context(|| format!("settings of {CONSOLE}"))?;
    settings.make_raw();
    tcsetattr(&console, OptionalActions::Now, &settings).with_context(|| format!("raw mode of {CONSOLE}"))?;
    Ok(console)
}

/// The console with an end to waiting.
struct Console {
    file: File,
    received: usize,
    sent: usize,
}

impl Read for Console {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut waiting = [PollFd::new(&self.file, PollFlags::IN)];
        let read = match poll(&mut waiting, Some(&SILENCE_MAX))? {
            0 => Err(io::ErrorKind::TimedOut.into()),
            _ => self.file.read(buffer),
        };
        self.received += *read.as_ref().unwrap_or(&0);
        read
    }
}

impl Write for Console {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = self.file.write(data);
        self.sent += *written.as_ref().unwrap_or(&0);
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

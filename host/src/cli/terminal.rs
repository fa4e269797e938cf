//! The guest's console on the user's terminal.
//!
//! Owns raw mode and its end, and the way from standard input to the guest with its escape keys. Raw mode is restored
//! when its guard is dropped and by the panic hook ([`restore`]), whichever comes first.
//!
//! Specification: `termios(3)`. Output processing stays on, so that our own lines still begin at the left margin.

use crate::stop::{StopReason, StopSignal};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::getpgrp;
use rustix::termios::{
    InputModes, LocalModes, OptionalActions, SpecialCodeIndex, Termios, isatty, tcgetattr, tcgetpgrp, tcsetattr,
};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

/// What a user must know who has just lost Ctrl-C to a guest.
pub const HINT: &str = "the terminal is the guest's console: Ctrl-A x ends the guest, Ctrl-A Ctrl-A sends Ctrl-A";

/// Ctrl-A.
const PREFIX: u8 = 0x01;

/// The terminal's modes before we changed them. Global, because a panic hook has nothing else to look at.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// What standard input is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdin {
    /// A terminal we are in the foreground of: the guest's console.
    Terminal,
    /// A terminal that belongs to another job; reading from it would stop us.
    BackgroundTerminal,
    /// A pipe, a file, or nothing: passed through as it is.
    Stream,
}

impl Stdin {
    /// What it is now.
    pub fn kind() -> Self {
        let stdin = io::stdin();
        if !isatty(&stdin) {
            Self::Stream
        } else if tcgetpgrp(&stdin).is_ok_and(|foreground| foreground == getpgrp()) {
            Self::Terminal
        } else {
            Self::BackgroundTerminal
        }
    }
}

/// Raw mode, for as long as this lives.
#[derive(Debug)]
#[must_use = "raw mode ends when this is dropped"]
pub struct RawMode(());

impl RawMode {
    /// Passes every key of the terminal at standard input on to the guest, Ctrl-C included.
    pub fn enter() -> io::Result<Self> {
        let stdin = io::stdin();
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        raw.local_modes -=
            LocalModes::ICANON | LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ISIG | LocalModes::IEXTEN;
        raw.input_modes -= InputModes::IXON
            | InputModes::ICRNL
            | InputModes::INLCR
            | InputModes::IGNCR
            | InputModes::ISTRIP
            | InputModes::BRKINT
            | InputModes::PARMRK;
        raw.special_codes[SpecialCodeIndex::VMIN] = 1;
        raw.special_codes[SpecialCodeIndex::VTIME] = 0;
        *SAVED.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        Ok(Self(()))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal back its modes, if they were changed. Can be called any number of times.
pub fn restore() {
    if let Some(before) = SAVED.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // There is nothing left to do for a terminal that refuses.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &before);
    }
}

/// Standard output without a buffer: a guest's prompt has no line end.
pub fn unbuffered_stdout() -> io::Result<Box<dyn Write + Send>> {
    Ok(Box::new(File::from(io::stdout().as_fd().try_clone_to_owned()?)))
}

/// What a guest is typed. Its end is the end of the input or a request to stop.
#[derive(Debug)]
pub struct ConsoleInput {
    input: OwnedFd,
    stop: StopSignal,
    keys: Keys,
    ready: VecDeque<u8>,
}

/// Whether keys have a meaning for us.
#[derive(Debug)]
enum Keys {
    Escapes(Escapes),
    Plain,
}

impl ConsoleInput {
    /// Standard input, given what it [is](Stdin::kind); none if it must not be read.
    pub fn stdin(kind: Stdin, stop: &StopSignal) -> io::Result<Option<Self>> {
        let keys = match kind {
            Stdin::Terminal => Keys::Escapes(Escapes::default()),
            Stdin::Stream => Keys::Plain,
            Stdin::BackgroundTerminal => return Ok(None),
        };
        let input = io::stdin().as_fd().try_clone_to_owned()?;
        Ok(Some(Self { input, stop: stop.clone(), keys, ready: VecDeque::new() }))
    }
}

impl Read for ConsoleInput {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.ready.is_empty() {
            let mut fds = [PollFd::new(&self.stop, PollFlags::IN), PollFd::new(&self.input, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) if !fds[0].revents().is_empty() => return Ok(0),
                Ok(_) | Err(Errno::INTR) if fds[1].revents().is_empty() => continue,
                Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
            let mut chunk = [0; 1024];
            let len = match rustix::io::read(&self.input, &mut chunk) {
                Ok(0) => return Ok(0),
                Ok(len) => len,
                Err(Errno::INTR | Errno::AGAIN) => continue,
                Err(error) => return Err(error.into()),
            };
            match &mut self.keys {
                Keys::Plain => self.ready.extend(&chunk[..len]),
                Keys::Escapes(escapes) => {
                    if escapes.pass(&chunk[..len], &mut self.ready) == Wish::End {
                        self.stop.request(StopReason::Escape);
                        break;
                    }
                }
            }
        }
        self.ready.read(buffer)
    }
}

/// Finds the escape keys among what is typed.
#[derive(Debug, Default)]
struct Escapes {
    /// The last key was the prefix, and has not been passed on.
    after_prefix: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Wish {
    GoOn,
    End,
}

impl Escapes {
    fn pass(&mut self, typed: &[u8], to: &mut VecDeque<u8>) -> Wish {
        for &key in typed {
            match (mem::take(&mut self.after_prefix), key) {
                (false, PREFIX) => self.after_prefix = true,
                (false, key) => to.push_back(key),
                (true, b'x' | b'X') => return Wish::End,
                (true, PREFIX) => to.push_back(PREFIX),
                // Not for us after all: the guest gets both, only a little late.
                (true, key) => to.extend([PREFIX, key]),
            }
        }
        Wish::GoOn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(keys: Keys) -> (ConsoleInput, File, StopSignal) {
        let (read, write) = io::pipe().unwrap();
        let stop = StopSignal::new().unwrap();
        let input = ConsoleInput { input: read.into(), stop: stop.clone(), keys, ready: VecDeque::new() };
        (input, File::from(OwnedFd::from(write)), stop)
    }

    fn passed(chunks: &[&[u8]]) -> (Vec<u8>, bool) {
        let (mut escapes, mut to) = (Escapes::default(), VecDeque::new());
        let ended = chunks.iter().any(|chunk| escapes.pass(chunk, &mut to) == Wish::End);
        (to.into(), ended)
    }

    #[test]
    fn escape_keys() {
        assert_eq!(passed(&[b"ls\r\x03\x04"]), (b"ls\r\x03\x04".to_vec(), false));
        assert_eq!(passed(&[b"a\x01x rest"]), (b"a".to_vec(), true));
        assert_eq!(passed(&[b"a\x01", b"x"]), (b"a".to_vec(), true));
        assert_eq!(passed(&[b"\x01\x01x"]), (b"\x01x".to_vec(), false));
        assert_eq!(passed(&[b"\x01", b"q\x01\x01"]), (b"\x01q\x01".to_vec(), false));
    }

    #[test]
    fn escape_asks_for_the_end() {
        let (mut input, mut typing, stop) = input(Keys::Escapes(Escapes::default()));
        typing.write_all(b"\x01x").unwrap();
        assert_eq!(input.read(&mut [0; 8]).unwrap(), 0);
        assert_eq!(stop.reason(), Some(StopReason::Escape));
    }

    #[test]
    fn a_stream_is_passed_through_as_it_is_and_its_end_is_harmless() {
        let (mut input, mut typing, stop) = input(Keys::Plain);
        typing.write_all(b"\x01x\x00\xff").unwrap();
        drop(typing);
        let mut all = Vec::new();
        input.read_to_end(&mut all).unwrap();
        assert_eq!((all.as_slice(), stop.reason()), (&b"\x01x\x00\xff"[..], None));
    }

    #[test]
    fn a_request_to_stop_ends_a_read_that_waits() {
        let (mut input, _typing, stop) = input(Keys::Plain);
        let reader = std::thread::spawn(move || input.read(&mut [0; 8]).unwrap());
        stop.request(StopReason::Terminate);
        assert_eq!(reader.join().unwrap(), 0);
    }
}

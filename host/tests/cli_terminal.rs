//! The terminal belongs to the guest only as long as there is one: raw mode is given back on every way out.
//!
//! Each test runs itself a second time, in a session of its own on a pseudo-terminal, where [`in_a_terminal`] plays the
//! part of `tenure`; it talks to the test over its standard output and error, which are pipes.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, OutputModes, Termios, tcgetattr};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use tenure::cli::terminal::{self, ConsoleInput, RawMode, Stdin};
use tenure::stop::StopSignal;

/// Says which part to play; not set in an ordinary test run.
const PART: &str = "TENURE_TEST_TERMINAL_PART";

#[test]
fn in_a_terminal() {
    let Ok(part) = std::env::var(PART) else { return };
    std::panic::set_hook(Box::new(|_| {
        terminal::restore();
        say(&format!("hook {}", is_raw(&tcgetattr(io::stdin()).unwrap())));
    }));
    let stop = StopSignal::new().unwrap();
    stop.catch_signals().unwrap();
    let kind = Stdin::kind();
    say(&format!("{kind:?}"));
    let mut input = ConsoleInput::stdin(kind, &stop).unwrap().unwrap();
    let raw = RawMode::enter().unwrap();
    say("ready");
    let mut typed = Vec::new();
    if part == "panic" {
        input.read_exact(&mut [0]).unwrap();
        panic!("with the terminal in raw mode");
    }
    input.read_to_end(&mut typed).unwrap();
    drop(raw);
    say(&format!("{:?} {typed:?}", stop.reason()));
}

fn say(line: &str) {
    let mut out = io::stderr();
    writeln!(out, "says {line}").unwrap();
}

fn is_raw(modes: &Termios) -> bool {
    !modes.local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
}

struct Terminal {
    keyboard: File,
    line: OwnedFd,
    child: Child,
    says: BufReader<File>,
}

impl Terminal {
    fn start(part: &str) -> Self {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let name = ptsname(&keyboard, Vec::new()).unwrap().into_string().unwrap();
        let line = File::options().read(true).write(true).open(name).unwrap();
        // Before the child can change it.
        assert!(!is_raw(&tcgetattr(&line).unwrap()));
        let (says, to_say) = io::pipe().unwrap();
        let child = Command::new("setsid")
            .args(["--ctty", "--wait"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "in_a_terminal", "--nocapture"])
            .env(PART, part)
            .stdin(line.as_fd().try_clone_to_owned().unwrap())
            .stdout(Stdio::null())
            .stderr(to_say)
            .spawn()
            .unwrap();
        let says = BufReader::new(File::from(OwnedFd::from(says)));
        let mut terminal = Self { keyboard: keyboard.into(), line: line.into(), child, says };
        assert_eq!(terminal.says(), "Terminal");
        assert_eq!(terminal.says(), "ready");
        terminal
    }

    fn modes(&self) -> Termios {
        tcgetattr(&self.line).unwrap()
    }

    /// The next line said.
    fn says(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert_ne!(self.says.read_line(&mut line).unwrap(), 0, "nothing more is said");
            if let Some((_, said)) = line.trim_end().split_once("says ") {
                return said.to_owned();
            }
        }
    }

    fn must_be_given_back(mut self) {
        self.child.wait().unwrap();
        assert!(!is_raw(&self.modes()));
    }
}

#[test]
fn every_key_reaches_the_guest_and_escape_ends_it() {
    let mut terminal = Terminal::start("escape");
    let modes = terminal.modes();
    assert!(is_raw(&modes));
    assert!(modes.output_modes.contains(OutputModes::OPOST), "our own lines begin at the margin");
    // Ctrl-C, Ctrl-Z, Ctrl-D, Ctrl-S and return are the guest's.
    terminal.keyboard.write_all(b"a\x03\x1a\x04\x13\r\x01\x01\x01x").unwrap();
    assert_eq!(terminal.says(), "Some(Escape) [97, 3, 26, 4, 19, 13, 1]");
    terminal.must_be_given_back();
}

#[test]
fn a_signal_gives_the_terminal_back() {
    let mut terminal = Terminal::start("signal");
    assert!(is_raw(&terminal.modes()));
    // The child proper is the leader of its terminal's session.
    let session = rustix::termios::tcgetsid(&terminal.keyboard).unwrap();
    rustix::process::kill_process(session, rustix::process::Signal::TERM).unwrap();
    assert_eq!(terminal.says(), "Some(Terminate) []");
    terminal.must_be_given_back();
}

#[test]
fn a_panic_gives_the_terminal_back_before_its_message() {
    let mut terminal = Terminal::start("panic");
    terminal.keyboard.write_all(b"!").unwrap();
    assert_eq!(terminal.says(), "hook false");
    terminal.must_be_given_back();
}

#[test]
fn a_terminal_of_another_job_is_left_alone() {
    // The test's own standard input is not a terminal it is in the foreground of, unless a person runs it in one.
    match Stdin::kind() {
        Stdin::Terminal => println!("skipped: the test itself runs in the foreground of a terminal"),
        kind => {
            let stop = StopSignal::new().unwrap();
            let input = ConsoleInput::stdin(kind, &stop).unwrap();
            assert_eq!(input.is_none(), kind == Stdin::BackgroundTerminal);
        }
    }
}

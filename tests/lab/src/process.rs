//! Runs the programs that provisioning needs, watching their output.
//!
//! Owns: starting, following and failing with what the program said. Does not own: what to run.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;

use crate::progress::Progress;

/// How many of a failed program's last lines an error carries.
const TAIL_LINES: usize = 25;

/// Why a program did not do what it was started for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be started or followed.
    #[error("cannot run {program}: {source}")]
    Start {
        /// The command line.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// It ran and failed.
    #[error("{program} failed ({status}); its last lines:\n{tail}")]
    Failed {
        /// The command line.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// What it said last.
        tail: String,
    },
}

/// A command that speaks plain English, asks nothing and, being a guest on somebody's machine,
/// runs at low priority.
pub(crate) fn background(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("nice");
    command
        .arg("--")
        .arg(program)
        .env("LC_ALL", "C.UTF-8")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null());
    command
}

/// Runs to the end and returns standard output.
pub(crate) fn output(command: &mut Command) -> Result<String, Error> {
    let result = command.output().map_err(|source| Error::Start { program: describe(command), source })?;
    if result.status.success() {
        return Ok(String::from_utf8_lossy(&result.stdout).into_owned());
    }
    let said = [result.stdout, result.stderr].concat();
    let said = without_hosts(&String::from_utf8_lossy(&said));
    let lines: Vec<&str> = said.lines().collect();
    Err(Error::Failed {
        program: describe(command),
        status: result.status,
        tail: lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n"),
    })
}

/// Runs to the end, handing every line to `progress`; a line like `[3/70] …` also moves it on.
pub(crate) fn follow(command: &mut Command, progress: &mut dyn Progress) -> Result<(), Error> {
    let program = describe(command);
    let start = |source| Error::Start { program: program.clone(), source };
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(start)?;
    let (sender, lines) = mpsc::channel::<String>();
    let mut readers = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        readers.push(read_lines(stdout, sender.clone()));
    }
    if let Some(stderr) = child.stderr.take() {
        readers.push(read_lines(stderr, sender));
    }
    let mut tail = std::collections::VecDeque::new();
    for line in lines {
        if let Some((done, total)) = parts(&line) {
            progress.advance(done, total);
        }
        progress.line(&line);
        if tail.len() == TAIL_LINES {
            tail.pop_front();
        }
        tail.push_back(line);
    }
    for reader in readers {
        let _ = reader.join();
    }
    let status = child.wait().map_err(start)?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Failed { program, status, tail: Vec::from(tail).join("\n") })
}

fn read_lines(stream: impl Read + Send + 'static, sender: mpsc::Sender<String>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n') {
            let Ok(line) = line else { return };
            if sender.send(without_hosts(String::from_utf8_lossy(&line).trim_end())).is_err() {
                return;
            }
        }
    })
}

/// Which mirror a machine uses is its owner's business: addresses are shown without their host.
fn without_hosts(text: &str) -> String {
    let mut parts = text.split("://");
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.find(|sign: char| sign == '/' || sign.is_whitespace()).unwrap_or(part.len());
        shown.push_str("://...");
        shown.push_str(&part[rest..]);
    }
    shown
}

/// The `3` and `70` of `[3/70] Compiling …`.
fn parts(line: &str) -> Option<(u64, u64)> {
    let (done, total) = line.strip_prefix('[')?.split_once(']')?.0.split_once('/')?;
    Some((done.trim().parse().ok()?, total.trim().parse().ok()?))
}

fn describe(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy()];
    words.extend(command.get_args().map(OsStr::to_string_lossy));
    let words = words.join(" ");
    words.strip_prefix("nice -- ").unwrap_or(&words).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[derive(Default)]
    struct Recorder(Vec<String>, Vec<(u64, u64)>);

    impl Progress for Recorder {
        fn begin(&mut self, _: &str, _: Duration) {}
        fn advance(&mut self, done: u64, total: u64) {
            self.1.push((done, total));
        }
        fn line(&mut self, text: &str) {
            self.0.push(text.to_owned());
        }
        fn end(&mut self) {}
        fn note(&mut self, _: &str) {}
    }

    #[test]
    fn lines_and_parts_are_followed() {
        let mut seen = Recorder::default();
        follow(Command::new("sh").args(["-c", "echo '[2/9] a'; echo '[x] b'"]), &mut seen).unwrap();
        assert_eq!(seen.0, ["[2/9] a", "[x] b"]);
        assert_eq!(seen.1, [(2, 9)]);
    }

    #[test]
    fn hosts_are_not_shown() {
        let text = without_hosts("Err:1 http://mirror.example:80/debian x https://a/b c://d e");
        assert_eq!(text, "Err:1 http://.../debian x https://.../b c://... e");
    }

    #[test]
    fn failure_carries_the_last_words() {
        let mut seen = Recorder::default();
        let error = follow(Command::new("sh").args(["-c", "echo why >&2; exit 3"]), &mut seen).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("why") && text.contains("exit status: 3"), "{text}");
        let text = output(Command::new("sh").args(["-c", "echo why; exit 3"])).unwrap_err().to_string();
        assert!(text.contains("why") && text.contains("exit status: 3"), "{text}");
        assert!(matches!(output(&mut Command::new("/nonexistent")), Err(Error::Start { .. })));
    }
}

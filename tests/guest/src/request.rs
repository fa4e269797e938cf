//! What the kernel command line asks of the guest.
//!
//! Words it understands, all optional:
//!
//! | word | meaning |
//! |---|---|
//! | `tenure.test=A,B:N,…` | tests to run, in order; `:N` is the test's argument |
//! | `tenure.end=E` | how to end: `poweroff` (default), `reboot` or `halt` |
//!
//! Tests:
//!
//! | name | argument | does |
//! |---|---|---|
//! | `memory` | MiB | fills memory with a pattern unique to each page, from all CPUs, and verifies it twice, each time from another CPU. Default: half of what is available, at most 64 MiB |
//! | `virtio` | KiB | exchanges that much each way over `/dev/hvc0` with SHA-256 ([`crate::protocol`]); default 1024 |
//! | `channel` | KiB | has sessions on the channel to a relying party, some of which exchange that much each way ([`crate::channel`]); default 1024 |
//! | `sleep` | – | sleeps one second twice and compares the monotonic clock with the boot-time clock and the TSC |
//! | `fork` | processes | starts that many copies of itself, which hash, and compares their results; default 8 |
//! | `dmesg` | – | counts lines of the kernel's log that tell of trouble, and shows them |
//! | `attest` | – | asks the relying party for a key with `tenure attest request`, and opens its payload with it ([`crate::payload`]) |
//! | `wait` | – | says `fact waiting` and goes on once a line arrives on the console |
//! | `crash` | – | makes the kernel panic |
//! | `hang` | – | sleeps for ever |
//!
//! Nothing asked is `memory,sleep,dmesg`.

use std::str::FromStr;

/// One test with its argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Test {
    /// Which.
    pub kind: TestKind,
    /// The number after the colon.
    pub argument: Option<u64>,
}

/// The tests there are; see the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TestKind {
    /// Memory patterns.
    Memory,
    /// Data over virtio-console.
    Virtio,
    /// Sessions on a channel.
    Channel,
    /// Clocks.
    Sleep,
    /// Processes.
    Fork,
    /// The kernel's log.
    Dmesg,
    /// A key from a relying party.
    Attest,
    /// A line from outside.
    Wait,
    /// Kernel panic.
    Crash,
    /// Never ends.
    Hang,
}

impl TestKind {
    const ALL: [Self; 10] = [
        Self::Memory,
        Self::Virtio,
        Self::Channel,
        Self::Sleep,
        Self::Fork,
        Self::Dmesg,
        Self::Attest,
        Self::Wait,
        Self::Crash,
        Self::Hang,
    ];

    /// Its name on the command line and in the report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Virtio => "virtio",
            Self::Channel => "channel",
            Self::Sleep => "sleep",
            Self::Fork => "fork",
            Self::Dmesg => "dmesg",
            Self::Attest => "attest",
            Self::Wait => "wait",
            Self::Crash => "crash",
            Self::Hang => "hang",
        }
    }
}

/// How the guest ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum End {
    /// Switches itself off.
    #[default]
    PowerOff,
    /// Resets the machine.
    Reboot,
    /// Stops all CPUs.
    Halt,
}

/// A word of the command line that is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No such test.
    #[error("tenure.test names no test this guest has: {0:?}")]
    Test(String),
    /// The argument is not a number.
    #[error("tenure.test has an argument that is not a number: {0:?}")]
    Argument(String),
    /// No such end.
    #[error("tenure.end is not poweroff, reboot or halt: {0:?}")]
    End(String),
}

/// Everything asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// In this order.
    pub tests: Vec<Test>,
    /// And then.
    pub end: End,
}

impl FromStr for Test {
    type Err = RequestError;

    fn from_str(word: &str) -> Result<Self, RequestError> {
        let (name, argument) = match word.split_once(':') {
            Some((name, argument)) => (name, Some(argument)),
            None => (word, None),
        };
        let kind = TestKind::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| RequestError::Test(word.to_owned()))?;
        let argument = argument
            .map(|argument| argument.parse().map_err(|_| RequestError::Argument(word.to_owned())))
            .transpose()?;
        Ok(Self { kind, argument })
    }
}

impl Request {
    /// Reads a kernel command line. Of a word given several times the last counts.
    pub fn from_command_line(line: &str) -> Result<Self, RequestError> {
        let value = |key| line.split_whitespace().filter_map(|word| word.strip_prefix(key)).next_back();
        let tests = match value("tenure.test=") {
            Some(list) => list.split(',').map(Test::from_str).collect::<Result<_, _>>()?,
            None => {
                [TestKind::Memory, TestKind::Sleep, TestKind::Dmesg].map(|kind| Test { kind, argument: None }).into()
            }
        };
        let end = match value("tenure.end=") {
            None | Some("poweroff") => End::PowerOff,
            Some("reboot") => End::Reboot,
            Some("halt") => End::Halt,
            Some(other) => return Err(RequestError::End(other.to_owned())),
        };
        Ok(Self { tests, end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_are_read() {
        let request = Request::from_command_line("console=ttyS0 tenure.test=memory:16,fork tenure.end=reboot").unwrap();
        let expected =
            [Test { kind: TestKind::Memory, argument: Some(16) }, Test { kind: TestKind::Fork, argument: None }];
        assert_eq!(request, Request { tests: expected.into(), end: End::Reboot });
        let default = Request::from_command_line("console=ttyS0").unwrap();
        assert_eq!(default.end, End::PowerOff);
        assert_eq!(default.tests.len(), 3);
    }

    #[test]
    fn every_name_is_read_back() {
        for kind in TestKind::ALL {
            assert_eq!(kind.name().parse(), Ok(Test { kind, argument: None }));
        }
    }

    #[test]
    fn bad_words_are_named() {
        let error = |line| Request::from_command_line(line).unwrap_err().to_string();
        assert_eq!(error("tenure.test=memroy"), "tenure.test names no test this guest has: \"memroy\"");
        assert_eq!(error("tenure.test="), "tenure.test names no test this guest has: \"\"");
        assert_eq!(error("tenure.test=memory:-1"), "tenure.test has an argument that is not a number: \"memory:-1\"");
        assert_eq!(error("tenure.end=never"), "tenure.end is not poweroff, reboot or halt: \"never\"");
    }
}

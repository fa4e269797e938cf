//! A program to run on the lab host, and how it ended. The vocabulary of [`crate::Host`].

use std::fmt;
use std::time::Duration;

use lab_agent::proto::Program;

/// Time a command may take unless it says otherwise.
const DEADLINE: Duration = Duration::from_secs(600);

/// What a command reads from its standard input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Stdin {
    /// Nothing.
    #[default]
    Empty,
    /// These bytes.
    Bytes(Vec<u8>),
    /// What is written to the running command's [`crate::StdinWriter`].
    Stream,
}

/// A program to run on the lab host.
#[derive(Clone, Debug)]
pub struct Command {
    pub(crate) program: Program,
    pub(crate) stdin: Stdin,
    pub(crate) deadline: Duration,
}

impl Command {
    /// A command by its path on the lab host.
    pub fn new(path: impl Into<Vec<u8>>) -> Self {
        Self {
            program: Program { argv: vec![path.into()], ..Program::default() },
            stdin: Stdin::Empty,
            deadline: DEADLINE,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<Vec<u8>>) -> Self {
        self.program.argv.push(arg.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: Into<Vec<u8>>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.program.argv.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds to the environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        self.program.env.push((name.into(), value.into()));
        self
    }

    /// Sets the working directory; the root without it.
    #[must_use]
    pub fn cwd(mut self, path: impl Into<Vec<u8>>) -> Self {
        self.program.cwd = path.into();
        self
    }

    /// Sets the control group it runs in, by its path in the cgroup2 hierarchy; it is made if it
    /// is not there, and has the memory controller if it is at the top.
    #[must_use]
    pub fn cgroup(mut self, path: impl Into<Vec<u8>>) -> Self {
        self.program.cgroup = path.into();
        self
    }

    /// Sets what it reads.
    #[must_use]
    pub fn stdin(mut self, stdin: Stdin) -> Self {
        self.stdin = stdin;
        self
    }

    /// Sets how long it may take; ten minutes without it.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// By itself, with this code.
    Exited(u32),
    /// By this signal.
    Signaled(u32),
}

impl Status {
    /// Whether it ended with code 0.
    #[must_use]
    pub fn success(self) -> bool {
        self == Self::Exited(0)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit code {code}"),
            Self::Signaled(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// A command's end and everything it wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// How it ended.
    pub status: Status,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Standard output as text; what is no UTF-8 is replaced.
    #[must_use]
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text; what is no UTF-8 is replaced.
    #[must_use]
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

//! The host's end of the virtio-console, opened before the guest exists.
//!
//! What the guest writes while nobody listens is discarded, as on any unconnected line. A client that is slow holds up
//! the guest's output and nothing else, and no wait outlasts a request to stop.

use super::terminal::{ConsoleInput, Stdin, unbuffered_stdout};
use crate::config::values::VirtioConsole;
use crate::stop::StopSignal;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The two directions, as seen from the guest.
pub struct Endpoint {
    /// What the guest reads, if there ever is anything. Its end is the end of the input or a request to stop.
    pub input: Option<Box<dyn Read + Send>>,
    /// What the guest writes.
    pub output: Box<dyn Write + Send>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("input", &self.input.is_some()).finish_non_exhaustive()
    }
}

/// Why the host's end cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// A standard stream.
    #[error("virtio-console `stdio` cannot be used: {0}")]
    Stdio(io::Error),
    /// A file.
    #[error("virtio-console file `{}` cannot be created: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A socket.
    #[error("virtio-console socket `{}` cannot be made: {source}", path.display())]
    Socket {
        /// Its path.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl Endpoint {
    /// Opens what `console` names.
    pub fn open(console: &VirtioConsole, stdin: Stdin, stop: &StopSignal) -> Result<Self, EndpointError> {
        let endpoint = match console {
            VirtioConsole::None => Self { input: None, output: Box::new(io::sink()) },
            VirtioConsole::Stdio => {
                let input = ConsoleInput::stdin(stdin, stop).map_err(EndpointError::Stdio)?;
                let output = unbuffered_stdout().map_err(EndpointError::Stdio)?;
                Self { input: input.map(|input| Box::new(input) as Box<dyn Read + Send>), output }
            }
            VirtioConsole::File(path) => {
                let failed = |source| EndpointError::File { path: path.clone(), source };
                Self { input: None, output: Box::new(File::create(path).map_err(failed)?) }
            }
            VirtioConsole::Unix(path) => {
                let failed = |source| EndpointError::Socket { path: path.clone(), source };
                let line = Arc::new(Line::listen(path, stop).map_err(failed)?);
                Self { input: Some(Box::new(LineInput(Arc::clone(&line)))), output: Box::new(LineOutput(line)) }
            }
        };
        Ok(endpoint)
    }
}

/// A socket that has one client at a time.
#[derive(Debug)]
struct Line {
    path: PathBuf,
    listener: UnixListener,
    client: Mutex<Option<Arc<UnixStream>>>,
    stop: StopSignal,
}

/// What there is to do after waiting.
#[derive(Debug, PartialEq, Eq)]
enum Woken {
    Ready,
    Stopped,
}

impl Line {
    fn listen(path: &Path, stop: &StopSignal) -> io::Result<Self> {
        let listener = UnixListener::bind(path).or_else(|error| {
            // A socket nobody listens at was left behind by somebody who was killed.
            let left_behind = error.kind() == ErrorKind::AddrInUse
                && fs::symlink_metadata(path)?.file_type().is_socket()
                && UnixStream::connect(path).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
            if !left_behind {
                return Err(error);
            }
            fs::remove_file(path)?;
            UnixListener::bind(path)
        })?;
        listener.set_nonblocking(true)?;
        Ok(Self { path: path.to_owned(), listener, client: Mutex::new(None), stop: stop.clone() })
    }

    fn client(&self) -> MutexGuard<'_, Option<Arc<UnixStream>>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client there is, or the next one.
    fn wait_for_client(&self) -> io::Result<Option<Arc<UnixStream>>> {
        loop {
            if let Some(client) = &*self.client() {
                return Ok(Some(Arc::clone(client)));
            }
            if self.wait(&self.listener, PollFlags::IN)? == Woken::Stopped {
                return Ok(None);
            }
            match self.listener.accept() {
                Ok((client, _)) => {
                    client.set_nonblocking(true)?;
                    *self.client() = Some(Arc::new(client));
                }
                Err(error) if is_transient(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn wait(&self, fd: &impl AsFd, events: PollFlags) -> io::Result<Woken> {
        let mut fds = [PollFd::new(&self.stop, PollFlags::IN), PollFd::new(fd, events)];
        loop {
            match poll(&mut fds, None) {
                Ok(_) if !fds[0].revents().is_empty() => return Ok(Woken::Stopped),
                Ok(_) => return Ok(Woken::Ready),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Forgets `client`, unless there is already another one.
    fn hang_up(&self, client: &Arc<UnixStream>) {
        let mut current = self.client();
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, client)) {
            *current = None;
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::ConnectionAborted)
}

struct LineInput(Arc<Line>);

impl Read for LineInput {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        while let Some(client) = self.0.wait_for_client()? {
            if self.0.wait(&client, PollFlags::IN)? == Woken::Stopped {
                break;
            }
            match (&*client).read(buffer) {
                Ok(len) if len > 0 => return Ok(len),
                Err(error) if is_transient(&error) => {}
                // A client that is gone or broken makes room for the next one.
                Ok(_) | Err(_) => self.0.hang_up(&client),
            }
        }
        Ok(0)
    }
}

struct LineOutput(Arc<Line>);

impl Write for LineOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let Some(client) = self.0.client().clone() else { return Ok(bytes.len()) };
            match (&*client).write(bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if self.0.wait(&client, PollFlags::OUT)? == Woken::Stopped {
                        return Ok(bytes.len());
                    }
                }
                Err(error) if is_transient(&error) => {}
                Ok(len) if len > 0 || bytes.is_empty() => return Ok(len),
                Ok(_) | Err(_) => self.0.hang_up(&client),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stop::StopReason;

    fn open(path: &Path, stop: &StopSignal) -> Result<Endpoint, EndpointError> {
        Endpoint::open(&VirtioConsole::Unix(path.to_owned()), Stdin::Stream, stop)
    }

    #[test]
    fn a_socket_takes_one_client_after_the_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console");
        let stop = StopSignal::new().unwrap();
        let mut endpoint = open(&path, &stop).unwrap();
        endpoint.output.write_all(b"to nobody").unwrap();
        let mut input = endpoint.input.take().unwrap();
        for _ in 0..2 {
            let mut client = UnixStream::connect(&path).unwrap();
            client.write_all(b"ping").unwrap();
            let mut buffer = [0; 4];
            input.read_exact(&mut buffer).unwrap();
            assert_eq!(&buffer, b"ping");
            endpoint.output.write_all(b"pong").unwrap();
            client.read_exact(&mut buffer).unwrap();
            assert_eq!(&buffer, b"pong");
        }
        stop.request(StopReason::Terminate);
        assert_eq!(input.read(&mut [0; 4]).unwrap(), 0);
        drop((input, endpoint));
        assert!(!path.exists(), "the socket goes with the console");
    }

    #[test]
    fn a_client_that_does_not_read_loses_to_a_request_to_stop() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console");
        let stop = StopSignal::new().unwrap();
        let Endpoint { input, mut output } = open(&path, &stop).unwrap();
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(b"!").unwrap();
        input.unwrap().read_exact(&mut [0]).unwrap();
        let writer = std::thread::spawn(move || output.write_all(&vec![0; 64 << 20]));
        stop.request(StopReason::Terminate);
        writer.join().unwrap().unwrap();
    }

    #[test]
    fn no_silent_trust_paths_that_cannot_be_used() {
        let dir = tempfile::tempdir().unwrap();
        let stop = StopSignal::new().unwrap();
        let path = dir.path().join("console");
        let first = open(&path, &stop).unwrap();
        let error = open(&path, &stop).unwrap_err().to_string();
        assert!(error.contains("cannot be made: Address already in use"), "{error}");
        drop(first);
        let file = VirtioConsole::File("/nonexistent/out".into());
        let error = Endpoint::open(&file, Stdin::Stream, &stop).unwrap_err().to_string();
        assert!(error.starts_with("virtio-console file `/nonexistent/out` cannot be created"), "{error}");
    }

    #[test]
    fn a_socket_left_behind_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        open(&path, &StopSignal::new().unwrap()).unwrap();
        let precious = dir.path().join("file");
        fs::write(&precious, "keep me").unwrap();
        open(&precious, &StopSignal::new().unwrap()).unwrap_err();
        assert_eq!(fs::read_to_string(&precious).unwrap(), "keep me");
    }
}

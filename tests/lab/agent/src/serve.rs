//! Requests from the other side of the port.
//!
//! Owns: the port, and what each request does. Does not own: running programs (`program`).

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use lab_agent::proto::{self, CHUNK_BYTES, CONTROL, Decoder, Frame, Message, PORT_NAME, PORT_PARAMETER, Program};
use rustix::fs::OFlags;
use rustix::termios::{ControlModes, OptionalActions, tcgetattr, tcsetattr};

use crate::program::Programs;

const PORT_TRIES: u32 = 3000;
const PORT_PAUSE: Duration = Duration::from_millis(10);
/// The fastest a PC's serial port is made for.
const LINE_SPEED: u32 = 115_200;

/// The agent: serves until the other side asks for the end or is gone.
pub(crate) fn serve() -> Result<()> {
    // A port opens once only; both directions share it.
    let mut reader = open_port()?;
    let writer = Writer(Arc::new(Mutex::new(reader.try_clone()?)));
    writer.send(CONTROL, Message::Hello(proto::VERSION));

    let mut agent = Agent { writer, inputs: HashMap::new(), programs: Programs::default() };
    let mut decoder = Decoder::default();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).context("read from the port"),
        };
        decoder.push(&buffer[..count]);
        loop {
            match decoder.next_frame() {
                Ok(Some(Frame { message: Message::PowerOff, .. })) => return Ok(()),
                Ok(Some(frame)) => agent.handle(frame),
                Ok(None) => break,
                Err(error @ proto::Error::Malformed { channel, .. }) => agent.writer.fail(channel, error),
                Err(error @ proto::Error::Length(_)) => return Err(error.into()),
            }
        }
    }
}

/// The serial line the kernel's command line names, or else the virtio port.
fn open_port() -> Result<File> {
    let command_line = fs::read_to_string("/proc/cmdline").context("/proc/cmdline")?;
    let named = command_line.split_whitespace().find_map(|word| word.strip_prefix(PORT_PARAMETER)?.strip_prefix('='));
    let path = match named {
        Some(name) => Path::new("/dev").join(name),
        None => find_port()?,
    };
    let port = OpenOptions::new().read(true).write(true).custom_flags(OFlags::NOCTTY.bits().cast_signed()).open(&path);
    let port = port.with_context(|| path.display().to_string())?;
    if named.is_some() {
        make_raw(&port).with_context(|| format!("settings of {}", path.display()))?;
    }
    Ok(port)
}

/// Bytes pass as they are, both ways, as fast as the line can, and nobody asks for a carrier.
fn make_raw(line: &File) -> rustix::io::Result<()> {
    let mut settings = tcgetattr(line)?;
    settings.make_raw();
    settings.control_modes |= ControlModes::CLOCAL | ControlModes::CREAD;
    settings.control_modes &= !(ControlModes::CRTSCTS | ControlModes::HUPCL);
    settings.set_speed(LINE_SPEED)?;
    tcsetattr(line, OptionalActions::Flush, &settings)
}

/// The port by its name; its driver may take a moment to announce it, on a busy machine a long one.
fn find_port() -> Result<PathBuf> {
    let mut seen = Vec::new();
    for _ in 0..PORT_TRIES {
        seen.clear();
        for port in fs::read_dir("/sys/class/virtio-ports").into_iter().flatten().flatten() {
            let name = fs::read_to_string(port.path().join("name")).unwrap_or_default();
            let device = Path::new("/dev").join(port.file_name());
            if name.trim() == PORT_NAME && device.exists() {
                return Ok(device);
            }
            seen.push((port.file_name(), name, device.exists()));
        }
        thread::sleep(PORT_PAUSE);
    }
    let interrupts = fs::read_to_string("/proc/interrupts").unwrap_or_default();
    bail!("no virtio-serial port is named {PORT_NAME}; there are {seen:?}; interrupts so far:\n{interrupts}")
}

#[derive(Clone)]
pub(crate) struct Writer(Arc<Mutex<File>>);

impl Writer {
    pub(crate) fn send(&self, channel: u32, message: Message) {
        let mut wire = Vec::new();
        Frame { channel, message }.encode(&mut wire);
        let mut port = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // When the other side is gone, the reader sees the end of the port and ends the agent.
        let _ = port.write_all(&wire);
    }

    pub(crate) fn fail(&self, channel: u32, reason: impl Display) {
        self.send(channel, Message::Failed(format!("{reason:#}")));
    }
}

/// Where a channel's input goes.
enum Input {
    Program(Sender<Vec<u8>>),
    File(File),
    /// Its beginning failed, which has been reported; the rest is swallowed.
    Nowhere,
}

struct Agent {
    writer: Writer,
    inputs: HashMap<u32, Input>,
    programs: Programs,
}

impl Agent {
    fn handle(&mut self, frame: Frame) {
        let channel = frame.channel;
        let result = match frame.message {
            Message::Run(program) => self.run(channel, &program),
            Message::Input(data) => self.input(channel, data),
            Message::InputEnd => self.input_end(channel),
            Message::Kill(signal) => self.programs.kill(channel, signal),
            Message::Put(path, mode) => self.put(channel, Path::new(OsStr::from_bytes(&path)), mode),
            Message::Get(path) => {
                let writer = self.writer.clone();
                thread::spawn(move || get(&writer, channel, Path::new(OsStr::from_bytes(&path))));
                Ok(())
            }
            other => Err(anyhow!("not a request: {other:?}")),
        };
        if let Err(error) = result {
            self.writer.fail(channel, error);
        }
    }

    fn run(&mut self, channel: u32, program: &Program) -> Result<()> {
        // Input that may follow is swallowed if the program does not start.
        self.inputs.insert(channel, Input::Nowhere);
        let input = self.programs.start(channel, program, &self.writer)?;
        self.inputs.insert(channel, Input::Program(input));
        Ok(())
    }

    fn input(&mut self, channel: u32, data: Vec<u8>) -> Result<()> {
        match self.inputs.get_mut(&channel) {
            Some(Input::Program(sender)) => {
                // Its reader is gone when the command does not want more; that is no failure.
                let _ = sender.send(data);
            }
            Some(Input::File(file)) => {
                if let Err(error) = file.write_all(&data) {
                    self.inputs.insert(channel, Input::Nowhere);
                    return Err(error).context("write");
                }
            }
            Some(Input::Nowhere) | None => {}
        }
        Ok(())
    }

    fn input_end(&mut self, channel: u32) -> Result<()> {
        if let Some(Input::File(_)) = self.inputs.remove(&channel) {
            self.writer.send(channel, Message::Done);
        }
        Ok(())
    }

    fn put(&mut self, channel: u32, path: &Path, mode: u32) -> Result<()> {
        self.inputs.insert(channel, Input::Nowhere);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        }
        let at = || format!("{}", path.display());
        let existed = path.exists();
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path).with_context(at)?;
        // Switches in tracefs and cgroupfs have modes of their own; only a new file gets this one.
        if !existed {
            file.set_permissions(fs::Permissions::from_mode(mode)).with_context(at)?;
        }
        self.inputs.insert(channel, Input::File(file));
        Ok(())
    }
}

/// Reads to the end, piece by piece; returns what went wrong.
fn copy(stream: &mut impl Read, mut each: impl FnMut(Vec<u8>)) -> Option<io::Error> {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return None,
            Ok(count) => each(buffer[..count].to_vec()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Some(error),
        }
    }
}

fn get(writer: &Writer, channel: u32, path: &Path) {
    let error = match File::open(path) {
        Ok(mut file) => copy(&mut file, |data| writer.send(channel, Message::Output(data))),
        Err(error) => Some(error),
    };
    match error {
        None => writer.send(channel, Message::Done),
        Some(error) => writer.fail(channel, format_args!("{}: {error}", path.display())),
    }
}

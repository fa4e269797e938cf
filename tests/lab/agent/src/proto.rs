//! What host side and agent say to each other, and how it looks on the wire.
//!
//! Owns: messages, their encoding, a decoder that survives any input. Does not own: the transport
//! (a virtio-serial port or a serial line, a byte stream without boundaries) or what either side does.
//!
//! Specification: this file. A frame is its length (u32, of what follows), a channel (u32), a tag
//! (u8) and the message's fields; integers are little-endian, byte strings carry a u32 length,
//! lists a u32 count. A channel belongs to one request from its first frame to its last answer.

/// Version of this protocol; the agent's greeting carries it.
pub const VERSION: u32 = 2;
/// The name by which the agent finds its port.
pub const PORT_NAME: &str = "tenure.lab";
/// Where there is no virtio: what names a serial device on the kernel's command line, as in `lab.port=ttyS1`.
pub const PORT_PARAMETER: &str = "lab.port";
/// Largest frame, without its length field; a longer one is not from the other side.
pub const MAX_FRAME_BYTES: usize = 1 << 20;
/// Largest piece of a stream put into one frame.
pub const CHUNK_BYTES: usize = 32 << 10;
/// The channel of messages that belong to no request.
pub const CONTROL: u32 = 0;

/// A message on its channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The request it belongs to.
    pub channel: u32,
    /// What is said.
    pub message: Message,
}

/// A program to run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// Path and arguments.
    pub argv: Vec<Vec<u8>>,
    /// Additions to the environment, name and value.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// Working directory; empty for the root.
    pub cwd: Vec<u8>,
    /// Control group to run in, made if need be; empty for the agent's own.
    pub cgroup: Vec<u8>,
}

/// Everything that can be said. The first group goes to the agent, the second comes from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Start a program; its standard input follows as `Input` and ends with `InputEnd`.
    Run(Program),
    /// A piece of standard input, or of the file being put.
    Input(Vec<u8>),
    /// The end of it.
    InputEnd,
    /// Send a signal to the channel's program.
    Kill(u32),
    /// Create or replace a file (path, mode); contents follow as `Input`, `InputEnd`.
    Put(Vec<u8>, u32),
    /// Send a file's contents as `Output`, `Done`.
    Get(Vec<u8>),
    /// Switch the machine off.
    PowerOff,

    /// The agent is ready and speaks this version.
    Hello(u32),
    /// The program runs under this process id.
    Started(u32),
    /// A piece of standard output, or of the file being fetched.
    Output(Vec<u8>),
    /// A piece of standard error.
    ErrorOutput(Vec<u8>),
    /// The program ended with this code.
    Exited(u32),
    /// The program was ended by this signal.
    Signaled(u32),
    /// The file was put or sent.
    Done,
    /// The request failed, and why.
    Failed(String),
}

/// Bytes that are no frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The stream cannot be followed any further.
    #[error("frame of {0} bytes is not between 5 and {MAX_FRAME_BYTES}")]
    Length(usize),
    /// A frame without a meaning; the next one may have one again.
    #[error("frame on channel {channel} with tag {tag} is malformed")]
    Malformed {
        /// The channel it named.
        channel: u32,
        /// The tag it carried.
        tag: u8,
    },
}

impl Frame {
    /// Appends the frame's wire form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        put_u32(out, self.channel);
        match &self.message {
            Message::Run(program) => {
                out.push(1);
                put_count(out, program.argv.len());
                program.argv.iter().for_each(|arg| put_bytes(out, arg));
                put_count(out, program.env.len());
                for (name, value) in &program.env {
                    put_bytes(out, name);
                    put_bytes(out, value);
                }
                put_bytes(out, &program.cwd);
                put_bytes(out, &program.cgroup);
            }
            Message::Input(data) => tagged_bytes(out, 2, data),
            Message::InputEnd => out.push(3),
            Message::Kill(signal) => tagged_u32(out, 4, *signal),
            Message::Put(path, mode) => {
                tagged_bytes(out, 5, path);
                put_u32(out, *mode);
            }
            Message::Get(path) => tagged_bytes(out, 6, path),
            Message::PowerOff => out.push(7),
            Message::Hello(version) => tagged_u32(out, 128, *version),
            Message::Started(pid) => tagged_u32(out, 129, *pid),
            Message::Output(data) => tagged_bytes(out, 130, data),
            Message::ErrorOutput(data) => tagged_bytes(out, 131, data),
            Message::Exited(code) => tagged_u32(out, 132, *code),
            Message::Signaled(signal) => tagged_u32(out, 133, *signal),
            Message::Done => out.push(134),
            Message::Failed(reason) => tagged_bytes(out, 135, reason.as_bytes()),
        }
        let length = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
        out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    }

    fn decode(body: &[u8]) -> Result<Self, Error> {
        let mut fields = Fields(body);
        let (Some(channel), Some(tag)) = (fields.u32(), fields.u8()) else {
            return Err(Error::Length(body.len()));
        };
        let message = fields.message(tag).filter(|_| fields.0.is_empty());
        match message {
            Some(message) => Ok(Self { channel, message }),
            None => Err(Error::Malformed { channel, tag }),
        }
    }
}

fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    // A frame too large to count is refused by its length at the other end.
    put_u32(out, u32::try_from(count).unwrap_or(u32::MAX));
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_count(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn tagged_bytes(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    out.push(tag);
    put_bytes(out, bytes);
}

fn tagged_u32(out: &mut Vec<u8>, tag: u8, value: u32) {
    out.push(tag);
    put_u32(out, value);
}

/// What is left of a frame.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn u8(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn u32(&mut self) -> Option<u32> {
        let (value, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*value))
    }

    fn bytes(&mut self) -> Option<Vec<u8>> {
        let length = usize::try_from(self.u32()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes.to_vec())
    }

    fn list<T>(&mut self, item: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        // No capacity is taken from the count: it has not been checked against the data yet.
        let count = self.u32()?;
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(item(self)?);
        }
        Some(items)
    }

    fn message(&mut self, tag: u8) -> Option<Message> {
        Some(match tag {
            1 => Message::Run(Program {
                argv: self.list(Self::bytes)?,
                env: self.list(|fields| Some((fields.bytes()?, fields.bytes()?)))?,
                cwd: self.bytes()?,
                cgroup: self.bytes()?,
            }),
            2 => Message::Input(self.bytes()?),
            3 => Message::InputEnd,
            4 => Message::Kill(self.u32()?),
            5 => Message::Put(self.bytes()?, self.u32()?),
            6 => Message::Get(self.bytes()?),
            7 => Message::PowerOff,
            128 => Message::Hello(self.u32()?),
            129 => Message::Started(self.u32()?),
            130 => Message::Output(self.bytes()?),
            131 => Message::ErrorOutput(self.bytes()?),
            132 => Message::Exited(self.u32()?),
            133 => Message::Signaled(self.u32()?),
            134 => Message::Done,
            135 => Message::Failed(String::from_utf8(self.bytes()?).ok()?),
            _ => return None,
        })
    }
}

/// Finds the frames in a stream of bytes.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    consumed: usize,
}

impl Decoder {
    /// Takes more of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.consumed);
        self.consumed = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, if there is one. After [`Error::Length`] there is none any more;
    /// after [`Error::Malformed`] the stream goes on.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, Error> {
        let rest = &self.buffer[self.consumed..];
        let Some((length, body)) = rest.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*length) as usize;
        if !(5..=MAX_FRAME_BYTES).contains(&length) {
            return Err(Error::Length(length));
        }
        let Some(body) = body.get(..length) else {
            return Ok(None);
        };
        let frame = Frame::decode(body);
        self.consumed += 4 + length;
        frame.map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), 0..40)
    }

    fn message() -> impl Strategy<Value = Message> {
        let list = prop::collection::vec(bytes(), 0..4);
        let pairs = prop::collection::vec((bytes(), bytes()), 0..4);
        let program =
            (list, pairs, bytes(), bytes()).prop_map(|(argv, env, cwd, cgroup)| Program { argv, env, cwd, cgroup });
        prop_oneof![
            program.prop_map(Message::Run),
            bytes().prop_map(Message::Input),
            Just(Message::InputEnd),
            any::<u32>().prop_map(Message::Kill),
            (bytes(), any::<u32>()).prop_map(|(path, mode)| Message::Put(path, mode)),
            bytes().prop_map(Message::Get),
            Just(Message::PowerOff),
            any::<u32>().prop_map(Message::Hello),
            any::<u32>().prop_map(Message::Started),
            bytes().prop_map(Message::Output),
            bytes().prop_map(Message::ErrorOutput),
            any::<u32>().prop_map(Message::Exited),
            any::<u32>().prop_map(Message::Signaled),
            Just(Message::Done),
            ".{0,20}".prop_map(Message::Failed),
        ]
    }

    /// Reads to the end or to the first error that ends the stream.
    fn drain(decoder: &mut Decoder) -> Vec<Result<Frame, Error>> {
        let mut found = Vec::new();
        loop {
            match decoder.next_frame() {
                Ok(None) => return found,
                Ok(Some(frame)) => found.push(Ok(frame)),
                Err(error @ Error::Length(_)) => {
                    found.push(Err(error));
                    return found;
                }
                Err(error) => found.push(Err(error)),
            }
        }
    }

    proptest! {
        #[test]
        fn frames_survive_any_cutting(
            messages in prop::collection::vec((any::<u32>(), message()), 0..8),
            piece in 1usize..50,
        ) {
            let frames: Vec<Frame> =
                messages.into_iter().map(|(channel, message)| Frame { channel, message }).collect();
            let mut wire = Vec::new();
            frames.iter().for_each(|frame| frame.encode(&mut wire));
            let mut decoder = Decoder::default();
            let mut found = Vec::new();
            for part in wire.chunks(piece) {
                decoder.push(part);
                found.extend(drain(&mut decoder));
            }
            prop_assert_eq!(found, frames.into_iter().map(Ok).collect::<Vec<_>>());
        }

        #[test]
        fn garbage_is_refused_and_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            // Whatever is accepted says the same again when it is written back.
            for frame in drain(&mut decoder).into_iter().flatten() {
                let mut wire = Vec::new();
                frame.encode(&mut wire);
                let mut again = Decoder::default();
                again.push(&wire);
                prop_assert_eq!(again.next_frame(), Ok(Some(frame)));
            }
        }

        #[test]
        fn a_damaged_frame_leaves_the_next_one_readable(
            message in message(), tag in any::<u8>(), cut in any::<prop::sample::Index>(),
        ) {
            let mut wire = Vec::new();
            Frame { channel: 7, message }.encode(&mut wire);
            // A shorter body under an honest length, and another tag.
            let keep = 9 + cut.index(wire.len() - 8);
            wire.truncate(keep.min(wire.len()));
            wire[8] = tag;
            let length = u32::try_from(wire.len() - 4).unwrap();
            wire[..4].copy_from_slice(&length.to_le_bytes());
            let next = Frame { channel: 9, message: Message::Done };
            next.encode(&mut wire);
            let mut decoder = Decoder::default();
            decoder.push(&wire);
            let found = drain(&mut decoder);
            prop_assert_eq!(found.len(), 2);
            prop_assert_eq!(&found[1], &Ok(next));
        }
    }

    #[test]
    fn lengths_out_of_bounds_end_the_stream() {
        for length in [0u32, 4, 1 << 20 | 1, u32::MAX] {
            let mut decoder = Decoder::default();
            decoder.push(&length.to_le_bytes());
            assert_eq!(decoder.next_frame(), Err(Error::Length(length as usize)));
        }
    }

    #[test]
    fn counts_beyond_the_data_cost_nothing() {
        let mut wire = 9u32.to_le_bytes().to_vec();
        wire.extend_from_slice(&3u32.to_le_bytes());
        wire.push(1);
        wire.extend_from_slice(&u32::MAX.to_le_bytes());
        let mut decoder = Decoder::default();
        decoder.push(&wire);
        assert_eq!(decoder.next_frame(), Err(Error::Malformed { channel: 3, tag: 1 }));
    }
}

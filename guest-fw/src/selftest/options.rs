//! Options of the self-test: words of the command line, each `key=value`, none of them required.
//!
//! | key | value | default | meaning |
//! |---|---|---|---|
//! | `memory` | `sample` or `all` | `sample` | pages the memory test touches: a few thousand spread over RAM and its edges, or every one |
//! | `vcpus` | 1 to the VM's | all | processors that take part |
//! | `rounds` | 0 to 1000000 | 12 | conversions to and fro each processor makes |
//! | `virtio` | 0 to 1000000 | 0 | buffers of 4 KiB sent over virtio-console while the others convert |
//!
//! An unknown key, a repeated key or a bad value is an error: a test that silently tested something else is worth
//! nothing.

use core::fmt;
use core::str::FromStr;

/// Most rounds and buffers that may be asked for.
const COUNT_MAX: u32 = 1_000_000;

/// What to test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Pages the memory test touches.
    pub memory: Coverage,
    /// Processors that take part.
    pub vcpus: u32,
    /// Conversions to and fro each processor makes.
    pub rounds: u32,
    /// Buffers to send over virtio-console.
    pub virtio_buffers: u32,
}

/// How much of memory is touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coverage {
    /// A few thousand pages.
    Sample,
    /// Every page.
    All,
}

/// What is wrong with an option. Command lines are not text until checked, so it names a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// The command line is not UTF-8.
    #[error("self-test options are not UTF-8 from byte {0}")]
    NotText(usize),
    /// Not `key=value` with a known key.
    #[error("word {0} of the self-test options is not a known key=value")]
    Unknown(usize),
    /// The value cannot be.
    #[error("word {0} of the self-test options has a value out of range")]
    Value(usize),
    /// The key was there before.
    #[error("word {0} of the self-test options repeats a key")]
    Repeated(usize),
}

impl Options {
    /// Reads a command line, in a VM of `vcpus` processors.
    pub fn parse(cmdline: &[u8], vcpus: u32) -> Result<Self, OptionsError> {
        let text = str::from_utf8(cmdline).map_err(|error| OptionsError::NotText(error.valid_up_to()))?;
        let mut memory = None;
        let mut wanted_vcpus = None;
        let mut rounds = None;
        let mut virtio_buffers = None;
        for (position, word) in text.split_ascii_whitespace().enumerate() {
            let (key, value) = word.split_once('=').ok_or(OptionsError::Unknown(position))?;
            let number = |slot: &mut Option<u32>, range: core::ops::RangeInclusive<u32>| {
                let value = u32::from_str(value).ok().filter(|value| range.contains(value));
                once(slot, value, position)
            };
            match key {
                "memory" => {
                    let coverage = match value {
                        "sample" => Some(Coverage::Sample),
                        "all" => Some(Coverage::All),
                        _ => None,
                    };
                    once(&mut memory, coverage, position)?;
                }
                "vcpus" => number(&mut wanted_vcpus, 1..=vcpus)?,
                "rounds" => number(&mut rounds, 0..=COUNT_MAX)?,
                "virtio" => number(&mut virtio_buffers, 0..=COUNT_MAX)?,
                _ => return Err(OptionsError::Unknown(position)),
            }
        }
        Ok(Self {
            memory: memory.unwrap_or(Coverage::Sample),
            vcpus: wanted_vcpus.unwrap_or(vcpus),
            rounds: rounds.unwrap_or(12),
            virtio_buffers: virtio_buffers.unwrap_or(0),
        })
    }
}

/// As they can be asked for.
impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { memory, vcpus, rounds, virtio_buffers } = self;
        let memory = match memory {
            Coverage::Sample => "sample",
            Coverage::All => "all",
        };
        write!(f, "memory={memory} vcpus={vcpus} rounds={rounds} virtio={virtio_buffers}")
    }
}

fn once<T>(slot: &mut Option<T>, value: Option<T>, position: usize) -> Result<(), OptionsError> {
    let value = value.ok_or(OptionsError::Value(position))?;
    if slot.replace(value).is_some() {
        return Err(OptionsError::Repeated(position));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_means_defaults() {
        let options = Options::parse(b"", 8).unwrap();
        assert_eq!(options, Options { memory: Coverage::Sample, vcpus: 8, rounds: 12, virtio_buffers: 0 });
    }

    #[test]
    fn every_key_is_read() {
        let options = Options::parse(b" rounds=10000 vcpus=2\tmemory=all virtio=300 ", 8).unwrap();
        assert_eq!(options, Options { memory: Coverage::All, vcpus: 2, rounds: 10000, virtio_buffers: 300 });
        assert_eq!(Options::parse(options.to_string().as_bytes(), 8), Ok(options));
    }

    #[test]
    fn no_silent_trust_options() {
        use OptionsError::{NotText, Repeated, Unknown, Value};
        for (line, error) in [
            (&b"memory"[..], Unknown(0)),
            (b"rounds=1 turns=2", Unknown(1)),
            (b"vcpus=0", Value(0)),
            (b"vcpus=9", Value(0)),
            (b"rounds=-1", Value(0)),
            (b"rounds=1000001", Value(0)),
            (b"memory=some", Value(0)),
            (b"rounds=1 virtio=", Value(1)),
            (b"rounds=1 rounds=1", Repeated(1)),
            (b"rounds=\xff", NotText(7)),
        ] {
            assert_eq!(Options::parse(line, 8), Err(error), "{}", line.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer_or_an_error(line in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(options) = Options::parse(&line, 4) {
                prop_assert!((1..=4).contains(&options.vcpus));
            }
        }
    }
}

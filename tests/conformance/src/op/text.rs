//! Operations as lines of text, there and back.
//!
//! A line is a verb, its registers, and `name=value` in any order; numbers are decimal or hexadecimal, flags are names
//! joined by `|`. What follows `->` says what the answer should be; what follows `#` is for people.

use std::fmt;

use super::{
    Advice, Call, Cpu, Descriptor, File, GUEST_MEMFD, INIT_SHARED, KEEP_SIZE, LOG_DIRTY, MMAP, Map, Op, PRIVATE,
    PUNCH_HOLE, Place, Plain, Protection, READONLY, Sharing, Slot, Vm,
};

const SLOT_FLAGS: [(&str, u64); 3] =
    [("LOG_DIRTY", LOG_DIRTY as u64), ("READONLY", READONLY as u64), ("GUEST_MEMFD", GUEST_MEMFD as u64)];
const FILE_FLAGS: [(&str, u64); 2] = [("MMAP", MMAP), ("INIT_SHARED", INIT_SHARED)];
const ATTRIBUTES: [(&str, u64); 1] = [("PRIVATE", PRIVATE)];
const MODES: [(&str, u64); 2] = [("KEEP_SIZE", KEEP_SIZE as u64), ("PUNCH_HOLE", PUNCH_HOLE as u64)];

const SHARINGS: [(&str, Sharing); 2] = [("shared", Sharing::Shared), ("private", Sharing::Private)];
const PROTECTIONS: [(&str, Protection); 3] =
    [("rw", Protection::ReadWrite), ("r", Protection::Read), ("rx", Protection::Exec)];
const ADVICES: [(&str, Advice); 3] =
    [("dontneed", Advice::DontNeed), ("remove", Advice::Remove), ("collapse", Advice::Collapse)];
const CALLS: [(&str, Call); 10] = [
    ("read", Call::Read),
    ("write", Call::Write),
    ("pread", Call::Pread),
    ("pwrite", Call::Pwrite),
    ("lseek", Call::Lseek),
    ("truncate", Call::Truncate),
    ("chmod", Call::Chmod),
    ("reopen", Call::Reopen),
    ("size", Call::Size),
    ("blocksize", Call::BlockSize),
];

fn name_of<T: PartialEq>(names: &[(&'static str, T)], value: &T) -> &'static str {
    names.iter().find(|(_, other)| other == value).map_or("?", |(name, _)| name)
}

/// Flags by name, the rest as a number.
struct Flags<'a>(&'a [(&'static str, u64)], u64);

impl fmt::Display for Flags<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.1 == 0 {
            return f.write_str("0");
        }
        let mut rest = self.1;
        let mut separator = "";
        for (name, bit) in self.0 {
            if rest & bit != 0 {
                write!(f, "{separator}{name}")?;
                (rest, separator) = (rest & !bit, "|");
            }
        }
        if rest != 0 { write!(f, "{separator}{rest:#x}") } else { Ok(()) }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(plain, offset) => write!(f, "{plain}+{offset:#x}"),
            Self::Map(map, offset) => write!(f, "{map}+{offset:#x}"),
            Self::Raw(address) => write!(f, "{address:#x}"),
        }
    }
}

impl fmt::Display for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => file.fmt(f),
            Self::Vm(vm) => vm.fmt(f),
            Self::Kvm => f.write_str("kvm"),
            Self::Null => f.write_str("null"),
            Self::Bad => f.write_str("bad"),
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, flags, gpa, size, hva, gmem, offset } = self;
        write!(f, "id={id:#x} size={size:#x}")?;
        if *size == 0 && *flags == 0 && *gpa == 0 && *hva == Place::Raw(0) {
            return Ok(());
        }
        write!(f, " gpa={gpa:#x} hva={hva} flags={}", Flags(&SLOT_FLAGS, u64::from(*flags)))?;
        if flags & GUEST_MEMFD != 0 { write!(f, " gmem={gmem} offset={offset:#x}") } else { Ok(()) }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateVm { vm, vm_type } => write!(f, "vm {vm} type={vm_type}"),
            Self::CloseVm(vm) => write!(f, "close {vm}"),
            Self::CreateFile { file, vm, size, flags } => {
                write!(f, "gmem {file} {vm} size={size:#x} flags={}", Flags(&FILE_FLAGS, *flags))
            }
            Self::Dup { from, to } => write!(f, "dup {from} {to}"),
            Self::CloseFile(file) => write!(f, "close {file}"),
            Self::CreateCpu { cpu, vm } => write!(f, "vcpu {cpu} {vm}"),
            Self::CloseCpu(cpu) => write!(f, "close {cpu}"),
            Self::SetSlot { vm, slot } => write!(f, "slot {vm} {slot}"),
            Self::SetSlotV1 { vm, slot } => write!(f, "slot-v1 {vm} {slot}"),
            Self::SetAttributes { vm, gpa, size, attributes, flags } => {
                let attributes = Flags(&ATTRIBUTES, *attributes);
                write!(f, "attr {vm} gpa={gpa:#x} size={size:#x} attributes={attributes} flags={flags:#x}")
            }
            Self::Fallocate { file, mode, offset, len } => {
                let mode = Flags(&MODES, u64::from(*mode));
                write!(f, "fallocate {file} mode={mode} offset={offset:#x} len={len:#x}")
            }
            Self::Map { map, file, offset, len, sharing, protection } => {
                let (sharing, protection) = (name_of(&SHARINGS, sharing), name_of(&PROTECTIONS, protection));
                write!(f, "map {map} {file} offset={offset:#x} len={len:#x} {sharing} {protection}")
            }
            Self::Unmap(map) => write!(f, "unmap {map}"),
            Self::Advise { map, advice } => write!(f, "advise {map} {}", name_of(&ADVICES, advice)),
            Self::HostRead(place) => write!(f, "host-read {place}"),
            Self::HostWrite(place, value) => write!(f, "host-write {place} {value:#x}"),
            Self::GuestRead(cpu, gpa) => write!(f, "guest-read {cpu} {gpa:#x}"),
            Self::GuestWrite(cpu, gpa, value) => write!(f, "guest-write {cpu} {gpa:#x} {value:#x}"),
            Self::Prefault { cpu, gpa, size, flags } => {
                write!(f, "prefault {cpu} gpa={gpa:#x} size={size:#x} flags={flags:#x}")
            }
            Self::Pages(file) => write!(f, "pages {file}"),
            Self::Alive(vm) => write!(f, "alive {vm}"),
            Self::Capability { vm: Some(vm), number } => write!(f, "cap {vm} {number}"),
            Self::Capability { vm: None, number } => write!(f, "cap kvm {number}"),
            Self::Try(file, call) => write!(f, "try {file} {}", name_of(&CALLS, call)),
        }
    }
}

/// Why a line is no operation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// No operation has this name.
    #[error("no operation is named {0:?}")]
    Verb(String),
    /// A word or a value is missing.
    #[error("{verb}: no {what}")]
    Missing {
        /// The operation.
        verb: String,
        /// What it lacks.
        what: &'static str,
    },
    /// A word is not what should be there.
    #[error("{what} {word:?} is none")]
    Word {
        /// What should be there.
        what: &'static str,
        /// What is there.
        word: String,
    },
    /// A line of a script.
    #[error("line {number}: {error}")]
    Line {
        /// Its number, from 1.
        number: usize,
        /// What is wrong with it.
        error: Box<ParseError>,
    },
}

fn number(word: &str) -> Result<u64, ParseError> {
    let parsed = match word.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => word.parse(),
    };
    parsed.map_err(|_| ParseError::Word { what: "number", word: word.to_owned() })
}

fn flags(names: &[(&'static str, u64)], word: &str) -> Result<u64, ParseError> {
    word.split('|').try_fold(0, |flags, part| {
        let named = names.iter().find(|(name, _)| *name == part);
        Ok(flags | named.map_or_else(|| number(part), |(_, bit)| Ok(*bit))?)
    })
}

fn narrow<T: TryFrom<u64>>(value: u64) -> Result<T, ParseError> {
    T::try_from(value).map_err(|_| ParseError::Word { what: "number of this size", word: format!("{value:#x}") })
}

fn place(word: &str) -> Result<Place, ParseError> {
    let Some((window, offset)) = word.split_once('+') else { return number(word).map(Place::Raw) };
    let offset = number(offset)?;
    if window.starts_with(Plain::LETTER) {
        return Ok(Place::Plain(register(window, "window", Plain::LETTER, Plain::new)?, offset));
    }
    Ok(Place::Map(register(window, "window", Map::LETTER, Map::new)?, offset))
}

fn register<T>(
    word: &str,
    what: &'static str,
    letter: char,
    new: impl FnOnce(u8) -> Option<T>,
) -> Result<T, ParseError> {
    let number = word.strip_prefix(letter).and_then(|digits| digits.parse().ok());
    number.and_then(new).ok_or_else(|| ParseError::Word { what, word: word.to_owned() })
}

fn vm(word: &str) -> Result<Vm, ParseError> {
    register(word, "VM", Vm::LETTER, Vm::new)
}

fn file(word: &str) -> Result<File, ParseError> {
    register(word, "guest_memfd", File::LETTER, File::new)
}

fn map(word: &str) -> Result<Map, ParseError> {
    register(word, "mapping", Map::LETTER, Map::new)
}

fn cpu(word: &str) -> Result<Cpu, ParseError> {
    register(word, "vCPU", Cpu::LETTER, Cpu::new)
}

fn descriptor(word: &str) -> Result<Descriptor, ParseError> {
    Ok(match word {
        "kvm" => Descriptor::Kvm,
        "null" => Descriptor::Null,
        "bad" => Descriptor::Bad,
        _ if word.starts_with(Vm::LETTER) => Descriptor::Vm(vm(word)?),
        _ => Descriptor::File(file(word)?),
    })
}

fn one_of<T: Copy>(names: &[(&'static str, T)], what: &'static str, word: &str) -> Result<T, ParseError> {
    let found = names.iter().find(|(name, _)| *name == word);
    found.map(|(_, value)| *value).ok_or_else(|| ParseError::Word { what, word: word.to_owned() })
}

/// A line's words.
struct Words<'a> {
    verb: &'a str,
    positional: std::vec::IntoIter<&'a str>,
    keyed: Vec<(&'a str, &'a str)>,
}

impl<'a> Words<'a> {
    fn new(line: &'a str) -> Result<Self, ParseError> {
        let mut words = line.split_whitespace();
        let verb = words.next().ok_or_else(|| ParseError::Verb(String::new()))?;
        let (mut positional, mut keyed) = (Vec::new(), Vec::new());
        for word in words {
            match word.split_once('=') {
                Some(pair) => keyed.push(pair),
                None => positional.push(word),
            }
        }
        Ok(Self { verb, positional: positional.into_iter(), keyed })
    }

    fn missing(&self, what: &'static str) -> ParseError {
        ParseError::Missing { verb: self.verb.to_owned(), what }
    }

    fn next(&mut self, what: &'static str) -> Result<&'a str, ParseError> {
        self.positional.next().ok_or_else(|| self.missing(what))
    }

    fn value(&mut self, name: &'static str) -> Option<&'a str> {
        let position = self.keyed.iter().position(|(key, _)| *key == name)?;
        Some(self.keyed.remove(position).1)
    }

    fn required(&mut self, name: &'static str) -> Result<u64, ParseError> {
        let word = self.value(name).ok_or_else(|| self.missing(name))?;
        number(word)
    }

    fn or_zero(&mut self, name: &'static str, names: &[(&'static str, u64)]) -> Result<u64, ParseError> {
        self.value(name).map_or(Ok(0), |word| flags(names, word))
    }

    fn slot(&mut self) -> Result<Slot, ParseError> {
        Ok(Slot {
            id: narrow(self.required("id")?)?,
            flags: narrow(self.or_zero("flags", &SLOT_FLAGS)?)?,
            gpa: self.or_zero("gpa", &[])?,
            size: self.required("size")?,
            hva: self.value("hva").map_or(Ok(Place::Raw(0)), place)?,
            gmem: self.value("gmem").map_or(Ok(Descriptor::Bad), descriptor)?,
            offset: self.or_zero("offset", &[])?,
        })
    }

    fn close(&mut self) -> Result<Op, ParseError> {
        let word = self.next("what to close")?;
        vm(word).map(Op::CloseVm).or_else(|_| file(word).map(Op::CloseFile)).or_else(|_| cpu(word).map(Op::CloseCpu))
    }
}

/// The operation that a line says, without what it expects.
pub fn parse(line: &str) -> Result<Op, ParseError> {
    let mut words = Words::new(line)?;
    let op = match words.verb {
        "vm" => Op::CreateVm { vm: vm(words.next("register")?)?, vm_type: narrow(words.required("type")?)? },
        "close" => words.close()?,
        "gmem" => Op::CreateFile {
            file: file(words.next("register")?)?,
            vm: vm(words.next("VM")?)?,
            size: words.required("size")?,
            flags: words.or_zero("flags", &FILE_FLAGS)?,
        },
        "dup" => Op::Dup { from: file(words.next("source")?)?, to: file(words.next("register")?)? },
        "vcpu" => Op::CreateCpu { cpu: cpu(words.next("register")?)?, vm: vm(words.next("VM")?)? },
        "slot" => Op::SetSlot { vm: vm(words.next("VM")?)?, slot: words.slot()? },
        "slot-v1" => Op::SetSlotV1 { vm: vm(words.next("VM")?)?, slot: words.slot()? },
        "attr" => Op::SetAttributes {
            vm: vm(words.next("VM")?)?,
            gpa: words.required("gpa")?,
            size: words.required("size")?,
            attributes: words.or_zero("attributes", &ATTRIBUTES)?,
            flags: words.or_zero("flags", &[])?,
        },
        "fallocate" => Op::Fallocate {
            file: file(words.next("file")?)?,
            mode: narrow(words.or_zero("mode", &MODES)?)?,
            offset: words.required("offset")?,
            len: words.required("len")?,
        },
        "map" => Op::Map {
            map: map(words.next("window")?)?,
            file: file(words.next("file")?)?,
            offset: words.or_zero("offset", &[])?,
            len: words.required("len")?,
            sharing: one_of(&SHARINGS, "kind of mapping", words.next("kind of mapping")?)?,
            protection: one_of(&PROTECTIONS, "protection", words.next("protection")?)?,
        },
        "unmap" => Op::Unmap(map(words.next("window")?)?),
        "advise" => {
            Op::Advise { map: map(words.next("window")?)?, advice: one_of(&ADVICES, "advice", words.next("advice")?)? }
        }
        "host-read" => Op::HostRead(place(words.next("address")?)?),
        "host-write" => Op::HostWrite(place(words.next("address")?)?, narrow(number(words.next("value")?)?)?),
        "guest-read" => Op::GuestRead(cpu(words.next("vCPU")?)?, number(words.next("address")?)?),
        "guest-write" => Op::GuestWrite(
            cpu(words.next("vCPU")?)?,
            number(words.next("address")?)?,
            narrow(number(words.next("value")?)?)?,
        ),
        "prefault" => Op::Prefault {
            cpu: cpu(words.next("vCPU")?)?,
            gpa: words.required("gpa")?,
            size: words.required("size")?,
            flags: words.or_zero("flags", &[])?,
        },
        "pages" => Op::Pages(file(words.next("file")?)?),
        "alive" => Op::Alive(vm(words.next("VM")?)?),
        "cap" => {
            let of = words.next("VM")?;
            let vm = if of == "kvm" { None } else { Some(vm(of)?) };
            Op::Capability { vm, number: narrow(number(words.next("number")?)?)? }
        }
        "try" => Op::Try(file(words.next("file")?)?, one_of(&CALLS, "call", words.next("call")?)?),
        verb => return Err(ParseError::Verb(verb.to_owned())),
    };
    let left = words.positional.next().or_else(|| words.keyed.first().map(|(key, _)| *key));
    match left {
        Some(word) => Err(ParseError::Word { what: "word", word: word.to_owned() }),
        None => Ok(op),
    }
}

/// Lines with the answer each should get, if it says one.
pub fn parse_script(text: &str) -> Result<Vec<(Op, Option<String>)>, ParseError> {
    let mut script = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        let (asked, answer) = line.split_once("->").map_or((line, None), |(asked, answer)| (asked, Some(answer)));
        if asked.trim().is_empty() {
            continue;
        }
        let op = parse(asked).map_err(|error| ParseError::Line { number: index + 1, error: Box::new(error) })?;
        script.push((op, answer.map(|answer| answer.trim().to_owned())));
    }
    Ok(script)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_lines_are_named() {
        let said = |line: &str| parse(line).unwrap_err().to_string();
        assert_eq!(said("bind v0"), "no operation is named \"bind\"");
        assert_eq!(said("vm v9 type=0"), "VM \"v9\" is none");
        assert_eq!(said("vm v0"), "vm: no type");
        assert_eq!(said("vm v0 type=x"), "number \"x\" is none");
        assert_eq!(said("vm v0 type=0 more"), "word \"more\" is none");
        assert_eq!(said("slot v0 id=0 size=0x1000 flags=MAYBE"), "number \"MAYBE\" is none");
        assert_eq!(
            parse_script("vm v0 type=0\n\nnonsense").unwrap_err().to_string(),
            "line 3: no operation is named \"nonsense\""
        );
    }

    #[test]
    fn a_script_says_what_it_expects() {
        let script = parse_script("# why\nvm v0 type=1 -> ok\nclose v0 # no answer\n").unwrap();
        assert_eq!(script[0], (Op::CreateVm { vm: Vm(0), vm_type: 1 }, Some("ok".to_owned())));
        assert_eq!(script[1], (Op::CloseVm(Vm(0)), None));
        assert_eq!(script.len(), 2);
    }
}

//! Writes the cpio archive that a Linux kernel unpacks as its first root file system.
//!
//! Owns the "newc" record format. Archives are reproducible: inode numbers count up, the owner is root, all times are
//! zero. Does not own what goes into the archive.
//! Specification: Linux, Documentation/driver-api/early-userspace/buffer-format.rst.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};

const REGULAR: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
const CHARACTER_DEVICE: u32 = 0o020_000;
const TRAILER: &str = "TRAILER!!!";

/// Why an archive could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name the kernel would not unpack where the caller means it to be.
    #[error("path {0:?} in the initramfs is not a plain absolute path")]
    Path(String),
    /// The format counts file sizes in 32 bits.
    #[error("file {path} of {size} bytes exceeds the 4 GiB a cpio record can hold")]
    TooLarge {
        /// Where it was to go.
        path: String,
        /// Its size in bytes.
        size: u64,
    },
    /// The source ended before, or goes on after, the size announced for it.
    #[error("file {path} changed while it was read: {announced} bytes announced, {found} found")]
    SizeChanged {
        /// Where it was to go.
        path: String,
        /// The size in its header.
        announced: u64,
        /// The bytes that came.
        found: u64,
    },
    /// Reading a source or writing the archive failed.
    #[error("writing the initramfs: {0}")]
    Io(#[from] io::Error),
}

/// An archive being written.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    inode: u32,
    directories: BTreeSet<String>,
}

impl<W: Write> Writer<W> {
    /// Starts an archive.
    pub fn new(out: W) -> Self {
        Self { out, inode: 0, directories: BTreeSet::new() }
    }

    /// Adds a directory and those above it, once each.
    pub fn directory(&mut self, path: &str) -> Result<(), Error> {
        let parts = parts(path)?;
        for depth in 1..=parts.len() {
            let name = parts[..depth].join("/");
            if self.directories.insert(name.clone()) {
                self.header(&name, DIRECTORY | 0o755, 0, (0, 0))?;
            }
        }
        Ok(())
    }

    /// Adds a character device.
    pub fn character_device(&mut self, path: &str, major: u32, minor: u32) -> Result<(), Error> {
        let name = self.parents(path)?;
        self.header(&name, CHARACTER_DEVICE | 0o600, 0, (major, minor))
    }

    /// Adds a file of `size` bytes read from `source`, and the directories above it.
    pub fn file(&mut self, path: &str, mode: u32, size: u64, source: impl Read) -> Result<(), Error> {
        let name = self.parents(path)?;
        let short = u32::try_from(size).map_err(|_| Error::TooLarge { path: path.to_owned(), size })?;
        self.header(&name, REGULAR | (mode & 0o7777), short, (0, 0))?;
        // One byte more than announced is asked for, so that growth is seen too.
        let found = io::copy(&mut source.take(size + 1), &mut self.out)?;
        if found != size {
            return Err(Error::SizeChanged { path: path.to_owned(), announced: size, found });
        }
        self.pad(size)
    }

    /// Ends the archive and gives back what it was written to.
    pub fn finish(mut self) -> Result<W, Error> {
        self.inode = 0;
        self.header(TRAILER, 0, 0, (0, 0))?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn parents(&mut self, path: &str) -> Result<String, Error> {
        let parts = parts(path)?;
        if let [above @ .., _] = &parts[..]
            && !above.is_empty()
        {
            self.directory(&format!("/{}", above.join("/")))?;
        }
        Ok(parts.join("/"))
    }

    fn header(&mut self, name: &str, mode: u32, size: u32, device: (u32, u32)) -> Result<(), Error> {
        let links = if mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
        let name_size = name.len() + 1;
        write!(
            self.out,
            "070701{:08x}{mode:08x}{:08x}{:08x}{links:08x}{:08x}{size:08x}{:08x}{:08x}{:08x}{:08x}{name_size:08x}{:08x}{name}\0",
            self.inode, 0, 0, 0, 0, 0, device.0, device.1, 0,
        )?;
        self.inode += 1;
        self.pad(110 + name_size as u64)
    }

    fn pad(&mut self, written: u64) -> Result<(), Error> {
        let missing = (4 - written % 4) % 4;
        self.out.write_all(&[0; 4][..usize::try_from(missing).unwrap_or(0)])?;
        Ok(())
    }
}

fn parts(path: &str) -> Result<Vec<&str>, Error> {
    let wrong = || Error::Path(path.to_owned());
    let relative = path.strip_prefix('/').ok_or_else(wrong)?;
    let parts: Vec<&str> = relative.split('/').filter(|part| !part.is_empty()).collect();
    let plain = |part: &&str| *part != "." && *part != ".." && *part != TRAILER && !part.contains('\0');
    if parts.is_empty() || !parts.iter().all(plain) {
        return Err(wrong());
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    /// (name, mode, contents) of every record: a reader written from the specification.
    fn read(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut records = Vec::new();
        let total = bytes.len();
        let align = |rest: &[u8]| (4 - (total - rest.len()) % 4) % 4;
        loop {
            let (header, rest) = bytes.split_at(110);
            assert_eq!(&header[..6], b"070701");
            let field = |n: usize| {
                let text = std::str::from_utf8(&header[6 + n * 8..14 + n * 8]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            let (name, rest) = rest.split_at(field(11) as usize);
            let rest = &rest[align(rest)..];
            let (data, rest) = rest.split_at(field(6) as usize);
            bytes = &rest[align(rest)..];
            let name = std::str::from_utf8(name).unwrap().trim_end_matches('\0');
            if name == TRAILER {
                assert!(bytes.is_empty());
                return records;
            }
            records.push((name.to_owned(), field(1), data.to_vec()));
        }
    }

    #[test]
    fn records_come_back_as_written() {
        for size in 0..9u8 {
            let data: Vec<u8> = (0..size).collect();
            let mut writer = Writer::new(Vec::new());
            writer.file("/init", 0o755, u64::from(size), &data[..]).unwrap();
            writer.file("/a/b/c", 0o644, u64::from(size), &data[..]).unwrap();
            writer.character_device("/dev/console", 5, 1).unwrap();
            writer.directory("/a/b").unwrap();
            let records = read(&writer.finish().unwrap());
            let names: Vec<&str> = records.iter().map(|record| record.0.as_str()).collect();
            assert_eq!(names, ["init", "a", "a/b", "a/b/c", "dev", "dev/console"]);
            assert_eq!(records[0].1, 0o100_755);
            assert_eq!(records[0].2, data);
            assert_eq!(records[2].1, 0o040_755);
            assert_eq!(records[3].2, data);
            assert_eq!(records[5].1, 0o020_600);
        }
    }

    /// Another implementation reads the same back. Without a `cpio` program there is nothing to compare with; every boot
    /// in the lab still unpacks such an archive.
    #[test]
    fn cpio_program_agrees() {
        let mut writer = Writer::new(Vec::new());
        writer.character_device("/dev/console", 5, 1).unwrap();
        writer.file("/init", 0o755, 4099, &[0x7f; 4099][..]).unwrap();
        let bytes = writer.finish().unwrap();
        let listing =
            Command::new("cpio").args(["-tv", "--quiet"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let Ok(mut child) = listing else {
            println!("skipped: no cpio program");
            return;
        };
        child.stdin.take().unwrap().write_all(&bytes).unwrap();
        let output = child.wait_with_output().unwrap();
        let listing = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success());
        let lines: Vec<&str> = listing.lines().collect();
        assert_eq!(lines.len(), 3, "{listing}");
        assert!(lines[0].starts_with("drwxr-xr-x") && lines[0].ends_with("dev"), "{listing}");
        assert!(lines[1].starts_with("crw-------") && lines[1].contains("5,   1"), "{listing}");
        assert!(lines[2].starts_with("-rwxr-xr-x") && lines[2].contains("4099"), "{listing}");
    }

    #[test]
    fn a_source_of_another_size_is_refused() {
        for announced in [0u64, 3, 5] {
            let error = Writer::new(Vec::new()).file("/f", 0o644, announced, &b"four"[..]).unwrap_err();
            assert!(matches!(error, Error::SizeChanged { .. }), "{announced}: {error}");
        }
    }

    #[test]
    fn a_path_that_leads_elsewhere_is_refused() {
        for path in ["", "/", "relative", "/a/../b", "/./a", "/a\0b", "/TRAILER!!!"] {
            let error = Writer::new(Vec::new()).file(path, 0o644, 0, io::empty()).unwrap_err();
            assert!(matches!(error, Error::Path(_)), "{path:?}: {error}");
        }
    }
}

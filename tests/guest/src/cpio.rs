//! Writes initial RAM disks.
//!
//! Owns the "newc" cpio format as the Linux kernel unpacks it (Documentation/driver-api/early-userspace/buffer-format.rst).
//! Archives are reproducible: inode numbers count up, owner is root, all times are zero. Parent directories are not
//! invented: an entry's directory must have been added before it, or the kernel silently drops the entry, so that is
//! an error here.

use std::collections::HashSet;

/// File type bits of a mode, as in `stat`.
const TYPE_DIRECTORY: u32 = 0o040_000;
const TYPE_FILE: u32 = 0o100_000;
const TYPE_SYMLINK: u32 = 0o120_000;
const TYPE_CHARACTER: u32 = 0o020_000;
/// Bits a caller may choose.
const PERMISSIONS: u32 = 0o7777;
const MAGIC: &[u8] = b"070701";
const TRAILER: &str = "TRAILER!!!";
/// The kernel drops entries with longer names (`PATH_MAX`, with the NUL).
const NAME_MAX: usize = 4095;

/// Why an entry cannot be added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CpioError {
    /// Not a name the kernel would unpack.
    #[error(
        "cpio entry name {0:?} is empty, absolute, too long, has a NUL, or a component the kernel would not unpack"
    )]
    Name(String),
    /// Two entries of one name.
    #[error("cpio entry {0} was added before")]
    Twice(String),
    /// Its directory is missing.
    #[error("cpio entry {0} comes before the directory it lies in")]
    Orphan(String),
    /// The format has 32 bits for a size.
    #[error("cpio entry {name} has {len} bytes, more than the format can say")]
    TooLarge {
        /// The entry.
        name: String,
        /// Its size.
        len: usize,
    },
}

/// Device numbers of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeviceNumber {
    /// Driver.
    pub major: u32,
    /// Device of that driver.
    pub minor: u32,
}

/// An archive being written.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    names: HashSet<String>,
    directories: HashSet<String>,
}

impl Archive {
    /// An empty archive.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory.
    pub fn directory(&mut self, name: &str, permissions: u32) -> Result<&mut Self, CpioError> {
        self.entry(name, TYPE_DIRECTORY | permissions & PERMISSIONS, DeviceNumber::default(), &[])?;
        self.directories.insert(name.to_owned());
        Ok(self)
    }

    /// Adds a regular file.
    pub fn file(&mut self, name: &str, permissions: u32, content: &[u8]) -> Result<&mut Self, CpioError> {
        self.entry(name, TYPE_FILE | permissions & PERMISSIONS, DeviceNumber::default(), content)
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, name: &str, target: &str) -> Result<&mut Self, CpioError> {
        self.entry(name, TYPE_SYMLINK | 0o777, DeviceNumber::default(), target.as_bytes())
    }

    /// Adds a character device node.
    pub fn character_device(
        &mut self,
        name: &str,
        permissions: u32,
        device: DeviceNumber,
    ) -> Result<&mut Self, CpioError> {
        self.entry(name, TYPE_CHARACTER | permissions & PERMISSIONS, device, &[])
    }

    /// The archive, complete.
    pub fn finish(mut self) -> Vec<u8> {
        self.append(TRAILER, 0, DeviceNumber::default(), 0, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, device: DeviceNumber, content: &[u8]) -> Result<&mut Self, CpioError> {
        let component_ok = |part: &str| !part.is_empty() && part != "." && part != "..";
        if name.len() >= NAME_MAX || name.contains('\0') || name == TRAILER || !name.split('/').all(component_ok) {
            return Err(CpioError::Name(name.to_owned()));
        }
        if name.rsplit_once('/').is_some_and(|(parent, _)| !self.directories.contains(parent)) {
            return Err(CpioError::Orphan(name.to_owned()));
        }
        let Ok(len) = u32::try_from(content.len()) else {
            return Err(CpioError::TooLarge { name: name.to_owned(), len: content.len() });
        };
        if !self.names.insert(name.to_owned()) {
            return Err(CpioError::Twice(name.to_owned()));
        }
        self.append(name, mode, device, len, content);
        Ok(self)
    }

    fn append(&mut self, name: &str, mode: u32, device: DeviceNumber, len: u32, content: &[u8]) {
        self.entries += 1;
        // The kernel tells hard links by inode number, device and link count; with distinct numbers there are none.
        let links = if mode & TYPE_DIRECTORY == TYPE_DIRECTORY { 2 } else { 1 };
        // At most NAME_MAX, checked by the caller.
        let name_len = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        let fields = [self.entries, mode, 0, 0, links, 0, len, 0, 0, device.major, device.minor, name_len, 0].map(hex);
        self.bytes.extend_from_slice(MAGIC);
        self.bytes.extend(fields.iter().flatten());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    /// Headers and contents start at multiples of four.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

fn hex(field: u32) -> [u8; 8] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    std::array::from_fn(|at| DIGITS[(field >> (28 - 4 * at) & 0xf) as usize])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    #[test]
    fn first_header_is_as_documented() {
        let mut archive = Archive::new();
        archive.file("a", 0o644, b"hello").unwrap();
        let bytes = archive.finish();
        let expected = b"07070100000001000081a40000000000000000000000010000000000000005\
                         000000000000000000000000000000000000000200000000a\0hello\0\0\0";
        assert_eq!(&bytes[..expected.len()], expected);
        assert_eq!(bytes.len() % 4, 0);
    }

    #[test]
    fn entries_the_kernel_would_drop_are_refused() {
        let mut archive = Archive::new();
        for name in ["", "/init", "a//b", "dir/", "../x", "./x", "nul\0", TRAILER, &"x".repeat(NAME_MAX)] {
            assert_eq!(archive.file(name, 0o644, b"").unwrap_err(), CpioError::Name(name.to_owned()));
        }
        assert_eq!(archive.file("dir/x", 0o644, b"").unwrap_err(), CpioError::Orphan("dir/x".to_owned()));
        archive.directory("dir", 0o755).unwrap().file("dir/x", 0o644, b"").unwrap();
        assert_eq!(archive.symlink("dir/x", "y").unwrap_err(), CpioError::Twice("dir/x".to_owned()));
    }

    /// Another implementation reads the same back. Without a `cpio` program there is nothing to compare with; the
    /// boots in the lab still unpack it.
    #[test]
    fn cpio_program_agrees() {
        let mut archive = Archive::new();
        archive
            .directory("dev", 0o755)
            .and_then(|archive| archive.character_device("dev/console", 0o600, DeviceNumber { major: 5, minor: 1 }))
            .and_then(|archive| archive.symlink("linuxrc", "init"))
            .and_then(|archive| archive.file("init", 0o755, &[0x7f; 4099]))
            .unwrap();
        let bytes = archive.finish();
        let Ok(mut child) =
            Command::new("cpio").args(["-tv", "--quiet"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()
        else {
            println!("skipped: no cpio program");
            return;
        };
        child.stdin.take().unwrap().write_all(&bytes).unwrap();
        let output = child.wait_with_output().unwrap();
        let listing = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success());
        let lines: Vec<&str> = listing.lines().collect();
        assert_eq!(lines.len(), 4, "{listing}");
        assert!(lines[0].starts_with("drwxr-xr-x") && lines[0].ends_with("dev"), "{listing}");
        assert!(lines[1].starts_with("crw-------") && lines[1].contains("5,   1"), "{listing}");
        assert!(lines[2].ends_with("linuxrc -> init"), "{listing}");
        assert!(lines[3].starts_with("-rwxr-xr-x") && lines[3].contains("4099"), "{listing}");
    }
}

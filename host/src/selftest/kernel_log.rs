//! What the kernel logged about KVM and SEV.
//!
//! Owns which of its lines those are. Whoever may not read the log has none. Specification: Linux
//! `Documentation/ABI/testing/dev-kmsg`.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

/// What a line of interest has in it, in small letters.
const WORDS: [&str; 7] = ["sev", "ccp", "kvm", "rmp", "guest_memfd", "sme", "iommu"];
/// More lines than any kernel keeps of these.
const LINES_MAX: usize = 20_000;

/// The lines of interest of the kernel's log, with seconds since it started; or why there are none.
pub fn read(path: &Path) -> String {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    match std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(log) => of_interest(log),
        Err(error) => format!("the kernel's log cannot be read: {error}\n"),
    }
}

/// Each read is a record, until there is none that was logged already.
fn of_interest(mut log: File) -> String {
    let (mut text, mut record) = (String::new(), vec![0; 8192]);
    for _ in 0..LINES_MAX {
        match log.read(&mut record) {
            Ok(0) => break,
            Ok(len) => text.extend(line(&String::from_utf8_lossy(&record[..len]))),
            // A record was overwritten before it was read: the next one is there.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::PIPE.raw_os_error()) => {}
            Err(_) => break,
        }
    }
    text
}

/// `priority,sequence,microseconds,flags;text`, and lines with more about it.
fn line(record: &str) -> Option<String> {
    let (prefix, text) = record.split_once(';')?;
    let text = text.lines().next()?;
    let small = text.to_lowercase();
    if !WORDS.iter().any(|word| small.contains(word)) {
        return None;
    }
    let microseconds: u64 = prefix.split(',').nth(2)?.parse().ok()?;
    Some(format!("[{:5}.{:06}] {text}\n", microseconds / 1_000_000, microseconds % 1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_interest() {
        let sev = "6,1201,12003456,-;ccp 0000:22:00.1: SEV-SNP API:1.55 build:23\n SUBSYSTEM=pci\n DEVICE=+pci:0000:22:00.1\n";
        assert_eq!(line(sev).unwrap(), "[   12.003456] ccp 0000:22:00.1: SEV-SNP API:1.55 build:23\n");
        assert_eq!(line("6,1202,12003457,-;usb 1-1: new device\n"), None);
        assert_eq!(line("no record"), None);
        assert_eq!(line("6,1202,x,-;sev"), None);
    }

    #[test]
    fn a_log_that_is_not_there_is_said_to_be() {
        assert!(read("/nonexistent/kmsg".as_ref()).starts_with("the kernel's log cannot be read: No such file"));
    }
}

//! Reports from Linux's configfs-tsm, the same for every technology.
//!
//! Owns an entry below the directory for as long as reports are made. Two programs cannot share one: the number of
//! writes (`generation`) shows that nobody else wrote in between.
//!
//! Specification: Linux, Documentation/ABI/testing/configfs-tsm-report.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use kbs_types::Tee;

use super::{EvidenceSource, SourceError};
use crate::protocol::evidence::Evidence;

/// Where it is mounted.
pub const DIRECTORY: &str = "/sys/kernel/config/tsm/report";

/// Reports from there.
#[derive(Debug)]
pub struct Tsm {
    entry: Entry,
    tee: Tee,
}

/// A directory of ours, gone when it is not needed any more.
#[derive(Debug)]
struct Entry(PathBuf);

impl Tsm {
    /// Looks which technology there is.
    pub fn open(directory: &Path) -> Result<Self, SourceError> {
        let path = directory.join(format!("tenure-{}", std::process::id()));
        fs::create_dir(&path).map_err(|source| SourceError::File { path: path.clone(), source })?;
        Self::of(Entry(path))
    }

    fn of(entry: Entry) -> Result<Self, SourceError> {
        let provider = entry.text("provider")?;
        let tee = match provider.as_str() {
            "sev_guest" => Tee::Snp,
            "tdx_guest" => Tee::Tdx,
            other => {
                let what = format!("{other:?} is neither sev_guest nor tdx_guest");
                return Err(SourceError::Unknown { path: entry.0.join("provider"), what });
            }
        };
        Ok(Self { entry, tee })
    }
}

impl EvidenceSource for Tsm {
    fn tee(&self) -> Tee {
        self.tee
    }

    fn evidence(&mut self, report_data: &[u8; 64]) -> Result<Evidence, SourceError> {
        let entry = &self.entry;
        let before = entry.generation()?;
        entry.write("inblob", report_data)?;
        let report = entry.read("outblob")?;
        // A host need not give certificates.
        let auxiliary = entry.read("auxblob").ok().filter(|bytes| !bytes.is_empty());
        let after = entry.generation()?;
        if after != before.wrapping_add(1) {
            let what = format!("somebody else wrote to it: generation {before} became {after}");
            return Err(SourceError::Unknown { path: entry.0.clone(), what });
        }
        Ok(match self.tee {
            Tee::Tdx => Evidence::Tdx { quote: report, event_log: None },
            _ => Evidence::Snp { report, certificates: auxiliary, launch_log: None },
        })
    }
}

impl Entry {
    fn read(&self, name: &str) -> Result<Vec<u8>, SourceError> {
        let path = self.0.join(name);
        fs::read(&path).map_err(|source| SourceError::File { path, source })
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), SourceError> {
        let path = self.0.join(name);
        let written = OpenOptions::new().write(true).open(&path).and_then(|mut to| to.write_all(bytes));
        written.map_err(|source| SourceError::File { path, source })
    }

    fn text(&self, name: &str) -> Result<String, SourceError> {
        Ok(String::from_utf8_lossy(&self.read(name)?).trim().chars().take(64).collect())
    }

    fn generation(&self) -> Result<u64, SourceError> {
        let text = self.text("generation")?;
        text.parse().map_err(|_| SourceError::Unknown {
            path: self.0.join("generation"),
            what: format!("{text:?} is no number"),
        })
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // One that stays is taken by nobody else.
        let _ = fs::remove_dir(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use std::thread;
    use std::time::Duration;

    /// A directory with what the kernel has in it, and who answers how often it was written to.
    fn entry(dir: &Path, provider: &str, generations: [u64; 2]) -> (Entry, thread::JoinHandle<()>) {
        for (name, contents) in
            [("provider", provider), ("inblob", ""), ("outblob", "report"), ("auxblob", "certificates")]
        {
            fs::write(dir.join(name), contents).unwrap();
        }
        let fifo = dir.join("generation");
        mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let writer = thread::spawn(move || {
            for generation in generations {
                fs::write(&fifo, format!("{generation}\n")).unwrap();
                // Not again before the reader has seen its end.
                thread::sleep(Duration::from_millis(50));
            }
        });
        (Entry(dir.into()), writer)
    }

    #[test]
    fn a_report_has_what_was_asked_for() {
        for (provider, tee) in [("sev_guest\n", Tee::Snp), ("tdx_guest\n", Tee::Tdx)] {
            let dir = tempfile::tempdir().unwrap();
            let (entry, writer) = entry(dir.path(), provider, [4, 5]);
            let mut tsm = Tsm::of(entry).unwrap();
            assert_eq!(tsm.tee(), tee);
            let report = b"report".to_vec();
            let expected = match tee {
                Tee::Tdx => Evidence::Tdx { quote: report, event_log: None },
                _ => Evidence::Snp { report, certificates: Some(b"certificates".into()), launch_log: None },
            };
            assert_eq!(tsm.evidence(&[7; 64]).unwrap(), expected);
            assert_eq!(fs::read(dir.path().join("inblob")).unwrap(), [7; 64]);
            writer.join().unwrap();
        }
    }

    /// no-silent-trust: a report that somebody else asked for is not ours.
    #[test]
    fn no_silent_trust_somebody_else_wrote() {
        let dir = tempfile::tempdir().unwrap();
        let (entry, writer) = entry(dir.path(), "sev_guest", [4, 6]);
        let found = Tsm::of(entry).unwrap().evidence(&[7; 64]);
        assert!(matches!(found, Err(SourceError::Unknown { .. })), "{found:?}");
        writer.join().unwrap();
    }

    #[test]
    fn what_is_missing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = Tsm::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("/provider: "), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "the entry is gone");
        fs::write(dir.path().join("provider"), "cca_guest").unwrap();
        let error = Tsm::of(Entry(dir.path().into())).unwrap_err().to_string();
        assert!(error.ends_with("\"cca_guest\" is neither sev_guest nor tdx_guest"), "{error}");
    }
}

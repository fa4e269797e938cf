//! What a guest was launched as, from whoever launched it.
//!
//! Owns adding it to evidence of hardware, which has only its digest. Nobody believes it but as far as it comes to that
//! digest: it tells a relying party that refuses why it does. So nobody waits for it for long.

use std::io;
use std::path::Path;
use std::time::Duration;

use kbs_types::Tee;

use super::{EvidenceSource, SourceError};
use crate::client::frame;
use crate::client::stream::{Stream as _, Timed};
use crate::protocol::evidence::Evidence;

/// The longest that is shown: in base64, and with everything else, it must not be more than a relying party takes.
const MOST: usize = 700 << 10;

/// How long the host may take to tell it: less than for what a secret depends on.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Reads what the host says over this device, if it does so within [`PATIENCE`].
pub fn read(device: &Path) -> io::Result<Vec<u8>> {
    read_within(device, PATIENCE)
}

fn read_within(device: &Path, patience: Duration) -> io::Result<Vec<u8>> {
    let mut stream = Timed::open(device)?;
    stream.ask_within(patience);
    let log = frame::read(&mut stream)?;
    if log.len() > MOST {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("{} bytes are more than {MOST}", log.len())));
    }
    Ok(log)
}

/// A source whose evidence is shown with a log, unless it has one.
pub struct Logged {
    source: Box<dyn EvidenceSource>,
    log: Vec<u8>,
}

impl std::fmt::Debug for Logged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Logged").finish_non_exhaustive()
    }
}

impl Logged {
    /// This log with what comes from there.
    #[must_use]
    pub fn new(source: Box<dyn EvidenceSource>, log: Vec<u8>) -> Self {
        Self { source, log }
    }
}

impl EvidenceSource for Logged {
    fn tee(&self) -> Tee {
        self.source.tee()
    }

    fn evidence(&mut self, report_data: &[u8; 64]) -> Result<Evidence, SourceError> {
        let mut evidence = self.source.evidence(report_data)?;
        if let Evidence::Snp { launch_log: log @ None, .. } = &mut evidence {
            *log = Some(self.log.clone());
        }
        Ok(evidence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use std::io::Write as _;

    struct Given(Evidence);

    impl EvidenceSource for Given {
        fn tee(&self) -> Tee {
            self.0.tee()
        }

        fn evidence(&mut self, _: &[u8; 64]) -> Result<Evidence, SourceError> {
            Ok(self.0.clone())
        }
    }

    #[test]
    fn evidence_of_hardware_gets_the_log() {
        let snp = |log: Option<&[u8]>| Evidence::Snp {
            report: vec![1],
            certificates: None,
            launch_log: log.map(<[u8]>::to_vec),
        };
        let tdx = Evidence::Tdx { quote: vec![1], event_log: None };
        for (given, shown) in
            [(snp(None), snp(Some(b"log"))), (snp(Some(b"its own")), snp(Some(b"its own"))), (tdx.clone(), tdx)]
        {
            let mut logged = Logged::new(Box::new(Given(given.clone())), b"log".to_vec());
            assert_eq!((logged.tee(), logged.evidence(&[0; 64]).unwrap()), (given.tee(), shown));
        }
    }

    #[test]
    fn a_log_that_no_relying_party_takes_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let device = dir.path().join("device");
        for (len, is_read) in [(MOST, true), (MOST + 1, false)] {
            std::fs::write(&device, frame::framed(&vec![b'1'; len]).unwrap()).unwrap();
            assert_eq!(read(&device).is_ok(), is_read);
        }
    }

    /// no-silent-trust: a host that does not tell, or not all of it, keeps nobody from asking for a secret.
    #[test]
    fn no_silent_trust_a_silent_host_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let device = dir.path().join("device");
        mknodat(CWD, &device, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        for said in [&b""[..], &[9, 0, 0, 0, 1, 2]] {
            // Open at both ends, as a port of a host that is there.
            let mut host = Timed::open(&device).unwrap();
            host.write_all(said).unwrap();
            let error = read_within(&device, Duration::from_millis(200)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
        }
    }
}

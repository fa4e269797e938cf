//! Certificates for an SNP guest's reports: a file that the guest gets a copy of when it asks for a report.
//!
//! Owns reading the file, under a lock. Does not own what a table is ([`attest::snp::CertificateTable`]), nor what the
//! certificates say: who verifies a report looks at that. Nothing is fetched: whoever runs the host puts the file there.
//!
//! A report must be signed by the key that the certificates are for, and a new TCB makes that another key. So whoever
//! changes both holds an exclusive lock meanwhile, and we hold a shared one from reading until the firmware has signed.
//!
//! Specification: GHCB (56421), "SNP Extended Guest Request", for the table; Linux
//! `Documentation/virt/kvm/api.rst`, `KVM_EXIT_SNP_REQ_CERTS`, for the lock.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use attest::snp::CertificateTable;
use attest::snp::certificates::TableError;
use gmem::PAGE_SIZE;
use rustix::fs::{FlockOperation, flock};

use crate::config::inputs::{Input, InputError};

/// Most bytes of a table: as much as a guest of Linux' has room for, several times over.
pub const BYTES_MAX: usize = 1 << 16;

/// The file. It stays open: what is served is what was checked, or what was written in its place since.
#[derive(Debug)]
pub struct CertificateFile {
    /// Locks belong to the open file, of which there is one: whoever has the mutex has them.
    file: Mutex<File>,
}

/// The table, as long as nobody may change it.
#[derive(Debug)]
#[must_use]
pub struct Locked<'a> {
    file: MutexGuard<'a, File>,
    table: Vec<u8>,
}

/// Why there are no certificates.
#[derive(Debug, thiserror::Error)]
pub enum CertificatesError {
    /// The system refuses.
    #[error("it cannot be read: {0}")]
    Read(#[from] io::Error),
    /// Somebody is changing it.
    #[error("it is locked: somebody is changing it")]
    Busy,
    /// Longer than any table.
    #[error("it has more than {BYTES_MAX} bytes")]
    TooLong,
    /// Not a table.
    #[error(transparent)]
    Table(#[from] TableError),
    /// Nothing in it.
    #[error("its table has no certificate")]
    Empty,
}

impl CertificateFile {
    /// Opens the file, and checks what is in it.
    pub fn open(path: &Path) -> Result<Self, InputError> {
        let Input { file, .. } = Input::open("snp-certificates", path)?;
        let opened = Self { file: Mutex::new(file) };
        let checked = opened.lock().map(drop);
        match checked {
            // Whoever changes it now is done before a guest asks, or that is when it is told.
            Ok(()) | Err(CertificatesError::Busy) => Ok(opened),
            Err(source) => Err(InputError::Certificates { path: path.to_owned(), source }),
        }
    }

    /// The table, locked and checked.
    pub fn lock(&self) -> Result<Locked<'_>, CertificatesError> {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        match flock(&*file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(CertificatesError::Busy),
            Err(error) => return Err(io::Error::from(error).into()),
        }
        // From here on, whatever happens, dropping this gives the lock back.
        let mut locked = Locked { file, table: Vec::new() };
        locked.table = read(&locked.file)?;
        check(&locked.table)?;
        Ok(locked)
    }
}

impl Locked<'_> {
    /// The table's bytes.
    pub fn table(&self) -> &[u8] {
        &self.table
    }

    /// Pages it takes.
    pub fn pages(&self) -> u64 {
        (self.table.len() as u64).div_ceil(PAGE_SIZE)
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        if let Err(error) = flock(&*self.file, FlockOperation::NonBlockingUnlock) {
            tracing::error!(%error, "the certificates stay locked");
        }
    }
}

fn read(file: &File) -> Result<Vec<u8>, CertificatesError> {
    let mut bytes = vec![0; BYTES_MAX + 1];
    let mut len = 0;
    while let Some(room) = bytes.get_mut(len..).filter(|room| !room.is_empty()) {
        match file.read_at(room, len as u64) {
            Ok(0) => break,
            Ok(more) => len += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    bytes.truncate(len);
    if len > BYTES_MAX { Err(CertificatesError::TooLong) } else { Ok(bytes) }
}

/// Whether it is a table with anything in it.
fn check(bytes: &[u8]) -> Result<(), CertificatesError> {
    let table = CertificateTable::parse(bytes)?;
    table.iter().next().map(drop).ok_or(CertificatesError::Empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(offset: u32, length: u32) -> Vec<u8> {
        [&[7; 16][..], &offset.to_le_bytes(), &length.to_le_bytes()].concat()
    }

    fn table(offset: u32, length: u32) -> Vec<u8> {
        [entry(offset, length), vec![0; 24], vec![0xc; 10]].concat()
    }

    /// no-silent-trust: what is no table is found out before there is a guest.
    #[test]
    fn no_silent_trust_tables_that_are_none() {
        assert!(check(&table(48, 10)).is_ok());
        for (bytes, expected) in [
            (table(47, 10), "the certificate 070707"),
            (entry(48, 1), "the table of 1 certificates has no end"),
            (vec![0; 24], "its table has no certificate"),
        ] {
            let error = check(&bytes).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![1; BYTES_MAX + 1]).unwrap();
        let error = CertificateFile::open(file.path()).unwrap_err().to_string();
        assert!(error.ends_with("it has more than 65536 bytes"), "{error}");
    }

    #[test]
    fn locked_by_somebody_else_is_busy_and_ours_is_given_back() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), table(48, 10)).unwrap();
        let certificates = CertificateFile::open(file.path()).unwrap();
        let theirs = File::open(file.path()).unwrap();
        let exclusive = || flock(&theirs, FlockOperation::NonBlockingLockExclusive);
        let ours = certificates.lock().unwrap();
        assert_eq!((ours.table(), ours.pages()), (&*table(48, 10), 1));
        assert_eq!(exclusive(), Err(rustix::io::Errno::WOULDBLOCK));
        drop(ours);
        exclusive().unwrap();
        assert!(matches!(certificates.lock(), Err(CertificatesError::Busy)));
        // Not even reading goes wrong without giving the lock back.
        std::fs::write(file.path(), "nothing").unwrap();
        flock(&theirs, FlockOperation::Unlock).unwrap();
        assert!(matches!(certificates.lock(), Err(CertificatesError::Table(TableError::NoEnd { rows: 0 }))));
        exclusive().unwrap();
    }
}

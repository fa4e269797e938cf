//! A guest's files, opened before anything else happens.
//!
//! A sandbox put up later finds every descriptor open, and a wrong path is found out before a VM exists. What is in
//! the files is checked by whoever reads them.

use super::RunConfig;
use crate::idblock::{self, IdBlockError, Source};
use crate::measure::{self, MeasureError};
use crate::run::certificates::{CertificateFile, CertificatesError};
use rustix::fs::OFlags;
use snp::id_block::SignedBlock;
use snp::ovmf::Ovmf;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use test_root::{TestRoot, TestRootError};

/// One opened file.
#[derive(Debug)]
pub struct Input {
    /// The path it was found at, for messages.
    pub path: PathBuf,
    /// The file.
    pub file: File,
    /// Its length in bytes when it was opened, at least 1.
    pub len: u64,
}

/// Everything a guest is made from.
#[derive(Debug, Default)]
pub struct Inputs {
    /// The kernel, if there is one.
    pub kernel: Option<Input>,
    /// Its RAM disk, if there is one.
    pub initrd: Option<Input>,
    /// An SNP guest's firmware, if it is not ours.
    pub firmware: Option<Ovmf>,
    /// What the owner of an SNP guest signed, if anything.
    pub signed: Option<Box<SignedBlock>>,
    /// Certificates for an SNP guest's reports, if there are any.
    pub certificates: Option<Arc<CertificateFile>>,
    /// Who signs reports of a guest in test mode, if anybody.
    pub test_root: Option<Arc<TestRoot>>,
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// The system refuses to open it.
    #[error("{what} `{}` cannot be opened: {source}", path.display())]
    Open {
        /// The setting.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A directory, a pipe, or a device.
    #[error("{what} `{}` is not a regular file", path.display())]
    NotAFile {
        /// The setting.
        what: &'static str,
        /// What is not a file.
        path: PathBuf,
    },
    /// Nothing in it.
    #[error("{what} `{}` is empty", path.display())]
    Empty {
        /// The setting.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// It was opened, and then the system refused.
    #[error("{what} `{}` cannot be read: {source}", path.display())]
    Read {
        /// The setting.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// An OVMF image.
    #[error(transparent)]
    Firmware(Box<MeasureError>),
    /// An ID block or its authentication.
    #[error("snp-id-{0}")]
    IdBlock(Box<IdBlockError>),
    /// A test's root.
    #[error("test-root: {0}")]
    TestRoot(Box<TestRootError>),
    /// A table of certificates that is none.
    #[error("snp-certificates `{}`: {source}", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: CertificatesError,
    },
}

impl Inputs {
    /// Opens what `config` names.
    pub fn open(config: &RunConfig) -> Result<Self, InputError> {
        let open = |what, path: &Option<PathBuf>| path.as_deref().map(|path| Input::open(what, path)).transpose();
        let signed = config.snp.signed.as_ref().map(|files| {
            let read = |path: &Path| Source::File(path.to_owned());
            Ok(Box::new(SignedBlock {
                block: idblock::block(&read(&files.block))?,
                auth: idblock::auth(&read(&files.auth))?,
            }))
        });
        let certificates = config.snp.certificates.as_deref().map(CertificateFile::open);
        let test_root = config.test_root.as_deref().map(TestRoot::load);
        let firmware = config.snp.firmware.as_deref().map(measure::ovmf);
        Ok(Self {
            firmware: firmware.transpose().map_err(|error| InputError::Firmware(Box::new(error)))?,
            kernel: open("kernel", &config.kernel)?,
            initrd: open("initrd", &config.initrd)?,
            signed: signed.transpose().map_err(|error| InputError::IdBlock(Box::new(error)))?,
            certificates: certificates.transpose()?.map(Arc::new),
            test_root: test_root.transpose().map_err(|error| InputError::TestRoot(Box::new(error)))?.map(Arc::new),
        })
    }
}

impl Input {
    /// Opens the file that the setting `what` names.
    pub fn open(what: &'static str, path: &Path) -> Result<Self, InputError> {
        let failed = |source| InputError::Open { what, path: path.to_owned(), source };
        // Not blocking: opening a pipe nobody writes to would wait forever.
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(InputError::NotAFile { what, path: path.to_owned() });
        }
        if metadata.len() == 0 {
            return Err(InputError::Empty { what, path: path.to_owned() });
        }
        Ok(Self { path: path.to_owned(), file, len: metadata.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    fn open(kernel: &Path) -> Result<Inputs, String> {
        let settings = Settings { kernel: Some(kernel.to_owned()), ..Settings::default() };
        Inputs::open(&settings.resolve().unwrap().run).map_err(|error| error.to_string())
    }

    #[test]
    fn no_silent_trust_files_that_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let absent = dir.path().join("absent");
        assert_eq!(
            open(&absent).unwrap_err(),
            format!("kernel `{}` cannot be opened: No such file or directory (os error 2)", absent.display())
        );
        assert!(open(dir.path()).unwrap_err().ends_with("is not a regular file"));
        assert_eq!(open("/dev/null".as_ref()).unwrap_err(), "kernel `/dev/null` is not a regular file");
        let empty = dir.path().join("empty");
        std::fs::write(&empty, "").unwrap();
        assert!(open(&empty).unwrap_err().ends_with("is empty"));
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(open(&pipe).unwrap_err().ends_with("is not a regular file"));
    }

    #[test]
    fn opened_files_keep_their_name_and_length() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "bzImage").unwrap();
        let inputs = open(file.path()).unwrap();
        let kernel = inputs.kernel.unwrap();
        assert_eq!((kernel.path.as_path(), kernel.len), (file.path(), 7));
        assert!(inputs.initrd.is_none());
    }
}

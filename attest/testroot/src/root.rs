//! A root that lives in a directory: made once, then loaded by whatever has something to sign.
//!
//! Owns [`TestRoot`], and the checks of what is loaded: that private files are private, that certificates are what these
//! keys and this description make, byte for byte, and that they hold today. What is in the directory is module `files`'
//! and `about`'s; the making is module `create`'s.
//!
//! After loading nothing is read again, and nothing changes: any number of threads may sign.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTimeError, UNIX_EPOCH};

use crate::chain::{Authority, CertificateTable, ChainError, HwidForm, VekSubject};
use crate::chip::{CHIP_ID_BYTES, Seed};
use crate::model::{Model, Tcb};
use crate::report::{self, EndorsementKey, Firmware, Platform, Signer, Statement};
use crate::signing::KeyPair;

pub(crate) mod about;
pub(crate) mod create;
pub(crate) mod files;
mod kind;
#[cfg(test)]
mod tests;

use about::About;
pub use about::LABEL;
pub use files::{ABOUT, ANCHOR, CERTIFICATES, CHIP_KEY, KEYS};
pub use kind::{AnyRoot, Kind};

/// Why there is no test root.
#[derive(Debug, thiserror::Error)]
pub enum TestRootError {
    /// There is one already, or something else.
    #[error("`{}` is there already, and nothing is written over: give another directory, or remove it first", .0.display())]
    Exists(PathBuf),
    /// It cannot be written.
    #[error("`{}` cannot be written: {source}", path.display())]
    Write {
        /// The directory, or a file of it.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// It cannot be read.
    #[error("`{}` cannot be read: {source}", path.display())]
    Read {
        /// The directory, or a file of it.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Something of another kind is in its place.
    #[error("`{}` is not a {wanted}", path.display())]
    Kind {
        /// What is wrong.
        path: PathBuf,
        /// What it has to be.
        wanted: &'static str,
    },
    /// Others than its owner may read or change it.
    #[error(
        "`{}` has mode {mode:04o}: others than its owner have rights to it, and might have its keys; chmod go= {}",
        path.display(), path.display()
    )]
    Mode {
        /// The directory, or a file of it.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// More than there can be in it.
    #[error("`{}` has more than {most} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// As many as there can be.
        most: u64,
    },
    /// The description.
    #[error("`{}`: {why}", path.display())]
    About {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A key.
    #[error("`{}`: {source}", dir.display())]
    Key {
        /// The directory.
        dir: PathBuf,
        /// What is wrong with it.
        source: ChainError,
    },
    /// A key that is written otherwise than this program writes it.
    #[error("`{}` was changed: it is not the key as it was written", .0.display())]
    KeyChanged(PathBuf),
    /// A seed of another length.
    #[error("`{}` has {bytes} bytes, not 32", path.display())]
    Seed {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: usize,
    },
    /// A public file that does not follow from the private ones.
    #[error("`{}` does not belong to the keys and the description in `{}`: one of them was changed", path.display(), dir.display())]
    Differs {
        /// The file.
        path: PathBuf,
        /// The directory.
        dir: PathBuf,
    },
    /// Certificates that do not hold.
    #[error("the test root in `{}` holds from {from} to {to}; now is {now}", dir.display())]
    Validity {
        /// The directory.
        dir: PathBuf,
        /// When it begins.
        from: String,
        /// When it ends.
        to: String,
        /// The moment.
        now: String,
    },
    /// It stands in for another technology's.
    #[error("the test root in `{}` signs {}, not {}", dir.display(), is.signs(), wanted.signs())]
    OtherKind {
        /// The directory.
        dir: PathBuf,
        /// What it is.
        is: Kind,
        /// What it has to be.
        wanted: Kind,
    },
    /// Certificates that cannot be made.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The time.
    #[error("now: the clock is before 1970: {0}")]
    Clock(#[from] SystemTimeError),
}

/// A root of trust for tests, with one chip below it.
pub struct TestRoot {
    about: About,
    authority: Arc<Authority>,
    seed: Seed,
    key: KeyPair,
    anchor: Vec<u8>,
    certificates: Vec<u8>,
}

impl TestRoot {
    /// Loads the root in this directory, and checks everything about it.
    pub fn load(dir: &Path) -> Result<TestRoot, TestRootError> {
        TestRoot::load_at(dir, UNIX_EPOCH.elapsed()?)
    }

    /// The same as if it were this moment, since 1970.
    pub fn load_at(dir: &Path, now: Duration) -> Result<TestRoot, TestRootError> {
        Kind::Snp.expect(dir)?;
        let read = files::read(dir)?;
        let about = About::parse(&read.about).map_err(|why| TestRootError::About { path: dir.join(ABOUT), why })?;
        let authority = Authority::from_pkcs8(about.model(), read.keys.each_ref().map(|key| &key[..]), about.from())
            .map_err(|source| TestRootError::Key { dir: dir.to_owned(), source })?;
        for ((written, read), name) in authority.to_pkcs8()?.iter().zip(&read.keys).zip(KEYS) {
            if written != read {
                return Err(TestRootError::KeyChanged(dir.join(name)));
            }
        }
        let differs = |name| TestRootError::Differs { path: dir.join(name), dir: dir.to_owned() };
        if About::of(&authority, &read.seed, about.tcb())? != about {
            return Err(differs(ABOUT));
        }
        let root = TestRoot::assemble(about, authority, read.seed)?;
        for (name, same) in
            [(ANCHOR, read.anchor == root.anchor), (CERTIFICATES, read.certificates == root.certificates)]
        {
            if !same {
                return Err(differs(name));
            }
        }
        if !(root.about.from()..=root.about.to()).contains(&now) {
            let [from, to, now] = [root.about.from(), root.about.to(), now].map(about::moment);
            return Err(TestRootError::Validity { dir: dir.to_owned(), from, to, now });
        }
        Ok(root)
    }

    /// What follows from keys and description.
    fn assemble(about: About, authority: Authority, seed: Seed) -> Result<TestRoot, TestRootError> {
        let (model, tcb) = (about.model(), about.tcb());
        let key = seed.vcek(model, tcb);
        let subject = VekSubject {
            kind: EndorsementKey::Vcek,
            public_point: key.public_point(),
            tcb,
            chip_id: seed.chip_id(model),
            hwid_form: HwidForm::default(),
            csp_id: String::new(),
            not_before: about.from(),
        };
        let table = CertificateTable::issue(&authority, &subject)?;
        let (certificates, anchor) = (table.to_bytes(), table.ark);
        Ok(TestRoot { about, authority: Arc::new(authority), seed, key, anchor, certificates })
    }

    /// The product that it stands in for.
    pub fn model(&self) -> Model {
        self.about.model()
    }

    /// Its chip's identifier.
    pub fn chip_id(&self) -> [u8; CHIP_ID_BYTES] {
        self.seed.chip_id(self.model())
    }

    /// The versions on its chip.
    pub fn tcb(&self) -> Tcb {
        self.about.tcb()
    }

    /// When its certificates begin, since 1970.
    pub fn not_before(&self) -> Duration {
        self.about.from()
    }

    /// When the first of its certificates ends, since 1970.
    pub fn not_after(&self) -> Duration {
        self.about.to()
    }

    /// The root's certificate, in DER: what a relying party has to name to accept anything below it.
    pub fn anchor(&self) -> &[u8] {
        &self.anchor
    }

    /// SHA-256 of the root's public key in DER, in hexadecimal: what it is known by.
    pub fn fingerprint(&self) -> &str {
        self.about.fingerprint()
    }

    /// The table of certificates that goes with every report, as a host passes it to its guests.
    pub fn certificates(&self) -> &[u8] {
        &self.certificates
    }

    /// Its authorities, for a platform in software whose reports shall rest on the same root.
    pub fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }

    /// Signs a report about a guest: 1184 bytes. The same statement gives the same bytes.
    ///
    /// Nobody has looked whether it is true: whoever calls this vouches for that, and this root vouches for nothing.
    pub fn sign(&self, statement: &Statement) -> Vec<u8> {
        let report_id = Some(statement.report_id.unwrap_or_else(|| self.report_id(statement)));
        let statement = Statement { report_id, ..statement.clone() };
        report::report(&statement, &self.platform(statement.policy), Signer::Key(EndorsementKey::Vcek, &self.key))
            .to_vec()
    }

    /// The number of a guest that nobody has given one: the same guest's is the same, another's is not.
    fn report_id(&self, statement: &Statement) -> [u8; 32] {
        let Statement { measurement, host_data, policy, .. } = statement;
        self.seed.derive("report ID", &[measurement, host_data, &policy.to_le_bytes()])
    }

    /// One on which firmware would launch a guest with this policy.
    fn platform(&self, policy: u64) -> Platform {
        let (model, tcb) = (self.model(), self.tcb());
        let (major, minor) = model.api();
        let firmware = Firmware { major, minor, build: FIRMWARE_BUILD };
        Platform {
            model,
            report_version: model.report_version(),
            current_tcb: tcb,
            committed_tcb: tcb,
            reported_tcb: tcb,
            launch_tcb: tcb,
            info: WITH_POLICY
                .iter()
                .filter(|(asked, _)| policy & asked != 0)
                .fold(PLATFORM_INFO, |info, (_, bit)| info | bit),
            firmware,
            committed_firmware: firmware,
            mitigations: MITIGATIONS,
            chip_id: Some(self.chip_id()),
        }
    }
}

impl fmt::Debug for TestRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestRoot").field("about", &self.about).finish_non_exhaustive()
    }
}

/// The firmware's build.
const FIRMWARE_BUILD: u8 = 40;
/// PLATFORM_INFO: memory has ECC, and no two addresses are the same memory.
const PLATFORM_INFO: u64 = 1 << 2 | 1 << 5;
/// Bits of a policy and what PLATFORM_INFO says where such a guest can be: SMT, no RAPL, ciphertext hiding.
const WITH_POLICY: [(u64, u64); 3] = [(1 << 16, 1 << 0), (1 << 23, 1 << 3), (1 << 24, 1 << 4)];
/// Mitigations, for reports of version 5: a number without meaning here.
const MITIGATIONS: u64 = 3;

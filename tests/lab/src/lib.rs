//! The lab: an emulated host with the real KVM.
//!
//! Almost no distribution's kernel is built with `CONFIG_KVM_SW_PROTECTED_VM`. The lab makes a
//! host that has it, on any x86-64 Debian machine, with or without /dev/kvm: a small Linux built
//! from the distribution's kernel source, on one of two [beds](Bed): an AMD machine with nested
//! paging that a corrected QEMU emulates, or an Intel machine with EPT that Debian's Bochs emulates.
//! What runs inside is the real program on the real KVM.
//!
//! Owns: making that host ready ([`Lab::provision`]), booting it ([`Lab::boot`]), running commands
//! and moving files ([`Host`]); and fetching Debian's own kernel as a test guest
//! ([`Lab::debian_guest`]), headers of its kernels ([`kernel_headers`]), and other verifiers of evidence to compare ours
//! with ([`go_checkers`]). Does not own: what is run there. Does not touch the machine beyond its cache directory and, for
//! the AMD bed and the kernel, the distribution packages it installs.
//!
//! Specification: README.md of this crate; the emulated machine's faults are listed there.

mod archive;
mod bed;
mod bochs;
mod cache;
mod checkers;
mod child;
mod command;
mod debian_guest;
mod headers;
mod host;
mod kernel;
mod link;
mod machine;
mod packages;
mod process;
mod programs;
pub mod progress;
mod qemu;
mod sources;
mod tsc;

use std::path::{Path, PathBuf};

use archive::Archive;
use cache::Cache;
use machine::{Emulator, Parts};
use progress::Progress;

pub use bed::{Bed, UnknownBed};
pub use checkers::go_checkers;
pub use child::{Child, StdinWriter, StreamReader};
pub use command::{Command, Output, Status, Stdin};
pub use debian_guest::DebianKernel;
pub use headers::kernel_headers;
pub use host::{Error as HostError, Host};
pub use kernel::Kernel;
pub use machine::{BootOptions, Clock};
pub use programs::Target;

/// Why the lab could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cache directory cannot be used.
    #[error(transparent)]
    Cache(#[from] cache::Error),
    /// The package archive gave no answer.
    #[error(transparent)]
    Archive(#[from] archive::Error),
    /// A package is missing here.
    #[error(transparent)]
    Packages(#[from] packages::Error),
    /// The kernel could not be built.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    /// QEMU could not be built.
    #[error(transparent)]
    Qemu(#[from] qemu::Error),
    /// Bochs could not be unpacked.
    #[error(transparent)]
    Bochs(#[from] bochs::Error),
    /// A static program could not be built.
    #[error(transparent)]
    Program(#[from] process::Error),
    /// Debian's kernel could not be fetched.
    #[error(transparent)]
    Guest(#[from] debian_guest::Error),
}

/// What to make ready, and where.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Which machine.
    pub bed: Bed,
    /// The host's kernel.
    pub kernel: Kernel,
    /// The cache directory; the environment decides without it (README.md).
    pub cache: Option<PathBuf>,
    /// How old the package archive's lists may be.
    pub lists: Lists,
}

/// Which package lists to go by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lists {
    /// Those read first: the same lab every time.
    #[default]
    Kept,
    /// New ones: a newer kernel or QEMU in the archive makes a new lab.
    Fresh,
}

/// A lab that is ready: everything is built and in the cache.
#[derive(Debug)]
pub struct Lab {
    cache: Cache,
    archive: Archive,
    parts: Parts,
}

impl Lab {
    /// Makes the lab ready. The first time this takes about six minutes on two cores; after that
    /// it only looks.
    pub fn provision(options: &Options, progress: &mut dyn Progress) -> Result<Self, Error> {
        // The compiler's version is an ingredient: without one the keys would change afterwards.
        if qemu::compiler_version().is_empty() {
            packages::ensure(&["gcc", "libc6-dev"], progress)?;
        }
        let cache = Cache::open(options.cache.as_deref())?;
        let archive = Archive::open(&cache, None, progress)?;
        if options.lists == Lists::Fresh {
            archive.refresh(&cache, progress)?;
        }
        let agent = programs::build_static(&cache, "lab-agent", &Target::Bin("lab-agent".to_owned()), progress)?;
        let emulator = match options.bed {
            Bed::Amd => {
                let qemu = qemu::Plan::new(&cache, &archive, progress)?;
                Emulator::Qemu(match qemu.get(&cache) {
                    Some(path) => path,
                    None => qemu.build(&cache, &archive, progress)?,
                })
            }
            Bed::Intel => {
                let bochs = bochs::Plan::new(&cache, &archive, progress)?;
                Emulator::Bochs(match bochs.get(&cache) {
                    Some(path) => path,
                    None => bochs.unpack(&cache, &archive, progress)?,
                })
            }
        };
        let other = match options.kernel.suite() {
            Some(suite) => Some(Archive::open(&cache, Some(suite), progress)?),
            None => None,
        };
        let source = other.as_ref().unwrap_or(&archive);
        let kernel = kernel::Plan::new(&options.kernel, source)?;
        let kernel = match kernel.get(&cache) {
            Some(path) => path,
            None => kernel.build(&cache, source, progress)?,
        };
        let parts = Parts { kernel, emulator, agent };
        Ok(Self { cache, archive, parts })
    }

    /// Which machine its hosts are.
    #[must_use]
    pub fn bed(&self) -> Bed {
        self.parts.emulator.bed()
    }

    /// Boots a host.
    pub fn boot(&self, options: &BootOptions) -> Result<Host, HostError> {
        Host::boot(&self.parts, options)
    }

    /// The lab's Linux as a bzImage: also the default guest's kernel.
    #[must_use]
    pub fn kernel_image(&self) -> PathBuf {
        self.parts.kernel.join("bzImage")
    }

    /// What the image was configured with, as its `.config`.
    #[must_use]
    pub fn kernel_config(&self) -> PathBuf {
        self.parts.kernel.join("config")
    }

    /// Where everything is cached.
    #[must_use]
    pub fn cache_dir(&self) -> &Path {
        self.cache.root()
    }

    /// Debian's own cloud kernel, unmodified, as a guest for tests.
    pub fn debian_guest(&self, kernel: &DebianKernel, progress: &mut dyn Progress) -> Result<PathBuf, Error> {
        Ok(debian_guest::provision(&self.cache, &self.archive, kernel, progress)?)
    }

    /// Builds a program of this workspace statically, so that it runs on a lab host.
    pub fn build_static(&self, package: &str, target: &Target, progress: &mut dyn Progress) -> Result<PathBuf, Error> {
        Ok(programs::build_static(&self.cache, package, target, progress)?)
    }
}

//! The lab's Linux, built from the distribution's `linux-source` package: host of the lab and
//! default guest of `tenure` in one.
//!
//! Owns: which source, how it is configured and built, and that every option asked for is there.
//! Does not own: the options themselves (`kernel/lab.config`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::archive::{self, Archive, compare_versions};
use crate::cache::{self, Cache, Key, at};
use crate::packages;
use crate::process::{self, background};
use crate::progress::Progress;

const RECIPE: u32 = 1;
const CONFIG: &str = include_str!("../kernel/lab.config");
/// Begins a line of it with an option that older kernels do not have.
const SINCE: &str = "# since ";
const BUILD_PACKAGES: &[&str] =
    &["gcc", "libc6-dev", "make", "flex", "bison", "bc", "libelf-dev", "lz4", "xz-utils", "tar"];
/// Directories of the source that no build for this machine reads: half of all its files. Their
/// `Kconfig` files stay, because the configuration is read as a whole.
const UNREAD: &[&str] = &[
    "Documentation/*/*",
    // The generic parts' Kconfig files read those of every architecture.
    "arch/[am-s]*.[chS]",
    "arch/[am-s]*.dts*",
    "arch/csky/*.[chS]",
    "arch/hexagon/*.[chS]",
    "arch/loongarch/*.[chS]",
    "arch/xtensa/*.[chS]",
    "drivers/gpu/drm/*.[ch]",
    "drivers/iio/*.[ch]",
    "drivers/infiniband/*.[ch]",
    "drivers/media/*.[ch]",
    "drivers/net/ethernet/*.[ch]",
    "drivers/net/wireless/*.[ch]",
    "drivers/scsi/*.[ch]",
    "drivers/staging/*.[ch]",
    "sound/*.[ch]",
    "tools/perf",
    "tools/testing",
];
/// Lines the build prints, roughly: the only measure of where it stands.
const EXPECTED_LINES: u64 = 1900;

/// The environment's variable for tests.
const KERNEL_OF_TESTS: &str = "TENURE_LAB_KERNEL";

/// Which Linux to build.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Kernel {
    /// The newest `linux-source` package of the host's own archive.
    #[default]
    Newest,
    /// A package by name, like `linux-source-6.12`.
    Source(String),
    /// A package of another suite of the same archive, like `sid` and `linux-source-7.2`.
    OfSuite {
        /// The suite.
        suite: String,
        /// The package; the newest without.
        package: Option<String>,
    },
}

impl Kernel {
    /// The kernel that a command line names: a package, `SUITE/PACKAGE`, or `SUITE/` for its newest.
    #[must_use]
    pub fn named(name: &str) -> Self {
        match name.split_once('/') {
            Some((suite, package)) => {
                let package = Some(package.to_owned()).filter(|package| !package.is_empty());
                Self::OfSuite { suite: suite.to_owned(), package }
            }
            None => Self::Source(name.to_owned()),
        }
    }

    /// The kernel that the environment asks tests to use, by `TENURE_LAB_KERNEL`.
    #[must_use]
    pub fn of_environment() -> Option<Self> {
        std::env::var(KERNEL_OF_TESTS).ok().filter(|name| !name.is_empty()).map(|name| Self::named(&name))
    }

    /// The suite to take it from, if not the host's own.
    pub(crate) fn suite(&self) -> Option<&str> {
        match self {
            Self::OfSuite { suite, .. } => Some(suite),
            Self::Newest | Self::Source(_) => None,
        }
    }
}

/// Why there is no kernel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The archive carries no kernel source at all.
    #[error("the archive's suite {0} has no package named linux-source-VERSION")]
    NoSource(String),
    /// Options that this Linux does not know or cannot have.
    #[error("{package} does not take these lines of kernel/lab.config: {}", .lines.join(", "))]
    Config {
        /// The source package.
        package: String,
        /// What got lost.
        lines: Vec<String>,
    },
    /// The archive gave no answer.
    #[error(transparent)]
    Archive(#[from] archive::Error),
    /// The cache could not be used.
    #[error(transparent)]
    Cache(#[from] cache::Error),
    /// A build tool is missing.
    #[error(transparent)]
    Packages(#[from] packages::Error),
    /// The build failed.
    #[error(transparent)]
    Build(#[from] process::Error),
}

/// A Linux to be built, all its ingredients known.
#[derive(Debug)]
pub(crate) struct Plan {
    package: String,
    version: String,
    /// `lab.config`, as far as this version has its options.
    config: String,
    key: Key,
}

impl Plan {
    pub(crate) fn new(kernel: &Kernel, archive: &Archive) -> Result<Self, Error> {
        let package = match kernel {
            Kernel::Source(name) | Kernel::OfSuite { package: Some(name), .. } => name.clone(),
            Kernel::Newest | Kernel::OfSuite { package: None, .. } => newest(archive)?,
        };
        let version = archive.version(&package)?;
        let mut key = Key::new("kernel", RECIPE);
        key.add("package", &package);
        key.add("version", &version);
        let config = config_of(&version);
        key.add("lab.config", &config);
        key.add("compiler", crate::qemu::compiler_version());
        Ok(Self { package, version, config, key })
    }

    pub(crate) fn get(&self, cache: &Cache) -> Option<PathBuf> {
        cache.get("kernel", &self.key)
    }

    pub(crate) fn build(
        &self,
        cache: &Cache,
        archive: &Archive,
        progress: &mut dyn Progress,
    ) -> Result<PathBuf, Error> {
        packages::ensure(BUILD_PACKAGES, progress)?;
        let locked = cache.lock(progress)?;
        locked.get_or_build("kernel", &self.key, |scratch, result| {
            let fetching = format!("fetching {} {}", self.package, self.version);
            let source =
                progress.step(&fetching, Duration::from_secs(30), |progress| self.fetch(archive, scratch, progress))?;
            let building = format!("building Linux {}", self.version);
            progress.step(&building, Duration::from_secs(240), |progress| self.make(&source, scratch, result, progress))
        })
    }

    /// Unpacks the source and returns its directory.
    fn fetch(&self, archive: &Archive, scratch: &Path, progress: &mut dyn Progress) -> Result<PathBuf, Error> {
        archive.unpack(&self.package, &self.version, scratch, progress)?;
        let tar = scratch.join("usr/src").join(format!("{}.tar.xz", self.package));
        let mut untar = background("tar");
        untar.arg("-xf").arg(tar).arg("-C").arg(scratch).args(["--anchored", "--wildcards"]);
        untar.args(UNREAD.iter().map(|pattern| format!("--exclude={}/{pattern}", self.package)));
        process::follow(&mut untar, progress)?;
        Ok(scratch.join(&self.package))
    }

    fn make(&self, source: &Path, scratch: &Path, result: &Path, progress: &mut dyn Progress) -> Result<(), Error> {
        let out = scratch.join("out");
        fs::create_dir_all(&out).map_err(at(&out))?;
        let wanted = scratch.join("lab.config");
        fs::write(&wanted, &self.config).map_err(at(&wanted))?;

        process::follow(make(source, &out).arg("allnoconfig").env("KCONFIG_ALLCONFIG", &wanted), progress)?;
        let config = out.join(".config");
        let text = fs::read_to_string(&config).map_err(at(&config))?;
        let lines = lost_lines(&self.config, &text);
        if !lines.is_empty() {
            let package = self.package.clone();
            return Err(Error::Config { package, lines });
        }

        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        let mut counting = Counting { progress, lines: 0 };
        process::follow(make(source, &out).arg(format!("-j{jobs}")).arg("bzImage"), &mut counting)?;
        for (from, to) in [("arch/x86/boot/bzImage", "bzImage"), (".config", "config"), ("System.map", "System.map")] {
            let from = out.join(from);
            fs::copy(&from, result.join(to)).map_err(at(&from))?;
        }
        Ok(())
    }
}

/// The build knows neither who nor where nor when, so that the same ingredients give the same bytes.
fn make(source: &Path, out: &Path) -> Command {
    let mut command = background("make");
    command
        .arg("-C")
        .arg(source)
        .arg(format!("O={}", out.display()))
        .env("ARCH", "x86_64")
        .env("KBUILD_BUILD_USER", "tenure")
        .env("KBUILD_BUILD_HOST", "lab")
        .env("KBUILD_BUILD_TIMESTAMP", "2026-01-01")
        .env_remove("MAKEFLAGS");
    command
}

fn newest(archive: &Archive) -> Result<String, Error> {
    let is_source = |name: &str| {
        let version = name.strip_prefix("linux-source-").unwrap_or_default();
        !version.is_empty() && version.chars().all(|sign| sign.is_ascii_digit() || sign == '.')
    };
    let names = archive.names("linux-source-", is_source)?;
    names
        .into_iter()
        .max_by(|a, b| compare_versions(a.trim_start_matches("linux-source-"), b.trim_start_matches("linux-source-")))
        .ok_or_else(|| Error::NoSource(archive.suite().to_owned()))
}

/// What is asked of a kernel of this version: options that came later are left out.
fn config_of(version: &str) -> String {
    let option = |line: &'static str| match line.strip_prefix(SINCE).and_then(|rest| rest.split_once(": ")) {
        Some((since, option)) => compare_versions(version, since).is_ge().then_some(option),
        None => Some(line),
    };
    CONFIG.lines().filter_map(option).flat_map(|line| [line, "\n"]).collect()
}

/// The lines of `wanted` that say something and are not in `config`. An option that is off may
/// also be absent: the build leaves out what its dependencies rule out.
fn lost_lines(wanted: &str, config: &str) -> Vec<String> {
    let present: std::collections::HashSet<&str> = config.lines().collect();
    let lost = |line: &str| match line.strip_prefix("# ").and_then(|line| line.strip_suffix(" is not set")) {
        Some(option) => config.lines().any(|line| line.strip_prefix(option).is_some_and(|rest| rest.starts_with('='))),
        None => line.starts_with("CONFIG_") && !present.contains(line),
    };
    wanted.lines().filter(|line| lost(line)).map(str::to_owned).collect()
}

struct Counting<'a> {
    progress: &'a mut dyn Progress,
    lines: u64,
}

impl Progress for Counting<'_> {
    fn begin(&mut self, name: &str, expected: Duration) {
        self.progress.begin(name, expected);
    }
    fn advance(&mut self, _: u64, _: u64) {}
    fn line(&mut self, text: &str) {
        self.lines += 1;
        self.progress.advance(self.lines.min(EXPECTED_LINES - 1), EXPECTED_LINES);
        self.progress.line(text);
    }
    fn end(&mut self) {
        self.progress.end();
    }
    fn note(&mut self, text: &str) {
        self.progress.note(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_options_are_for_later_kernels() {
        let [old, new] = ["6.12.117-1", "7.2.13-1"].map(config_of);
        assert!(!old.contains("CONFIG_KVM_IOAPIC") && new.contains("\nCONFIG_KVM_IOAPIC=y\n"));
        assert_eq!(old, new.replace("CONFIG_KVM_IOAPIC=y\n", ""));
    }

    #[test]
    fn an_option_that_got_lost_is_named() {
        let wanted = "# words about options\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=32\n# CONFIG_D is not set\n";
        assert_eq!(lost_lines(wanted, "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=32\nCONFIG_DD=y\n"), [""; 0]);
        assert_eq!(
            lost_lines(wanted, "# CONFIG_A is not set\nCONFIG_B=y\nCONFIG_C=8\nCONFIG_D=m\n"),
            ["CONFIG_A=y", "# CONFIG_B is not set", "CONFIG_C=32", "# CONFIG_D is not set"]
        );
    }
}

//! The lab's QEMU, built from the distribution's source package with the corrections in `qemu/`.
//!
//! Owns: which source, the corrections' order, a configuration with nothing more than the lab
//! needs, and the firmware files QEMU loads. Does not own: how it is run (`machine::qemu`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::archive::{self, Archive};
use crate::cache::{self, Cache, Key, at};
use crate::packages;
use crate::process::{self, background};
use crate::progress::Progress;

const RECIPE: u32 = 1;
macro_rules! correction {
    ($name:literal) => {
        ($name, include_str!(concat!("../qemu/", $name)))
    };
}
/// The corrections are made against this upstream series of the package `qemu`.
const SERIES: &str = "1:7.2+";
/// The suite that has that series, where the host's own has another one.
const SERIES_SUITE: &str = "bookworm";
const PATCHES: &[(&str, &str)] = &[
    correction!("0001-write-back-cc-op.patch"),
    correction!("0002-check-the-xsetbv-intercept.patch"),
    correction!("0003-next-rip-save.patch"),
    correction!("0004-decode-assists-exit-information.patch"),
    correction!("0005-decode-assists-instruction-bytes.patch"),
    correction!("0006-code-written-while-translated.patch"),
    correction!("0007-other-cpus-hflags2.patch"),
    correction!("0008-injected-interrupt-not-pending.patch"),
    correction!("0009-virtual-interrupt-under-lock.patch"),
];
/// The devices a lab machine consists of.
const DEVICES: &str = "CONFIG_Q35=y\nCONFIG_VIRTIO_PCI=y\nCONFIG_VIRTIO_SERIAL=y\n";
const CONFIGURE: &[&str] = &[
    "--target-list=x86_64-softmmu",
    "--without-default-features",
    "--without-default-devices",
    "--with-devices-x86_64=lab",
    "--meson=meson",
    "--enable-system",
    "--enable-tcg",
    "--enable-fdt=system",
    "--disable-user",
    "--disable-tools",
    "--disable-docs",
    "--disable-werror",
    "--audio-drv-list=",
];
const BUILD_PACKAGES: &[&str] = &[
    "gcc",
    "libc6-dev",
    "make",
    "ninja-build",
    "meson",
    "pkg-config",
    "python3",
    "dpkg-dev",
    "patch",
    "xz-utils",
    "binutils",
    "libglib2.0-dev",
    "libpixman-1-dev",
    "libfdt-dev",
    "zlib1g-dev",
];
/// Firmware the machine loads: package, file in it.
const FIRMWARE: &[(&str, &str)] = &[
    ("seabios", "usr/share/seabios/bios-256k.bin"),
    ("qemu-system-data", "usr/share/qemu/kvmvapic.bin"),
    ("qemu-system-data", "usr/share/qemu/linuxboot_dma.bin"),
];

/// Why there is no emulator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither the host's suite nor the fallback has the series that the corrections fit.
    #[error("the corrections fit QEMU {SERIES}…, but suite {suite} has {version}")]
    Series {
        /// The suite asked last.
        suite: String,
        /// What it has.
        version: String,
    },
    /// A correction does not fit the source.
    #[error("correction {name} does not apply: {source}")]
    Correction {
        /// Which one.
        name: &'static str,
        /// What patch said.
        source: process::Error,
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

/// A QEMU to be built, all its ingredients known.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The suite with the right series, when it is not the host's own.
    other: Option<Archive>,
    version: String,
    firmware: Vec<(&'static str, String, &'static str)>,
    key: Key,
}

impl Plan {
    pub(crate) fn new(cache: &Cache, archive: &Archive, progress: &mut dyn Progress) -> Result<Self, Error> {
        let mut other = None;
        let mut version = archive.source_version("qemu")?;
        if !version.starts_with(SERIES) {
            let fallback = Archive::open(cache, Some(SERIES_SUITE), progress)?;
            version = fallback.source_version("qemu")?;
            if !version.starts_with(SERIES) {
                let suite = fallback.suite().to_owned();
                return Err(Error::Series { suite, version });
            }
            other = Some(fallback);
        }
        let from = other.as_ref().unwrap_or(archive);
        let mut key = Key::new("qemu", RECIPE);
        key.add("version", &version);
        for (name, text) in PATCHES {
            key.add(name, text);
        }
        key.add("devices", DEVICES);
        key.add("configure", CONFIGURE.join(" "));
        key.add("compiler", compiler_version());
        let mut firmware = Vec::new();
        for &(package, file) in FIRMWARE {
            let version = from.version(package)?;
            key.add(file, &version);
            firmware.push((package, version, file));
        }
        Ok(Self { other, version, firmware, key })
    }

    pub(crate) fn get(&self, cache: &Cache) -> Option<PathBuf> {
        cache.get("qemu", &self.key)
    }

    pub(crate) fn build(
        &self,
        cache: &Cache,
        archive: &Archive,
        progress: &mut dyn Progress,
    ) -> Result<PathBuf, Error> {
        packages::ensure(BUILD_PACKAGES, progress)?;
        let archive = self.other.as_ref().unwrap_or(archive);
        let locked = cache.lock(progress)?;
        locked.get_or_build("qemu", &self.key, |scratch, result| {
            let fetching = format!("fetching QEMU {}", self.version);
            let source = progress
                .step(&fetching, Duration::from_secs(15), |progress| self.fetch(archive, scratch, result, progress))?;
            let building = format!("building QEMU {}", self.version);
            progress.step(&building, Duration::from_secs(150), |progress| make(&source, scratch, result, progress))
        })
    }

    /// Unpacks and corrects the source, and brings the firmware; returns the source's directory.
    fn fetch(
        &self,
        archive: &Archive,
        scratch: &Path,
        result: &Path,
        progress: &mut dyn Progress,
    ) -> Result<PathBuf, Error> {
        let description = archive.source("qemu", &self.version, scratch, progress)?;
        let source = scratch.join("source");
        process::follow(
            // apt has checked the signatures by the archive's own keys.
            background("dpkg-source").args(["--no-check", "-x"]).arg(description).arg(&source),
            progress,
        )?;
        for &(name, text) in PATCHES {
            let file = scratch.join("correction");
            fs::write(&file, text).map_err(at(&file))?;
            let mut patch = background("patch");
            patch.args(["-p1", "--batch", "--forward", "--fuzz=0", "-i"]).arg(&file).current_dir(&source);
            process::follow(&mut patch, progress).map_err(|source| Error::Correction { name, source })?;
        }
        let firmware = scratch.join("firmware");
        let share = result.join("share");
        fs::create_dir_all(&share).map_err(at(&share))?;
        for (package, version, file) in &self.firmware {
            let from = firmware.join(file);
            if !from.exists() {
                archive.unpack(package, version, &firmware, progress)?;
            }
            let name = from.file_name().unwrap_or_default();
            fs::copy(&from, share.join(name)).map_err(at(&from))?;
        }
        Ok(source)
    }
}

fn make(source: &Path, scratch: &Path, result: &Path, progress: &mut dyn Progress) -> Result<(), Error> {
    let devices = source.join("configs/devices/x86_64-softmmu/lab.mak");
    fs::write(&devices, DEVICES).map_err(at(&devices))?;
    let out = scratch.join("out");
    fs::create_dir_all(&out).map_err(at(&out))?;
    process::follow(background(source.join("configure")).args(CONFIGURE).current_dir(&out), progress)?;
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let mut ninja = background("ninja");
    ninja.arg(format!("-j{jobs}")).arg("qemu-system-x86_64").current_dir(&out);
    process::follow(&mut ninja, progress)?;
    let program = result.join("qemu-system-x86_64");
    process::follow(background("strip").arg("-o").arg(&program).arg(out.join("qemu-system-x86_64")), progress)?;
    Ok(())
}

/// What the compiler says about itself; nothing while there is none.
pub(crate) fn compiler_version() -> String {
    let answer = Command::new("gcc").arg("-dumpfullversion").output();
    answer.map(|answer| String::from_utf8_lossy(&answer.stdout).trim().to_owned()).unwrap_or_default()
}

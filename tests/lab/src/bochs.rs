//! The lab's Bochs: Debian's package as it is, unpacked into the cache with what it needs to run, and the tools that
//! make the disc it boots from. Nothing is installed: the programs run by the dynamic linker and with the libraries of
//! their own suite, whatever this machine has.
//!
//! Owns: which packages, and what of them is kept. Does not own: how Bochs is run (`machine::bochs`).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::archive::{self, Archive};
use crate::cache::{self, Cache, Key, at};
use crate::process::{self, background};
use crate::progress::Progress;

const RECIPE: u32 = 1;
/// The upstream series that is known to work: 2.7 and 3.1 die as the lab's Linux boots in them.
const SERIES: &str = "3.0+";
/// The suite that has that series.
const SUITE: &str = "trixie";
/// Bochs with the one display that needs no network and no graphics, its firmware, and the tools for the disc.
const PACKAGES: [&str; 7] = ["bochs", "bochs-term", "bochsbios", "vgabios", "isolinux", "syslinux-common", "xorriso"];
/// Where Debian's packages keep libraries, and Bochs its plugins below that.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
/// Among the libraries, and in the entry's `lib`.
pub(crate) const LINKER: &str = "ld-linux-x86-64.so.2";
/// The programs, from `usr/bin` to the entry's `bin`.
const PROGRAMS: [&str; 2] = ["bochs-bin", "xorriso"];
/// The plugin whose libraries are needed too; what else wants libraries of its own (sound, networks) fails to load,
/// which Bochs takes as a choice not offered.
const DISPLAY: &str = "libbx_term_gui.so";
/// From the packages to the entry's `share`.
const FILES: [(&str, &str); 4] = [
    ("usr/share/bochs/BIOS-bochs-latest", "BIOS"),
    ("usr/share/vgabios/vgabios.bin", "VGABIOS"),
    ("usr/lib/ISOLINUX/isolinux.bin", "isolinux.bin"),
    ("usr/lib/syslinux/modules/bios/ldlinux.c32", "ldlinux.c32"),
];
/// The processor the lab asks for; Bochs is asked for it too before it is kept.
pub(crate) const PROCESSOR: &str = "tigerlake";

/// Why there is no Bochs.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another version than the one that is known to work.
    #[error("suite {suite} has bochs {version}; the lab's Intel bed needs the series {SERIES}")]
    Series {
        /// The suite asked.
        suite: String,
        /// What it has.
        version: String,
    },
    /// The packages do not hold what a program needs.
    #[error("{program} needs {library}, which none of its packages has")]
    Library {
        /// Which program.
        program: String,
        /// Its library.
        library: String,
    },
    /// What was unpacked does not run, or lacks the processor.
    #[error("bochs {version} does not know the processor {PROCESSOR}; it says:\n{said}")]
    Processor {
        /// The package's version.
        version: String,
        /// Its last words.
        said: String,
    },
    /// The archive gave no answer.
    #[error(transparent)]
    Archive(#[from] archive::Error),
    /// The cache could not be used.
    #[error(transparent)]
    Cache(#[from] cache::Error),
    /// A tool failed.
    #[error(transparent)]
    Process(#[from] process::Error),
}

/// A Bochs to be unpacked, all its ingredients known.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The suite that has it, when it is not the host's own.
    other: Option<Archive>,
    version: String,
    packages: Vec<(String, String)>,
    key: Key,
}

impl Plan {
    pub(crate) fn new(cache: &Cache, archive: &Archive, progress: &mut dyn Progress) -> Result<Self, Error> {
        let other = match archive.suite() {
            SUITE => None,
            _ => Some(Archive::open(cache, Some(SUITE), progress)?),
        };
        let from = other.as_ref().unwrap_or(archive);
        let version = from.version("bochs")?;
        if !version.starts_with(SERIES) {
            let suite = from.suite().to_owned();
            return Err(Error::Series { suite, version });
        }
        let mut packages = from.closure(&PACKAGES)?;
        packages.retain(|(name, _)| is_wanted(name));
        let mut key = Key::new("bochs", RECIPE);
        for (name, version) in &packages {
            key.add(name, version);
        }
        Ok(Self { other, version, packages, key })
    }

    pub(crate) fn get(&self, cache: &Cache) -> Option<PathBuf> {
        cache.get("bochs", &self.key)
    }

    pub(crate) fn unpack(
        &self,
        cache: &Cache,
        archive: &Archive,
        progress: &mut dyn Progress,
    ) -> Result<PathBuf, Error> {
        let archive = self.other.as_ref().unwrap_or(archive);
        progress.note(&format!(
            "the Intel bed: fetching Bochs {} and {} packages it needs from Debian's suite {SUITE}, about 45 MB; they \
             are unpacked into the cache, nothing is installed",
            self.version,
            self.packages.len() - 1
        ));
        let locked = cache.lock(progress)?;
        locked.get_or_build("bochs", &self.key, |scratch, result| {
            let root = scratch.join("root");
            fs::create_dir_all(&root).map_err(at(&root))?;
            let fetching = format!("fetching Bochs {}", self.version);
            progress.step(&fetching, Duration::from_secs(30), |progress| {
                archive.unpack_all(&self.packages, &root, progress)
            })?;
            keep(&root, result)?;
            self.check(result)
        })
    }

    /// Whether what was unpacked runs here and knows the processor.
    fn check(&self, entry: &Path) -> Result<(), Error> {
        let mut ask = run(entry, "bochs-bin");
        let answer = ask.args(["--help", "cpu"]).env("LC_ALL", "C").output();
        let answer = answer.map_err(|source| process::Error::Start { program: "bochs-bin".to_owned(), source })?;
        let said = String::from_utf8_lossy(&[answer.stdout, answer.stderr].concat()).into_owned();
        if said.split_whitespace().any(|word| word == PROCESSOR) {
            return Ok(());
        }
        Err(Error::Processor { version: self.version.clone(), said })
    }
}

/// Libraries, and what was asked for; Bochs is not a machine that needs an init system or fonts.
fn is_wanted(package: &str) -> bool {
    package.starts_with("lib") || package == "zlib1g" || PACKAGES.contains(&package)
}

/// A command that runs one of the entry's programs, wherever the entry lies. Paths in its surroundings hold no `:` if
/// that of the entry holds none.
pub(crate) fn run(entry: &Path, program: &str) -> Command {
    let mut command = Command::new(entry.join("lib").join(LINKER));
    command.arg("--inhibit-cache").arg("--library-path").arg(entry.join("lib"));
    command.arg(entry.join("bin").join(program));
    command.env("LTDL_LIBRARY_PATH", entry.join("plugins"));
    command
}

/// Takes from the unpacked packages what is needed to run the programs.
fn keep(root: &Path, result: &Path) -> Result<(), Error> {
    let libraries = root.join(LIBRARIES);
    let plugins = libraries.join("bochs/plugins");
    let copy = |from: &Path, to: PathBuf| match fs::copy(from, to) {
        Ok(_) => Ok(()),
        Err(error) => Err(at(from)(error)),
    };
    for directory in ["bin", "lib", "plugins", "share"] {
        let path = result.join(directory);
        fs::create_dir_all(&path).map_err(at(&path))?;
    }
    let mut users: Vec<PathBuf> = PROGRAMS.iter().map(|name| root.join("usr/bin").join(name)).collect();
    users.push(plugins.join(DISPLAY));
    let mut needed = BTreeSet::from([LINKER.to_owned()]);
    for user in &users {
        needed.extend(libraries_of(user, &libraries)?);
    }
    for name in needed {
        copy(&libraries.join(&name), result.join("lib").join(&name))?;
    }
    for name in PROGRAMS {
        copy(&root.join("usr/bin").join(name), result.join("bin").join(name))?;
    }
    for (from, to) in FILES {
        copy(&root.join(from), result.join("share").join(to))?;
    }
    // Bochs asks for each by the name without version.
    for plugin in fs::read_dir(&plugins).map_err(at(&plugins))? {
        let path = plugin.map_err(at(&plugins))?.path();
        if let Some(name) = path.file_name().filter(|_| path.extension().is_some_and(|extension| extension == "so")) {
            copy(&path, result.join("plugins").join(name))?;
        }
    }
    Ok(())
}

/// Names of all libraries a program or plugin loads, as the dynamic linker of its own suite finds them.
fn libraries_of(program: &Path, libraries: &Path) -> Result<Vec<String>, Error> {
    let mut list = background(libraries.join(LINKER));
    list.arg("--inhibit-cache").arg("--library-path").arg(libraries).arg("--list").arg(program);
    let listing = process::output(&mut list)?;
    loaded(&listing).map_err(|library| Error::Library {
        program: program.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        library,
    })
}

/// Reads `name => path (address)`; the kernel's own library and the linker come without a name that is looked up. The
/// error is a library that was not found.
fn loaded(listing: &str) -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    for line in listing.lines() {
        let Some((name, place)) = line.trim().split_once(" => ") else { continue };
        if place.starts_with("not found") {
            return Err(name.to_owned());
        }
        if !name.contains('/') {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_and_a_missing_one_is_named() {
        let listing = "\tlinux-vdso.so.1 (0x00007f)\n\tlibc.so.6 => /x/libc.so.6 (0x00007f)\n\
                       \t/lib64/ld-linux-x86-64.so.2 => /x/ld-linux-x86-64.so.2 (0x00007f)\n";
        assert_eq!(loaded(listing), Ok(vec!["libc.so.6".to_owned()]));
        assert_eq!(loaded("\tlibgtk-3.so.0 => not found\n"), Err("libgtk-3.so.0".to_owned()));
    }

    #[test]
    fn libraries_and_what_was_asked_for_are_wanted() {
        for name in PACKAGES.into_iter().chain(["libc6", "libgtk-3-0t64", "zlib1g"]) {
            assert!(is_wanted(name), "{name}");
        }
        for name in ["systemd", "fonts-dejavu-core", "adwaita-icon-theme", "gcc-14-base"] {
            assert!(!is_wanted(name), "{name}");
        }
    }
}

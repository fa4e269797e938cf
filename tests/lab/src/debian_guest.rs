//! Debian's own cloud kernel, as distributed: the guest that proves nothing was made to fit.
//!
//! Owns: finding and fetching it; of the package only the kernel image is kept.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::archive::{self, Archive, compare_versions};
use crate::cache::{self, Cache, Key, at};
use crate::progress::Progress;

const RECIPE: u32 = 1;
const PREFIX: &str = "linux-image-";
const SUFFIXES: [&str; 2] = ["-cloud-amd64", "-cloud-amd64-unsigned"];
/// Asked when the host's own suite has no cloud kernel of the version wanted.
const NEXT_SUITE: &str = "trixie";

/// Which of Debian's cloud kernels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DebianKernel {
    /// The newest the host's own archive has.
    #[default]
    Newest,
    /// The newest of a version, like `6.12`; from the next suite if the host's own has none.
    Version(String),
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No suite asked has one.
    #[error("suite {suite} has no {PREFIX}{wanted}*{} package", SUFFIXES[0])]
    None {
        /// The suite asked last.
        suite: String,
        /// The version wanted, empty for any.
        wanted: String,
    },
    /// The package does not hold what its name promises.
    #[error("package {0} has no boot/vmlinuz-*")]
    NoImage(String),
    /// The archive gave no answer.
    #[error(transparent)]
    Archive(#[from] archive::Error),
    /// The cache could not be used.
    #[error(transparent)]
    Cache(#[from] cache::Error),
}

pub(crate) fn provision(
    cache: &Cache,
    archive: &Archive,
    kernel: &DebianKernel,
    progress: &mut dyn Progress,
) -> Result<PathBuf, Error> {
    let wanted = match kernel {
        DebianKernel::Newest => "",
        DebianKernel::Version(version) => version,
    };
    let next;
    let mut from = archive;
    let mut package = newest(from, wanted)?;
    if package.is_none() && archive.suite() != NEXT_SUITE {
        next = Archive::open(cache, Some(NEXT_SUITE), progress)?;
        from = &next;
        package = newest(from, wanted)?;
    }
    let package = package.ok_or_else(|| Error::None { suite: from.suite().to_owned(), wanted: wanted.to_owned() })?;
    let version = from.version(&package)?;
    let mut key = Key::new("guest", RECIPE);
    key.add("package", &package);
    key.add("version", &version);
    if let Some(entry) = cache.get("guest", &key) {
        return Ok(entry.join("vmlinuz"));
    }
    let locked = cache.lock(progress)?;
    let entry = locked.get_or_build("guest", &key, |scratch, result| {
        progress.step(&format!("fetching {package}"), Duration::from_secs(5), |progress| {
            from.unpack(&package, &version, scratch, progress)
        })?;
        let boot = scratch.join("boot");
        let files = fs::read_dir(&boot).map_err(at(&boot))?;
        let mut names = files.filter_map(|file| Some(file.ok()?.path()));
        let is_image =
            |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"vmlinuz-"));
        let image = names.find(is_image).ok_or_else(|| Error::NoImage(package.clone()))?;
        fs::copy(&image, result.join("vmlinuz")).map_err(at(&image))?;
        Ok::<(), Error>(())
    })?;
    Ok(entry.join("vmlinuz"))
}

/// The package with the highest kernel version; the signed one if there are both.
fn newest(archive: &Archive, wanted: &str) -> Result<Option<String>, Error> {
    let names = archive.names(PREFIX, |name| kernel_version(name).is_some_and(|version| is_of(version, wanted)))?;
    let version = |name: &str| kernel_version(name).unwrap_or_default().to_owned();
    Ok(names.into_iter().max_by(|a, b| compare_versions(&version(a), &version(b)).then_with(|| b.len().cmp(&a.len()))))
}

/// The `6.12.9+deb12` of `linux-image-6.12.9+deb12-cloud-amd64`; none for metapackages.
fn kernel_version(package: &str) -> Option<&str> {
    let rest = package.strip_prefix(PREFIX)?;
    let version = SUFFIXES.iter().find_map(|suffix| rest.strip_suffix(suffix))?;
    (version.matches('.').count() >= 2 && version.starts_with(|sign: char| sign.is_ascii_digit())).then_some(version)
}

fn is_of(version: &str, wanted: &str) -> bool {
    wanted.is_empty()
        || version.strip_prefix(wanted).is_some_and(|rest| !rest.starts_with(|sign: char| sign.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_of_kernels_are_told_from_others() {
        assert_eq!(kernel_version("linux-image-6.12.9+deb12-cloud-amd64"), Some("6.12.9+deb12"));
        assert_eq!(kernel_version("linux-image-6.1.0-47-cloud-amd64-unsigned"), Some("6.1.0-47"));
        for other in [
            "linux-image-cloud-amd64",
            "linux-image-6.12-cloud-amd64",
            "linux-image-6.12.9+deb12-cloud-amd64-dbg",
            "linux-image-6.12.9+deb12-amd64",
            "linux-headers-6.12.9-cloud-amd64",
        ] {
            assert_eq!(kernel_version(other), None, "{other}");
        }
        assert!(is_of("6.12.9", "6.12") && is_of("6.12.9", "") && is_of("6.12.9", "6.12.9"));
        assert!(!is_of("6.12.9", "6.1") && !is_of("6.12.9", "7"));
    }
}

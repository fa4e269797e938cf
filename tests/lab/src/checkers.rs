//! Other people's verifiers of evidence, written in Go, to compare ours with: built from the archive's packages, and not
//! installed.
//!
//! Owns: fetching the compiler, their sources and what those import, and building them. The packages lack the vendors'
//! certificates that the programs embed; those are taken from the source packages. Does not own: running the programs.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Error;
use crate::archive::Archive;
use crate::cache::{Cache, Key, at};
use crate::process::{self, background};
use crate::progress::Progress;

const RECIPE: u32 = 1;
/// The first suite that has all of it.
const SUITE: &str = "trixie";
const COMPILER: &str = "golang-go";
/// Below a package's `usr/share`, where Go looks for what is imported.
const SOURCES: &str = "usr/share/gocode";

/// A program, by the name that it has in the entry.
struct Checker {
    name: &'static str,
    source: &'static str,
    import: &'static str,
}

const CHECKERS: [Checker; 2] = [
    Checker {
        name: "go-sev-guest-check",
        source: "golang-github-google-go-sev-guest",
        import: "github.com/google/go-sev-guest",
    },
    Checker {
        name: "go-tdx-guest-check",
        source: "golang-github-google-go-tdx-guest",
        import: "github.com/google/go-tdx-guest",
    },
];

/// Where `go-sev-guest-check` and `go-tdx-guest-check` are, built if they are not in the cache: about 55 MB are fetched
/// for that. Files beside them, with `.version` added, say which version each is of.
pub fn go_checkers(place: Option<&Path>, progress: &mut dyn Progress) -> Result<PathBuf, Error> {
    let cache = Cache::open(place)?;
    let archive = Archive::open(&cache, Some(SUITE), progress)?;
    let wanted: Vec<String> = CHECKERS.iter().map(|checker| format!("{}-dev", checker.source)).collect();
    let wanted: Vec<&str> = wanted.iter().map(String::as_str).chain([COMPILER]).collect();
    let packages = archive.closure(&wanted)?;
    let mut key = Key::new("checkers", RECIPE);
    for (name, version) in &packages {
        key.add(name, version);
    }
    if let Some(entry) = cache.get("checkers", &key) {
        return Ok(entry);
    }
    let locked = cache.lock(progress)?;
    locked.get_or_build("checkers", &key, |scratch, result| {
        let root = scratch.join("root");
        fs::create_dir(&root).map_err(at(&root))?;
        progress.step("fetching a Go compiler and verifiers in Go", Duration::from_secs(15), |progress| {
            archive.unpack_all(&packages, &root, progress)
        })?;
        for checker in &CHECKERS {
            let version = archive.source_version(checker.source)?;
            let name = format!("building {} {version}", checker.name);
            progress.step(&name, Duration::from_secs(60), |progress| {
                complete(&archive, checker, &version, scratch, progress)?;
                build(checker, &root, scratch, result, progress)
            })?;
            let path = result.join(checker.name).with_extension("version");
            fs::write(&path, upstream(&version)).map_err(at(&path))?;
        }
        Ok(())
    })
}

/// Adds to the unpacked package what only the source package has.
fn complete(
    archive: &Archive,
    checker: &Checker,
    version: &str,
    scratch: &Path,
    progress: &mut dyn Progress,
) -> Result<(), Error> {
    let into = scratch.join(checker.source);
    fs::create_dir(&into).map_err(at(&into))?;
    let file = archive.upstream(checker.source, version, &into, progress)?;
    let package = scratch.join("root").join(SOURCES).join("src").join(checker.import);
    let mut unpack = background("tar");
    unpack.arg("--extract").arg("--file").arg(file).arg("--strip-components=1").arg("--directory").arg(package);
    Ok(process::follow(&mut unpack, progress)?)
}

fn build(
    checker: &Checker,
    root: &Path,
    scratch: &Path,
    result: &Path,
    progress: &mut dyn Progress,
) -> Result<(), Error> {
    // `usr/bin/go` is a link to where it would be installed, `usr/lib/go` one beside it.
    let compiler = root.join("usr/lib/go");
    let mut command = background(compiler.join("bin/go"));
    command.env("GOROOT", &compiler).env("GOPATH", root.join(SOURCES)).env("GOCACHE", scratch.join("cache"));
    // Nothing but what was unpacked, and nothing of this machine's.
    command.envs([("GO111MODULE", "off"), ("GOTOOLCHAIN", "local"), ("GOPROXY", "off"), ("CGO_ENABLED", "0")]);
    command.env_remove("GOFLAGS");
    command.args(["build", "-o"]).arg(result.join(checker.name)).arg(format!("{}/tools/check", checker.import));
    Ok(process::follow(&mut command, progress)?)
}

/// The `0.13.0` of `0.13.0-1`.
fn upstream(version: &str) -> &str {
    version.rsplit_once('-').map_or(version, |(upstream, _)| upstream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_those_of_who_wrote_the_program() {
        assert_eq!(upstream("0.13.0-1"), "0.13.0");
        assert_eq!(upstream("0.3.1"), "0.3.1");
    }
}

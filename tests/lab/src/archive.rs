//! The distribution's package archive, through an apt of the lab's own: private lists, made once,
//! so that nothing needs root, nothing of the host's changes, and a second run asks nobody.
//!
//! Owns: those lists, questions to them, downloads. Does not own: installing packages for the
//! host (`packages`), or what is built from a download.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::cache::{self, Cache, Key, at};
use crate::process::{self, background};
use crate::progress::Progress;
use crate::sources::Sources;

/// Why the archive gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This is not a distribution the lab knows to ask.
    #[error("/etc/os-release names no VERSION_CODENAME: the lab builds from Debian's package archive only")]
    NoCodename,
    /// apt has no sources of the distribution itself.
    #[error("no enabled source in /etc/apt has suite {0} and component main")]
    NoSources(String),
    /// The archive has no such package.
    #[error("the archive's suite {suite} has no package {package}")]
    NoPackage {
        /// Which suite was asked.
        suite: String,
        /// What it was asked for.
        package: String,
    },
    /// The lists could not be kept.
    #[error(transparent)]
    Cache(#[from] cache::Error),
    /// apt failed.
    #[error(transparent)]
    Apt(#[from] process::Error),
}

/// One suite of the distribution's archive.
#[derive(Debug)]
pub(crate) struct Archive {
    suite: String,
    root: PathBuf,
}

impl Archive {
    /// Opens the host's own suite, or another one of the same archive; reads its lists if that
    /// has not been done yet.
    pub(crate) fn open(cache: &Cache, suite: Option<&str>, progress: &mut dyn Progress) -> Result<Self, Error> {
        let codename = codename()?;
        let suite = suite.unwrap_or(&codename).to_owned();
        let sources = configured(&codename, &suite)?;
        let mut key = Key::new("archive", 1);
        key.add("deb822", &sources.deb822);
        key.add("one-line", &sources.one_line);
        let root = cache.root().join(format!("archive-{suite}-{}", &key.digest()[..12]));
        let archive = Self { suite, root };
        if !archive.root.join("complete").exists() {
            let _lock = cache.lock(progress)?;
            archive.prepare(&sources)?;
            archive.update(progress)?;
        }
        Ok(archive)
    }

    /// Reads the lists again and forgets earlier answers.
    pub(crate) fn refresh(&self, cache: &Cache, progress: &mut dyn Progress) -> Result<(), Error> {
        let _lock = cache.lock(progress)?;
        self.update(progress)
    }

    /// Its name.
    #[must_use]
    pub(crate) fn suite(&self) -> &str {
        &self.suite
    }

    fn prepare(&self, sources: &Sources) -> Result<(), Error> {
        for directory in ["sources", "lists/partial", "cache/archives/partial"] {
            let path = self.root.join(directory);
            fs::create_dir_all(&path).map_err(at(&path))?;
        }
        for (name, text) in [("lab.sources", &sources.deb822), ("lab.list", &sources.one_line)] {
            let path = self.root.join("sources").join(name);
            fs::write(&path, text).map_err(at(&path))?;
        }
        Ok(())
    }

    fn update(&self, progress: &mut dyn Progress) -> Result<(), Error> {
        let memory = self.root.join("answers");
        if memory.exists() {
            fs::remove_file(&memory).map_err(at(&memory))?;
        }
        let name = format!("reading the package lists of {}", self.suite);
        progress.step(&name, Duration::from_secs(5), |progress| {
            process::follow(self.apt("apt-get").args(["-q", "update"]), progress)
        })?;
        let path = self.root.join("complete");
        fs::write(&path, "").map_err(at(&path))?;
        Ok(())
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = background(program);
        let place = |name: &str| self.root.join(name).display().to_string();
        for (option, value) in [
            ("Dir::Etc::SourceList", "/dev/null".to_owned()),
            ("Dir::Etc::SourceParts", place("sources")),
            ("Dir::State::Lists", place("lists")),
            ("Dir::Cache", place("cache")),
            // Downloads go where only this user writes; apt's own user could not.
            ("APT::Sandbox::User", "root".to_owned()),
        ] {
            command.args(["-o", &format!("{option}={value}")]);
        }
        command
    }

    /// Answers a question once, from memory after that.
    fn remembered(&self, question: &str, ask: impl FnOnce() -> Result<String, Error>) -> Result<String, Error> {
        let path = self.root.join("answers");
        let text = fs::read_to_string(&path).unwrap_or_default();
        let mut answers: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
        if let Some(answer) = answers.get(question) {
            return Ok((*answer).to_owned());
        }
        let answer = ask()?;
        answers.insert(question, &answer);
        let text: String = answers.iter().map(|(question, answer)| format!("{question}={answer}\n")).collect();
        let scratch = tempfile::NamedTempFile::new_in(&self.root).map_err(at(&path))?;
        fs::write(scratch.path(), text).map_err(at(&path))?;
        scratch.persist(&path).map_err(|error| at(&path)(error.error))?;
        Ok(answer)
    }

    /// Names of binary packages that `matches` accepts, joined by blanks for the memory.
    pub(crate) fn names(&self, prefix: &str, matches: impl Fn(&str) -> bool) -> Result<Vec<String>, Error> {
        let names = self.remembered(&format!("names {prefix}"), || {
            let names = process::output(self.apt("apt-cache").args(["pkgnames", prefix]))?;
            let mut names: Vec<&str> = names.split_whitespace().collect();
            names.sort_unstable();
            Ok(names.join(" "))
        })?;
        Ok(names.split(' ').filter(|name| matches(name)).map(str::to_owned).collect())
    }

    /// The newest version of a binary package.
    pub(crate) fn version(&self, package: &str) -> Result<String, Error> {
        self.newest("show", package)
    }

    /// The newest version of a source package.
    pub(crate) fn source_version(&self, package: &str) -> Result<String, Error> {
        self.newest("showsrc", package)
    }

    fn newest(&self, verb: &str, package: &str) -> Result<String, Error> {
        self.remembered(&format!("{verb} {package}"), || {
            let no_package = || Error::NoPackage { suite: self.suite.clone(), package: package.to_owned() };
            let shown = process::output(self.apt("apt-cache").args(["-q", verb, package]));
            let shown = shown.map_err(|_| no_package())?;
            let versions = shown.lines().filter_map(|line| line.strip_prefix("Version: "));
            versions.map(str::to_owned).max_by(|a, b| compare_versions(a, b)).ok_or_else(no_package)
        })
    }

    /// These binary packages and all they depend on, as apt would install them where nothing is installed: names and
    /// versions.
    pub(crate) fn closure(&self, packages: &[&str]) -> Result<Vec<(String, String)>, Error> {
        let question = format!("closure {}", packages.join(" "));
        let answer = self.remembered(&question, || {
            let mut simulate = self.apt("apt-get");
            simulate.args(["-o", "Dir::State::status=/dev/null", "-q", "-s", "--no-install-recommends", "install"]);
            let plan = process::output(simulate.args(packages))?;
            let mut needed: Vec<String> = plan.lines().filter_map(installation).collect();
            needed.sort_unstable();
            Ok(needed.join(" "))
        })?;
        let pairs = answer.split(' ').filter_map(|pair| pair.split_once('='));
        Ok(pairs.map(|(name, version)| (name.to_owned(), version.to_owned())).collect())
    }

    /// Downloads a binary package and unpacks it below `into`.
    pub(crate) fn unpack(
        &self,
        package: &str,
        version: &str,
        into: &Path,
        progress: &mut dyn Progress,
    ) -> Result<(), Error> {
        self.unpack_all(&[(package.to_owned(), version.to_owned())], into, progress)
    }

    /// Downloads binary packages, names and versions, and unpacks them below `into`.
    pub(crate) fn unpack_all(
        &self,
        packages: &[(String, String)],
        into: &Path,
        progress: &mut dyn Progress,
    ) -> Result<(), Error> {
        let scratch = tempfile::tempdir_in(&self.root).map_err(at(&self.root))?;
        let wanted = packages.iter().map(|(name, version)| format!("{name}={version}"));
        let mut download = self.apt("apt-get");
        download.args(["-q", "download"]).args(wanted).current_dir(scratch.path());
        process::follow(&mut download, progress)?;
        for (file, done) in fs::read_dir(scratch.path()).map_err(at(scratch.path()))?.zip(1..) {
            let file = file.map_err(at(scratch.path()))?.path();
            process::follow(background("dpkg-deb").arg("-x").arg(file).arg(into), progress)?;
            progress.advance(done, packages.len() as u64);
        }
        Ok(())
    }

    /// Downloads a source package into `into`; returns its description file.
    pub(crate) fn source(
        &self,
        package: &str,
        version: &str,
        into: &Path,
        progress: &mut dyn Progress,
    ) -> Result<PathBuf, Error> {
        let wanted = format!("{package}={version}");
        process::follow(
            self.apt("apt-get").args(["-q", "source", "--download-only", &wanted]).current_dir(into),
            progress,
        )?;
        let files = fs::read_dir(into).map_err(at(into))?;
        let mut names = files.filter_map(|file| Some(file.ok()?.path()));
        names
            .find(|path| path.extension().is_some_and(|extension| extension == "dsc"))
            .ok_or_else(|| Error::NoPackage { suite: self.suite.clone(), package: wanted })
    }

    /// Downloads of a source package what its authors published, without the distribution's changes, into `into`; returns
    /// that archive.
    pub(crate) fn upstream(
        &self,
        package: &str,
        version: &str,
        into: &Path,
        progress: &mut dyn Progress,
    ) -> Result<PathBuf, Error> {
        let wanted = format!("{package}={version}");
        let mut list = self.apt("apt-get");
        let files = process::output(list.args(["-q", "source", "--download-only", "--print-uris", &wanted]))?;
        let [address, name, hash] = files
            .lines()
            .filter_map(source_file)
            .find(|[_, name, _]| name.contains(".orig.tar."))
            .ok_or_else(|| Error::NoPackage { suite: self.suite.clone(), package: wanted })?;
        let path = into.join(name);
        // The hash is the signed lists'.
        process::follow(
            self.apt("/usr/lib/apt/apt-helper").args(["download-file", address]).arg(&path).arg(hash),
            progress,
        )?;
        Ok(path)
    }
}

/// Address, name and hash of `'http://…/a_1.orig.tar.gz' a_1.orig.tar.gz 146994 SHA256:…`.
fn source_file(line: &str) -> Option<[&str; 3]> {
    let (address, rest) = line.strip_prefix('\'')?.split_once("' ")?;
    let mut words = rest.split(' ');
    Some([address, words.next()?, words.nth(1)?])
}

/// `libc6=2.41-12` of `Inst libc6 (2.41-12 Debian:13/stable [amd64])`.
fn installation(line: &str) -> Option<String> {
    let (name, rest) = line.strip_prefix("Inst ")?.split_once(" (")?;
    Some(format!("{}={}", name.trim(), rest.split_whitespace().next()?))
}

/// The release's code name, like `bookworm`.
fn codename() -> Result<String, Error> {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let value = value.map(|value| value.trim_matches('"').to_owned());
    value.filter(|value| !value.is_empty()).ok_or(Error::NoCodename)
}

/// The host's sources of its own distribution, as suite `target`.
fn configured(codename: &str, target: &str) -> Result<Sources, Error> {
    let mut sources = Sources::default();
    let mut paths = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(parts) = fs::read_dir("/etc/apt/sources.list.d") {
        let mut parts: Vec<PathBuf> = parts.filter_map(|part| Some(part.ok()?.path())).collect();
        parts.sort();
        paths.append(&mut parts);
    }
    for path in paths {
        let text = fs::read_to_string(&path).unwrap_or_default();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("sources") => sources.add_deb822(&text, codename, target),
            Some("list") => sources.add_one_line(&text, codename, target),
            _ => {}
        }
    }
    if sources.is_empty() {
        return Err(Error::NoSources(codename.to_owned()));
    }
    Ok(sources)
}

/// Orders Debian version numbers. Specification: deb-version(7).
#[must_use]
pub(crate) fn compare_versions(a: &str, b: &str) -> std::cmp::Ordering {
    let (a_epoch, a) = epoch(a);
    let (b_epoch, b) = epoch(b);
    let (a_upstream, a_revision) = a.rsplit_once('-').unwrap_or((a, "0"));
    let (b_upstream, b_revision) = b.rsplit_once('-').unwrap_or((b, "0"));
    (a_epoch.cmp(&b_epoch))
        .then_with(|| compare_parts(a_upstream, b_upstream))
        .then_with(|| compare_parts(a_revision, b_revision))
}

fn epoch(version: &str) -> (u64, &str) {
    match version.split_once(':') {
        Some((epoch, rest)) => (epoch.parse().unwrap_or(0), rest),
        None => (0, version),
    }
}

/// Alternating runs of non-digits (letters before other signs, `~` before the end) and numbers.
fn compare_parts(mut a: &str, mut b: &str) -> std::cmp::Ordering {
    let rank = |text: &str, at: usize| match text.as_bytes().get(at) {
        None => 0i32,
        Some(b'~') => -1,
        Some(sign) if sign.is_ascii_alphabetic() => i32::from(*sign),
        Some(sign) => i32::from(*sign) + 256,
    };
    while !a.is_empty() || !b.is_empty() {
        let (a_sign, a_rest) = a.split_at(a.find(|c: char| c.is_ascii_digit()).unwrap_or(a.len()));
        let (b_sign, b_rest) = b.split_at(b.find(|c: char| c.is_ascii_digit()).unwrap_or(b.len()));
        for at in 0..a_sign.len().max(b_sign.len()) {
            let order = rank(a_sign, at).cmp(&rank(b_sign, at));
            if order.is_ne() {
                return order;
            }
        }
        let (a_number, a_next) = a_rest.split_at(a_rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(a_rest.len()));
        let (b_number, b_next) = b_rest.split_at(b_rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(b_rest.len()));
        let (a_number, b_number) = (a_number.trim_start_matches('0'), b_number.trim_start_matches('0'));
        let order = a_number.len().cmp(&b_number.len()).then_with(|| a_number.cmp(b_number));
        if order.is_ne() {
            return order;
        }
        (a, b) = (a_next, b_next);
    }
    std::cmp::Ordering::Equal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_apt_would_install_is_read() {
        let line = "Inst bochs (3.0+dfsg-1 Debian:13.1/stable [amd64])";
        assert_eq!(installation(line).as_deref(), Some("bochs=3.0+dfsg-1"));
        assert_eq!(installation("Conf bochs (3.0+dfsg-1 Debian:13.1/stable [amd64])"), None);
        assert_eq!(installation("Reading package lists..."), None);
    }

    #[test]
    fn what_apt_would_download_is_read() {
        let line = "'http://archive.example/pool/a_1.orig.tar.gz' a_1.orig.tar.gz 146994 SHA256:58";
        assert_eq!(
            source_file(line),
            Some(["http://archive.example/pool/a_1.orig.tar.gz", "a_1.orig.tar.gz", "SHA256:58"])
        );
        assert_eq!(source_file("Need to get 152 kB of source archives."), None);
    }

    #[test]
    fn versions_are_ordered_as_the_manual_says() {
        let rising = [
            "6.9-1",
            "6.12~rc1-1",
            "6.12-1",
            "6.12.9-1",
            "6.12.107-1~deb12u1",
            "6.12.107-1",
            "6.12.107-1+b1",
            "7.2-1",
            "1:1.0~~",
            "1:1.0~",
            "1:1.0",
            "1:1.0a",
            "1:1.0+",
            "2:0",
        ];
        for (i, a) in rising.iter().enumerate() {
            for (j, b) in rising.iter().enumerate() {
                assert_eq!(compare_versions(a, b), i.cmp(&j), "{a} and {b}");
            }
        }
        assert_eq!(compare_versions("1.01-1", "1.1-1"), std::cmp::Ordering::Equal);
    }
}

//! Packages of the distribution that the host itself must have: compilers, build tools, libraries.
//!
//! Owns: finding what is missing, and installing it (as root) or saying how.

use std::process::Command;
use std::time::Duration;

use crate::process::{self, background};
use crate::progress::Progress;

/// Why the host lacks what is needed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Only root may install packages.
    #[error("the lab needs packages that are not installed; as root, run:\n  apt-get install --no-install-recommends {}", .0.join(" "))]
    NotRoot(Vec<String>),
    /// apt or dpkg failed.
    #[error(transparent)]
    Process(#[from] process::Error),
}

/// Sees to it that `wanted` is installed.
pub(crate) fn ensure(wanted: &[&str], progress: &mut dyn Progress) -> Result<(), Error> {
    let missing = missing(wanted)?;
    if missing.is_empty() {
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        return Err(Error::NotRoot(missing));
    }
    progress.note(&format!("installing packages: {}", missing.join(" ")));
    progress.step("installing packages", Duration::from_secs(20), |progress| install(&missing, progress))
}

fn install(missing: &[String], progress: &mut dyn Progress) -> Result<(), Error> {
    let apt = |verb: &[&str]| {
        let mut command = background("apt-get");
        command.arg("-q").args(verb);
        command
    };
    let install = || {
        let mut command = apt(&["install", "-y", "--no-install-recommends"]);
        command.args(missing);
        command
    };
    // Lists that are missing or old are the usual reason to fail; then they are read, once.
    if process::follow(&mut install(), progress).is_err() {
        process::follow(&mut apt(&["update"]), progress)?;
        process::follow(&mut install(), progress)?;
    }
    Ok(())
}

fn missing(wanted: &[&str]) -> Result<Vec<String>, Error> {
    let mut command = Command::new("dpkg-query");
    command.args(["-W", "-f", "${Package} ${db:Status-Status}\n"]).args(wanted);
    // It fails when one is unknown, but answers for the others all the same.
    let answer =
        command.output().map_err(|source| process::Error::Start { program: "dpkg-query".to_owned(), source })?;
    let answer = String::from_utf8_lossy(&answer.stdout);
    let installed = |package: &str| answer.lines().any(|line| line == format!("{package} installed"));
    Ok(wanted.iter().filter(|package| !installed(package)).map(|package| (*package).to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_installed_is_told_from_what_is_not() {
        let found = missing(&["dpkg", "no-such-package-as-this", "bash"]).unwrap();
        assert_eq!(found, ["no-such-package-as-this"]);
    }

    #[test]
    fn without_root_the_command_is_named() {
        let text = Error::NotRoot(vec!["flex".to_owned(), "bison".to_owned()]).to_string();
        assert!(text.ends_with("apt-get install --no-install-recommends flex bison"), "{text}");
    }
}

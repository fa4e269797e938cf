//! Static programs of this workspace, for a lab host that has no libraries.
//!
//! Owns: how they are built (by cargo, linked against glibc's static archive, in a target
//! directory of their own so that no other build waits or is undone).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::cache::Cache;
use crate::process;
use crate::progress::Progress;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What to build of a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A program.
    Bin(String),
    /// An example.
    Example(String),
}

/// Builds a program of this workspace statically and returns its path; quick when it is built.
pub(crate) fn build_static(
    cache: &Cache,
    package: &str,
    target: &Target,
    progress: &mut dyn Progress,
) -> Result<PathBuf, process::Error> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    // Checkouts must not take turns at undoing each other's builds.
    let mut place = crate::cache::Key::new("workspace", 1);
    place.add("path", workspace.as_os_str().as_encoded_bytes());
    let out = cache.root().join(format!("programs-{}", &place.digest()[..12]));

    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let (kind, name, directory) = match target {
        Target::Bin(name) => ("--bin", name, TARGET.to_owned() + "/release"),
        Target::Example(name) => ("--example", name, TARGET.to_owned() + "/release/examples"),
    };
    let mut command = Command::new(cargo);
    command
        .args(["build", "--release", "--target", TARGET, "-p", package, kind, name])
        .current_dir(&workspace)
        .env("CARGO_TARGET_DIR", &out)
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        // cargo's own variables of the build that runs us must not leak into this one.
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("CARGO_BUILD_TARGET")
        .stdin(std::process::Stdio::null());
    let building = format!("building {name} as a static program");
    progress.step(&building, Duration::from_secs(1), |progress| process::follow(&mut command, progress))?;
    Ok(out.join(directory).join(name))
}

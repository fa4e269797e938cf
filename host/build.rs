//! Builds the guest firmware and puts its flat image where `src/firmware.rs` includes it.
//!
//! The firmware is a package of the same workspace, but built for a machine without operating system: another target
//! directory (so that the two builds never wait for each other's lock), another profile, other flags, and none of the
//! flags this build was given. `GUEST_FW_ELF=path` takes an ELF file that was built elsewhere, so that an image whose
//! hash was published can be used as it is.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const TARGET: &str = "x86_64-unknown-linux-gnu";
const OVERRIDE: &str = "GUEST_FW_ELF";

fn main() -> Result<()> {
    println!("cargo::rerun-if-env-changed={OVERRIDE}");
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    let elf = match env::var_os(OVERRIDE) {
        Some(path) => {
            println!("cargo::rerun-if-changed={}", Path::new(&path).display());
            PathBuf::from(path)
        }
        // Not rerun because of it: it is newer than this build's beginning, so that every second build would do all of it
        // again.
        None => build(&out_dir)?,
    };
    let image = flatten(&fs::read(&elf).map_err(|error| format!("{}: {error}", elf.display()))?)
        .map_err(|error| format!("{}: {error}", elf.display()))?;
    fs::write(out_dir.join("fw.bin"), image)?;
    Ok(())
}

/// Runs cargo for the firmware's package and returns the ELF file it made.
fn build(out_dir: &Path) -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("the package is not in a workspace")?;
    for input in ["guest-fw", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    let target_dir = out_dir.join("fw-target");
    let mut flags = vec![
        "-Crelocation-model=static".into(),
        "-Cno-redzone=yes".into(),
        "-Cforce-unwind-tables=no".into(),
        "-Clinker=rust-lld".into(),
        "-Clinker-flavor=ld.lld".into(),
        "--cfg=guest_fw_image".into(),
    ];
    for (path, name) in stable_names(root, &target_dir) {
        flags.push(format!("--remap-path-prefix={}={name}", path.display()));
    }
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in env::vars_os() {
        let name_lossy = name.to_string_lossy();
        let keep = matches!(&*name_lossy, "CARGO_HOME" | "CARGO_NET_OFFLINE");
        if !keep && ["CARGO", "RUSTC", "RUSTFLAGS", "MAKEFLAGS"].iter().any(|prefix| name_lossy.starts_with(prefix)) {
            cargo.env_remove(&name);
        }
    }
    cargo.current_dir(root).env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    cargo.args(["build", "--locked", "--package", "guest-fw", "--bin", "guest-fw", "--profile", "firmware"]);
    // With an explicit target the flags above stay away from procedural macros and build scripts.
    cargo.args(["--target", TARGET, "--target-dir"]).arg(&target_dir);
    let status = cargo.status()?;
    if !status.success() {
        return Err(format!("building the firmware failed: {status}").into());
    }
    Ok(target_dir.join(TARGET).join("firmware/guest-fw"))
}

/// What directories are to be called in the image. Panic messages name source files, and the same bytes must come out
/// wherever checkout, build and registry are. Where several match, the compiler takes the last.
fn stable_names(root: &Path, target_dir: &Path) -> Vec<(PathBuf, &'static str)> {
    let mut names = vec![(root.to_path_buf(), "."), (target_dir.to_path_buf(), "target")];
    let by_default = || env::var_os("HOME").map(|home| Path::new(&home).join(".cargo"));
    if let Some(home) = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(by_default) {
        // One directory for each registry, named after where it is reached.
        let registries = fs::read_dir(home.join("registry/src")).into_iter().flatten().flatten();
        let registries: Vec<_> = registries.map(|registry| (registry.path(), "registry")).collect();
        names.push((home, "cargo"));
        names.extend(registries);
    }
    names
}

/// Lays out an ELF file's loadable segments as they will lie in memory, without what is zero at the end.
/// Specification: System V ABI, "Object Files" (ELF-64).
fn flatten(elf: &[u8]) -> Result<Vec<u8>> {
    const PT_LOAD: u64 = 1;
    const EM_X86_64: u64 = 62;
    let field = |offset: u64, len: usize| -> Result<u64> {
        let start = usize::try_from(offset)?;
        let bytes = start.checked_add(len).and_then(|end| elf.get(start..end)).ok_or("truncated ELF file")?;
        let mut value = [0; 8];
        value[..len].copy_from_slice(bytes);
        Ok(u64::from_le_bytes(value))
    };
    if elf.get(..6) != Some(b"\x7fELF\x02\x01") || field(18, 2)? != EM_X86_64 {
        return Err("not a little-endian 64-bit x86 ELF file".into());
    }
    let (table, entry_len, entries) = (field(32, 8)?, field(54, 2)?, field(56, 2)?);
    let mut segments = Vec::new();
    for index in 0..entries {
        let entry = table + index * entry_len;
        if field(entry, 4)? == PT_LOAD && field(entry + 32, 8)? != 0 {
            let (offset, address, len) = (field(entry + 8, 8)?, field(entry + 24, 8)?, field(entry + 32, 8)?);
            let start = usize::try_from(offset)?;
            let bytes = elf.get(start..start.saturating_add(usize::try_from(len)?)).ok_or("truncated segment")?;
            segments.push((address, bytes));
        }
    }
    segments.sort_by_key(|(address, _)| *address);
    let base = segments.first().ok_or("no loadable segment")?.0;
    let mut image = Vec::new();
    for (address, bytes) in segments {
        let offset = usize::try_from(address - base)?;
        if offset < image.len() {
            return Err(format!("segments overlap at {address:#x}").into());
        }
        image.resize(offset, 0);
        image.extend_from_slice(bytes);
    }
    Ok(image)
}

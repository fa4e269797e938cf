//! A static userland for test guests: what both sides of a test need.
//!
//! Owns the initial RAM disk ([`initrd`], [`cpio`]), what a test may ask of the guest ([`request`]) and the protocol both
//! speak over virtio-console ([`protocol`]). The program of this package is the guest's `/init`. It is built statically
//! and needs no other file:
//!
//! ```text
//! CARGO_PROFILE_RELEASE_OPT_LEVEL=s CARGO_PROFILE_RELEASE_STRIP=symbols RUSTFLAGS="-C target-feature=+crt-static" \
//!     cargo build --locked --release --target x86_64-unknown-linux-gnu -p test-guest --bin test-guest
//! ```

pub mod cpio;
pub mod protocol;
pub mod request;

use cpio::{Archive, CpioError, DeviceNumber};

/// An initial RAM disk with `init_binary` as `/init`, the console node the kernel opens for it, and the directories it
/// mounts on.
pub fn initrd(init_binary: &[u8]) -> Result<Vec<u8>, CpioError> {
    let mut archive = Archive::new();
    for directory in ["dev", "proc", "sys", "tmp", "run"] {
        archive.directory(directory, 0o755)?;
    }
    archive.character_device("dev/console", 0o600, DeviceNumber { major: 5, minor: 1 })?;
    archive.file("init", 0o755, init_binary)?;
    Ok(archive.finish())
}

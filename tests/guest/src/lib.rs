//! A static userland for test guests: what both sides of a test need.
//!
//! Owns the initial RAM disk ([`initrd`]), what a test may ask of the guest ([`request`]) and the protocol both
//! speak over virtio-console ([`protocol`]) and over channels ([`channel`]).
//! The program of this package is the guest's `/init`. It is built statically
//! and needs no other file:
//!
//! ```text
//! CARGO_PROFILE_RELEASE_OPT_LEVEL=s CARGO_PROFILE_RELEASE_STRIP=symbols RUSTFLAGS="-C target-feature=+crt-static" \
//!     cargo build --locked --release --target x86_64-unknown-linux-gnu -p test-guest --bin test-guest
//! ```

pub mod channel;
pub mod protocol;
pub mod request;

/// An initial RAM disk with `init_binary` as `/init`, the console node the kernel opens for it, and the directories it
/// mounts on.
pub fn initrd(init_binary: &[u8]) -> Result<Vec<u8>, initramfs::Error> {
    let mut archive = initramfs::Writer::new(Vec::new());
    for directory in ["/dev", "/proc", "/sys", "/tmp", "/run"] {
        archive.directory(directory)?;
    }
    archive.character_device("/dev/console", 5, 1)?;
    archive.file("/init", 0o755, init_binary.len() as u64, init_binary)?;
    archive.finish()
}

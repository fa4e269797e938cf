//! A static userland for test guests: what both sides of a test need.
//!
//! Owns the initial RAM disk ([`initrd`]), what a test may ask of the guest ([`request`]), the protocol both speak over
//! virtio-console ([`protocol`]) and over channels ([`channel`]), what a guest opens with a key it has to ask for
//! ([`payload`]), and guests that ask ([`flow`]). The program of this package is the guest's `/init`. It is built
//! statically and needs no other file:
//!
//! ```text
//! CARGO_PROFILE_RELEASE_OPT_LEVEL=s CARGO_PROFILE_RELEASE_STRIP=symbols RUSTFLAGS="-C target-feature=+crt-static" \
//!     cargo build --locked --release --target x86_64-unknown-linux-gnu -p test-guest --bin test-guest
//! ```

pub mod channel;
pub mod flow;
pub mod payload;
pub mod protocol;
pub mod request;

/// A program or other file of an initial RAM disk.
#[derive(Debug, Clone, Copy)]
pub struct File<'a> {
    /// Where it goes.
    pub path: &'a str,
    /// Its permissions.
    pub mode: u32,
    /// What is in it.
    pub contents: &'a [u8],
}

/// An initial RAM disk with `init_binary` as `/init`, the console node the kernel opens for it, and the directories it
/// mounts on.
pub fn initrd(init_binary: &[u8]) -> Result<Vec<u8>, initramfs::Error> {
    initrd_with(init_binary, &[])
}

/// The same with other files besides.
pub fn initrd_with(init_binary: &[u8], files: &[File<'_>]) -> Result<Vec<u8>, initramfs::Error> {
    let mut archive = initramfs::Writer::new(Vec::new());
    for directory in ["/dev", "/proc", "/sys", "/tmp", "/run"] {
        archive.directory(directory)?;
    }
    archive.character_device("/dev/console", 5, 1)?;
    archive.file("/init", 0o755, init_binary.len() as u64, init_binary)?;
    for File { path, mode, contents } in files {
        archive.file(path, *mode, contents.len() as u64, *contents)?;
    }
    archive.finish()
}

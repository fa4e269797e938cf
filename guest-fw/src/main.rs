//! The firmware image: entry code, exception stubs, heap, and what the compiler expects of a platform.
//!
//! Only a build with `--cfg guest_fw_image` (see `host/build.rs`) makes the image. Any other build of this target is
//! a program that says so, which keeps `cargo build --workspace` working on a machine with an operating system.
#![cfg_attr(guest_fw_image, no_std, no_main)]

#[cfg(guest_fw_image)]
mod image;

#[cfg(not(guest_fw_image))]
fn main() {
    eprintln!("this is not the firmware: the build of `tenure` makes that image, see host/build.rs");
    std::process::exit(1);
}

//! Verifies evidence without a standard library, a C library or a kernel's help: `attest` needs an allocator.
//!
//! Owns the least that a program on Linux needs to begin and to end, and an allocator. Once it has read its input it asks
//! the kernel to kill it for whatever it asks afterwards, except to write and to end (seccomp, strict mode): if it ends
//! well, then nothing it used has opened a file, looked at a clock or gone to the network. It is a program of its own
//! only with `--cfg freestanding`, which `tests/alone.rs` sets; without, it is a `main` that says so.
#![cfg_attr(freestanding, no_std, no_main)]

#[cfg(freestanding)]
extern crate alloc;

#[cfg(freestanding)]
mod program;
#[cfg(freestanding)]
mod start;

#[cfg(not(freestanding))]
fn main() {
    eprintln!("this is built by its test, with --cfg freestanding");
}

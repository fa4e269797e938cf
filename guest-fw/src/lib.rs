//! The first code in the guest.
//!
//! Owns what runs before Linux: it makes private memory usable, checks what it loads, builds page tables, ACPI tables
//! and the zero page, and enters the kernel; without a kernel it runs a self-test. The library half holds everything
//! that can be tested on any machine; the program half (`main.rs`) is the image, linked at [`abi::FW_BASE`].
//!
//! Does not own the decision of what is launched: the VMM hands it a list of pieces ([`abi`]), and every number in
//! that list is checked here before use.
//!
//! Under `sw` nothing is measured: the firmware itself came from the host, so its SHA-256 checks catch accidents, not
//! attacks.
//!
//! Reading order: [`abi`], [`boot`] (the whole way from entry to kernel), then what it calls: [`staging`],
//! [`bzimage`], [`paging`], [`acpi`], [`zero_page`].
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod abi;
pub mod acpi;
pub mod boot;
pub mod bzimage;
pub mod cpu;
pub mod descriptors;
pub mod e820;
pub mod fault;
pub mod memory;
pub mod paging;
pub mod range;
pub mod selftest;
pub mod serial;
pub mod staging;
pub mod zero_page;

//! Is this kernel's guest_memfd what its ABI says? Named cases, and random sequences against a reference model.
//!
//! Owns: operations as data ([`op`]), the reference model ([`model`]), their execution on a real kernel ([`real`]), the
//! named cases ([`cases`]), random runs with shrinking ([`random`]), and the reports ([`report`]). Does not own: anything
//! of `tenure`; the program is of use to who has never heard of it, and needs nothing but itself and /dev/kvm.
//!
//! Specification: Linux `Documentation/virt/kvm/api.rst`; where that says nothing, `virt/kvm/guest_memfd.c`,
//! `virt/kvm/kvm_main.c` and `arch/x86/kvm/mmu` of Linux 7.2. The named cases include those of the kernel's own selftests
//! (`tools/testing/selftests/kvm`), written anew.
//!
//! `unsafe` is in one module, `sys`: raw ioctls and mappings are what a program is made of that asks the kernel about wrong
//! calls too, and a crate that makes only right calls is of no use here.
#![deny(unsafe_code)]

pub mod cases;
pub mod kernel;
pub mod model;
pub mod op;
pub mod outcome;
pub mod random;
pub mod real;
pub mod report;
#[allow(unsafe_code, reason = "the one module with raw system calls; see there")]
mod sys;

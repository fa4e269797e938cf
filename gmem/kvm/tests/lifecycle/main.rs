//! What the laws rest on, asked of the machine's own kernel.
//!
//! The laws *bound-at-birth* and *pages-before-key*, and what conversion assumes, are promises about a kernel. Each case
//! asks it, through the real port where the port can express the question and with raw system calls otherwise, on every
//! kind of VM this host has: type 0 with a guest_memfd that can be mapped (Linux 6.18), and type 1 with memory
//! attributes. A case that cannot be asked here says "skipped" with the reason, and is counted: the summary tells passed,
//! failed and skipped apart. Each case runs in a process of its own, so that descriptors can be counted and a broken
//! kernel cannot hang the rest.
//!
//! The program needs nothing but itself and /dev/kvm, so that it also runs as a static program in the lab.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a case fails by panicking, as in any test")]

mod attributes;
mod bound_at_birth;
mod guest;
mod harness;
mod host;
mod pages_before_key;
mod raw;
mod rules;
mod slots;
mod watched;

use std::process::ExitCode;

use harness::{Case, case};
use host::Kind::{Mappable, Private};

/// A case that is a rule.
macro_rules! rule {
    ($name:ident) => {
        |host| {
            host.asked().$name();
            Ok(())
        }
    };
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in [Mappable, Private] {
        cases.extend([
            case("bound_at_birth_foreign_vm_is_refused", kind, rule!(foreign_vm_is_refused)),
            case("bound_at_birth_close_on_exec", kind, bound_at_birth::close_on_exec),
            case("bound_at_birth_number_above_the_vms", kind, bound_at_birth::number_above_the_vms),
            case("bound_at_birth_one_descriptor", kind, bound_at_birth::one_descriptor),
            case("bound_at_birth_sizes_and_flags", kind, bound_at_birth::sizes_and_flags),
            case("bound_at_birth_no_reading_or_writing", kind, bound_at_birth::no_reading_or_writing),
            case("slots_overlapping_frames", kind, rule!(overlapping_frames)),
            case("slots_overlapping_file_ranges", kind, rule!(overlapping_file_ranges)),
            case("slots_bad_bindings", kind, slots::bad_bindings),
            case("slots_are_not_changed", kind, slots::are_not_changed),
            case("slots_rebind_after_delete_keeps_content", kind, slots::rebind_after_delete_keeps_content),
            case("slots_new_file_needs_a_new_slot", kind, rule!(new_file_needs_a_new_slot)),
            case("pages_before_key_teardown_order", kind, pages_before_key::teardown_order),
            case("pages_before_key_after_a_panic", kind, pages_before_key::after_a_panic),
            case("pages_before_key_evidence_finds_what_is_held", kind, pages_before_key::evidence_finds_what_is_held),
            case("pages_before_key_vm_closed_first", kind, pages_before_key::vm_closed_first),
            case("pages_before_key_gmem_closed_first", kind, pages_before_key::gmem_closed_first),
            case("pages_before_key_on_a_dead_vm", kind, pages_before_key::on_a_dead_vm),
            case("pages_before_key_order_of_creation", kind, rule!(order_of_creation)),
            case("known_owner_attributes_by_the_frame", kind, rule!(attributes)),
            case("no_stale_copy_punching_needs_only_the_file", kind, rule!(punching)),
            case("no_stale_copy_punch_frees_what_was_allocated", kind, pages_before_key::punch_frees),
            case("no_stale_copy_conversion_discards", kind, pages_before_key::conversion_discards),
        ]);
    }
    cases.extend([
        case("bound_at_birth_a_mapping_pins", Mappable, pages_before_key::a_mapping_pins),
        case("known_owner_attributes_outlive_slots", Private, attributes::outlive_slots),
        case("known_owner_attributes_need_no_slot", Private, attributes::need_no_slot),
        case("known_owner_private_without_a_file_faults", Private, attributes::private_without_a_file_faults),
        case("no_stale_copy_attributes_alone_keep_both_copies", Private, attributes::alone_keep_both_copies),
        case("no_stale_copy_to_and_fro_with_a_guest", Private, attributes::to_and_fro_with_a_guest),
        case("shared_only_private_files_cannot_be_mapped", Private, bound_at_birth::cannot_be_mapped),
    ]);
    cases
}

fn main() -> ExitCode {
    harness::main(&cases())
}

//! The fake kernel keeps the rules that the machine's kernel is asked about in `gmem/kvm/tests/lifecycle`.

use crate::port::{GmemUse, VmType};
use crate::testing::fake::FakeKernel;
use rules::Asked;

#[path = "../../tests/lifecycle/rules.rs"]
mod rules;

/// Asks about both kinds of VM, each time on a kernel of its own.
fn of_the_fake(rule: impl Fn(&Asked<'_, FakeKernel>)) {
    for (vm_type, gmem_use) in [
        (VmType::Default, GmemUse::HostShared),
        (VmType::SwProtected, GmemUse::Private),
        (VmType::Snp, GmemUse::Private),
    ] {
        let kernel = FakeKernel::default();
        rule(&Asked { kernel: &kernel, vm_type, gmem_use });
        assert!(kernel.is_empty(), "the rule left something open");
    }
}

#[test]
fn bound_at_birth_foreign_vm_is_refused() {
    of_the_fake(|asked| asked.foreign_vm_is_refused());
}

#[test]
fn bound_at_birth_sizes() {
    of_the_fake(|asked| asked.sizes());
}

#[test]
fn slots_keep_their_rules() {
    of_the_fake(|asked| asked.overlapping_frames());
    of_the_fake(|asked| asked.overlapping_file_ranges());
    of_the_fake(|asked| asked.bad_bindings());
    of_the_fake(|asked| asked.new_file_needs_a_new_slot());
}

#[test]
fn no_stale_copy_punching_needs_only_the_file() {
    of_the_fake(|asked| asked.punching());
}

#[test]
fn known_owner_attributes_by_the_frame() {
    of_the_fake(|asked| asked.attributes());
}

#[test]
fn pages_before_key_order_of_creation() {
    of_the_fake(|asked| asked.order_of_creation());
}

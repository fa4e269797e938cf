//! `tenure` end to end on a lab host, with the real KVM: guests boot in private memory, convert, carry data over
//! virtio-console and leave nothing behind.
//!
//! Cases run one after the other on one lab host of each bed. `TENURE_LONG_TESTS=1` makes many attempts of one; each
//! attempt is told with its times, and none is repeated.

mod attest;
mod channel;
#[path = "../common/mod.rs"]
mod common;
mod intel;
mod linux;
mod memory;
mod selftest;
mod stress;
mod told;

use std::process::ExitCode;

use common::bed::Bed;
use tenure_lab::Bed as LabBed;
use test_harness::Case;

const CASES: [Case<Bed>; 16] = [
    Case { name: "debian_kernel_all_private_1_vcpu", run: |bed| linux::on_one_vcpu(bed, linux::all_private) },
    Case { name: "debian_kernel_all_private_2_vcpus", run: |bed| linux::all_private(bed, 2) },
    Case {
        name: "debian_kernel_converts_by_itself_1_vcpu",
        run: |bed| linux::on_one_vcpu(bed, linux::converts_by_itself),
    },
    Case { name: "debian_kernel_converts_by_itself_2_vcpus", run: |bed| linux::converts_by_itself(bed, 2) },
    Case { name: "channel_to_a_relying_party", run: channel::to_a_relying_party },
    Case { name: "channel_to_nobody", run: channel::to_nobody },
    Case { name: "self_test_default", run: |bed| selftest::passes(bed, 1, &[]) },
    Case { name: "self_test_8_vcpus", run: |bed| selftest::passes(bed, 8, &[]) },
    Case { name: "self_test_6_gib", run: |bed| selftest::passes(bed, 2, &["--memory=6G"]) },
    Case { name: "guests_survive_floating_point_elsewhere", run: selftest::survives_floating_point_elsewhere },
    Case { name: "self_test_of_the_host", run: selftest::of_the_host },
    Case { name: "a_secret_for_the_expected_guest_only", run: attest::a_secret_for_the_expected_guest_only },
    Case { name: "memory_is_single_all_private", run: |bed| memory::is_single(bed, "none") },
    Case { name: "memory_is_single_with_shared_pages", run: |bed| memory::is_single(bed, "sev") },
    Case { name: "conversions_to_and_fro", run: |bed| stress::converts(bed, 300, 1_500) },
    Case { name: "conversions_to_and_fro_10000_times", run: stress::converts_10000_times },
];

/// The same guests on Intel's EPT, which is slower: those that tell whether they run at all.
const INTEL_CASES: [Case<Bed>; 5] = [
    Case { name: "intel_check_finds_it_capable", run: intel::check },
    Case { name: "intel_self_test_1_vcpu", run: |bed| selftest::passes(bed, 1, &[]) },
    Case { name: "intel_self_test_2_vcpus", run: |bed| selftest::passes(bed, 2, &[]) },
    Case { name: "intel_debian_kernel_all_private_1_vcpu", run: |bed| linux::on_one_vcpu(bed, linux::all_private) },
    Case { name: "intel_debian_kernel_all_private_2_vcpus", run: |bed| linux::all_private(bed, 2) },
];

fn main() -> ExitCode {
    let beds = [(LabBed::Amd, &CASES[..]), (LabBed::Intel, &INTEL_CASES[..])];
    let run = |(bed, cases): (LabBed, &[Case<Bed>])| test_harness::main(cases, || Bed::prepare(bed), Bed::discard_host);
    test_harness::all_of(&beds.map(run))
}

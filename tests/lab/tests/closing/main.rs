//! Closing order, proven by the host kernel's own trace on every path a run can take, and that nothing is left then.
//!
//! Law *pages-before-key*. Cases run one after the other on a lab host; after each run the trace, debugfs and the receipt
//! are looked at. The kernel is the newest of all, which guests elsewhere in these tests don't run on;
//! `TENURE_LONG_TESTS=1` adds the lab's own, and kills a hundred times instead of twelve; `TENURE_LAB_KERNEL` names the
//! one kernel to run on.

mod audit;
mod bench;
mod ends;
mod faults;
mod input;
mod kills;
mod lifecycle;
mod memory;
mod trace;
mod vmm;

use std::process::ExitCode;

use bench::Bench;
use tenure_lab::Kernel;
use test_harness::{Case, long};

const CASES: [Case<Bench>; 18] = [
    Case { name: "pages_before_key_wrong_order_is_noticed", run: lifecycle::wrong_order_is_noticed },
    Case { name: "lifecycle_tests_pass_on_this_kernel", run: lifecycle::all_pass },
    Case { name: "pages_before_key_normal_end", run: ends::normal_end },
    Case { name: "pages_before_key_guest_panics", run: ends::guest_panics },
    Case { name: "pages_before_key_guest_triple_faults", run: ends::guest_triple_faults },
    Case { name: "pages_before_key_asked_to_end", run: ends::asked_to_end },
    Case { name: "pages_before_key_two_at_once", run: ends::two_at_once },
    Case { name: "pages_before_key_launch_fails", run: faults::launch_fails },
    Case { name: "pages_before_key_running_fails", run: faults::running_fails },
    Case { name: "pages_before_key_vcpu_thread_panics", run: faults::vcpu_thread_panics },
    Case { name: "pages_before_key_main_thread_panics", run: faults::main_thread_panics },
    Case { name: "bound_at_birth_descriptor_numbers", run: ends::descriptor_numbers },
    Case { name: "audit_running_guests_are_no_finding", run: audit::running_guests_are_no_finding },
    Case { name: "audit_what_is_inherited_is_found", run: audit::what_is_inherited_is_found },
    Case { name: "audit_what_pins_without_running_is_found", run: audit::what_pins_without_running_is_found },
    Case { name: "pages_before_key_killed_at_random_moments", run: kills::at_random_moments },
    Case { name: "no_silent_trust_bad_input", run: input::bad_input },
    // Last: it is about all of them.
    Case { name: "pages_before_key_free_memory_is_back", run: memory::is_back },
];

fn main() -> ExitCode {
    let kernels = match Kernel::of_environment() {
        Some(one) => vec![one],
        None if long() => vec![Kernel::Newest, Kernel::named("sid/")],
        None => vec![Kernel::named("sid/")],
    };
    let run = |kernel| test_harness::main(&CASES, || Bench::prepare(kernel), Bench::recover);
    test_harness::all_of(&kernels.into_iter().map(run).collect::<Vec<_>>())
}

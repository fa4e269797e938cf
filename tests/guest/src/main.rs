//! `/init` of test guests.
//!
//! Mounts what it needs, reports what it sees, runs the tests the kernel command line asks for
//! ([`test_guest::request`]) and switches the guest off. As process 1 it never exits; started as anything else it only
//! does a worker's part of the `fork` test.
//!
//! Each line of its report is one write, starts with `guest: ` and a word that says what it is:
//!
//! - `guest: fact NAME VALUE` – something seen;
//! - `guest: test NAME ok DETAILS` or `guest: test NAME failed: REASON`;
//! - `guest: done ok` or `guest: done failed: TESTS` – the last line.
//!
//! The kernel's messages share the console, so a reader must look for `guest: ` anywhere in a line.

mod init;

use std::process::{ExitCode, id};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match (id(), arguments.next().as_deref(), arguments.next()) {
        (1, ..) => init::run(),
        (_, Some(init::fork::WORKER), Some(seed)) => init::fork::worker(&seed),
        _ => {
            eprintln!("test-guest: this is the init of test guests; it does nothing on a running system");
            ExitCode::FAILURE
        }
    }
}

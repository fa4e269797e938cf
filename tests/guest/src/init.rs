//! The life of process 1.

mod doorbell;
mod facts;
pub(crate) mod fork;
mod kernel_log;
mod report;
mod tests;

use report::say;
use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, reboot};
use std::thread;
use std::time::Duration;
use test_guest::request::{End, Request};

/// Marks a guest rings on the VMM's doorbell.
const MARK_USER_SPACE: u32 = 1;
const MARK_END: u32 = 2;

/// Everything process 1 does.
pub(crate) fn run() -> ! {
    std::panic::set_hook(Box::new(|panic| {
        say(&format!("done failed: {panic}"));
        finish(End::PowerOff);
    }));
    mount_all();
    doorbell::mark(MARK_USER_SPACE);
    facts::report();
    let line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let end = match Request::from_command_line(&line) {
        Ok(request) => {
            let failed: Vec<&str> =
                request.tests.iter().filter(|test| !tests::run(test)).map(|t| t.kind.name()).collect();
            facts::interrupts();
            match failed.as_slice() {
                [] => say("done ok"),
                failed => say(&format!("done failed: {}", failed.join(","))),
            }
            request.end
        }
        Err(error) => {
            say(&format!("done failed: {error}"));
            End::default()
        }
    };
    doorbell::mark(MARK_END);
    finish(end)
}

/// Mounts the kernel's file systems. A kernel without one of them still gets its guest: what depends on it reports
/// that it is missing.
fn mount_all() {
    let flags = MountFlags::NOSUID;
    for (kind, target) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/tmp")] {
        // A kernel may have mounted devtmpfs itself.
        match mount(kind, target, kind, flags, None) {
            Ok(()) | Err(rustix::io::Errno::BUSY) => {}
            Err(error) => say(&format!("fact missing {target} {error}")),
        }
    }
}

fn finish(end: End) -> ! {
    report::drain();
    rustix::fs::sync();
    let command = match end {
        End::PowerOff => RebootCommand::PowerOff,
        End::Reboot => RebootCommand::Restart,
        End::Halt => RebootCommand::Halt,
    };
    let result = reboot(command);
    loop {
        // Only reached if the kernel refused; process 1 must not end.
        say(&format!("fact {command:?} failed {result:?}"));
        thread::sleep(Duration::from_secs(3600));
    }
}

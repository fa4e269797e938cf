//! The report on the console.

use std::io::{Write, stdout};

/// Prints one line of the report with one write.
pub(super) fn say(line: &str) {
    // Nobody could be told about a console that does not work.
    let _ = stdout().write_all(format!("guest: {line}\n").as_bytes());
    let _ = stdout().flush();
}

/// Waits until the console has taken everything.
pub(super) fn drain() {
    let _ = rustix::termios::tcdrain(stdout());
}

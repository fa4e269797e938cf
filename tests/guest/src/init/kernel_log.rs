//! The kernel's log.

use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, read};

/// Longest record the kernel hands out.
const RECORD_MAX: usize = 8192;

/// All messages in the kernel's buffer, oldest first, without their prefixes. Empty on a kernel without `/dev/kmsg`.
pub(super) fn lines() -> Vec<String> {
    let mut lines = Vec::new();
    let Ok(log) = open("/dev/kmsg", OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()) else { return lines };
    let mut record = [0; RECORD_MAX];
    loop {
        match read(&log, &mut record) {
            Ok(0) => return lines,
            // "priority,sequence,time,flags;message", then continuation lines that start with a blank.
            Ok(len) => {
                let text = String::from_utf8_lossy(&record[..len]);
                let message = text.split_once(';').map_or(&*text, |(_, message)| message);
                lines.extend(message.lines().next().map(str::to_owned));
            }
            // Records were overwritten while we read; the next read goes on behind them.
            Err(Errno::PIPE | Errno::INTR) => {}
            Err(_) => return lines,
        }
    }
}

//! The lab host's first process and its agent: mounts what programs expect, then runs commands
//! and moves files for the other side of its virtio-serial port.
//!
//! Owns: the lab host's user space. Does not own: the wire format ([`lab_agent::proto`]).
//!
//! Two processes: process 1 reaps whatever is orphaned and must wait for just any child, so the
//! agent proper is its child and can wait for its own in peace.
#![forbid(unsafe_code)]

mod init;
mod program;
mod serve;

use std::ffi::OsString;

/// What process 1 starts: the agent proper.
const SERVE: &str = "serve";
/// What the agent starts for a command with a control group.
const IN_CGROUP: &str = "in-cgroup";

fn main() {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let result = match &args[..] {
        [verb] if verb == SERVE => serve::serve(),
        [verb, cgroup, program, args @ ..] if verb == IN_CGROUP => program::become_in_cgroup(cgroup, program, args),
        _ if rustix::process::getpid().is_init() => init::init(),
        _ => Err(anyhow::anyhow!("the lab's agent runs as the first process of a lab host")),
    };
    if let Err(error) = result {
        eprintln!("lab agent: {error:#}");
        std::process::exit(1);
    }
}

//! Process 1 of the lab host.
//!
//! Owns: mounts, reaping, and that the machine ends with the agent.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};
use rustix::mount::{MountFlags, mount};
use rustix::process::{WaitOptions, wait};
use rustix::system::{RebootCommand, reboot};

use crate::SERVE;

/// Process 1: prepare, start the agent, reap; the machine ends with the agent.
pub(crate) fn init() -> Result<()> {
    let result = prepare().and_then(|()| reap());
    if let Err(error) = &result {
        eprintln!("lab init: {error:#}");
    }
    rustix::fs::sync();
    // A serial console is slower than the end.
    let _ = rustix::termios::tcdrain(std::io::stderr());
    reboot(RebootCommand::PowerOff).context("power off")
}

fn prepare() -> Result<()> {
    let mounts = [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("tmpfs", "/dev/shm"),
        ("devpts", "/dev/pts"),
        ("tmpfs", "/tmp"),
        ("tmpfs", "/run"),
        ("cgroup2", "/sys/fs/cgroup"),
        ("debugfs", "/sys/kernel/debug"),
        ("tracefs", "/sys/kernel/tracing"),
    ];
    for (kind, place) in mounts {
        fs::create_dir_all(place).with_context(|| format!("create {place}"))?;
        mount(kind, place, kind, MountFlags::empty(), None).with_context(|| format!("mount {kind} on {place}"))?;
    }
    fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory").context("enable the memory controller")
}

fn reap() -> Result<()> {
    let agent = Command::new("/proc/self/exe").arg(SERVE).spawn().context("start the agent")?;
    let agent = agent.id();
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_nonzero().get().unsigned_abs() == agent => {
                bail!("the agent ended: {status:?}");
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("wait for a child"),
        }
    }
}

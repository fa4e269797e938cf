//! Process 1 of the lab host.
//!
//! Owns: mounts, the loopback device, reaping, and that the machine ends with the agent.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};
use rustix::mount::{MountFlags, mount};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, sendto, socket_with};
use rustix::process::{WaitOptions, wait};
use rustix::system::{RebootCommand, reboot};

use crate::SERVE;

/// The loopback device is always the first.
const LOOPBACK: i32 = 1;
/// `RTM_NEWLINK`, `NLM_F_REQUEST` and `IFF_UP` (rtnetlink(7), netlink(7), netdevice(7)).
const RTM_NEWLINK: u16 = 16;
const NLM_F_REQUEST: u16 = 1;
const IFF_UP: u32 = 1;

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
    fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory").context("enable the memory controller")?;
    switch_loopback_on().context("switch the loopback device on")
}

/// A header without flags but "request", and `struct ifinfomsg`. The device gets its address, 127.0.0.1, by itself.
fn switch_loopback_on() -> Result<()> {
    let mut message = Vec::new();
    message.extend(32u32.to_ne_bytes());
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([0; 4]);
    message.extend(LOOPBACK.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes());
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    // The kernel acts on it before this returns.
    sendto(&socket, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    Ok(())
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

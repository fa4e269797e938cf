//! What the kernel itself says of this process's VMs.
//!
//! KVM has a directory in debugfs for each VM that exists, named by the thread that made it and its descriptor
//! (`kvm_create_vm_debugfs` in Linux 7.2, `virt/kvm/kvm_main.c`); it goes when the VM is destroyed, not when its
//! descriptor is closed. So it shows a VM that something else still pins. Only root can look, and only where debugfs is
//! mounted; the thread's number is the one outside of all PID namespaces. A VM whose thread has ended is not recognised.

use std::fs;
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// Where the kernel lists its VMs.
pub const KVM_DEBUGFS: &str = "/sys/kernel/debug/kvm";

/// VMs of this process in the kernel's own list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelsList {
    /// Its entries: `PID-DESCRIPTOR`.
    Vms(Vec<String>),
    /// It cannot be read.
    Unknown {
        /// Why.
        reason: String,
    },
}

/// How long a VM may take to go after its last descriptor: workers of the kernel's hold it while they are at it.
const PATIENCE: Duration = Duration::from_millis(200);
const BETWEEN: Duration = Duration::from_millis(5);

/// Looks at the kernel's list, until it is empty or has not become so for a while.
pub fn vms_left() -> KernelsList {
    let started = Instant::now();
    loop {
        match vms_of_this_process() {
            KernelsList::Vms(vms) if !vms.is_empty() && started.elapsed() < PATIENCE => thread::sleep(BETWEEN),
            list => return list,
        }
    }
}

fn vms_of_this_process() -> KernelsList {
    match fs::read_to_string("/proc/self/status") {
        Ok(status) if outermost_pid_namespace(&status) => {}
        Ok(_) => {
            let reason = "this process has another number there: it is in a PID namespace".to_owned();
            return KernelsList::Unknown { reason };
        }
        Err(error) => return KernelsList::Unknown { reason: format!("/proc/self/status: {error}") },
    }
    match threads() {
        Ok(threads) => vms_in(Path::new(KVM_DEBUGFS), &threads),
        Err(error) => KernelsList::Unknown { reason: format!("/proc/self/task: {error}") },
    }
}

/// The threads of this process, by number.
fn threads() -> io::Result<Vec<u32>> {
    let entries = fs::read_dir("/proc/self/task")?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().parse().unwrap_or(0))).collect()
}

fn vms_in(directory: &Path, threads: &[u32]) -> KernelsList {
    let list = || -> io::Result<Vec<String>> {
        let mut vms = Vec::new();
        for entry in fs::read_dir(directory)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name
                .split_once('-')
                .is_some_and(|(owner, _)| owner.parse().is_ok_and(|thread| threads.contains(&thread)))
            {
                vms.push(name);
            }
        }
        vms.sort();
        Ok(vms)
    };
    match list() {
        Ok(vms) => KernelsList::Vms(vms),
        Err(error) => KernelsList::Unknown { reason: format!("{}: {error}", directory.display()) },
    }
}

/// `NSpid` in `/proc/PID/status` has a number for each namespace the process is in, the outermost that is visible first. A
/// kernel without such namespaces has no such line.
fn outermost_pid_namespace(status: &str) -> bool {
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    numbers.is_none_or(|numbers| numbers.split_ascii_whitespace().count() == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_process_and_only_vms() {
        let root = tempfile::tempdir().unwrap();
        for name in ["77-4", "77-12", "7-4", "777-4", "77x-4"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        // Statistics of all VMs lie beside them.
        fs::write(root.path().join("exits"), "0").unwrap();
        assert_eq!(vms_in(root.path(), &[77]), KernelsList::Vms(vec!["77-12".into(), "77-4".into()]));
        assert_eq!(vms_in(root.path(), &[8]), KernelsList::Vms(Vec::new()));
    }

    #[test]
    fn the_outermost_namespace_is_told_from_others() {
        let status = |lines: &str| format!("Name:\ttenure\nNgid:\t0\n{lines}Threads:\t1\n");
        assert!(outermost_pid_namespace(&status("NSpid:\t77\n")));
        assert!(outermost_pid_namespace(&status("")));
        assert!(!outermost_pid_namespace(&status("NSpid:\t77\t1\n")));
    }

    /// no-silent-trust: what cannot be looked at is not taken for nothing.
    #[test]
    fn no_silent_trust_unreadable_is_not_nothing() {
        let root = tempfile::tempdir().unwrap();
        let missing = root.path().join("kvm");
        assert!(matches!(vms_in(&missing, &[1]), KernelsList::Unknown { reason } if reason.contains("No such file")));
    }
}

//! What this process still holds of any VM, read from `/proc/self`, and the kernel's names for such things.
//!
//! Evidence for a teardown receipt: it looks at what the kernel says is open and mapped, not at what we think we
//! closed. The same names ([`recognise`]) tell an audit of other processes what it sees. A VM is pinned by its own
//! descriptor, by vCPU, device and stats descriptors, by guest_memfd descriptors and by mappings of any of them (Linux
//! 7.2, `virt/kvm/kvm_main.c` and `guest_memfd.c`).

pub mod debugfs;

use std::fs;
use std::io;

/// A descriptor or mapping that pins a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// What the kernel calls it: the link target, or the mapping's name.
    pub name: String,
    /// Where: `fd 7`, or the mapped addresses.
    pub place: String,
}

/// Something that pins a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Object {
    /// The VM itself.
    Vm,
    /// A vCPU, or the mapping of its `kvm_run`.
    Vcpu,
    /// A guest_memfd.
    GuestMemfd,
    /// A device of the VM, or the statistics of it or of a vCPU.
    Other,
}

/// What the kernel calls a guest_memfd, in brackets; which of them depends on its version.
pub const GUEST_MEMFD_NAMES: [&str; 2] = ["guest_memfd", "kvm-gmem"];

/// Everything this process holds that pins a VM. A place that cannot be read counts as something held: what is not
/// known is not shown as nothing.
pub fn held_by_this_process() -> Vec<Held> {
    let mut held = descriptors("/proc/self/fd").unwrap_or_else(|error| unknown("/proc/self/fd", &error));
    match fs::read_to_string("/proc/self/maps") {
        Ok(maps) => held.extend(mappings(&maps)),
        Err(error) => held.extend(unknown("/proc/self/maps", &error)),
    }
    held
}

fn unknown(place: &str, error: &io::Error) -> Vec<Held> {
    vec![Held { name: format!("unknown: {error}"), place: place.to_owned() }]
}

fn descriptors(directory: &str) -> io::Result<Vec<Held>> {
    let mut held = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        // The descriptor this listing is read through is gone by then, and so may be those of other threads.
        let Ok(link) = fs::read_link(entry.path()) else { continue };
        let name = link.to_string_lossy().into_owned();
        if pins_a_vm(&name) {
            held.push(Held { name, place: format!("fd {}", entry.file_name().to_string_lossy()) });
        }
    }
    Ok(held)
}

fn mappings(maps: &str) -> Vec<Held> {
    maps.lines()
        .filter_map(|line| {
            // address perms offset device inode name
            let mut fields = line.split_ascii_whitespace();
            let place = fields.next()?.to_owned();
            let name = fields.skip(4).collect::<Vec<_>>().join(" ");
            pins_a_vm(&name).then_some(Held { name, place })
        })
        .collect()
}

fn pins_a_vm(name: &str) -> bool {
    recognise(name).is_some()
}

/// What pins a VM under this `/proc` link or mapping name, if anything does: `kvm-vm`, `kvm-vcpu:0`, `kvm-vm-stats`,
/// `kvm-vcpu-stats:0`, `kvm-vfio` and other devices, `[kvm-gmem]`, `[guest_memfd]`. Those are names of no file system:
/// an anonymous inode's, or bare.
pub fn recognise(name: &str) -> Option<Object> {
    let bare = match name.strip_prefix("anon_inode:") {
        Some(bare) => bare.trim_start_matches('['),
        None => name.strip_prefix("/[")?,
    };
    if GUEST_MEMFD_NAMES.iter().any(|known| bare.starts_with(known)) {
        Some(Object::GuestMemfd)
    } else if bare == "kvm-vm" {
        Some(Object::Vm)
    } else if bare.starts_with("kvm-vcpu:") {
        Some(Object::Vcpu)
    } else if bare.starts_with("kvm-") || bare.starts_with("kvm_") {
        Some(Object::Other)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_names_of_all_versions_are_known() {
        for name in ["anon_inode:kvm-vm", "anon_inode:kvm-vcpu:0", "anon_inode:[kvm-gmem]", "/[guest_memfd]"] {
            assert!(pins_a_vm(name), "{name}");
        }
        for name in ["anon_inode:kvm-vm-stats", "anon_inode:kvm-vcpu-stats:3", "anon_inode:kvm-vfio"] {
            assert!(pins_a_vm(name), "{name}");
        }
        for name in
            ["/dev/kvm", "/memfd:tenure-ram-shared (deleted)", "anon_inode:[eventfd]", "socket:[77]", "/kvm-notes"]
        {
            assert!(!pins_a_vm(name), "{name}");
        }
    }

    #[test]
    fn objects_are_told_apart() {
        let objects = ["anon_inode:kvm-vm", "anon_inode:kvm-vcpu:12", "anon_inode:kvm-vcpu-stats:1"].map(recognise);
        assert_eq!(objects, [Some(Object::Vm), Some(Object::Vcpu), Some(Object::Other)]);
        let memory = ["anon_inode:[kvm-gmem]", "anon_inode:[guest_memfd]", "/[guest_memfd]", "/[kvm-gmem]"];
        assert_eq!(memory.map(recognise), [Some(Object::GuestMemfd); 4]);
    }

    /// no-silent-trust: what cannot be looked at is not taken for nothing.
    #[test]
    fn no_silent_trust_unreadable_is_not_nothing() {
        let error = descriptors("/nonexistent").unwrap_err();
        assert_eq!(unknown("/proc/self/fd", &error)[0].place, "/proc/self/fd");
    }

    #[test]
    fn mappings_are_found_by_name() {
        let maps = "7f00-7f03 rw-s 00000000 00:0e 1057 anon_inode:kvm-vcpu:0\n55-56 r-xp 0 08:01 2 /bin/true\n";
        let expected = Held { name: "anon_inode:kvm-vcpu:0".into(), place: "7f00-7f03".into() };
        assert_eq!(mappings(maps), vec![expected]);
    }
}

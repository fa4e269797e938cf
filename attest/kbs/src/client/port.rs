//! Channels that a guest's host gives it, found by their names.
//!
//! Owns the search: Linux has a directory for each port of a virtio-console, with the port's name in a file, and a device
//! of the directory's name. Specification: Linux, `drivers/char/virtio_console.c`.

use std::fs;
use std::path::{Path, PathBuf};

/// Leads to the guest's relying party.
pub const RELYING_PARTY: &str = "tenure.relying-party";
/// Tells a guest whose reports hardware signs what it was launched as.
pub const LAUNCH_LOG: &str = "tenure.launch-log";
/// Leads to whoever signs for guests in software.
pub const TEST_EVIDENCE: &str = "tenure.evidence";

/// Where Linux has them.
pub const PORTS: &str = "/sys/class/virtio-ports";
/// Where their devices are.
pub const DEVICES: &str = "/dev";

/// The device of the port with this name, if this guest has one.
#[must_use]
pub fn named(name: &str) -> Option<PathBuf> {
    named_in(PORTS.as_ref(), DEVICES.as_ref(), name)
}

fn named_in(ports: &Path, devices: &Path, name: &str) -> Option<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(ports)
        .ok()?
        .filter_map(Result::ok)
        .filter(|port| fs::read_to_string(port.path().join("name")).is_ok_and(|said| said.trim_end() == name))
        .map(|port| devices.join(port.file_name()))
        .collect();
    // Names should be one port's only; at least it is always the same one.
    found.sort();
    found.into_iter().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_found_by_their_names() {
        let dir = tempfile::tempdir().unwrap();
        for (port, name) in [("vport1p0", Some("other\n")), ("vport1p2", Some("wanted\n")), ("vport1p1", None)] {
            fs::create_dir(dir.path().join(port)).unwrap();
            if let Some(name) = name {
                fs::write(dir.path().join(port).join("name"), name).unwrap();
            }
        }
        let find = |name| named_in(dir.path(), "/dev".as_ref(), name);
        assert_eq!(find("wanted"), Some("/dev/vport1p2".into()));
        assert_eq!(find("want"), None);
        assert_eq!(named_in(&dir.path().join("none"), "/dev".as_ref(), "wanted"), None);
    }
}

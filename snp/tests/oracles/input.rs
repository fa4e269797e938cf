//! What is measured: a guest, by everything that its launch digest depends on.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::firmware::Firmware;
use crate::random::Random;

/// Inputs of which answers are kept.
pub(crate) const INPUTS: u32 = 500;
/// Names that both tools know.
const VCPU_TYPES: [&str; 16] = [
    "EPYC",
    "EPYC-v1",
    "EPYC-v2",
    "EPYC-IBPB",
    "EPYC-v3",
    "EPYC-v4",
    "EPYC-Rome",
    "EPYC-Rome-v1",
    "EPYC-Rome-v2",
    "EPYC-Rome-v3",
    "EPYC-Milan",
    "EPYC-Milan-v1",
    "EPYC-Milan-v2",
    "EPYC-Genoa",
    "EPYC-Genoa-v1",
    "EPYC-Turin",
];

pub(crate) struct Input {
    pub(crate) image: Vec<u8>,
    pub(crate) boot: Option<Boot>,
    pub(crate) vcpus: u32,
    pub(crate) vcpu_type: &'static str,
    pub(crate) features: u64,
    /// As `sev-snp-measure` calls it.
    pub(crate) vmm: &'static str,
}

/// What is started directly.
pub(crate) struct Boot {
    pub(crate) kernel: Vec<u8>,
    pub(crate) initrd: Option<Vec<u8>>,
    pub(crate) cmdline: Option<String>,
}

impl Input {
    pub(crate) fn any(number: u32) -> Self {
        let random = &mut Random::new(0x7e40_0e00_0000_0000 | u64::from(number));
        let image = Firmware::any(random).image();
        let boot = (!random.once_in(3)).then(|| Boot {
            kernel: file(random),
            initrd: (!random.once_in(3)).then(|| file(random)),
            cmdline: (!random.once_in(4)).then(|| cmdline(random)),
        });
        let bits = random.word() | 1;
        Self {
            image,
            boot,
            vcpus: random.number(1, 64),
            vcpu_type: random.one_of(&VCPU_TYPES),
            features: random.one_of(&[0x1, 0x21, bits]),
            vmm: random.one_of(&["QEMU", "ec2", "gce"]),
        }
    }

    /// SHA-256 of all of it: another answer is expected of another input.
    pub(crate) fn sum(&self) -> String {
        let rest = format!("{} {} {:#x} {}", self.vcpus, self.vcpu_type, self.features, self.vmm);
        let (kernel, initrd, cmdline) = match &self.boot {
            Some(boot) => (Some(&boot.kernel[..]), boot.initrd.as_deref(), boot.cmdline.as_deref()),
            None => (None, None, None),
        };
        let mut hash = Sha256::new();
        for part in [Some(&self.image[..]), kernel, initrd, cmdline.map(str::as_bytes), Some(rest.as_bytes())] {
            hash.update([u8::from(part.is_some())]);
            hash.update((part.unwrap_or_default().len() as u64).to_le_bytes());
            hash.update(part.unwrap_or_default());
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The files it is made of, for tools that want files: the firmware, the kernel, the RAM disk.
    pub(crate) fn write(&self, directory: &Path, name: &str) -> (PathBuf, Option<PathBuf>, Option<PathBuf>) {
        let write = |what: &str, bytes: &[u8]| {
            let path = directory.join(format!("{name}.{what}"));
            fs::write(&path, bytes).unwrap();
            path
        };
        let boot = self.boot.as_ref();
        let initrd = boot.and_then(|boot| boot.initrd.as_deref());
        let files = (
            write("fd", &self.image),
            boot.map(|boot| write("kernel", &boot.kernel)),
            initrd.map(|initrd| write("initrd", initrd)),
        );
        let description = json!({
            "input": self.sum(),
            "kernel": boot.is_some(),
            "initrd": initrd.is_some(),
            "cmdline": boot.and_then(|boot| boot.cmdline.as_deref()),
            "vcpus": self.vcpus,
            "vcpu_type": self.vcpu_type,
            "guest_features": self.features,
            "vmm": self.vmm,
        });
        write("json", description.to_string().as_bytes());
        files
    }
}

fn file(random: &mut Random) -> Vec<u8> {
    let bytes = if random.once_in(6) { 0 } else { random.size(1, 20_000) };
    random.bytes(bytes)
}

/// What people write, what they should not have written, and nothing.
fn cmdline(random: &mut Random) -> String {
    const LETTERS: [char; 20] =
        ['a', 'e', 'n', 'r', 't', '0', '1', '=', ',', '/', '.', '-', '"', '\\', ' ', ' ', '\t', 'é', '€', '𝄞'];
    let mut text: String = (0..random.number(0, 60)).map(|_| random.one_of(&LETTERS)).collect();
    if random.once_in(4) {
        text.push_str(random.one_of(&[" ", "\n", "\t "]));
    }
    text
}

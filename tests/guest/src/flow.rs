//! A guest that asks for a key, and guests that are not quite that guest.
//!
//! Owns what is on board: the program that asks, the payload that the key opens, a note that nobody reads; how one byte of
//! all that, or of the firmware, is changed, so that a relying party has something to refuse; and what everybody's command
//! line is ([`Scene`]). Who starts them, and where, is no business of this module: the lab's tests and `cargo xtask run
//! --attest` do.

use guest_fw::abi::{ABI_VERSION, IMAGE_MAGIC, ImageHeader};
use zerocopy::FromBytes;

use crate::payload::{self, KEY_BYTES, PayloadError, RESOURCE};
use crate::{File, initrd_with};

/// Where a guest has `tenure`.
pub const TENURE: &str = "/bin/tenure";
/// What the payload says.
pub const TEXT: &str = "what the disk holds";
/// A file of which a byte can be changed, and nothing is different for the guest.
const NOTE: File<'static> = File { path: "/etc/note", mode: 0o644, contents: b"this is a note that nobody reads\n" };
/// In the firmware's image, the same.
const MESSAGE: &[u8] = b"the kernel is truncated";

/// What the test's root stands in for.
pub const PRODUCT: &str = "genoa";
/// Where the relying party listens.
const RELYING_PARTY: &str = "127.0.0.1:8080";
const CMDLINE: &str = "console=ttyS0 reboot=k panic=-1 quiet tenure.test=attest";

/// Where things are while a guest asks for its key: below a directory of that place.
#[derive(Debug, Clone, Copy)]
pub struct Scene<'a> {
    /// The directory.
    pub dir: &'a str,
    /// The guest's kernel.
    pub kernel: &'a str,
    /// Who asks, and what is launched.
    pub tenure: &'a str,
}

/// A guest of which one byte differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Other {
    /// In its RAM disk.
    Initrd,
    /// In its command line.
    Cmdline,
    /// In its firmware.
    Firmware,
}

impl Other {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Initrd, Self::Cmdline, Self::Firmware];

    /// What the relying party calls it.
    pub const fn item(self) -> &'static str {
        match self {
            Self::Initrd => "initrd",
            Self::Cmdline => "command line",
            Self::Firmware => "firmware",
        }
    }
}

impl Scene<'_> {
    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.dir)
    }

    /// Where a file of the test's root goes.
    pub fn of_root(&self, name: &str) -> String {
        self.path(&format!("root/{name}"))
    }

    /// Where the key goes.
    pub fn key(&self) -> String {
        self.path(&format!("resources/{RESOURCE}"))
    }

    /// Where the prediction goes.
    pub fn expected(&self) -> String {
        self.path("expected.json")
    }

    /// Where the RAM disk goes.
    pub fn initrd(&self) -> String {
        self.path("initrd")
    }

    /// Where the other one goes.
    pub fn other_initrd(&self) -> String {
        self.path("initrd-other")
    }

    /// Where the `tenure` with another firmware goes.
    pub fn other_tenure(&self) -> String {
        self.path("tenure-other")
    }

    /// What predicts the launch: its output is the prediction.
    pub fn predict(&self) -> Vec<String> {
        let guest = self.guest(self.initrd(), CMDLINE.to_owned());
        words(&["measure", "sw"]).chain(guest).chain(words(&["--trace", "--json"])).collect()
    }

    /// The relying party. It says where it listens once it does.
    pub fn serve(&self) -> Vec<String> {
        let options = [
            ("--listen", RELYING_PARTY.to_owned()),
            ("--resources", self.path("resources")),
            ("--state", self.path("state")),
            ("--launch-digest", self.expected()),
            ("--test-root", self.of_root("ark.der")),
            ("--allow-test-root", PRODUCT.to_owned()),
        ];
        words(&["attest", "serve"]).chain(given(options)).collect()
    }

    /// The program and its arguments, without `run`, of the expected guest or another one.
    pub fn run(&self, other: Option<Other>) -> (String, Vec<String>) {
        let initrd = if other == Some(Other::Initrd) { self.other_initrd() } else { self.initrd() };
        let cmdline =
            if other == Some(Other::Cmdline) { CMDLINE.replace("quiet", "quiex") } else { CMDLINE.to_owned() };
        let options = [
            ("--tee", "sw".to_owned()),
            ("--test-root", self.path("root")),
            ("--relying-party", RELYING_PARTY.to_owned()),
        ];
        let tenure = if other == Some(Other::Firmware) { self.other_tenure() } else { self.tenure.to_owned() };
        (tenure, given(options).chain(self.guest(initrd, cmdline)).collect())
    }

    /// It has no network, and devices reach only what it shares: so it must share by itself.
    fn guest(&self, initrd: String, cmdline: String) -> impl Iterator<Item = String> + use<> {
        given([
            ("--guise", "sev".to_owned()),
            ("--kernel", self.kernel.to_owned()),
            ("--initrd", initrd),
            ("--cmdline", cmdline),
        ])
    }
}

fn words(words: &'static [&'static str]) -> impl Iterator<Item = String> {
    words.iter().map(|&word| word.to_owned())
}

fn given<const N: usize>(options: [(&'static str, String); N]) -> impl Iterator<Item = String> {
    options.into_iter().flat_map(|(name, value)| [name.to_owned(), value])
}

/// Why there is no such guest.
#[derive(Debug, thiserror::Error)]
pub enum FlowError {
    /// The payload.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// The archive.
    #[error(transparent)]
    Archive(#[from] initramfs::Error),
    /// There is nothing to change.
    #[error("{0} has no byte that could be changed")]
    Unchangeable(&'static str),
}

/// An initial RAM disk with `init` as `/init`, the `tenure` that asks, and a payload that only `key` opens.
pub fn initrd(init: &[u8], tenure: &[u8], key: &[u8; KEY_BYTES]) -> Result<Vec<u8>, FlowError> {
    // One key, one payload: a fixed nonce is used once.
    let sealed = payload::seal(key, [0; 12], TEXT.as_bytes())?;
    let tenure = File { path: TENURE, mode: 0o755, contents: tenure };
    let payload = File { path: payload::PATH, mode: 0o600, contents: &sealed };
    Ok(initrd_with(init, &[tenure, payload, NOTE])?)
}

/// The same RAM disk with one byte changed that nobody reads.
pub fn changed_initrd(mut initrd: Vec<u8>) -> Result<Vec<u8>, FlowError> {
    let at = find(&initrd, NOTE.contents).ok_or(FlowError::Unchangeable("the RAM disk"))?;
    initrd[at] ^= 1;
    Ok(initrd)
}

/// The same `tenure` with one byte of its firmware changed.
pub fn changed_firmware(mut tenure: Vec<u8>) -> Result<Vec<u8>, FlowError> {
    let magic = IMAGE_MAGIC.to_le_bytes();
    let images = tenure.windows(magic.len()).enumerate().filter(|(_, window)| *window == magic);
    let text = images.filter_map(|(start, _)| {
        let (header, _) = ImageHeader::read_from_prefix(&tenure[start..]).ok()?;
        let image = tenure[start..].get(..usize::try_from(header.image_len).ok()?)?;
        Some(start + find(image, MESSAGE).filter(|_| header.version == ABI_VERSION)?)
    });
    let at = { text }.next().ok_or(FlowError::Unchangeable("the program's firmware"))?;
    tenure[at] ^= 1;
    Ok(tenure)
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn differing(a: &[u8], b: &[u8]) -> usize {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b).filter(|(a, b)| a != b).count()
    }

    #[test]
    fn one_byte_is_changed() {
        let initrd = initrd(b"init", b"tenure", &[1; 32]).unwrap();
        assert_eq!(differing(&initrd, &changed_initrd(initrd.clone()).unwrap()), 1);
        let header = |version| ImageHeader {
            magic: IMAGE_MAGIC,
            version,
            image_len: 100,
            ..ImageHeader::read_from_bytes(&[0; 40]).unwrap()
        };
        let image = |version| {
            let mut image = zerocopy::IntoBytes::as_bytes(&header(version)).to_vec();
            image.extend(MESSAGE);
            image.resize(100, 0);
            image
        };
        let program = [MESSAGE, b"TENUREFW and so on", &image(ABI_VERSION + 1), &image(ABI_VERSION)].concat();
        let changed = changed_firmware(program.clone()).unwrap();
        assert_eq!(differing(&program, &changed), 1);
        let first = program.len() - 100;
        assert_eq!(changed[..first], program[..first], "only of the image");
        assert!(changed_firmware(b"no firmware".to_vec()).is_err());
    }
}

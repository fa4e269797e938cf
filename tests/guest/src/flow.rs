//! A guest that asks for a key, and guests that are not quite that guest.
//!
//! Owns what is on board: the program that asks, the payload that the key opens, a note that nobody reads; and how one
//! byte of all that, or of the firmware, is changed, so that a relying party has something to refuse.

use guest_fw::abi::{ABI_VERSION, IMAGE_MAGIC, ImageHeader};
use zerocopy::FromBytes;

use crate::payload::{self, KEY_BYTES, PayloadError};
use crate::{File, initrd_with};

/// Where a guest has `tenure`.
pub const TENURE: &str = "/bin/tenure";
/// What the payload says.
pub const TEXT: &str = "what the disk holds";
/// A file of which a byte can be changed, and nothing is different for the guest.
const NOTE: File<'static> = File { path: "/etc/note", mode: 0o644, contents: b"this is a note that nobody reads\n" };
/// In the firmware's image, the same.
const MESSAGE: &[u8] = b"the kernel is truncated";

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

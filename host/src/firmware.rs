//! The firmware image that is part of this program, and what its header says.
//!
//! Owns the reading of the header; its meaning is `guest_fw::abi`. The image is made by this package's `build.rs`.

use gmem::layout;
use guest_fw::abi::{self, ABI_VERSION, FW_BASE, FW_END, IMAGE_MAGIC, ImageHeader};
use zerocopy::FromBytes;

// Neither crate knows the other; what both name must be the same.
const _: () = {
    assert!(abi::PAGE_SIZE == gmem::PAGE_SIZE);
    assert!(abi::FALLBACK_SERIAL_PORT == layout::SERIAL_PORT);
    assert!(abi::SERIAL_GSI as u32 == layout::SERIAL_GSI);
    assert!(abi::PM1A_EVENT_PORT == layout::PM1A_EVENT_PORT);
    assert!(abi::PM1A_CONTROL_PORT == layout::PM1A_CONTROL_PORT);
    assert!(abi::RESET_PORT == layout::RESET_PORT);
    assert!(abi::SCI_GSI as u32 == layout::SCI_GSI);
    assert!(abi::PCI_ADDRESS_PORT == layout::PCI_ADDRESS_PORT);
    assert!(layout::PCI_DATA_PORT == layout::PCI_ADDRESS_PORT + 4);
};

/// A firmware image whose header was checked.
#[derive(Debug, Clone, Copy)]
pub struct FirmwareImage<'a> {
    bytes: &'a [u8],
    header: ImageHeader,
}

/// What is wrong with a firmware image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FirmwareError {
    /// Too short for a header.
    #[error("firmware image has {0} bytes, too few for a header")]
    Short(usize),
    /// Something else.
    #[error("firmware image magic is {0:#x}, expected {IMAGE_MAGIC:#x}")]
    Magic(u64),
    /// Of another time.
    #[error("firmware image version is {0}, expected {ABI_VERSION}")]
    Version(u32),
    /// A size or offset that cannot be.
    #[error("firmware image field {field} is {value:#x}, more than {limit:#x}")]
    Field {
        /// Its name in [`ImageHeader`].
        field: &'static str,
        /// What it holds.
        value: u64,
        /// The most it may hold.
        limit: u64,
    },
    /// The header's length is not the image's.
    #[error("firmware image field image_len is {field:#x}, but there are {actual:#x} bytes")]
    Length {
        /// What the header says.
        field: u64,
        /// What there is.
        actual: u64,
    },
}

/// The image this program was built with.
pub fn image() -> Result<FirmwareImage<'static>, FirmwareError> {
    FirmwareImage::parse(include_bytes!(concat!(env!("OUT_DIR"), "/fw.bin")))
}

impl<'a> FirmwareImage<'a> {
    /// Reads and checks an image's header.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, FirmwareError> {
        let (header, _) = ImageHeader::read_from_prefix(bytes).map_err(|_| FirmwareError::Short(bytes.len()))?;
        if header.magic != IMAGE_MAGIC {
            return Err(FirmwareError::Magic(header.magic));
        }
        if header.version != ABI_VERSION {
            return Err(FirmwareError::Version(header.version));
        }
        let actual = bytes.len() as u64;
        if header.image_len != actual {
            return Err(FirmwareError::Length { field: header.image_len, actual });
        }
        for (field, value, limit) in [
            ("entry_staged64", u64::from(header.entry_staged64), actual - 1),
            ("entry_flat32", u64::from(header.entry_flat32), actual - 1),
            ("image_len", header.image_len, header.memory_len),
            ("memory_len", header.memory_len, FW_END - FW_BASE),
        ] {
            if value > limit {
                return Err(FirmwareError::Field { field, value, limit });
            }
        }
        Ok(Self { bytes, header })
    }

    /// The image itself, to be put into staging.
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Its header.
    pub const fn header(&self) -> &ImageHeader {
        &self.header
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    fn changed(change: impl FnOnce(&mut ImageHeader)) -> Result<ImageHeader, FirmwareError> {
        let mut header = ImageHeader {
            magic: IMAGE_MAGIC,
            version: ABI_VERSION,
            entry_staged64: 40,
            entry_flat32: 40,
            reserved: 0,
            image_len: 64,
            memory_len: 64,
        };
        change(&mut header);
        let mut bytes = header.as_bytes().to_vec();
        bytes.resize(64, 0);
        FirmwareImage::parse(&bytes).map(|image| *image.header())
    }

    #[test]
    fn the_built_in_image_is_one() {
        let image = image().unwrap();
        assert!(image.header().entry_staged64 > 0 && image.header().entry_flat32 > 0);
        assert_eq!(image.bytes().len() as u64, image.header().image_len);
    }

    /// What an image measures must not depend on where it was built.
    #[test]
    fn the_built_in_image_names_no_path_of_the_machine_it_was_built_on() {
        let image = image().unwrap();
        let names = |path: &str| image.bytes().windows(path.len()).any(|window| window == path.as_bytes());
        let checkout = env!("CARGO_MANIFEST_DIR").trim_end_matches("host");
        let out_dir = env!("OUT_DIR");
        assert!(!names(checkout), "{checkout}");
        assert!(!names(out_dir), "{out_dir}");
        assert!(!names("/.cargo/"));
    }

    /// no-silent-trust: `GUEST_FW_ELF` can name any file.
    #[test]
    fn no_silent_trust_image_header() {
        assert!(changed(|_| ()).is_ok());
        assert_eq!(FirmwareImage::parse(&[0; 39]).unwrap_err(), FirmwareError::Short(39));
        assert_eq!(changed(|header| header.magic = 1), Err(FirmwareError::Magic(1)));
        assert_eq!(changed(|header| header.version = 9), Err(FirmwareError::Version(9)));
        assert_eq!(changed(|header| header.image_len = 65), Err(FirmwareError::Length { field: 65, actual: 64 }));
        for (change, field) in [
            ((|header| header.entry_staged64 = 64) as fn(&mut ImageHeader), "entry_staged64"),
            (|header| header.entry_flat32 = 64, "entry_flat32"),
            (|header| header.memory_len = 63, "image_len"),
            (|header| header.memory_len = FW_END, "memory_len"),
        ] {
            let error = changed(change).unwrap_err();
            assert!(matches!(error, FirmwareError::Field { field: named, .. } if named == field), "{error}");
        }
    }
}

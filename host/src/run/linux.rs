//! A Linux kernel, its RAM disk and its command line, read and checked before a VM exists.
//!
//! Owns where each of them goes in guest memory. The same checks are made again in the guest by the firmware, on its
//! private copy and with the same code (`guest_fw::bzimage`); here they serve to tell people early.
//!
//! Specification: Linux `Documentation/arch/x86/boot.rst`.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use gmem::layout::RamLayout;
use gmem::{ByteLen, PAGE_SIZE};
use guest_fw::abi;
use guest_fw::bzimage::{KernelError, Placement, SECTOR, SETUP_HEADER_OFFSET, SetupHeader};
use guest_fw::range::GpaRange;
use guest_fw::staging::Ram;

use crate::config::inputs::{Input, Inputs};

/// Everything of a kernel that goes into the guest.
#[derive(Debug)]
pub(crate) struct LinuxImage {
    /// Boot sector and setup sectors.
    pub setup: Vec<u8>,
    /// The protected-mode kernel.
    pub payload: Vec<u8>,
    /// Where the payload goes.
    pub payload_gpa: u64,
    /// The RAM disk and where it goes.
    pub initrd: Option<(Vec<u8>, u64)>,
}

/// Why a kernel or its RAM disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LinuxError {
    /// A file cannot be read.
    #[error("{what} `{}`: {source}", path.display())]
    Read {
        /// Which setting.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is larger than all of the guest's RAM.
    #[error("{what} `{}` has {len} bytes, more than the {} of guest memory", path.display(), ram)]
    LargerThanRam {
        /// Which setting.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Its length.
        len: u64,
        /// RAM below 4 GiB.
        ram: ByteLen,
    },
    /// The kernel cannot be booted, or not with so little memory.
    #[error("kernel `{}`: {source}", path.display())]
    Kernel {
        /// The file.
        path: PathBuf,
        /// Why.
        source: KernelError,
    },
    /// The file ends inside the kernel.
    #[error("kernel `{}` is truncated: it has {len} bytes, its setup alone {needed}", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Bytes it has.
        len: usize,
        /// Bytes its header speaks of.
        needed: u64,
    },
    /// There is no room for the RAM disk.
    #[error(
        "initrd `{}` of {len} bytes does not fit: the kernel needs memory up to {kernel_end:#x}, and {limit:#x} is the \
         end of what it can reach",
        path.display()
    )]
    InitrdDoesNotFit {
        /// The file.
        path: PathBuf,
        /// Its length.
        len: usize,
        /// Where the kernel's memory ends.
        kernel_end: u64,
        /// End of what the RAM disk may use.
        limit: u64,
    },
}

/// The firmware's view of a layout.
pub(crate) fn firmware_ram(ram: &RamLayout) -> Ram {
    let end = |range: gmem::GfnRange| range.end_number() * PAGE_SIZE;
    Ram {
        low: GpaRange::between(0, end(ram.low())),
        high: ram.high().map_or(GpaRange::between(gmem::layout::FOUR_GIB, gmem::layout::FOUR_GIB), |high| {
            GpaRange::between(high.gpa().0, end(high))
        }),
    }
}

impl LinuxImage {
    /// Reads what `inputs` hold; `None` without a kernel.
    pub(crate) fn read(inputs: &Inputs, cmdline_len: u64, ram: &RamLayout) -> Result<Option<Self>, LinuxError> {
        let Some(kernel) = &inputs.kernel else { return Ok(None) };
        let room = firmware_ram(ram);
        let mut file = read(kernel, "kernel", &room)?;
        let path = || kernel.path.clone();
        let bad = |source| LinuxError::Kernel { path: path(), source };

        let setup_sects = match file.get(SETUP_HEADER_OFFSET) {
            None => return Err(bad(KernelError::Short(file.len()))),
            Some(0) => 4,
            Some(sectors) => u64::from(*sectors),
        };
        let setup_len = (setup_sects + 1) * SECTOR;
        let split = usize::try_from(setup_len).ok().filter(|split| *split < file.len());
        let Some(split) = split else {
            // What is no kernel at all should be called that, not truncated.
            SetupHeader::parse(&file).map_err(|error| match error {
                KernelError::Field { .. } => LinuxError::Truncated { path: path(), len: file.len(), needed: setup_len },
                other => bad(other),
            })?;
            return Err(LinuxError::Truncated { path: path(), len: file.len(), needed: setup_len });
        };
        let payload = file.split_off(split);
        file.shrink_to_fit();
        let header = SetupHeader::parse(&file).map_err(bad)?;
        let payload_gpa = header.pref_address.get();
        let initrd = match &inputs.initrd {
            None => None,
            Some(input) => Some(place_initrd(input, &header, &room)?),
        };
        let range = |gpa: u64, len: usize| {
            GpaRange::new(gpa, len as u64).ok_or_else(|| {
                let why = "beyond 64 bits";
                bad(KernelError::Field { field: "pref_address", value: gpa, why })
            })
        };
        let placement = Placement {
            payload: range(payload_gpa, payload.len())?,
            initrd: initrd.as_ref().map(|(bytes, gpa)| range(*gpa, bytes.len())).transpose()?,
            cmdline_len,
        };
        header.check_placement(&placement, &room).map_err(bad)?;
        Ok(Some(Self { setup: file, payload, payload_gpa, initrd }))
    }
}

/// As high as the kernel can reach below the 32-bit hole, so that the kernel has room to unpack.
fn place_initrd(input: &Input, header: &SetupHeader, ram: &Ram) -> Result<(Vec<u8>, u64), LinuxError> {
    let bytes = read(input, "initrd", ram)?;
    let limit = ram.low.end().min(u64::from(header.initrd_addr_max.get()).saturating_add(1));
    let kernel_end = header.pref_address.get().saturating_add(u64::from(header.init_size.get())).max(abi::FW_END);
    let start = limit.checked_sub(bytes.len() as u64).map(|start| start & !(PAGE_SIZE - 1));
    match start.filter(|start| *start >= kernel_end) {
        Some(start) => Ok((bytes, start)),
        None => {
            let (path, len) = (input.path.clone(), bytes.len());
            Err(LinuxError::InitrdDoesNotFit { path, len, kernel_end, limit })
        }
    }
}

fn read(input: &Input, what: &'static str, ram: &Ram) -> Result<Vec<u8>, LinuxError> {
    if input.len > ram.low.len() {
        let (path, len, ram) = (input.path.clone(), input.len, ByteLen(ram.low.len()));
        return Err(LinuxError::LargerThanRam { what, path, len, ram });
    }
    let mut bytes = Vec::with_capacity(usize::try_from(input.len).unwrap_or(0));
    // A file that grows while it is read must not fill our memory.
    let mut file: &File = &input.file;
    Read::take(&mut file, input.len).read_to_end(&mut bytes).map_err(|source| LinuxError::Read {
        what,
        path: input.path.clone(),
        source,
    })?;
    Ok(bytes)
}

//! What an OVMF image says of itself: where its vCPUs start, which pages it wants measured and how, and where it looks
//! for hashes of a kernel.
//!
//! Owns reading the tables at the image's end; everything in them is checked before it is used. Does not own what is
//! made of it ([`crate::measure`]).
//!
//! Specification: edk2 `OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm` (the table of GUIDs) and
//! `OvmfPkg/ResetVector/X64/OvmfSevMetadata.asm`.

#[cfg(test)]
mod tests;

use std::fmt;

use gmem::address::AddressError;
use gmem::launch::Contents;
use gmem::layout::FOUR_GIB;
use gmem::{ByteLen, GfnRange, Gpa, PAGE_SIZE};

use crate::digest::PAGE_BYTES;
use crate::guid::Guid;
use crate::hashes;

/// Ends the table; found this far from the image's end.
const FOOTER: Guid = Guid::new(0x96b5_82de, 0x1fb2, 0x45f7, *b"\xba\xea\xa3\x66\xc5\x5a\x08\x2d");
const FOOTER_FROM_END: usize = 0x30;
const SEV_ES_RESET_BLOCK: Guid = Guid::new(0x00f7_71de, 0x1a7e, 0x4fcb, *b"\x89\x0e\x68\xc7\x7e\x2f\xb4\x4e");
const SEV_HASH_TABLE: Guid = Guid::new(0x7255_371f, 0x3a3b, 0x4b04, *b"\x92\x7b\x1d\xa6\xef\xa8\xd4\x54");
const SEV_METADATA: Guid = Guid::new(0xdc88_6566, 0x984a, 0x4798, *b"\xa7\x5e\x55\x85\xa7\xbf\x67\xcc");
/// A length of two bytes and a GUID end each entry.
const ENTRY_TAIL: usize = 2 + 16;

const METADATA_SIGNATURE: [u8; 4] = *b"ASEV";
const METADATA_VERSION: u32 = 1;
const METADATA_HEADER: usize = 16;
const METADATA_ITEM: usize = 12;

/// The largest image: below it are the interrupt controllers' registers.
pub const MAX_IMAGE: usize = 16 << 20;

/// A firmware image, read.
#[derive(Clone, Debug)]
pub struct Ovmf {
    /// All its bytes, which end at 4 GiB.
    pub image: Contents,
    /// Where it is.
    pub range: GfnRange,
    /// Where vCPUs other than the first start.
    pub ap_eip: u32,
    /// Where the table of a kernel's hashes belongs, if the firmware looks at one.
    pub hash_table: Option<Gpa>,
    /// Pages besides the image, in the order in which they are to be measured.
    pub sections: Vec<Section>,
}

/// Pages that the firmware wants to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    /// Where.
    pub range: GfnRange,
    /// As what.
    pub kind: SectionKind,
}

/// What pages a section has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SectionKind {
    /// Memory it works in before it knows what RAM there is.
    SecMemory = 1,
    /// The secrets page.
    Secrets = 2,
    /// The CPUID page.
    Cpuid = 3,
    /// The calling area of a service module.
    SvsmCallingArea = 4,
    /// The page with the table of a kernel's hashes.
    KernelHashes = 0x10,
}

/// Why an image is none that an SNP guest can be launched with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OvmfError {
    /// Its size is none of a firmware.
    #[error("the firmware image has {bytes} bytes; it must be a multiple of 4096, and at most {MAX_IMAGE}")]
    Size {
        /// What it has.
        bytes: usize,
    },
    /// It is no OVMF image, or one older than its table.
    #[error("the firmware image has no table of GUIDs: 48 bytes before its end is {found}, not {FOOTER}")]
    NoTable {
        /// What is there.
        found: Guid,
    },
    /// A length in the table does not fit.
    #[error(
        "the firmware's table of GUIDs: {what} has a length of {length} bytes, where {least} to {most} are possible"
    )]
    Length {
        /// Whose length.
        what: String,
        /// What it says.
        length: usize,
        /// The least that is possible.
        least: usize,
        /// The most.
        most: usize,
    },
    /// An entry is there twice.
    #[error("the firmware's table of GUIDs has {0} twice")]
    Twice(Guid),
    /// It is not built for SEV-SNP.
    #[error("the firmware's table of GUIDs has no {what} ({guid}): it is not built for SEV-SNP")]
    Missing {
        /// What is missing.
        what: &'static str,
        /// By which name.
        guid: Guid,
    },
    /// Where QEMU does not launch it either.
    #[error("the firmware's reset address of further vCPUs ({0}) is zero")]
    NoReset(Guid),
    /// The metadata are not where they are said to be, or are none.
    #[error("the firmware's SEV metadata, {from_end} bytes before its end: {problem}")]
    Metadata {
        /// Where they are said to be.
        from_end: u32,
        /// What is wrong.
        problem: String,
    },
    /// A section cannot be.
    #[error("section {number} of the firmware's SEV metadata ({gpa}, {bytes} bytes, type {kind:#x}): {problem}")]
    Section {
        /// Which, from 0.
        number: usize,
        /// Its address.
        gpa: Gpa,
        /// Its size.
        bytes: u32,
        /// Its type.
        kind: u32,
        /// What is wrong.
        problem: String,
    },
    /// The table of hashes has no place.
    #[error("the firmware wants a kernel's hashes at {gpa}, in {bytes} bytes: {problem}")]
    HashTable {
        /// Where.
        gpa: Gpa,
        /// How large.
        bytes: u32,
        /// What is wrong.
        problem: &'static str,
    },
}

impl Ovmf {
    /// Reads an image. Its bytes are taken over: to copy them takes as long as to hash them.
    pub fn parse(image: impl Into<Vec<u8>>) -> Result<Self, OvmfError> {
        let contents = Contents::new(image);
        let (image, bytes) = (contents.bytes(), contents.bytes().len());
        let range = Some(bytes)
            .filter(|bytes| *bytes <= MAX_IMAGE && bytes.is_multiple_of(PAGE_BYTES))
            .and_then(|bytes| GfnRange::from_bytes(Gpa(FOUR_GIB - bytes as u64), ByteLen(bytes as u64)).ok())
            .ok_or(OvmfError::Size { bytes })?;
        let table = Table::parse(image)?;
        let [ap_eip] = table
            .words::<1>(SEV_ES_RESET_BLOCK)?
            .ok_or(OvmfError::Missing { what: "reset address of further vCPUs", guid: SEV_ES_RESET_BLOCK })?;
        if ap_eip == 0 {
            return Err(OvmfError::NoReset(SEV_ES_RESET_BLOCK));
        }
        let [from_end] =
            table.words::<1>(SEV_METADATA)?.ok_or(OvmfError::Missing { what: "SEV metadata", guid: SEV_METADATA })?;
        let sections = sections(image, range, from_end)?;
        let hash_table = match table.words::<2>(SEV_HASH_TABLE)? {
            Some([gpa, bytes]) if gpa != 0 && bytes != 0 => Some(hash_table(gpa, bytes, &sections)?),
            _ => None,
        };
        Ok(Self { image: contents, range, ap_eip, hash_table, sections })
    }
}

/// The table's entries, last one first.
struct Table<'a>(Vec<(Guid, &'a [u8])>);

impl<'a> Table<'a> {
    fn parse(image: &'a [u8]) -> Result<Self, OvmfError> {
        // An image has a page at least.
        let end = image.len() - FOOTER_FROM_END + 16;
        let found = guid_before(image, end);
        if found != FOOTER {
            return Err(OvmfError::NoTable { found });
        }
        let length = length_before(image, end);
        if length < ENTRY_TAIL || length > end {
            let what = "the whole".to_owned();
            return Err(OvmfError::Length { what, length, least: ENTRY_TAIL, most: end });
        }
        let mut rest = &image[end - length..end - ENTRY_TAIL];
        let mut entries: Vec<(Guid, &[u8])> = Vec::new();
        while !rest.is_empty() {
            if rest.len() < ENTRY_TAIL {
                let what = "what is left for its first entry".to_owned();
                return Err(OvmfError::Length { what, length: rest.len(), least: ENTRY_TAIL, most: length });
            }
            let (guid, length) = (guid_before(rest, rest.len()), length_before(rest, rest.len()));
            if length < ENTRY_TAIL || length > rest.len() {
                let what = guid.to_string();
                return Err(OvmfError::Length { what, length, least: ENTRY_TAIL, most: rest.len() });
            }
            if entries.iter().any(|(other, _)| *other == guid) {
                return Err(OvmfError::Twice(guid));
            }
            entries.push((guid, &rest[rest.len() - length..rest.len() - ENTRY_TAIL]));
            rest = &rest[..rest.len() - length];
        }
        Ok(Self(entries))
    }

    /// The numbers an entry begins with, if there is one.
    fn words<const N: usize>(&self, guid: Guid) -> Result<Option<[u32; N]>, OvmfError> {
        let Some((_, data)) = self.0.iter().find(|(name, _)| *name == guid) else { return Ok(None) };
        let words = words(data).map(Some);
        words.ok_or_else(|| OvmfError::Length {
            what: guid.to_string(),
            length: data.len() + ENTRY_TAIL,
            least: N * 4 + ENTRY_TAIL,
            most: usize::from(u16::MAX),
        })
    }
}

/// The GUID that ends at `end`, before which there are enough bytes.
fn guid_before(bytes: &[u8], end: usize) -> Guid {
    let mut guid = [0; 16];
    guid.copy_from_slice(&bytes[end - 16..end]);
    Guid::from_bytes(guid)
}

/// The length in front of that.
fn length_before(bytes: &[u8], end: usize) -> usize {
    usize::from(u16::from_le_bytes([bytes[end - 18], bytes[end - 17]]))
}

/// The numbers that `bytes` begins with.
fn words<const N: usize>(bytes: &[u8]) -> Option<[u32; N]> {
    let mut words = [0; N];
    for (number, word) in words.iter_mut().enumerate() {
        *word = u32::from_le_bytes(bytes.get(number * 4..number * 4 + 4)?.try_into().ok()?);
    }
    Some(words)
}

fn sections(image: &[u8], range: GfnRange, from_end: u32) -> Result<Vec<Section>, OvmfError> {
    let wrong = |problem: String| OvmfError::Metadata { from_end, problem };
    let start = usize::try_from(from_end).ok().and_then(|from_end| image.len().checked_sub(from_end));
    let data = start.map(|start| &image[start..]).ok_or_else(|| wrong("that is outside of it".to_owned()))?;
    let Some([signature, size, version, count]) = words::<4>(data) else {
        return Err(wrong(format!("only {} bytes are there", data.len())));
    };
    if signature.to_le_bytes() != METADATA_SIGNATURE {
        return Err(wrong(format!("they begin with {signature:#x}, not with \"ASEV\"")));
    }
    if version != METADATA_VERSION {
        return Err(wrong(format!("they have version {version}, not {METADATA_VERSION}")));
    }
    let least = METADATA_HEADER as u64 + u64::from(count) * METADATA_ITEM as u64;
    if u64::from(size) < least || u64::from(size) > data.len() as u64 {
        let there = data.len();
        return Err(wrong(format!("{size} bytes long, {count} sections need {least}, and {there} are there")));
    }
    let items = data[METADATA_HEADER..].chunks_exact(METADATA_ITEM).filter_map(words::<3>);
    let mut sections: Vec<Section> = Vec::new();
    for (number, [gpa, bytes, kind]) in items.take(count as usize).enumerate() {
        let wrong = |problem| OvmfError::Section { number, gpa: Gpa(gpa.into()), bytes, kind, problem };
        let section = section(gpa, bytes, kind).map_err(wrong)?;
        if section.range.overlaps(range) {
            return Err(wrong("it overlaps the image".to_owned()));
        }
        if let Some(other) = sections.iter().position(|other| other.range.overlaps(section.range)) {
            return Err(wrong(format!("it overlaps section {other}")));
        }
        sections.push(section);
    }
    Ok(sections)
}

fn section(gpa: u32, bytes: u32, kind: u32) -> Result<Section, String> {
    let kind = [
        SectionKind::SecMemory,
        SectionKind::Secrets,
        SectionKind::Cpuid,
        SectionKind::SvsmCallingArea,
        SectionKind::KernelHashes,
    ]
    .into_iter()
    .find(|known| *known as u32 == kind)
    .ok_or("no such type is known")?;
    let single = matches!(kind, SectionKind::Secrets | SectionKind::Cpuid | SectionKind::KernelHashes);
    if single && u64::from(bytes) != PAGE_SIZE {
        return Err(format!("{kind} is one page"));
    }
    let range = GfnRange::from_bytes(Gpa(gpa.into()), ByteLen(bytes.into()));
    let range = range.map_err(|error: AddressError| error.to_string())?;
    if range.end_number() > FOUR_GIB / PAGE_SIZE {
        return Err("it ends above 4 GiB".to_owned());
    }
    Ok(Section { range, kind })
}

fn hash_table(gpa: u32, bytes: u32, sections: &[Section]) -> Result<Gpa, OvmfError> {
    let (start, wrong) = (Gpa(gpa.into()), |problem| OvmfError::HashTable { gpa: Gpa(gpa.into()), bytes, problem });
    if (bytes as usize) < hashes::PADDED_BYTES {
        return Err(wrong("the table takes 176"));
    }
    if u64::from(gpa) % PAGE_SIZE + hashes::PADDED_BYTES as u64 > PAGE_SIZE {
        return Err(wrong("it would cross a page's end"));
    }
    let of_hashes = sections.iter().find(|section| section.kind == SectionKind::KernelHashes);
    match of_hashes {
        Some(section) if !section.range.contains(start.gfn()) => Err(wrong("that is not in its section for them")),
        // Without a section it is SEV without SNP that looks there.
        _ => Ok(start),
    }
}

impl fmt::Display for SectionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SecMemory => "memory of early boot",
            Self::Secrets => "secrets",
            Self::Cpuid => "CPUID",
            Self::SvsmCallingArea => "calling area of the service module",
            Self::KernelHashes => "hashes of the kernel",
        })
    }
}

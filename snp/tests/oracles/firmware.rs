//! Firmware images as no build makes them, each of which is one all the same: tables in any order and place, with what
//! nobody knows in between.

use snp::ovmf::SectionKind;

use crate::random::Random;

pub(crate) const PAGE: usize = 4096;
/// Bytes at an image's end in which its table of GUIDs is.
pub(crate) const TABLE_ROOM: usize = 0x600;
const FOUR_GIB: u64 = 1 << 32;

// As they are in memory.
const FOOTER: [u8; 16] = *b"\xde\x82\xb5\x96\xb2\x1f\xf7\x45\xba\xea\xa3\x66\xc5\x5a\x08\x2d";
const RESET: [u8; 16] = *b"\xde\x71\xf7\x00\x7e\x1a\xcb\x4f\x89\x0e\x68\xc7\x7e\x2f\xb4\x4e";
const HASH_TABLE: [u8; 16] = *b"\x1f\x37\x55\x72\x3b\x3a\x04\x4b\x92\x7b\x1d\xa6\xef\xa8\xd4\x54";
const METADATA: [u8; 16] = *b"\x66\x65\x88\xdc\x4a\x98\x98\x47\xa7\x5e\x55\x85\xa7\xbf\x67\xcc";

/// What an image is made of.
#[derive(Clone, Debug)]
pub(crate) struct Firmware {
    /// What is not in tables.
    pub(crate) pages: Vec<u8>,
    /// Where vCPUs other than the first start.
    pub(crate) reset: u32,
    /// Where the table of a kernel's hashes belongs, and how large it may be.
    pub(crate) hash_table: Option<(u32, u32)>,
    /// Address, size, type.
    pub(crate) sections: Vec<[u32; 3]>,
    /// Where in the image they are listed, and how much more than them the list says it is.
    pub(crate) metadata: (usize, u32),
    /// Entries of the table that nobody knows.
    pub(crate) unknown: Vec<([u8; 16], Vec<u8>)>,
    /// What decides the order of the table's entries.
    pub(crate) order: u64,
}

impl Firmware {
    pub(crate) fn any(random: &mut Random) -> Self {
        // Some are large enough for several threads.
        let count = match random.number(1, 40) {
            1 => random.size(250, 400),
            2..=8 => random.size(9, 64),
            _ => random.size(1, 8),
        };
        let page = |random: &mut Random| match random.number(1, 4) {
            1 => vec![0; PAGE],
            2 => vec![0xff; PAGE],
            _ => random.bytes(PAGE),
        };
        let pages: Vec<u8> = (0..count).flat_map(|_| page(random)).collect();
        let sections = sections(random);
        let of_hashes = sections.iter().find(|[_, _, kind]| *kind == SectionKind::KernelHashes as u32);
        let page_of_hashes = match of_hashes {
            Some([gpa, _, _]) => (!random.once_in(8)).then_some(*gpa),
            // SEV without SNP has a table as well, and no section for it.
            None => random.once_in(2).then(|| random.number(1, 0xf_0000) * 0x1000),
        };
        let hash_table = page_of_hashes.map(|gpa| (gpa + random.number(0, 0x1000 - 176), random.number(176, 0x400)));
        let listed = 16 + 12 * sections.len();
        let more = if random.once_in(3) { random.number(1, 40) } else { 0 };
        let place = random.size(0, pages.len() - TABLE_ROOM - listed - more as usize);
        let unknown = (0..random.number(0, 5)).map(|_| {
            let guid = random.bytes(16).try_into().unwrap();
            let data = random.size(0, 60);
            (guid, random.bytes(data))
        });
        let unknown = unknown.collect();
        let reset = random.number(1, 0xffff_ffef);
        Self { pages, reset, hash_table, sections, metadata: (place, more), unknown, order: random.word() }
    }

    pub(crate) fn image(&self) -> Vec<u8> {
        let (mut image, (place, more)) = (self.pages.clone(), self.metadata);
        let le = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
        let (count, from_end) = (u32::try_from(self.sections.len()).unwrap(), image.len() - place);
        let mut metadata = [b"ASEV".as_slice(), &le(&[16 + 12 * count + more, 1, count])].concat();
        metadata.extend(self.sections.iter().flat_map(|section| le(section)));
        image[place..place + metadata.len()].copy_from_slice(&metadata);

        let mut entries = self.unknown.clone();
        entries.push((RESET, le(&[self.reset])));
        entries.push((METADATA, le(&[u32::try_from(from_end).unwrap()])));
        entries.extend(self.hash_table.map(|(gpa, bytes)| (HASH_TABLE, le(&[gpa, bytes]))));
        Random::new(self.order).shuffle(&mut entries);
        let tail =
            |guid: [u8; 16], bytes: usize| [&u16::try_from(bytes + 18).unwrap().to_le_bytes()[..], &guid].concat();
        let mut table: Vec<u8> =
            entries.iter().flat_map(|(guid, data)| [data.clone(), tail(*guid, data.len())].concat()).collect();
        table.extend(tail(FOOTER, table.len()));
        let end = image.len() - 0x20;
        image[end - table.len()..end].copy_from_slice(&table);
        image
    }
}

/// Sections that do not overlap, in any order, of any kind any number of times.
fn sections(random: &mut Random) -> Vec<[u32; 3]> {
    use SectionKind::{Cpuid, KernelHashes, SecMemory, Secrets, SvsmCallingArea};
    let (mut sections, mut frame) = (Vec::new(), random.number(1, 0x800));
    let mut kinds: Vec<_> = (0..random.number(0, 12))
        .map(|_| random.one_of(&[SecMemory, SecMemory, Secrets, Cpuid, SvsmCallingArea, KernelHashes]))
        .collect();
    kinds.extend((!random.once_in(4)).then_some(KernelHashes));
    for kind in kinds {
        let pages = match kind {
            SecMemory | SvsmCallingArea => random.number(1, 32),
            Secrets | Cpuid | KernelHashes => 1,
        };
        frame += if random.once_in(2) { random.number(0, 0x1_0000) } else { 0 };
        sections.push([frame * 0x1000, pages * 0x1000, kind as u32]);
        frame += pages;
    }
    assert!(u64::from(frame) < FOUR_GIB / 0x1000 - 400, "below every image");
    random.shuffle(&mut sections);
    sections
}

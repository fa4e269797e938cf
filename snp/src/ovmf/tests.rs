//! Law *no-silent-trust*: every field of an image's tables, wrong.

use proptest::prelude::*;

use super::*;

/// An image as a firmware's build makes it, each field of which can be wrong.
#[derive(Clone, Debug)]
struct Image {
    pages: usize,
    entries: Vec<(Guid, Vec<u8>)>,
    table_length: Option<u16>,
    footer: Guid,
    metadata: Metadata,
}

#[derive(Clone, Debug)]
struct Metadata {
    from_end: u32,
    signature: [u8; 4],
    size: Option<u32>,
    version: u32,
    count: Option<u32>,
    sections: Vec<[u32; 3]>,
}

const METADATA_FROM_END: u32 = 0x400;

/// What one page is enough for.
fn good() -> Image {
    let le = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    Image {
        pages: 1,
        entries: vec![
            (SEV_METADATA, le(&[METADATA_FROM_END])),
            (SEV_HASH_TABLE, le(&[0x80_cc00, 0x400])),
            (SEV_ES_RESET_BLOCK, le(&[0x80_b004])),
        ],
        table_length: None,
        footer: FOOTER,
        metadata: Metadata {
            from_end: METADATA_FROM_END,
            signature: METADATA_SIGNATURE,
            size: None,
            version: METADATA_VERSION,
            count: None,
            sections: vec![
                [0x80_0000, 0x9000, 1],
                [0x80_a000, 0x1000, 2],
                [0x80_b000, 0x1000, 3],
                [0x80_c000, 0x1000, 0x10],
            ],
        },
    }
}

impl Image {
    fn bytes(&self) -> Vec<u8> {
        let mut image = vec![0; self.pages * PAGE_BYTES];
        let tail = |data: &[u8], guid: Guid, length: u16| [data, &length.to_le_bytes(), &guid.to_bytes()].concat();
        let mut table: Vec<u8> = Vec::new();
        for (guid, data) in &self.entries {
            table.extend(tail(data, *guid, u16::try_from(data.len() + ENTRY_TAIL).unwrap()));
        }
        let whole = u16::try_from(table.len() + ENTRY_TAIL).unwrap();
        table.extend(tail(&[], self.footer, self.table_length.unwrap_or(whole)));
        let end = image.len() - 0x20;
        image[end - table.len()..end].copy_from_slice(&table);

        let Metadata { from_end, signature, size, version, count, sections } = &self.metadata;
        let mut bytes = signature.to_vec();
        let number = u32::try_from(sections.len()).unwrap();
        let words = [size.unwrap_or(16 + 12 * number), *version, count.unwrap_or(number)];
        bytes.extend(words.iter().chain(sections.iter().flatten()).flat_map(|word| word.to_le_bytes()));
        let start = image.len() - *from_end as usize;
        image[start..start + bytes.len()].copy_from_slice(&bytes);
        image
    }

    /// What is said of it after a change.
    fn refusal(change: impl FnOnce(&mut Self)) -> String {
        let mut image = good();
        change(&mut image);
        Ovmf::parse(image.bytes()).unwrap_err().to_string()
    }
}

#[test]
fn a_good_image_is_read() {
    let ovmf = Ovmf::parse(good().bytes()).unwrap();
    assert_eq!((ovmf.ap_eip, ovmf.hash_table), (0x80_b004, Some(Gpa(0x80_cc00))));
    assert_eq!(ovmf.range.gpa(), Gpa(0xffff_f000));
    let kinds: Vec<_> = ovmf.sections.iter().map(|section| section.kind).collect();
    use SectionKind::*;
    assert_eq!(kinds, [SecMemory, Secrets, Cpuid, KernelHashes]);
    assert_eq!(ovmf.sections[0].range.pages().get(), 9);
}

#[test]
fn no_silent_trust_sizes() {
    for bytes in [0, 1, 4095, 4097, MAX_IMAGE + 4096] {
        let error = Ovmf::parse(vec![0; bytes]).unwrap_err();
        assert_eq!(error, OvmfError::Size { bytes });
        assert!(error.to_string().contains(&format!("has {bytes} bytes")), "{error}");
    }
}

#[test]
fn no_silent_trust_the_table() {
    let other = Guid::from_bytes([7; 16]);
    let missing = |what: Guid| move |image: &mut Image| image.entries.retain(|(guid, _)| *guid != what);
    let says = |error: String, what: &str| assert!(error.contains(what), "{error}");
    says(
        Image::refusal(|image| image.footer = other),
        "48 bytes before its end is 07070707-0707-0707-0707-070707070707",
    );
    says(Image::refusal(|image| image.table_length = Some(17)), "the whole has a length of 17 bytes, where 18 to");
    says(Image::refusal(|image| image.table_length = Some(0xffff)), "the whole has a length of 65535 bytes");
    // One byte less, and the first entry is cut.
    says(
        Image::refusal(|image| image.table_length = Some(18 + 22 + 26 + 21)),
        "has a length of 22 bytes, where 18 to 21",
    );
    says(Image::refusal(|image| image.table_length = Some(18 + 22 + 5)), "what is left for its first entry");
    says(Image::refusal(missing(SEV_ES_RESET_BLOCK)), "no reset address of further vCPUs");
    says(Image::refusal(missing(SEV_METADATA)), "no SEV metadata");
    says(
        Image::refusal(|image| image.entries[2].1 = vec![0; 4]),
        "vCPUs (00f771de-1a7e-4fcb-890e-68c77e2fb44e) is zero",
    );
    says(Image::refusal(|image| image.entries.push((SEV_METADATA, vec![0; 4]))), "twice");
    says(Image::refusal(|image| image.entries[2].1.truncate(3)), "has a length of 21 bytes, where 22 to 65535");
}

#[test]
fn no_silent_trust_metadata() {
    let says = |change: fn(&mut Metadata), what: &str| {
        let error = Image::refusal(|image| change(&mut image.metadata));
        assert!(error.starts_with("the firmware's SEV metadata, 1024 bytes before its end: "), "{error}");
        assert!(error.ends_with(what), "{error}");
    };
    says(|metadata| metadata.signature = *b"ASEW", "they begin with 0x57455341, not with \"ASEV\"");
    says(|metadata| metadata.version = 2, "they have version 2, not 1");
    says(|metadata| metadata.count = Some(5), "64 bytes long, 5 sections need 76, and 1024 are there");
    says(
        |metadata| metadata.count = Some(u32::MAX),
        "64 bytes long, 4294967295 sections need 51539607556, and 1024 are there",
    );
    says(|metadata| metadata.size = Some(1025), "1025 bytes long, 4 sections need 64, and 1024 are there");
    for (from_end, what) in [(4097u32, "that is outside of it"), (12, "only 12 bytes are there"), (u32::MAX, "outside")]
    {
        let error = Image::refusal(|image| image.entries[0].1 = from_end.to_le_bytes().to_vec());
        assert!(error.contains(what) && error.contains(&from_end.to_string()), "{error}");
    }
}

#[test]
fn no_silent_trust_sections() {
    let says = |section: [u32; 3], what: &str| {
        let error = Image::refusal(|image| image.metadata.sections.push(section));
        assert!(error.starts_with("section 4 of the firmware's SEV metadata (0x"), "{error}");
        assert!(error.contains(what), "{error}");
    };
    says([0x81_0000, 0x1000, 5], "type 0x5): no such type is known");
    says([0x81_0000, 0x2000, 3], "CPUID is one page");
    says([0x81_0001, 0x1000, 1], "0x810001");
    says([0x81_0000, 0, 1], "0 bytes");
    says([0x81_0000, 0x1001, 1], "4097 bytes");
    says([0xffff_f000, 0x1000, 1], "it overlaps the image");
    says([0xffff_e000, 0xffff_f000, 1], "it ends above 4 GiB");
    says([0x80_8000, 0x1000, 1], "it overlaps section 0");
}

#[test]
fn no_silent_trust_the_place_of_hashes() {
    let says = |gpa: u32, bytes: u32, what: &str| {
        let words = [gpa.to_le_bytes(), bytes.to_le_bytes()].concat();
        let error = Image::refusal(|image| image.entries[1].1 = words);
        assert!(error.contains(what), "{error}");
    };
    says(0x80_cc00, 175, "the table takes 176");
    says(0x80_cf51, 0x400, "it would cross a page's end");
    says(0x80_bc00, 0x400, "that is not in its section for them");
}

proptest! {
    /// Whatever is wrong, it is an error and no panic; what is read lies where it can.
    #[test]
    fn no_silent_trust_any_bytes(at in 0usize..0x480, bytes in prop::collection::vec(any::<u8>(), 1..12), pages in 1usize..3) {
        let mut image = Image { pages, ..good() }.bytes();
        let start = image.len() - 0x480 + at;
        let end = image.len().min(start + bytes.len());
        image[start..end].copy_from_slice(&bytes[..end - start]);
        if let Ok(ovmf) = Ovmf::parse(image) {
            for section in &ovmf.sections {
                prop_assert!(!section.range.overlaps(ovmf.range) && section.range.end_number() <= 1 << 20);
            }
        }
    }
}

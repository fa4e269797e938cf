//! The table in which a host passes certificates to its guest.
//!
//! Owns its form and which certificate is which. The host wrote it: lengths and places are checked, and what the
//! certificates say is for [`mod@crate::snp::verify`]. Specification: GHCB (56421), "SNP Extended Guest Request"; GUIDs
//! stand in the order in which they are written.

use alloc::vec::Vec;
use core::fmt;

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// What a certificate in the table is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A chip's endorsement key.
    Vcek,
    /// A provider's endorsement key.
    Vlek,
    /// Who issues them: the ASK, or with a VLEK the ASVK, which has no GUID of its own.
    Intermediate,
    /// The root.
    Ark,
    /// A list of revoked certificates.
    Crl,
    /// Something else, by its GUID.
    Other([u8; 16]),
}

const VCEK: [u8; 16] = 0x63da_758d_e664_4564_adc5_f4b9_3be8_accd_u128.to_be_bytes();
const VLEK: [u8; 16] = 0xa807_4bc2_a25a_483e_aae6_39c0_45a0_b8a1_u128.to_be_bytes();
const ASK: [u8; 16] = 0x4ab7_b379_bbac_4fe4_a02f_05ae_f327_c782_u128.to_be_bytes();
const ARK: [u8; 16] = 0xc0b4_06a4_a803_4952_9743_3fb6_014c_d0ae_u128.to_be_bytes();
const CRL: [u8; 16] = 0x92f8_1bc3_5811_4d3d_97ff_d19f_88dc_67ea_u128.to_be_bytes();

/// More rows than any host has certificates for: there are five kinds. Each kind is looked for among all before it, and the
/// host says how many there are.
const ROWS_MOST: usize = 64;

/// A row; one of zeros ends the table.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Row {
    guid: [u8; 16],
    offset: U32,
    length: U32,
}

/// Why bytes are no table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// No end.
    #[error("the table of {rows} certificates has no end: a row of zeros")]
    NoEnd {
        /// Rows there are.
        rows: usize,
    },
    /// More certificates than are read.
    #[error("the table has more than {ROWS_MOST} certificates")]
    Rows,
    /// A certificate that isn't there.
    #[error(
        "the {kind} is at offset {offset:#x} with {length:#x} bytes; it must lie after the table, which ends at \
         {start:#x}, and before the end at {end:#x}"
    )]
    Outside {
        /// Which.
        kind: Kind,
        /// Where it should be.
        offset: u32,
        /// Bytes it should have.
        length: u32,
        /// Where the table ends.
        start: usize,
        /// Where everything ends.
        end: usize,
    },
    /// Two of a kind: which would it be?
    #[error("the table has two certificates of one kind, {0}")]
    Twice(Kind),
    /// Bytes that belong to two.
    #[error("the {0} and the {1} overlap")]
    Overlap(Kind, Kind),
}

/// Certificates with what they are for. What is in them was not looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateTable<'a>(Vec<(Kind, &'a [u8])>);

/// What is to show that a report was signed by a chip: certificates in DER. Any of them may be anybody's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Endorsements<'a> {
    /// The chip's, if it signs.
    pub vcek: Option<&'a [u8]>,
    /// The provider's, if that signs.
    pub vlek: Option<&'a [u8]>,
    /// Who issued either: ASK or ASVK.
    pub intermediate: Option<&'a [u8]>,
    /// The root that came along. It vouches for nothing, but must not be another one.
    pub ark: Option<&'a [u8]>,
    /// A list of revoked certificates, signed by the root.
    pub crl: Option<&'a [u8]>,
    /// Why the table that came along is none, if one came that is none.
    pub malformed: Option<TableError>,
}

impl<'a> Endorsements<'a> {
    /// Those in a table, as it was received. Whatever is wrong with it is for verification to say.
    #[must_use]
    pub fn of_table(bytes: &'a [u8]) -> Self {
        match CertificateTable::parse(bytes) {
            Ok(table) => table.endorsements(),
            Err(error) => Self { malformed: Some(error), ..Self::default() },
        }
    }
}

impl<'a> CertificateTable<'a> {
    /// Reads a table. One without any certificate is one, too: it is what a guest gets whose host has none.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, TableError> {
        let mut rows = Vec::new();
        let mut rest = bytes;
        loop {
            let Ok((row, after)) = Row::read_from_prefix(rest) else {
                return Err(TableError::NoEnd { rows: rows.len() });
            };
            rest = after;
            if row.guid == [0; 16] && row.offset.get() == 0 && row.length.get() == 0 {
                break;
            }
            if rows.len() == ROWS_MOST {
                return Err(TableError::Rows);
            }
            rows.push(row);
        }
        let start = bytes.len() - rest.len();
        let mut places: Vec<(Kind, usize, usize)> = Vec::with_capacity(rows.len());
        for row in rows {
            let kind = Kind::of(row.guid);
            let (from, to) = row.place(start, bytes.len()).ok_or(TableError::Outside {
                kind,
                offset: row.offset.get(),
                length: row.length.get(),
                start,
                end: bytes.len(),
            })?;
            places.push((kind, from, to));
        }
        places.sort_unstable_by_key(|(_, from, _)| *from);
        for pair in places.windows(2) {
            if let [(first, _, end), (second, start, _)] = pair
                && start < end
            {
                return Err(TableError::Overlap(*first, *second));
            }
        }
        let mut table = Self::default();
        for (kind, from, to) in places {
            if table.get(kind).is_some() {
                return Err(TableError::Twice(kind));
            }
            table.0.extend(bytes.get(from..to).map(|certificate| (kind, certificate)));
        }
        Ok(table)
    }

    /// The certificate of this kind.
    #[must_use]
    pub fn get(&self, kind: Kind) -> Option<&'a [u8]> {
        self.iter().find(|(of, _)| *of == kind).map(|(_, certificate)| certificate)
    }

    /// All of them, in the order of their places.
    pub fn iter(&self) -> impl Iterator<Item = (Kind, &'a [u8])> {
        self.0.iter().copied()
    }

    /// What of it is for reports.
    #[must_use]
    pub fn endorsements(&self) -> Endorsements<'a> {
        Endorsements {
            vcek: self.get(Kind::Vcek),
            vlek: self.get(Kind::Vlek),
            intermediate: self.get(Kind::Intermediate),
            ark: self.get(Kind::Ark),
            crl: self.get(Kind::Crl),
            malformed: None,
        }
    }
}

impl Row {
    /// From where to where, if that lies between these.
    fn place(&self, start: usize, end: usize) -> Option<(usize, usize)> {
        let from = usize::try_from(self.offset.get()).ok()?;
        let to = from.checked_add(usize::try_from(self.length.get()).ok()?)?;
        (start <= from && from < to && to <= end).then_some((from, to))
    }
}

impl Kind {
    fn of(guid: [u8; 16]) -> Self {
        match guid {
            VCEK => Self::Vcek,
            VLEK => Self::Vlek,
            ASK => Self::Intermediate,
            ARK => Self::Ark,
            CRL => Self::Crl,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vcek => f.write_str("VCEK"),
            Self::Vlek => f.write_str("VLEK"),
            Self::Intermediate => f.write_str("ASK"),
            Self::Ark => f.write_str("ARK"),
            Self::Crl => f.write_str("CRL"),
            Self::Other(guid) => write!(f, "certificate {:032x}", u128::from_be_bytes(*guid)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec;
    use proptest::prelude::*;

    fn row(guid: [u8; 16], offset: u32, length: u32) -> Vec<u8> {
        [&guid[..], &offset.to_le_bytes(), &length.to_le_bytes()].concat()
    }

    fn table(rows: &[([u8; 16], u32, u32)], contents: usize) -> Vec<u8> {
        let rows = rows.iter().flat_map(|(guid, offset, length)| row(*guid, *offset, *length));
        rows.chain(row([0; 16], 0, 0)).chain(vec![0xc; contents]).collect()
    }

    #[test]
    fn every_kind_is_known_by_its_guid() {
        let other = [0x0a; 16];
        let guids = [CRL, VLEK, ASK, other, ARK, VCEK];
        let rows: Vec<_> = guids.into_iter().zip(168..).map(|(guid, offset)| (guid, offset, 1)).collect();
        let mut bytes = table(&rows, 6);
        for (number, byte) in (1..).zip(&mut bytes[168..]) {
            *byte = number;
        }
        let table = CertificateTable::parse(&bytes).unwrap();
        let kinds = [Kind::Crl, Kind::Vlek, Kind::Intermediate, Kind::Other(other), Kind::Ark, Kind::Vcek];
        for (number, kind) in (1..).zip(kinds) {
            assert_eq!(table.get(kind), Some(&[number][..]), "{kind}");
        }
        let [crl, vlek, intermediate, ark, vcek] = [&[1][..], &[2], &[3], &[5], &[6]].map(Some);
        assert_eq!(table.endorsements(), Endorsements { vcek, vlek, intermediate, ark, crl, malformed: None });
        assert_eq!(Endorsements::of_table(&bytes), table.endorsements());
        assert_eq!(Kind::Other(VCEK).to_string(), "certificate 63da758de6644564adc5f4b93be8accd");
    }

    #[test]
    fn a_host_without_certificates_gives_an_empty_table_and_pages_have_an_end() {
        assert_eq!(CertificateTable::parse(&[0; 24]).unwrap(), CertificateTable::default());
        assert_eq!(CertificateTable::parse(&[0; 4096]).unwrap().endorsements(), Endorsements::default());
        let padded = [table(&[(VCEK, 48, 3)], 3), vec![0; 99]].concat();
        assert_eq!(CertificateTable::parse(&padded).unwrap().get(Kind::Vcek), Some(&[0xc; 3][..]));
    }

    /// no-silent-trust: the host's numbers are checked.
    #[test]
    fn no_silent_trust_tables_that_are_none() {
        for (bytes, expected) in [
            (vec![0; 23], "the table of 0 certificates has no end: a row of zeros"),
            (row(VCEK, 48, 1), "the table of 1 certificates has no end: a row of zeros"),
            (
                table(&[(VCEK, 47, 1)], 9),
                "the VCEK is at offset 0x2f with 0x1 bytes; it must lie after the table, which",
            ),
            (
                table(&[(VCEK, 48, 10)], 9),
                "the VCEK is at offset 0x30 with 0xa bytes; it must lie after the table, which",
            ),
            (table(&[(ARK, 48, 0)], 9), "the ARK is at offset 0x30 with 0x0 bytes; it must lie after the table, which"),
            (table(&[(ASK, u32::MAX, u32::MAX)], 9), "the ASK is at offset 0xffffffff with 0xffffffff bytes"),
            (table(&[(VCEK, 72, 2), (VCEK, 74, 2)], 9), "the table has two certificates of one kind, VCEK"),
            (table(&[(VCEK, 73, 2), (ASK, 72, 2)], 9), "the ASK and the VCEK overlap"),
        ] {
            let error = CertificateTable::parse(&bytes).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    fn rows() -> impl Strategy<Value = Vec<([u8; 16], u32, u32)>> {
        let guid = prop::sample::select(vec![VCEK, VLEK, ASK, ARK, CRL, [1; 16]]);
        prop::collection::vec((guid, 0..200u32, 0..99u32), 0..4)
    }

    proptest! {
        /// no-silent-trust: no bytes make it panic, and what it gives is what is there.
        #[test]
        fn no_silent_trust_any_table(
            rows in rows(),
            contents in 0..200usize,
            cut in 0..400usize,
        ) {
            let mut bytes = table(&rows, contents);
            bytes.truncate(cut);
            if let Ok(table) = CertificateTable::parse(&bytes) {
                for (guid, offset, length) in rows {
                    let place = offset as usize..(offset + length) as usize;
                    prop_assert_eq!(table.get(Kind::of(guid)), bytes.get(place));
                }
            }
        }
    }
}

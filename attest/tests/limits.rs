//! Law no-silent-trust: whoever sends evidence does not choose how long it takes to refuse it. What is read before any
//! signature is checked has no more parts than it needs.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod common;

use attest::snp::{Anchors, CertificateTable, Endorsements, verify};
use common::{NOW, failed, vector};
use der::asn1::{AnyRef, ObjectIdentifier, OctetStringRef};
use der::{Decode as _, Encode as _, Reader as _, SliceReader, Tag};

/// Everything in this sequence, as it stands there.
fn members(sequence: &[u8]) -> Vec<&[u8]> {
    let mut reader = SliceReader::new(AnyRef::from_der(sequence).unwrap().value()).unwrap();
    let mut members = Vec::new();
    while !reader.is_finished() {
        members.push(reader.tlv_bytes().unwrap());
    }
    members
}

fn sequence(members: &[&[u8]]) -> Vec<u8> {
    AnyRef::new(Tag::Sequence, &members.concat()).unwrap().to_der().unwrap()
}

/// An extension that nobody knows, and that need not be understood: another one for each number.
fn extension(number: u32) -> Vec<u8> {
    let id = ObjectIdentifier::new_unwrap("2.5.29").push_arc(1000 + number).unwrap().to_der().unwrap();
    sequence(&[&id, &OctetStringRef::new(&[]).unwrap().to_der().unwrap()])
}

/// The certificate with so many extensions: its own, and others behind them.
fn with_extensions(certificate: &[u8], count: usize) -> Vec<u8> {
    let [signed, algorithm, signature] = members(certificate)[..] else { unreachable!("it is no certificate") };
    let fields = members(signed);
    // They are the last, within [3].
    let (explicit, fields) = fields.split_last().unwrap();
    let explicit = AnyRef::from_der(explicit).unwrap();
    let own = members(explicit.value());
    let more: Vec<_> = (0..).take(count - own.len()).map(extension).collect();
    let all = sequence(&own.into_iter().chain(more.iter().map(Vec::as_slice)).collect::<Vec<_>>());
    let explicit = AnyRef::new(der::Tagged::tag(&explicit), &all).unwrap().to_der().unwrap();
    sequence(&[&sequence(&[fields, &[&explicit]].concat()), algorithm, signature])
}

#[test]
fn no_silent_trust_certificates_of_many_extensions() {
    let [report, vek, ask] = ["real/genoa-v3-ms.report", "real/genoa-v3-ms.vek.der", "amd/ask-genoa.der"].map(vector);
    let found = |count| {
        let vek = with_extensions(&vek, count);
        assert!(vek.len() < 1 << 20, "as much as a request may be");
        let endorsements = Endorsements { vcek: Some(&vek), intermediate: Some(&ask), ..Endorsements::default() };
        let rejected = verify(&report, &endorsements, &Anchors::amd(), NOW).unwrap_err();
        let certificate = rejected.checks().named("key.certificate").unwrap().to_string();
        (failed(&rejected), certificate)
    };
    // As many as there may be: it is read, and nobody signed it.
    assert_eq!(found(64).0, ["key.signature"]);
    for count in [65, 50_000] {
        let (names, certificate) = found(count);
        assert_eq!(names, ["key.certificate"]);
        let expected = format!("is a certificate with {count} extensions; none has more than 64");
        assert!(certificate.contains(&expected), "{certificate}");
    }
}

/// A table of so many certificates of a byte each, all of kinds that nobody knows.
fn table(rows: u32) -> Vec<u8> {
    let start = 24 * (rows + 1);
    let row = |number: u32| {
        [&u128::from(number + 1).to_be_bytes()[..], &(start + number).to_le_bytes(), &[1, 0, 0, 0]].concat()
    };
    let rows_of: Vec<u8> = (0..rows).flat_map(row).collect();
    [rows_of, vec![0; 24], vec![0xc; rows as usize]].concat()
}

/// A table that is none is an answer of its own, whatever else endorses the report.
#[test]
fn no_silent_trust_a_table_that_is_none_is_named() {
    let [report, vek, ask] = ["real/genoa-v3-ms.report", "real/genoa-v3-ms.vek.der", "amd/ask-genoa.der"].map(vector);
    let all_rows = table(65);
    let endorsements = Endorsements { vcek: Some(&vek), intermediate: Some(&ask), ..Endorsements::of_table(&all_rows) };
    let rejected = verify(&report, &endorsements, &Anchors::amd(), NOW).unwrap_err();
    assert_eq!(failed(&rejected), ["chain.table"]);
    let said = rejected.checks().named("chain.table").unwrap().to_string();
    assert!(said.contains("malformed: the table has more than 64 certificates"), "{said}");
}

#[test]
fn no_silent_trust_tables_of_many_rows() {
    assert_eq!(CertificateTable::parse(&table(64)).unwrap().iter().count(), 64);
    for rows in [65, 30_000] {
        let table = table(rows);
        assert!(table.len() < 1 << 20, "as much as a request may be");
        let error = CertificateTable::parse(&table).unwrap_err();
        assert_eq!(error.to_string(), "the table has more than 64 certificates");
    }
    // It need not be seen whether so long a table ends.
    let endless = vec![1; 24 * 30_000];
    assert_eq!(CertificateTable::parse(&endless).unwrap_err().to_string(), "the table has more than 64 certificates");
}

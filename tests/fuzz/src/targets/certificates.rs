//! Certificates, lists of revoked ones, chains in PEM, and Intel's extension.

use std::sync::LazyLock;

use attest::parsers;

use crate::vectors::{all, collateral, vector};

/// Object identifiers in DER that something follows from.
pub(crate) const WORDS: &[&str] = &[
    "\\x06\\x09\\x2A\\x86\\x48\\x86\\xF7\\x0D\\x01\\x01\\x0A",
    "\\x06\\x08\\x2A\\x86\\x48\\xCE\\x3D\\x04\\x03\\x02",
    "\\x06\\x09\\x60\\x86\\x48\\x01\\x65\\x03\\x04\\x02\\x02",
    "\\x06\\x09\\x2B\\x06\\x01\\x04\\x01\\x9C\\x78\\x01\\x04",
    "\\x06\\x0A\\x2A\\x86\\x48\\x86\\xF8\\x4D\\x01\\x0D\\x01\\x02",
    "\\x06\\x03\\x55\\x1D\\x14",
    "\\x06\\x03\\x55\\x1D\\x1C",
    "\\x01\\x01\\xFF",
    "\\x30\\x82\\xFF\\xFF",
    "\\x30\\x84\\xFF\\xFF\\xFF\\xFF",
    "\\x30\\x80",
];

/// Intel's extension and its contents' length are found by its identifier.
const SGX: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 0x01, 0x0d, 0x01, 0x04, 0x82];

pub(crate) fn certificate(input: &[u8]) {
    let _ = parsers::certificate(input);
    let _ = attest::snp::Anchors::none().with_test_root(attest::snp::Product::Milan, input.get(..64).unwrap_or(input));
}

pub(crate) fn certificate_seeds() -> Vec<Vec<u8>> {
    let mut seeds = [all("snp/attest/amd", ".der"), all("snp/attest/real", ".vek.der")].concat();
    seeds.push(vector("snp/attest/synthetic/good-hwid-der-wrapped.vek.der"));
    seeds.push(vector("tdx/attest/synthetic/root.der"));
    seeds.push(PCK.clone());
    seeds
}

pub(crate) fn revocation_list(input: &[u8]) {
    let _ = parsers::revocation_list(input, &PCK);
}

pub(crate) fn list_seeds() -> Vec<Vec<u8>> {
    let phala = collateral("real/v4-uptodate-phala");
    let mut seeds = vec![phala.bytes("root_ca_crl"), phala.bytes("pck_crl")];
    seeds.extend(all("snp/attest/amd", ".der").into_iter().filter(|der| der.len() < 1000));
    seeds.push(vector("snp/attest/synthetic/crl-milan-asvk-revoked.der"));
    seeds
}

pub(crate) fn pem_chain(input: &[u8]) {
    if let Some(bytes) = parsers::pem_chain(input) {
        assert!(bytes <= input.len(), "{bytes} bytes of certificates in {}", input.len());
    }
}

pub(crate) fn pem_seeds() -> Vec<Vec<u8>> {
    let phala = collateral("real/v4-uptodate-phala");
    let certificate = b"-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n";
    vec![phala.text("tcb_info_issuer_chain"), certificate.repeat(2), certificate.repeat(3)]
}

pub(crate) fn pck_extension(input: &[u8]) {
    let _ = parsers::pck_extension(input);
}

pub(crate) fn pck_seeds() -> Vec<Vec<u8>> {
    let start = PCK.windows(SGX.len()).position(|window| window == SGX).unwrap() + SGX.len();
    let length = usize::from(u16::from_be_bytes([PCK[start], PCK[start + 1]]));
    let contents = &PCK[start + 2..][..length];
    assert!(parsers::pck_extension(contents), "the seed is none");
    vec![contents.to_vec()]
}

/// A real platform's certificate, in DER.
pub(crate) static PCK: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let quote = vector("tdx/attest/real/v4-uptodate-phala.quote");
    let chain = attest::tdx::Quote::parse(&quote).unwrap().pck_chain();
    let text = std::str::from_utf8(chain).unwrap();
    let base64: String = text.lines().skip(1).take_while(|line| !line.starts_with("-----END")).collect();
    decoded(&base64)
});

fn decoded(base64: &str) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => Some(u32::from(byte - b'A')),
        b'a'..=b'z' => Some(u32::from(byte - b'a') + 26),
        b'0'..=b'9' => Some(u32::from(byte - b'0') + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let digits: Vec<_> = base64.bytes().filter_map(digit).collect();
    let bytes = digits.chunks(4).flat_map(|four| {
        let bits = four.iter().fold(0, |bits, digit| bits << 6 | digit) << (6 * (4 - four.len()));
        bits.to_be_bytes().into_iter().skip(1).take(four.len() * 6 / 8)
    });
    bytes.collect()
}

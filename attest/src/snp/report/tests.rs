//! What a report is, and what of it must be zero.

use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;

fn report(version: u32) -> Vec<u8> {
    let mut bytes = vec![0; REPORT_BYTES];
    bytes[0..4].copy_from_slice(&version.to_le_bytes());
    bytes[0x0a] = 3;
    bytes[0x34] = 1;
    bytes
}

fn error(bytes: &[u8]) -> ReportError {
    Report::parse(bytes).unwrap_err()
}

fn with(version: u32, at: usize, byte: u8) -> Vec<u8> {
    let mut bytes = report(version);
    bytes[at] = byte;
    bytes
}

#[test]
fn versions_are_known_or_refused() {
    for version in 2..=5 {
        assert_eq!(Report::parse(&report(version)).unwrap().version(), version);
    }
    for version in [0, 1, 6, 0x102, u32::MAX] {
        assert_eq!(error(&report(version)), ReportError::Version(version));
    }
}

/// no-silent-trust: a byte too few or too many is another thing.
#[test]
fn no_silent_trust_lengths() {
    let long = vec![0; REPORT_BYTES + 1];
    for bytes in [&report(2)[..REPORT_BYTES - 1], &long, &[]] {
        assert_eq!(error(bytes), ReportError::Length(bytes.len()));
    }
    assert_eq!(error(&[0; 9]).to_string(), "it has 9 bytes, not 1184");
}

/// no-silent-trust: what a version does not define is zero in it, and later versions define more.
#[test]
fn no_silent_trust_reserved_bytes() {
    for version in 2..=5 {
        let mut reserved: Vec<usize> =
            [0x4c..0x50, 0x18b..0x1a0, 0x1eb..0x1ec, 0x1ef..0x1f0, 0x208..0x2a0, 0x330..0x4a0]
                .into_iter()
                .flatten()
                .collect();
        if version < 3 {
            reserved.extend(0x188..0x18b);
        }
        if version < 5 {
            reserved.extend(0x1f8..0x208);
        }
        for at in 0x50..REPORT_BYTES {
            let bytes = with(version, at, 0x40);
            let expected = if reserved.contains(&at) { Err(ReportError::Reserved(at)) } else { Ok(()) };
            assert_eq!(Report::parse(&bytes).map(|_| ()), expected, "version {version}, {at:#x}");
        }
        assert_eq!(error(&with(version, 0x4d, 1)).to_string(), "byte 0x4d is reserved and must be 0");
    }
}

#[test]
fn no_silent_trust_numbers_that_mean_nothing() {
    assert_eq!(error(&with(3, 0x0a, 1)), ReportError::Policy(0x1_0000));
    assert_eq!(error(&with(3, 0x0b, 4)), ReportError::Policy(0x403_0000));
    assert_eq!(error(&with(3, 0x30, 4)), ReportError::Vmpl(4));
    assert_eq!(error(&with(3, 0x31, 1)), ReportError::Vmpl(0x100));
    assert_eq!(error(&with(3, 0x34, 2)), ReportError::SignatureAlgorithm(2));
    for key_info in [2 << 2, 6 << 2, 1 << 5] {
        assert_eq!(error(&with(3, 0x48, key_info)), ReportError::KeyInfo(key_info.into()));
    }
}

#[test]
fn small_fields_are_read_by_their_bits() {
    let of = |at, byte| Report::parse(with(3, at, byte).leak()).unwrap();
    assert_eq!(of(0x30, 2).requester(), Requester::Vmpl(2));
    let mut host = report(3);
    host[0x30..0x34].fill(0xff);
    assert_eq!(Report::parse(&host).unwrap().requester(), Requester::Host);
    let keys = [0, 1 << 2, 7 << 2].map(|key_info| of(0x48, key_info).signing_key());
    assert_eq!(keys, [SigningKey::Vcek, SigningKey::Vlek, SigningKey::None]);
    let [author, mask] = [1, 2].map(|key_info| of(0x48, key_info));
    assert!(author.author_key_enabled() && !author.mask_chip_key());
    assert!(mask.mask_chip_key() && !mask.author_key_enabled());
    assert_eq!(of(0x1ed, 7).committed_version(), FirmwareVersion { major: 0, minor: 7, build: 0 });
    assert_eq!(of(0x1ea, 7).current_version().to_string(), "7.0 build 0");
}

#[test]
fn numbers_of_a_signature_are_little_endian() {
    let mut bytes = report(3);
    (bytes[0x2a0], bytes[0x2e8 + 47]) = (1, 2);
    let (r, s) = Report::parse(&bytes).unwrap().signature().unwrap();
    assert_eq!((r[47], s[0]), (1, 2));
    for at in [0x2a0 + 48, 0x2e8 + 71] {
        assert_eq!(Report::parse(&with(3, at, 1)).unwrap().signature(), None);
    }
}

proptest! {
    /// no-silent-trust: any bytes are a report or none, and a report is those bytes.
    #[test]
    fn no_silent_trust_any_bytes(
        version in 0..7u32,
        changes in prop::collection::vec((0..REPORT_BYTES, any::<u8>()), 0..9),
        length in prop_oneof![9 => Just(REPORT_BYTES), 1 => 0..2 * REPORT_BYTES],
    ) {
        let mut bytes = report(version);
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        bytes.resize(length, 0);
        if let Ok(report) = Report::parse(&bytes) {
            prop_assert_eq!(report.bytes(), &bytes[..]);
            prop_assert_eq!(report.signed_bytes(), &bytes[..SIGNED_BYTES]);
            let _ = (report.signature(), report.processor(), report.requester(), report.signing_key());
        }
    }
}

//! Quotes, as a quoting enclave writes and signs them.
//!
//! Owns the layout of version 4 with the TD report of TDX 1.0, and of version 5 with that of TDX 1.5: what a guest has to
//! say ([`Statement`]), what its platform adds, and the two signatures with their certificates. It judges nothing: a
//! statement may be as strange as a test wants it. Specification: Intel TDX DCAP Quoting Library API, appendix A.

use sha2::{Digest as _, Sha256};

use super::platform::Platform;
use crate::bytes::put;

/// TDATTRIBUTES: pages that the host takes away stop the guest.
pub const SEPT_VE_DISABLE: u64 = 1 << 28;
/// XFAM: x87, SSE, AVX and AVX-512.
pub const USUAL_XFAM: u64 = 0xe7;

/// The quoting enclave's attributes: 64 bits, initialised, with the provisioning key; then XFRM.
pub(super) const QE_ATTRIBUTES: [u8; 16] = [0x15, 0, 0, 0, 0, 0, 0, 0, 0xe7, 0, 0, 0, 0, 0, 0, 0];
/// Its product number.
pub(super) const QE_PRODUCT: u16 = 2;

const HEADER_BYTES: usize = 48;
const ECDSA_P256: u16 = 2;
const TEE_TDX: u32 = 0x81;
/// Intel's quoting enclave.
const VENDOR: [u8; 16] =
    [0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07];
const BODY_10_BYTES: usize = 584;
const BODY_15_BYTES: usize = 648;
const BODY_15: u16 = 3;
const QE_REPORT_BYTES: usize = 384;
const QE_REPORT: u16 = 6;
const PCK_CHAIN: u16 = 5;

/// Which quotes are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// Version 4, of TDX 1.0.
    #[default]
    V4,
    /// Version 5, of TDX 1.5.
    V5,
}

/// What a quote says of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The quote's version.
    pub version: Version,
    /// What the guest was launched with (MRTD).
    pub mr_td: [u8; 48],
    /// What was measured since (RTMR0 to RTMR3).
    pub rtmrs: [[u8; 48]; 4],
    /// What the guest wants to have signed (REPORT_DATA).
    pub report_data: [u8; 64],
    /// What its host said of the configuration at launch (MRCONFIGID).
    pub mr_config_id: [u8; 48],
    /// Whose it is, as the host said (MROWNER).
    pub mr_owner: [u8; 48],
    /// What that one configured, as the host said (MROWNERCONFIG).
    pub mr_owner_config: [u8; 48],
    /// TDATTRIBUTES.
    pub attributes: u64,
    /// XFAM.
    pub xfam: u64,
}

impl Statement {
    /// About a guest that was launched as usual and has this MRTD, and has measured and said nothing else.
    #[must_use]
    pub fn new(mr_td: [u8; 48]) -> Statement {
        Statement {
            version: Version::V4,
            mr_td,
            rtmrs: [[0; 48]; 4],
            report_data: [0; 64],
            mr_config_id: [0; 48],
            mr_owner: [0; 48],
            mr_owner_config: [0; 48],
            attributes: SEPT_VE_DISABLE,
            xfam: USUAL_XFAM,
        }
    }

    /// The TD report, with what its platform says.
    fn body(&self, platform: &Platform) -> Vec<u8> {
        let tee = platform.versions().tee;
        let mut body = match self.version {
            Version::V4 => vec![0; BODY_10_BYTES],
            Version::V5 => vec![0; BODY_15_BYTES],
        };
        put(&mut body, 0, &tee);
        put(&mut body, 16, &platform.mr_seam());
        put(&mut body, 120, &self.attributes.to_le_bytes());
        put(&mut body, 128, &self.xfam.to_le_bytes());
        put(&mut body, 136, &self.mr_td);
        put(&mut body, 184, &self.mr_config_id);
        put(&mut body, 232, &self.mr_owner);
        put(&mut body, 280, &self.mr_owner_config);
        put(&mut body, 328, &self.rtmrs.concat());
        put(&mut body, 520, &self.report_data);
        if self.version == Version::V5 {
            // What runs now is what ran when the guest was launched; no service TD is bound to it.
            put(&mut body, BODY_10_BYTES, &tee);
        }
        body
    }

    fn header(&self, platform: &Platform) -> [u8; HEADER_BYTES] {
        let number: u16 = match self.version {
            Version::V4 => 4,
            Version::V5 => 5,
        };
        let mut header = [0; HEADER_BYTES];
        put(&mut header, 0, &number.to_le_bytes());
        put(&mut header, 2, &ECDSA_P256.to_le_bytes());
        put(&mut header, 4, &TEE_TDX.to_le_bytes());
        put(&mut header, 12, &VENDOR);
        put(&mut header, 28, &platform.qe_id());
        header
    }
}

/// A quote of this guest on this platform, whose key has these certificates (in PEM).
#[must_use]
pub fn quote(statement: &Statement, platform: &Platform, chain: &str) -> Vec<u8> {
    let body = statement.body(platform);
    let mut quote = statement.header(platform).to_vec();
    if statement.version == Version::V5 {
        quote.extend(BODY_15.to_le_bytes());
        quote.extend(length(&body));
    }
    quote.extend(body);
    let data = signature_data(&quote, platform, chain);
    quote.extend(length(&data));
    quote.extend(data);
    quote
}

fn signature_data(signed: &[u8], platform: &Platform, chain: &str) -> Vec<u8> {
    let point = platform.attestation_key().public_point();
    // Without the byte that says that it is uncompressed.
    let key = point.get(1..).unwrap_or_default();
    // What the quoting enclave of real platforms writes there as well.
    let authenticated: [u8; 32] = std::array::from_fn(|index| index.to_le_bytes()[0]);
    let report = qe_report(platform, key, &authenticated);
    let mut certification = [&report[..], &platform.key().sign(&report)].concat();
    certification.extend(authenticated.len().to_le_bytes().iter().take(2));
    certification.extend(authenticated);
    certification.extend(PCK_CHAIN.to_le_bytes());
    certification.extend(length(chain.as_bytes()));
    certification.extend(chain.as_bytes());
    let mut data = [&platform.attestation_key().sign(signed)[..], key].concat();
    data.extend(QE_REPORT.to_le_bytes());
    data.extend(length(&certification));
    data.extend(certification);
    data
}

/// What the quoting enclave has reported of itself, with its attestation key.
fn qe_report(platform: &Platform, key: &[u8], authenticated: &[u8]) -> [u8; QE_REPORT_BYTES] {
    let versions = platform.versions();
    let mut report = [0; QE_REPORT_BYTES];
    put(&mut report, 0, &versions.components);
    put(&mut report, 48, &QE_ATTRIBUTES);
    put(&mut report, 64, &platform.qe_measurement());
    put(&mut report, 128, &platform.qe_signer());
    put(&mut report, 256, &QE_PRODUCT.to_le_bytes());
    put(&mut report, 258, &versions.qe.to_le_bytes());
    put(&mut report, 320, &Sha256::new().chain_update(key).chain_update(authenticated).finalize());
    report
}

/// A length of 4 bytes.
fn length(of: &[u8]) -> [u8; 4] {
    u32::try_from(of.len()).unwrap_or(u32::MAX).to_le_bytes()
}

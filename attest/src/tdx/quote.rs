//! Quotes, as the quoting enclave writes them.
//!
//! Owns the layout of versions 4 and 5, with TD reports of TDX 1.0 and 1.5 in them, signed by ECDSA on P-256. A quote
//! stays the bytes that were received, because these are signed; every length in it is somebody's word and must agree
//! with what is there. Does not own who signed: a quote that was parsed says nothing that can be believed, see
//! [`mod@crate::tdx::verify`].
//!
//! Not read: certification data other than a certificate chain in the quote itself. What an extended body of TDX 1.5
//! (type 4) means is taken from the crate `dcap-qvl`; no document at hand names its fields. Specification: Intel TDX DCAP Quoting Library API, appendix A,
//! "Quote Formats".

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes as _, KnownLayout, Unaligned};

pub use attributes::TdAttributes;
pub(crate) use layout::EnclaveReport;
pub use layout::Extension;
use layout::{Body, Body15, BodyHeader, CertificationHeader, Header, QeHeader, SignatureHeader};

mod attributes;
mod layout;

/// Attestation keys on P-256.
const ECDSA_P256: u16 = 2;
/// Quotes of trust domains; 0 are those of enclaves.
const TEE_TDX: u32 = 0x81;
/// Intel's quoting enclave.
const INTEL: [u8; 16] = 0x939a_7233_f79c_4ca9_940a_0db3_957f_0607_u128.to_be_bytes();
/// Certification data: the QE's report, and a chain of certificates in PEM.
const QE_REPORT: u16 = 6;
const PCK_CHAIN: u16 = 5;
/// Body types of version 5.
const TD_10: u16 = 2;
const TD_15: u16 = 3;
const TD_15_EXTENDED: u16 = 4;

/// Why bytes are no quote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuoteError {
    /// It ends too early.
    #[error("it ends within {part}, {missing} bytes too early")]
    Truncated {
        /// What is not all there.
        part: &'static str,
        /// Bytes that are missing.
        missing: usize,
    },
    /// Another version.
    #[error("its version is {0}; 4 and 5 are known")]
    Version(u16),
    /// Another kind of key.
    #[error("its attestation key is of type {0}, not {ECDSA_P256} (ECDSA on P-256)")]
    KeyType(u16),
    /// Not of a trust domain.
    #[error("its TEE type is {0:#x}, not {TEE_TDX:#x} (TDX)")]
    TeeType(u32),
    /// Of a quoting enclave that isn't Intel's.
    #[error("its quoting enclave is vendor {0:032x}'s, not Intel's")]
    Vendor(u128),
    /// Another kind of body.
    #[error("its body is of type {0}; {TD_10} (TDX 1.0), {TD_15} and {TD_15_EXTENDED} (TDX 1.5) are known")]
    BodyType(u16),
    /// A length that is not what it must be.
    #[error("{part} should have {said} bytes, and has {there}")]
    Length {
        /// Of what.
        part: &'static str,
        /// What the quote says.
        said: u32,
        /// What it must be.
        there: usize,
    },
    /// Other certification data.
    #[error("{part} is of type {found}, not {wanted}")]
    Certification {
        /// Whose.
        part: &'static str,
        /// The type that is there.
        found: u16,
        /// The one that is known.
        wanted: u16,
    },
    /// Something after its end. Zeros are not: buffers of a fixed size are passed on whole.
    #[error("byte {0:#x} follows its end and must be 0")]
    Trailing(usize),
}

/// A quote, well-formed and not verified.
#[derive(Clone, Copy)]
pub struct Quote<'a> {
    bytes: &'a [u8],
    signed: &'a [u8],
    header: &'a Header,
    body: &'a Body,
    body15: Option<&'a Body15>,
    extension: Option<&'a Extension>,
    signature: &'a SignatureHeader,
    qe: &'a QeHeader,
    authenticated: &'a [u8],
    pck_chain: &'a [u8],
}

impl<'a> Quote<'a> {
    /// Reads a quote. Zeros may follow it.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, QuoteError> {
        let (header, rest) = take::<Header>(bytes, "the header")?;
        header.check()?;
        let (kind, rest) = if header.version.get() == 4 { (TD_10, rest) } else { body_kind(rest)? };
        let (body, rest) = take::<Body>(rest, "the body")?;
        let (body15, rest) = take_if::<Body15>(kind != TD_10, rest)?;
        let (extension, rest) = take_if::<Extension>(kind == TD_15_EXTENDED, rest)?;
        let signed = &bytes[..bytes.len() - rest.len()];
        let (length, rest) = take::<zerocopy::little_endian::U32>(rest, "the signature data's length")?;
        let (data, padding) = split(rest, length.get(), "the signature data")?;
        let end = bytes.len() - padding.len();
        if let Some(index) = padding.iter().position(|byte| *byte != 0) {
            return Err(QuoteError::Trailing(end + index));
        }
        let (signature, rest) = take::<SignatureHeader>(data, "the signature data")?;
        let inner = exactly(rest, signature.certification, QE_REPORT, "the certification data")?;
        let (qe, rest) = take::<QeHeader>(inner, "the QE's report")?;
        let (authenticated, rest) = split(rest, qe.authenticated_length.get().into(), "the QE's authenticated data")?;
        let (chain, rest) = take::<CertificationHeader>(rest, "the QE's certification data")?;
        let pck_chain = exactly(rest, *chain, PCK_CHAIN, "the QE's certification data")?;
        let bytes = &bytes[..end];
        Ok(Self { bytes, signed, header, body, body15, extension, signature, qe, authenticated, pck_chain })
    }

    /// All of it, as it was received, without the zeros that followed.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// What of it the attestation key signed, as it was received: header and body.
    #[must_use]
    pub fn signed_bytes(&self) -> &'a [u8] {
        self.signed
    }

    /// Version of the quote's format.
    #[must_use]
    pub fn version(&self) -> u16 {
        self.header.version.get()
    }

    /// What the quoting enclave's host wanted in the header.
    #[must_use]
    pub fn user_data(&self) -> &'a [u8; 20] {
        &self.header.user_data
    }

    /// TEE_TCB_SVN: versions of what ran when the guest was launched. The first two are the TDX module's: its minor
    /// and its major version.
    #[must_use]
    pub fn tee_tcb_svn(&self) -> &'a [u8; 16] {
        &self.body.tee_tcb_svn
    }

    /// TEE_TCB_SVN2: versions of what runs now; TDX 1.0 doesn't say.
    #[must_use]
    pub fn tee_tcb_svn2(&self) -> Option<&'a [u8; 16]> {
        self.body15.map(|body| &body.tee_tcb_svn2)
    }

    /// MRSEAM: the TDX module.
    #[must_use]
    pub fn mr_seam(&self) -> &'a [u8; 48] {
        &self.body.mr_seam
    }

    /// MRSIGNERSEAM: who signed the TDX module; zeros for Intel.
    #[must_use]
    pub fn mr_signer_seam(&self) -> &'a [u8; 48] {
        &self.body.mr_signer_seam
    }

    /// SEAMATTRIBUTES: the TDX module's.
    #[must_use]
    pub fn seam_attributes(&self) -> &'a [u8; 8] {
        &self.body.seam_attributes
    }

    /// TDATTRIBUTES.
    #[must_use]
    pub fn td_attributes(&self) -> TdAttributes {
        TdAttributes::new(self.body.td_attributes.get())
    }

    /// XFAM: which extended features of the processor the guest may use.
    #[must_use]
    pub fn xfam(&self) -> u64 {
        self.body.xfam.get()
    }

    /// MRTD: what the guest was launched with.
    #[must_use]
    pub fn mr_td(&self) -> &'a [u8; 48] {
        &self.body.mr_td
    }

    /// MRCONFIGID: what the host said at launch.
    #[must_use]
    pub fn mr_config_id(&self) -> &'a [u8; 48] {
        &self.body.mr_config_id
    }

    /// MROWNER: whose the guest is, as the host said at launch.
    #[must_use]
    pub fn mr_owner(&self) -> &'a [u8; 48] {
        &self.body.mr_owner
    }

    /// MROWNERCONFIG: what the owner configured, as the host said at launch.
    #[must_use]
    pub fn mr_owner_config(&self) -> &'a [u8; 48] {
        &self.body.mr_owner_config
    }

    /// RTMR0 to RTMR3: what the guest measured itself.
    #[must_use]
    pub fn rtmrs(&self) -> &'a [[u8; 48]; 4] {
        &self.body.rtmrs
    }

    /// What the guest wanted to be signed.
    #[must_use]
    pub fn report_data(&self) -> &'a [u8; 64] {
        &self.body.report_data
    }

    /// MR_SERVICETD: service TDs that are bound to the guest; zeros if none is. TDX 1.0 doesn't say.
    #[must_use]
    pub fn mr_service_td(&self) -> Option<&'a [u8; 48]> {
        self.body15.map(|body| &body.mr_service_td)
    }

    /// What else TDX 1.5 says, in quotes whose body is extended.
    #[must_use]
    pub fn extension(&self) -> Option<&'a Extension> {
        self.extension
    }

    /// The signature of [`Self::signed_bytes`]: r and s, big-endian.
    #[must_use]
    pub fn signature(&self) -> &'a [u8; 64] {
        &self.signature.signature
    }

    /// The attestation key: x and y, big-endian.
    #[must_use]
    pub fn attestation_key(&self) -> &'a [u8; 64] {
        &self.signature.key
    }

    pub(crate) fn qe_report(&self) -> &'a EnclaveReport {
        &self.qe.report
    }

    pub(crate) fn qe_report_bytes(&self) -> &'a [u8] {
        self.qe.report.as_bytes()
    }

    pub(crate) fn qe_signature(&self) -> &'a [u8; 64] {
        &self.qe.signature
    }

    /// What the quoting enclave binds to its report together with the attestation key.
    #[must_use]
    pub fn authenticated_data(&self) -> &'a [u8] {
        self.authenticated
    }

    /// The certificates of the key that signed the QE's report, in PEM: its own first, the root last.
    #[must_use]
    pub fn pck_chain(&self) -> &'a [u8] {
        self.pck_chain
    }
}

impl Header {
    fn check(&self) -> Result<(), QuoteError> {
        let (version, key, tee) = (self.version.get(), self.key_type.get(), self.tee_type.get());
        match (version, key, tee) {
            (version, ..) if !matches!(version, 4 | 5) => Err(QuoteError::Version(version)),
            (.., tee) if tee != TEE_TDX => Err(QuoteError::TeeType(tee)),
            (_, key, _) if key != ECDSA_P256 => Err(QuoteError::KeyType(key)),
            _ if self.vendor != INTEL => Err(QuoteError::Vendor(u128::from_be_bytes(self.vendor))),
            _ => Ok(()),
        }
    }
}

/// The kind of a body of version 5, if its length agrees.
fn body_kind(bytes: &[u8]) -> Result<(u16, &[u8]), QuoteError> {
    let (header, rest) = take::<BodyHeader>(bytes, "the body's header")?;
    let there = match header.kind.get() {
        TD_10 => size_of::<Body>(),
        TD_15 => size_of::<Body>() + size_of::<Body15>(),
        TD_15_EXTENDED => size_of::<Body>() + size_of::<Body15>() + size_of::<Extension>(),
        kind => return Err(QuoteError::BodyType(kind)),
    };
    match usize::try_from(header.length.get()) {
        Ok(said) if said == there => Ok((header.kind.get(), rest)),
        _ => Err(QuoteError::Length { part: "the body", said: header.length.get(), there }),
    }
}

fn take<'a, T>(bytes: &'a [u8], part: &'static str) -> Result<(&'a T, &'a [u8]), QuoteError>
where
    T: FromBytes + KnownLayout + Immutable + Unaligned,
{
    let missing = size_of::<T>().saturating_sub(bytes.len());
    T::ref_from_prefix(bytes).map_err(|_| QuoteError::Truncated { part, missing })
}

/// A further part of the body, in quotes that have it.
fn take_if<T>(there: bool, bytes: &[u8]) -> Result<(Option<&T>, &[u8]), QuoteError>
where
    T: FromBytes + KnownLayout + Immutable + Unaligned,
{
    if !there {
        return Ok((None, bytes));
    }
    take::<T>(bytes, "the body").map(|(part, rest)| (Some(part), rest))
}

/// As many bytes as the quote says, and those after them.
fn split<'a>(bytes: &'a [u8], said: u32, part: &'static str) -> Result<(&'a [u8], &'a [u8]), QuoteError> {
    let length = usize::try_from(said).unwrap_or(usize::MAX);
    let missing = length.saturating_sub(bytes.len());
    bytes.split_at_checked(length).ok_or(QuoteError::Truncated { part, missing })
}

/// Certification data that fill what is left.
fn exactly<'a>(
    bytes: &'a [u8],
    header: CertificationHeader,
    wanted: u16,
    part: &'static str,
) -> Result<&'a [u8], QuoteError> {
    let (found, said) = (header.kind.get(), header.length.get());
    if found != wanted {
        return Err(QuoteError::Certification { part, found, wanted });
    }
    if usize::try_from(said).ok() != Some(bytes.len()) {
        return Err(QuoteError::Length { part, said, there: bytes.len() });
    }
    Ok(bytes)
}

impl fmt::Debug for Quote<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quote")
            .field("version", &self.version())
            .field("td_attributes", &self.td_attributes())
            .finish_non_exhaustive()
    }
}

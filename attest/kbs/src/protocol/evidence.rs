//! Evidence, as guests send it.
//!
//! Owns two forms of SNP evidence: what confidential-containers' guests send (the report as the structure that the
//! crate `sev` has, certificates in a list), put back together as the bytes that were signed, and bytes in base64,
//! which is what our own guests send. A TDX quote comes in base64. Does not own what any of it is worth, and believes
//! nothing: if a report was not put together as it was, its signature will not hold.
//!
//! Specifications: 56860, ATTESTATION_REPORT; GHCB (56421), tables of certificates.

use base64ct::{Base64, Encoding};
use kbs_types::Tee;
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::Value;
use serde_json::value::RawValue;

/// Bytes of a report.
const REPORT_BYTES: usize = 1184;
/// More certificates than any table has use for.
const CERTIFICATES_MOST: usize = 16;
const ROW_BYTES: usize = 24;

/// Why something is no evidence.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// Of a technology that we do not know.
    #[error("evidence of {0} is not judged here, only of snp and tdx")]
    Tee(Tee),
    /// Something is missing, or not of its form. What it says is not repeated.
    #[error("the evidence is malformed: a member is missing or not of its form")]
    Form(#[from] serde_json::Error),
    /// Not base64.
    #[error("the evidence's {0} is not base64")]
    Base64(&'static str),
    /// There must be evidence of other devices, which nobody would look at.
    #[error("additional_evidence is not judged here; it must be empty")]
    Additional,
    /// Certificates that no table has room for.
    #[error("cert_chain has {0} certificates, or one that is too long")]
    Certificates(usize),
}

/// What is to be judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// An SNP guest's.
    Snp {
        /// The report; nobody has looked whether it is one.
        report: Vec<u8>,
        /// The table of certificates that came along.
        certificates: Option<Vec<u8>>,
        /// What the guest says was launched.
        launch_log: Option<Vec<u8>>,
    },
    /// A TD's.
    Tdx {
        /// The quote; nobody has looked whether it is one.
        quote: Vec<u8>,
        /// The events that it says happened.
        event_log: Option<Vec<u8>>,
    },
}

impl Evidence {
    /// What a guest of this technology sent. No tree is made of it: members that are not known take no room.
    pub fn parse(tee: Tee, sent: &str) -> Result<Self, EvidenceError> {
        match tee {
            Tee::Snp if serde_json::from_str::<Peek<'_>>(sent)?.is_structure() => {
                let Structure { attestation_report, cert_chain } = serde_json::from_str(sent)?;
                let certificates = cert_chain.map(|chain| {
                    // Those that nobody here asks for are left out.
                    let known = chain.iter().filter_map(|it| Some((it.kind()?, &it.data[..])));
                    table(&known.collect::<Vec<_>>())
                });
                let certificates = certificates.transpose()?;
                Ok(Self::Snp { report: attestation_report.to_bytes(), certificates, launch_log: None })
            }
            Tee::Snp => {
                let SnpBytes { attestation_report, certificates, launch_log } = serde_json::from_str(sent)?;
                Ok(Self::Snp {
                    report: decoded("attestation_report", &attestation_report)?,
                    certificates: certificates.map(|it| decoded("certificates", &it)).transpose()?,
                    launch_log: launch_log.map(|it| decoded("launch_log", &it)).transpose()?,
                })
            }
            Tee::Tdx => {
                let TdxBytes { quote, cc_eventlog } = serde_json::from_str(sent)?;
                Ok(Self::Tdx {
                    quote: decoded("quote", &quote)?,
                    event_log: cc_eventlog.map(|it| decoded("cc_eventlog", &it)).transpose()?,
                })
            }
            _ => Err(EvidenceError::Tee(tee)),
        }
    }

    /// The technology.
    #[must_use]
    pub const fn tee(&self) -> Tee {
        match self {
            Self::Snp { .. } => Tee::Snp,
            Self::Tdx { .. } => Tee::Tdx,
        }
    }

    /// As our own guests send it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let text = |bytes: &Vec<u8>| Base64::encode_string(bytes);
        match self {
            Self::Snp { report, certificates, launch_log } => serde_json::json!(SnpBytes {
                attestation_report: text(report),
                certificates: certificates.as_ref().map(text),
                launch_log: launch_log.as_ref().map(text),
            }),
            Self::Tdx { quote, event_log } => {
                serde_json::json!(TdxBytes { quote: text(quote), cc_eventlog: event_log.as_ref().map(text) })
            }
        }
    }
}

/// Looks that there is no evidence that nobody would look at.
pub fn no_additional(additional_evidence: &str) -> Result<(), EvidenceError> {
    match additional_evidence.trim() {
        "" | "{}" => Ok(()),
        _ => Err(EvidenceError::Additional),
    }
}

#[derive(Serialize, Deserialize)]
struct SnpBytes {
    attestation_report: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    certificates: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    launch_log: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct TdxBytes {
    quote: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cc_eventlog: Option<String>,
}

/// Which of the two forms it is.
#[derive(Deserialize)]
struct Peek<'a> {
    #[serde(borrow)]
    attestation_report: &'a RawValue,
}

#[derive(Deserialize)]
struct Structure<'a> {
    attestation_report: ReportStructure,
    #[serde(borrow)]
    cert_chain: Option<Vec<CertificateStructure<'a>>>,
}

#[derive(Deserialize)]
struct CertificateStructure<'a> {
    #[serde(borrow)]
    cert_type: &'a RawValue,
    data: Vec<u8>,
}

impl Peek<'_> {
    fn is_structure(&self) -> bool {
        self.attestation_report.get().starts_with('{')
    }
}

impl CertificateStructure<'_> {
    fn kind(&self) -> Option<Endorsing> {
        serde_json::from_str(self.cert_type.get()).ok()
    }
}

/// Members that are not named here are of none of the bytes that were signed.
#[derive(Deserialize)]
struct ReportStructure {
    version: u32,
    guest_svn: u32,
    policy: u64,
    family_id: Bytes<16>,
    image_id: Bytes<16>,
    vmpl: u32,
    sig_algo: u32,
    current_tcb: TcbStructure,
    plat_info: u64,
    key_info: u32,
    report_data: Bytes<64>,
    measurement: Bytes<48>,
    host_data: Bytes<32>,
    id_key_digest: Bytes<48>,
    author_key_digest: Bytes<48>,
    report_id: Bytes<32>,
    report_id_ma: Bytes<32>,
    reported_tcb: TcbStructure,
    #[serde(default)]
    cpuid_fam_id: Option<u8>,
    #[serde(default)]
    cpuid_mod_id: Option<u8>,
    #[serde(default)]
    cpuid_step: Option<u8>,
    chip_id: Bytes<64>,
    committed_tcb: TcbStructure,
    current: VersionStructure,
    committed: VersionStructure,
    launch_tcb: TcbStructure,
    #[serde(default)]
    launch_mit_vector: Option<u64>,
    #[serde(default)]
    current_mit_vector: Option<u64>,
    signature: SignatureStructure,
}

#[derive(Deserialize)]
struct TcbStructure {
    #[serde(default)]
    fmc: Option<u8>,
    bootloader: u8,
    tee: u8,
    snp: u8,
    microcode: u8,
}

#[derive(Deserialize)]
struct VersionStructure {
    major: u8,
    minor: u8,
    build: u8,
}

#[derive(Deserialize)]
struct SignatureStructure {
    r: Bytes<72>,
    s: Bytes<72>,
}

impl ReportStructure {
    /// The bytes that it was read from.
    fn to_bytes(&self) -> Vec<u8> {
        let mut to = Vec::with_capacity(REPORT_BYTES);
        to.extend(self.version.to_le_bytes());
        to.extend(self.guest_svn.to_le_bytes());
        to.extend(self.policy.to_le_bytes());
        to.extend(self.family_id.0);
        to.extend(self.image_id.0);
        to.extend(self.vmpl.to_le_bytes());
        to.extend(self.sig_algo.to_le_bytes());
        to.extend(self.current_tcb.packed());
        to.extend(self.plat_info.to_le_bytes());
        to.extend(self.key_info.to_le_bytes());
        to.extend([0; 4]);
        to.extend(self.report_data.0);
        to.extend(self.measurement.0);
        to.extend(self.host_data.0);
        to.extend(self.id_key_digest.0);
        to.extend(self.author_key_digest.0);
        to.extend(self.report_id.0);
        to.extend(self.report_id_ma.0);
        to.extend(self.reported_tcb.packed());
        to.extend([self.cpuid_fam_id, self.cpuid_mod_id, self.cpuid_step].map(Option::unwrap_or_default));
        to.extend([0; 21]);
        to.extend(self.chip_id.0);
        to.extend(self.committed_tcb.packed());
        for VersionStructure { major, minor, build } in [&self.current, &self.committed] {
            to.extend([*build, *minor, *major, 0]);
        }
        to.extend(self.launch_tcb.packed());
        to.extend(self.launch_mit_vector.unwrap_or_default().to_le_bytes());
        to.extend(self.current_mit_vector.unwrap_or_default().to_le_bytes());
        to.extend([0; 0x98]);
        to.extend(self.signature.r.0);
        to.extend(self.signature.s.0);
        to.resize(REPORT_BYTES, 0);
        to
    }
}

impl TcbStructure {
    /// Only Turin has an FMC, and packs differently.
    const fn packed(&self) -> [u8; 8] {
        let Self { fmc, bootloader, tee, snp, microcode } = *self;
        match fmc {
            Some(fmc) => [fmc, bootloader, tee, snp, 0, 0, 0, microcode],
            None => [bootloader, tee, 0, 0, 0, 0, snp, microcode],
        }
    }
}

/// What a certificate in a table is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Endorsing {
    /// AMD's root.
    Ark,
    /// Who issues certificates of keys that sign reports.
    Ask,
    /// A chip's key.
    Vcek,
    /// A provider's.
    Vlek,
    /// A list of those that were revoked.
    Crl,
}

impl Endorsing {
    /// As tables name it.
    const fn guid(self) -> [u8; 16] {
        let guid: u128 = match self {
            Self::Ark => 0xc0b4_06a4_a803_4952_9743_3fb6_014c_d0ae,
            Self::Ask => 0x4ab7_b379_bbac_4fe4_a02f_05ae_f327_c782,
            Self::Vcek => 0x63da_758d_e664_4564_adc5_f4b9_3be8_accd,
            Self::Vlek => 0xa807_4bc2_a25a_483e_aae6_39c0_45a0_b8a1,
            Self::Crl => 0x92f8_1bc3_5811_4d3d_97ff_d19f_88dc_67ea,
        };
        guid.to_be_bytes()
    }
}

/// The table that a host would give with these certificates in it.
pub fn table(certificates: &[(Endorsing, &[u8])]) -> Result<Vec<u8>, EvidenceError> {
    let too_many = || EvidenceError::Certificates(certificates.len());
    if certificates.len() > CERTIFICATES_MOST {
        return Err(too_many());
    }
    let (mut rows, mut contents) = (Vec::new(), Vec::new());
    let start = (certificates.len() + 1) * ROW_BYTES;
    for (kind, data) in certificates {
        let place = [start + contents.len(), data.len()].map(u32::try_from);
        let [Ok(offset), Ok(length)] = place else { return Err(too_many()) };
        rows.extend(kind.guid());
        rows.extend(offset.to_le_bytes());
        rows.extend(length.to_le_bytes());
        contents.extend_from_slice(data);
    }
    rows.extend([0; ROW_BYTES]);
    Ok([rows, contents].concat())
}

fn decoded(what: &'static str, text: &str) -> Result<Vec<u8>, EvidenceError> {
    Base64::decode_vec(text).map_err(|_| EvidenceError::Base64(what))
}

/// So many bytes, as a list of numbers.
struct Bytes<const N: usize>([u8; N]);

impl<'de, const N: usize> Deserialize<'de> for Bytes<N> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let bytes = Vec::<u8>::deserialize(from)?;
        let length = bytes.len();
        let wrong = |_| de::Error::invalid_length(length, &format!("{N} bytes").as_str());
        bytes.try_into().map(Self).map_err(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use sev::firmware::guest::AttestationReport;
    use sev::firmware::host::{CertTableEntry, CertType};
    use sev::parser::ByteParser;

    /// Reports of chips, as `sev` reads and writes them, are put back together as they were signed.
    #[test]
    fn reports_are_put_together_as_they_were() {
        let vectors = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/snp/attest");
        let mut count = 0;
        for path in walk(vectors.as_ref()) {
            let Ok(bytes) = std::fs::read(&path) else { continue };
            if bytes.len() != REPORT_BYTES {
                continue;
            }
            let Ok(theirs) = AttestationReport::from_bytes(&bytes) else { continue };
            // What `sev` does not keep, nobody can put back.
            if theirs.to_bytes().ok().map(|it| it.as_ref().to_vec()) != Some(bytes.clone()) {
                continue;
            }
            let chain: Vec<_> = [(CertType::VCEK, vec![1, 2]), (CertType::ARK, vec![3])]
                .map(|(cert_type, data)| CertTableEntry { cert_type, data })
                .into();
            let sent = json!({ "attestation_report": theirs, "cert_chain": chain });
            let found = Evidence::parse(Tee::Snp, &sent.to_string()).unwrap();
            let Evidence::Snp { report, certificates, .. } = &found else { unreachable!("{found:?}") };
            assert!(*report == bytes, "{}", path.display());
            let table = attest::snp::CertificateTable::parse(certificates.as_ref().unwrap()).unwrap();
            let endorsements = table.endorsements();
            assert_eq!((endorsements.vcek, endorsements.ark), (Some(&[1, 2][..]), Some(&[3][..])));
            assert_eq!(Evidence::parse(Tee::Snp, &found.to_json().to_string()).unwrap(), found);
            count += 1;
        }
        assert!(count >= 7, "{count}");
    }

    fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
    }

    /// no-silent-trust: what is not of its form is not half read.
    #[test]
    fn no_silent_trust_malformed_evidence() {
        for sent in [
            json!(null),
            json!({}),
            json!({ "attestation_report": "AAA" }),
            json!({ "attestation_report": {} }),
            json!({ "attestation_report": "AAAA", "certificates": 7 }),
            json!({ "quote": "AAAA" }),
        ] {
            assert!(Evidence::parse(Tee::Snp, &sent.to_string()).is_err(), "{sent}");
        }
        assert!(matches!(Evidence::parse(Tee::Sample, "{}"), Err(EvidenceError::Tee(Tee::Sample))));
        assert!(Evidence::parse(Tee::Tdx, r#"{ "quote": "AAAA", "cc_eventlog": null }"#).is_ok());
        assert!(no_additional("{}").is_ok() && no_additional("").is_ok() && no_additional("{\"nvidia\":1}").is_err());
    }
}

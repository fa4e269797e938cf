//! The part of a policy's file that is about quotes: table `tdx`.
//!
//! Specification: our own; [`attest::tdx::policy`] for what the keys mean.

use std::collections::BTreeSet;

use attest::tdx::{Allowance, Bits, Policy, Preset, TcbStatus};
use serde::{Deserialize, Serialize};
use snp::hex;

use super::{Name, Named, PolicyFileError};
use crate::idblock::Source;

impl Named for Allowance {
    const ALL: &'static [Self] = &Allowance::ALL;
    fn name(self) -> &'static str {
        Allowance::name(self)
    }
}

impl Named for TcbStatus {
    const ALL: &'static [Self] = &TcbStatus::ACCEPTABLE;
    fn name(self) -> &'static str {
        TcbStatus::name(self)
    }
}

/// What is wanted of TDX guests, as people write it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TdxFile {
    /// What platforms may be worth.
    tcb_status: Option<Statuses>,
    /// Advisories that may concern them.
    tcb_advisories: Option<BTreeSet<Advisory>>,
    /// The least number of Intel's evaluation.
    tcb_evaluation: Option<u32>,
    /// The least number of the root's list of revoked certificates.
    root_crl: Option<u32>,
    /// The least number of the list of revoked platforms' certificates.
    pck_crl: Option<u32>,
    /// Least versions of TDX components.
    tee_tcb_svn: Option<Hex<16>>,
    /// Kinds of platforms.
    fmspc: Option<BTreeSet<Hex<6>>>,
    /// TDX modules.
    mrseam: Option<BTreeSet<Hex<48>>>,
    /// Who may have signed them.
    mrsignerseam: Option<BTreeSet<Hex<48>>>,
    /// What may be.
    allow: Option<BTreeSet<Name<Allowance>>>,
    /// The TDX module's attributes.
    seam_attributes: Option<BitsFile>,
    /// The guest's attributes.
    attributes: Option<BitsFile>,
    /// Extended features.
    xfam: Option<BitsFile>,
}

/// A policy's file with nothing else in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TdxOnly {
    #[serde(skip_serializing_if = "Option::is_none")]
    preset: Option<Name<Preset>>,
    tdx: TdxFile,
}

impl TdxOnly {
    /// This policy, in full. The preset is what holds for reports, of which it says nothing.
    pub fn of(preset: Preset, policy: &Policy) -> Self {
        Self { preset: Some(Name(preset)), tdx: policy.into() }
    }
}

/// At least one status: no platform is worth none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeSet<Name<TcbStatus>>", into = "BTreeSet<Name<TcbStatus>>")]
struct Statuses(BTreeSet<Name<TcbStatus>>);

impl TryFrom<BTreeSet<Name<TcbStatus>>> for Statuses {
    type Error = &'static str;

    fn try_from(names: BTreeSet<Name<TcbStatus>>) -> Result<Self, &'static str> {
        if names.is_empty() {
            Err("it is empty, and no platform is worth nothing: name a status")
        } else {
            Ok(Self(names))
        }
    }
}

impl From<Statuses> for BTreeSet<Name<TcbStatus>> {
    fn from(Statuses(names): Statuses) -> Self {
        names
    }
}

/// An advisory's name, as Intel's statements have it: another would never be found there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct Advisory(String);

impl TryFrom<String> for Advisory {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let digits = text.strip_prefix("INTEL-SA-");
        match digits.is_some_and(|digits| digits.len() == 5 && digits.bytes().all(|digit| digit.is_ascii_digit())) {
            true => Ok(Self(text)),
            false => Err(format!("{text:?} is no advisory; write it like \"INTEL-SA-00615\", with five digits")),
        }
    }
}

impl From<Advisory> for String {
    fn from(Advisory(name): Advisory) -> Self {
        name
    }
}

/// Bytes, two hexadecimal digits each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct Hex<const N: usize>([u8; N]);

impl<const N: usize> TryFrom<String> for Hex<N> {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        hex::parse(&text).map(Self).map_err(|error| error.to_string())
    }
}

impl<const N: usize> From<Hex<N>> for String {
    fn from(bytes: Hex<N>) -> Self {
        hex::text(&bytes.0)
    }
}

/// Bits under a mask, as they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    mask: Number,
    value: Number,
}

/// The same, and every bit of the value is looked at: whoever wrote another meant more than it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
struct BitsFile(Bits);

impl TryFrom<Written> for BitsFile {
    type Error = String;

    fn try_from(Written { mask: Number(mask), value: Number(value) }: Written) -> Result<Self, String> {
        match value & !mask {
            0 => Ok(Self(Bits { mask, value })),
            unseen => Err(format!("value {value:#x} has bits that mask {mask:#x} leaves out: {unseen:#x}")),
        }
    }
}

impl From<BitsFile> for Written {
    fn from(BitsFile(Bits { mask, value }): BitsFile) -> Self {
        Self { mask: Number(mask), value: Number(value) }
    }
}

/// A number of 64 bits, written like 0x1f: TOML's own are shorter by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct Number(u64);

impl TryFrom<String> for Number {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let digits = text.strip_prefix("0x").filter(|digits| digits.chars().all(|digit| digit.is_ascii_hexdigit()));
        let number = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        number.map(Self).ok_or_else(|| format!("{text:?} is no number of 64 bits; write it like \"0x1f\""))
    }
}

impl From<Number> for String {
    fn from(number: Number) -> Self {
        format!("{:#x}", number.0)
    }
}

/// Reads the policy for quotes in a file.
pub fn read(from: &Source) -> Result<Policy, PolicyFileError> {
    super::read_file(from).map(|file| file.tdx.unwrap_or_default().over(super::preset(file.preset)))
}

impl TdxFile {
    /// What it comes to where it says nothing but this preset.
    pub(super) fn over(self, preset: Preset) -> Policy {
        let base = Policy::preset(preset);
        Policy {
            statuses: self.tcb_status.map_or(base.statuses, |Statuses(names)| bare(names)),
            advisories: self
                .tcb_advisories
                .map_or(base.advisories, |names| names.into_iter().map(String::from).collect()),
            evaluation: self.tcb_evaluation.unwrap_or(base.evaluation),
            root_crl: self.root_crl.unwrap_or(base.root_crl),
            pck_crl: self.pck_crl.unwrap_or(base.pck_crl),
            tee_tcb_svn: self.tee_tcb_svn.map_or(base.tee_tcb_svn, |Hex(svn)| svn),
            fmspcs: self.fmspc.map_or(base.fmspcs, bytes),
            mr_seams: self.mrseam.map_or(base.mr_seams, bytes),
            mr_signer_seams: self.mrsignerseam.map_or(base.mr_signer_seams, bytes),
            allow: self.allow.map_or(base.allow, bare),
            seam_attributes: self.seam_attributes.map_or(base.seam_attributes, |BitsFile(bits)| bits),
            td_attributes: self.attributes.map_or(base.td_attributes, |BitsFile(bits)| bits),
            xfam: self.xfam.map_or(base.xfam, |BitsFile(bits)| bits),
        }
    }
}

impl From<&Policy> for TdxOnly {
    fn from(policy: &Policy) -> Self {
        Self { preset: None, tdx: policy.into() }
    }
}

impl From<&Policy> for TdxFile {
    /// All of it, so that nothing of it depends on a preset.
    fn from(policy: &Policy) -> Self {
        Self {
            tcb_status: Some(Statuses(policy.statuses.iter().copied().map(Name).collect())),
            tcb_advisories: Some(policy.advisories.iter().cloned().map(Advisory).collect()),
            tcb_evaluation: Some(policy.evaluation),
            root_crl: Some(policy.root_crl),
            pck_crl: Some(policy.pck_crl),
            tee_tcb_svn: Some(Hex(policy.tee_tcb_svn)),
            fmspc: Some(policy.fmspcs.iter().copied().map(Hex).collect()),
            mrseam: Some(policy.mr_seams.iter().copied().map(Hex).collect()),
            mrsignerseam: Some(policy.mr_signer_seams.iter().copied().map(Hex).collect()),
            allow: Some(policy.allow.iter().copied().map(Name).collect()),
            seam_attributes: Some(BitsFile(policy.seam_attributes)),
            attributes: Some(BitsFile(policy.td_attributes)),
            xfam: Some(BitsFile(policy.xfam)),
        }
    }
}

fn bare<T: Ord>(names: BTreeSet<Name<T>>) -> BTreeSet<T> {
    names.into_iter().map(|Name(it)| it).collect()
}

fn bytes<const N: usize>(all: BTreeSet<Hex<N>>) -> BTreeSet<[u8; N]> {
    all.into_iter().map(|Hex(it)| it).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn said(text: &str) -> Policy {
        let file = super::super::parse(text, &Source::Stdin).unwrap();
        file.tdx.unwrap_or_default().over(super::super::preset(file.preset))
    }

    #[test]
    fn what_a_file_does_not_say_is_strict() {
        assert_eq!(said(""), Policy::default());
        assert_eq!(said("[tdx]"), Policy::default());
        assert_eq!(said("preset = \"hardened\""), Policy::preset(Preset::Hardened));
        let policy =
            said("vmpl = 0\n[tdx]\nallow = []\nmrsignerseam = []\nattributes = { mask = \"0x2\", value = \"0x0\" }\n");
        assert!(policy.allow.is_empty() && policy.mr_signer_seams.is_empty());
        assert_eq!((policy.td_attributes, policy.seam_attributes), (Bits { mask: 2, value: 0 }, Bits::NONE));
    }

    /// no-silent-trust: a slip is no policy, and is shown.
    #[test]
    fn no_silent_trust_slips_name_line_and_key() {
        for (text, expected) in [
            ("[tdx]\nalow = []", "line 2, key `alow`: unknown field `alow`, expected one of `tcb-status`"),
            (
                "[tdx]\nallow = [\"smt\"]",
                "line 2, key `allow`: unknown name `smt`, expected one of `debug`, `profiling`",
            ),
            ("[tdx]\ntcb-status = [\"Revoked\"]", "line 2, key `tcb-status`: unknown name `Revoked`, expected one of"),
            ("[tdx]\nfmspc = [\"00\"]", "line 2, key `fmspc`: it has 2 characters; 12 hexadecimal digits are wanted"),
            ("[tdx]\nxfam = { mask = \"0x1\" }", "line 2, key `xfam`: missing field `value`"),
            ("[tdx]\nxfam = { mask = \"3\", value = \"0x0\" }", "line 2, key `xfam`: \"3\" is no number of 64 bits"),
            ("[tdx]\nxfam = { mask = \"0x+3\", value = \"0x0\" }", "line 2, key `xfam`: \"0x+3\" is no number of 64"),
            (
                "[tdx]\nattributes = {mask=\"0x0\", value=\"0x20000000\"}",
                "line 2, key `attributes`: value 0x20000000 has bits that mask 0x0 leaves out: 0x20000000",
            ),
            (
                "[tdx]\nallow = []\nxfam = {mask=\"0x1\", value=\"0x3\"}",
                "line 3, key `xfam`: value 0x3 has bits that mask 0x1 leaves out: 0x2",
            ),
            (
                "[tdx]\nseam-attributes = {mask=\"0x1\", value=\"0xffffffffffffffff\"}",
                "line 2, key `seam-attributes`: value 0xffffffffffffffff has bits that mask 0x1 leaves out: 0xff",
            ),
            ("{\"tdx\":\n{\"xfam\": {\"mask\": \"0x1\", \"value\": \"0x2\"}}}", "line 2: value 0x2 has bits that mask"),
            (
                "[tdx]\n[tdx.xfam]\nmask = \"0x1\"\nvalue = \"0x2\"",
                "line 2, key `tdx.xfam`: value 0x2 has bits that mask 0x1 leaves out: 0x2",
            ),
            ("[tdx]\ntcb-status = []", "line 2, key `tcb-status`: it is empty, and no platform is worth nothing"),
            (
                "[tdx]\ntcb-advisories = [\"INTEL-SA-615\"]",
                "line 2, key `tcb-advisories`: \"INTEL-SA-615\" is no advisory; write it like \"INTEL-SA-00615\"",
            ),
            ("[tdx]\ntcb-advisories = [\"intel-sa-00615\"]", "line 2, key `tcb-advisories`: \"intel-sa-00615\" is no"),
            ("[tdx]\ntcb-advisories = [\"INTEL-SA-0061x\"]", "line 2, key `tcb-advisories`: \"INTEL-SA-0061x\" is no"),
            ("[tdx]\ntcb-evaluation = -1", "line 2, key `tcb-evaluation`: invalid value"),
        ] {
            let error = super::super::parse(text, &Source::File("p.toml".into())).unwrap_err().to_string();
            assert!(error.starts_with(&format!("policy `p.toml`, {expected}")), "{text:?}: {error}");
        }
    }

    pub(in super::super) fn policies() -> impl Strategy<Value = Policy> {
        let bits = || any::<(u64, u64)>().prop_map(|(mask, value)| Bits { mask, value: value & mask });
        let digests = || prop::collection::btree_set(any::<u8>().prop_map(|byte| [byte; 48]), 0..3);
        (
            prop::collection::btree_set(prop::sample::select(&TcbStatus::ACCEPTABLE[..]), 1..4),
            prop::collection::btree_set("INTEL-SA-[0-9]{5}", 0..3),
            (any::<[u32; 3]>(), any::<[u8; 16]>(), prop::collection::btree_set(any::<[u8; 6]>(), 0..3)),
            (digests(), digests(), prop::collection::btree_set(prop::sample::select(&Allowance::ALL[..]), 0..9)),
            (bits(), bits(), bits()),
        )
            .prop_map(
                |(
                    statuses,
                    advisories,
                    ([evaluation, root_crl, pck_crl], tee_tcb_svn, fmspcs),
                    (mr_seams, mr_signer_seams, allow),
                    bits,
                )| {
                    let (seam_attributes, td_attributes, xfam) = bits;
                    Policy {
                        statuses,
                        advisories,
                        evaluation,
                        root_crl,
                        pck_crl,
                        fmspcs,
                        tee_tcb_svn,
                        mr_seams,
                        mr_signer_seams,
                        seam_attributes,
                        td_attributes,
                        xfam,
                        allow,
                    }
                },
            )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(policy in policies()) {
            let file = TdxOnly::from(&policy);
            prop_assert_eq!(&said(&toml::to_string(&file).unwrap()), &policy);
            prop_assert_eq!(&said(&serde_json::to_string(&file).unwrap()), &policy);
        }
    }
}

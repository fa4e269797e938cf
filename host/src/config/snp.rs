//! Settings that only an SNP guest has, as checked values.
//!
//! Owns their defaults and what of them contradicts each other. What they mean is [`snp`]'s.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::{self, Deserializer};
use snp::cpu::CpuModel;
use snp::hex::{self, HexError};
use snp::id_block::ReportKey;
use snp::policy::GuestPolicy;

use super::{ConfigError, Settings, Tee};

/// The processor that a guest's vCPUs say they are, unless told otherwise: the one `tenure measure snp` assumes.
pub const DEFAULT_VCPU_TYPE: CpuModel = CpuModel::Epyc;

/// A value that is written as text, in flags and in a configuration file alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Text<T>(pub T);

impl<T: FromStr> FromStr for Text<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        text.parse().map(Self)
    }
}

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Bytes of the host's that stand in every report of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HostData(pub [u8; 32]);

impl FromStr for HostData {
    type Err = HexError;

    fn from_str(text: &str) -> Result<Self, HexError> {
        hex::parse(text).map(Self)
    }
}

/// Where an ID block and its authentication are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedFiles {
    /// The block.
    pub block: PathBuf,
    /// Who signed it.
    pub auth: PathBuf,
}

/// Who finds out that an ID block is for another launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IdBlockCheck {
    /// We do, before a VM exists.
    #[default]
    BeforeLaunch,
    /// The PSP, when all is launched: for tests of that.
    ByFirmware,
}

/// What only an SNP guest has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnpConfig {
    /// An OVMF image; without it, the firmware is ours.
    pub firmware: Option<PathBuf>,
    /// What its owner allows.
    pub policy: GuestPolicy,
    /// Bytes that stand in every report.
    pub host_data: HostData,
    /// What its owner signed.
    pub signed: Option<SignedFiles>,
    /// Who checks that against what is launched.
    pub id_block_check: IdBlockCheck,
    /// Which keys may sign reports.
    pub report_key: ReportKey,
    /// What its vCPUs say they are, which is measured.
    pub vcpu_type: CpuModel,
    /// Certificates for its reports.
    pub certificates: Option<PathBuf>,
    /// How often it may reset itself; without a number, as often as it likes.
    pub resets: Option<u32>,
}

impl Default for SnpConfig {
    fn default() -> Self {
        Self {
            firmware: None,
            policy: GuestPolicy::default(),
            host_data: HostData::default(),
            signed: None,
            id_block_check: IdBlockCheck::default(),
            report_key: ReportKey::default(),
            vcpu_type: DEFAULT_VCPU_TYPE,
            certificates: None,
            resets: None,
        }
    }
}

impl SnpConfig {
    /// What `settings` say of it; `tee` is what they ask for.
    pub(super) fn resolve(settings: &mut Settings, tee: Tee) -> Result<Self, ConfigError> {
        let given = [
            ("firmware", settings.firmware.is_some()),
            ("snp-policy", settings.snp_policy.is_some()),
            ("snp-host-data", settings.snp_host_data.is_some()),
            ("snp-id-block", settings.snp_id_block.is_some()),
            ("snp-id-auth", settings.snp_id_auth.is_some()),
            ("snp-vlek-only", settings.snp_vlek_only == Some(true)),
            ("snp-certificates", settings.snp_certificates.is_some()),
            ("snp-resets", settings.snp_resets.is_some()),
            ("vcpu-type", settings.vcpu_type.is_some()),
        ];
        match given.into_iter().find(|(_, given)| *given) {
            Some((setting, _)) if tee != Tee::Snp => return Err(ConfigError::NeedsSnp { setting, tee }),
            _ => {}
        }
        let signed = match (settings.snp_id_block.take(), settings.snp_id_auth.take()) {
            (Some(block), Some(auth)) => Some(SignedFiles { block, auth }),
            (None, None) => None,
            (Some(_), None) => return Err(ConfigError::Half { given: "snp-id-block", missing: "snp-id-auth" }),
            (None, Some(_)) => return Err(ConfigError::Half { given: "snp-id-auth", missing: "snp-id-block" }),
        };
        let defaults = Self::default();
        Ok(Self {
            firmware: settings.firmware.take(),
            policy: settings.snp_policy.map_or(defaults.policy, |Text(policy)| policy),
            host_data: settings.snp_host_data.map_or(defaults.host_data, |Text(data)| data),
            signed,
            id_block_check: defaults.id_block_check,
            report_key: if settings.snp_vlek_only == Some(true) { ReportKey::OnlyVlek } else { ReportKey::Any },
            vcpu_type: settings.vcpu_type.map_or(defaults.vcpu_type, |Text(model)| model),
            certificates: settings.snp_certificates.take(),
            resets: settings.snp_resets.or(defaults.resets),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file;

    fn resolved(text: &str) -> Result<SnpConfig, String> {
        let settings = file::parse(text, "dir/vm.toml".as_ref()).map_err(|error| error.to_string())?;
        settings.resolve().map(|config| config.run.snp).map_err(|error| error.to_string())
    }

    #[test]
    fn settings_of_an_snp_guest() {
        let text = r#"
            tee = "snp"
            firmware = "OVMF.fd"
            snp-policy = "single-socket"
            snp-host-data = "0100000000000000000000000000000000000000000000000000000000000002"
            snp-id-block = "block"
            snp-id-auth = "auth"
            snp-vlek-only = true
            snp-certificates = "certs"
            snp-resets = 3
            vcpu-type = "EPYC-Milan-v2"
        "#;
        let config = resolved(text).unwrap();
        assert_eq!(config.firmware, Some("dir/OVMF.fd".into()));
        assert_eq!(config.policy.to_raw(), 0x12_0000);
        assert_eq!((config.host_data.0[0], config.host_data.0[31]), (1, 2));
        assert_eq!(config.signed, Some(SignedFiles { block: "dir/block".into(), auth: "dir/auth".into() }));
        assert_eq!((config.report_key, config.resets), (ReportKey::OnlyVlek, Some(3)));
        assert_eq!((config.vcpu_type, config.certificates), (CpuModel::Milan, Some("dir/certs".into())));
        assert_eq!(resolved("tee = \"snp\""), Ok(SnpConfig::default()));
    }

    /// no-silent-trust: a guest that is not to be what somebody thinks it is does not run.
    #[test]
    fn no_silent_trust_settings_of_another_technology() {
        for tee in ["auto", "sw", "none", "tdx"] {
            for setting in ["snp-policy = \"smt\"", "snp-vlek-only = true", "snp-resets = 0", "vcpu-type = \"EPYC\""] {
                let name = setting.split(' ').next().unwrap();
                let error = resolved(&format!("tee = \"{tee}\"\n{setting}")).unwrap_err();
                assert_eq!(error, format!("{name} needs tee snp, but tee is {tee}"));
            }
        }
        let error = resolved("tee = \"snp\"\nsnp-id-auth = \"auth\"").unwrap_err();
        assert_eq!(error, "snp-id-auth needs snp-id-block, which is not given");
        let error = resolved("tee = \"snp\"\nsnp-host-data = \"00\"").unwrap_err();
        assert!(error.starts_with("config `dir/vm.toml`, line 2, key `snp-host-data`: it has 2 characters"), "{error}");
        assert!(resolved("tee = \"snp\"\nsnp-policy = \"0x90000\"").unwrap_err().contains("key `snp-policy`"));
    }
}

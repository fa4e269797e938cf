//! Models of processors by their names in QEMU, for what of them is measured: the signature that a vCPU finds in `rdx`
//! when it starts.
//!
//! Owns names and signatures. Specification: AMD APM volume 3, `CPUID` function 1, `EAX`; names and families as in
//! QEMU's `target/i386/cpu.c`.

use std::fmt;
use std::str::FromStr;

/// A processor's model. Versions of one differ in features that nobody measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CpuModel {
    /// `EPYC`: Naples.
    Epyc,
    /// `EPYC-Rome`.
    Rome,
    /// `EPYC-Milan`.
    Milan,
    /// `EPYC-Genoa`.
    Genoa,
    /// `EPYC-Turin`.
    Turin,
}

/// A name that is none of a model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no vCPU type is named {name:?}; there are {}, each also with a version, as in EPYC-Milan-v2",
    CpuModel::names()
)]
pub struct UnknownCpu {
    /// What was asked for.
    pub name: String,
}

impl CpuModel {
    /// Every model, oldest first.
    pub const ALL: [Self; 5] = [Self::Epyc, Self::Rome, Self::Milan, Self::Genoa, Self::Turin];

    /// Family, model and stepping.
    #[must_use]
    pub const fn family_model_stepping(self) -> (u32, u32, u32) {
        match self {
            Self::Epyc => (0x17, 0x01, 2),
            Self::Rome => (0x17, 0x31, 0),
            Self::Milan => (0x19, 0x01, 1),
            Self::Genoa => (0x19, 0x11, 0),
            Self::Turin => (0x1a, 0x00, 0),
        }
    }

    /// `EAX` of CPUID function 1.
    #[must_use]
    pub const fn signature(self) -> u32 {
        let (family, model, stepping) = self.family_model_stepping();
        // A family above 15 is 15 and an extension.
        let (base, extended) = if family > 0xf { (0xf, family - 0xf) } else { (family, 0) };
        extended << 20 | (model >> 4) << 16 | base << 8 | (model & 0xf) << 4 | stepping
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Epyc => "EPYC",
            Self::Rome => "EPYC-Rome",
            Self::Milan => "EPYC-Milan",
            Self::Genoa => "EPYC-Genoa",
            Self::Turin => "EPYC-Turin",
        }
    }

    fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }
}

impl fmt::Display for CpuModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for CpuModel {
    type Err = UnknownCpu;

    /// A model's name, perhaps with a version as QEMU has them (`EPYC-v4`), or `EPYC-IBPB`.
    fn from_str(name: &str) -> Result<Self, UnknownCpu> {
        let is_version = |rest: &str| {
            let number = rest.strip_prefix("-v");
            number.is_some_and(|number| !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit()))
        };
        let is = |model: &Self| {
            name.strip_prefix(model.name()).is_some_and(|rest| rest.is_empty() || is_version(rest))
                || (*model == Self::Epyc && name == "EPYC-IBPB")
        };
        Self::ALL.into_iter().find(is).ok_or_else(|| UnknownCpu { name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_of_cpuid() {
        let expected = [0x0080_0f12, 0x0083_0f10, 0x00a0_0f11, 0x00a1_0f10, 0x00b0_0f00];
        assert_eq!(CpuModel::ALL.map(CpuModel::signature), expected);
    }

    /// no-silent-trust: a name with a slip in it is no other processor.
    #[test]
    fn no_silent_trust_names() {
        for name in ["EPYC", "EPYC-v4", "EPYC-IBPB"] {
            assert_eq!(name.parse(), Ok(CpuModel::Epyc), "{name}");
        }
        assert_eq!("EPYC-Milan-v2".parse(), Ok(CpuModel::Milan));
        for name in ["", "epyc", "EPYC-", "EPYC-v", "EPYC-v4x", "EPYC-Milano", "EPYC-Milan-IBPB", "Milan"] {
            let error = name.parse::<CpuModel>().unwrap_err().to_string();
            assert!(error.contains(&format!("{name:?}")) && error.contains("EPYC-Turin"), "{error}");
        }
    }
}

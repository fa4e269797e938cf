//! What a platform is worth, by Intel's word.
//!
//! Owns [`TcbStatus`] and how it follows from a platform's versions: the level that the processor and its firmware
//! reach, what TDX module and quoting enclave make of it, and whether a guest should be launched again. Does not own
//! whether the word is Intel's, nor which status is good enough for a guest: only [`TcbStatus::Revoked`] is never.
//!
//! Specification: Intel SGX and TDX Provisioning Certification Service API, version 4, "TCB info", and for what follows
//! from several statuses together, Intel's quote verification library.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use super::collateral::{Component, ComponentLevel, Level, Module, ModuleIdentity, QeIdentity, TcbInfo};
use super::pck::Pck;
use crate::UnixTime;

/// What Intel says of a platform's versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TcbStatus {
    /// Nothing is to be done.
    UpToDate,
    /// Software in the guest should protect itself.
    SwHardeningNeeded,
    /// The host should be configured in another way.
    ConfigurationNeeded,
    /// Both of these.
    ConfigurationAndSwHardeningNeeded,
    /// The platform has updates to come.
    OutOfDate,
    /// It has, and should be configured in another way.
    OutOfDateConfigurationNeeded,
    /// It had when the guest was launched: a new one would be better off.
    TdRelaunchAdvised,
    /// It had, and should be configured in another way.
    TdRelaunchAdvisedConfigurationNeeded,
    /// Its keys are known to others, or as good as that.
    Revoked,
}

impl TcbStatus {
    /// Its name, as Intel writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::UpToDate => "UpToDate",
            Self::SwHardeningNeeded => "SWHardeningNeeded",
            Self::ConfigurationNeeded => "ConfigurationNeeded",
            Self::ConfigurationAndSwHardeningNeeded => "ConfigurationAndSWHardeningNeeded",
            Self::OutOfDate => "OutOfDate",
            Self::OutOfDateConfigurationNeeded => "OutOfDateConfigurationNeeded",
            Self::TdRelaunchAdvised => "TDRelaunchAdvised",
            Self::TdRelaunchAdvisedConfigurationNeeded => "TDRelaunchAdvisedConfigurationNeeded",
            Self::Revoked => "Revoked",
        }
    }

    /// What is left of it beside a component that is worth this.
    const fn with(self, component: Self) -> Self {
        match (self, component) {
            (_, Self::Revoked) => Self::Revoked,
            (Self::UpToDate | Self::SwHardeningNeeded, Self::OutOfDate) => Self::OutOfDate,
            (Self::ConfigurationNeeded | Self::ConfigurationAndSwHardeningNeeded, Self::OutOfDate) => {
                Self::OutOfDateConfigurationNeeded
            }
            (status, _) => status,
        }
    }

    /// What a guest is worth that was launched on a platform worth this, which is now worth that.
    const fn since(self, current: Self) -> Self {
        let needs_configuration = match (self, current) {
            (Self::OutOfDate, Self::UpToDate | Self::SwHardeningNeeded) => false,
            (Self::OutOfDate, Self::ConfigurationNeeded | Self::ConfigurationAndSwHardeningNeeded)
            | (
                Self::OutOfDateConfigurationNeeded,
                Self::UpToDate
                | Self::SwHardeningNeeded
                | Self::ConfigurationNeeded
                | Self::ConfigurationAndSwHardeningNeeded,
            ) => true,
            _ => return self,
        };
        if needs_configuration { Self::TdRelaunchAdvisedConfigurationNeeded } else { Self::TdRelaunchAdvised }
    }
}

impl fmt::Display for TcbStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A status with what goes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Evaluation {
    pub(crate) status: TcbStatus,
    /// The oldest date that a part of it was good at.
    pub(crate) date: UnixTime,
    pub(crate) advisories: Vec<String>,
}

/// Why there is no status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TcbError {
    #[error("below every level: {0}")]
    Below(Shortfall),
    #[error("at no level: TCB info has none")]
    NoLevels,
    #[error("unknown: TCB info has no TDX module of major version {0}")]
    UnknownModule(u8),
    #[error("below every level: the TDX module {id} has minor version {minor}")]
    ModuleBelow { id: String, minor: u8 },
    #[error("below every level: the QE has version {0}")]
    QeBelow(u16),
}

/// The component for which a platform misses the lowest level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shortfall {
    of: Part,
    has: u16,
    needs: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Sgx(usize),
    Pce,
    Tdx(usize),
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.of {
            Part::Sgx(index) => write!(f, "SGX component {index}")?,
            Part::Pce => f.write_str("the PCE")?,
            Part::Tdx(index) => write!(f, "TDX component {index}")?,
        }
        write!(f, " has version {}, and the lowest level needs {}", self.has, self.needs)
    }
}

/// The module that a platform with these versions should run, and what is known of its major version, if it has one.
pub(crate) fn module<'i>(info: &'i TcbInfo, svn: &[u8; 16]) -> Result<(Module, Option<&'i ModuleIdentity>), TcbError> {
    let [_, major, ..] = *svn;
    if major == 0 {
        return Ok((info.tdx_module, None));
    }
    let id = format!("TDX_{major:02X}");
    let mut known = info.tdx_module_identities.iter().filter(|identity| identity.id.eq_ignore_ascii_case(&id));
    let identity = known.next().ok_or(TcbError::UnknownModule(major))?;
    Ok((identity.module(), Some(identity)))
}

/// The best level that a quoting enclave of this version reaches.
pub(crate) fn qe_level(identity: &QeIdentity, svn: u16) -> Result<&ComponentLevel, TcbError> {
    let mut reached = identity.tcb_levels.iter().filter(|level| level.tcb.isvsvn <= svn);
    reached.next().ok_or(TcbError::QeBelow(svn))
}

/// What a platform is worth with these versions of TDX components and a quoting enclave of this level.
pub(crate) fn evaluate(info: &TcbInfo, pck: &Pck, svn: &[u8; 16], qe: &ComponentLevel) -> Result<Evaluation, TcbError> {
    let level = platform_level(info, pck, svn)?;
    let [minor, ..] = *svn;
    let module = match module(info, svn)? {
        (_, None) => None,
        (_, Some(identity)) => {
            let level = identity.level(minor);
            Some(level.ok_or_else(|| TcbError::ModuleBelow { id: identity.id.clone(), minor })?)
        }
    };
    let mut evaluation =
        Evaluation { status: level.tcb_status, date: level.tcb_date, advisories: level.advisories.clone() };
    for component in [Some(qe), module].into_iter().flatten() {
        evaluation.status = evaluation.status.with(component.tcb_status);
        evaluation.date = evaluation.date.min(component.tcb_date);
        evaluation.advisories.extend_from_slice(&component.advisories);
    }
    evaluation.advisories.sort_unstable();
    evaluation.advisories.dedup();
    Ok(evaluation)
}

impl Evaluation {
    /// That of a guest that was launched on a platform like this, which is now like that.
    pub(crate) fn since(self, current: &Self) -> Self {
        Self { status: self.status.since(current.status), ..self }
    }
}

/// The best level that a platform reaches.
fn platform_level<'i>(info: &'i TcbInfo, pck: &Pck, svn: &[u8; 16]) -> Result<&'i Level, TcbError> {
    let mut error = TcbError::NoLevels;
    for level in &info.tcb_levels {
        match shortfall(level, pck, svn) {
            None => return Ok(level),
            Some(shortfall) => error = TcbError::Below(shortfall),
        }
    }
    Err(error)
}

/// The first component for which a platform misses a level. The TDX module's versions count here only if it has no
/// major one: otherwise it has levels of its own.
fn shortfall(level: &Level, pck: &Pck, svn: &[u8; 16]) -> Option<Shortfall> {
    let [_, major, ..] = *svn;
    let own_levels = if major > 0 { 2 } else { 0 };
    let parts = |of: fn(usize) -> Part, has: &[u8; 16], needs: &[Component; 16]| {
        let pairs: [_; 16] = core::array::from_fn(|index| (of(index), has[index].into(), needs[index].svn.into()));
        pairs
    };
    let sgx = parts(Part::Sgx, &pck.components, &level.tcb.sgx);
    let pce = (Part::Pce, pck.pce_svn, level.tcb.pce_svn);
    let tdx = parts(Part::Tdx, svn, &level.tcb.tdx);
    let all = sgx.into_iter().chain([pce]).chain(tdx.into_iter().skip(own_levels));
    all.map(|(of, has, needs)| Shortfall { of, has, needs }).find(|part| part.has < part.needs)
}

#[cfg(test)]
mod tests;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
    /// All but [`TcbStatus::Revoked`]: what somebody may find good enough.
    pub const ACCEPTABLE: [Self; 8] = [
        Self::UpToDate,
        Self::SwHardeningNeeded,
        Self::ConfigurationNeeded,
        Self::ConfigurationAndSwHardeningNeeded,
        Self::OutOfDate,
        Self::OutOfDateConfigurationNeeded,
        Self::TdRelaunchAdvised,
        Self::TdRelaunchAdvisedConfigurationNeeded,
    ];

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
    /// What keeps it from a level that is up to date.
    pub(crate) shortfalls: Vec<Shortfall>,
}

/// Why there is no status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TcbError {
    #[error("below every level: {} has version {}, and the lowest level needs {}", .0.of, .0.has, .0.needs)]
    Below(Shortfall),
    #[error("at no level: Intel says nothing of any version of {0}")]
    NoLevels(Part),
    #[error("unknown: TCB info has no TDX module of major version {0}")]
    UnknownModule(u8),
}

/// A component whose version is too low.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shortfall {
    /// The component.
    pub of: Part,
    /// Its version.
    pub has: u16,
    /// The one that it would need.
    pub needs: u16,
}

/// What has a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// One of the sixteen components of SGX, from 0.
    Sgx(usize),
    /// The provisioning certification enclave.
    Pce,
    /// One of the sixteen components of TDX, from 0.
    Tdx(usize),
    /// The TDX module, which has levels of its own.
    Module,
    /// The quoting enclave.
    Qe,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sgx(index) => write!(f, "SGX component {index}"),
            Self::Pce => f.write_str("the PCE"),
            Self::Tdx(index) => write!(f, "TDX component {index}"),
            Self::Module => f.write_str("the TDX module"),
            Self::Qe => f.write_str("the QE"),
        }
    }
}

impl fmt::Display for Shortfall {
    /// In a few words, like `tdx module svn 5 < 7`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.of {
            Part::Sgx(index) => write!(f, "sgx component {index}")?,
            Part::Pce => f.write_str("pce")?,
            Part::Tdx(index) => write!(f, "tdx component {index}")?,
            Part::Module => f.write_str("tdx module")?,
            Part::Qe => f.write_str("qe")?,
        }
        write!(f, " svn {} < {}", self.has, self.needs)
    }
}

impl TcbError {
    /// By how much the lowest level was missed.
    pub(crate) fn shortfall(&self) -> Option<Shortfall> {
        match self {
            Self::Below(shortfall) => Some(*shortfall),
            Self::NoLevels(_) | Self::UnknownModule(_) => None,
        }
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

/// The level that a component with a version of its own reaches, and what keeps it from one that is up to date.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reached<'i> {
    level: &'i ComponentLevel,
    shortfall: Option<Shortfall>,
}

/// The best level that a quoting enclave of this version reaches.
pub(crate) fn qe_level(identity: &QeIdentity, svn: u16) -> Result<Reached<'_>, TcbError> {
    reached(Part::Qe, &identity.tcb_levels, svn)
}

fn reached(of: Part, levels: &[ComponentLevel], has: u16) -> Result<Reached<'_>, TcbError> {
    let misses = |level: &ComponentLevel| Shortfall { of, has, needs: level.tcb.isvsvn };
    let best = levels.iter().filter(|level| level.tcb.isvsvn <= has).max_by_key(|level| level.tcb.isvsvn);
    let Some(level) = best else {
        let lowest = levels.iter().min_by_key(|level| level.tcb.isvsvn).ok_or(TcbError::NoLevels(of))?;
        return Err(TcbError::Below(misses(lowest)));
    };
    let good = levels.iter().filter(|level| level.tcb_status == TcbStatus::UpToDate);
    let needed = good.min_by_key(|level| level.tcb.isvsvn).filter(|needed| needed.tcb.isvsvn > has);
    Ok(Reached { level, shortfall: needed.map(misses) })
}

/// What a platform is worth with these versions of TDX components and a quoting enclave of this level.
pub(crate) fn evaluate(info: &TcbInfo, pck: &Pck, svn: &[u8; 16], qe: Reached<'_>) -> Result<Evaluation, TcbError> {
    let level = platform_level(info, pck, svn)?;
    let [minor, ..] = *svn;
    let module = match module(info, svn)? {
        (_, None) => None,
        (_, Some(identity)) => Some(reached(Part::Module, &identity.tcb_levels, minor.into())?),
    };
    // Levels are sorted: the last of the good ones is what is needed.
    let good = info.tcb_levels.iter().rfind(|level| level.tcb_status == TcbStatus::UpToDate);
    let needed = good.filter(|_| level.tcb_status != TcbStatus::UpToDate);
    let mut evaluation = Evaluation {
        status: level.tcb_status,
        date: level.tcb_date,
        advisories: level.advisories.clone(),
        shortfalls: needed.map(|level| shortfalls(level, pck, svn).collect()).unwrap_or_default(),
    };
    for Reached { level, shortfall } in module.into_iter().chain([qe]) {
        evaluation.status = evaluation.status.with(level.tcb_status);
        evaluation.date = evaluation.date.min(level.tcb_date);
        evaluation.advisories.extend_from_slice(&level.advisories);
        evaluation.shortfalls.extend(shortfall);
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
    let mut error = TcbError::NoLevels(Part::Sgx(0));
    for level in &info.tcb_levels {
        match shortfalls(level, pck, svn).next() {
            None => return Ok(level),
            Some(shortfall) => error = TcbError::Below(shortfall),
        }
    }
    Err(error)
}

/// The components for which a platform misses a level. The TDX module's versions count here only if it has no major
/// one: otherwise it has levels of its own.
fn shortfalls(level: &Level, pck: &Pck, svn: &[u8; 16]) -> impl Iterator<Item = Shortfall> {
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
    all.map(|(of, has, needs)| Shortfall { of, has, needs }).filter(|part| part.has < part.needs)
}

#[cfg(test)]
mod tests;

//! The self-test of a host: guests are launched in the ways that matter, and what is seen of them is judged.
//!
//! It is what the first owner of a machine runs, and what he sends: [`results`] for people and programs, [`bundle`] with
//! the evidence. Owns which cases there are (module `cases`) and what each of them shows. The guests are launched, run and
//! torn down by the same code as any other ([`crate::run`]); generic over the kernel port like it, so that what runs here
//! on silicon is what runs in tests on software.
//!
//! What the guest itself does is its firmware's business: it converts pages, asks for a report and hands it over
//! (`guest_fw::abi::Doorbell::Evidence`). If it can't, the checks that need it are *not run*, and said to be.

pub mod bundle;
mod cases;
mod conversions;
mod evidence;
mod guest;
mod judge;
pub mod kernel_log;
mod redact;
pub mod results;
mod signed;
mod surroundings;

use std::io;
use std::time::Duration;

use gmem::ByteLen;
use gmem_kvm::port::Kernel;

use crate::config::{ConfigError, RunConfig, Settings};
use crate::stop::StopSignal;
use results::Results;

pub use evidence::{EndorsementError, Verifier};
pub use guest::Kept;
pub use surroundings::Surroundings;

/// Checks that everything of a guest is gone.
const TEARDOWN: &str = "teardown";
const ASID: &str = "asid";
const FIRMWARE_GUESTS: &str = "firmware-guests";

/// RAM of the guests, unless told otherwise.
pub const DEFAULT_MEMORY: ByteLen = ByteLen(256 << 20);
/// vCPUs of those that have several, unless told otherwise.
pub const DEFAULT_VCPUS: u32 = 4;
/// How often a guest is launched in turn, unless told otherwise.
pub const DEFAULT_LAUNCHES: u32 = 5;

/// How long a guest may take, unless told otherwise: its own test takes seconds, on an emulated host a minute.
pub const DEFAULT_TIME_LIMIT: Duration = Duration::from_secs(300);

/// What is to be tested.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The guests: as for a run, with the vCPUs of the case that has several. What keeps their memory private is named,
    /// and never `auto`.
    pub settings: Settings,
    /// How often a guest is launched in turn.
    pub launches: u32,
    /// How long a guest may take.
    pub time_limit: Duration,
}

/// Where it is tested, and with what.
pub struct Bed<'a, K> {
    /// The kernel.
    pub kernel: &'a K,
    /// What there is on the host at a moment.
    pub look: &'a dyn Fn() -> Surroundings,
    /// Bytes nobody can know beforehand: keys, and what reports must repeat.
    pub random: &'a dyn Fn() -> io::Result<[u8; 48]>,
    /// Who knows whether a report is genuine.
    pub verifier: &'a Verifier,
    /// Is told what is being done.
    pub progress: &'a dyn Fn(&str),
    /// Ends it all.
    pub stop: &'a StopSignal,
}

impl<K> std::fmt::Debug for Bed<'_, K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bed").field("verifier", &self.verifier).finish_non_exhaustive()
    }
}

/// Why there are no results.
#[derive(Debug, thiserror::Error)]
pub enum SelfTestError {
    /// The settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There are no keys without.
    #[error("no random bytes can be had: {0}")]
    Random(io::Error),
    /// A case cannot be begun.
    #[error("a case cannot be begun: {0}")]
    Begin(io::Error),
}

/// Runs every case. What was kept of them is for a bundle.
pub fn run<K: Kernel>(bed: &Bed<'_, K>, plan: &Plan) -> Result<(Results, Vec<Kept>), SelfTestError> {
    let config = plan.settings.clone().resolve()?.run;
    cases::run(bed, plan, &config)
}

/// The same guest with one vCPU.
fn single(config: &RunConfig) -> RunConfig {
    RunConfig { vcpus: 1, ..config.clone() }
}

//! The steps only an SNP VM's launch has.
//!
//! Owns that the ledger learns what was populated, that every page of a range is asked for until it is, and that an
//! SNP VM is sealed by its finish and by nothing else (law *sealed-is-sealed*). Their order, and words for what the
//! PSP says, are `snp::launch`'s.

use gmem::{GfnRange, PageCount};

use super::{Launching, Sealed, Vm};
use crate::port::snp::{SnpCommand, SnpFinish, SnpPageType, SnpUpdate, SourcePage};
use crate::port::{CallError, KernelVm};

/// How often the kernel is asked again for pages of which it did none and says nothing of why: EIO without a word
/// from the PSP hides, among others, an interrupted call.
const ATTEMPTS: u32 = 3;

/// Why pages were not all populated.
#[derive(Debug, thiserror::Error)]
#[error("populate {range}, of which {done} were: {source}")]
pub struct PopulateError {
    /// Which pages.
    pub range: GfnRange,
    /// How many were populated.
    pub done: PageCount,
    /// What the kernel said.
    #[source]
    pub source: CallError,
}

impl<V: KernelVm> Vm<V, Launching> {
    /// Gives the VM an ASID. Before any vCPU.
    pub fn snp_init(&mut self, vmsa_features: u64) -> Result<(), CallError> {
        self.core.vm.snp(SnpCommand::Init { vmsa_features })
    }

    /// Has requests for certificates sent to us. Before any vCPU.
    pub fn snp_enable_certificate_requests(&mut self) -> Result<(), CallError> {
        self.core.vm.snp(SnpCommand::EnableCertificateRequests)
    }

    /// Has the PSP make the guest's context.
    pub fn snp_start(&mut self, policy: u64) -> Result<(), CallError> {
        self.core.vm.snp(SnpCommand::LaunchStart { policy })
    }

    /// Has pages populated, with `source` as long as the range or, for zeros, empty. One call for all of them, and
    /// another only for what the kernel left: it stops at the end of a slot.
    pub fn snp_populate(
        &mut self,
        range: GfnRange,
        page_type: SnpPageType,
        mut source: &mut [SourcePage],
    ) -> Result<(), PopulateError> {
        let (mut rest, mut attempts) = (Some(range), 0);
        while let Some(left) = rest {
            let mut update = SnpUpdate { range: left, page_type, source: &mut *source, done: PageCount::default() };
            let result = self.core.vm.snp_launch_update(&mut update);
            let done = update.done.min(left.pages());
            let before = PageCount::new(range.pages().get() - left.pages().get());
            let failed = |source| PopulateError { range, done: PageCount::new(before.get() + done.get()), source };
            let (populated, left) = left.split_at(done);
            if let Some(populated) = populated {
                // The kernel populates private pages only, and each once: so says the ledger, or one of us is wrong.
                let noted = self.core.ledger.populate(populated).map_err(|error| error.to_string());
                noted.map_err(|reason| failed(CallError::new("ledger", reason, 0)))?;
                attempts = 0;
            }
            rest = left;
            match result {
                Ok(()) if done.get() > 0 => {}
                Ok(()) => return Err(failed(CallError::new("KVM_SEV_SNP_LAUNCH_UPDATE", "no progress", 0))),
                Err(error) => {
                    attempts += 1;
                    if attempts == ATTEMPTS || !may_be_interrupted(&error) {
                        return Err(failed(error));
                    }
                }
            }
            let skip = usize::try_from(done.get()).unwrap_or(usize::MAX).min(source.len());
            source = &mut source[skip..];
        }
        Ok(())
    }

    /// Ends the launch: the vCPUs' registers are measured, and the VM can run. A failure is final.
    pub fn snp_finish(self, finish: &SnpFinish<'_>) -> Result<Vm<V, Sealed>, Box<(Self, CallError)>> {
        match self.core.vm.snp(SnpCommand::LaunchFinish(finish)) {
            Ok(()) => Ok(Vm { core: self.core, stage: Sealed { vcpus: self.stage.vcpus } }),
            Err(error) => Err(Box::new((self, error))),
        }
    }
}

/// Whether this is what the kernel answers when a signal kept it from the first page.
fn may_be_interrupted(error: &CallError) -> bool {
    error.errno == rustix::io::Errno::IO.raw_os_error() && error.firmware.is_none()
}

//! The firmware's commands, as a kernel's driver gives them.

use crate::platform::Platform;
use crate::psp::management::WRAPPED_VLEK_BYTES;
use crate::psp::{
    Command, FeatureInfo, GuestStatus, LaunchFinish, LaunchUpdate, PlatformStatus, Policy, SnpConfig, Status,
};
use crate::units::{Asid, PageSize, Pfn};

impl Platform {
    /// SNP_INIT.
    pub fn snp_init(&self) -> Result<(), Status> {
        self.command(Command::SnpInit, |psp, hw| psp.init(hw))
    }

    /// SNP_SHUTDOWN. Pages that stay the firmware's are a violation.
    pub fn snp_shutdown(&self) -> Result<(), Status> {
        let left = self.command(Command::SnpShutdown, |psp, hw| psp.shutdown(hw))?;
        self.lock().violations.extend(left);
        Ok(())
    }

    /// SNP_PLATFORM_STATUS.
    pub fn snp_platform_status(&self) -> Result<PlatformStatus, Status> {
        self.command(Command::SnpPlatformStatus, |psp, _| Ok(psp.platform_status()))
    }

    /// SNP_FEATURE_INFO.
    pub fn snp_feature_info(&self) -> Result<FeatureInfo, Status> {
        self.command(Command::SnpFeatureInfo, |psp, _| Ok(psp.feature_info()))
    }

    /// SNP_COMMIT.
    pub fn snp_commit(&self) -> Result<(), Status> {
        self.command(Command::SnpCommit, |psp, _| psp.commit())
    }

    /// SNP_CONFIG.
    pub fn snp_set_config(&self, config: SnpConfig) -> Result<(), Status> {
        self.command(Command::SnpSetConfig, |psp, _| psp.set_config(config))
    }

    /// SNP_VLEK_LOAD.
    pub fn snp_vlek_load(&self, wrapped: &[u8; WRAPPED_VLEK_BYTES]) -> Result<(), Status> {
        self.command(Command::SnpVlekLoad, |psp, _| psp.vlek_load(wrapped))
    }

    /// SNP_DF_FLUSH.
    pub fn snp_df_flush(&self) -> Result<(), Status> {
        self.command(Command::SnpDfFlush, |psp, hw| psp.df_flush(hw))
    }

    /// SNP_GCTX_CREATE of a firmware page.
    pub fn snp_gctx_create(&self, context: Pfn) -> Result<(), Status> {
        self.command(Command::SnpGctxCreate, |psp, hw| psp.gctx_create(hw, context))
    }

    /// SNP_LAUNCH_START.
    pub fn snp_launch_start(&self, context: Pfn, policy: Policy, gosvw: [u8; 16]) -> Result<(), Status> {
        self.command(Command::SnpLaunchStart, |psp, _| psp.launch_start(context, policy, gosvw))
    }

    /// SNP_ACTIVATE.
    pub fn snp_activate(&self, context: Pfn, asid: Asid) -> Result<(), Status> {
        self.command(Command::SnpActivate, |psp, hw| psp.activate(hw, context, asid))
    }

    /// SNP_LAUNCH_UPDATE.
    pub fn snp_launch_update(&self, context: Pfn, update: LaunchUpdate) -> Result<(), Status> {
        self.command(Command::SnpLaunchUpdate, |psp, hw| psp.launch_update(hw, context, update))
    }

    /// SNP_LAUNCH_FINISH.
    pub fn snp_launch_finish(&self, context: Pfn, finish: LaunchFinish<'_>) -> Result<(), Status> {
        self.command(Command::SnpLaunchFinish, |psp, _| psp.launch_finish(context, finish))
    }

    /// SNP_GUEST_STATUS.
    pub fn snp_guest_status(&self, context: Pfn) -> Result<GuestStatus, Status> {
        self.command(Command::SnpGuestStatus, |psp, _| psp.guest_status(context))
    }

    /// SNP_GUEST_REQUEST: the message in one page is answered in another, which must be the firmware's.
    pub fn snp_guest_request(&self, context: Pfn, request: Pfn, response: Pfn) -> Result<(), Status> {
        self.command(Command::SnpGuestRequest, |psp, hw| psp.guest_request(hw, context, request, response))
    }

    /// SNP_PAGE_RECLAIM.
    pub fn snp_page_reclaim(&self, pfn: Pfn, size: PageSize) -> Result<(), Status> {
        self.command(Command::SnpPageReclaim, |psp, hw| psp.page_reclaim(hw, pfn, size))
    }

    /// SNP_DECOMMISSION.
    pub fn snp_decommission(&self, context: Pfn) -> Result<(), Status> {
        self.command(Command::SnpDecommission, |psp, hw| psp.decommission(hw, context))
    }
}

//! Whether a verified quote is of what somebody wants.
//!
//! Owns every check of a policy and of reference values. All are made, as in verification, and what nobody asked for is
//! skipped and listed, so that a verdict shows what it does not say. Only [`Verified`] evidence gets here. Does not own
//! the policy ([`Policy`]), where reference values come from, nor the verdict ([`crate::appraisal`]).
//!
//! Specification: Intel TDX Module ABI, "ATTRIBUTES" and "TDREPORT".

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::policy::Bits;
use super::{Allowance, Anchor, Endorsed, Platform, Policy, Quote, TcbStatus};
use crate::appraisal::{ABOUT_DEBUG, ABOUT_REPLAY, NOT_ASKED};
use crate::check::{CheckId, Checks};
use crate::hex::Hex;
use crate::verified::Verified;

const fn check(name: &'static str, subject: &'static str) -> CheckId {
    CheckId::of_wish(name, subject)
}

const STATUS: CheckId = check("policy.tcb-status", "what the platform is worth");
const ADVISORIES: CheckId = check("policy.tcb-advisories", "the list of advisories that concern the platform");
const EVALUATION: CheckId = check("policy.tcb-evaluation", "the number of Intel's evaluation");
const ROOT_CRL: CheckId = check("policy.root-crl", "the number of the root's list of revoked certificates");
const PCK_CRL: CheckId = check("policy.pck-crl", "the number of the list of revoked platforms' certificates");
const FMSPC: CheckId = check("policy.fmspc", "the kind of platform");
const LAUNCH_SVN: CheckId = check("policy.tee-tcb-svn", "the set of TDX components' versions at launch");
const CURRENT_SVN: CheckId = check("policy.tee-tcb-svn-now", "the set of TDX components' versions now");
const MODULE: CheckId = check("policy.mrseam", "the TDX module");
const MODULE_SIGNER: CheckId = check("policy.mrsignerseam", "who signed the TDX module");
const MODULE_ATTRIBUTES: CheckId = check("policy.seam-attributes", "the set of the TDX module's attributes");
const ATTRIBUTES: CheckId = check("policy.attributes", "the set of the guest's attributes");
const XFAM: CheckId = check("policy.xfam", "the set of extended features (XFAM)");
const MIGRATION: CheckId = check("policy.migrate", "migration");
const SERVICE_TD: CheckId = check("policy.service-td", "the binding of service TDs");
const GUEST: CheckId = check("reference.guest", "what names the guest");
const MR_TD: CheckId = check("reference.mrtd", "what the guest was launched with");
const RTMRS: [CheckId; 4] = [
    check("reference.rtmr0", "RTMR0 (the firmware's configuration)"),
    check("reference.rtmr1", "RTMR1 (what the firmware loaded)"),
    check("reference.rtmr2", "RTMR2 (what that loaded)"),
    check("reference.rtmr3", "RTMR3 (what the guest measured)"),
];
const MR_CONFIG_ID: CheckId = check("reference.mrconfigid", "what the host said of the configuration");
const MR_OWNER: CheckId = check("reference.mrowner", "whose the guest is, as the host said");
const MR_OWNER_CONFIG: CheckId = check("reference.mrownerconfig", "what the owner configured, as the host said");
const REPORT_DATA: CheckId = check("reference.report-data", "what the guest had signed");
const MR_SERVICE_TD: CheckId = check("reference.service-td", "the set of service TDs");

const ABOUT_EVALUATION: &str = "what Intel publishes is good for a month, and flaws that were found since are not in it; \
    the number of the evaluation grows with each that is";
const ABOUT_PLATFORM: &str = "this is a kind of platform and no machine: who has one in hand can listen on its memory bus \
    and take keys out of it (TEE.fail), and nothing here tells which machine it is";
const ABOUT_SEPT_VE: &str = "the host can have such a guest take an exception at any access to memory, and so in the middle \
    of anything";
const ABOUT_RTMRS: &str = "MRTD is of the firmware alone; what that loaded is in RTMR1 and RTMR2, and without values for \
    these it may be anything";
const ABOUT_HOST_VALUES: &str = "the host chooses it, and MRTD says nothing of it";

/// What is known beforehand of one guest. Empty is: nothing is known, and nothing compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReferenceValues {
    /// MRTD, any of which will do.
    pub mr_tds: Vec<[u8; 48]>,
    /// RTMR0 to RTMR3, any of each.
    pub rtmrs: [Vec<[u8; 48]>; 4],
    /// What the host must have said at launch.
    pub mr_config_id: Option<[u8; 48]>,
    /// Whose the guest must be, as the host said at launch.
    pub mr_owner: Option<[u8; 48]>,
    /// What the owner must have configured, as the host said at launch.
    pub mr_owner_config: Option<[u8; 48]>,
    /// What the guest must have had signed.
    pub report_data: Option<[u8; 64]>,
    /// Sets of service TDs, any of which will do. To name one that is not zeros is to allow it, and no other: that others can
    /// be bound later (SERVTD_EXT) is the policy's to allow.
    pub mr_service_tds: Vec<[u8; 48]>,
}

/// A verified quote, compared with what is wanted.
pub type Appraisal = crate::appraisal::Appraisal<Anchor>;

/// Compares a verified quote with what is wanted of any guest, and of this one.
#[must_use]
pub fn appraise(verified: &Verified<Endorsed<'_>>, policy: &Policy, references: &ReferenceValues) -> Appraisal {
    let endorsed = verified.evidence();
    let mut judge = Judge {
        checks: Checks::default(),
        quote: *endorsed.quote(),
        platform: endorsed.platform(),
        policy,
        references,
    };
    judge.status();
    for (id, floor, list) in
        [(ROOT_CRL, policy.root_crl, "crl.root.signature"), (PCK_CRL, policy.pck_crl, "crl.pck.signature")]
    {
        judge.checks.list_floor(id, floor, verified.list_number(list));
    }
    judge.versions();
    judge.module();
    judge.attributes();
    judge.which_guest();
    judge.references();
    Appraisal::of(verified, judge.checks)
}

/// Makes checks and notes them.
struct Judge<'a> {
    checks: Checks,
    quote: Quote<'a>,
    platform: &'a Platform,
    policy: &'a Policy,
    references: &'a ReferenceValues,
}

impl Judge<'_> {
    /// What Intel says of the platform.
    fn status(&mut self) {
        let Platform { status, advisories, shortfalls, tcb_date, .. } = self.platform;
        let wanted: Vec<_> = self.policy.statuses.iter().map(|status| status.name()).collect();
        let wanted =
            if wanted.is_empty() { "one that the policy names; it names none".into() } else { wanted.join(" or ") };
        let missed = shortfalls.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let found = match missed.as_str() {
            "" => format!("{status} as of {tcb_date}"),
            missed => format!("{status} as of {tcb_date} ({missed})"),
        };
        let met = self.policy.statuses.contains(status) && *status != TcbStatus::Revoked;
        self.checks.require(STATUS, met, wanted, found);
        if !met {
            self.checks.fall_short(if missed.is_empty() { status.to_string() } else { format!("{status}: {missed}") });
        }
        let strangers: Vec<_> = advisories.iter().filter(|name| !self.policy.advisories.contains(*name)).collect();
        let all = |names: &[&String]| names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
        let allowed = all(&self.policy.advisories.iter().collect::<Vec<_>>());
        let wanted = if allowed.is_empty() { "empty".into() } else { format!("one of no others than {allowed}") };
        let found = if advisories.is_empty() { "empty".into() } else { all(&advisories.iter().collect::<Vec<_>>()) };
        self.checks.require(ADVISORIES, strangers.is_empty(), wanted, found);
        if !strangers.is_empty() {
            self.checks.fall_short(all(&strangers));
        }
    }

    fn versions(&mut self) {
        let (floor, evaluation) = (self.policy.evaluation, self.platform.evaluation);
        if floor == 0 {
            self.checks.skip(EVALUATION, format!("the policy has no floor for it; it is {evaluation}"));
            self.checks.advise(ABOUT_EVALUATION);
        } else {
            self.checks.at_least(EVALUATION, floor, evaluation);
        }
        self.checks.among(FMSPC, &self.policy.fmspcs, &self.platform.fmspc);
        self.checks.advise(ABOUT_PLATFORM);
        self.floors(LAUNCH_SVN, self.quote.tee_tcb_svn());
        match self.quote.tee_tcb_svn2() {
            Some(svn) => self.floors(CURRENT_SVN, svn),
            None => self.checks.skip(CURRENT_SVN, "TDX 1.0 doesn't say"),
        }
    }

    /// Component by component, because the whole has no order.
    fn floors(&mut self, id: CheckId, svn: &[u8; 16]) {
        let floors = &self.policy.tee_tcb_svn;
        if *floors == [0; 16] {
            return self.checks.skip(id, format!("the policy has no floor for any; it is {}", Hex(svn)));
        }
        let pairs = svn.iter().zip(floors).enumerate().filter(|(_, (has, needs))| has < needs);
        let missed: Vec<_> =
            pairs.map(|(index, (has, needs))| format!("tdx component {index} svn {has} < {needs}")).collect();
        self.checks.require(id, missed.is_empty(), format!("at least {} in each", Hex(floors)), Hex(svn));
        if !missed.is_empty() {
            self.checks.fall_short(missed.join(", "));
        }
    }

    fn module(&mut self) {
        let (quote, policy) = (self.quote, self.policy);
        self.checks.among(MODULE, &policy.mr_seams, quote.mr_seam());
        self.checks.among(MODULE_SIGNER, &policy.mr_signer_seams, quote.mr_signer_seam());
        self.bits(MODULE_ATTRIBUTES, policy.seam_attributes, u64::from_le_bytes(*quote.seam_attributes()));
    }

    /// What the guest is, and what it may use.
    fn attributes(&mut self) {
        let (quote, attributes) = (self.quote, self.quote.td_attributes());
        for (id, allowance, there, advisory) in [
            (check("policy.debug", "debugging by the host"), Allowance::Debug, attributes.debug(), Some(ABOUT_DEBUG)),
            (check("policy.profiling", "profiling by the host"), Allowance::Profiling, attributes.profiling(), None),
            (
                check("policy.sept-ve", "an exception for pages that the host takes away"),
                Allowance::SeptVe,
                !attributes.sept_ve_disable(),
                Some(ABOUT_SEPT_VE),
            ),
            (MIGRATION, Allowance::Migration, attributes.migratable(), None),
            (check("policy.pks", "the use of supervisor protection keys"), Allowance::Pks, attributes.pks(), None),
            (check("policy.key-locker", "the use of Key Locker"), Allowance::KeyLocker, attributes.key_locker(), None),
            (
                check("policy.perfmon", "the use of performance monitoring"),
                Allowance::Perfmon,
                attributes.perfmon(),
                None,
            ),
        ] {
            self.checks.permit(id, self.policy.allows(allowance), there, advisory);
        }
        self.service_tds();
        self.bits(ATTRIBUTES, self.policy.td_attributes, attributes.bits());
        self.bits(XFAM, self.policy.xfam, quote.xfam());
    }

    /// That nothing is bound to the guest, or what the policy allows, or a reference value names: that excuses a digest of its
    /// own value, wherever it stands, and nothing else. Intel's quoting enclave writes MR_SERVICETD again as what was bound
    /// first, so that whoever names it has named both.
    fn service_tds(&mut self) {
        let extension = self.quote.extension();
        let digests = [
            self.quote.mr_service_td(),
            extension.map(|extension| &extension.initial_service_tds),
            extension.map(|extension| &extension.current_service_tds),
        ];
        let mut bound = digests.into_iter().flatten().filter(|digest| **digest != [0; 48]);
        let is_any = bound.clone().next().is_some();
        let is_other = bound.any(|digest| !self.references.mr_service_tds.contains(digest));
        let is_extensible = self.quote.td_attributes().service_td_extension();
        let is_allowed = self.policy.allows(Allowance::ServiceTd);
        let wanted = match (is_allowed, &self.references.mr_service_tds[..]) {
            (true, _) => "there or not, as the policy allows it",
            (false, []) => "not there",
            (false, _) => "not there, or of what a reference value names",
        };
        let found = match (is_other, is_extensible, is_any) {
            (true, _, _) => "there",
            (false, true, _) => "possible at any time (SERVTD_EXT)",
            (false, false, true) => "of what a reference value names",
            (false, false, false) => "not there",
        };
        self.checks.require(SERVICE_TD, is_allowed || !(is_other || is_extensible), wanted, found);
    }

    fn bits(&mut self, id: CheckId, wanted: Bits, found: u64) {
        let Bits { mask, value } = wanted;
        if mask == 0 {
            return self.checks.skip(id, format!("{NOT_ASKED}; it is {found:#x}"));
        }
        let partly = if mask == u64::MAX { String::new() } else { format!(" under {mask:#x}") };
        self.checks.require(id, wanted.are(found), format!("{:#x}{partly}", value & mask), format!("{found:#x}"));
    }

    fn which_guest(&mut self) {
        let named = !self.references.mr_tds.is_empty();
        let found = if named { "MRTD" } else { "nothing: it may be any guest" };
        self.checks.require(GUEST, named || self.policy.allows(Allowance::AnyGuest), "MRTD", found);
    }

    fn references(&mut self) {
        let (quote, references, checks) = (self.quote, self.references, &mut self.checks);
        checks.among(MR_TD, &references.mr_tds, quote.mr_td());
        for ((id, expected), found) in RTMRS.into_iter().zip(&references.rtmrs).zip(quote.rtmrs()) {
            checks.among(id, expected, found);
            if expected.is_empty() && (id == RTMRS[1] || id == RTMRS[2]) {
                checks.advise(ABOUT_RTMRS);
            }
        }
        for (id, expected, found) in [
            (MR_CONFIG_ID, &references.mr_config_id, quote.mr_config_id()),
            (MR_OWNER, &references.mr_owner, quote.mr_owner()),
            (MR_OWNER_CONFIG, &references.mr_owner_config, quote.mr_owner_config()),
        ] {
            checks.among(id, expected, found);
            if expected.is_none() && found.iter().any(|byte| *byte != 0) {
                checks.advise(ABOUT_HOST_VALUES);
            }
        }
        checks.among(REPORT_DATA, &references.report_data, quote.report_data());
        if references.report_data.is_none() {
            checks.advise(ABOUT_REPLAY);
        }
        let service_td = quote.mr_service_td();
        checks.one_of(MR_SERVICE_TD, &references.mr_service_tds, service_td, "unknown: TDX 1.0 has none");
    }
}

#[cfg(test)]
mod tests;

//! Whether a verified report is of what somebody wants.
//!
//! Owns every check of a policy and of reference values. All are made, as in verification, and what
//! nobody asked for is skipped and listed, so that a verdict shows what it does not say. Only [`Verified`] evidence gets
//! here. Does not own the policy ([`Policy`]), where reference values come from, nor the verdict ([`crate::appraisal`]).
//!
//! Specification: 56860, "ATTESTATION_REPORT", "Guest Policy" and PLATFORM_INFO.

use alloc::format;
use alloc::vec::Vec;

use super::report::{Requester, SigningKey};
use super::{Allowance, Policy, Product, Report, Requirement};
use crate::appraisal::{ABOUT_DEBUG, ABOUT_REPLAY, NOT_ASKED};
use crate::check::{CheckId, Checks, Fault, Outcome};
use crate::snp::Anchor;
use crate::verified::Verified;

const fn check(name: &'static str, subject: &'static str) -> CheckId {
    CheckId::of_wish(name, subject)
}

const PRODUCT: CheckId = check("policy.product", "the product");
const REPORT_VERSION: CheckId = check("policy.report-version", "the report's version");
const VMPL: CheckId = check("policy.vmpl", "who asked for the report");
const GUEST_SVN: CheckId = check("policy.guest-svn", "the guest's security version");
const FIRMWARE: CheckId = check("policy.provisional-firmware", "going back to older firmware");
const MITIGATIONS: CheckId = check("policy.mitigations", "the set of mitigations");
const ABI: CheckId = check("policy.abi", "the firmware ABI that the guest's policy asks for");
const TIO: CheckId = check("policy.tio", "trust in devices (SEV-TIO)");
const MIGRATION: CheckId = check("policy.migrate", "migration by an agent");
/// Of the versions that the report's key is for.
const TCB: [CheckId; 5] = [
    check("policy.tcb.fmc", "the FMC version"),
    check("policy.tcb.boot-loader", "the boot loader version"),
    check("policy.tcb.tee", "the TEE version"),
    check("policy.tcb.snp", "the SNP firmware version"),
    check("policy.tcb.microcode", "the microcode version"),
];
/// Of the versions that ran when the guest was launched.
const LAUNCH_TCB: [CheckId; 5] = [
    check("policy.launch-tcb.fmc", "the FMC version at launch"),
    check("policy.launch-tcb.boot-loader", "the boot loader version at launch"),
    check("policy.launch-tcb.tee", "the TEE version at launch"),
    check("policy.launch-tcb.snp", "the SNP firmware version at launch"),
    check("policy.launch-tcb.microcode", "the microcode version at launch"),
];
const GUEST: CheckId = check("reference.guest", "what names the guest");
const MEASUREMENT: CheckId = check("reference.launch-digest", "the launch digest");
const REPORT_DATA: CheckId = check("reference.report-data", "what the guest had signed");
const HOST_DATA: CheckId = check("reference.host-data", "what the host had signed");
const ID_KEY: CheckId = check("reference.id-key", "the key of the guest's ID block");
const AUTHOR_KEY: CheckId = check("reference.author-key", "the author's key");
const CHIP: CheckId = check("reference.chip", "the chip");

/// Flags of a guest's policy that must be allowed: bit, check.
const FLAGS_ALLOWED: [(u64, Allowance, CheckId); 3] = [
    (1 << 16, Allowance::Smt, check("policy.smt", "sharing a core with another thread")),
    (1 << 19, Allowance::Debug, check("policy.debug", "debugging by the host")),
    (1 << 21, Allowance::Cxl, check("policy.cxl", "the use of CXL")),
];
const MIGRATE_MA: u64 = 1 << 18;
/// Of PLATFORM_INFO.
const PLATFORM_TIO: u64 = 1 << 7;

/// Where it is said whether a requirement is met.
enum Said {
    /// The guest's policy has the bit: the firmware would not have launched it otherwise.
    Guest(u64),
    /// PLATFORM_INFO has the bit.
    Platform(u64),
    /// Either: what the guest's policy has, its platform has.
    Either { guest: u64, platform: u64 },
}

const REQUIRED: [(Requirement, Said, CheckId); 6] = [
    (Requirement::SingleSocket, Said::Guest(1 << 20), check("policy.single-socket", "being on one socket only")),
    (Requirement::Aes256Xts, Said::Guest(1 << 22), check("policy.aes-256-xts", "encryption with AES-256-XTS")),
    (
        Requirement::RaplOff,
        Said::Either { guest: 1 << 23, platform: 1 << 3 },
        check("policy.rapl-off", "power measurement being off"),
    ),
    (
        Requirement::CiphertextHiding,
        Said::Either { guest: 1 << 24, platform: 1 << 4 },
        check("policy.ciphertext-hiding", "hiding of ciphertext"),
    ),
    (Requirement::PageSwapOff, Said::Guest(1 << 25), check("policy.page-swap-off", "pages staying where they are")),
    (
        Requirement::AliasCheck,
        Said::Platform(1 << 5),
        check("policy.alias-check", "the platform's check for aliases of memory"),
    ),
];
const NEEDS_ID_KEY: CheckId = check("policy.id-key", "an ID block with a signature");
const NEEDS_AUTHOR_KEY: CheckId = check("policy.author-key", "an author's key");
const NEEDS_CHIP_KEY: CheckId = check("policy.chip-key", "the signing key");
const NEEDS_LIST: CheckId =
    CheckId::where_possible("policy.revocation-list", "the list of revoked certificates").failing_as(Fault::Collateral);

const LIST_NUMBER: CheckId = check("policy.crl", "the number of the list of revoked certificates");

const ABOUT_MILAN: &str = "a software attack on Milan reads the seed of all of a chip's keys (arXiv 2605.12990, May 2026): \
    whoever has done that to a chip can sign reports of any version for it, for ever. What a report of Milan says is \
    worth as much as your trust in whoever had that chip";
const ABOUT_FLOORS: &str = "flaws of a platform are mended by new versions, and AMD's security bulletins name them; \
    without floors any version will do";
const ABOUT_PROVISIONAL: &str = "the host can bring back the older, committed versions, with flaws that the reported \
    ones have not";
const ABOUT_ALIASES: &str = "without this check memory modules that lie about their size can give the host a second way \
    to the guest's memory (CVE-2024-21944)";
const ABOUT_HOST_KEYS: &str =
    "any host can launch a guest without an ID block: a key that nobody expects proves nothing";
const ABOUT_CHIPS: &str = "who has a machine in hand can listen on its memory bus and take keys out of it (TEE.fail); \
    naming the chips you know is the only remedy";
const ABOUT_MASKED: &str = "the report names no chip: nobody can tell on which machine the guest is";
const ABOUT_MASKED_KEY: &str = "the platform is set to keep its chip's key to itself (MASK_CHIP_KEY)";
const ABOUT_LISTS: &str = "certificates that AMD has taken back are still accepted without a list of them";

/// What is known beforehand of one guest. Empty is: nothing is known, and nothing compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReferenceValues {
    /// Launch digests, any of which will do.
    pub launch_digests: Vec<[u8; 48]>,
    /// What the guest must have had signed.
    pub report_data: Option<[u8; 64]>,
    /// What the host must have said at launch.
    pub host_data: Option<[u8; 32]>,
    /// Digests of keys, any of which may have signed the guest's ID block.
    pub id_keys: Vec<[u8; 48]>,
    /// Digests of authors' keys, any of which may have signed that key.
    pub author_keys: Vec<[u8; 48]>,
    /// Chips, on any of which it may be.
    pub chips: Vec<[u8; 64]>,
}

/// A verified report, compared with what is wanted.
pub type Appraisal = crate::appraisal::Appraisal<Anchor>;

/// Compares a verified report with what is wanted of any guest, and of this one.
#[must_use]
pub fn appraise(verified: &Verified<Report<'_>>, policy: &Policy, references: &ReferenceValues) -> Appraisal {
    let product = verified.anchor().product();
    let mut judge = Judge { checks: Checks::default(), report: *verified.evidence(), product, policy };
    judge.product();
    judge.versions();
    judge.guest_policy();
    judge.required();
    judge.keys_required();
    judge.list_required(verified.checks());
    let floor = policy.crls.get(&product).copied().unwrap_or_default();
    judge.checks.list_floor(LIST_NUMBER, floor, verified.list_number("chain.revocation.list"));
    judge.which_guest(references);
    judge.references(references);
    Appraisal::of(verified, judge.checks)
}

/// Makes checks and notes them.
struct Judge<'a> {
    checks: Checks,
    report: Report<'a>,
    product: Product,
    policy: &'a Policy,
}

impl Judge<'_> {
    fn product(&mut self) {
        let allowed: Vec<_> = self.policy.products.keys().map(|product| product.name()).collect();
        let wanted =
            if allowed.is_empty() { "one that the policy names; it names none".into() } else { allowed.join(" or ") };
        let found = self.product;
        self.checks.require(PRODUCT, self.policy.products.contains_key(&found), wanted, found);
        if found == Product::Milan {
            self.checks.advise(ABOUT_MILAN);
        }
    }

    fn versions(&mut self) {
        let (report, policy) = (self.report, self.policy);
        let version = report.version();
        self.checks.at_least(REPORT_VERSION, policy.report_version, version);
        self.floors(TCB, report.reported_tcb());
        self.floors(LAUNCH_TCB, report.launch_tcb());
        let committed =
            report.committed_tcb() == report.current_tcb() && report.committed_version() == report.current_version();
        self.allow(FIRMWARE, Allowance::ProvisionalFirmware, !committed, Some(ABOUT_PROVISIONAL));
        self.checks.at_least(GUEST_SVN, policy.guest_svn, report.guest_svn());
        let wanted = policy.mitigations;
        if wanted == 0 {
            return self.checks.skip(MITIGATIONS, NOT_ASKED);
        }
        let (good, found) = match report.mitigations() {
            Some(there) => (
                there.launch & there.current & wanted == wanted,
                format!("{:#x} at launch, {:#x} now", there.launch, there.current),
            ),
            None => (false, format!("unknown: reports of version {version} don't say")),
        };
        self.checks.require(MITIGATIONS, good, format!("one with all of {wanted:#x}"), found);
    }

    /// Part by part, because the whole has no order.
    fn floors(&mut self, ids: [CheckId; 5], tcb: super::PackedTcb) {
        let Some(floor) = self.policy.products.get(&self.product) else {
            return ids
                .into_iter()
                .for_each(|id| self.checks.skip(id, format!("the policy does not name {}", self.product)));
        };
        let Ok(tcb) = tcb.unpack(self.product) else {
            // Verification does not let this pass.
            return ids
                .into_iter()
                .for_each(|id| self.checks.require(id, false, "known", "unknown: reserved bytes are not zero"));
        };
        for (id, (floor, version)) in ids.into_iter().zip(floor.parts(tcb)) {
            match version {
                None => self.checks.skip(id, format!("{} has none", self.product)),
                Some(_) if floor == 0 => {
                    self.checks.skip(id, format!("the policy has no floor for it on {}", self.product));
                    self.checks.advise(ABOUT_FLOORS);
                }
                Some(version) => self.checks.at_least(id, floor, version),
            }
        }
    }

    fn guest_policy(&mut self) {
        let report = self.report;
        let allowed = match report.requester() {
            Requester::Vmpl(level) => level <= self.policy.vmpl,
            Requester::Host => false,
        };
        self.checks.require(
            VMPL,
            allowed,
            format!("the guest, at a VMPL of at most {}", self.policy.vmpl),
            report.requester(),
        );
        let [minor, major, ..] = report.policy().to_le_bytes();
        let (least_major, least_minor) = self.policy.abi;
        let wanted = format!("at least {least_major}.{least_minor}");
        let found = format!("{major}.{minor}");
        self.checks.require(ABI, (major, minor) >= self.policy.abi, wanted, &found);
        if (major, minor) < self.policy.abi {
            self.checks.fall_short(format!("{found} < {least_major}.{least_minor}"));
        }
        for (bit, allowance, id) in FLAGS_ALLOWED {
            let there = report.policy() & bit != 0;
            let advisory = (allowance == Allowance::Debug).then_some(ABOUT_DEBUG);
            self.allow(id, allowance, there, advisory);
        }
        self.allow(TIO, Allowance::Tio, report.platform_info() & PLATFORM_TIO != 0, None);
        let agent = report.report_id_ma().iter().any(|byte| *byte != 0xff);
        self.allow(MIGRATION, Allowance::Migration, agent || report.policy() & MIGRATE_MA != 0, None);
    }

    fn required(&mut self) {
        let (guest_has, platform_has) = (self.report.policy(), self.report.platform_info());
        for (requirement, said, id) in REQUIRED {
            let (there, by) = match said {
                Said::Guest(bit) => (guest_has & bit != 0, "the guest's policy"),
                Said::Platform(bit) => (platform_has & bit != 0, "the platform"),
                Said::Either { guest, platform } => {
                    (guest_has & guest != 0 || platform_has & platform != 0, "the platform or the guest's policy")
                }
            };
            let found = format!("{} by {by}", if there { "said" } else { "not said" });
            self.demand(requirement, id, there, &format!("said by {by}"), &found);
            if requirement == Requirement::AliasCheck && !there {
                self.checks.advise(ABOUT_ALIASES);
            }
        }
    }

    fn keys_required(&mut self) {
        let report = self.report;
        let found = |key: Option<_>| if key.is_some() { "there" } else { "not there" };
        let (id_key, author) = (report.id_key(), report.author_key());
        self.demand(Requirement::IdKey, NEEDS_ID_KEY, id_key.is_some(), "there", found(id_key));
        self.demand(Requirement::AuthorKey, NEEDS_AUTHOR_KEY, author.is_some(), "there", found(author));
        let of_chip = report.signing_key() == SigningKey::Vcek;
        self.demand(Requirement::ChipKey, NEEDS_CHIP_KEY, of_chip, "a VCEK", &format!("a {}", report.signing_key()));
        if report.mask_chip_key() {
            self.checks.advise(ABOUT_MASKED_KEY);
        }
    }

    fn list_required(&mut self, verified: &Checks) {
        let looked = verified.named("chain.revocation").is_some_and(|check| check.outcome == Outcome::Passed);
        let found = if looked { "looked at" } else { "missing" };
        self.demand(Requirement::RevocationList, NEEDS_LIST, looked, "looked at", found);
        if !looked {
            self.checks.advise(ABOUT_LISTS);
        }
    }

    fn which_guest(&mut self, references: &ReferenceValues) {
        let named: Vec<_> = [
            (!references.launch_digests.is_empty(), "launch digests"),
            (!references.id_keys.is_empty(), "ID keys"),
            (!references.author_keys.is_empty(), "authors' keys"),
        ]
        .into_iter()
        .filter_map(|(there, name)| there.then_some(name))
        .collect();
        let (good, found) = match named.is_empty() {
            false => (true, named.join(" and ")),
            true => (self.policy.allows(Allowance::AnyGuest), "nothing: it may be any guest".into()),
        };
        self.checks.require(GUEST, good, "a launch digest, or the digest of an ID key or an author's key", found);
    }

    fn references(&mut self, references: &ReferenceValues) {
        let (report, checks) = (self.report, &mut self.checks);
        checks.among(MEASUREMENT, &references.launch_digests, report.measurement());
        checks.among(REPORT_DATA, &references.report_data, report.report_data());
        if references.report_data.is_none() {
            checks.advise(ABOUT_REPLAY);
        }
        checks.among(HOST_DATA, &references.host_data, report.host_data());
        checks.one_of(ID_KEY, &references.id_keys, report.id_key(), "none: the launch had no ID block");
        if references.id_keys.is_empty() {
            checks.advise(ABOUT_HOST_KEYS);
        }
        checks.one_of(AUTHOR_KEY, &references.author_keys, report.author_key(), "none: no author's key signed");
        checks.one_of(CHIP, &references.chips, report.chip(), "none: the report names no chip");
        checks.advise(if report.chip().is_some() { ABOUT_CHIPS } else { ABOUT_MASKED });
    }

    /// Something that may be only if it is allowed.
    fn allow(&mut self, id: CheckId, allowance: Allowance, there: bool, advisory: Option<&'static str>) {
        self.checks.permit(id, self.policy.allows(allowance), there, advisory);
    }

    /// Something that must be if it is required.
    fn demand(&mut self, requirement: Requirement, id: CheckId, met: bool, wanted: &str, found: &str) {
        self.checks.demand(id, self.policy.requires(requirement), met, wanted, found);
    }
}

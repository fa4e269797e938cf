//! The cases of a self-test, and what each of them shows.
//!
//! Owns their order, and what is expected. On SNP an ID block is a question to the secure processor that needs no help of
//! the guest's: it launches the guest only if it measured what was predicted, and it must refuse everything else.

use std::time::{Duration, Instant};

use gmem::ByteLen;
use gmem_kvm::port::Kernel;
use guest_fw::abi::{EVIDENCE_SNP_REPORT, TERMINATION_NOT_BUILT, TERMINATION_SET};
use snp::digest::Digest;
use snp::id_block::keys::IdKey;
use snp::id_block::{IdAuth, IdBlock, ImageIdentity, KeyDigests, SignedBlock};
use snp::policy::{GuestPolicy, PolicyFlags};
use snp::status;

use super::conversions::{Converted, convert};
use super::evidence::Expected;
use super::guest::{self, Kept, Ran};
use super::results::{CaseResult, Check, Results};
use super::surroundings::{Surroundings, asids_are_back, memory_is_back};
use super::{Bed, Plan, SelfTestError, TEARDOWN, no_inputs, single};
use crate::config::inputs::Inputs;
use crate::config::snp::{HostData, IdBlockCheck};
use crate::config::{RunConfig, Tee};
use crate::report::{GuestOutcome, RunReport, Verdict as Evidence};
use crate::run::{self, RunError};
use crate::summary::{self, Style};

/// What an ID block with something wrong in it is answered with.
struct Refused {
    id: &'static str,
    about: &'static str,
    /// Status of the firmware.
    status: u32,
    wrong: fn(&mut SignedBlock, &Keys, Digest, GuestPolicy),
}

const REFUSED: [Refused; 3] = [
    Refused {
        id: "other-digest",
        about: "an ID block that is signed for a digest with one bit changed",
        status: status::BAD_MEASUREMENT,
        wrong: |signed, keys, digest, policy| {
            let mut other = digest;
            other.0[0] ^= 1;
            *signed = keys.sign(other, policy);
        },
    },
    Refused {
        id: "other-policy",
        about: "an ID block that is signed for another guest policy",
        status: status::POLICY_FAILURE,
        wrong: |signed, keys, digest, policy| {
            let other = GuestPolicy::new(policy.flags() ^ PolicyFlags::SINGLE_SOCKET);
            *signed = keys.sign(digest, other);
        },
    },
    Refused {
        id: "forged-id-block",
        about: "an ID block that was changed after it was signed",
        status: status::BAD_SIGNATURE,
        wrong: |signed, _, _, _| signed.block.image_id[0] ^= 1,
    },
];

/// A guest's owner, for as long as the self-test takes.
struct Keys {
    id: IdKey,
    author: IdKey,
}

impl Keys {
    fn random<K>(bed: &Bed<'_, K>) -> Result<Self, SelfTestError> {
        let key = || -> Result<IdKey, SelfTestError> {
            loop {
                // All but one in 2^190 numbers are keys.
                if let Some(key) = IdKey::from_scalar(&(bed.random)().map_err(SelfTestError::Random)?) {
                    return Ok(key);
                }
            }
        };
        Ok(Self { id: key()?, author: key()? })
    }

    fn sign(&self, digest: Digest, policy: GuestPolicy) -> SignedBlock {
        let block = IdBlock::new(digest, policy, ImageIdentity::default());
        let auth = IdAuth::sign(&block, &self.id, Some(&self.author));
        SignedBlock { block, auth }
    }
}

/// A self-test under way.
struct Session<'a, 'b, K> {
    bed: &'a Bed<'b, K>,
    time_limit: Duration,
    tee: Tee,
    cases: Vec<CaseResult>,
    kept: Vec<Kept>,
    /// Memory that guests had together.
    guests_had: ByteLen,
}

/// Runs every case.
pub(super) fn run<K: Kernel>(
    bed: &Bed<'_, K>,
    plan: &Plan,
    config: &RunConfig,
) -> Result<(Results, Vec<Kept>), SelfTestError> {
    let mut session = Session {
        bed,
        time_limit: plan.time_limit,
        tee: plan.tee,
        cases: Vec::new(),
        kept: Vec::new(),
        guests_had: ByteLen(0),
    };
    let begun = (bed.look)();
    let one = single(config);
    let mut digest = None;
    session.case("guest", guest_with(1), |session, kept| {
        let ran = session.enter(kept, &one, Inputs::default(), None)?;
        digest = ran.digest;
        Ok(ran.checks)
    })?;
    if config.vcpus > 1 {
        session.case("vcpus", guest_with(config.vcpus), |session, kept| {
            Ok(session.enter(kept, config, Inputs::default(), None)?.checks)
        })?;
    }
    if config.tee == Tee::Snp {
        session.signed(&one, digest)?;
    }
    session.case("conversions", "pages that the host converts, in a guest that is never entered".to_owned(), {
        |session, kept| session.conversions(kept, &one)
    })?;
    let launches = plan.launches;
    session.case("again", format!("{launches} guests in turn"), |session, kept| session.again(kept, &one, launches))?;
    session.host(begun);
    let (kernel, cpu) = run::host();
    let Session { cases, kept, .. } = session;
    Ok((Results::new(config.tee, kernel, cpu, cases), kept))
}

fn guest_with(vcpus: u32) -> String {
    format!("a guest with {vcpus} vCPU{}", if vcpus == 1 { "" } else { "s" })
}

/// What came of a guest that was entered.
struct Entered {
    checks: Vec<Check>,
    digest: Option<Digest>,
}

impl<K: Kernel> Session<'_, '_, K> {
    /// A case, unless somebody has ended it all. Whatever it does, ASIDs are back after it.
    fn case(
        &mut self,
        id: &'static str,
        about: String,
        body: impl FnOnce(&mut Self, &mut Kept) -> Result<Vec<Check>, SelfTestError>,
    ) -> Result<(), SelfTestError> {
        let begun = Instant::now();
        (self.bed.progress)(&about);
        let mut kept = Kept { case: id, ..Kept::default() };
        let checks = match self.bed.stop.reason() {
            Some(by) => vec![Check::not_run("launch", format!("stopped by {by}"))],
            None => {
                let before = (self.bed.look)();
                let mut checks = body(self, &mut kept)?;
                checks.extend(self.asids_are_back(before));
                checks
            }
        };
        let duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.cases.push(CaseResult { id, about, duration_ms, checks });
        self.kept.push(kept);
        Ok(())
    }

    /// Guests of other technologies have none.
    fn asids_are_back(&self, before: Surroundings) -> Vec<Check> {
        if self.tee == Tee::Snp { asids_are_back(before, self.bed.look) } else { Vec::new() }
    }

    /// Launches and enters a guest, and judges all that can be seen of it.
    fn enter(
        &mut self,
        kept: &mut Kept,
        config: &RunConfig,
        inputs: Inputs,
        keys: Option<KeyDigests>,
    ) -> Result<Entered, SelfTestError> {
        let config = self.fresh(config)?;
        let ran = match guest::run(self.bed, &config, &inputs, self.time_limit)? {
            Ok(ran) => ran,
            Err(error) => return Ok(Entered { checks: vec![not_launched(&error)], digest: None }),
        };
        self.note(kept, &ran.report, ran.events.clone(), ran.console.clone());
        let digest = ran.predicted();
        let mut checks = vec![launched(&ran.report)];
        if !matches!(ran.report.outcome, GuestOutcome::NotStarted { .. }) {
            checks.extend(guest_checks(&ran.report));
            if let (Tee::Snp, Some(digest)) = (config.tee, digest) {
                let expected = Expected {
                    measurement: digest,
                    host_data: config.snp.host_data.0,
                    policy: config.snp.policy.to_raw(),
                    keys,
                };
                checks.extend(self.bed.verifier.judge(&kept.reports, &expected));
            }
        }
        checks.push(teardown(&ran.report));
        Ok(Entered { checks, digest })
    }

    /// The same guest with host data nobody can know beforehand: a report that repeats it is of this very guest.
    fn fresh(&self, config: &RunConfig) -> Result<RunConfig, SelfTestError> {
        let mut config = config.clone();
        if config.tee == Tee::Snp {
            let random = (self.bed.random)().map_err(SelfTestError::Random)?;
            if let Some(data) = random.first_chunk() {
                config.snp.host_data = HostData(*data);
            }
        }
        Ok(config)
    }

    fn note(&mut self, kept: &mut Kept, report: &RunReport, events: Vec<crate::events::TimedEvent>, console: Vec<u8>) {
        let had = report.memory.private_resident.and_then(gmem::PageCount::bytes).unwrap_or_default();
        self.guests_had = ByteLen(self.guests_had.0.saturating_add(had.0));
        kept.summary = summary::render(report, Style::Plain);
        kept.events = events;
        kept.console = console;
        let reports = report.handed.iter().filter(|evidence| evidence.kind == EVIDENCE_SNP_REPORT);
        kept.reports = reports.map(|evidence| evidence.bytes.clone()).collect();
    }

    /// What an owner signed is launched, and nothing else is.
    fn signed(&mut self, config: &RunConfig, digest: Option<Digest>) -> Result<(), SelfTestError> {
        let keys = Keys::random(self.bed)?;
        let policy = config.snp.policy;
        let about = "the same guest with an ID block for its predicted digest".to_owned();
        self.case("signed", about, |session, kept| {
            let Some(digest) = digest else { return Ok(vec![no_digest()]) };
            let signed = keys.sign(digest, policy);
            let digests = signed.auth.verify(&signed.block).ok();
            let inputs = Inputs { signed: Some(Box::new(signed)), ..no_inputs() };
            let Entered { mut checks, .. } = session.enter(kept, config, inputs, digests)?;
            if let Some(Check { verdict: super::results::Verdict::Passed { .. }, .. }) = checks.first() {
                let seen = "the secure processor measured what was predicted, and accepted the ID block";
                checks.insert(1, Check::passed("measured-as-predicted", seen));
            }
            Ok(checks)
        })?;
        for refused in &REFUSED {
            self.case(refused.id, refused.about.to_owned(), |session, kept| {
                let Some(digest) = digest else { return Ok(vec![no_digest()]) };
                let mut signed = keys.sign(digest, policy);
                (refused.wrong)(&mut signed, &keys, digest, policy);
                session.refused(kept, config, signed, refused.status)
            })?;
        }
        Ok(())
    }

    /// A launch that the firmware must refuse at its end, with this status.
    fn refused(
        &mut self,
        kept: &mut Kept,
        config: &RunConfig,
        signed: SignedBlock,
        status: u32,
    ) -> Result<Vec<Check>, SelfTestError> {
        let mut config = self.fresh(config)?;
        config.snp.id_block_check = IdBlockCheck::ByFirmware;
        let inputs = Inputs { signed: Some(Box::new(signed)), ..no_inputs() };
        let ran = match guest::run(self.bed, &config, &inputs, self.time_limit)? {
            Ok(ran) => ran,
            Err(error) => return Ok(vec![not_launched(&error)]),
        };
        let Ran { report, events, console } = ran;
        self.note(kept, &report, events, console);
        let expected = status::of(status).map_or("nothing", |status| status.name);
        let refused = match (&report.outcome, report.firmware_status) {
            (GuestOutcome::NotStarted { .. }, Some(found)) if found == status => Check::passed("refused", expected),
            (GuestOutcome::NotStarted { reason }, _) => {
                Check::failed("refused", format!("not with {expected}: {reason}"))
            }
            _ => Check::failed("refused", format!("the guest was launched; expected was {expected}")),
        };
        Ok(vec![refused, teardown(&report)])
    }

    fn conversions(&mut self, kept: &mut Kept, config: &RunConfig) -> Result<Vec<Check>, SelfTestError> {
        let (config, events) = (self.fresh(config)?, crate::events::EventLog::in_memory());
        let ram = config.memory;
        let done = run::launch_only(self.bed.kernel, config.tee, &config, &no_inputs(), &events, |vm, vcpus| {
            convert(vm, vcpus.first_mut(), ram)
        });
        let (report, converted) = match done {
            Ok(done) => done,
            Err(error) => return Ok(vec![not_launched(&error)]),
        };
        let collected = events.collected().into_iter();
        self.note(kept, &report, collected.collect(), Vec::new());
        let Some(Converted { mut checks, touched }) = converted else {
            return Ok(vec![launched(&report), teardown(&report)]);
        };
        self.guests_had = ByteLen(self.guests_had.0.saturating_add(touched.0));
        checks.insert(0, Check::passed("launch", "the guest was launched"));
        checks.push(teardown(&report));
        Ok(checks)
    }

    /// The same guest several times: what one leaves behind, the next one misses.
    fn again(&mut self, kept: &mut Kept, config: &RunConfig, launches: u32) -> Result<Vec<Check>, SelfTestError> {
        let mut digests = Vec::new();
        for number in 1..=launches {
            if let Some(by) = self.bed.stop.reason() {
                return Ok(vec![Check::not_run("launches", format!("stopped by {by} after {}", number - 1))]);
            }
            (self.bed.progress)(&format!("guest {number} of {launches}"));
            let ran = match guest::run(self.bed, &self.fresh(config)?, &no_inputs(), self.time_limit)? {
                Ok(ran) => ran,
                Err(error) => return Ok(vec![not_launched(&error)]),
            };
            digests.extend(ran.predicted());
            let Ran { report, events, console } = ran;
            let unclean = !report.teardown.is_clean();
            let not_started = matches!(report.outcome, GuestOutcome::NotStarted { .. });
            self.note(kept, &report, events, console);
            if unclean || not_started {
                let of = |check: Check| Check { id: check.id, verdict: check.verdict.of_guest(number) };
                return Ok(vec![of(launched(&report)), of(teardown(&report))]);
            }
        }
        digests.dedup();
        let mut checks = vec![Check::passed("launches", format!("{launches}, each torn down cleanly"))];
        if config.tee == Tee::Snp {
            checks.push(match digests.as_slice() {
                [] => Check::not_run("one-launch", "no guest was launched"),
                [_] => Check::passed("one-launch", "all of them are the same launch"),
                several => Check::failed("one-launch", format!("{} different digests were predicted", several.len())),
            });
        }
        Ok(checks)
    }

    /// What all guests together have given back.
    fn host(&mut self, begun: Surroundings) {
        let mut checks = self.asids_are_back(begun);
        checks.push(memory_is_back(begun, (self.bed.look)(), self.guests_had));
        let about = "the host after all of them".to_owned();
        self.cases.push(CaseResult { id: "host", about, duration_ms: 0, checks });
    }
}

fn no_digest() -> Check {
    Check::not_run("launch", "no digest was predicted")
}

/// There was no VM.
fn not_launched(error: &RunError) -> Check {
    Check::failed("launch", error.to_string())
}

fn launched(report: &RunReport) -> Check {
    match &report.outcome {
        GuestOutcome::NotStarted { reason } => Check::failed("launch", reason.clone()),
        _ => Check::passed("launch", format!("in {:.1?}", report.timing.launch)),
    }
}

/// What the guest says of itself.
fn guest_checks(report: &RunReport) -> [Check; 2] {
    const STARTS: &str = "guest-starts";
    const SELF_TEST: &str = "guest-self-test";
    match &report.outcome {
        GuestOutcome::SelfTest { failed_checks: 0 } => {
            let converted = report.memory.to_shared.pages + report.memory.to_private.pages;
            [
                Check::passed(STARTS, "its first code ran"),
                Check::passed(SELF_TEST, format!("all its checks passed; it had {converted} pages converted")),
            ]
        }
        GuestOutcome::SelfTest { failed_checks } => [
            Check::passed(STARTS, "its first code ran"),
            Check::failed(SELF_TEST, format!("{failed_checks} of its checks failed; its console says which")),
        ],
        GuestOutcome::Terminated { set: TERMINATION_SET, code: TERMINATION_NOT_BUILT, reason } => [
            Check::passed(STARTS, "its first code ran, and asked to be terminated"),
            Check::not_run(SELF_TEST, reason.clone()),
        ],
        other => [
            Check::failed(STARTS, format!("{other:?}")),
            Check::not_run(SELF_TEST, "the guest ended before it said anything"),
        ],
    }
}

/// pages-before-key, by the receipt.
fn teardown(report: &RunReport) -> Check {
    let receipt = &report.teardown;
    if receipt.is_clean() {
        let unknown = receipt.evidence.iter().filter(|evidence| matches!(evidence.verdict, Evidence::Unknown { .. }));
        let unknown = match unknown.count() {
            0 => String::new(),
            count => format!(", {count} of {} pieces of evidence could not be had", receipt.evidence.len()),
        };
        return Check::passed(TEARDOWN, format!("clean, in {:.1?}{unknown}", report.timing.teardown));
    }
    let steps = receipt.steps.iter().filter_map(|step| Some(format!("{}: {}", step.what, step.error.as_ref()?)));
    let evidence = receipt.evidence.iter().filter_map(|evidence| match &evidence.verdict {
        Evidence::Fails { seen } => Some(format!("{}: {seen}", evidence.what)),
        _ => None,
    });
    let debts = receipt.debts.iter().cloned().chain(receipt.doubts.iter().cloned());
    let all: Vec<_> = steps.chain(evidence).chain(debts).collect();
    Check::failed(TEARDOWN, all.join("; "))
}

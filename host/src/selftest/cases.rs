//! The cases of a self-test, and what each of them shows.
//!
//! Owns their order, and what is looked at. Launches that were signed are the module `signed`'s, what an outcome is worth
//! `judge`'s.

use std::time::{Duration, Instant};

use gmem::{ByteLen, PageCount};
use gmem_kvm::port::Kernel;
use guest_fw::abi::EVIDENCE_SNP_REPORT;
use snp::digest::Digest;
use snp::id_block::KeyDigests;

use super::conversions::{Converted, convert};
use super::evidence::Expected;
use super::guest::{self, Kept, Ran};
use super::judge::{guest_checks, launched, not_launched, teardown};
use super::results::{CaseResult, Check, Results};
use super::surroundings::{Surroundings, asids_are_back, memory_is_back};
use super::{Bed, Plan, SelfTestError, single};
use crate::config::inputs::Inputs;
use crate::config::snp::HostData;
use crate::config::{RunConfig, Tee};
use crate::events::{EventLog, TimedEvent};
use crate::report::{GuestOutcome, RunReport};
use crate::run;
use crate::summary::{self, Style};

/// A self-test under way.
pub(super) struct Session<'a, 'b, K> {
    pub bed: &'a Bed<'b, K>,
    pub time_limit: Duration,
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
        tee: config.tee,
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
pub(super) struct Entered {
    pub checks: Vec<Check>,
    digest: Option<Digest>,
}

impl<K: Kernel> Session<'_, '_, K> {
    /// A case, unless somebody has ended it all. Whatever it does, ASIDs are back after it.
    pub(super) fn case(
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
    pub(super) fn enter(
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
    pub(super) fn fresh(&self, config: &RunConfig) -> Result<RunConfig, SelfTestError> {
        let mut config = config.clone();
        if config.tee == Tee::Snp {
            let random = (self.bed.random)().map_err(SelfTestError::Random)?;
            if let Some(data) = random.first_chunk() {
                config.snp.host_data = HostData(*data);
            }
        }
        Ok(config)
    }

    /// Keeps what was seen of a guest.
    pub(super) fn note(&mut self, kept: &mut Kept, report: &RunReport, events: Vec<TimedEvent>, console: Vec<u8>) {
        let had = report.memory.private_resident.and_then(PageCount::bytes).unwrap_or_default();
        self.guests_had = ByteLen(self.guests_had.0.saturating_add(had.0));
        kept.summary = summary::render(report, Style::Plain);
        kept.events = events;
        kept.console = console;
        let reports = report.handed.iter().filter(|evidence| evidence.kind == EVIDENCE_SNP_REPORT);
        kept.reports = reports.map(|evidence| evidence.bytes.clone()).collect();
    }

    fn conversions(&mut self, kept: &mut Kept, config: &RunConfig) -> Result<Vec<Check>, SelfTestError> {
        let (config, events) = (self.fresh(config)?, EventLog::in_memory());
        let ram = config.memory;
        let done = run::launch_only(self.bed.kernel, config.tee, &config, &Inputs::default(), &events, |vm, vcpus| {
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
            let ran = match guest::run(self.bed, &self.fresh(config)?, &Inputs::default(), self.time_limit)? {
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

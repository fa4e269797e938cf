//! The line of conversion requests: who waits for whom, and which are carried out together.
//!
//! Owns the order of requests and what becomes of each. A request for one piece that finds nobody is
//! [alone](Alone) and stands in no line. Any other waits for every earlier one that overlaps it, and for
//! the conversion lock. With that it takes along the waiting ones that want the same owner and adjoin it, so that vCPUs
//! which convert neighbouring pages at the same time cost one kernel call and not one each. A guest that waits for each answer before
//! it asks again is never merged: the answer says that the pages have their new owner. Not owned: how pages are
//! converted ([`super`]).

use std::sync::{Condvar, Mutex, PoisonError};

use smallvec::SmallVec;

use gmem::GfnRange;
use gmem::ledger::Owner;

use super::{ConvertError, Converted, Unsettled};
use crate::vm::lock;

/// Serialises the conversions of one VM and keeps what they left unsettled.
#[derive(Debug, Default)]
pub(crate) struct ConversionDesk {
    line: Mutex<Line>,
    moved: Condvar,
    /// Its lock is the conversion lock: who holds it changes owners.
    pub(super) unsettled: Mutex<Unsettled>,
}

/// Requests in the order they came.
#[derive(Debug, Default)]
struct Line {
    next_number: u64,
    requests: Vec<Request>,
    /// A request that is not among them is under way.
    somebody_alone: bool,
    /// Threads that wait for it to move. Waking nobody is a call of the kernel too, for each conversion.
    sleepers: usize,
}

#[derive(Debug)]
struct Request {
    number: u64,
    range: GfnRange,
    owner: Owner,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Waiting,
    /// Some thread carries it out, not always the one that asked.
    UnderWay,
    /// Carried out by another thread than the one that asked, which collects the answer.
    Answered(Result<Converted, ConvertError>),
}

/// A request's place in the line, from its arrival to its end.
pub(super) struct Turn<'a> {
    desk: &'a ConversionDesk,
    number: u64,
}

/// A request for which no line is needed.
pub(super) struct Alone<'a> {
    desk: &'a ConversionDesk,
}

/// Requests by number; most often there is one.
type Members = SmallVec<[(u64, GfnRange); 2]>;

/// Requests to be carried out together: one owner, and their ranges adjoin each other.
pub(super) struct Batch<'a> {
    desk: &'a ConversionDesk,
    /// The number of the one that leads.
    leader: u64,
    /// In the order of their addresses, the one that leads among them.
    members: Members,
}

impl ConversionDesk {
    /// Leave to convert at once, if nobody is there. Who comes meanwhile waits.
    pub(super) fn alone(&self) -> Option<Alone<'_>> {
        let mut line = lock(&self.line);
        if line.somebody_alone || !line.requests.is_empty() {
            return None;
        }
        line.somebody_alone = true;
        Some(Alone { desk: self })
    }

    /// A place at the end of the line.
    pub(super) fn line_up(&self, range: GfnRange, owner: Owner) -> Turn<'_> {
        let mut line = lock(&self.line);
        let number = line.next_number;
        line.next_number += 1;
        line.requests.push(Request { number, range, owner, stage: Stage::Waiting });
        Turn { desk: self, number }
    }

    /// Makes everybody in the line ask again whether to give up.
    pub(crate) fn wake(&self) {
        // Whoever has asked but does not wait yet holds this lock.
        self.moved(&lock(&self.line));
    }

    /// Something in the line changed.
    fn moved(&self, line: &Line) {
        if line.sleepers != 0 {
            self.moved.notify_all();
        }
    }

    /// Requests under way or waiting.
    #[cfg(test)]
    pub(crate) fn requests(&self) -> usize {
        let line = lock(&self.line);
        line.requests.len() + usize::from(line.somebody_alone)
    }

    /// Whether any page can be in doubt: some answer of the kernel's proved nothing, or a thread panicked in the middle of
    /// a conversion. For who holds the conversion lock.
    pub(super) fn may_be_in_doubt(&self, unsettled: &Unsettled) -> bool {
        !unsettled.doubts.is_empty() || self.unsettled.is_poisoned()
    }

    /// Keeps every conversion out while `work` runs.
    pub(crate) fn closed_while<T>(&self, work: impl FnOnce() -> T) -> T {
        let _conversion_lock = lock(&self.unsettled);
        work()
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        let mut line = lock(&self.desk.line);
        line.somebody_alone = false;
        self.desk.moved(&line);
    }
}

impl Turn<'_> {
    /// Returns the answer once another thread has carried out the request or `give_up` says so, or nothing once no
    /// earlier request overlaps it.
    pub(super) fn wait(&self, give_up: impl Fn() -> bool) -> Option<Result<Converted, ConvertError>> {
        let mut line = lock(&self.desk.line);
        loop {
            match line.request(self.number).map(|request| &request.stage) {
                Some(Stage::Answered(answer)) => return Some(answer.clone()),
                Some(Stage::UnderWay) => {}
                Some(Stage::Waiting) if !give_up() => {
                    if !line.is_blocked(self.number) {
                        return None;
                    }
                }
                Some(Stage::Waiting) | None => return Some(Err(ConvertError::Gone)),
            }
            line.sleepers += 1;
            line = self.desk.moved.wait(line).unwrap_or_else(PoisonError::into_inner);
            line.sleepers -= 1;
        }
    }

    /// Takes this request and those that go with it to carry them out; `None` if another thread has taken it. For who
    /// holds the conversion lock: requests that waited for that are taken along.
    pub(super) fn lead(&self) -> Option<Batch<'_>> {
        let members = lock(&self.desk.line).take_along(self.number);
        (!members.is_empty()).then_some(Batch { desk: self.desk, leader: self.number, members })
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut line = lock(&self.desk.line);
        line.requests.retain(|request| request.number != self.number);
        self.desk.moved(&line);
    }
}

impl Line {
    fn request(&self, number: u64) -> Option<&Request> {
        self.requests.iter().find(|request| request.number == number)
    }

    /// Whether a request before this one overlaps it, or may do so, and is not answered yet.
    fn is_blocked(&self, number: u64) -> bool {
        let blocks = |own: &Request, other: &Request| {
            other.number < own.number && !matches!(other.stage, Stage::Answered(_)) && other.range.overlaps(own.range)
        };
        self.somebody_alone
            || self.request(number).is_some_and(|own| self.requests.iter().any(|other| blocks(own, other)))
    }

    /// Puts a waiting request under way, and with it, as long as there are any, those that adjoin what was taken.
    fn take_along(&mut self, number: u64) -> Members {
        let mut members = Members::new();
        let mut next = Some(number);
        while let Some(number) = next {
            let waiting = |request: &&mut Request| matches!(request.stage, Stage::Waiting);
            let found = self.requests.iter_mut().find(|request| request.number == number).filter(waiting);
            let Some(request) = found else { break };
            request.stage = Stage::UnderWay;
            members.push((number, request.range));
            let owner = request.owner;
            let goes_along = |request: &&Request| {
                matches!(request.stage, Stage::Waiting)
                    && request.owner == owner
                    && members.iter().any(|(_, range)| adjoin(*range, request.range))
                    && !self.is_blocked(request.number)
            };
            next = self.requests.iter().find(goes_along).map(|request| request.number);
        }
        members.sort_by_key(|(_, range)| range.start());
        members
    }

    fn set_stage(&mut self, number: u64, stage: Stage) {
        if let Some(request) = self.requests.iter_mut().find(|request| request.number == number) {
            request.stage = stage;
        }
    }
}

fn adjoin(one: GfnRange, other: GfnRange) -> bool {
    one.joined(other).or_else(|| other.joined(one)).is_some()
}

impl Batch<'_> {
    /// The ranges asked for, in the order of their addresses.
    pub(super) fn ranges(&self) -> impl Iterator<Item = GfnRange> {
        self.members.iter().map(|(_, range)| *range)
    }

    /// Gives the others the answer to their ranges, and returns the leader's.
    pub(super) fn answer(
        mut self,
        answer: impl Fn(GfnRange) -> Result<Converted, ConvertError>,
    ) -> Result<Converted, ConvertError> {
        let mut own = Err(ConvertError::Gone);
        for (number, range) in std::mem::take(&mut self.members) {
            if number == self.leader {
                own = answer(range);
            } else {
                lock(&self.desk.line).set_stage(number, Stage::Answered(answer(range)));
            }
        }
        own
    }
}

impl Drop for Batch<'_> {
    /// Whoever was taken along and has no answer, because the leader panicked, asks for themselves.
    fn drop(&mut self) {
        let mut line = lock(&self.desk.line);
        self.members.iter().for_each(|(number, _)| line.set_stage(*number, Stage::Waiting));
        self.desk.moved(&line);
    }
}

//! The line of conversion requests: who waits for whom, and which are carried out together.
//!
//! Owns the order of requests and what becomes of each. A request waits for every earlier one that overlaps it, and for
//! the conversion lock. With that it takes along the waiting ones that want the same owner and adjoin it, so that vCPUs
//! which convert neighbouring pages at the same time cost one kernel call and not one each. A guest that waits for each answer before
//! it asks again is never merged: the answer says that the pages have their new owner. Not owned: how pages are
//! converted ([`super`]).

use std::sync::{Condvar, Mutex, PoisonError};

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

/// Requests to be carried out together: one owner, and their ranges adjoin each other.
pub(super) struct Batch<'a> {
    desk: &'a ConversionDesk,
    /// In the order of their addresses. The one that leads is among them.
    members: Vec<(u64, GfnRange)>,
}

impl ConversionDesk {
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
        drop(lock(&self.line));
        self.moved.notify_all();
    }

    /// Requests under way or waiting.
    #[cfg(test)]
    pub(crate) fn requests(&self) -> usize {
        lock(&self.line).requests.len()
    }

    /// Keeps every conversion out while `work` runs.
    pub(crate) fn closed_while<T>(&self, work: impl FnOnce() -> T) -> T {
        let _conversion_lock = lock(&self.unsettled);
        work()
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
            line = self.desk.moved.wait(line).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes this request and those that go with it to carry them out; `None` if another thread has taken it. For who
    /// holds the conversion lock: requests that waited for that are taken along.
    pub(super) fn lead(&self) -> Option<Batch<'_>> {
        let members = lock(&self.desk.line).take_along(self.number);
        (!members.is_empty()).then_some(Batch { desk: self.desk, members })
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        lock(&self.desk.line).requests.retain(|request| request.number != self.number);
        self.desk.moved.notify_all();
    }
}

impl Line {
    fn request(&self, number: u64) -> Option<&Request> {
        self.requests.iter().find(|request| request.number == number)
    }

    /// Whether a request before this one overlaps it and is not answered yet.
    fn is_blocked(&self, number: u64) -> bool {
        let blocks = |own: &Request, other: &Request| {
            other.number < own.number && !matches!(other.stage, Stage::Answered(_)) && other.range.overlaps(own.range)
        };
        self.request(number).is_some_and(|own| self.requests.iter().any(|other| blocks(own, other)))
    }

    /// Puts a waiting request under way, and with it, as long as there are any, those that adjoin what was taken.
    fn take_along(&mut self, number: u64) -> Vec<(u64, GfnRange)> {
        let mut members: Vec<(u64, GfnRange)> = Vec::new();
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

    /// Gives everybody the answer to their range.
    pub(super) fn answer(mut self, answer: impl Fn(GfnRange) -> Result<Converted, ConvertError>) {
        let mut line = lock(&self.desk.line);
        for (number, range) in std::mem::take(&mut self.members) {
            line.set_stage(number, Stage::Answered(answer(range)));
        }
    }
}

impl Drop for Batch<'_> {
    /// Whoever was taken along and has no answer, because the leader panicked, asks for themselves.
    fn drop(&mut self) {
        let mut line = lock(&self.desk.line);
        self.members.iter().for_each(|(number, _)| line.set_stage(*number, Stage::Waiting));
        drop(line);
        self.desk.moved.notify_all();
    }
}

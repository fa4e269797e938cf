//! Explores a protocol: every state that any schedule can reach, breadth first, until a claim is decided.
//!
//! Owns the way from a [`Protocol`] and its [`Claim`]s to an [`Exploration`]. The search is Stateright's, with one
//! question and one thread: the first state that decides the question then lies at the end of a shortest schedule, and
//! all counts are the same in every run. States are told apart by a 64-bit hash, as in other explicit-state checkers:
//! among a million states a collision, which would leave one of them out, has a chance of about one in 40 million.

use std::fmt;
use std::time::{Duration, Instant};

use stateright::{Checker, Model, Property};

use crate::protocol::{Claim, Protocol, Step, Steps, steps_from};

/// What the search found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exploration {
    /// Distinct states it came to.
    pub states: usize,
    /// Steps of the longest schedule among the shortest ones to each state.
    pub depth: usize,
    /// How long it took.
    pub took: Duration,
    /// A shortest schedule to a state that decides the claim: a counterexample, or the example of what shall occur.
    pub schedule: Option<Schedule>,
}

/// Steps in the order they were taken.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct Schedule {
    /// What is particular about its beginning.
    pub start: Option<String>,
    /// The steps.
    pub lines: Vec<Line>,
}

/// One step of a schedule.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct Line {
    /// The thread.
    pub who: &'static str,
    /// What it does.
    pub does: String,
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(start) = &self.start {
            writeln!(f, "    ({start})")?;
        }
        let width = self.lines.iter().map(|line| line.who.chars().count()).max().unwrap_or(0) + 1;
        for (number, line) in self.lines.iter().enumerate() {
            let who = format!("{}:", line.who);
            writeln!(f, "{:>3} {who:width$} {}", number + 1, line.does)?;
        }
        Ok(())
    }
}

/// Explores `protocol` until one of `claims` is decided or no state is left.
pub fn explore<P: Protocol>(protocol: &P, claims: &[Claim<P>]) -> Exploration {
    let began = Instant::now();
    let question = Question { protocol: protocol.clone(), claims: claims.to_vec() };
    let checker = question.checker().threads(1).spawn_bfs().join();
    let took = began.elapsed();
    let schedule = checker.discovery(ANSWER).map(|path| {
        let steps = path.into_vec();
        let start = steps.first().and_then(|(start, _)| protocol.describe_start(start));
        let lines = steps
            .into_iter()
            .filter_map(|(_, step)| step)
            .map(|step| Line { who: step.who, does: step.does.to_string() });
        Schedule { start, lines: lines.collect() }
    });
    Exploration { states: checker.unique_state_count(), depth: checker.max_depth().saturating_sub(1), took, schedule }
}

/// The checker's name for the one thing it is asked.
const ANSWER: &str = "answer";

/// Whether any of these claims is decided, as the checker takes it.
struct Question<P: Protocol> {
    protocol: P,
    claims: Vec<Claim<P>>,
}

impl<P: Protocol> Question<P> {
    fn is_answered_by(&self, state: &P::State) -> bool {
        self.claims.iter().any(|claim| claim.is_decided_by(&self.protocol, state))
    }
}

impl<P: Protocol> Model for Question<P> {
    type State = P::State;
    type Action = Step<P::State>;

    fn init_states(&self) -> Vec<Self::State> {
        self.protocol.starts()
    }

    fn actions(&self, state: &Self::State, actions: &mut Vec<Self::Action>) {
        actions.extend(steps_from(&self.protocol, state));
    }

    fn next_state(&self, _last: &Self::State, step: Self::Action) -> Option<Self::State> {
        Some(step.then)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::sometimes(ANSWER, Self::is_answered_by)]
    }
}

/// How many ways lead from a start to an end, told apart by `sort`. For protocols whose states never come round again.
pub fn count_endings<P: Protocol, K: Ord + Clone>(
    protocol: &P,
    sort: impl Fn(&P::State) -> K,
) -> std::collections::BTreeMap<K, u64> {
    use std::collections::{BTreeMap, HashMap};
    /// Endings by kind, for every state that was looked at.
    type Known<S, K> = HashMap<S, BTreeMap<K, u64>>;

    fn from<P: Protocol, K: Ord + Clone>(
        protocol: &P,
        state: &P::State,
        sort: &impl Fn(&P::State) -> K,
        known: &mut Known<P::State, K>,
    ) -> BTreeMap<K, u64> {
        if let Some(counts) = known.get(state) {
            return counts.clone();
        }
        let mut steps = Steps::from(state);
        protocol.steps(&mut steps);
        let next = steps.into_vec();
        let mut counts = BTreeMap::new();
        if next.is_empty() {
            counts.insert(sort(state), 1);
        }
        for step in next {
            for (kind, ways) in from(protocol, &step.then, sort, known) {
                *counts.entry(kind).or_default() += ways;
            }
        }
        known.insert(state.clone(), counts.clone());
        counts
    }

    let mut known = HashMap::new();
    let mut total = BTreeMap::new();
    for start in protocol.starts() {
        for (kind, ways) in from(protocol, &start, &sort, &mut known) {
            *total.entry(kind).or_default() += ways;
        }
    }
    total
}

//! The runner itself: it finds what is wrong in protocols that are plainly wrong, by a shortest schedule, and comes to
//! the same figures every time.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;
use tenure_model::protocol::{Claim, Protocol, Steps};
use tenure_model::runner::{count_endings, explore};

/// Two threads that each read a counter and then store one more: the oldest race there is.
#[derive(Debug, Clone)]
struct LostUpdate;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Counter {
    value: u8,
    threads: [Thread; 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Thread {
    Begins,
    Has(u8),
    Done,
}

impl Protocol for LostUpdate {
    type State = Counter;

    fn starts(&self) -> Vec<Counter> {
        vec![Counter { value: 0, threads: [Thread::Begins; 2] }]
    }

    fn steps(&self, steps: &mut Steps<'_, Counter>) {
        for (number, who) in ["one", "other"].into_iter().enumerate() {
            match steps.state().threads[number] {
                Thread::Begins => steps.add(who, "reads", |s| s.threads[number] = Thread::Has(s.value)),
                Thread::Has(value) => steps.add(who, ("stores {} more than {}", ["one", "that"]), |s| {
                    s.value = value + 1;
                    s.threads[number] = Thread::Done;
                }),
                Thread::Done => {}
            }
        }
    }

    fn is_over(&self, s: &Counter) -> bool {
        s.threads == [Thread::Done; 2]
    }
}

#[test]
fn finds_a_lost_update_by_a_shortest_schedule() {
    let found = explore(&LostUpdate, &[Claim::at_end("nothing is lost", |_, s: &Counter| s.value == 2)]);
    let schedule = found.schedule.expect("the update can be lost");
    assert_eq!(
        schedule.to_string(),
        "  1 one:   reads\n  2 other: reads\n  3 one:   stores one more than that\n  4 other: stores one more than that\n"
    );
}

#[test]
fn holds_what_holds_and_sees_every_state() {
    let found =
        explore(&LostUpdate, &[Claim::always("at most two", |_, s: &Counter| s.value <= 2), Claim::no_deadlock()]);
    assert_eq!(found.schedule, None);
    // By hand: the beginning, either has read (2), both have, either is done (2) and the other has read what was before
    // or after (4), and the two ends.
    assert_eq!((found.states, found.depth), (12, 4));
}

#[test]
fn what_never_occurs_is_not_found() {
    let found = explore(&LostUpdate, &[Claim::sometimes("three", |_, s: &Counter| s.value == 3)]);
    assert_eq!(found.schedule, None);
    let found = explore(&LostUpdate, &[Claim::sometimes("two", |_, s: &Counter| s.value == 2)]);
    assert_eq!(found.schedule.map(|schedule| schedule.lines.len()), Some(4));
}

/// Two threads that take two locks in opposite orders.
#[derive(Debug, Clone)]
struct Embrace;

impl Protocol for Embrace {
    /// How many locks each thread has.
    type State = [u8; 2];

    fn starts(&self) -> Vec<[u8; 2]> {
        vec![[0, 0]]
    }

    fn steps(&self, steps: &mut Steps<'_, [u8; 2]>) {
        let [one, other] = *steps.state();
        if (one == 0 && other < 2) || (one == 1 && other == 0) {
            steps.add("one", "takes its next lock", |s| s[0] += 1);
        }
        if (other == 0 && one < 2) || (other == 1 && one == 0) {
            steps.add("other", "takes its next lock", |s| s[1] += 1);
        }
    }

    fn is_over(&self, s: &[u8; 2]) -> bool {
        s.contains(&2)
    }
}

#[test]
fn finds_a_deadlock() {
    let found = explore(&Embrace, &[Claim::no_deadlock()]);
    assert_eq!(found.schedule.map(|schedule| schedule.lines.len()), Some(2));
}

#[test]
fn counts_schedules() {
    // Two steps each, in all orders: 4 over 2. In two of the six one thread is done before the other begins.
    let counts = count_endings(&LostUpdate, |s| s.value);
    assert_eq!(counts, BTreeMap::from([(1, 4), (2, 2)]));
}

/// Any graph: who is where can be led anywhere.
#[derive(Debug, Clone)]
struct Graph {
    edges: Vec<Vec<usize>>,
    target: usize,
}

impl Protocol for Graph {
    type State = usize;

    fn starts(&self) -> Vec<usize> {
        vec![0]
    }

    fn steps(&self, steps: &mut Steps<'_, usize>) {
        for to in &self.edges[*steps.state()] {
            steps.add("walker", format!("goes to {to}"), |s| *s = *to);
        }
    }

    fn is_over(&self, _: &usize) -> bool {
        true
    }
}

/// Distances from the first node, by the book.
fn distances(graph: &Graph) -> BTreeMap<usize, usize> {
    let mut known = BTreeMap::from([(0, 0)]);
    let mut queue = VecDeque::from([0]);
    while let Some(node) = queue.pop_front() {
        let next = known[&node] + 1;
        for to in &graph.edges[node] {
            known.entry(*to).or_insert_with(|| {
                queue.push_back(*to);
                next
            });
        }
    }
    known
}

fn graph() -> impl Strategy<Value = Graph> {
    (2usize..40).prop_flat_map(|nodes| {
        let edges = prop::collection::vec(prop::collection::vec(0..nodes, 0..4), nodes);
        (edges, 0..nodes).prop_map(|(edges, target)| Graph { edges, target })
    })
}

proptest! {
    /// Against a search of ten lines: the same states, and no schedule longer than need be.
    #[test]
    fn agrees_with_a_naive_search(graph in graph()) {
        let known = distances(&graph);
        let claim = Claim::always("never at the target", |graph: &Graph, s: &usize| *s != graph.target);
        let found = explore(&graph, &[claim]);
        let steps = found.schedule.as_ref().map(|schedule| schedule.lines.len());
        prop_assert_eq!(steps, known.get(&graph.target).copied());
        if found.schedule.is_none() {
            prop_assert_eq!(found.states, known.len());
            prop_assert_eq!(Some(&found.depth), known.values().max());
        }
        let again = explore(&graph, &[claim]);
        prop_assert_eq!((found.states, found.depth, found.schedule), (again.states, again.depth, again.schedule));
    }
}

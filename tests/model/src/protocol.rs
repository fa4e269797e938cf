//! What a model is: states, the steps that lead from one to the next, and what is claimed of them.
//!
//! Owns the vocabulary every model is written in. A model is a set of threads, each with a program counter of its own
//! in the state; [`Protocol::steps`] lists what any thread can do next. A step is atomic: guard, words and effect stand
//! together in one arm, and locks are fields that a step can take only while nobody holds them. Thus a list of steps
//! reads as a schedule. Memory is sequentially consistent; which fences make that true of real code is for other tools
//! to say (for the epochs: `gmem/kvm/tests/epoch_orders.rs`).

use std::fmt::{self, Debug};
use std::hash::Hash;

/// A protocol between threads.
pub trait Protocol: Clone + Send + Sync + 'static {
    /// All there is to know between two steps.
    type State: Clone + Eq + Hash + Debug + Send + Sync + 'static;

    /// Where it can begin.
    fn starts(&self) -> Vec<Self::State>;

    /// Adds every step that any thread can take from this state.
    fn steps(&self, steps: &mut Steps<'_, Self::State>);

    /// Whether everybody has come to their end, so that it is no deadlock if no step is left.
    fn is_over(&self, state: &Self::State) -> bool;

    /// What is particular about this beginning, for the first line of a schedule.
    fn describe_start(&self, _start: &Self::State) -> Option<String> {
        None
    }
}

/// Something a thread can do, and the state after that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step<S> {
    /// The thread.
    pub who: &'static str,
    /// In words that follow its name.
    pub does: Words,
    /// The state after it.
    pub then: S,
}

/// What a step does, in words. They are put together only when somebody reads them: most steps nobody ever does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Words {
    /// These.
    Fixed(&'static str),
    /// With a word put for each `{}`.
    Filled(&'static str, [&'static str; 2]),
    /// Put together already.
    Ready(String),
}

impl From<&'static str> for Words {
    fn from(words: &'static str) -> Self {
        Self::Fixed(words)
    }
}

impl From<(&'static str, [&'static str; 2])> for Words {
    fn from((words, fill): (&'static str, [&'static str; 2])) -> Self {
        Self::Filled(words, fill)
    }
}

impl From<String> for Words {
    fn from(words: String) -> Self {
        Self::Ready(words)
    }
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(words) => f.write_str(words),
            Self::Ready(words) => f.write_str(words),
            Self::Filled(words, fill) => {
                let fill = fill.iter().copied().chain(std::iter::repeat(""));
                words.split("{}").zip(std::iter::once("").chain(fill)).try_for_each(|(part, filled)| {
                    f.write_str(filled)?;
                    f.write_str(part)
                })
            }
        }
    }
}

/// Collects the steps from one state.
#[derive(Debug)]
pub struct Steps<'a, S> {
    from: &'a S,
    found: Vec<Step<S>>,
}

impl<'a, S: Clone> Steps<'a, S> {
    /// None yet.
    pub fn from(from: &'a S) -> Self {
        Self { from, found: Vec::new() }
    }

    /// The state they lead away from.
    pub fn state(&self) -> &'a S {
        self.from
    }

    /// `who` can do this, and `effect` is what it changes.
    pub fn add(&mut self, who: &'static str, does: impl Into<Words>, effect: impl FnOnce(&mut S)) {
        let mut then = self.from.clone();
        effect(&mut then);
        self.found.push(Step { who, does: does.into(), then });
    }

    /// All that were added.
    pub fn into_vec(self) -> Vec<Step<S>> {
        self.found
    }
}

/// A predicate over a protocol's states.
pub type Test<P> = fn(&P, &<P as Protocol>::State) -> bool;

/// What is claimed of a protocol, by name.
pub struct Claim<P: Protocol> {
    /// As the thread, or a law, has it.
    pub name: &'static str,
    /// What it means.
    pub kind: Kind<P>,
}

/// When a claim must hold.
pub enum Kind<P: Protocol> {
    /// In every state.
    Always(Test<P>),
    /// In every state in which everybody has come to their end.
    AtEnd(Test<P>),
    /// In some state: what the model is about does occur in it.
    Sometimes(Test<P>),
    /// From every state that is not the end some thread can go on.
    NoDeadlock,
}

impl<P: Protocol> Claim<P> {
    /// Holds in every state.
    pub const fn always(name: &'static str, test: Test<P>) -> Self {
        Self { name, kind: Kind::Always(test) }
    }

    /// Holds whenever everybody has come to their end.
    pub const fn at_end(name: &'static str, test: Test<P>) -> Self {
        Self { name, kind: Kind::AtEnd(test) }
    }

    /// Occurs.
    pub const fn sometimes(name: &'static str, test: Test<P>) -> Self {
        Self { name, kind: Kind::Sometimes(test) }
    }

    /// Nobody waits for ever. The state of a thread that is taken for stuck has no step for it.
    pub const fn no_deadlock() -> Self {
        Self { name: "no deadlock", kind: Kind::NoDeadlock }
    }

    /// Whether this state decides the claim: it breaks a claim that must hold, or is an example of what shall occur.
    pub(crate) fn is_decided_by(&self, protocol: &P, state: &P::State) -> bool {
        match self.kind {
            Kind::Always(test) => !test(protocol, state),
            Kind::AtEnd(test) => protocol.is_over(state) && !test(protocol, state),
            Kind::Sometimes(test) => test(protocol, state),
            Kind::NoDeadlock => !protocol.is_over(state) && steps_from(protocol, state).is_empty(),
        }
    }
}

impl<P: Protocol> Clone for Claim<P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P: Protocol> Copy for Claim<P> {}

impl<P: Protocol> Clone for Kind<P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P: Protocol> Copy for Kind<P> {}

impl<P: Protocol> Debug for Claim<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<P: Protocol> Debug for Kind<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Always(_) => "Always",
            Self::AtEnd(_) => "AtEnd",
            Self::Sometimes(_) => "Sometimes",
            Self::NoDeadlock => "NoDeadlock",
        })
    }
}

/// Every step from `state`.
pub fn steps_from<P: Protocol>(protocol: &P, state: &P::State) -> Vec<Step<P::State>> {
    let mut steps = Steps::from(state);
    protocol.steps(&mut steps);
    steps.into_vec()
}

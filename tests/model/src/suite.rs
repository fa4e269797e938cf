//! Everything that is checked: for each model its sound form, its harmless variations and its mutants.
//!
//! Owns what is expected of each check, and running them side by side. A mutant has to be caught by the very claim it
//! was made for: one that some other claim catches, or none, fails the suite.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::protocol::{Claim, Kind, Protocol};
use crate::runner::{Exploration, explore};

/// One form of a model, and claims that one exploration decides.
pub struct Case {
    /// The model.
    pub model: &'static str,
    /// Which form of it.
    pub form: Form,
    /// The claims. Several only if all of them are to hold: then one look at every state does for all.
    pub claims: Vec<&'static str>,
    /// What must come of each.
    pub expected: Expected,
    /// Of the claims with these numbers.
    explore: Explore,
}

type Explore = Box<dyn Fn(&[usize]) -> Exploration + Send + Sync>;

/// A form of a model.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "name")]
pub enum Form {
    /// As the code is.
    Sound,
    /// Something is different, and every claim holds all the same.
    Variation(&'static str),
    /// Something is broken.
    Mutant(&'static str),
    /// A design that has some of the properties. What it lacks is a result and not a fault.
    Design(String),
}

/// What must come of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Expected {
    /// No state breaks the claim.
    Holds,
    /// Some state breaks it.
    Broken,
    /// Some state is an example of it.
    Occurs,
    /// Either: the document records which.
    Recorded,
}

/// What came of one claim.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The claim.
    pub claim: &'static str,
    /// What was expected.
    pub expected: Expected,
    /// What was found.
    pub exploration: Exploration,
}

impl Outcome {
    /// Whether it came as expected.
    pub fn is_as_expected(&self) -> bool {
        match self.expected {
            Expected::Holds => self.exploration.schedule.is_none(),
            Expected::Broken | Expected::Occurs => self.exploration.schedule.is_some(),
            Expected::Recorded => true,
        }
    }

    /// In words.
    pub fn verdict(&self) -> &'static str {
        match (self.expected, self.exploration.schedule.is_some()) {
            (Expected::Holds, false) => "holds",
            (Expected::Holds, true) => "BROKEN",
            (Expected::Broken, true) => "caught",
            (Expected::Broken, false) => "NOT CAUGHT",
            (Expected::Occurs, true) => "occurs",
            (Expected::Occurs, false) => "NEVER OCCURS",
            (Expected::Recorded, true) => "lacks it",
            (Expected::Recorded, false) => "has it",
        }
    }
}

impl Case {
    /// Explores it.
    pub fn check(&self) -> Vec<Outcome> {
        let outcome =
            |number: usize, exploration| Outcome { claim: self.claims[number], expected: self.expected, exploration };
        let all: Vec<usize> = (0..self.claims.len()).collect();
        let together = (self.explore)(&all);
        if together.schedule.is_none() || all.len() == 1 {
            return all.into_iter().map(|number| outcome(number, together.clone())).collect();
        }
        // One of them is decided, and which one is the question now.
        all.into_iter().map(|number| outcome(number, (self.explore)(&[number]))).collect()
    }

    /// What `--trace` calls this form: `MODEL` or `MODEL/FORM`.
    pub fn path(&self) -> String {
        match &self.form {
            Form::Sound => self.model.to_owned(),
            Form::Variation(name) | Form::Mutant(name) => format!("{}/{name}", self.model),
            Form::Design(name) => format!("{}/{name}", self.model),
        }
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case").field("path", &self.path()).field("claims", &self.claims).finish_non_exhaustive()
    }
}

/// One model's checks, being put together.
#[derive(Debug)]
pub(crate) struct Study<P: Protocol> {
    model: &'static str,
    claims: Vec<Claim<P>>,
    cases: Vec<Case>,
}

impl<P: Protocol> Study<P> {
    /// Of `model`, with these claims.
    pub(crate) fn of(model: &'static str, claims: Vec<Claim<P>>) -> Self {
        Self { model, claims, cases: Vec::new() }
    }

    /// The protocol as it is: every claim must hold, and everything that shall occur must.
    pub(crate) fn sound(self, protocol: &P) -> Self {
        self.sound_form(&Form::Sound, protocol)
    }

    /// The same of another form, which has claims of its own.
    pub(crate) fn form(self, name: &'static str, protocol: &P) -> Self {
        self.sound_form(&Form::Variation(name), protocol)
    }

    fn sound_form(mut self, form: &Form, protocol: &P) -> Self {
        let (occur, hold) = self.claims.iter().copied().partition(|claim| matches!(claim.kind, Kind::Sometimes(_)));
        self.push(form.clone(), protocol, hold, Expected::Holds);
        for claim in Vec::into_iter(occur) {
            self.push(form.clone(), protocol, vec![claim], Expected::Occurs);
        }
        self
    }

    /// Another form of it, of which every claim must hold as well. What occurs in it is not looked at.
    pub(crate) fn variation(mut self, name: &'static str, protocol: &P) -> Self {
        let hold = self.claims.iter().copied().filter(|claim| !matches!(claim.kind, Kind::Sometimes(_)));
        self.push(Form::Variation(name), protocol, hold.collect(), Expected::Holds);
        self
    }

    /// A broken form of it, which each of these claims must catch by itself.
    pub(crate) fn mutant(mut self, name: &'static str, protocol: &P, caught_by: &[&'static str]) -> Self {
        for wanted in caught_by {
            let claim = self.claims.iter().find(|claim| claim.name == *wanted).copied();
            let claim = claim.expect("a mutant names a claim of its model");
            self.push(Form::Mutant(name), protocol, vec![claim], Expected::Broken);
        }
        self
    }

    /// A form and claims of which this is expected.
    pub(crate) fn push(&mut self, form: Form, protocol: &P, claims: Vec<Claim<P>>, expected: Expected) {
        let protocol = protocol.clone();
        let names = claims.iter().map(|claim| claim.name).collect();
        let explore = Box::new(move |numbers: &[usize]| {
            let asked: Vec<_> = numbers.iter().map(|number| claims[*number]).collect();
            explore(&protocol, &asked)
        });
        self.cases.push(Case { model: self.model, form, claims: names, expected, explore });
    }

    /// All of them.
    pub(crate) fn cases(self) -> Vec<Case> {
        self.cases
    }
}

/// Every check of every model, in the order of the mails.
pub fn cases() -> Vec<Case> {
    let models = [
        crate::binding::cases(),
        crate::mapping::cases(),
        crate::lifetime::cases(),
        crate::closing::cases(),
        crate::conversion::cases(),
    ];
    models.into_iter().flatten().collect()
}

/// Checks all of them, as many at a time as there are processors, and returns what came of each in the same order.
/// `done` hears of each as it ends.
pub fn check(cases: &[Case], done: impl Fn(&Case, &[Outcome]) + Sync) -> Vec<Vec<Outcome>> {
    let next = AtomicUsize::new(0);
    let outcomes: Vec<Mutex<Option<Vec<Outcome>>>> = cases.iter().map(|_| Mutex::new(None)).collect();
    let workers = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some((case, slot)) = {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    cases.get(index).zip(outcomes.get(index))
                } {
                    let outcomes = case.check();
                    done(case, &outcomes);
                    *slot.lock().expect("no check panics while it holds this") = Some(outcomes);
                }
            });
        }
    });
    let taken = outcomes.into_iter().map(|slot| slot.into_inner().expect("no check panics while it holds this"));
    taken.map(|outcome| outcome.expect("the workers took every case")).collect()
}

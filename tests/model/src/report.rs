//! What people and programs are shown of a run.
//!
//! Owns the table, the closing lines and the JSON form. A row is a claim of a form of a model; a variation whose claims
//! all hold and the many questions put to a design are one row each, unless every row is asked for.

use std::fmt::Write as _;
use std::time::Duration;

use crate::closing;
use crate::suite::{Case, Expected, Form, Outcome};

/// How much of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// Those that say something of their own.
    Summed,
    /// Every claim of every form.
    Every,
}

/// A row of the table.
#[derive(Debug)]
struct Row {
    cells: [String; COLUMNS],
}

const COLUMNS: usize = 7;
const TITLES: [&str; COLUMNS] = ["model", "mutant or form", "property", "states", "depth", "time", "verdict"];
/// Figures stand to the right.
const TO_THE_RIGHT: [bool; COLUMNS] = [false, false, false, true, true, true, false];

/// The table of what came of `cases`.
pub fn table(cases: &[Case], outcomes: &[Vec<Outcome>], rows: Rows) -> String {
    let rows: Vec<Row> = match rows {
        Rows::Every => pairs(cases, outcomes).flat_map(|(case, outcomes)| each(case, outcomes)).collect(),
        Rows::Summed => summed(cases, outcomes),
    };
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row.cells[column].chars().count());
        cells.chain([TITLES[column].len()]).max().unwrap_or(0)
    };
    let widths: [usize; COLUMNS] = std::array::from_fn(width);
    let mut text = line(&TITLES.map(str::to_owned), &widths);
    let _ = writeln!(text, "{}", widths.map(|width| "-".repeat(width)).join("  "));
    rows.iter().for_each(|row| text.push_str(&line(&row.cells, &widths)));
    text
}

fn line(cells: &[String; COLUMNS], widths: &[usize; COLUMNS]) -> String {
    let mut text = String::new();
    for (column, cell) in cells.iter().enumerate() {
        let width = widths[column];
        let _ = if TO_THE_RIGHT[column] { write!(text, "{cell:>width$}  ") } else { write!(text, "{cell:width$}  ") };
    }
    format!("{}\n", text.trim_end())
}

fn pairs<'a>(
    cases: &'a [Case],
    outcomes: &'a [Vec<Outcome>],
) -> impl Iterator<Item = (&'a Case, &'a [Outcome])> + use<'a> {
    cases.iter().zip(outcomes.iter().map(Vec::as_slice))
}

/// One row a claim. Claims that one exploration decided show its time once.
fn each(case: &Case, outcomes: &[Outcome]) -> Vec<Row> {
    let row = |(number, outcome): (usize, &Outcome)| {
        let alone = number == 0 || outcome.exploration != outcomes[0].exploration;
        row(case, outcome.claim.to_owned(), outcome, alone.then_some(outcome.exploration.took), outcome.verdict())
    };
    outcomes.iter().enumerate().map(row).collect()
}

fn row(case: &Case, claim: String, outcome: &Outcome, took: Option<Duration>, verdict: &str) -> Row {
    let form = match &case.form {
        Form::Sound => "as it is".to_owned(),
        Form::Variation(name) | Form::Mutant(name) => (*name).to_owned(),
        Form::Design(name) => name.clone(),
    };
    let exploration = &outcome.exploration;
    let figures =
        [grouped(exploration.states as u64), exploration.depth.to_string(), took.map_or_else(String::new, time)];
    let [states, depth, time] = figures;
    Row { cells: [case.model.to_owned(), form, claim, states, depth, time, verdict.to_owned()] }
}

fn summed(cases: &[Case], outcomes: &[Vec<Outcome>]) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut pairs = pairs(cases, outcomes).peekable();
    while let Some((case, outcomes)) = pairs.next() {
        let fine = outcomes.iter().all(Outcome::is_as_expected);
        match &case.form {
            Form::Variation(_) if fine && outcomes.len() > 1 => {
                let claim = format!("all {} claims", outcomes.len());
                rows.push(row(case, claim, &outcomes[0], Some(outcomes[0].exploration.took), "hold"));
            }
            Form::Design(_) if fine => {
                let mut of = outcomes.to_vec();
                while let Some((_, more)) = pairs.next_if(|(other, _)| other.form == case.form) {
                    of.extend_from_slice(more);
                }
                rows.push(sum_of_design(case, &of));
            }
            _ => rows.extend(each(case, outcomes)),
        }
    }
    rows
}

fn sum_of_design(case: &Case, outcomes: &[Outcome]) -> Row {
    let recorded = || outcomes.iter().filter(|outcome| outcome.expected == Expected::Recorded);
    let lacking = recorded().filter(|outcome| outcome.exploration.schedule.is_some()).count();
    let most = outcomes.iter().max_by_key(|outcome| outcome.exploration.states).unwrap_or(&outcomes[0]);
    let took = outcomes.iter().map(|outcome| outcome.exploration.took).sum();
    let all = recorded().count();
    row(case, format!("no deadlock; {all} properties"), most, Some(took), &format!("holds; has {}", all - lacking))
}

/// The lines under the table: totals, what the orders of closing come to, and what did not come as expected.
pub fn summary(cases: &[Case], outcomes: &[Vec<Outcome>], took: Duration) -> String {
    let all =
        || pairs(cases, outcomes).flat_map(|(case, outcomes)| outcomes.iter().map(move |outcome| (case, outcome)));
    let tally = |wanted: Expected| {
        let of = || all().filter(|(_, outcome)| outcome.expected == wanted);
        format!("{} of {}", of().filter(|(_, outcome)| outcome.is_as_expected()).count(), of().count())
    };
    let states: usize = pairs(cases, outcomes).map(|(_, outcomes)| outcomes[0].exploration.states).sum();
    let mut text = format!(
        "{} explorations, {} states, {}\n\
         claims that hold: {}; what shall occur does: {}; mutants caught by the claim made for them: {}\n",
        cases.len(),
        grouped(states as u64),
        time(took),
        tally(Expected::Holds),
        tally(Expected::Occurs),
        tally(Expected::Broken),
    );
    if cases.iter().any(|case| case.model == "closing") {
        for count in closing::counts() {
            let _ = writeln!(text, "{}: {} good, {} bad", count.of, grouped(count.good), grouped(count.bad));
        }
        if let Some(schedule) = closing::shortest_bad_order() {
            let _ = write!(text, "a shortest bad order:\n{schedule}");
        }
    }
    for (case, outcome) in all().filter(|(_, outcome)| !outcome.is_as_expected()) {
        let _ = writeln!(text, "\nFAILED {}: {}: {}", case.path(), outcome.claim, outcome.verdict());
        if let Some(schedule) = &outcome.exploration.schedule {
            let _ = write!(text, "{schedule}");
        }
    }
    text
}

/// Whether all came as expected.
pub fn is_as_expected(outcomes: &[Vec<Outcome>]) -> bool {
    outcomes.iter().flatten().all(Outcome::is_as_expected)
}

/// All of it for programs, schedules included.
pub fn json(cases: &[Case], outcomes: &[Vec<Outcome>]) -> serde_json::Value {
    let rows = pairs(cases, outcomes).flat_map(|(case, outcomes)| {
        outcomes.iter().map(move |outcome| {
            serde_json::json!({
                "model": case.model,
                "form": case.form,
                "property": outcome.claim,
                "expected": outcome.expected,
                "as_expected": outcome.is_as_expected(),
                "verdict": outcome.verdict(),
                "states": outcome.exploration.states,
                "depth": outcome.exploration.depth,
                "time_ms": outcome.exploration.took.as_secs_f64() * 1e3,
                "schedule": outcome.exploration.schedule,
            })
        })
    });
    let rows: Vec<_> = rows.collect();
    serde_json::json!({ "rows": rows, "orders_of_closing": closing::counts() })
}

/// Every schedule that was found for the form at `path`, with what it decides; `None` if there is no such form.
pub fn trace(path: &str) -> Option<String> {
    let cases: Vec<Case> = crate::suite::cases().into_iter().filter(|case| case.path() == path).collect();
    if cases.is_empty() {
        return None;
    }
    let mut text = String::new();
    for outcome in cases.iter().flat_map(Case::check) {
        let _ = writeln!(text, "{}: {}", outcome.claim, outcome.verdict());
        if let Some(schedule) = &outcome.exploration.schedule {
            let _ = writeln!(text, "{schedule}");
        }
    }
    Some(text)
}

fn time(took: Duration) -> String {
    let seconds = took.as_secs_f64();
    if seconds < 0.1 { format!("{:.1} ms", seconds * 1e3) } else { format!("{seconds:.1} s") }
}

/// With a comma every three digits.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index != 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped() {
        let text: Vec<String> = [0, 12, 123, 1_234, 123_456, 1_234_567].into_iter().map(grouped).collect();
        assert_eq!(text, ["0", "12", "123", "1,234", "123,456", "1,234,567"]);
    }
}

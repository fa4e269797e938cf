//! What came of evidence, in words and as JSON.
//!
//! Owns the words and keys, and the one line at the end. Law no-silent-trust: with a test's root everything that is said
//! is labelled software-test, whatever came of it, and what others wrote never reaches a terminal as commands to it.

use std::fmt::Write as _;

use attest::UnixTime;
use attest::anchors::Root as _;
use attest::appraisal::Verdict;
use attest::check::{Check, Checks, Fault, Outcome};
use attest::snp::{Anchor, Product, Report};
use attest::tdx::Endorsed;
use serde::Serialize;

use super::claims::Claims;
use super::tdx::QuoteEvidence;
use super::tdx::claims::{LogClaims, QuoteClaims};
use super::{Evidence, Judged};
use crate::paint::{GREEN, Paint, RED, YELLOW, is_printable};

/// Labels everything of which a test's root is part.
pub const SOFTWARE_TEST: &str = "software-test";

/// A verdict, for people and programs.
#[derive(Clone, Debug, Serialize)]
pub struct VerdictReport {
    /// `affirmed`, `test-passed`, `not-met` or `rejected`.
    pub verdict: &'static str,
    /// What is wrong, if anything: `evidence`, `revoked`, `collateral` or `unmet`.
    pub fault: Option<&'static str>,
    /// `hardware` or `software-test`; none of what is worth nothing.
    pub tier: Option<String>,
    /// `software-test` if a test's root was allowed, unless the evidence was verified below a vendor's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<&'static str>,
    /// The root that the evidence rests on.
    pub root: Option<String>,
    /// The moment of the verdict.
    pub now: String,
    /// Until when it holds, if the evidence was verified: then something that it rests on ends.
    pub valid_until: Option<String>,
    /// Names of the checks that failed.
    pub failed: Vec<&'static str>,
    /// Every check.
    pub checks: Vec<CheckReport>,
    /// Whether what the evidence says was verified.
    pub verified: bool,
    /// What it says.
    #[serde(flatten)]
    pub said: Said,
    /// The verdict in a line.
    pub line: String,
}

/// What evidence says, whoever wrote it.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Said {
    /// A report.
    Report {
        /// What it says, if it is one.
        report: Option<Box<Claims>>,
    },
    /// A quote.
    Quote {
        /// What it says, if it is one.
        quote: Option<Box<QuoteClaims>>,
        /// What the event log says that came with it.
        event_log: Option<LogClaims>,
    },
}

/// A check.
#[derive(Clone, Debug, Serialize)]
pub struct CheckReport {
    /// Its name.
    pub id: &'static str,
    /// What it looks at.
    pub subject: &'static str,
    /// `passed`, `failed` or `skipped`.
    pub outcome: &'static str,
    /// What was wanted.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub expected: String,
    /// What was there.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub actual: String,
    /// Why it was skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// By how much it was missed, in a few words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shortfall: Option<String>,
    /// What else is known about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advisory: Option<&'static str>,
    /// All of it but its name, in words.
    #[serde(skip)]
    words: String,
}

impl Said {
    /// What tokens repeat of it: what a log says is the guest's word, and long.
    pub fn without_log(&self) -> Self {
        match self {
            Self::Report { .. } => self.clone(),
            Self::Quote { quote, .. } => Self::Quote { quote: quote.clone(), event_log: None },
        }
    }
}

impl VerdictReport {
    /// Of a report, at this moment, with a test's root in place of this product's, if that was allowed.
    pub fn of(evidence: &Evidence, judged: &Judged<Report<'_>>, now: UnixTime, test: Option<Product>) -> Self {
        let product = match judged {
            Judged::Rejected(_) => None,
            Judged::Verified(verified, _) => Some(Anchor::product(verified.anchor())),
        };
        let report = evidence.report().ok().map(|report| Box::new(Claims::of(&report, product)));
        Self::about(judged, Said::Report { report }, now, test.map(|_| SOFTWARE_TEST))
    }

    /// Of a quote, at this moment, with this label if a test's root in place of Intel's was allowed.
    pub fn of_quote(
        evidence: &QuoteEvidence,
        judged: &Judged<Endorsed<'_>>,
        now: UnixTime,
        label: Option<&'static str>,
    ) -> Self {
        let platform = match judged {
            Judged::Rejected(_) => None,
            Judged::Verified(verified, _) => Some(verified.evidence().platform()),
        };
        let quote = evidence.quote().ok().map(|quote| Box::new(QuoteClaims::of(&quote, platform)));
        let event_log = evidence.log().and_then(Result::ok).as_ref().map(LogClaims::of);
        Self::about(judged, Said::Quote { quote, event_log }, now, label)
    }

    fn about<T: attest::Evidence>(judged: &Judged<T>, said: Said, now: UnixTime, label: Option<&'static str>) -> Self {
        let (anchor, valid_until, steps): (Option<T::Anchor>, Option<UnixTime>, Vec<&Checks>) = match judged {
            Judged::Rejected(rejected) => (None, None, vec![rejected.checks()]),
            Judged::Verified(verified, appraisal) => {
                let steps = vec![verified.checks(), appraisal.checks()];
                (Some(verified.anchor()), Some(appraisal.valid_until()), steps)
            }
        };
        let checks: Vec<_> = steps.iter().flat_map(|checks| checks.iter()).map(CheckReport::of).collect();
        let failed = steps.iter().flat_map(|checks| checks.failed()).map(|check| check.id.name()).collect();
        let (verdict, tier) = match judged {
            Judged::Rejected(_) => ("rejected", None),
            Judged::Verified(_, appraisal) => match appraisal.verdict() {
                Verdict::Affirmed => ("affirmed", Some(appraisal.tier())),
                Verdict::TestPassed => ("test-passed", Some(appraisal.tier())),
                Verdict::NotMet => ("not-met", Some(appraisal.tier())),
            },
        };
        let mut report = Self {
            verdict,
            fault: judged.fault().map(fault),
            tier: tier.map(|tier| tier.to_string()),
            label: label.filter(|_| !anchor.is_some_and(T::Anchor::is_hardware)),
            root: anchor.map(|anchor| anchor.to_string()),
            now: now.to_string(),
            valid_until: valid_until.map(|until| until.to_string()),
            failed,
            checks,
            verified: matches!(judged, Judged::Verified(..)),
            said,
            line: String::new(),
        };
        report.line = report.in_a_line();
        report
    }

    fn in_a_line(&self) -> String {
        let count = |outcome| self.checks.iter().filter(|check| check.outcome == outcome).count();
        let (passed, skipped) = (count("passed"), count("skipped"));
        let root = self.root.as_deref().unwrap_or("nothing");
        let failed = || {
            let failed = self.checks.iter().filter(|check| check.outcome == "failed");
            let names: Vec<_> = failed.map(CheckReport::name).collect();
            format!("{} of {} checks failed: {}", names.len(), self.checks.len(), names.join(", "))
        };
        let label = if self.label.is_some() { " (software-test)" } else { "" };
        let words = match (self.verdict, self.fault) {
            ("affirmed", _) => format!("{passed} checks passed, {skipped} were not made; {root} vouches for it"),
            ("test-passed", _) => {
                format!(
                    "{passed} checks passed, {skipped} were not made; it rests on {root}: no hardware vouches for anything"
                )
            }
            // What comes with evidence is appraised: nothing else of it can be another's then.
            ("not-met", Some("evidence")) => format!("genuine, but its event log does not hold: {}", failed()),
            (_, Some("unmet")) => format!("genuine, but not what is wanted: {}", failed()),
            (_, Some("revoked")) => format!("revoked: {}", failed()),
            (_, Some("collateral")) => format!("what it must be verified with is missing or out of date: {}", failed()),
            _ => format!("not genuine: {}", failed()),
        };
        // A software root vouches for nothing, and so not for this.
        let words =
            if label.is_empty() { words } else { words.replacen("genuine, but", "verified below a test root, but", 1) };
        format!("{}{label}: {words}", if self.fault.is_none() { "PASS" } else { "FAIL" })
    }

    /// Every check with its outcome, what else is known, and the verdict.
    pub fn text(&self, paint: Paint) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        if self.label.is_some() {
            let label = format!("{SOFTWARE_TEST}: a test root was allowed, for which no hardware vouches");
            let _ = writeln!(text, "{}\n", paint.on(&label, YELLOW));
        }
        let width = self.checks.iter().map(|check| check.id.len()).max().unwrap_or_default();
        for check in &self.checks {
            let outcome = match check.outcome {
                "passed" => paint.on("passed ", GREEN),
                "failed" => paint.on("FAILED ", RED),
                _ => "skipped".to_owned(),
            };
            let _ = writeln!(text, "{outcome}  {:<width$}  {}", check.id, shown(&check.words));
        }
        let advisories = self.advisories();
        if !advisories.is_empty() {
            let _ = writeln!(text, "\nWhat is known besides:");
            for (ids, advisory) in advisories {
                let _ = writeln!(text, "- {}: {advisory}", ids.join(", "));
            }
        }
        let line = paint.on(&shown(&self.line), if self.fault.is_none() { GREEN } else { RED });
        let until = self.valid_until.as_ref().map(|until| format!("; good until {until}")).unwrap_or_default();
        let _ = write!(text, "\nAt {}{until}.\n{line}", self.now);
        text
    }

    /// Each once, with the checks that it comes with.
    fn advisories(&self) -> Vec<(Vec<&'static str>, &'static str)> {
        let mut all: Vec<(Vec<_>, _)> = Vec::new();
        for check in &self.checks {
            let Some(advisory) = check.advisory else { continue };
            match all.iter_mut().find(|(_, there)| *there == advisory) {
                Some((ids, _)) => ids.push(check.id),
                None => all.push((vec![check.id], advisory)),
            }
        }
        all
    }
}

impl CheckReport {
    /// Its name, and by how much it was missed.
    fn name(&self) -> String {
        match &self.shortfall {
            Some(shortfall) => format!("{} ({shortfall})", self.id),
            None => self.id.to_owned(),
        }
    }

    fn of(check: &Check) -> Self {
        let id = check.id.name();
        let (outcome, why) = match &check.outcome {
            Outcome::Passed => ("passed", None),
            Outcome::Failed => ("failed", None),
            Outcome::Skipped(why) => ("skipped", Some(why.clone())),
        };
        let words = check.to_string();
        let words = words.strip_prefix(id).and_then(|words| words.strip_prefix(": ")).unwrap_or(&words).to_owned();
        Self {
            id,
            subject: check.id.subject(),
            outcome,
            expected: check.expected.clone(),
            actual: check.actual.clone(),
            why,
            shortfall: check.shortfall.clone(),
            advisory: check.advisory,
            words,
        }
    }
}

const fn fault(fault: Fault) -> &'static str {
    match fault {
        Fault::Evidence => "evidence",
        Fault::Revoked => "revoked",
        Fault::Collateral => "collateral",
        Fault::Unmet => "unmet",
    }
}

/// Names in certificates are anybody's.
fn shown(text: &str) -> String {
    text.replace(|char| !is_printable(char), "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// no-silent-trust: a name in a certificate is no command to a terminal.
    #[test]
    fn no_silent_trust_names_are_no_commands() {
        assert_eq!(shown("CN=\u{1b}[2JAMD's root\r\u{202e}"), "CN=\u{fffd}[2JAMD's root\u{fffd}\u{fffd}");
        assert_eq!(shown("CN=SEV-Genoa, é"), "CN=SEV-Genoa, é");
    }
}

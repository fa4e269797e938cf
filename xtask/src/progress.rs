//! Progress of set-up work: a line that moves on a terminal, plain lines elsewhere.

use std::io::{IsTerminal, Stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tenure_lab::progress::{Plain, Progress};

/// Shows progress on standard error.
#[derive(Debug)]
pub(crate) enum Shown {
    Bar(Bar),
    Lines(Plain<Stderr>),
}

/// A spinner with the step, the time it takes and what the work says last; a bar once it can tell how far it is.
#[derive(Debug, Default)]
pub(crate) struct Bar {
    step: Option<(ProgressBar, String, std::time::Instant)>,
}

/// What fits where people look.
pub(crate) fn shown() -> Shown {
    if std::io::stderr().is_terminal() {
        Shown::Bar(Bar::default())
    } else {
        Shown::Lines(Plain::new(std::io::stderr()))
    }
}

impl Progress for Shown {
    fn begin(&mut self, name: &str, expected: Duration) {
        match self {
            Self::Bar(bar) => bar.begin(name, expected),
            Self::Lines(lines) => lines.begin(name, expected),
        }
    }

    fn advance(&mut self, done: u64, total: u64) {
        match self {
            Self::Bar(bar) => bar.advance(done, total),
            Self::Lines(lines) => lines.advance(done, total),
        }
    }

    fn line(&mut self, text: &str) {
        match self {
            Self::Bar(bar) => bar.line(text),
            Self::Lines(lines) => lines.line(text),
        }
    }

    fn end(&mut self) {
        match self {
            Self::Bar(bar) => bar.end(),
            Self::Lines(lines) => lines.end(),
        }
    }

    fn note(&mut self, text: &str) {
        match self {
            Self::Bar(bar) => bar.note(text),
            Self::Lines(lines) => lines.note(text),
        }
    }
}

impl Bar {
    fn begin(&mut self, name: &str, expected: Duration) {
        let bar = ProgressBar::new_spinner();
        // The templates are constants, so they parse.
        if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} [{elapsed}] {wide_msg:.dim}") {
            bar.set_style(style);
        }
        let about = match expected.as_secs() {
            0..=2 => String::new(),
            seconds @ 3..=90 => format!(" (about {seconds} s)"),
            seconds => format!(" (about {} min)", seconds.div_ceil(60)),
        };
        bar.set_prefix(format!("{name}{about}"));
        bar.enable_steady_tick(Duration::from_millis(120));
        self.step = Some((bar, name.to_owned(), std::time::Instant::now()));
    }

    fn advance(&mut self, done: u64, total: u64) {
        let Some((bar, ..)) = &self.step else { return };
        if bar.length() != Some(total) {
            if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} [{elapsed}] {bar:30} {percent}%") {
                bar.set_style(style);
            }
            bar.set_length(total);
        }
        bar.set_position(done);
    }

    fn line(&mut self, text: &str) {
        if let Some((bar, ..)) = &self.step {
            bar.set_message(text.to_owned());
        }
    }

    fn end(&mut self) {
        if let Some((bar, name, started)) = self.step.take() {
            bar.finish_and_clear();
            // What took no time is not worth a line.
            if started.elapsed() >= Duration::from_secs(2) {
                eprintln!("{name}: done in {} s", started.elapsed().as_secs());
            }
        }
    }

    fn note(&mut self, text: &str) {
        match &self.step {
            Some((bar, ..)) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }
}

//! One screen about a run, for people.
//!
//! Owns how a [`RunReport`] looks. Everything on the screen is in the report, and nothing is computed here but sums.

use crate::config::Guise;
use crate::report::{ConversionCounts, GuestOutcome, MemoryReport, RunReport, Severity, TeardownReport, Verdict};
use gmem::{ByteLen, PageCount};
use std::fmt::{self, Write};
use std::time::Duration;

/// Characters of the screen.
const WIDTH: usize = 100;
/// Characters of the memory bar.
const BAR: u64 = 40;
/// Reasons for exits that are worth a place on the screen.
const MOST_REASONS: usize = 6;

/// What the screen is drawn with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Box drawing and blocks, for terminals.
    Boxes,
    /// ASCII.
    Plain,
}

/// Draws the screen.
pub fn render(report: &RunReport, style: Style) -> String {
    let mut screen = Screen { text: String::new(), style };
    place(&mut screen, report);
    memory(&mut screen, &report.memory);
    vcpus(&mut screen, report);
    if !report.devices.is_empty() {
        screen.section("devices");
        for device in &report.devices {
            let counters: Vec<_> =
                device.counters.iter().map(|(name, count)| format!("{name} {}", grouped(*count))).collect();
            screen.line(&device.name, &counters.join(", "));
        }
    }
    screen.section("end");
    screen.line("guest", &outcome(&report.outcome));
    teardown(&mut screen, &report.teardown);
    for warning in &report.warnings {
        screen.line("warning", warning);
    }
    screen.rule();
    screen.text
}

fn place(screen: &mut Screen, report: &RunReport) {
    let place = &report.place;
    let guise = match place.guise {
        Guise::None => String::new(),
        guise => format!(", guise {guise}"),
    };
    screen.section("where");
    screen.line("host", &format!("{}, {}", place.host_kernel, place.cpu));
    screen.line("guest", &format!("tee {} (VM type {}){guise}", place.tee, place.vm_type));
    let timing = &report.timing;
    let parts = [("launch", timing.launch), ("guest", timing.guest), ("teardown", timing.teardown)];
    screen.line("time", &parts.map(|(name, time)| format!("{name} {}", seconds(time))).join(", "));
}

fn memory(screen: &mut Screen, memory: &MemoryReport) {
    screen.section("memory");
    screen.line("RAM", &format!("{:>9}  {}", size(memory.ram), screen.bar(memory)));
    let touched = |pages: PageCount| format!("{} of it touched and paid for by the host", size(pages));
    let private =
        memory.private_resident.map_or_else(|| "the kernel does not tell how much was touched".into(), touched);
    screen.line("private", &format!("{:>9}  {private}", size(memory.private)));
    screen.line("shared", &format!("{:>9}  {}", size(memory.shared), touched(memory.shared_resident)));
    if memory.in_doubt.get() != 0 {
        screen.line("in doubt", &format!("{:>9}  after conversions with unknown outcome", size(memory.in_doubt)));
    }
    screen.line("to shared", &conversions(memory.to_shared));
    screen.line("to private", &conversions(memory.to_private));
}

fn conversions(counts: ConversionCounts) -> String {
    let ConversionCounts { requests, pages, refused } = counts;
    let size = size(PageCount::new(pages));
    let mut text = format!("{:>9}  {} pages in {} requests", size, grouped(pages), grouped(requests));
    if refused != 0 {
        // Writing to a string cannot fail.
        let _ = write!(text, ", {} refused", grouped(refused));
    }
    text
}

fn vcpus(screen: &mut Screen, report: &RunReport) {
    screen.section("vCPUs");
    let by_reason = report.exits_by_reason();
    let total: u64 = by_reason.values().sum();
    let mut reasons: Vec<_> = by_reason.into_iter().collect();
    reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let rest: u64 = reasons.iter().skip(MOST_REASONS).map(|(_, count)| count).sum();
    reasons.truncate(MOST_REASONS);
    reasons.extend((rest != 0).then_some(("others", rest)));
    let reasons: Vec<_> = reasons.into_iter().map(|(reason, count)| format!("{reason} {}", grouped(count))).collect();
    screen.line("number", &report.exits.len().to_string());
    screen.line("exits", &format!("{}: {}", grouped(total), reasons.join(", ")));
    if report.exits.len() > 1 {
        let each: Vec<_> = report.exits.iter().take(8).map(|counts| grouped(counts.values().sum())).collect();
        let more = if report.exits.len() > 8 { ", ..." } else { "" };
        screen.line("each", &format!("{}{more}", each.join(", ")));
    }
}

fn outcome(outcome: &GuestOutcome) -> String {
    match outcome {
        GuestOutcome::PoweredOff => "switched itself off".to_owned(),
        GuestOutcome::Reset => "reset itself".to_owned(),
        GuestOutcome::Terminated { set, code, reason } => {
            format!("ASKED TO BE TERMINATED: {reason} (reason code {code:#x} of set {set:#x})")
        }
        GuestOutcome::SelfTest { failed_checks: 0 } => "self-test passed".to_owned(),
        GuestOutcome::SelfTest { failed_checks } => format!("self-test FAILED: {failed_checks} checks"),
        GuestOutcome::Stopped { by } => format!("stopped by {by}"),
        GuestOutcome::FirmwareFault { fault } => format!("FIRMWARE GAVE UP: {fault}"),
        GuestOutcome::Crashed { reason } => format!("CRASHED: {reason}"),
        GuestOutcome::NotStarted { reason } => format!("NOT STARTED: {reason}"),
    }
}

fn teardown(screen: &mut Screen, teardown: &TeardownReport) {
    screen.line("teardown", if teardown.is_clean() { "clean" } else { "NOT CLEAN" });
    let pages: Vec<_> =
        teardown.pages.iter().map(|entry| format!("{} {}", entry.state, grouped(entry.pages))).collect();
    screen.line("pages", &pages.join(", "));
    for debt in &teardown.debts {
        screen.line("debt", debt);
    }
    for doubt in &teardown.doubts {
        screen.line("in doubt", doubt);
    }
    for (number, step) in (1..).zip(&teardown.steps) {
        let time = seconds(Duration::from_micros(step.done_us));
        let problem = match (&step.error, step.severity) {
            (None, _) => String::new(),
            (Some(error), Severity::Note) => format!(" ({error})"),
            (Some(error), Severity::Fault) => format!(" FAILED: {error}"),
        };
        screen.line(if number == 1 { "closed" } else { "" }, &format!("{number}. {time:>8}  {}{problem}", step.what));
    }
    for evidence in &teardown.evidence {
        let what = &evidence.what;
        let (mark, seen) = match &evidence.verdict {
            Verdict::Holds => (screen.pick("✓", "yes"), String::new()),
            Verdict::Fails { seen } => (screen.pick("✗", "NO"), format!(": {seen}")),
            Verdict::Unknown { reason } => ("?", format!(": {reason}")),
        };
        screen.line("evidence", &format!("{mark} {what}{seen}"));
    }
}

/// The screen so far.
struct Screen {
    text: String,
    style: Style,
}

impl Screen {
    fn pick<T>(&self, boxes: T, plain: T) -> T {
        match self.style {
            Style::Boxes => boxes,
            Style::Plain => plain,
        }
    }

    fn push(&mut self, line: fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{line}");
    }

    fn section(&mut self, title: &str) {
        let rule = self.pick("─", "-").repeat(WIDTH - title.len() - 4);
        let (corner, dash) = if self.text.is_empty() {
            self.pick(("┌", "─"), ("-", "-"))
        } else {
            self.pick(("├", "─"), ("-", "-"))
        };
        self.push(format_args!("{corner}{dash} {title} {rule}"));
    }

    /// A label and a value, which goes on in the next line where it is too long.
    fn line(&mut self, label: &str, value: &str) {
        let edge = self.pick("│", " ");
        let mut label = label;
        let mut rest = value.trim_end();
        loop {
            let (line, after) = break_line(rest, WIDTH - 14);
            self.push(format_args!("{edge} {label:<11} {line}"));
            if after.is_empty() {
                return;
            }
            (label, rest) = ("", after);
        }
    }

    fn rule(&mut self) {
        let (corner, dash) = self.pick(("└", "─"), ("-", "-"));
        let rule = dash.repeat(WIDTH - 1);
        self.push(format_args!("{corner}{rule}"));
    }

    /// RAM in proportion: what is private and touched, private and untouched, shared. Whatever there is at all has at
    /// least one character.
    fn bar(&self, memory: &MemoryReport) -> String {
        let (touched, untouched, shared) = self.pick(('█', '▒', '░'), ('#', '-', 's'));
        let total = memory.ram.get().max(1);
        let cells = |pages: PageCount| match pages.get() {
            0 => 0,
            pages => usize::try_from((pages.saturating_mul(BAR) / total).clamp(1, BAR)).unwrap_or(0),
        };
        let resident = memory.private_resident.unwrap_or(memory.private).min(memory.private);
        let rest = PageCount::new(memory.private.get() - resident.get());
        let mut bar = String::new();
        for (pages, cell) in [(resident, touched), (rest, untouched), (memory.shared, shared)] {
            bar.extend(std::iter::repeat_n(cell, cells(pages)));
        }
        format!("[{bar}] {touched} private  {untouched} untouched  {shared} shared")
    }
}

/// As many words of `text` as fit `width` characters, and the rest.
fn break_line(text: &str, width: usize) -> (&str, &str) {
    let Some((end, _)) = text.char_indices().nth(width) else { return (text, "") };
    match text[..end].rfind(' ') {
        Some(space) if !text[..space].trim().is_empty() => (text[..space].trim_end(), text[space..].trim_start()),
        _ => text.split_at(end),
    }
}

fn seconds(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{:.1} ms", time.as_secs_f64() * 1e3)
    } else {
        format!("{:.2} s", time.as_secs_f64())
    }
}

fn size(pages: PageCount) -> String {
    let Some(ByteLen(bytes)) = pages.bytes() else { return format!("{pages}") };
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let (shift, unit) = units.into_iter().find(|(shift, _)| bytes >> shift != 0).unwrap_or((10, "KiB"));
    let (whole, tenth) = (bytes >> shift, ((bytes & ((1 << shift) - 1)) * 10) >> shift);
    if tenth == 0 { format!("{whole} {unit}") } else { format!("{whole}.{tenth} {unit}") }
}

/// A number with its thousands apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position != 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests;

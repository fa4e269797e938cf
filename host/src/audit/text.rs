//! The report for people: one table, then what is wrong, then what could not be seen.
//!
//! Names of commands are under the control of the processes they name: control characters never reach the terminal.

use super::report::{Ask, AuditReport, Confidence, Finding, HolderReport, MemoryReport, State};
use super::seen::{FileId, Unseen};
use crate::paint::{BOLD, GREEN, Paint, RED, YELLOW, is_printable};
use gmem::ByteLen;
use std::collections::BTreeSet;
use std::fmt::{self, Write};

impl AuditReport {
    /// The report in words.
    pub fn render(&self, paint: Paint) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut text, paint);
        text
    }

    fn write(&self, to: &mut String, paint: Paint) -> fmt::Result {
        let holders = match self.holders.len() {
            0 => "none holds a VM or memory of one".to_owned(),
            1 => "1 holds a VM or memory of one".to_owned(),
            more => format!("{more} hold a VM or memory of one"),
        };
        let kernel = clean(&self.kernel);
        writeln!(
            to,
            "tenure {} on Linux {kernel}: {} processes looked at, {holders}",
            self.version, self.processes_looked_at
        )?;
        if !self.holders.is_empty() {
            writeln!(to)?;
            self.table(to, paint)?;
        }
        for (number, finding) in (1..).zip(&self.findings) {
            writeln!(to)?;
            write_finding(to, number, finding, paint)?;
        }
        if !self.unseen.is_empty() {
            writeln!(to, "\n{}", paint.on("Not seen", BOLD))?;
        }
        for Unseen { what, why, so, remedy } in &self.unseen {
            let remedy = remedy.as_ref().map_or(String::new(), |remedy| format!(" -> {remedy}"));
            writeln!(to, "  - {}: {}; {so}{remedy}", clean(what), clean(why))?;
        }
        let conclusion = match (self.findings.len(), self.complete) {
            (0, true) => paint.on("Nothing found.", GREEN),
            (0, false) => paint.on("Nothing found in what could be seen.", YELLOW),
            (1, _) => paint.on("1 finding.", RED),
            (more, _) => paint.on(&format!("{more} findings."), RED),
        };
        write!(to, "\n{conclusion}")
    }

    fn table(&self, to: &mut String, paint: Paint) -> fmt::Result {
        let mut rows =
            vec![["PID", "USER", "COMMAND", "SINCE", "VMS", "VCPUS", "PRIVATE MEMORY", "STATE"].map(str::to_owned)];
        for holder in &self.holders {
            let memories: Vec<_> = files(holder).into_iter().filter_map(|file| self.memory(file)).collect();
            let mut first = [
                holder.pid.to_string(),
                clean(&holder.user.clone().or(holder.uid.map(|uid| uid.to_string())).unwrap_or_else(unknown)),
                clean(&holder.command),
                holder.since.map_or_else(unknown, |since| since.to_string()),
                holder.vms.to_string(),
                vcpus(holder),
            ];
            if memories.is_empty() {
                rows.push(row(first, "-".into(), "-".into()));
            } else {
                for memory in memories {
                    rows.push(row(std::mem::take(&mut first), size(memory), state(memory.state).into()));
                }
            }
        }
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..8).map(width).collect();
        for (number, row) in rows.iter().enumerate() {
            let mut line = String::new();
            for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                let padding = " ".repeat(width - cell.chars().count());
                // Numbers to the right.
                let cell = if matches!(column, 0 | 4) { padding + cell } else { cell.to_owned() + &padding };
                write!(line, "{}{cell}", if column == 0 { "" } else { "  " })?;
            }
            let line = line.trim_end();
            writeln!(to, "{}", if number == 0 { paint.on(line, BOLD) } else { line.to_owned() })?;
        }
        Ok(())
    }

    fn memory(&self, file: FileId) -> Option<&MemoryReport> {
        self.memories.iter().find(|memory| memory.file == file)
    }
}

fn row(first: [String; 6], memory: String, state: String) -> [String; 8] {
    let [pid, user, command, since, vms, vcpus] = first;
    [pid, user, command, since, vms, vcpus, memory, state]
}

fn files(holder: &HolderReport) -> BTreeSet<FileId> {
    let open = holder.descriptors.iter().filter_map(|one| one.file);
    open.chain(holder.mappings.iter().filter_map(|map| map.file)).collect()
}

fn vcpus(holder: &HolderReport) -> String {
    match (holder.vcpus, holder.running.len(), &holder.running_unknown) {
        (0, 0, _) => "0".to_owned(),
        (vcpus, 0, Some(_)) => format!("{vcpus}, running unknown"),
        (vcpus, running, _) => format!("{vcpus}, {running} running"),
    }
}

fn size(memory: &MemoryReport) -> String {
    let bytes = memory.bytes.map_or_else(|| "of unknown size".to_owned(), |bytes| ByteLen(bytes).to_string());
    let allocated = memory.allocated_bytes.map_or(String::new(), |bytes| format!(", {} allocated", ByteLen(bytes)));
    format!("{bytes}{allocated} (file {})", memory.file)
}

fn state(state: State) -> &'static str {
    match state {
        State::Running => "in use",
        State::NotRunning => "not in use",
        State::Unknown => "unknown",
    }
}

fn unknown() -> String {
    "?".to_owned()
}

fn write_finding(to: &mut String, number: usize, finding: &Finding, paint: Paint) -> fmt::Result {
    let (sure, colour) = match finding.confidence {
        Confidence::Certain => ("certain", RED),
        Confidence::Likely => ("likely", YELLOW),
        Confidence::Possible => ("possible", YELLOW),
    };
    let size = finding.bytes.map_or(String::new(), |bytes| format!(", {}", ByteLen(bytes)));
    writeln!(to, "{number}. {} ({sure}{size})", paint.on(finding.id.name(), colour))?;
    writeln!(to, "   {}", clean(&finding.what))?;
    let mut line = |label: &str, text: &str| writeln!(to, "   {label:<9} {}", clean(text));
    for (label, evidence) in labels("evidence").zip(&finding.evidence) {
        line(label, evidence)?;
    }
    for (label, ask) in labels("ask").zip(&finding.ask) {
        line(label, &person(ask))?;
    }
    line("remedy", &finding.remedy)
}

/// A label for the first line, and none for those after it.
fn labels(first: &str) -> impl Iterator<Item = &str> {
    std::iter::once(first).chain(std::iter::repeat(""))
}

fn person(ask: &Ask) -> String {
    let user = ask.user.as_ref().map_or(String::new(), |user| format!(", user {user}"));
    let since = ask.since.map_or(String::new(), |since| format!(", since {since}"));
    let parent = ask.parent.as_ref().map_or(String::new(), |parent| format!(", child of {parent}"));
    format!("{} ({}){user}{since}{parent}", ask.pid, ask.command)
}

/// Text of others, without what a terminal would obey.
fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for char in text.chars() {
        if is_printable(char) { clean.push(char) } else { clean.extend(char.escape_default()) }
    }
    clean
}

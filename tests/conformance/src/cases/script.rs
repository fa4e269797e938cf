//! Cases that are scripts.
//!
//! A file holds cases: a line `case NAME`, lines `about: …`, `from: …`, `on: KINDS` and `needs: …`, then operations with
//! their answers. `$T` and `$F` stand for the VM type and the flags of the kind, `[KINDS]` before a line says that it is
//! for these only. An operation without an answer must succeed.

use super::{Body, Case, Kind, Need, Verdict};
use crate::kernel::Kernel;
use crate::model::Model;
use crate::op::{self, Op};
use crate::outcome::Outcome;
use crate::random::Subject;

/// The files.
pub const TEXTS: [&str; 4] = [
    include_str!("files.cases"),
    include_str!("slots.cases"),
    include_str!("attributes.cases"),
    include_str!("lifetimes.cases"),
];

/// Why a file is none.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A line before the first case.
    #[error("{0:?} is before the first case")]
    Stray(String),
    /// A kind or a need that is none.
    #[error("case {case}: {word:?} is no {what}")]
    Word {
        /// The case.
        case: String,
        /// What it should be.
        what: &'static str,
        /// What it is.
        word: String,
    },
    /// A line that is no operation.
    #[error("case {case} ({kind}): {error}")]
    Line {
        /// The case.
        case: String,
        /// The kind of VM.
        kind: &'static str,
        /// What is wrong.
        error: op::ParseError,
    },
}

fn kind(case: &str, word: &str) -> Result<Kind, Error> {
    let found = Kind::ALL.into_iter().find(|kind| kind.name() == word);
    found.ok_or_else(|| Error::Word { case: case.to_owned(), what: "kind", word: word.to_owned() })
}

/// The cases of a file.
pub fn cases(text: &str) -> Result<Vec<Case>, Error> {
    let mut cases: Vec<Case> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix("case ") {
            cases.push(Case {
                name: name.trim().to_owned(),
                about: String::new(),
                from: String::new(),
                kinds: Vec::new(),
                needs: Vec::new(),
                body: Body::Script(String::new()),
            });
            continue;
        }
        let case = cases.last_mut().ok_or_else(|| Error::Stray(line.to_owned()))?;
        let name = case.name.clone();
        match line.split_once(": ") {
            Some(("about", about)) => about.clone_into(&mut case.about),
            Some(("from", from)) => from.clone_into(&mut case.from),
            Some(("on", kinds)) => {
                case.kinds = kinds.split_whitespace().map(|word| kind(&name, word)).collect::<Result<_, _>>()?;
            }
            Some(("needs", needs)) => {
                let need = |word: &str| {
                    Need::parse(word).ok_or_else(|| Error::Word {
                        case: name.clone(),
                        what: "need",
                        word: word.to_owned(),
                    })
                };
                case.needs = needs.split_whitespace().map(need).collect::<Result<_, _>>()?;
            }
            _ => {
                if let Body::Script(script) = &mut case.body {
                    script.push_str(line);
                    script.push('\n');
                }
            }
        }
    }
    Ok(cases)
}

/// A script as it is for a kind.
#[must_use]
pub fn for_kind(text: &str, kind: Kind) -> String {
    let mut script = String::new();
    for line in text.lines() {
        let line = match line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((kinds, line)) if kinds.split('|').any(|word| word == kind.name()) => line,
            Some(_) => continue,
            None => line,
        };
        let line = line.replace("$T", &kind.vm_type().to_string()).replace("$F", &format!("{:#x}", kind.flags()));
        script.push_str(&line);
        script.push('\n');
    }
    script
}

/// Whether an answer is the one that is wanted; without one, any success is.
fn suits(answer: Outcome, wanted: Option<&String>) -> bool {
    match wanted {
        Some(wanted) => answer.to_string() == *wanted,
        None => matches!(answer, Outcome::Done | Outcome::Value(_)),
    }
}

/// Runs a script on a kernel and its model.
pub fn judge(subject: &mut impl Subject, kernel: &Kernel, text: &str, kind: Kind) -> Verdict {
    let script = match op::parse_script(&for_kind(text, kind)) {
        Ok(script) => script,
        Err(error) => return Verdict::Failed { detail: error.to_string() },
    };
    let mut model = Model::new(kernel.clone());
    let mut remarks: Vec<(String, Option<&'static str>)> = Vec::new();
    for (index, (op, wanted)) in script.iter().enumerate() {
        if !model.applicable(op) {
            return Verdict::Failed { detail: format!("{op}: cannot be asked here") };
        }
        let expected = model.apply(op);
        let Some(got) = subject.apply(op) else {
            return Verdict::Failed { detail: format!("{op}: must not be asked") };
        };
        let said = || format!("{op} -> {got}, not {}", wanted.as_deref().unwrap_or("ok"));
        if got != expected {
            // What it leaves is of no interest.
            let _ = subject.reset();
            let suits = if suits(got, wanted.as_ref()) { " (the model alone is wrong)" } else { "" };
            return Verdict::Failed { detail: format!("{op}: {got}, but the model says {expected}{suits}") };
        }
        if !suits(got, wanted.as_ref()) {
            let ops: Vec<Op> = script[..=index].iter().map(|(op, _)| *op).collect();
            remarks.push((said(), explain(kernel, &ops, wanted.as_ref())));
        }
    }
    if let Err(left) = subject.reset() {
        return Verdict::Failed { detail: left };
    }
    if remarks.is_empty() { Verdict::Passed } else { Verdict::Differs { remark: in_words(&remarks) } }
}

/// Each reason once, with the first line that it is the reason of.
fn in_words(remarks: &[(String, Option<&'static str>)]) -> String {
    let mut words: Vec<String> = Vec::new();
    for (index, (said, why)) in remarks.iter().enumerate() {
        let is_new = why.is_none() || remarks[..index].iter().all(|(_, earlier)| earlier != why);
        if is_new {
            let why = why.map_or_else(String::new, |why| format!(" ({why})"));
            words.push(format!("`{said}`{why}"));
        }
    }
    words.join("; ")
}

/// The quirk without which the last of the operations would answer as wanted.
fn explain(kernel: &Kernel, ops: &[Op], wanted: Option<&String>) -> Option<&'static str> {
    let without = kernel.quirks.iter().find(|quirk| {
        let mut plainer = kernel.clone();
        plainer.quirks.remove(quirk);
        let mut model = Model::new(plainer);
        let answer = ops.iter().map(|op| model.apply(op)).last();
        answer.is_some_and(|answer| suits(answer, wanted))
    });
    Some(without.map_or("by the capabilities it announces", |quirk| quirk.remark()))
}

/// Cases whose scripts are too long to write down.
#[must_use]
pub fn generated() -> Vec<Case> {
    let case = |name: &str, about: &str, from: &str, kinds: &[Kind], needs: &[Need], script: String| Case {
        name: name.to_owned(),
        about: about.to_owned(),
        from: from.to_owned(),
        kinds: kinds.to_vec(),
        needs: needs.to_vec(),
        body: Body::Script(script),
    };
    let lines = |lines: Vec<String>| lines.join("\n");
    let gmem_kinds = [Kind::Shared, Kind::Private, Kind::PrivateMmap];
    let mut sizes = vec!["vm v0 type=$T".to_owned()];
    sizes.extend((1..4096).map(|size| format!("gmem f0 v0 size={size} flags=$F -> EINVAL")));
    let mut offsets = vec!["vm v0 type=$T".to_owned(), "gmem f0 v0 size=0x4000 flags=$F".to_owned()];
    offsets.extend((1..4096).map(|offset| {
        format!(
            "slot v0 id=0 gpa=0x40000000 size=0x1000 hva=p0+0x0 flags=GUEST_MEMFD gmem=f0 offset={offset} -> EINVAL"
        )
    }));
    let mut flags = vec!["vm v0 type=$T".to_owned()];
    for bit in 3..32 {
        for verb in ["slot", "slot-v1"] {
            let flag = 1u32 << bit;
            flags.push(format!("{verb} v0 id=0 gpa=0x40000000 size=0x1000 hva=p0+0x0 flags={flag:#x} -> EINVAL"));
        }
    }
    flags.push("slot-v1 v0 id=0 gpa=0x40000000 size=0x1000 hva=p0+0x0 flags=GUEST_MEMFD -> EINVAL".to_owned());
    let mut bits = vec!["vm v0 type=$T".to_owned()];
    for bit in 0..64 {
        let flag = 1u64 << bit;
        for (kinds, known) in [("shared|plain", 3), ("private|private-mmap", 1)] {
            if flag & known == 0 {
                bits.push(format!("[{kinds}]gmem f0 v0 size=0x1000 flags={flag:#x} -> EINVAL"));
            } else {
                bits.push(format!("[{kinds}]gmem f{} v0 size=0x1000 flags={flag:#x} -> ok", bit + 1));
            }
        }
    }
    vec![
        case(
            "create-flag-bits",
            "each flag bit by itself: those of KVM_CAP_GUEST_MEMFD_FLAGS make a file, others are refused",
            "guest_memfd_test",
            &[Kind::Plain, Kind::Private],
            &[],
            lines(bits),
        ),
        case("create-odd-sizes", "sizes from 1 to 4095 bytes", "guest_memfd_test", &gmem_kinds, &[], lines(sizes)),
        case(
            "bind-odd-offsets",
            "offsets from 1 to 4095 into the file",
            "set_memory_region_test",
            &gmem_kinds,
            &[],
            lines(offsets),
        ),
        case(
            "slot-flag-bits",
            "unknown flags, with both versions of the call; GUEST_MEMFD with the first",
            "set_memory_region_test",
            &[Kind::Plain, Kind::Private],
            &[],
            lines(flags),
        ),
        case(
            "close-in-any-order",
            "a VM lives until its descriptor, vCPU, guest_memfd, duplicate and mapping are closed, in each of the orders",
            "new: close-order permutations",
            &[Kind::Shared, Kind::Private],
            &[Need::Debugfs],
            orders(),
        ),
    ]
}

/// Every order of closing what keeps a VM, with the moment at which it goes.
fn orders() -> String {
    let mut script = String::new();
    for order in permutations(&["close v0", "close c0", "close f0", "close f1", "unmap m0"]) {
        script.push_str("vm v0 type=$T\ngmem f0 v0 size=0x4000 flags=$F\ndup f0 f1\n");
        // A private file cannot be mapped.
        script.push_str("[shared|private-mmap]map m0 f0 len=0x4000 shared rw\nvcpu c0 v0\n");
        script.push_str("slot v0 id=0 gpa=0x40000000 size=0x4000 hva=p0+0x0 flags=GUEST_MEMFD gmem=f0 offset=0\n");
        for (index, close) in order.iter().enumerate() {
            let only_mapped = if close.starts_with("unmap") { "[shared|private-mmap]" } else { "" };
            script.push_str(&format!("{only_mapped}{close}\n"));
            let left: Vec<_> = order[index + 1..].to_vec();
            for kinds in ["shared|private-mmap", "private|plain"] {
                let mapped = kinds.starts_with("shared");
                let alive = u32::from(left.iter().any(|close| mapped || !close.starts_with("unmap")));
                script.push_str(&format!("[{kinds}]alive v0 -> ok {alive:#x}\n"));
            }
        }
    }
    script
}

fn permutations<'a>(items: &[&'a str]) -> Vec<Vec<&'a str>> {
    if items.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for (index, first) in items.iter().enumerate() {
        let mut rest = items.to_vec();
        rest.remove(index);
        for mut order in permutations(&rest) {
            order.insert(0, first);
            all.push(order);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::tests::newest;

    /// Two statements of the same ABI: the cases and the model.
    #[test]
    fn the_model_of_the_newest_kernel_passes_every_script() {
        let kernel = newest();
        let mut asked = 0;
        for case in crate::cases::all().unwrap() {
            let Body::Script(text) = &case.body else { continue };
            assert!(!case.kinds.is_empty() && !case.about.is_empty() && !case.from.is_empty(), "{}", case.name);
            for kind in &case.kinds {
                let verdict = judge(&mut Model::new(kernel.clone()), &kernel, text, *kind);
                // The kind "plain" may be asked of a kernel that has no guest_memfd for it.
                assert_eq!(verdict, Verdict::Passed, "{} ({})", case.name, kind.name());
                asked += 1;
            }
        }
        assert!(asked > 90, "{asked} cases only");
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = crate::cases::all().unwrap().into_iter().map(|case| case.name).collect();
        names.sort();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn a_kernel_that_differs_for_a_known_reason_is_told_from_one_that_fails() {
        let wanted = "vm v0 type=1\ngmem f0 v0 size=0x2000 flags=0\n\
                      slot v0 id=0 gpa=0 size=0x1000 flags=GUEST_MEMFD gmem=f0\n\
                      slot v0 id=1 gpa=0x1000 size=0x1000 flags=GUEST_MEMFD gmem=f0 -> EEXIST\n";
        let mut quirky = newest();
        quirky.quirks.insert(crate::kernel::Quirk::FileOverlapIsInvalid);
        let known = judge(&mut Model::new(quirky.clone()), &quirky, wanted, Kind::Private);
        assert!(matches!(&known, Verdict::Differs { remark } if remark.contains("EINVAL")), "{known:?}");
        let unknown = judge(&mut Model::new(quirky), &newest(), wanted, Kind::Private);
        assert!(matches!(&unknown, Verdict::Failed { .. }), "{unknown:?}");
    }
}

//! Conversions between private and shared, and requests that must be refused.
//!
//! What is tested is law 4, no-stale-copy, as a guest sees it: after each conversion the page reads zero, so neither
//! side's old contents come back; what lies beside the range keeps its contents; converting to what a page already is
//! changes nothing.
//!
//! Specification: Linux `Documentation/virt/kvm/x86/hypercalls.rst`, KVM_HC_MAP_GPA_RANGE.
#![expect(unsafe_code, reason = "a conversion replaces the contents of memory")]

use super::layout::pages;
use super::options::Coverage;
use super::owned::Owned;
use crate::abi::PAGE_SIZE;
use crate::cpu::Hypercall;
use crate::range::GpaRange;
use crate::staging::Ram;
use core::fmt;

/// KVM_HC_MAP_GPA_RANGE.
const MAP_GPA_RANGE: u64 = 12;
/// Attribute bit 4: private ("encrypted"); bits 3:0 are a hint about page sizes, 4 KiB here.
const PRIVATE: u64 = 1 << 4;
const SHARED: u64 = 0;
const LARGE_PAGE: u64 = 2 << 20;
/// Largest odd-sized range in pages.
const ODD_PAGES_MAX: u64 = 40;

/// Salts: who wrote a pattern, and when.
const BESIDE: u64 = 2;
const BEFORE: u64 = 3;
const WHILE_SHARED: u64 = 4;
const AFTER: u64 = 5;

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// For the guest alone.
    Private,
    /// For guest and host.
    Shared,
}

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConvertFailure {
    /// The VMM said no.
    Refused {
        /// What was asked for.
        range: GpaRange,
        /// Which way.
        side: Side,
        /// Its answer.
        answer: i64,
    },
    /// The VMM said yes to what it must refuse.
    Granted {
        /// Its answer.
        answer: i64,
    },
    /// A page holds what it must not.
    Contents {
        /// The page.
        gpa: u64,
        /// When that was seen.
        when: &'static str,
        /// What it holds.
        found: u64,
    },
}

impl fmt::Display for ConvertFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { range, side, answer } => write!(f, "{range} to {side:?} was answered with {answer}"),
            Self::Granted { answer } => write!(f, "was answered with {answer}, not with an error"),
            Self::Contents { gpa, when, found } => write!(f, "page {gpa:#x} holds {found:#x} {when}"),
        }
    }
}

/// Asks the VMM to convert `memory`, all of it.
pub fn convert(call: Hypercall, memory: &mut Owned, side: Side) -> Result<(), ConvertFailure> {
    convert_range(call, memory, memory.range(), side)
}

fn convert_range(call: Hypercall, memory: &mut Owned, range: GpaRange, side: Side) -> Result<(), ConvertFailure> {
    assert!(memory.range().contains(range), "{range} is not a part of {}", memory.range());
    let attributes = match side {
        Side::Private => PRIVATE,
        Side::Shared => SHARED,
    };
    // SAFETY: the memory is exclusively ours, and its contents may change.
    match unsafe { call.call(MAP_GPA_RANGE, [range.start(), range.len() / PAGE_SIZE, attributes]) } {
        0 => Ok(()),
        answer => Err(ConvertFailure::Refused { range, side, answer }),
    }
}

/// Converts part of `memory` to and fro, chosen by `random`, and checks contents at every step. All of `memory` is
/// private before and after.
pub fn round(call: Hypercall, memory: &mut Owned, random: u64) -> Result<(), ConvertFailure> {
    let Some(range) = choose(memory.range(), random) else { return Ok(()) };
    let beside = [
        range.start().checked_sub(PAGE_SIZE).filter(|page| *page >= memory.range().start()),
        Some(range.end()).filter(|page| *page < memory.range().end()),
    ];
    for page in beside.into_iter().flatten() {
        memory.put_pattern(page, BESIDE);
    }
    let touched = touched(range);
    touched.clone().for_each(|page| memory.put_pattern(page, BEFORE));

    convert_range(call, memory, range, Side::Shared)?;
    zero(memory, touched.clone(), "after conversion to shared")?;
    touched.clone().for_each(|page| memory.put_pattern(page, WHILE_SHARED));
    convert_range(call, memory, range, Side::Shared)?;
    holds(memory, touched.clone(), WHILE_SHARED, "after conversion from shared to shared")?;

    convert_range(call, memory, range, Side::Private)?;
    zero(memory, touched.clone(), "after conversion back to private")?;
    touched.clone().for_each(|page| memory.put_pattern(page, AFTER));
    holds(memory, touched, AFTER, "after it was written as private again")?;
    holds(memory, beside.into_iter().flatten(), BESIDE, "beside a conversion")
}

/// A range inside `memory`: mostly single pages, some of odd size, some of 2 MiB.
fn choose(memory: GpaRange, random: u64) -> Option<GpaRange> {
    let place = random >> 16;
    let inside = |len: u64, align: u64| {
        let first = memory.start().next_multiple_of(align);
        let places = memory.end().checked_sub(first)?.checked_sub(len)? / align + 1;
        GpaRange::new(first + place % places * align, len)
    };
    let odd = (random >> 8) % ODD_PAGES_MAX + 2;
    match random % 16 {
        0 => inside(LARGE_PAGE, LARGE_PAGE).or_else(|| inside(PAGE_SIZE, PAGE_SIZE)),
        1 => inside(LARGE_PAGE + odd * PAGE_SIZE, PAGE_SIZE).or_else(|| inside(PAGE_SIZE, PAGE_SIZE)),
        2..5 => inside(odd * PAGE_SIZE, PAGE_SIZE).or_else(|| inside(PAGE_SIZE, PAGE_SIZE)),
        _ => inside(PAGE_SIZE, PAGE_SIZE),
    }
}

/// The pages of a range that are looked at: all of a small one, edges and a few more of a large one.
fn touched(range: GpaRange) -> impl Iterator<Item = u64> + Clone {
    const FEW: u64 = 16;
    let count = range.len() / PAGE_SIZE;
    let step = if count <= FEW { 1 } else { (count / FEW) | 1 };
    let last = range.end() - PAGE_SIZE;
    let step = usize::try_from(step * PAGE_SIZE).unwrap_or(usize::MAX);
    (range.start()..last).step_by(step).chain(core::iter::once(last))
}

fn zero(memory: &Owned, mut pages: impl Iterator<Item = u64>, when: &'static str) -> Result<(), ConvertFailure> {
    match pages.find(|page| !memory.is_zero(*page)) {
        None => Ok(()),
        Some(gpa) => Err(ConvertFailure::Contents { gpa, when, found: memory.read(gpa) }),
    }
}

fn holds(
    memory: &Owned,
    mut pages: impl Iterator<Item = u64>,
    salt: u64,
    when: &'static str,
) -> Result<(), ConvertFailure> {
    match pages.find(|page| !memory.has_pattern(*page, salt)) {
        None => Ok(()),
        Some(gpa) => Err(ConvertFailure::Contents { gpa, when, found: memory.read(gpa) }),
    }
}

/// A request that must be refused: its name, first byte and number of pages.
pub type Refusal = (&'static str, u64, u64);

/// Requests that must be refused (law 8, no-silent-trust): none of them is wholly RAM, aligned and not empty.
pub fn refusals(ram: &Ram) -> [Refusal; 12] {
    let low_end = ram.low.end();
    let end = ram.end();
    let inside = ram.low.len() / PAGE_SIZE / 2 * PAGE_SIZE;
    [
        ("the local APIC's page", 0xfee0_0000, 1),
        ("the reset page", 0xffff_f000, 1),
        ("the hole above low RAM", low_end, 1),
        ("the last page of low RAM and the next", low_end - PAGE_SIZE, 2),
        ("beyond RAM", end, 1),
        ("the last page of RAM and the next", end - PAGE_SIZE, 2),
        ("far beyond RAM", 1 << 45, 512),
        ("a misaligned address", inside + 8, 1),
        ("no pages", inside, 0),
        ("2^63 pages", inside, 1 << 63),
        ("as many pages as wrap to one", inside, (1 << 52) + 1),
        ("everything from 0", 0, u64::MAX >> 12),
    ]
}

/// Makes a request that must be refused, both ways; its pages inside `memory`, if any, must keep their contents.
pub fn refused(call: Hypercall, memory: &mut Owned, request: Refusal) -> Result<(), ConvertFailure> {
    let (_, gpa, count) = request;
    let kept = |page: &u64| memory.range().contains(GpaRange::between(*page, *page + PAGE_SIZE));
    let kept = Some(gpa).filter(|gpa| gpa.is_multiple_of(PAGE_SIZE)).filter(kept);
    if let Some(page) = kept {
        memory.put_pattern(page, BEFORE);
    }
    for attributes in [SHARED, PRIVATE] {
        // SAFETY: it must be refused; if it is not, the test fails, and no Rust value lies where it could reach.
        let answer = unsafe { call.call(MAP_GPA_RANGE, [gpa, count, attributes]) };
        if answer >= 0 {
            return Err(ConvertFailure::Granted { answer });
        }
    }
    holds(memory, kept.into_iter(), BEFORE, "after a request that was refused")
}

/// Numbers no two rounds share: the seed is the processor and the round.
pub fn random(vcpu: u32, round: u32) -> u64 {
    super::owned::pattern(u64::from(vcpu) << 32 | u64::from(round) << 3, 0)
}

/// Everything of `memory` that was touched by rounds, back to one known state.
pub fn check_private(call: Hypercall, memory: &mut Owned) -> Result<(), ConvertFailure> {
    for page in pages(memory.range(), Coverage::Sample) {
        memory.put_pattern(page, AFTER);
    }
    // All of it is private already: nothing may change.
    convert(call, memory, Side::Private)?;
    holds(memory, pages(memory.range(), Coverage::Sample), AFTER, "after conversion from private to private")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever is chosen is part of the memory, and all of a range's ends are looked at.
        #[test]
        fn chosen_ranges_are_inside(start in 0u64..2048, len in 1u64..4096, random in any::<u64>()) {
            let memory = GpaRange::new(start * PAGE_SIZE, len * PAGE_SIZE).unwrap();
            let range = choose(memory, random).unwrap();
            prop_assert!(memory.contains(range) && !range.is_empty());
            let touched: Vec<u64> = touched(range).collect();
            prop_assert_eq!(touched.first(), Some(&range.start()));
            prop_assert_eq!(touched.last(), Some(&(range.end() - PAGE_SIZE)));
            prop_assert!(touched.windows(2).all(|pair| pair[0] < pair[1]) && touched.len() < 34);
        }

        /// No request that must be refused could be granted by a VMM that follows the rules.
        #[test]
        fn refusals_are_never_valid(low in 1024u64..0xb_0000, high in 0u64..1 << 24) {
            let ram = Ram {
                low: GpaRange::between(0, low * PAGE_SIZE),
                high: GpaRange::between(1 << 32, (1 << 32) + high * PAGE_SIZE),
            };
            for (name, gpa, count) in refusals(&ram) {
                let len = count.checked_mul(PAGE_SIZE).filter(|len| *len != 0);
                let range = len.and_then(|len| GpaRange::new(gpa, len));
                let valid = gpa.is_multiple_of(PAGE_SIZE) && range.is_some_and(|range| ram.contains(range));
                prop_assert!(!valid, "{}", name);
            }
        }
    }

    #[test]
    fn all_kinds_of_ranges_come_up() {
        let memory = GpaRange::new(0x40_0000, 4 * LARGE_PAGE).unwrap();
        let lens: Vec<u64> = (0..400).map(|n| choose(memory, random(3, n)).unwrap().len()).collect();
        assert!(lens.contains(&PAGE_SIZE) && lens.contains(&LARGE_PAGE));
        assert!(lens.iter().any(|len| *len > LARGE_PAGE));
        assert!(lens.iter().any(|len| *len > PAGE_SIZE && *len < LARGE_PAGE));
    }
}

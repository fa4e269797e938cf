//! A fault against an invalidation: can a page be mapped after it was taken away?
//!
//! The mail: `Re: [PATCH 1/2] KVM: MMU: Do not treat ZONE_DEVICE pages as being reserved` (Sean Christopherson,
//! 2019-11-08). Its author first said that the reference a fault holds keeps the page from being invalidated, and then
//! took that back: nothing is pinned; KVM counts invalidations and cancels the insertion if one occurred between the
//! lookup of the page and the acquisition of the MMU lock. From that follows his other claim, that a page *fault* might
//! put its page at once (Dan Williams's idea), and that everybody else who uses the page itself, `kvm_vcpu_map` and its
//! kind, must keep it. Both are forms of this model.
//!
//! Mirrored, by their names in Linux 7.2: `kvm_mmu_faultin_pfn` with `mmu_invalidate_retry_gfn` under `mmu_lock`, then
//! the insertion; `kvm_mmu_invalidate_begin`, `kvm_mmu_invalidate_range_add` and `kvm_mmu_invalidate_end`, as
//! `kvm_gmem_punch_hole` and the MMU notifier call them; `kvm_vcpu_map`.
//!
//! **One step** is one access to sequence, count or range, to the table of pages, or to the mapping. What is done under
//! one hold of `mmu_lock` is several steps where a mutant could come apart there, and one where it could not.
//!
//! **Left out, and why that is sound.** Two frames. One invalidation covers the first, the other one both, and nothing
//! orders them: notifiers of different mappings and files do not exclude each other. Where a page comes from (a file's
//! page cache, a VMA) makes no difference here: it is "the table of pages". Readers of `mmu_lock` exclude each other
//! here though faults may share it: they write different entries, and all writers of the sequence are exclusive. The
//! check without the lock that saves a fault useless work is left out, since it proves nothing (a mutant shows it).
//! **Hidden by it:** that a fault which must always retry gets through in the end is not claimed.

use crate::protocol::{Claim, Protocol, Steps};
use crate::suite::{Case, Study};

const FRAMES: usize = 2;
/// Which frames each invalidation covers: the first; both.
const COVERS: [std::ops::Range<usize>; 2] = [0..1, 0..2];
/// Faults a vCPU takes at most.
const FAULTS: u8 = 2;

/// A page, told apart by how often there was another one at that frame before.
type Generation = usize;
const GENERATIONS: usize = 3;

/// A fault on the frame with the vCPU's number: vCPU 0 faults on frame 0, vCPU 1 on frame 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Fault {
    Idle,
    /// Has sampled the sequence.
    Sampled {
        seq: u8,
    },
    /// Has a page, and a reference to it unless the form drops that at once. A mutant has no sequence yet.
    HasPage {
        seq: Option<u8>,
        page: Generation,
    },
    /// Has looked for invalidations before it took the lock: a mutant.
    Hasty {
        page: Generation,
    },
    HasLock {
        seq: u8,
        page: Generation,
    },
    /// `mmu_invalidate_retry_gfn` had nothing against it.
    Checked {
        page: Generation,
    },
    Mapped {
        page: Generation,
        elsewhere: bool,
    },
    Retry {
        page: Generation,
        why: Why,
    },
    Unlocked {
        page: Generation,
    },
}

/// Why a fault begins anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Why {
    InProgress,
    Sequence,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Invalidation {
    NotYet,
    /// Begun: counted, its range added, mappings zapped.
    Begun,
    /// The pages are out of the table.
    Truncated,
    Returned,
}

/// `kvm_vcpu_map` on frame 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Map {
    NotYet,
    HasPage(Generation),
    /// Has put the page already: a mutant.
    HasAddress(Generation),
    Used(Generation),
    Done,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    /// The vCPU that holds `mmu_lock`. Invalidations take and drop it within a step.
    mmu_lock: Option<usize>,
    seq: u8,
    in_progress: u8,
    range: (usize, usize),
    /// The table of pages: which one is at each frame.
    page: [Option<Generation>; FRAMES],
    /// How many there were at each frame.
    made: [Generation; FRAMES],
    /// References to each, not counting the table's.
    refs: [[u8; GENERATIONS]; FRAMES],
    /// What the guest's page table maps at each frame.
    mapped: [Option<Generation>; FRAMES],
    faults: [Fault; FRAMES],
    taken: [u8; FRAMES],
    invalidations: [Invalidation; 2],
    map: Map,
    /// KVM used a page that was free.
    misuse: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    None,
    PutAtOnce,
    SampledLate,
    CheckedBeforeLock,
    ReferenceAsProtection,
    OnlySequence,
    OnlyInProgress,
    CountedAtBegin,
    InProgressFlag,
    RangeReplaced,
    MappingKeepsReference,
    MapPutsAtOnce,
}

#[derive(Debug, Clone, Copy)]
struct Mapping {
    change: Change,
}

impl State {
    /// A page that is neither in the table nor referenced is free, and somebody else's the next instant.
    fn is_free(&self, frame: usize, page: Generation) -> bool {
        self.page[frame] != Some(page) && self.refs[frame][page] == 0
    }

    fn is_stale(&self, frame: usize) -> bool {
        self.mapped[frame].is_some() && self.mapped[frame] != self.page[frame]
    }

    fn is_being_invalidated(&self, frame: usize) -> bool {
        let under_way = |state: &Invalidation| matches!(state, Invalidation::Begun | Invalidation::Truncated);
        self.invalidations.iter().zip(COVERS).any(|(state, covers)| under_way(state) && covers.contains(&frame))
    }

    /// The page at `frame`, allocated if there is none.
    fn look_up(&mut self, frame: usize) -> Generation {
        *self.page[frame].get_or_insert_with(|| {
            self.made[frame] += 1;
            self.made[frame] - 1
        })
    }
}

impl Mapping {
    fn is(&self, change: Change) -> bool {
        self.change == change
    }

    /// `mmu_invalidate_retry_gfn`.
    fn retry(&self, s: &State, frame: usize, sampled: u8) -> Option<Why> {
        let covered = s.range.0 <= frame && frame < s.range.1;
        let in_progress = s.in_progress != 0 && covered && !self.is(Change::OnlySequence);
        let moved = s.seq != sampled && !self.is(Change::OnlyInProgress);
        match (in_progress, moved) {
            (true, _) => Some(Why::InProgress),
            (false, true) => Some(Why::Sequence),
            (false, false) => None,
        }
    }

    fn fault_steps(&self, cpu: usize, steps: &mut Steps<'_, State>) {
        const WHO: [&str; FRAMES] = ["fault on frame 0", "fault on frame 1"];
        let (who, frame) = (WHO[cpu], cpu);
        let s = steps.state();
        let go = move |s: &mut State, to| s.faults[cpu] = to;
        let put = move |s: &mut State, page: Generation| {
            if !self.is(Change::PutAtOnce) {
                s.refs[frame][page] -= 1;
            }
        };
        let take = move |s: &mut State| {
            let page = s.look_up(frame);
            if !self.is(Change::PutAtOnce) {
                s.refs[frame][page] += 1;
            }
            page
        };
        match s.faults[cpu] {
            Fault::Idle if s.mapped[frame].is_some() || s.taken[cpu] == FAULTS => {}
            Fault::Idle if self.is(Change::SampledLate) => steps.add(who, "looks its page up", |s| {
                let page = take(s);
                go(s, Fault::HasPage { seq: None, page });
            }),
            Fault::Idle => steps.add(who, "samples the sequence", |s| go(s, Fault::Sampled { seq: s.seq })),
            Fault::Sampled { seq } => steps.add(who, "looks its page up", |s| {
                let page = take(s);
                go(s, Fault::HasPage { seq: Some(seq), page });
            }),
            Fault::HasPage { seq: None, page } => {
                steps.add(who, "samples the sequence", |s| go(s, Fault::HasPage { seq: Some(s.seq), page }));
            }
            Fault::HasPage { seq: Some(seq), page } if self.is(Change::CheckedBeforeLock) => {
                match self.retry(s, frame, seq) {
                    Some(why) => steps.add(who, why.words(), |s| go(s, Fault::Retry { page, why })),
                    None => steps.add(who, "finds no invalidation, without mmu_lock", |s| go(s, Fault::Hasty { page })),
                }
            }
            Fault::Hasty { page } if s.mmu_lock.is_none() => steps.add(who, "takes mmu_lock", |s| {
                s.mmu_lock = Some(cpu);
                go(s, Fault::Checked { page });
            }),
            Fault::HasPage { seq: Some(seq), page } if s.mmu_lock.is_none() => {
                steps.add(who, "takes mmu_lock", |s| {
                    s.mmu_lock = Some(cpu);
                    go(s, Fault::HasLock { seq, page });
                });
            }
            Fault::HasLock { page, .. } if self.is(Change::ReferenceAsProtection) => {
                steps.add(who, "trusts its reference to the page", |s| go(s, Fault::Checked { page }));
            }
            Fault::HasLock { seq, page } => match self.retry(s, frame, seq) {
                Some(why) => steps.add(who, why.words(), |s| go(s, Fault::Retry { page, why })),
                None => steps.add(who, "finds no invalidation", |s| go(s, Fault::Checked { page })),
            },
            Fault::Checked { page } => steps.add(who, "maps the page", |s| {
                s.mapped[frame] = Some(page);
                go(s, Fault::Mapped { page, elsewhere: s.in_progress != 0 });
            }),
            Fault::Mapped { page, .. } => steps.add(who, "drops mmu_lock", |s| {
                s.mmu_lock = None;
                go(s, Fault::Unlocked { page });
            }),
            Fault::Retry { page, .. } => steps.add(who, "gives way, to begin anew", |s| {
                if s.mmu_lock == Some(cpu) {
                    s.mmu_lock = None;
                }
                put(s, page);
                go(s, Fault::Idle);
            }),
            Fault::Unlocked { .. } if self.is(Change::MappingKeepsReference) => {
                steps.add(who, "leaves its reference to the mapping", |s| {
                    s.taken[cpu] += 1;
                    go(s, Fault::Idle);
                });
            }
            Fault::Unlocked { page } => steps.add(who, "puts the page; the guest goes on", |s| {
                put(s, page);
                s.taken[cpu] += 1;
                go(s, Fault::Idle);
            }),
            // Somebody else has mmu_lock.
            Fault::Hasty { .. } | Fault::HasPage { .. } => {}
        }
    }

    fn invalidation_steps(&self, which: usize, steps: &mut Steps<'_, State>) {
        const WHO: [&str; 2] = ["invalidation of frame 0", "invalidation of both frames"];
        let who = WHO[which];
        let covers = &COVERS[which];
        let s = steps.state();
        match s.invalidations[which] {
            Invalidation::NotYet if s.mmu_lock.is_none() => {
                steps.add(who, "begins: counts itself in, adds its range, zaps", |s| {
                    let alone = s.in_progress == 0;
                    s.in_progress = if self.is(Change::InProgressFlag) { 1 } else { s.in_progress + 1 };
                    s.range = if alone || self.is(Change::RangeReplaced) {
                        (covers.start, covers.end)
                    } else {
                        (s.range.0.min(covers.start), s.range.1.max(covers.end))
                    };
                    if self.is(Change::CountedAtBegin) {
                        s.seq += 1;
                    }
                    for frame in covers.clone() {
                        s.mapped[frame] = None;
                    }
                    s.invalidations[which] = Invalidation::Begun;
                });
            }
            Invalidation::Begun => steps.add(who, "takes the pages away", |s| {
                for frame in covers.clone() {
                    s.page[frame] = None;
                }
                s.invalidations[which] = Invalidation::Truncated;
            }),
            Invalidation::Truncated if s.mmu_lock.is_none() => {
                steps.add(who, "ends: moves the sequence, counts itself out, returns", |s| {
                    if !self.is(Change::CountedAtBegin) {
                        s.seq += 1;
                    }
                    s.in_progress = s.in_progress.saturating_sub(1);
                    s.invalidations[which] = Invalidation::Returned;
                });
            }
            _ => {}
        }
    }

    fn map_steps(&self, steps: &mut Steps<'_, State>) {
        const WHO: &str = "kvm_vcpu_map";
        let s = steps.state();
        let using = |s: &mut State, page| {
            s.misuse |= s.is_free(0, page);
            s.map = Map::Used(page);
        };
        match s.map {
            Map::NotYet => steps.add(WHO, "looks the page of frame 0 up, holds it", |s| {
                let page = s.look_up(0);
                s.refs[0][page] += 1;
                s.map = Map::HasPage(page);
            }),
            Map::HasPage(page) if self.is(Change::MapPutsAtOnce) => steps.add(WHO, "puts the page at once", |s| {
                s.refs[0][page] -= 1;
                s.map = Map::HasAddress(page);
            }),
            Map::HasPage(page) => steps.add(WHO, "writes to the page", |s| using(s, page)),
            Map::HasAddress(page) => steps.add(WHO, "writes to the page", |s| using(s, page)),
            Map::Used(page) => steps.add(WHO, "puts the page", |s| {
                if !self.is(Change::MapPutsAtOnce) {
                    s.refs[0][page] -= 1;
                }
                s.map = Map::Done;
            }),
            Map::Done => {}
        }
    }
}

impl Map {
    fn is_inside(self) -> bool {
        !matches!(self, Self::NotYet | Self::Done)
    }
}

impl Why {
    const fn words(self) -> &'static str {
        match self {
            Self::InProgress => "finds an invalidation of its frame in progress",
            Self::Sequence => "finds that the sequence has moved",
        }
    }
}

impl Protocol for Mapping {
    type State = State;

    fn starts(&self) -> Vec<State> {
        vec![State {
            mmu_lock: None,
            seq: 0,
            in_progress: 0,
            range: (0, 0),
            page: [Some(0); FRAMES],
            made: [1; FRAMES],
            refs: [[0; GENERATIONS]; FRAMES],
            mapped: [None; FRAMES],
            faults: [Fault::Idle; FRAMES],
            taken: [0; FRAMES],
            invalidations: [Invalidation::NotYet; 2],
            map: Map::NotYet,
            misuse: false,
        }]
    }

    fn steps(&self, steps: &mut Steps<'_, State>) {
        (0..FRAMES).for_each(|cpu| self.fault_steps(cpu, steps));
        (0..COVERS.len()).for_each(|which| self.invalidation_steps(which, steps));
        self.map_steps(steps);
    }

    fn is_over(&self, s: &State) -> bool {
        let idle = |fault: &Fault| *fault == Fault::Idle;
        s.faults.iter().all(idle)
            && s.invalidations.iter().all(|state| *state == Invalidation::Returned)
            && s.map == Map::Done
    }
}

const STALE: &str = "no stale mapping after an invalidation returns";
const FREED: &str = "the guest never reaches a page that is free";
const MISUSE: &str = "KVM never uses a page that is free";
const PINNED: &str = "a mapping pins no page";

fn sees(s: &State, wanted: impl Fn(&Fault) -> bool) -> bool {
    s.faults.iter().any(wanted)
}

fn claims() -> Vec<Claim<Mapping>> {
    type Of = Claim<Mapping>;
    vec![
        Of::always(STALE, |_, s| (0..FRAMES).all(|frame| !s.is_stale(frame) || s.is_being_invalidated(frame))),
        Of::always("what is mapped is the page that is there", |_, s| (0..FRAMES).all(|frame| !s.is_stale(frame))),
        Of::always(FREED, |_, s| (0..FRAMES).all(|frame| s.mapped[frame].is_none_or(|page| !s.is_free(frame, page)))),
        Of::always(MISUSE, |_, s| !s.misuse),
        Of::always(PINNED, |_, s| {
            let somebody_holds_one = s.faults.iter().any(|fault| *fault != Fault::Idle) || s.map.is_inside();
            somebody_holds_one || s.refs.iter().flatten().all(|refs| *refs == 0)
        }),
        Of::no_deadlock(),
        Of::sometimes("a fault gives way to an invalidation in progress", |_, s| {
            sees(s, |fault| matches!(fault, Fault::Retry { why: Why::InProgress, .. }))
        }),
        Of::sometimes("a fault gives way to one that has ended", |_, s| {
            sees(s, |fault| matches!(fault, Fault::Retry { why: Why::Sequence, .. }))
        }),
        Of::sometimes("a fault goes on beside an invalidation elsewhere", |_, s| {
            sees(s, |fault| matches!(fault, Fault::Mapped { elsewhere: true, .. }))
        }),
    ]
}

/// What is checked of this model.
pub fn cases() -> Vec<Case> {
    let with = |change| Mapping { change };
    Study::of("mapping", claims())
        .sound(&with(Change::None))
        .variation("a fault puts its page at once", &with(Change::PutAtOnce))
        .mutant("sequence sampled after the lookup", &with(Change::SampledLate), &[STALE])
        .mutant("no look under mmu_lock", &with(Change::CheckedBeforeLock), &[STALE])
        .mutant("page reference as protection", &with(Change::ReferenceAsProtection), &[STALE, FREED])
        .mutant("only the sequence is looked at", &with(Change::OnlySequence), &[STALE])
        .mutant("only the count is looked at", &with(Change::OnlyInProgress), &[STALE])
        .mutant("sequence moved at the beginning", &with(Change::CountedAtBegin), &[STALE])
        .mutant("a flag for the count", &with(Change::InProgressFlag), &[STALE])
        .mutant("a second range replaces the first", &with(Change::RangeReplaced), &[STALE])
        .mutant("a mapping keeps the fault's reference", &with(Change::MappingKeepsReference), &[PINNED])
        .mutant("kvm_vcpu_map puts its page at once", &with(Change::MapPutsAtOnce), &[MISUSE])
        .cases()
}

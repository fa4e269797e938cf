//! Random histories against a naive ledger: one `PageState` per page and rules written down a second time, from the
//! law and not from the table.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

/// A page as the law sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Page {
    Settled(PageState),
    /// On its way; where it came from decides where it goes.
    Moving {
        from: PageState,
    },
}

impl Page {
    fn seen(self) -> PageState {
        match self {
            Page::Settled(state) => state,
            Page::Moving { from: PageState::Shared } => PageState::ConvertingToPrivate,
            Page::Moving { .. } => PageState::ConvertingToShared,
        }
    }

    fn owner(self) -> Option<Owner> {
        match self {
            Page::Settled(PageState::Shared) => Some(Owner::Shared),
            Page::Settled(PageState::PrivateUntouched | PageState::PrivatePopulated) => Some(Owner::Private),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Outcome {
    Commit,
    Abort,
    InDoubt,
    Dropped,
}

#[derive(Debug, Clone)]
enum Step {
    Begin(Index, u64, Owner),
    End(Index, Outcome),
    Populate(Index, u64),
    Free,
}

struct Model {
    ram: RamLayout,
    pages: Vec<Page>,
}

impl Model {
    fn new(ram: RamLayout, initial: Owner) -> Self {
        let state = match initial {
            Owner::Shared => PageState::Shared,
            Owner::Private => PageState::PrivateUntouched,
        };
        Self { ram, pages: vec![Page::Settled(state); usize::try_from(ram.pages().get()).unwrap()] }
    }

    fn at(&mut self, frame: Gfn) -> Option<&mut Page> {
        let position = self.ram.index_of(frame)?;
        self.pages.get_mut(usize::try_from(position).unwrap())
    }

    fn begin(&mut self, range: GfnRange, to: Owner) -> Result<Vec<Gfn>, LedgerError> {
        if let Some(page) = range.frames().find(|frame| self.at(*frame).is_none()) {
            return Err(LedgerError::OutsideRam { page, range });
        }
        for page in range.frames() {
            let found = *self.at(page).unwrap();
            if found.owner().is_none() {
                return Err(LedgerError::NotConvertible { page, state: found.seen(), to });
            }
        }
        let mut moved = Vec::new();
        for frame in range.frames() {
            let page = self.at(frame).unwrap();
            if page.owner() != Some(to) {
                *page = Page::Moving { from: page.seen() };
                moved.push(frame);
            }
        }
        Ok(moved)
    }

    fn end(&mut self, frames: &[Gfn], outcome: Outcome) {
        for frame in frames {
            let page = self.at(*frame).unwrap();
            if let Page::Moving { from } = *page {
                *page = Page::Settled(match outcome {
                    Outcome::Commit if from == PageState::Shared => PageState::PrivateUntouched,
                    Outcome::Commit => PageState::Shared,
                    Outcome::Abort => from,
                    Outcome::InDoubt | Outcome::Dropped => PageState::InDoubt,
                });
            }
        }
    }

    fn populate(&mut self, range: GfnRange) -> Result<(), LedgerError> {
        if let Some(page) = range.frames().find(|frame| self.at(*frame).is_none()) {
            return Err(LedgerError::OutsideRam { page, range });
        }
        for page in range.frames() {
            let state = self.at(page).unwrap().seen();
            if state != PageState::PrivateUntouched {
                return Err(LedgerError::NotPopulatable { page, state });
            }
        }
        for page in range.frames() {
            *self.at(page).unwrap() = Page::Settled(PageState::PrivatePopulated);
        }
        Ok(())
    }

    fn count(&self, state: PageState) -> PageCount {
        PageCount::new(self.pages.iter().filter(|page| page.seen() == state).count() as u64)
    }

    /// One run per change of state or gap in the frame numbers.
    fn runs(&self) -> Vec<(GfnRange, PageState)> {
        let mut runs: Vec<(GfnRange, PageState)> = Vec::new();
        for (frame, page) in self.ram.ranges().flat_map(GfnRange::frames).zip(&self.pages) {
            let state = page.seen();
            match runs.last_mut() {
                Some((run, last)) if *last == state && run.end_number() == frame.number() => {
                    *run = pages(run.start().number(), run.pages().get() + 1);
                }
                _ => runs.push((pages(frame.number(), 1), state)),
            }
        }
        runs
    }
}

/// What a conversion must name as its parts: the frames that move, as maximal runs.
fn maximal_runs(frames: &[Gfn]) -> Vec<GfnRange> {
    frames.chunk_by(|a, b| a.number() + 1 == b.number()).map(|run| pages(run[0].number(), run.len() as u64)).collect()
}

fn check(ledger: &Ledger, model: &Model) -> Result<(), TestCaseError> {
    let census = ledger.census();
    for (state, count) in census.by_state() {
        prop_assert_eq!(count, model.count(state), "{}", state);
    }
    prop_assert_eq!(census.total(), ledger.ram().pages());
    let runs = model.runs();
    prop_assert_eq!(&ledger.runs().collect::<Vec<_>>(), &runs);
    for ram in ledger.ram().ranges() {
        for (state, _) in census.by_state() {
            // A run may begin in memory that ends where this begins.
            let run = runs.iter().find(|(run, seen)| *seen == state && run.overlaps(ram));
            let first = run.map(|(run, _)| run.start().max(ram.start()));
            prop_assert_eq!(ledger.first_in(ram, state), first, "{}", state);
        }
    }
    for (frame, page) in ledger.ram().ranges().flat_map(GfnRange::frames).zip(&model.pages) {
        prop_assert_eq!(ledger.state(frame), Some(page.seen()), "{:?}", frame);
    }
    Ok(())
}

/// A ledger and its model, with the conversions that have not ended.
struct History<'a> {
    ledger: &'a Ledger,
    model: Model,
    open: Vec<(Conversion<'a>, Vec<Gfn>)>,
}

impl<'a> History<'a> {
    fn new(ledger: &'a Ledger, initial: Owner) -> Self {
        Self { ledger, model: Model::new(*ledger.ram(), initial), open: Vec::new() }
    }

    /// Both begin; their answers must be the same.
    fn begin(&mut self, range: GfnRange, to: Owner) -> Result<(), TestCaseError> {
        let expected = self.model.begin(range, to);
        let got = self.ledger.begin(range, to);
        prop_assert_eq!(got.as_ref().err(), expected.as_ref().err());
        if let (Ok(conversion), Ok(frames)) = (got, expected) {
            prop_assert_eq!(conversion.parts(), maximal_runs(&frames));
            prop_assert_eq!(conversion.to(), to);
            self.open.push((conversion, frames));
        }
        Ok(())
    }

    /// Ends one of the open conversions; returns its frames.
    fn end(&mut self, which: usize, outcome: Outcome) -> Vec<Gfn> {
        let (conversion, frames) = self.open.swap_remove(which);
        match outcome {
            Outcome::Commit => conversion.commit(),
            Outcome::Abort => conversion.abort(),
            Outcome::InDoubt => conversion.in_doubt(),
            Outcome::Dropped => drop(conversion),
        }
        self.model.end(&frames, outcome);
        frames
    }

    fn populate(&mut self, range: GfnRange) -> Result<(), TestCaseError> {
        prop_assert_eq!(self.ledger.populate(range), self.model.populate(range));
        Ok(())
    }

    fn free(&mut self) -> Result<(), TestCaseError> {
        let before = self.ledger.free();
        for (state, count) in before.by_state() {
            prop_assert_eq!(count, self.model.count(state), "{}", state);
        }
        self.model.pages.fill(Page::Settled(PageState::Freed));
        Ok(())
    }

    /// A range is shared exactly if every page is.
    fn look_up(&mut self, range: GfnRange) -> Result<(), TestCaseError> {
        let shared = |frame| self.model.at(frame).is_some_and(|page| page.seen() == PageState::Shared);
        let every = range.frames().all(shared);
        prop_assert_eq!(self.ledger.is_shared(range), every, "{}", range);
        Ok(())
    }
}

fn replay(ram: RamLayout, initial: Owner, window: &[u64], steps: &[Step]) -> Result<(), TestCaseError> {
    let ledger = Ledger::new(ram, initial);
    let mut history = History::new(&ledger, initial);
    for (turn, step) in steps.iter().enumerate() {
        match step {
            Step::Begin(at, length, to) => history.begin(pages(*at.get(window), *length), *to)?,
            Step::End(which, outcome) if !history.open.is_empty() => {
                history.end(which.index(history.open.len()), *outcome);
            }
            Step::End(..) => {}
            Step::Populate(at, length) => history.populate(pages(*at.get(window), *length))?,
            Step::Free => history.free()?,
        }
        // Some lookups after each step, everything at the end.
        for (start, length) in window.iter().cycle().skip(turn * 8).zip([1, 1, 2, 17, 511, 512, 513, 1500]) {
            history.look_up(pages(*start, length))?;
        }
    }
    check(&ledger, &history.model)
}

/// Frame numbers where something can go wrong, and a little to each side: both ends of RAM, multiples of 2 MiB and of
/// a leaf word, the hole.
fn window(ram: &RamLayout) -> Vec<u64> {
    let mut frames = Vec::new();
    for range in ram.ranges() {
        for edge in [range.start().number(), range.start().number() + 1024, range.end_number()] {
            for offset in [0, 1, 15, 16, 17, 100, 511, 512, 530] {
                frames.extend([edge.saturating_sub(offset), edge + offset]);
            }
        }
    }
    frames
}

fn owner() -> impl Strategy<Value = Owner> {
    prop_oneof![Just(Owner::Shared), Just(Owner::Private)]
}

fn steps(max: usize) -> impl Strategy<Value = Vec<Step>> {
    let length = prop_oneof![4 => 1..40u64, 2 => 500..530u64, 1 => 1..2000u64, 1 => Just(512u64), 1 => Just(1024u64)];
    let outcome = prop_oneof![
        4 => Just(Outcome::Commit),
        2 => Just(Outcome::Abort),
        1 => Just(Outcome::InDoubt),
        1 => Just(Outcome::Dropped),
    ];
    let step = prop_oneof![
        30 => (any::<Index>(), length.clone(), owner()).prop_map(|(at, n, to)| Step::Begin(at, n, to)),
        30 => (any::<Index>(), outcome).prop_map(|(which, outcome)| Step::End(which, outcome)),
        8 => (any::<Index>(), length).prop_map(|(at, n)| Step::Populate(at, n)),
        1 => Just(Step::Free),
    ];
    prop::collection::vec(step, 1..max)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// RAM in one piece, its last entry complete or not: 16 MiB and up to 2 MiB more.
    #[test]
    fn known_owner_as_a_page_by_page_ledger(tail in 0..512u64, initial in owner(), steps in steps(120)) {
        let ram = RamLayout::new(ByteLen(16 * MIB + tail * 4096)).unwrap();
        replay(ram, initial, &window(&ram), &steps)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// RAM on both sides of the hole, and perhaps a firmware at its end: every range near an edge of any part.
    #[test]
    fn known_owner_across_the_hole(
        tail in 0..512u64,
        firmware in prop::option::of(1..1024u64),
        initial in owner(),
        steps in steps(60),
    ) {
        let mut ram = RamLayout::new(ByteLen(2816 * MIB + tail * 4096)).unwrap();
        if let Some(pages) = firmware {
            ram = ram.with_firmware(ByteLen(pages * 4096)).unwrap();
        }
        replay(ram, initial, &window(&ram), &steps)?;
    }
}

/// Operations of the long history, and a hundred times as many on demand.
const OPERATIONS: u64 = 1_000_000;
/// Operations a ledger lives: long enough for doubt and mixed entries everywhere, short enough for some order.
const LIFE: u64 = 2_000;

/// The same without shrinking, and so with a million operations: after each, the pages it was about and their neighbours
/// are compared, at each ledger's end all of them.
#[test]
fn known_owner_as_a_page_by_page_ledger_a_million_times() {
    let seed = std::env::var("TENURE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0x7e_0e);
    let operations = if test_harness::long() { OPERATIONS * 100 } else { OPERATIONS };
    println!("{operations} operations, TENURE_SEED={seed}");
    let mut draw = Draw(seed);
    for life in 0..operations / LIFE {
        one_life(&mut draw).unwrap_or_else(|error| panic!("life {life} of seed {seed}: {error}"));
    }
}

fn one_life(draw: &mut Draw) -> Result<(), TestCaseError> {
    let ram = RamLayout::new(ByteLen(16 * MIB + draw.below(512) * 4096)).unwrap();
    let initial = if draw.below(2) == 0 { Owner::Shared } else { Owner::Private };
    let ledger = Ledger::new(ram, initial);
    let mut history = History::new(&ledger, initial);
    for _ in 0..LIFE {
        let mut about = draw.range(ram.pages().get());
        match draw.below(100) {
            0..45 => history.begin(about, if draw.below(2) == 0 { Owner::Shared } else { Owner::Private })?,
            45..93 if !history.open.is_empty() => {
                let which = usize::try_from(draw.below(history.open.len() as u64)).unwrap();
                let outcome = match draw.below(1000) {
                    0..700 => Outcome::Commit,
                    700..998 => Outcome::Abort,
                    998 => Outcome::InDoubt,
                    _ => Outcome::Dropped,
                };
                let frames = history.end(which, outcome);
                if let (Some(first), Some(last)) = (frames.first(), frames.last()) {
                    about = pages(first.number(), last.number() - first.number() + 1);
                }
            }
            93..99 => history.populate(about)?,
            _ => {}
        }
        history.look_up(about)?;
        for frame in pages(about.start().number().saturating_sub(1), about.pages().get() + 2).frames() {
            prop_assert_eq!(ledger.state(frame), history.model.at(frame).map(|page| page.seen()), "{:?}", frame);
        }
    }
    check(&ledger, &history.model)?;
    history.free()
}

/// Numbers that are random enough (SplitMix64).
struct Draw(u64);

impl Draw {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    /// Mostly a few pages, seldom entries of 2 MiB and more; now and then past the end of RAM.
    fn range(&mut self, end: u64) -> GfnRange {
        let length = match self.below(100) {
            0..80 => 1 + self.below(8),
            80..95 => 1 + self.below(64),
            95..98 => 500 + self.below(30),
            98 => 512,
            _ => 1 + self.below(1500),
        };
        pages(self.below(end + 4), length)
    }
}

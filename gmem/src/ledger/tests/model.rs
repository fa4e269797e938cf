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
            let first = runs.iter().find(|(run, seen)| *seen == state && run.overlaps(ram)).map(|(run, _)| run.start());
            prop_assert_eq!(ledger.first_in(ram, state), first, "{}", state);
        }
    }
    for (frame, page) in ledger.ram().ranges().flat_map(GfnRange::frames).zip(&model.pages) {
        prop_assert_eq!(ledger.state(frame), Some(page.seen()), "{:?}", frame);
    }
    Ok(())
}

fn replay(ram: RamLayout, initial: Owner, window: &[u64], steps: &[Step]) -> Result<(), TestCaseError> {
    let ledger = Ledger::new(ram, initial);
    let mut model = Model::new(ram, initial);
    let mut open: Vec<(Conversion<'_>, Vec<Gfn>)> = Vec::new();
    for (turn, step) in steps.iter().enumerate() {
        match step {
            Step::Begin(at, length, to) => {
                let range = pages(*at.get(window), *length);
                let expected = model.begin(range, *to);
                let got = ledger.begin(range, *to);
                prop_assert_eq!(got.as_ref().err(), expected.as_ref().err());
                if let (Ok(conversion), Ok(frames)) = (got, expected) {
                    prop_assert_eq!(conversion.parts(), maximal_runs(&frames));
                    prop_assert_eq!(conversion.to(), *to);
                    open.push((conversion, frames));
                }
            }
            Step::End(which, outcome) if !open.is_empty() => {
                let (conversion, frames) = open.swap_remove(which.index(open.len()));
                match outcome {
                    Outcome::Commit => conversion.commit(),
                    Outcome::Abort => conversion.abort(),
                    Outcome::InDoubt => conversion.in_doubt(),
                    Outcome::Dropped => drop(conversion),
                }
                model.end(&frames, *outcome);
            }
            Step::End(..) => {}
            Step::Populate(at, length) => {
                let range = pages(*at.get(window), *length);
                prop_assert_eq!(ledger.populate(range), model.populate(range));
            }
            Step::Free => {
                let before = ledger.free();
                for (state, count) in before.by_state() {
                    prop_assert_eq!(count, model.count(state), "{}", state);
                }
                model.pages.fill(Page::Settled(PageState::Freed));
            }
        }
        // Some lookups after each step, everything at the end: a range is shared exactly if every page is.
        for (start, length) in window.iter().cycle().skip(turn * 8).zip([1, 1, 2, 17, 511, 512, 513, 1500]) {
            let range = pages(*start, length);
            let every =
                range.frames().all(|frame| model.at(frame).is_some_and(|page| page.seen() == PageState::Shared));
            prop_assert_eq!(ledger.is_shared(range), every, "{}", range);
        }
    }
    check(&ledger, &model)
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

    /// RAM on both sides of the hole: every range near an edge of either part.
    #[test]
    fn known_owner_across_the_hole(tail in 0..512u64, initial in owner(), steps in steps(60)) {
        let ram = RamLayout::new(ByteLen(2816 * MIB + tail * 4096)).unwrap();
        replay(ram, initial, &window(&ram), &steps)?;
    }
}

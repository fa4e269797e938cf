//! How many pages are in each state.

use super::state::{PageState, Stored};
use crate::address::PageCount;

/// Pages of guest RAM by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Census {
    /// In [`PageState::Shared`].
    pub shared: PageCount,
    /// In [`PageState::PrivateUntouched`].
    pub private_untouched: PageCount,
    /// In [`PageState::PrivatePopulated`].
    pub private_populated: PageCount,
    /// In [`PageState::ConvertingToShared`].
    pub converting_to_shared: PageCount,
    /// In [`PageState::ConvertingToPrivate`].
    pub converting_to_private: PageCount,
    /// In [`PageState::InDoubt`].
    pub in_doubt: PageCount,
    /// In [`PageState::Freed`].
    pub freed: PageCount,
}

impl Census {
    /// From the number of pages of each stored code.
    pub(super) fn from_counts(counts: [u64; 8]) -> Self {
        let mut census = Self::default();
        for (code, pages) in (0..).zip(counts) {
            let field = match Stored::from_code(code).state() {
                PageState::Shared => &mut census.shared,
                PageState::PrivateUntouched => &mut census.private_untouched,
                PageState::PrivatePopulated => &mut census.private_populated,
                PageState::ConvertingToShared => &mut census.converting_to_shared,
                PageState::ConvertingToPrivate => &mut census.converting_to_private,
                PageState::InDoubt => &mut census.in_doubt,
                PageState::Freed => &mut census.freed,
            };
            *field = PageCount::new(field.get() + pages);
        }
        census
    }

    /// Every state with its pages, in the order of [`PageState`].
    pub fn by_state(&self) -> [(PageState, PageCount); 7] {
        [
            (PageState::Shared, self.shared),
            (PageState::PrivateUntouched, self.private_untouched),
            (PageState::PrivatePopulated, self.private_populated),
            (PageState::ConvertingToShared, self.converting_to_shared),
            (PageState::ConvertingToPrivate, self.converting_to_private),
            (PageState::InDoubt, self.in_doubt),
            (PageState::Freed, self.freed),
        ]
    }

    /// Private pages, touched or not.
    pub fn private(&self) -> PageCount {
        PageCount::new(self.private_untouched.get() + self.private_populated.get())
    }

    /// All pages: the size of guest RAM.
    pub fn total(&self) -> PageCount {
        PageCount::new(self.by_state().iter().map(|(_, pages)| pages.get()).sum())
    }
}

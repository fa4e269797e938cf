//! Verified evidence compared with what somebody wants, whichever technology it is of.
//!
//! Owns the verdict and what it claims, and the ways of comparing that technologies share. Does not own what is
//! compared: that is [`mod@crate::snp::appraise`]'s and [`mod@crate::tdx::appraise`]'s.
//!
//! Law no-silent-trust: what rests on a test's root is a test's verdict, whatever passed.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use crate::UnixTime;
use crate::anchors::Root;
use crate::check::{CheckId, Checks};
use crate::hex::Hex;
use crate::verified::{Evidence, Verified};

/// What is said of a check that nobody wanted.
pub(crate) const NOT_ASKED: &str = "the policy does not ask for it";
pub(crate) const ABOUT_DEBUG: &str = "the host can read and change the memory of such a guest at any time, by \
    command; nothing that it is given is secret";
pub(crate) const ABOUT_REPLAY: &str = "without data of your own in it, evidence may be old, or another guest's that \
    hands over yours: have the guest sign a fresh number together with its key";

/// What vouches for evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tier {
    /// Hardware.
    Hardware,
    /// A root for tests: nothing.
    SoftwareTest,
}

/// What came of it all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Everything that was asked for holds, and hardware vouches for it.
    Affirmed,
    /// Everything that was asked for holds of something that no hardware vouches for.
    TestPassed,
    /// Something does not hold.
    NotMet,
}

/// Verified evidence, compared with what is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appraisal<A> {
    anchor: A,
    valid_until: UnixTime,
    checks: Checks,
}

impl<A: Root> Appraisal<A> {
    /// Of evidence that was verified, with what came of comparing it.
    pub(crate) fn of<T: Evidence<Anchor = A>>(verified: &Verified<T>, checks: Checks) -> Self {
        Self { anchor: verified.anchor(), valid_until: verified.valid_until(), checks }
    }

    /// The same with further checks: what fails of them fails all of it.
    #[must_use]
    pub fn with(mut self, checks: Checks) -> Self {
        self.checks.append(checks);
        self
    }

    /// What the evidence rests on.
    #[must_use]
    pub const fn anchor(&self) -> A {
        self.anchor
    }

    /// What vouches for it.
    #[must_use]
    pub fn tier(&self) -> Tier {
        if self.anchor.is_hardware() { Tier::Hardware } else { Tier::SoftwareTest }
    }

    /// What was compared, and what was not.
    #[must_use]
    pub const fn checks(&self) -> &Checks {
        &self.checks
    }

    /// The last moment at which everything that it rests on is good.
    #[must_use]
    pub const fn valid_until(&self) -> UnixTime {
        self.valid_until
    }

    /// What came of it. Hardware is claimed of nothing else than hardware.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match (self.checks.fault(), self.tier()) {
            (Some(_), _) => Verdict::NotMet,
            (None, Tier::Hardware) => Verdict::Affirmed,
            (None, Tier::SoftwareTest) => Verdict::TestPassed,
        }
    }
}

impl Checks {
    /// Something that must be so.
    pub(crate) fn require(&mut self, id: CheckId, met: bool, wanted: impl ToString, found: impl ToString) {
        let found = found.to_string();
        self.add(id, wanted, if met { Ok(found) } else { Err(found) });
    }

    /// A number that must not be lower than this.
    pub(crate) fn at_least<N: PartialOrd + fmt::Display>(&mut self, id: CheckId, floor: N, found: N) {
        self.require(id, found >= floor, format!("at least {floor}"), &found);
        if found < floor {
            self.fall_short(format!("{found} < {floor}"));
        }
    }

    /// The number of a list of revoked certificates, of which an older one would be as good until it ends.
    pub(crate) fn list_floor(&mut self, id: CheckId, floor: u32, found: Option<u64>) {
        match found {
            _ if floor == 0 => self.skip(id, "the policy has no floor for it"),
            Some(found) => self.at_least(id, u64::from(floor), found),
            None => self.missing(id, format!("at least {floor}")),
        }
    }

    /// Something that may be only if it is allowed. What is said with it is said if it is there.
    pub(crate) fn permit(&mut self, id: CheckId, allowed: bool, there: bool, advisory: Option<&'static str>) {
        let wanted = if allowed { "possible or not, as the policy allows it" } else { "impossible" };
        self.require(id, allowed || !there, wanted, if there { "possible" } else { "impossible" });
        if let Some(advisory) = advisory.filter(|_| there) {
            self.advise(advisory);
        }
    }

    /// Something that must be so if the policy asks for it.
    pub(crate) fn demand(&mut self, id: CheckId, asked: bool, met: bool, wanted: &str, found: &str) {
        if asked {
            self.require(id, met, wanted, found);
        } else {
            self.skip(id, format!("{NOT_ASKED}; it is {found}"));
        }
    }

    /// A value of which these are expected, any of them; or nothing is.
    pub(crate) fn among<'v, const N: usize>(
        &mut self,
        id: CheckId,
        expected: impl IntoIterator<Item = &'v [u8; N]>,
        actual: &[u8; N],
    ) {
        let expected = in_hex(expected);
        let actual = Hex(actual).to_string();
        if expected.is_empty() {
            return self.skip(id, format!("nothing is expected of it; it is {actual}"));
        }
        self.require(id, expected.contains(&actual), any_of(&expected), actual);
    }

    /// The same of what need not be there: then no expected value is met, and what stands for its absence is none.
    pub(crate) fn one_of<const N: usize>(
        &mut self,
        id: CheckId,
        expected: &[[u8; N]],
        actual: Option<&[u8; N]>,
        absent: &str,
    ) {
        match actual {
            Some(actual) => self.among(id, expected, actual),
            None if expected.is_empty() => self.skip(id, format!("nothing is expected of it; it is {absent}")),
            None => self.require(id, false, any_of(&in_hex(expected)), absent),
        }
    }
}

/// Values as people read them, each once.
fn in_hex<'v, const N: usize>(values: impl IntoIterator<Item = &'v [u8; N]>) -> BTreeSet<String> {
    values.into_iter().map(|value| Hex(value).to_string()).collect()
}

/// Any of these, in words.
fn any_of(expected: &BTreeSet<String>) -> String {
    expected.iter().map(String::as_str).collect::<Vec<_>>().join(" or ")
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hardware => "hardware",
            Self::SoftwareTest => "software-test",
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Affirmed => "affirmed",
            Self::TestPassed => "test-passed",
            Self::NotMet => "not-met",
        })
    }
}

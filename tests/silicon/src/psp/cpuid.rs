//! The CPUID page: a table that the host proposes and the firmware checks.
//!
//! Owns the page's format and a small policy: a function's feature bits must be among the processor's, limits not above,
//! the vendor as it is, everything else as proposed. The firmware's real policy is larger and not published in full.
//! Specification: 56860, SNP_LAUNCH_UPDATE "CPUID page", MSG_CPUID_REQ; functions: APM volume 3, appendix E.

use crate::bytes::{put, take_u32, take_u64};
use crate::units::Page;

/// Functions that fit in a page.
pub const MAX_FUNCTIONS: usize = 64;
/// Bytes of one.
pub const FUNCTION_BYTES: usize = 48;
const HEADER_BYTES: usize = 16;

/// One function (CPUID_FUNCTION).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuidFunction {
    /// EAX on the way in.
    pub function: u32,
    /// ECX on the way in.
    pub index: u32,
    /// XCR0, for function 0xD.
    pub xcr0: u64,
    /// IA32_XSS, for function 0xD.
    pub xss: u64,
    /// EAX, EBX, ECX, EDX on the way out.
    pub registers: [u32; 4],
}

/// What a register may be.
#[derive(Clone, Copy, Debug)]
enum Rule {
    Any,
    Exactly(u32),
    AtMost(u32),
    /// No other bits.
    Within(u32),
}

use Rule::{Any, AtMost, Exactly, Within};

/// Functions with rules: function, index if it matters, EAX to EDX.
const RULES: &[(u32, Option<u32>, [Rule; 4])] = &[
    (0x0000_0000, None, [AtMost(0x10), Exactly(0x6874_7541), Exactly(0x444d_4163), Exactly(0x6974_6e65)]),
    (0x0000_0001, None, [Any, Any, Within(0xfefa_3203), Within(0x178b_fbff)]),
    (0x0000_0007, Some(0), [AtMost(1), Within(0x219c_97a9), Within(0x0040_069c), Within(0x0000_0010)]),
    (0x0000_000d, Some(0), [Within(0x207), AtMost(0x988), AtMost(0x988), Exactly(0)]),
    (0x0000_000d, Some(1), [Within(0xf), AtMost(0x988), Within(0x1800), Exactly(0)]),
    (0x8000_0000, None, [AtMost(0x8000_0023), Any, Any, Any]),
    (0x8000_0001, None, [Any, Any, Within(0x75c2_37ff), Within(0x2fd3_fbff)]),
    (0x8000_0008, None, [Any, Within(0x1191_f25f), Any, Any]),
    (0x8000_001f, None, [Within(0x0101_fd3f), Any, Any, Any]),
];

impl Rule {
    fn nearest(self, value: u32) -> u32 {
        match self {
            Any => value,
            Exactly(wanted) => wanted,
            AtMost(limit) => value.min(limit),
            Within(mask) => value & mask,
        }
    }
}

impl CpuidFunction {
    /// The function as the firmware would have it.
    pub fn corrected(self) -> CpuidFunction {
        let rules = RULES
            .iter()
            .find(|(function, index, _)| *function == self.function && index.is_none_or(|index| index == self.index));
        let Some((_, _, rules)) = rules else { return self };
        let mut registers = self.registers;
        for (register, rule) in registers.iter_mut().zip(rules) {
            *register = rule.nearest(*register);
        }
        CpuidFunction { registers, ..self }
    }

    /// From 48 bytes.
    pub(crate) fn from_bytes(bytes: &[u8]) -> CpuidFunction {
        CpuidFunction {
            function: take_u32(bytes, 0),
            index: take_u32(bytes, 4),
            xcr0: take_u64(bytes, 8),
            xss: take_u64(bytes, 16),
            registers: [24, 28, 32, 36].map(|at| take_u32(bytes, at)),
        }
    }

    /// As 48 bytes.
    pub fn to_bytes(self) -> [u8; FUNCTION_BYTES] {
        let mut bytes = [0; FUNCTION_BYTES];
        put(&mut bytes, 0, &self.function.to_le_bytes());
        put(&mut bytes, 4, &self.index.to_le_bytes());
        put(&mut bytes, 8, &self.xcr0.to_le_bytes());
        put(&mut bytes, 16, &self.xss.to_le_bytes());
        for (at, register) in (24..).step_by(4).zip(self.registers) {
            put(&mut bytes, at, &register.to_le_bytes());
        }
        bytes
    }
}

/// A page with these functions; those that do not fit are left out.
pub fn page(functions: &[CpuidFunction]) -> Page {
    let mut page = [0; crate::units::PAGE_BYTES];
    let count = functions.len().min(MAX_FUNCTIONS);
    put(&mut page, 0, &u32::try_from(count).unwrap_or(0).to_le_bytes());
    for (at, function) in (HEADER_BYTES..).step_by(FUNCTION_BYTES).zip(&functions[..count]) {
        put(&mut page, at, &function.to_bytes());
    }
    page
}

/// What the firmware says of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It can go into the guest.
    Good,
    /// It says more than there are entries, and cannot be corrected.
    Malformed,
    /// This is what it should have been.
    Corrected(Box<Page>),
}

/// Checks a page.
pub(crate) fn check(proposed: &Page) -> Verdict {
    let count = usize::try_from(take_u32(proposed, 0)).unwrap_or(usize::MAX);
    if count > MAX_FUNCTIONS {
        return Verdict::Malformed;
    }
    let mut corrected = Box::new(*proposed);
    for entry in corrected[HEADER_BYTES..].chunks_exact_mut(FUNCTION_BYTES).take(count) {
        let function = CpuidFunction::from_bytes(entry);
        if function != function.corrected() {
            entry.copy_from_slice(&function.corrected().to_bytes());
        }
    }
    if *corrected == *proposed { Verdict::Good } else { Verdict::Corrected(corrected) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(ebx: u32) -> CpuidFunction {
        CpuidFunction { function: 7, registers: [0, ebx, 0, 0], ..CpuidFunction::default() }
    }

    #[test]
    fn features_the_processor_lacks_are_corrected_and_the_rest_left() {
        let unknown = CpuidFunction { function: 0x4000_0000, registers: [1, 2, 3, 4], ..CpuidFunction::default() };
        let proposed = page(&[unknown, features(u32::MAX)]);
        let Verdict::Corrected(corrected) = check(&proposed) else { panic!() };
        assert_eq!(*corrected, page(&[unknown, features(0x219c_97a9)]));
        assert_eq!(check(&corrected), Verdict::Good);
    }

    #[test]
    fn a_table_longer_than_its_page_is_malformed() {
        let mut proposed = page(&[]);
        put(&mut proposed, 0, &65u32.to_le_bytes());
        assert_eq!(check(&proposed), Verdict::Malformed);
        assert_eq!(check(&page(&[CpuidFunction { function: 0x4000_0000, ..Default::default() }; 64])), Verdict::Good);
    }

    #[test]
    fn a_function_survives_its_bytes() {
        let function = CpuidFunction { function: 0xd, index: 1, xcr0: 7, xss: 0x800, registers: [1, 2, 3, 4] };
        assert_eq!(CpuidFunction::from_bytes(&function.to_bytes()), function);
    }
}

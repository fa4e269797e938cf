//! The registers a vCPU starts with.
//!
//! Owns the value that launch code gives to a vCPU and that predictors measure (law *one-launch*). Does not own what a
//! technology adds to it: what KVM and the processor set by themselves is in `snp::vmsa`.
//!
//! Specification: AMD APM volume 2, section 14.1.3 (state after reset) and 15.5 (attributes of a segment as in the
//! VMCB).

use crate::address::Gpa;

/// Where a vCPU starts after reset: 16 bytes below 4 GiB.
pub const RESET_VECTOR: u32 = 0xffff_fff0;

/// A segment register, or one of the two that name a table (those have neither selector nor attributes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Segment {
    /// Selector.
    pub selector: u16,
    /// Bits 55..52 and 47..40 of a descriptor, packed: type in bits 3..0, S, DPL, P in bit 7, then AVL, L, D/B, G.
    pub attributes: u16,
    /// Limit in bytes.
    pub limit: u32,
    /// Base address.
    pub base: u64,
}

/// The registers a vCPU starts with. Every general-purpose register not named here is zero, and so is every flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VcpuState {
    /// Code.
    pub cs: Segment,
    /// `DS`, `ES`, `FS`, `GS` and `SS`.
    pub data: Segment,
    /// Local descriptor table.
    pub ldtr: Segment,
    /// Task.
    pub tr: Segment,
    /// Global descriptor table.
    pub gdtr: Segment,
    /// Interrupt descriptor table.
    pub idtr: Segment,
    /// Instruction pointer.
    pub rip: u64,
    /// Processor's signature after reset.
    pub rdx: u64,
    /// First argument.
    pub rdi: u64,
    /// Page-table base.
    pub cr3: Gpa,
    /// Control register 0.
    pub cr0: u64,
    /// Control register 4.
    pub cr4: u64,
    /// Extended feature enable register.
    pub efer: u64,
}

impl Segment {
    /// A segment of 64 KiB at 0, as all are after reset.
    #[must_use]
    pub const fn real_mode(attributes: u16) -> Self {
        Self { selector: 0, attributes, limit: 0xffff, base: 0 }
    }

    /// A segment of 4 GiB at 0.
    #[must_use]
    pub const fn flat(selector: u16, attributes: u16) -> Self {
        Self { selector, attributes, limit: u32::MAX, base: 0 }
    }
}

impl VcpuState {
    /// After reset, without a processor's signature.
    pub const RESET: Self = Self {
        cs: Segment { selector: 0xf000, base: 0xffff_0000, ..Segment::real_mode(0x9b) },
        data: Segment::real_mode(0x93),
        ldtr: Segment::real_mode(0x82),
        tr: Segment::real_mode(0x8b),
        gdtr: Segment::real_mode(0),
        idtr: Segment::real_mode(0),
        rip: 0xfff0,
        rdx: 0,
        rdi: 0,
        cr3: Gpa(0),
        cr0: 1 << 4, // ET
        cr4: 0,
        efer: 0,
    };

    /// 64-bit mode with flat segments; control registers and entry are for the caller to fill in.
    pub const LONG_MODE: Self =
        Self { cs: Segment::flat(0x10, 0xa9b), data: Segment::flat(0x18, 0xc93), rip: 0, cr0: 0, ..Self::RESET };

    /// 32-bit protected mode with flat segments and without paging; the entry is for the caller to fill in.
    pub const FLAT_32: Self = Self {
        cs: Segment::flat(0x08, 0xc9b),
        data: Segment::flat(0x10, 0xc93),
        rip: 0,
        cr0: Self::RESET.cr0 | 1, // PE
        ..Self::RESET
    };

    /// After reset, but starting at the linear address `eip` instead, as the segment and offset that reset would have.
    #[must_use]
    pub const fn reset_at(eip: u32) -> Self {
        let mut state = Self::RESET;
        state.cs.base = (eip & 0xffff_0000) as u64;
        state.rip = (eip & 0xffff) as u64;
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reset_is_at_the_reset_vector() {
        assert_eq!(VcpuState::reset_at(RESET_VECTOR), VcpuState::RESET);
        let elsewhere = VcpuState::reset_at(0x0080_b004);
        assert_eq!((elsewhere.cs.base, elsewhere.rip), (0x0080_0000, 0xb004));
    }
}

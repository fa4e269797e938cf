//! Which processor this pretends to be, and the components of its TCB.
//!
//! Owns the differences between Milan, Genoa and Turin, and the packing of a TCB version. Specification: 56860,
//! "TCB version" (two layouts: Turin has a component more); CPUID function 1 of each.

/// A generation of EPYC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Model {
    /// Zen 3.
    Milan,
    /// Zen 4.
    Genoa,
    /// Zen 5.
    Turin,
}

/// Security versions of everything that a chip's keys depend on. No order of the whole: each component has its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tcb {
    /// The FMC, first in the chain of firmware; Turin only.
    pub fmc: u8,
    /// Boot loader of the PSP.
    pub boot_loader: u8,
    /// Its operating system.
    pub tee: u8,
    /// The SNP firmware.
    pub snp: u8,
    /// Microcode, the lowest of all cores.
    pub microcode: u8,
}

impl Model {
    /// All of them.
    pub const ALL: [Model; 3] = [Model::Milan, Model::Genoa, Model::Turin];

    /// Family, model and stepping as CPUID combines them.
    pub fn family_model_stepping(self) -> (u8, u8, u8) {
        match self {
            Model::Milan => (0x19, 0x01, 0x01),
            Model::Genoa => (0x19, 0x11, 0x01),
            Model::Turin => (0x1a, 0x02, 0x01),
        }
    }

    /// EAX of CPUID function 1.
    pub fn signature(self) -> u32 {
        let (family, model, stepping) = self.family_model_stepping();
        let [family, model, stepping] = [family, model, stepping].map(u32::from);
        let base = family.min(0xf);
        stepping | (model & 0xf) << 4 | base << 8 | (model >> 4) << 16 | (family - base) << 20
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Model::Milan => "Milan",
            Model::Genoa => "Genoa",
            Model::Turin => "Turin",
        }
    }

    /// Bytes of the chip's identifier; the rest of its field is zero.
    pub fn chip_id_bytes(self) -> usize {
        match self {
            Model::Milan | Model::Genoa => 64,
            Model::Turin => 8,
        }
    }

    /// The version of reports that its first firmware wrote.
    pub fn first_report_version(self) -> u32 {
        match self {
            Model::Milan => 2,
            Model::Genoa => 3,
            Model::Turin => 5,
        }
    }

    /// The version of reports that its present firmware writes: no product's are without family, model and stepping.
    pub fn report_version(self) -> u32 {
        self.first_report_version().max(3)
    }

    /// The version of the firmware's interface, major and minor.
    pub fn api(self) -> (u8, u8) {
        match self {
            Model::Milan | Model::Genoa => (1, 55),
            Model::Turin => (1, 58),
        }
    }

    /// The position of each component in a packed version: boot loader, TEE, SNP, microcode, FMC.
    fn positions(self) -> [Option<usize>; 5] {
        match self {
            Model::Milan | Model::Genoa => [Some(0), Some(1), Some(6), Some(7), None],
            Model::Turin => [Some(1), Some(2), Some(3), Some(7), Some(0)],
        }
    }
}

impl Tcb {
    /// What a usual machine of this model has.
    pub fn usual(model: Model) -> Tcb {
        Tcb { fmc: if model == Model::Turin { 1 } else { 0 }, boot_loader: 9, tee: 0, snp: 23, microcode: 72 }
    }

    fn components(self) -> [u8; 5] {
        [self.boot_loader, self.tee, self.snp, self.microcode, self.fmc]
    }

    /// As commands, reports and messages have it.
    pub fn to_bytes(self, model: Model) -> [u8; 8] {
        let mut packed = [0; 8];
        for (position, component) in model.positions().into_iter().zip(self.components()) {
            if let Some(position) = position {
                packed[position] = component;
            }
        }
        packed
    }

    /// From how commands, reports and messages have it; nothing if a reserved byte is set.
    pub fn from_bytes(model: Model, packed: [u8; 8]) -> Option<Tcb> {
        let at = |position: Option<usize>| position.map_or(0, |position| packed[position]);
        let [boot_loader, tee, snp, microcode, fmc] = model.positions().map(at);
        let tcb = Tcb { fmc, boot_loader, tee, snp, microcode };
        (tcb.to_bytes(model) == packed).then_some(tcb)
    }

    /// Whether no component is above the other's.
    pub fn is_within(self, bound: Tcb) -> bool {
        self.components().iter().zip(bound.components()).all(|(mine, bound)| *mine <= bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCB: Tcb = Tcb { fmc: 5, boot_loader: 1, tee: 2, snp: 3, microcode: 4 };

    #[test]
    fn a_tcb_is_packed_as_the_model_packs_it() {
        assert_eq!(TCB.to_bytes(Model::Milan), [1, 2, 0, 0, 0, 0, 3, 4]);
        assert_eq!(TCB.to_bytes(Model::Turin), [5, 1, 2, 3, 0, 0, 0, 4]);
        for model in Model::ALL {
            let known = Tcb::from_bytes(model, TCB.to_bytes(model)).unwrap();
            assert_eq!(known.to_bytes(model), TCB.to_bytes(model));
        }
        assert_eq!(Tcb::from_bytes(Model::Milan, [0, 0, 1, 0, 0, 0, 0, 0]), None, "reserved");
    }

    #[test]
    fn a_tcb_is_compared_component_by_component() {
        let newer = Tcb { snp: 9, ..TCB };
        let mixed = Tcb { snp: 9, tee: 1, ..TCB };
        assert!(TCB.is_within(newer) && !newer.is_within(TCB));
        assert!(!mixed.is_within(TCB) && !TCB.is_within(mixed));
    }

    #[test]
    fn signatures_are_those_of_cpuid() {
        assert_eq!(Model::Milan.signature(), 0x00a0_0f11);
        assert_eq!(Model::Genoa.signature(), 0x00a1_0f11);
        assert_eq!(Model::Turin.signature(), 0x00b0_0f21);
    }
}

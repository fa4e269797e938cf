//! A machine with a guest on it, for tests.

use crate::config::Config;
use crate::hardware::Hardware;
use crate::model::Model;
use crate::psp::{LaunchUpdate, PageKind, Policy, Psp, Status};
use crate::rmp::{Access, Assignment, Mapping, Permissions};
use crate::units::{Asid, Gpa, Page, PageSize, Pfn, Vmpl};

pub(crate) const CONTEXT: Pfn = Pfn(0x10);
pub(crate) const RESPONSE: Pfn = Pfn(0x11);
pub(crate) const REQUEST: Pfn = Pfn(0x12);
pub(crate) const SECRETS: (Pfn, Gpa) = (Pfn(0x20), Gpa(0x80_0000));

pub(crate) struct Machine {
    pub(crate) hw: Hardware,
    pub(crate) psp: Psp,
}

pub(crate) fn config(model: Model) -> Config {
    Config { pages: 4 * 512, ..Config::new(model, [0x5e; 32]) }
}

pub(crate) fn private_read(asid: Asid) -> Access {
    Access { asid, vmpl: Vmpl::Vmpl0, private: true, needs: Permissions::READ }
}

pub(crate) fn at((pfn, gpa): (Pfn, Gpa)) -> Mapping {
    Mapping { gpa, pfn, size: PageSize::Size4K }
}

impl Machine {
    /// Initialised.
    pub(crate) fn new(config: &Config) -> Machine {
        let (mut hw, mut psp) = (Hardware::new(config), Psp::new(config));
        psp.init(&mut hw).unwrap();
        Machine { hw, psp }
    }

    pub(crate) fn milan() -> Machine {
        Machine::new(&config(Model::Milan))
    }

    /// Gives a page to the firmware.
    pub(crate) fn firmware(&mut self, pfn: Pfn) {
        let firmware = Assignment { assigned: true, immutable: true, ..Assignment::default() };
        self.hw.rmp.rmpupdate(pfn, firmware).unwrap();
    }

    /// A guest in state LAUNCH.
    pub(crate) fn started(&mut self, policy: Policy) -> Asid {
        let asid = self.hw.asids.allocate(crate::asid::GuestKind::Snp).unwrap();
        self.firmware(CONTEXT);
        self.psp.gctx_create(&mut self.hw, CONTEXT).unwrap();
        self.psp.launch_start(CONTEXT, policy, [0; 16]).unwrap();
        self.psp.activate(&mut self.hw, CONTEXT, asid).unwrap();
        asid
    }

    /// Makes a page pre-guest and asks for it to be added.
    pub(crate) fn add(
        &mut self,
        asid: Asid,
        (pfn, gpa): (Pfn, Gpa),
        kind: PageKind,
        page: &Page,
    ) -> Result<(), Status> {
        self.hw.host_write(pfn, page).unwrap();
        let pre_guest = Assignment { assigned: true, asid, gpa, immutable: true, ..Assignment::default() };
        self.hw.rmp.rmpupdate(pfn, pre_guest).unwrap();
        self.psp.launch_update(&mut self.hw, CONTEXT, LaunchUpdate::new(pfn, kind))
    }

    /// A guest that runs and has its secrets.
    pub(crate) fn running(&mut self) -> Asid {
        let asid = self.started(Policy::usual());
        self.add(asid, SECRETS, PageKind::Secrets, &[0; 4096]).unwrap();
        self.psp.launch_finish(CONTEXT, Default::default()).unwrap();
        asid
    }
}

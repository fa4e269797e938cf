//! What the VMM, the guests and the kernel can do, by design and technology.

use super::{Design, File, Life, Lifetime, Page, Slot, State, Technology, Who};
use crate::protocol::Steps;

impl Lifetime {
    /// System calls.
    pub(super) fn vmm_steps(&self, steps: &mut Steps<'_, State>) {
        const WHO: &str = "VMM";
        let s = steps.state();
        for who in Who::BOTH {
            let vm = s.vms[who.index()];
            if !vm.fd_open {
                continue;
            }
            if vm.slot == Slot::Absent && s.fd_open && self.may_bind(s, who) {
                let frees = self.design == Design::FreeAtForeignBind && s.belonged_to == Some(who.other());
                let freed = if frees && s.page.is_some() { "; the page is freed first" } else { "" };
                steps.add(WHO, format!("binds the file to a slot of VM {who:?}{freed}"), |s| {
                    if frees {
                        self.free_page(s);
                    }
                    s.vm(who).slot = Slot::Bound;
                    s.belongs_to = Some(who);
                    s.belonged_to = Some(who);
                    s.a_counts_on_it &= who == Who::A;
                });
            }
            if vm.slot != Slot::Absent {
                let frees = self.design == Design::FreeAtUnbind && s.page.is_some();
                let freed = if frees { "; the page is freed" } else { "" };
                steps.add(WHO, format!("deletes VM {who:?}'s slot{freed}"), |s| self.unbind(s, who));
            }
            let waits = self.design == Design::CreationClosedFirst && who == Who::A && s.file != File::Gone;
            if !waits {
                steps.add(WHO, format!("closes VM {who:?}'s descriptors"), |s| s.vm(who).fd_open = false);
            }
        }
        if s.fd_open {
            steps.add(WHO, "closes the file's descriptor", |s| {
                s.fd_open = false;
                s.a_counts_on_it = false;
            });
        }
    }

    /// A new VM takes whichever ASID is free.
    pub(super) fn create_b(&self, steps: &mut Steps<'_, State>) {
        if steps.state().vms[Who::B.index()].life != Life::NotYet {
            return;
        }
        let a = steps.state().vms[Who::A.index()];
        let a_has_key = a.life != Life::Destroyed;
        if self.technology != Technology::Snp {
            steps.add("VMM", "creates VM B", |s| {
                let vm = s.vm(Who::B);
                (vm.life, vm.fd_open) = (Life::Alive, true);
            });
            return;
        }
        const ASIDS: [(usize, &str); 2] = [(0, "creates VM B with ASID 1"), (1, "creates VM B with ASID 2")];
        for (asid, does) in ASIDS.into_iter().filter(|(asid, _)| !(a_has_key && a.asid == *asid)) {
            let named = steps.state().page.is_some_and(|page| page.owner == Some(Who::A)) && a.asid == asid;
            let does = if named { format!("{does}, which the RMP names as VM A's") } else { does.to_owned() };
            steps.add("VMM", does, |s| {
                let vm = s.vm(Who::B);
                (vm.life, vm.fd_open, vm.asid) = (Life::Alive, true, asid);
                s.seen.reused_asid |= named;
            });
        }
    }

    fn may_bind(&self, s: &State, who: Who) -> bool {
        match self.design {
            Design::Creation | Design::CreationClosedFirst | Design::CreationPagesFirst => s.belongs_to == Some(who),
            Design::NeverAnother | Design::FreeAtVmEnd => s.belonged_to.is_none_or(|first| first == who),
            Design::Memslot | Design::FreeAtUnbind | Design::FreeAtForeignBind => {
                s.belongs_to.is_none_or(|first| first == who)
            }
        }
    }

    /// A slot's end, by deletion or with its VM.
    fn unbind(&self, s: &mut State, who: Who) {
        let was_bound = s.vm(who).slot == Slot::Bound;
        s.vm(who).slot = Slot::Absent;
        if !was_bound {
            return;
        }
        if self.technology == Technology::TdxRemoving {
            Self::take_out_of_secure_ept(s, who);
        }
        if self.design == Design::FreeAtUnbind {
            self.free_page(s);
        }
        if !self.design.binds_at_creation() {
            s.belongs_to = None;
        }
    }

    fn take_out_of_secure_ept(s: &mut State, who: Who) {
        if let Some(page) = s.page.as_mut().filter(|page| page.owner == Some(who)) {
            *page = Page { written_by: None, owner: None };
        }
    }

    /// Frees the page. Only a TD that is still there can give one back.
    fn free_page(&self, s: &mut State) {
        let owner = s.page.and_then(|page| page.owner);
        let is_stuck = self.technology.is_tdx() && owner.is_some_and(|who| s.vms[who.index()].life == Life::Destroyed);
        if !is_stuck {
            s.page = None;
        }
    }

    /// Guests touch their memory.
    pub(super) fn guest_steps(&self, steps: &mut Steps<'_, State>) {
        let s = steps.state();
        let can_run = |who: Who| {
            let vm = s.vms[who.index()];
            vm.life == Life::Alive && vm.fd_open && vm.slot == Slot::Bound
        };
        if can_run(Who::A) {
            steps.add("guest A", "writes a secret to its page", |s| {
                if let Some(page) = self.fault(s, Who::A) {
                    s.page = Some(Page { written_by: Some(Who::A), ..page });
                    s.a_counts_on_it = true;
                }
            });
            if s.a_counts_on_it {
                let there = s.page.is_some_and(|page| page.written_by == Some(Who::A));
                let does = if there { "reads its page" } else { "reads its page: the secret is gone" };
                steps.add("guest A", does, |s| {
                    let found = self.fault(s, Who::A);
                    s.seen.loss |= found.is_some_and(|page| page.written_by != Some(Who::A));
                });
            }
        }
        if can_run(Who::B) {
            let secret = s.page.is_some_and(|page| page.written_by == Some(Who::A));
            let foreign = s.page.is_some_and(|page| page.owner == Some(Who::A));
            let does = match (self.technology, secret, foreign) {
                (Technology::Plain, true, _) => "reads the page: VM A's secret",
                (Technology::Snp, _, true) => "touches the page: mapped, while the RMP names VM A's ASID",
                (Technology::TdxRemoving | Technology::TdxDeferred, _, true) => {
                    "touches the page: KVM tries to add it, while it is in VM A's Secure EPT"
                }
                _ => "reads the page",
            };
            steps.add("guest B", does, |s| {
                if let Some(page) = self.fault(s, Who::B) {
                    let readable = self.technology == Technology::Plain || page.owner == Some(Who::B);
                    s.seen.leak |= readable && page.written_by == Some(Who::A);
                }
            });
        }
    }

    /// The page as the guest finds it; nothing if it belongs to somebody else's key. Under SNP
    /// `sev_gmem_prepare` sees that the page is assigned and is content, whoever it is assigned to.
    fn fault(&self, s: &mut State, who: Who) -> Option<Page> {
        let page = s.page.get_or_insert(Page { written_by: None, owner: None });
        if self.technology != Technology::Plain {
            match page.owner {
                // What it held is lost on the page's way to the new key.
                None => *page = Page { written_by: None, owner: Some(who) },
                Some(owner) if owner == who => {}
                Some(_) => {
                    s.seen.wrong_key = true;
                    return None;
                }
            }
        }
        Some(*page)
    }

    /// How the kernel ends the file.
    pub(super) fn file_steps(&self, steps: &mut Steps<'_, State>) {
        let s = steps.state();
        if !self.is_file_unreferenced(s) {
            return;
        }
        if !self.design.binds_at_creation() {
            if s.file == File::Open {
                steps.add("kernel", self.words_for_eviction(s), |s| {
                    self.free_page(s);
                    s.file = File::Gone;
                });
            }
            return;
        }
        let pages_first = self.design == Design::CreationPagesFirst;
        match s.file {
            File::Open => steps.add("kernel", "release severs the file's slots and zaps their mappings", |s| {
                let vm = s.vm(Who::A);
                if vm.slot == Slot::Bound {
                    vm.slot = Slot::Severed;
                    s.seen.taken |= s.vms[Who::A.index()].fd_open;
                }
                if self.technology.is_tdx() {
                    Self::take_out_of_secure_ept(s, Who::A);
                }
                s.file = File::Severed;
            }),
            File::Severed if !pages_first => steps.add("kernel", self.words_for_put(s), |s| {
                s.file = File::VmPut;
                if !s.vm(Who::A).fd_open {
                    s.vm(Who::A).life = Life::Destroyed;
                }
            }),
            File::Severed => steps.add("kernel", self.words_for_eviction(s), |s| {
                self.free_page(s);
                s.file = File::Emptied;
            }),
            File::VmPut => steps.add("kernel", self.words_for_eviction(s), |s| {
                self.free_page(s);
                s.file = File::Gone;
            }),
            File::Emptied => steps.add("kernel", self.words_for_put(s), |s| s.file = File::Gone),
            File::Gone => {}
        }
    }

    fn words_for_eviction(&self, s: &State) -> &'static str {
        let owner = s.page.and_then(|page| page.owner);
        let gone = owner.is_some_and(|who| s.vms[who.index()].life == Life::Destroyed);
        match (s.page.is_some(), self.technology) {
            (false, _) => "evicts the file's inode",
            (true, Technology::TdxRemoving | Technology::TdxDeferred) if gone => {
                "evicts the file's inode; the page cannot be reclaimed: its TD is gone"
            }
            (true, Technology::Snp) if owner.is_some() => {
                "evicts the file's inode: the page is freed, its RMP entry reset"
            }
            (true, _) => "evicts the file's inode: the page is freed",
        }
    }

    fn words_for_put(&self, s: &State) -> &'static str {
        match (s.vms[Who::A.index()].fd_open, self.technology) {
            (true, _) => "release drops the file's reference to VM A",
            (false, Technology::Snp) => "release drops the last reference to VM A: its ASID can be recycled",
            (false, _) => "release drops the last reference to VM A, which is destroyed",
        }
    }

    /// How the kernel ends a VM that nothing refers to.
    pub(super) fn vm_steps(&self, steps: &mut Steps<'_, State>) {
        let key = match self.technology {
            Technology::Plain => "frees it",
            Technology::Snp => "frees its ASID",
            Technology::TdxRemoving | Technology::TdxDeferred => "frees its HKID, then the TD",
        };
        let s = steps.state();
        for who in Who::BOTH.into_iter().filter(|who| self.is_unreferenced(s, *who)) {
            let frees = self.design == Design::FreeAtVmEnd && s.belonged_to == Some(who);
            match s.vms[who.index()].life {
                Life::Alive => {
                    let freed = if frees && s.page.is_some() { ", frees its files' pages" } else { "" };
                    steps.add("kernel", format!("ends VM {who:?}: removes its slots{freed}"), |s| {
                        self.unbind(s, who);
                        if frees {
                            self.free_page(s);
                            s.a_counts_on_it = false;
                        }
                        s.vm(who).life = Life::Unbound;
                    });
                }
                Life::Unbound => {
                    steps.add("kernel", format!("ends VM {who:?}: {key}"), |s| s.vm(who).life = Life::Destroyed);
                }
                Life::NotYet | Life::Destroyed => {}
            }
        }
    }
}

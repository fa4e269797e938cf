//! The processor's side: memory behind the RMP, and the memory controller's keys.
//!
//! Owns what happens when a guest or the host touches memory: check first, then encrypt. The kernel's part of an access,
//! the nested page table, comes in as a [`Mapping`]. Specification: APM volume 2, 15.36.10 and 15.34.

use std::collections::BTreeMap;

use crate::asid::AsidPool;
use crate::config::Config;
use crate::memory::{Key, Memory};
use crate::rmp::access::HostFault;
use crate::rmp::{Access, AccessFault, Mapping, Permissions, Rmp};
use crate::units::{Asid, PAGE_BYTES, Page, Pfn};

/// Everything that is not the PSP.
#[derive(Debug)]
pub struct Hardware {
    /// Who owns which page.
    pub rmp: Rmp,
    /// What is in the pages.
    pub memory: Memory,
    /// Which guest has which ASID.
    pub asids: AsidPool,
    keys: BTreeMap<Asid, Key>,
}

impl Hardware {
    /// A machine that nothing has happened to.
    pub fn new(config: &Config) -> Hardware {
        Hardware {
            rmp: Rmp::new(config.pages),
            memory: Memory::default(),
            asids: AsidPool::new(config.asids),
            keys: BTreeMap::new(),
        }
    }

    /// A guest reads a page.
    pub fn guest_read(&self, access: Access, at: Mapping) -> Result<Page, AccessFault> {
        self.rmp.check(Access { needs: Permissions(access.needs.0 | Permissions::READ.0), ..access }, at)?;
        Ok(self.memory.read(at.pfn, self.key_for(access)))
    }

    /// A guest writes a page.
    pub fn guest_write(&mut self, access: Access, at: Mapping, contents: &Page) -> Result<(), AccessFault> {
        self.rmp.check(Access { needs: Permissions(access.needs.0 | Permissions::WRITE.0), ..access }, at)?;
        let key = self.key_for(access).cloned();
        self.memory.write(at.pfn, key.as_ref(), contents);
        Ok(())
    }

    /// The host reads a page: of a guest's, ciphertext, or nothing at all if that is hidden.
    pub fn host_read(&self, pfn: Pfn) -> Page {
        let hidden = self.asids.config().ciphertext_hiding.is_some();
        match self.rmp.entry(pfn) {
            Ok(entry) if entry.is_guests() && hidden => [0xff; PAGE_BYTES],
            _ => self.memory.read(pfn, None),
        }
    }

    /// The host writes a page.
    pub fn host_write(&mut self, pfn: Pfn, contents: &Page) -> Result<(), HostFault> {
        self.rmp.check_host_write(pfn)?;
        self.memory.write(pfn, None, contents);
        Ok(())
    }

    /// A guest's key goes into the memory controller.
    pub(crate) fn install_key(&mut self, asid: Asid, key: Key) {
        self.keys.insert(asid, key);
    }

    /// And out of it.
    pub(crate) fn remove_key(&mut self, asid: Asid) {
        self.keys.remove(&asid);
    }

    fn key_for(&self, access: Access) -> Option<&Key> {
        self.keys.get(&access.asid).filter(|_| access.private)
    }
}

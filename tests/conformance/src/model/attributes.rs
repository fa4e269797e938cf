//! Memory attributes: by the frame, without regard to slots.
//!
//! Specification: `kvm_vm_ioctl_set_mem_attributes`. Nothing is freed, filled or moved; a frame's attribute outlives
//! every slot there.

use super::Model;
use crate::op::{PAGE, PRIVATE, Vm};
use crate::outcome::Errno;

impl Model {
    /// `KVM_SET_MEMORY_ATTRIBUTES`.
    pub(super) fn set_attributes(
        &mut self,
        vm: Vm,
        gpa: u64,
        size: u64,
        attributes: u64,
        flags: u64,
    ) -> Result<(), Errno> {
        let id = self.open_vm(vm)?;
        if !self.kernel.features.attributes_ioctl {
            return Err(Errno::NOTTY);
        }
        if flags != 0 {
            return Err(Errno::INVAL);
        }
        if attributes & !self.type_features(id).attributes != 0 {
            return Err(Errno::INVAL);
        }
        let end = gpa.wrapping_add(size);
        if size == 0 || end < gpa {
            return Err(Errno::INVAL);
        }
        if !gpa.is_multiple_of(PAGE) || !size.is_multiple_of(PAGE) {
            return Err(Errno::INVAL);
        }
        let frames = gpa / PAGE..end / PAGE;
        if attributes & PRIVATE != 0 {
            self.machines[id].private.insert(frames);
        } else {
            self.machines[id].private.remove(frames);
        }
        Ok(())
    }
}

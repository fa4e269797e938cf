//! VMs, vCPUs, and who keeps a VM alive.
//!
//! A VM lives as long as its descriptor, its vCPUs' and its guest_memfds (files, by descriptors and mappings). A slot
//! keeps nothing alive, and nothing keeps a slot's file.

use super::{Machine, Model, Vcpu, VmId};
use crate::op::{Cpu, Vm};
use crate::outcome::{Errno, Outcome};

impl Model {
    /// `KVM_CREATE_VM`.
    pub(super) fn create_vm(&mut self, vm: Vm, vm_type: u32) -> Result<(), Errno> {
        if self.kernel.features.of_type(vm_type).is_none() {
            return Err(Errno::INVAL);
        }
        let id = self.machines.len();
        self.machines.push(Machine {
            vm_type,
            references: 1,
            slots: Default::default(),
            private: Default::default(),
            generation: 0,
            mmio: Default::default(),
            zaps: 0,
            cpus_made: Default::default(),
        });
        self.vms[vm.index()] = Some(id);
        self.last_vms[vm.index()] = Some(id);
        Ok(())
    }

    pub(super) fn close_vm(&mut self, vm: Vm) -> Result<(), Errno> {
        let id = self.vms[vm.index()].take().ok_or(Errno::BADF)?;
        self.put_vm(id);
        Ok(())
    }

    /// `KVM_CREATE_VCPU`. The number stays taken until the VM is destroyed.
    pub(super) fn create_cpu(&mut self, cpu: Cpu, vm: Vm) -> Result<(), Errno> {
        let id = self.open_vm(vm)?;
        if !self.machines[id].cpus_made.insert(cpu) {
            return Err(Errno::EXIST);
        }
        self.machines[id].references += 1;
        self.cpus[cpu.index()] = Some(Vcpu { vm: id, tables: None });
        Ok(())
    }

    pub(super) fn close_cpu(&mut self, cpu: Cpu) -> Result<(), Errno> {
        let vcpu = self.cpus[cpu.index()].take().ok_or(Errno::BADF)?;
        self.put_vm(vcpu.vm);
        Ok(())
    }

    /// `kvm_put_kvm`: the last reference destroys the VM, its slots and attributes.
    pub(super) fn put_vm(&mut self, id: VmId) {
        let machine = &mut self.machines[id];
        machine.references -= 1;
        if machine.references == 0 {
            machine.slots.clear();
            machine.private = Default::default();
        }
    }

    pub(super) fn alive(&self, vm: Vm) -> Outcome {
        match self.last_vms[vm.index()] {
            Some(id) => Outcome::Value(u64::from(self.machines[id].references > 0)),
            None => Outcome::Failed(Errno::NOENT),
        }
    }

    /// `KVM_CHECK_EXTENSION`, for what is known.
    pub(super) fn capability(&self, vm: Option<Vm>, number: u32) -> Result<u64, Errno> {
        let id = vm.map(|vm| self.open_vm(vm)).transpose()?;
        let of_type = id.map(|id| self.machines[id].vm_type);
        Ok(self.kernel.features.capability(of_type, number).unwrap_or(0))
    }
}

//! What CPUID tells a guest.
//!
//! Owns the changes made to what the host kernel offers, each with its reason. Pure.
//!
//! Specifications: AMD APM volume 3 appendix E; Intel SDM volume 2, CPUID; Linux
//! `Documentation/virt/kvm/x86/cpuid.rst` for 0x40000001, `arch/x86/kvm/vmx/vmx.c`, `vmx_set_cr4` and `handle_desc`,
//! for UMIP; AMD APM volume 3 section E.4.17 for 0x8000001f.

use gmem_kvm::port::CpuidEntry;
use snp::cpuid_page::Correction;

use crate::check::facts::CpuFacts;
use crate::config::Guise;

/// Leaf 1, ECX.
const VMX: u32 = 1 << 5;
const PCID: u32 = 1 << 17;
const X2APIC: u32 = 1 << 21;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, EDX.
const HTT: u32 = 1 << 28;
/// Leaf 7, ECX.
const UMIP: u32 = 1 << 2;
/// Leaf 0x80000001, ECX.
const SVM: u32 = 1 << 2;

/// KVM's feature leaf, and the features only a guest in the `sev` guise may use.
const KVM_FEATURES: u32 = 0x4000_0001;
const KVM_FEATURE_HC_MAP_GPA_RANGE: u32 = 1 << 16;
const KVM_FEATURE_MIGRATION_CONTROL: u32 = 1 << 17;

/// Leaf 0x8000001f: memory encryption.
const MEMORY_ENCRYPTION: u32 = 0x8000_001f;
const SEV: u32 = 1 << 1;
const SEV_ES: u32 = 1 << 3;
const SEV_SNP: u32 = 1 << 4;
/// Leaf 0x8000001f, EBX: the C-bit's number, and how many bits addresses lose.
const C_BIT_FIELDS: u32 = 0xfff;
/// The C-bit of the guise. Page tables ignore bit 11 at every level, so that a guest which sets or clears it changes
/// nothing; in CR3 it is ignored as long as there is no PCID.
const GUISE_C_BIT: u32 = 11;

/// What KVM offers, less what it would emulate instruction by instruction: it fetches the code from shared memory,
/// where that of a private guest is not. On Intel CPUs without UMIP, KVM makes it up by intercepting LGDT, LIDT, LLDT
/// and LTR as well; a guest dies when its second vCPU loads its task register.
pub(crate) fn without_emulated(mut offered: Vec<CpuidEntry>, host: &CpuFacts) -> Vec<CpuidEntry> {
    if !host.has("umip") {
        for entry in offered.iter_mut().filter(|entry| entry.leaf == 7 && entry.subleaf.unwrap_or(0) == 0) {
            entry.ecx &= !UMIP;
        }
    }
    offered
}

/// The most bits that a guest-physical address can have (AMD APM volume 2, section 5.1).
pub(crate) const ADDRESS_BITS_MAX: u32 = 52;

/// Width of a guest-physical address in bits.
pub(crate) fn address_bits(offered: &[CpuidEntry]) -> u32 {
    // Without the leaf it is 36 (SDM volume 3, section 4.1.4).
    offered.iter().find(|entry| entry.leaf == 0x8000_0008).map_or(36, |entry| entry.eax & 0xff)
}

/// Whether the host is an AMD-type CPU: only there does a guest's `vmmcall` work as it is.
pub(crate) fn is_amd_type(offered: &[CpuidEntry]) -> bool {
    let Some(vendor) = offered.iter().find(|entry| entry.leaf == 0) else { return false };
    [(vendor.ebx, vendor.edx, vendor.ecx)].into_iter().any(|(ebx, edx, ecx)| {
        let mut name = [0; 12];
        for (four, register) in name.chunks_exact_mut(4).zip([ebx, edx, ecx]) {
            four.copy_from_slice(&register.to_le_bytes());
        }
        matches!(&name, b"AuthenticAMD" | b"HygonGenuine")
    })
}

/// What vCPU `id` of `vcpus` in an SNP guest sees: memory encryption as it is, and no leaf of zeros, because the page that
/// the PSP checks has room for few and a leaf that is not in it is zeros.
pub(crate) fn for_snp_vcpu(offered: &[CpuidEntry], id: u32, vcpus: u32) -> Vec<CpuidEntry> {
    let encryption = offered.iter().find(|entry| entry.leaf == MEMORY_ENCRYPTION).map(|entry| entry.ebx & C_BIT_FIELDS);
    let mut entries = for_vcpu(offered, id, vcpus, Guise::None);
    for entry in entries.iter_mut().filter(|entry| entry.leaf == MEMORY_ENCRYPTION) {
        (entry.eax, entry.ebx) = (SEV | SEV_ES | SEV_SNP, encryption.unwrap_or(0));
    }
    entries.retain(|entry| entry.eax | entry.ebx | entry.ecx | entry.edx != 0);
    entries
}

/// Takes back what the PSP would not have the guest be promised.
pub(crate) fn correct(entries: &mut [CpuidEntry], corrections: &[Correction]) {
    for Correction { leaf, subleaf, register, asked, allowed } in corrections {
        let concerned = |entry: &&mut CpuidEntry| (entry.leaf, entry.subleaf.unwrap_or(0)) == (*leaf, *subleaf);
        for entry in entries.iter_mut().filter(concerned) {
            let value = match *register {
                "eax" => &mut entry.eax,
                "ebx" => &mut entry.ebx,
                "ecx" => &mut entry.ecx,
                _ => &mut entry.edx,
            };
            // What differs from vCPU to vCPU was asked for with one's value only.
            *value = if value == asked { *allowed } else { *value & !(asked & !allowed) };
        }
    }
}

/// What vCPU `id` of `vcpus` sees.
pub(crate) fn for_vcpu(offered: &[CpuidEntry], id: u32, vcpus: u32, guise: Guise) -> Vec<CpuidEntry> {
    let mut entries = offered.to_vec();
    if guise == Guise::Sev && !entries.iter().any(|entry| entry.leaf == MEMORY_ENCRYPTION) {
        entries.push(CpuidEntry { leaf: MEMORY_ENCRYPTION, ..CpuidEntry::default() });
    }
    for entry in &mut entries {
        adjust(entry, id, vcpus, guise);
    }
    entries
}

fn adjust(entry: &mut CpuidEntry, id: u32, vcpus: u32, guise: Guise) {
    match (entry.leaf, entry.subleaf.unwrap_or(0)) {
        (1, _) => {
            entry.ebx = (entry.ebx & 0x0000_ffff) | (vcpus.min(0xff) << 16) | (id << 24);
            entry.ecx |= HYPERVISOR | X2APIC | TSC_DEADLINE;
            // Nested guests' page tables would be read from shared memory by KVM: wrong data.
            entry.ecx &= !VMX;
            if vcpus > 1 {
                entry.edx |= HTT;
            }
            if guise == Guise::Sev {
                entry.ecx &= !PCID;
            }
        }
        // Extended topology: one thread a core, all cores in one package.
        (0xb | 0x1f, 0) => topology(entry, id, 0, 1, 0x100),
        (0xb | 0x1f, 1) => topology(entry, id, id_bits(vcpus), vcpus, 0x201),
        (0xb | 0x1f, _) => topology(entry, id, 0, 0, entry.subleaf.unwrap_or(0) & 0xff),
        // KVM writes clock, steal time and asynchronous page faults to the shared copy of a page, while a guest that
        // doesn't know its memory is private reads the private one: offer nothing. A guest in the guise shares those
        // pages itself.
        (KVM_FEATURES, _) => {
            (entry.eax, entry.edx) = match guise {
                Guise::None => (0, 0),
                Guise::Sev => (entry.eax | KVM_FEATURE_HC_MAP_GPA_RANGE | KVM_FEATURE_MIGRATION_CONTROL, 0),
            };
        }
        (0x8000_0000, _) if guise == Guise::Sev => entry.eax = entry.eax.max(MEMORY_ENCRYPTION),
        (0x8000_0001, _) => entry.ecx &= !SVM,
        // Cores in the package less one, and the bits of an APIC id that number them.
        (0x8000_0008, _) => entry.ecx = (entry.ecx & !0xf0ff) | (vcpus - 1).min(0xff) | (id_bits(vcpus) << 12),
        (0x8000_001e, _) => (entry.eax, entry.ebx) = (id, id & 0xff),
        (MEMORY_ENCRYPTION, _) => {
            (entry.eax, entry.ebx, entry.ecx, entry.edx) = match guise {
                Guise::None => (0, 0, 0, 0),
                Guise::Sev => (SEV, GUISE_C_BIT, 0, 0),
            };
        }
        _ => {}
    }
}

fn topology(entry: &mut CpuidEntry, id: u32, shift: u32, processors: u32, level: u32) {
    (entry.eax, entry.ebx, entry.ecx, entry.edx) = (shift, processors, level, id);
}

/// Bits that number `vcpus` things.
fn id_bits(vcpus: u32) -> u32 {
    vcpus.next_power_of_two().trailing_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered() -> Vec<CpuidEntry> {
        let entry = |leaf, subleaf| CpuidEntry { leaf, subleaf, eax: 0x8000_0010, ebx: !0, ecx: !0, edx: !0 };
        [0, 1, KVM_FEATURES, 0x8000_0000, 0x8000_0001, 0x8000_0008, 0x8000_001e]
            .map(|leaf| entry(leaf, None))
            .into_iter()
            .chain([entry(0xb, Some(0)), entry(0xb, Some(1))])
            .collect()
    }

    fn find(entries: &[CpuidEntry], leaf: u32, subleaf: Option<u32>) -> CpuidEntry {
        *entries.iter().find(|entry| entry.leaf == leaf && entry.subleaf == subleaf).unwrap()
    }

    #[test]
    fn every_vcpu_has_its_own_x2apic_id_everywhere() {
        for id in [0, 1, 7, 254] {
            let entries = for_vcpu(&offered(), id, 255, Guise::None);
            assert_eq!(find(&entries, 1, None).ebx >> 24, id);
            assert_eq!(find(&entries, 0xb, Some(0)).edx, id);
            assert_eq!(find(&entries, 0xb, Some(1)).edx, id);
            assert_eq!(find(&entries, 0x8000_001e, None).eax, id);
        }
        let level = find(&for_vcpu(&offered(), 0, 3, Guise::None), 0xb, Some(1));
        assert_eq!((level.eax, level.ebx, level.ecx), (2, 3, 0x201));
    }

    /// UMIP is the CPU's own or none: KVM's would read the guest's code from shared memory.
    #[test]
    fn umip_only_where_the_host_has_it() {
        let leaf = |leaf, subleaf| CpuidEntry { leaf, subleaf, eax: 1, ebx: !0, ecx: !0, edx: !0 };
        let offered = vec![leaf(1, None), leaf(7, Some(0)), leaf(7, Some(1))];
        let has_it = CpuFacts { flags: ["umip".to_owned()].into(), ..CpuFacts::default() };
        assert_eq!(without_emulated(offered.clone(), &has_it), offered);
        let left = without_emulated(offered.clone(), &CpuFacts::default());
        assert_eq!(find(&left, 7, Some(0)).ecx, !UMIP);
        assert_eq!([left[0], left[2]], [offered[0], offered[2]]);
    }

    /// A guest that keeps all its memory private must not be offered what KVM would write to the shared copy.
    #[test]
    fn nothing_that_needs_shared_pages_without_the_guise() {
        let entries = for_vcpu(&offered(), 0, 1, Guise::None);
        assert_eq!(find(&entries, KVM_FEATURES, None).eax, 0);
        assert_eq!(find(&entries, 1, None).ecx & VMX, 0);
        assert_eq!(find(&entries, 0x8000_0001, None).ecx & SVM, 0);
        assert!(!entries.iter().any(|entry| entry.leaf == MEMORY_ENCRYPTION && entry.eax != 0));
    }

    /// What the PSP would not promise is not shown, and what is each vCPU's own stays so.
    #[test]
    fn corrections_are_applied_to_every_vcpu() {
        let correction = |register, asked, allowed| Correction { leaf: 1, subleaf: 0, register, asked, allowed };
        let mut entries = for_snp_vcpu(&offered(), 1, 2);
        let before = find(&entries, 1, None);
        let corrections = [correction("ecx", before.ecx, 1), correction("ebx", 0x00ff_0801, 0x00ff_0800)];
        correct(&mut entries, &corrections);
        let after = find(&entries, 1, None);
        assert_eq!((after.ecx, after.ebx), (1, before.ebx & !1));
        assert_eq!(after.ebx >> 24, 1);
    }

    #[test]
    fn an_snp_guest_sees_what_encrypts_it() {
        let encryption = CpuidEntry { leaf: MEMORY_ENCRYPTION, ebx: 0xf173, eax: !0, ecx: !0, ..CpuidEntry::default() };
        let offered = [offered(), vec![encryption, CpuidEntry { leaf: 2, ..CpuidEntry::default() }]].concat();
        let entries = for_snp_vcpu(&offered, 0, 1);
        let leaf = find(&entries, MEMORY_ENCRYPTION, None);
        assert_eq!((leaf.eax, leaf.ebx, leaf.ecx), (0b11010, 0x173, 0));
        assert!(!entries.iter().any(|entry| entry.leaf == 2));
    }

    #[test]
    fn the_guise_shows_sev_and_hides_pcid() {
        let entries = for_vcpu(&offered(), 0, 1, Guise::Sev);
        let leaf = find(&entries, MEMORY_ENCRYPTION, None);
        assert_eq!((leaf.eax, leaf.ebx), (SEV, GUISE_C_BIT));
        assert_eq!(find(&entries, 1, None).ecx & PCID, 0);
        assert!(find(&entries, 0x8000_0000, None).eax >= MEMORY_ENCRYPTION);
        let wanted = KVM_FEATURE_HC_MAP_GPA_RANGE | KVM_FEATURE_MIGRATION_CONTROL;
        assert_eq!(find(&entries, KVM_FEATURES, None).eax & wanted, wanted);
    }
}

//! A vCPU's registers as the page that is measured.
//!
//! Written from the specification by offsets, apart from `snp::vmsa`: AMD APM volume 2, appendix B, table B-4; what KVM
//! adds, from Linux 7.2, `sev_es_sync_vmsa`, `svm_set_efer`, `svm_set_cr4`.

use gmem::vcpu::{Segment, VcpuState};
use tenure_silicon::units::Page;

/// The page of a vCPU with these registers and SEV features.
pub(crate) fn page(state: &VcpuState, features: u64) -> Page {
    let mut page = [0; 4096];
    let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
    let mut segment = |at: usize, segment: &Segment| {
        put(at, &segment.selector.to_le_bytes());
        put(at + 2, &segment.attributes.to_le_bytes());
        put(at + 4, &segment.limit.to_le_bytes());
        put(at + 8, &segment.base.to_le_bytes());
    };
    // ES, SS, DS, FS, GS; then CS, GDTR, LDTR, IDTR, TR.
    for at in [0x00, 0x20, 0x30, 0x40, 0x50] {
        segment(at, &state.data);
    }
    segment(0x10, &state.cs);
    segment(0x60, &state.gdtr);
    segment(0x70, &state.ldtr);
    segment(0x80, &state.idtr);
    segment(0x90, &state.tr);
    let mut word = |at: usize, value: u64| page[at..at + 8].copy_from_slice(&value.to_le_bytes());
    word(0xd0, state.efer | 0x1000);
    word(0x148, state.cr4 | 0x40);
    word(0x150, state.cr3.0);
    word(0x158, state.cr0);
    word(0x160, 0x400);
    word(0x168, 0xffff_0ff0);
    word(0x170, 2);
    word(0x178, state.rip);
    word(0x268, 0x0007_0406_0007_0406);
    word(0x310, state.rdx);
    word(0x338, state.rdi);
    word(0x3b0, features | 1);
    word(0x3e8, 1);
    word(0x408, 0x1f80);
    word(0x410, 0x37f);
    page
}

//! Law *one-launch*: what is predicted, what the PSP has kept, and what it signs are one digest.

use gmem::launch::Launch;
use sev::certs::snp::{Certificate, Chain, Verifiable, ca};
use sev::firmware::guest::AttestationReport;
use sev::parser::ByteParser;
use silicon_kvm::SiliconKernel;
use silicon_kvm::script::Step;
use snp::id_block::Identity;
use snp::measure::launch_digest;
use tenure_silicon::model::Model;
use tenure_silicon::report::EndorsementKey;

use crate::bed::{End, OVMF_SECRETS, drive_all, identity, kernel, ours, ovmf, run, script, tear_down};

const DATA: [u8; 64] = [0xd5; 64];
/// GHCB MSR value: termination requested, general reason.
const TERMINATE: u64 = 0x100;

/// The Rust crate `sev` reads the report and verifies it with the platform's certificates.
fn verified(kernel: &SiliconKernel, bytes: &[u8]) -> AttestationReport {
    let report = AttestationReport::from_bytes(bytes).unwrap();
    let table = kernel.platform().certificates(EndorsementKey::Vcek).unwrap();
    let der = |bytes: &[u8]| Certificate::from_der(bytes).unwrap();
    let chain = Chain { ca: ca::Chain { ark: der(&table.ark), ask: der(&table.intermediate) }, vek: der(&table.vek) };
    (&chain, &report).verify().unwrap();
    report
}

fn one_digest(model: Model, launch: &Launch<Identity>, secrets: gmem::Gpa) {
    let kernel = kernel(model);
    let report = Step::Report { secrets, data: DATA, certificates: None };
    script(&kernel, 0, [report, Step::Terminate(TERMINATE)]);
    let predicted = launch_digest(launch).unwrap();
    let mut guest = run(&kernel, launch);
    assert_eq!(kernel.digest(kernel.vms()[0]), Some(predicted.0), "kept by the PSP");
    assert_eq!(drive_all(&kernel, &mut guest)[0], End::Terminated(TERMINATE));
    let reports = kernel.reports();
    let signed = verified(&kernel, &reports[0].report);
    assert_eq!(signed.measurement[..], predicted.0, "signed");
    assert_eq!((&signed.report_data[..], &signed.host_data[..]), (&DATA[..], &launch.identity.host_data[..]));
    assert_eq!(u64::from(signed.policy), launch.identity.policy.to_raw());
    tear_down(&kernel, guest);
}

const VCPUS: [u32; 4] = [1, 2, 4, 64];

#[test]
fn one_launch_predicted_kept_and_signed_with_our_firmware() {
    let identity = || Identity { host_data: [0x7e; 32], ..identity() };
    for (vcpus, model) in VCPUS.into_iter().zip([Model::Milan, Model::Genoa, Model::Turin, Model::Milan]) {
        one_digest(model, &ours(vcpus, identity()), gmem::Gpa(guest_fw::abi::SNP_SECRETS));
    }
}

#[test]
fn one_launch_predicted_kept_and_signed_with_ovmf() {
    for (vcpus, model) in VCPUS.into_iter().zip([Model::Milan, Model::Genoa, Model::Turin, Model::Milan]) {
        one_digest(model, &ovmf(vcpus, identity()), OVMF_SECRETS);
    }
}

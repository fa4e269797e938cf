//! Law *one-launch*: the digest predicted is the one others predict, bit for bit. Known answers of
//! `tests/vectors/snp`, which were computed with the Python package `sev-snp-measure`; where the Rust crate `sev`
//! says otherwise, the reason is here.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test: what it reads is its own")]

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use snp::cpu::CpuModel;
use snp::hashes::KernelHashes;
use snp::measure::{MeasureError, Measured, regions};
use snp::ovmf::Ovmf;
use snp::vmsa::{Role, SevFeatures, Vmm, Vmsa};

/// Rows whose firmware is another package's, and not kept here.
const ELSEWHERE: [&str; 2] = ["deb:trixie:", "deb:bookworm:"];

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors")
}

fn firmware(name: &str) -> Vec<u8> {
    static UNPACKED: OnceLock<Vec<u8>> = OnceLock::new();
    if let Some(name) = name.strip_prefix("vectors:") {
        return fs::read(vectors().join("snp/measure").join(name)).unwrap();
    }
    assert!(name.starts_with("deb:sid:ovmf-amdsev="), "{name}");
    let unpack = || {
        let packed = fs::File::open(vectors().join("firmware/OVMF.amdsev.fd.zst")).unwrap();
        let mut image = Vec::new();
        ruzstd::decoding::StreamingDecoder::new(packed).unwrap().read_to_end(&mut image).unwrap();
        image
    };
    UNPACKED.get_or_init(unpack).clone()
}

/// What a row of the table calls `kernel.bin` or `initrd.bin`.
fn generated(file: Option<&str>) -> Vec<u8> {
    let (seed, bytes) = match file {
        None => return Vec::new(),
        Some("kernel.bin") => ("kernel", 65_536u64),
        Some("initrd.bin") => ("initrd", 131_072),
        Some(other) => panic!("no such file: {other}"),
    };
    (0..bytes / 32).flat_map(|number| Sha256::digest(format!("{seed}-{number}"))).collect()
}

/// The digest of what a row describes, or why there is none.
fn measure(row: &Value) -> Result<String, MeasureError> {
    let text = |field: &str| row[field].as_str();
    let image = firmware(text("firmware").unwrap());
    assert_eq!(hex(&Sha256::digest(&image)), text("firmware_sha256").unwrap());
    let ovmf = Ovmf::parse(image).unwrap();
    let vmm = match text("vmm").unwrap() {
        "QEMU" => Vmm::Qemu,
        "ec2" => Vmm::Ec2,
        "gce" => Vmm::Gce,
        other => panic!("no such VMM: {other}"),
    };
    let cpu: CpuModel = text("vcpu_type").unwrap().parse().unwrap();
    let features = u64::from_str_radix(text("guest_features").unwrap().trim_start_matches("0x"), 16).unwrap();
    let hashes = text("kernel").map(|kernel| {
        let cmdline = text("append").unwrap_or_default();
        KernelHashes::of(&generated(Some(kernel)), &generated(text("initrd")), cmdline)
    });
    let regions = regions(&ovmf, vmm, hashes.as_ref())?;
    let vmsa = |role| Vmsa::at_reset(vmm, cpu, SevFeatures(features), role);
    let application = vmsa(Role::Application { eip: ovmf.ap_eip });
    let mut pages = 0;
    let measured = Measured::new(&regions, &vmsa(Role::Boot), &application, |_| pages += 1);
    assert!(pages >= ovmf.image.bytes().len() / 4096);
    let vcpus = u32::try_from(row["vcpus"].as_u64().unwrap()).unwrap();
    measured.digest(vcpus, |_| {}).map(|digest| digest.to_string())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn one_launch_known_answers() {
    let table: Vec<Value> =
        serde_json::from_slice(&fs::read(vectors().join("snp/measure/expected.json")).unwrap()).unwrap();
    let elsewhere = |row: &&Value| ELSEWHERE.iter().any(|place| row["firmware"].as_str().unwrap().starts_with(place));
    let (left_out, rows): (Vec<&Value>, Vec<&Value>) = table.iter().partition(elsewhere);
    println!("{} rows, and {} whose firmware is not kept here", rows.len(), left_out.len());
    assert_eq!((rows.len(), left_out.len()), (19, 4));
    for row in rows {
        let expected = row["launch_digest"].as_str().unwrap();
        match measure(row) {
            Ok(digest) => assert_eq!(digest, expected, "{row:#}"),
            Err(error) => {
                assert!(expected.starts_with("ERROR: Kernel specified but OVMF metadata doesn't "), "{error}: {row:#}");
                assert!(matches!(error, MeasureError::NoPlaceForHashes(_)), "{error}");
            }
        }
        // `sev` 8.0.0 has rdx 0 on EC2, where `sev-snp-measure` 0.0.13 has 0x600 and we as well; of GCE it knows
        // nothing.
        let other = row["sev_crate_8_0_0"].as_str();
        let expects_another = matches!(row["vmm"].as_str(), Some("ec2"));
        assert!(other.is_none_or(|other| (other != "same") == expects_another), "{row:#}");
    }
}

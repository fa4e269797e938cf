//! Law *one-launch*: of guests that nobody would make, two other tools predict the same digest. The Rust crate `sev` is
//! called here; what the Python package `sev-snp-measure` says is kept in `tests/vectors/snp/measure/random.json`.
//!
//! Anew: `TENURE_ORACLE_INPUTS=DIRECTORY cargo test -p snp --test oracles -- --ignored`, then
//! `tests/vectors/snp/measure/answer.py DIRECTORY`.

#![expect(clippy::unwrap_used, reason = "a test: what it reads is its own")]

mod firmware;
mod input;
mod random;

use std::path::{Path, PathBuf};
use std::{env, fs};

use serde_json::Value;
use sev::measurement::snp::{SnpMeasurementArgs, snp_calc_launch_digest};
use sev::measurement::vcpu_types::CpuType;
use sev::measurement::vmsa::{GuestFeatures, VMMType};
use sev::parser::ByteParser;
use snp::hashes::KernelHashes;
use snp::measure::{MeasureError, Measured, regions};
use snp::ovmf::Ovmf;
use snp::vmsa::{Role, SevFeatures, Vmm, Vmsa};

use firmware::{Firmware, PAGE, TABLE_ROOM};
use input::{Boot, INPUTS, Input};
use random::Random;

/// What we say.
fn ours(input: &Input) -> Result<String, MeasureError> {
    ours_with(input, |cmdline| cmdline, |_| {})
}

/// What we would say if the command line were another, and the vCPUs' registers.
fn ours_with(
    input: &Input,
    cmdline: impl FnOnce(&str) -> &str,
    registers: impl Fn(&mut Vmsa),
) -> Result<String, MeasureError> {
    let vmm = match input.vmm {
        "QEMU" => Vmm::Qemu,
        "ec2" => Vmm::Ec2,
        _ => Vmm::Gce,
    };
    let ovmf = Ovmf::parse(&*input.image).unwrap();
    let hashes = input.boot.as_ref().map(|Boot { kernel, initrd, cmdline: line }| {
        let line = cmdline(line.as_deref().unwrap_or_default());
        KernelHashes::of(kernel, initrd.as_deref().unwrap_or_default(), line)
    });
    let regions = regions(&ovmf, vmm, hashes.as_ref())?;
    let cpu = input.vcpu_type.parse().unwrap();
    let vmsa = |role| {
        let mut vmsa = Vmsa::at_reset(vmm, cpu, SevFeatures(input.features), role);
        registers(&mut vmsa);
        vmsa
    };
    let application = vmsa(Role::Application { eip: ovmf.ap_eip });
    let measured = Measured::new(&regions, &vmsa(Role::Boot), &application, |_| {});
    measured.digest(input.vcpus, |_| {}).map(|digest| digest.to_string())
}

/// What the crate `sev` says.
fn theirs(input: &Input, directory: &Path) -> Result<String, String> {
    let (ovmf_file, kernel_file, initrd_file) = input.write(directory, "input");
    let arguments = SnpMeasurementArgs {
        vcpus: input.vcpus,
        vcpu_type: CpuType::try_from(input.vcpu_type).unwrap(),
        ovmf_file,
        guest_features: GuestFeatures::from_bytes(&input.features.to_le_bytes()).unwrap(),
        kernel_file,
        initrd_file,
        append: input.boot.as_ref().and_then(|boot| boot.cmdline.as_deref()),
        ovmf_hash_str: None,
        vmm_type: Some(if input.vmm == "ec2" { VMMType::EC2 } else { VMMType::QEMU }),
    };
    snp_calc_launch_digest(arguments).map(|digest| digest.get_hex_ld()).map_err(|error| error.to_string())
}

fn answers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/snp/measure/random.json")
}

#[test]
fn one_launch_as_sev_snp_measure_says() {
    let answers: Vec<Value> = serde_json::from_slice(&fs::read(answers()).unwrap()).unwrap();
    assert_eq!(answers.len(), INPUTS as usize);
    let mut refused = 0;
    for (number, answer) in (0..).zip(&answers) {
        let input = Input::any(number);
        assert_eq!(answer["number"], number);
        assert_eq!(
            answer["input"],
            input.sum(),
            "input {number} is another than was answered: are all to be answered anew?"
        );
        match ours(&input) {
            Ok(digest) => assert_eq!(answer["launch_digest"], digest, "input {number}"),
            Err(error) => {
                assert!(matches!(error, MeasureError::NoPlaceForHashes(_)), "input {number}: {error}");
                assert!(answer["error"].is_string() && answer["launch_digest"].is_null(), "input {number}: {answer}");
                refused += 1;
            }
        }
    }
    // Kernels that the firmware could not recognise.
    assert!((20..100).contains(&refused), "{refused}");
}

/// They differ in two things, and in nothing else:
///
/// - On EC2 `sev` has 0 in `rdx`. `sev-snp-measure` has 0x600 as we do: so Linux' KVM resets a vCPU that has not been
///   given any CPUID values yet.
/// - It takes white space off both ends of a command line. QEMU hashes it as it is given, and hands it on like that.
#[test]
fn one_launch_as_the_crate_sev_says() {
    let directory = tempfile::tempdir().unwrap();
    let (mut same, mut differ) = (0, 0);
    // It knows no GCE.
    for (number, input) in
        (0..INPUTS).map(|number| (number, Input::any(number))).filter(|(_, input)| input.vmm != "gce")
    {
        let theirs = theirs(&input, directory.path());
        let (Ok(digest), Ok(their_digest)) = (ours(&input), &theirs) else {
            assert!(ours(&input).is_err() && theirs.is_err(), "input {number}: {theirs:?}");
            continue;
        };
        let line = input.boot.as_ref().and_then(|boot| boot.cmdline.as_deref()).unwrap_or_default();
        if input.vmm != "ec2" && line == line.trim() {
            assert_eq!(*their_digest, digest, "input {number}");
            same += 1;
        } else {
            let rdx = |vmsa: &mut Vmsa| vmsa.rdx = if input.vmm == "ec2" { 0 } else { vmsa.rdx };
            assert_ne!(*their_digest, digest, "input {number}");
            assert_eq!(*their_digest, ours_with(&input, str::trim, rdx).unwrap(), "input {number}");
            differ += 1;
        }
    }
    assert!(same > 60 && differ > 100, "{same} {differ}");
}

/// Images that no guest can be launched with as the crate `sev` measures it, though it does measure them.
#[test]
fn no_silent_trust_what_others_measure_all_the_same() {
    const CPUID: [u32; 3] = [0x80_b000, 0x1000, 3];
    let directory = tempfile::tempdir().unwrap();
    let refused = |change: fn(&mut Firmware), what: &str| {
        let mut firmware = Firmware {
            pages: vec![0; PAGE],
            reset: 0x80_b004,
            hash_table: Some((0x80_cc00, 0x400)),
            sections: vec![[0x80_0000, 0x9000, 1], CPUID, [0x80_c000, 0x1000, 0x10]],
            metadata: (0, 0),
            unknown: Vec::new(),
            order: 0,
        };
        let mut input = Input { image: firmware.image(), boot: None, ..Input::any(0) };
        input.vmm = "QEMU";
        assert_eq!(theirs(&input, directory.path()).unwrap(), ours(&input).unwrap());
        change(&mut firmware);
        input.image = firmware.image();
        assert!(theirs(&input, directory.path()).is_ok(), "{what}");
        let error = Ovmf::parse(input.image).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    };
    // A page that is the guest's already is not given to it again: SNP_LAUNCH_UPDATE fails.
    refused(|firmware| firmware.sections.push([0x80_8000, 0x1000, 1]), "overlaps section 0");
    // A VMM hands over the whole section, but only its first page is measured.
    refused(|firmware| firmware.sections[1][1] = 0x2000, "CPUID is one page");
    // Of the type only the lowest byte is looked at.
    refused(|firmware| firmware.sections[1][2] = 0x103, "no such type is known");
    // It measures the hashes in a page in which the firmware does not look for them.
    refused(|firmware| firmware.hash_table = Some((0x80_1c00, 0x400)), "not in its section for them");
    // It leaves out all vCPUs but the first; QEMU refuses such a firmware.
    refused(|firmware| firmware.reset = 0, "is zero");
}

/// Whatever is changed in an image's tables: it is an error, or all it asks for is where a guest can have it.
#[test]
fn no_silent_trust_changed_images() {
    let random = &mut Random::new(1);
    let (mut read, mut refused) = (0, 0);
    for _ in 0..200 {
        let firmware = Firmware { pages: random.bytes(2 * PAGE), ..Firmware::any(random) };
        let listed = 16 + 12 * firmware.sections.len();
        let place = random.size(0, 2 * PAGE - TABLE_ROOM - listed - firmware.metadata.1 as usize);
        let image = Firmware { metadata: (place, firmware.metadata.1), ..firmware }.image();
        for _ in 0..200 {
            let (word, bytes) = (random.word().to_le_bytes(), random.one_of(&[1, 2, 4]));
            let edge = random.one_of(&[0, 1, 0xfff, 0x1000, 0x7fff_ffff, 0x8000_0000, 0xffff_f000, u32::MAX]);
            let new = if random.once_in(2) { word[..bytes].to_vec() } else { edge.to_le_bytes()[..bytes].to_vec() };
            let at = match random.once_in(2) {
                true => place + random.size(0, listed - 4),
                false => image.len() - random.size(36, 600),
            };
            let mut image = image.clone();
            image[at..at + bytes].copy_from_slice(&new);
            let Ok(ovmf) = Ovmf::parse(image) else {
                refused += 1;
                continue;
            };
            read += 1;
            for vmm in [Vmm::Qemu, Vmm::Ec2, Vmm::Gce] {
                let regions = regions(&ovmf, vmm, None).unwrap();
                assert!(regions.iter().all(|region| region.range.end_number() <= 1 << 20));
                assert!(
                    (1..regions.len())
                        .all(|at| regions[..at].iter().all(|other| !other.range.overlaps(regions[at].range)))
                );
            }
            assert!(ovmf.hash_table.is_none_or(|gpa| gpa.0 % 4096 + 176 <= 4096));
        }
    }
    assert!(read > 5000 && refused > 5000, "{read} {refused}");
}

/// Where `answer.py` finds them.
#[test]
#[ignore = "writes the inputs to the directory TENURE_ORACLE_INPUTS, to be answered anew"]
fn write_inputs() {
    let directory = PathBuf::from(env::var_os("TENURE_ORACLE_INPUTS").unwrap());
    fs::create_dir_all(&directory).unwrap();
    for number in 0..INPUTS {
        Input::any(number).write(&directory, &format!("{number:03}"));
    }
}

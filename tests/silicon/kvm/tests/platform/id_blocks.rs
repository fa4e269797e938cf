//! ID blocks: one that is right is launched and stands in reports; one that is wrong in any field ends the launch.

use std::fs;
use std::path::Path;

use gmem::launch::Launch;
use sev::firmware::guest::AttestationReport;
use sev::parser::ByteParser;
use silicon_kvm::script::Step;
use snp::digest::Digest;
use snp::id_block::keys::IdKey;
use snp::id_block::{IdAuth, IdBlock, Identity, ImageIdentity, SignedBlock};
use snp::launch::Certificates;
use snp::measure::launch_digest;
use tenure_silicon::model::Model;
use zerocopy::IntoBytes;

use crate::bed::{assert_gone, drive_all, identity, kernel, launch, ours, run, script, tear_down};

fn key(name: &str) -> IdKey {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../vectors/snp/idblock");
    IdKey::from_pem(&fs::read_to_string(folder.join(name)).unwrap()).unwrap()
}

const IMAGE: ImageIdentity = ImageIdentity { family_id: [1; 16], image_id: [2; 16], guest_svn: 3 };

/// A launch with the ID block that belongs to it.
fn signed() -> Launch<Identity> {
    let mut launch = ours(2, identity());
    let digest = launch_digest(&launch).unwrap();
    let block = IdBlock::new(digest, launch.identity.policy, IMAGE);
    let auth = IdAuth::sign(&block, &key("id_key_test.pem"), Some(&key("author_key_test.pem")));
    launch.identity.signed = Some(Box::new(SignedBlock { block, auth }));
    launch
}

#[test]
fn one_launch_signed_block_stands_in_reports() {
    let (kernel, launch) = (kernel(Model::Genoa), signed());
    let secrets = gmem::Gpa(guest_fw::abi::SNP_SECRETS);
    script(&kernel, 0, [Step::Report { secrets, data: [0; 64], certificates: None }]);
    let mut guest = run(&kernel, &launch);
    drive_all(&kernel, &mut guest);
    let report = AttestationReport::from_bytes(&kernel.reports()[0].report).unwrap();
    let block = launch.identity.signed.as_deref().unwrap();
    let digests = block.auth.verify(&block.block).unwrap();
    assert_eq!(report.id_key_digest[..], digests.id_key.0);
    assert_eq!(report.author_key_digest[..], digests.author_key.unwrap().0);
    assert_eq!((&report.family_id[..], &report.image_id[..], report.guest_svn), (&[1; 16][..], &[2; 16][..], 3));
    tear_down(&kernel, guest);
}

/// Launches with `change`d bytes of the block or of its authentication; says how the firmware's refusal is explained.
fn refused(change: impl FnOnce(&mut [u8], &mut [u8])) -> String {
    let mut plan = signed();
    let right = plan.identity.signed.take().unwrap();
    let (mut block, mut auth) = (right.block.as_bytes().to_vec(), right.auth.as_bytes().to_vec());
    change(&mut block, &mut auth);
    let read = |bytes: &[u8]| zerocopy::FromBytes::read_from_bytes(bytes).unwrap();
    plan.identity.signed = Some(Box::new(SignedBlock { block: read(&block), auth: IdAuth::parse(&auth).unwrap() }));
    refused_launch(&plan)
}

fn refused_launch(plan: &Launch<Identity>) -> String {
    let kernel = kernel(Model::Milan);
    let Err((failed, vcpus)) = launch(&kernel, plan, Certificates::None) else { panic!("it was launched") };
    let why = failed.why().to_string();
    let receipt = failed.teardown(vcpus);
    assert!(receipt.is_clean() && receipt.pages_before_key(), "{receipt:?}");
    assert_gone(&kernel);
    assert!(why.starts_with("finish the launch: KVM_SEV_SNP_LAUNCH_FINISH"), "{why}");
    why
}

/// sealed-is-sealed: a wrong ID block ends the launch with a clear error, and nothing is left of it.
#[test]
fn sealed_is_sealed_wrong_in_any_field() {
    let flip = |at: usize| move |bytes: &mut [u8]| bytes[at] ^= 1;
    for (field, at, says) in [
        // Signatures are checked first, so a block that is changed after signing fails by its signature.
        ("LD", 0x00, "BAD_SIGNATURE"),
        ("FAMILY_ID", 0x30, "BAD_SIGNATURE"),
        ("IMAGE_ID", 0x40, "BAD_SIGNATURE"),
        ("VERSION", 0x50, "INVALID_PARAM"),
        ("GUEST_SVN", 0x54, "BAD_SIGNATURE"),
        ("POLICY", 0x5a, "BAD_SIGNATURE"),
    ] {
        let why = refused(|block, _| flip(at)(block));
        assert!(why.contains(says), "{field}: {why}");
    }
    for (field, at, says) in [
        ("ID_KEY_ALGO", 0x000, "INVALID_PARAM"),
        ("ID_BLOCK_SIG", 0x040, "BAD_SIGNATURE"),
        ("ID_KEY.CURVE", 0x240, "INVALID_PARAM"),
        ("ID_KEY.QX", 0x244, "BAD_SIGNATURE"),
        ("ID_KEY_SIG", 0x680, "BAD_SIGNATURE"),
        ("AUTHOR_KEY.CURVE", 0x880, "INVALID_PARAM"),
        ("AUTHOR_KEY.QY", 0x8cc, "BAD_SIGNATURE"),
    ] {
        let why = refused(|_, auth| flip(at)(auth));
        assert!(why.contains(says) || why.contains("INVALID"), "{field}: {why}");
    }
    let why = refused(|_, auth| auth[4] = 2);
    assert!(why.contains("INVALID_PARAM"), "AUTH_KEY_ALGO: {why}");
}

/// sealed-is-sealed: a block that is signed well but for another launch, or for another policy.
#[test]
fn sealed_is_sealed_signed_for_another_launch() {
    let mut plan = signed();
    let resigned = |digest: Digest, policy| {
        let block = IdBlock::new(digest, policy, IMAGE);
        let auth = IdAuth::sign(&block, &key("id_key_test.pem"), None);
        Some(Box::new(SignedBlock { block, auth }))
    };
    let digest = launch_digest(&plan).unwrap();
    plan.identity.signed = resigned(Digest([0; 48]), plan.identity.policy);
    let why = refused_launch(&plan);
    assert!(why.contains("BAD_MEASUREMENT") && why.contains("tenure measure snp"), "{why}");
    plan.identity.signed = resigned(digest, "smt,abi=1.50".parse().unwrap());
    let why = refused_launch(&plan);
    assert!(why.contains("POLICY_FAILURE"), "{why}");
}

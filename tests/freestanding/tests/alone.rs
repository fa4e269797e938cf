//! `attest` needs `alloc` and nothing else: a program without any library verifies evidence, and no part of the
//! dependency tree asks for one.
//!
//! The program is built as its own, for the same target: with a standard library anywhere below it there would be two
//! handlers of panics, which is an error, and without a C library nothing else would resolve. While it verifies it may ask
//! the kernel for nothing.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::env;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tenure_freestanding::{PARTS, Part, pack};

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Cargo, with nothing of how this test was built.
fn cargo() -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    for (name, _) in env::vars_os() {
        let name_lossy = name.to_string_lossy();
        let keep = matches!(&*name_lossy, "CARGO_HOME" | "CARGO_NET_OFFLINE");
        if !keep && ["CARGO", "RUSTC", "RUSTFLAGS", "MAKEFLAGS"].iter().any(|prefix| name_lossy.starts_with(prefix)) {
            cargo.env_remove(&name);
        }
    }
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    cargo
}

fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn build() -> PathBuf {
    let target_dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("alone");
    let flags = "--cfg=freestanding\x1f-Crelocation-model=static\x1f-Cforce-unwind-tables=no";
    let mut build = cargo();
    build.args(["build", "--quiet", "--locked", "--bin", "freestanding", "--profile", "freestanding"]);
    // With an explicit target the flags stay away from build scripts.
    build.args(["--target", TARGET, "--target-dir"]).arg(&target_dir).env("CARGO_ENCODED_RUSTFLAGS", flags);
    succeeded(&build.output().unwrap());
    target_dir.join(TARGET).join("freestanding/freestanding")
}

fn evidence() -> [Vec<u8>; PARTS] {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vectors");
    let file = |name: &str| std::fs::read(vectors.join(name)).unwrap();
    let collateral: Value = serde_json::from_slice(&file("tdx/attest/real/v4-uptodate-phala.collateral.json")).unwrap();
    let text = |key: &str| collateral[key].as_str().unwrap().to_owned();
    let bytes = |key: &str| -> Vec<u8> {
        let digits: Vec<_> =
            text(key).chars().map(|digit| u8::try_from(digit.to_digit(16).unwrap()).unwrap()).collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    };
    let mut parts = [const { Vec::new() }; PARTS];
    for (part, contents) in [
        (Part::Report, file("snp/attest/real/turin-v5-ms.report")),
        (Part::Vcek, file("snp/attest/real/turin-v5-ms.vek.der")),
        (Part::Ask, file("snp/attest/amd/ask-turin.der")),
        (Part::AmdCrl, file("snp/attest/amd/crl-turin.der")),
        (Part::SnpNow, b"2026-09-01T00:00:00Z".to_vec()),
        (Part::Quote, file("tdx/attest/real/v4-uptodate-phala.quote")),
        (Part::TcbInfo, text("tcb_info").into()),
        (Part::TcbInfoSignature, bytes("tcb_info_signature")),
        (Part::TcbInfoChain, text("tcb_info_issuer_chain").into()),
        (Part::QeIdentity, text("qe_identity").into()),
        (Part::QeIdentitySignature, bytes("qe_identity_signature")),
        (Part::QeIdentityChain, text("qe_identity_issuer_chain").into()),
        (Part::RootCrl, bytes("root_ca_crl")),
        (Part::PckCrl, bytes("pck_crl")),
        (Part::TdxNow, b"2025-06-25T00:00:00Z".to_vec()),
    ] {
        parts[part as usize] = contents;
    }
    parts
}

fn run(program: &Path, input: &[u8]) -> Output {
    let mut child = Command::new(program).env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn evidence_is_verified_without_any_library_and_without_asking_the_kernel_for_anything() {
    let program = build();
    // No interpreter, nothing to load at run time.
    let elf = std::fs::read(&program).unwrap();
    assert!(!elf.windows(4).any(|window| window == b"ld-l" || window == b"libc"), "it names a C library");

    let mut parts = evidence();
    assert_eq!(succeeded(&run(&program, &pack(&parts))), "AMD's root of Turin: Affirmed\nIntel's root: UpToDate\n");
    // What it says depends on what it is given.
    parts[Part::Quote as usize][200] ^= 1;
    let refused = run(&program, &pack(&parts));
    assert_eq!(refused.status.code(), Some(1));
    let text = String::from_utf8(refused.stdout).unwrap();
    assert!(text.starts_with("evidence is rejected: quote.signature: "), "{text}");
}

/// What a crate may not even be able to ask for: features `std`, and what reaches a kernel, a clock or randomness.
#[test]
fn no_crate_below_attest_has_a_standard_library_or_a_way_out() {
    let arguments = ["tree", "--locked", "--package", "attest", "--edges", "normal,no-proc-macro"];
    let tree = cargo().args(arguments).args(["--target", TARGET, "--prefix", "none", "--format", "{lib} {f}"]).output();
    let tree = succeeded(&tree.unwrap());
    let crates: Vec<_> = tree.lines().filter_map(|line| line.trim_end_matches(" (*)").split_once(' ')).collect();
    let has = |name: &str| crates.iter().any(|(is, _)| *is == name);
    assert!(["attest", "der", "p256", "p384", "crypto_bigint", "serde_json"].into_iter().all(has), "{tree}");
    let with_std: Vec<_> = crates.iter().filter(|(_, features)| features.split(',').any(|it| it == "std")).collect();
    assert!(with_std.is_empty(), "{with_std:?}");
    for name in [
        "std",
        "aws_lc_rs",
        "aws_lc_sys",
        "libc",
        "rustix",
        "getrandom",
        "rand_core_os",
        "time",
        "chrono",
        "kvm_ioctls",
        "kvm_bindings",
    ] {
        assert!(!has(name), "{name}");
    }
}

//! Bad input that only a host which could run the guest gets to see: the real `tenure`, told what cannot be.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::bench::{Bench, INITRD, KERNEL, linux};
use crate::vmm::Program;
use test_harness::Verdict;

/// Fields of the setup header (Linux `Documentation/arch/x86/boot.rst`).
const PREF_ADDRESS: usize = 0x258;
const INIT_SIZE: usize = 0x260;

/// What is given, the exit code, and what the error must say: field and value.
struct Bad {
    arguments: Vec<String>,
    code: u32,
    says: Vec<String>,
}

fn bad(arguments: &[&str], code: u32, says: &[&str]) -> Bad {
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    Bad { arguments: owned(arguments), code, says: owned(says) }
}

/// The end of what the kernel needs of memory, by its own header.
fn kernel_end(image: &[u8]) -> Option<u64> {
    let pref_address = u64::from_le_bytes(image.get(PREF_ADDRESS..PREF_ADDRESS + 8)?.try_into().ok()?);
    let init_size = u32::from_le_bytes(image.get(INIT_SIZE..INIT_SIZE + 4)?.try_into().ok()?);
    Some(pref_address + u64::from(init_size))
}

/// no-silent-trust: each is refused with field and value, with the right exit code, and without a VM.
pub(crate) fn bad_input(bench: &mut Bench) -> Result<Verdict> {
    let image = fs::read(bench.kernel_here())?;
    let put = |name: &str, mut contents: &[u8]| bench.host.put(name, 0o644, &mut contents);
    put("/guest/setup-only", &image[..1024])?;
    put("/guest/half", &image[..image.len() / 2])?;
    let end = kernel_end(&image).context("the lab's kernel has no setup header")?;
    // Room for the kernel, to the page, and for no RAM disk.
    let just_enough = format!("{}K", end.div_ceil(4096) * 4);
    let just_too_little = format!("{}K", end.div_ceil(4096) * 4 - 4);

    let cases = [
        bad(&["--kernel", "/guest/setup-only"], 1, &["kernel `/guest/setup-only` is truncated", "1024"]),
        bad(&["--kernel", "/guest/half"], 1, &["kernel `/guest/half`", "syssize", "truncated"]),
        bad(&["--kernel", "/bin/look"], 1, &["kernel `/bin/look`"]),
        bad(
            &["--kernel", KERNEL, "--initrd", INITRD, "--memory", &just_enough],
            1,
            &["initrd `/guest/initrd`", "does not fit"],
        ),
        bad(&["--kernel", KERNEL, "--memory", &just_too_little], 1, &["kernel `/guest/kernel`", "which is not RAM"]),
        bad(&["--kernel", KERNEL, "--memory", "16M"], 1, &["kernel `/guest/kernel`"]),
        bad(&["--memory", "2T"], 2, &["memory of 2 TiB", "40 bits"]),
        bad(&["--tee", "snp"], 2, &["tee snp"]),
        bad(&["--tee", "tdx"], 2, &["tee tdx"]),
    ];
    for Bad { arguments, code, says } in cases {
        let check = || -> Result<()> {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let (ended, lives) = bench.finish(bench.start(Program::Tenure, &arguments)?)?;
            ended.check_code(code)?;
            let error = ended.messages.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
            ensure!(says.iter().all(|part| error.contains(part)), "{says:?} are not in: {}", ended.said());
            ensure!(lives.0.is_empty(), "there was a VM: {lives:?}");
            Ok(())
        };
        check().with_context(|| arguments.join(" "))?;
    }
    // A file here is memory of the lab host, whose amount is looked at in the end.
    put("/guest/half", &[])?;
    // The files these were made from are sound.
    let arguments = linux("tenure.test=dmesg");
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    bench.run(Program::Tenure, &arguments)?.check_code(0)?;
    Ok(Verdict::Passed)
}

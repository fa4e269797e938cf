//! The program that libFuzzer drives: one target at a time.
//!
//! Owns its arguments and what a panic means. Built by `cargo xtask fuzz`, with flags that count coverage.
#![expect(unsafe_code, reason = "libFuzzer is C++, and calls and is called by its own names")]

use std::env;
use std::ffi::{CString, c_char, c_int};
use std::fs;
use std::path::Path;
use std::process::{ExitCode, abort};
use std::sync::OnceLock;

// It brings libFuzzer itself.
use libfuzzer_sys as _;
use tenure_fuzz::{TARGETS, Target};

static TARGET: OnceLock<&'static Target> = OnceLock::new();

unsafe extern "C" {
    fn LLVMFuzzerRunDriver(
        count: *mut c_int,
        arguments: *mut *mut *mut c_char,
        test: unsafe extern "C" fn(*const u8, usize) -> c_int,
    ) -> c_int;
}

/// What libFuzzer's crate calls with an input.
#[unsafe(no_mangle)]
#[allow(improper_ctypes_definitions, reason = "both sides are Rust")]
extern "C" fn rust_fuzzer_test_input(input: &[u8]) -> i32 {
    if let Some(target) = TARGET.get() {
        target.check(input);
    }
    0
}

unsafe extern "C" fn test(data: *const u8, size: usize) -> c_int {
    // An empty input may come without an address.
    let input = if size == 0 {
        &[]
    } else {
        // SAFETY: libFuzzer says that there are as many bytes, and leaves them alone until this returns.
        unsafe { std::slice::from_raw_parts(data, size) }
    };
    rust_fuzzer_test_input(input)
}

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let (command, name) = (arguments.next(), arguments.next());
    match (command.as_deref(), name.as_deref().and_then(Target::named)) {
        (Some("list"), _) => {
            TARGETS.iter().for_each(|target| println!("{} {}", target.name, target.longest()));
            ExitCode::SUCCESS
        }
        (Some("seeds"), Some(target)) => match arguments.next().map(|directory| seeds(target, Path::new(&directory))) {
            Some(Ok(())) => ExitCode::SUCCESS,
            other => {
                eprintln!("error: {other:?}");
                ExitCode::FAILURE
            }
        },
        (Some("run"), Some(target)) => run(target, arguments),
        _ => {
            eprintln!("usage: tenure-fuzz list | seeds TARGET DIRECTORY | run TARGET ARGUMENTS-OF-LIBFUZZER");
            ExitCode::FAILURE
        }
    }
}

/// Writes seeds and inputs that were once too much, and a dictionary beside their directory.
fn seeds(target: &Target, directory: &Path) -> std::io::Result<()> {
    fs::create_dir_all(directory)?;
    let regressions = target.regressions().into_iter().map(|(_, input)| input);
    for (number, seed) in (target.seeds)().into_iter().chain(regressions).enumerate() {
        fs::write(directory.join(format!("seed-{number:02}")), seed)?;
    }
    let words: String = target.words.iter().map(|word| format!("\"{word}\"\n")).collect();
    // libFuzzer takes no empty file.
    fs::write(directory.with_extension("dict"), format!("# words of {}\n{words}", target.name))
}

fn run(target: &'static Target, arguments: impl Iterator<Item = String>) -> ExitCode {
    let usual = std::panic::take_hook();
    // libFuzzer keeps the input of a process that ends like this.
    std::panic::set_hook(Box::new(move |info| {
        usual(info);
        abort();
    }));
    target.warm_up();
    let _ = TARGET.set(target);
    let arguments = std::iter::once("tenure-fuzz".to_owned()).chain(arguments);
    let arguments: Vec<_> = arguments.filter_map(|argument| CString::new(argument).ok()).collect();
    let mut pointers: Vec<*mut c_char> = arguments.iter().map(|argument| argument.as_ptr().cast_mut()).collect();
    pointers.push(std::ptr::null_mut());
    let mut count = c_int::try_from(arguments.len()).unwrap_or(c_int::MAX);
    let mut first = pointers.as_mut_ptr();
    // SAFETY: the arguments are as those of a C `main`, and live until the end; `test` reads what it is given.
    let code = unsafe { LLVMFuzzerRunDriver(&raw mut count, &raw mut first, test) };
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

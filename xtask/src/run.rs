//! `cargo xtask run`: the main job.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use tenure_lab::{Lab, Target};

use crate::files::{self, Travelling};
use crate::place::Place;
use crate::progress::{Shown, shown};
use crate::proof;

/// Memory of the lab host beyond the guest's.
const HOST_MEMORY_MIB: u32 = 1024;
/// What the default guest does: it verifies its memory before and while somebody writes over its alias.
const DEFAULT_TESTS: &str = "memory:16,wait,memory:16,sleep,dmesg,wait";

/// Options of `cargo xtask run`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Where to run
    #[arg(long, value_enum, default_value_t = Where::Auto)]
    place: Where,
    /// Shows attestation instead, from a launch to a secret: a guest without a network asks a relying party for the key of
    /// its disk, and gets it if its launch is the predicted one; guests of which one byte differs do not
    #[arg(long)]
    attest: bool,
    /// Arguments of `tenure run`; without --kernel, the lab's own kernel and the test userland are booted
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Where to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Where {
    /// Here if this host can, else in the lab
    Auto,
    /// On this host
    Here,
    /// In the lab
    Lab,
}

/// What is booted.
struct Job {
    arguments: Vec<String>,
    /// Path here, path there.
    files: Vec<(PathBuf, String)>,
    back: Vec<(String, PathBuf)>,
    /// Whether the guest is ours and waits for the privacy proof.
    proves: bool,
}

/// Does the main job and returns `tenure`'s exit code.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let mut progress = shown();
    let (here, why) = can_run_here(options.place)?;
    eprintln!("place: {}", if here { "this host" } else { "the lab (an emulated host with the real KVM)" });
    eprintln!("why: {why}");
    eprintln!("The first run builds what it needs (the lab: 10 to 30 minutes on two cores); later ones take seconds.");
    let lab = Lab::provision(&tenure_lab::Options::default(), &mut progress)?;
    let tenure = lab.build_static("tenure", &Target::Bin("tenure".to_owned()), &mut progress)?;
    if options.attest || options.arguments == ["--attest"] {
        return crate::attest::run(&lab, &tenure, here, &mut progress);
    }
    let scratch = tempfile::tempdir()?;
    let mut job = job(options, &lab, scratch.path(), &mut progress)?;
    let (place, program) = if here {
        (Place::Here, tenure.display().to_string())
    } else {
        let Travelling { arguments, there, back } = files::travel(&job.arguments);
        job.arguments = arguments;
        job.files.extend(there);
        job.back = back;
        let program = "/bin/tenure".to_owned();
        job.files.push((tenure, program.clone()));
        (Place::lab(&lab, memory_mib(&job.arguments)?, std::mem::take(&mut job.files))?, program)
    };
    let code = boot(&place, &program, &job)?;
    for (there, here) in &job.back {
        std::fs::write(here, place.read(there)?).with_context(|| here.display().to_string())?;
    }
    place.leave()?;
    Ok(ExitCode::from(code))
}

/// Whether this host can run guests with private memory, in `tenure check`'s own judgement.
fn can_run_here(place: Where) -> Result<(bool, String)> {
    match place {
        Where::Here => return Ok((true, "asked for with --place here".to_owned())),
        Where::Lab => return Ok((false, "asked for with --place lab".to_owned())),
        Where::Auto => {}
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["run", "--quiet", "--package", "tenure", "--bin", "tenure", "--", "check", "--json"])
        .output()
        .context("cannot build tenure")?;
    match output.status.code() {
        Some(0) => Ok((true, "tenure check finds it capable".to_owned())),
        Some(2) => {
            let report: serde_json::Value = serde_json::from_slice(&output.stdout).context("tenure check --json")?;
            let reason = report["tees"]["sw"]["findings"][0]["reason"].as_str();
            Ok((
                false,
                format!("this host cannot run guests with private memory: {}", reason.unwrap_or("see tenure check")),
            ))
        }
        _ => bail!("tenure check failed: {}", String::from_utf8_lossy(&output.stderr)),
    }
}

/// What to boot: the user's guest, or ours.
fn job(options: &Options, lab: &Lab, scratch: &Path, progress: &mut Shown) -> Result<Job> {
    let mut arguments = vec!["run".to_owned(), "--summary".to_owned()];
    arguments.extend(options.arguments.iter().cloned());
    let given = |name| files::value_of(&options.arguments, name).is_some();
    let mut proves = false;
    let bare = given("--config");
    if !bare && !given("--initrd") {
        let init = lab.build_static("test-guest", &Target::Bin("test-guest".to_owned()), progress)?;
        let initrd = scratch.join("initrd");
        std::fs::write(&initrd, test_guest::initrd(&std::fs::read(init)?)?)?;
        arguments.extend(["--initrd".to_owned(), initrd.display().to_string()]);
        if !given("--cmdline") {
            arguments.push("--cmdline".to_owned());
            arguments.push(format!("console=ttyS0 reboot=k panic=-1 quiet tenure.test={DEFAULT_TESTS}"));
            proves = true;
        }
    }
    if !bare && !given("--kernel") {
        arguments.extend(["--kernel".to_owned(), lab.kernel_image().display().to_string()]);
    }
    Ok(Job { arguments, files: Vec::new(), back: Vec::new(), proves })
}

/// The lab host needs what the guest may touch, and room for itself.
fn memory_mib(arguments: &[String]) -> Result<u32> {
    let guest = match files::value_of(arguments, "--memory") {
        None => 512,
        Some(text) => {
            let (digits, shift) =
                match text.trim_end_matches("iB").split_at_checked(text.trim_end_matches("iB").len() - 1) {
                    Some((digits, "G" | "g")) => (digits, 10),
                    Some((digits, "M" | "m")) => (digits, 0),
                    // Any other spelling is `tenure`'s to judge.
                    _ => ("512", 0),
                };
            digits.trim().parse::<u32>().unwrap_or(512) << shift
        }
    };
    Ok(HOST_MEMORY_MIB.saturating_add(guest))
}

/// Boots the guest, shows its console and what `tenure` says, and returns the exit code.
fn boot(place: &Place, tenure: &str, job: &Job) -> Result<u8> {
    let mut vmm = place.start(tenure, &job.arguments)?;
    let console = std::mem::replace(&mut vmm.stdout, Box::new(std::io::empty()));
    let messages = std::mem::replace(&mut vmm.stderr, Box::new(std::io::empty()));
    let (tell, waiting) = mpsc::channel();
    let console = thread::spawn(move || show_console(console, &tell));
    // What `tenure` says at the end is shown after the console's last line.
    let messages = thread::spawn(move || {
        let mut text = Vec::new();
        let mut messages = messages;
        let _ = messages.read_to_end(&mut text);
        text
    });
    let mut proof = Ok(String::new());
    if job.proves {
        let mut stdin = std::mem::replace(&mut vmm.stdin, Box::new(std::io::sink()));
        proof = proof::take(place, tenure, vmm.pid, &waiting, &mut *stdin);
    } else {
        pass_on_input(&mut vmm.stdin);
    }
    let _ = console.join();
    let messages = messages.join().unwrap_or_default();
    let code = vmm.wait()?;
    std::io::stderr().write_all(&messages)?;
    if job.proves {
        let proof = proof.context("privacy proof")?;
        eprintln!("\nprivacy proof, taken by another process:\n{}", proof.trim_end());
    }
    Ok(code)
}

/// Shows the guest's console, and tells when the guest waits.
fn show_console(console: Box<dyn Read + Send>, waiting: &mpsc::Sender<()>) {
    let mut out = std::io::stdout();
    for line in BufReader::new(console).split(b'\n') {
        let Ok(mut line) = line else { return };
        if String::from_utf8_lossy(&line).contains(proof::WAITING) {
            // Nobody waits for it outside the default guest.
            let _ = waiting.send(());
        }
        line.push(b'\n');
        let _ = out.write_all(&line);
        let _ = out.flush();
    }
}

/// Carries our standard input to the guest, if somebody is there to type.
fn pass_on_input(stdin: &mut Box<dyn Write + Send>) {
    use std::io::IsTerminal;
    if !std::io::stdin().is_terminal() {
        return;
    }
    let mut to = std::mem::replace(stdin, Box::new(std::io::sink()));
    // Ends with the process: there is no way to interrupt a read of the terminal.
    thread::spawn(move || std::io::copy(&mut std::io::stdin(), &mut to));
}

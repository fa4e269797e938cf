//! `cargo xtask run --attest`: from a launch to a secret, and what keeps others from it.
//!
//! Owns the order of it and the table at the end. What everybody's command line is, and what the guests have on board, is
//! [`test_guest::flow`]'s; who gets the key is for `tenure attest serve` to say, and nothing here knows it better.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use tenure_lab::{DebianKernel, Lab, Target};
use test_guest::flow::{self, Other, Scene};
use test_guest::payload::KEY_BYTES;

use crate::place::{Place, Running};
use crate::progress::Shown;

/// Memory of a lab host: the guest's 512 MiB, and room for itself and for two RAM disks.
const HOST_MEMORY_MIB: u32 = 2048;
/// Where things are on a host of the lab.
const LAB_DIR: &str = "/run/flow";
const LAB_TENURE: &str = "/bin/tenure";
const LAB_KERNEL: &str = "/guest/kernel";
/// Debian's own kernel, unmodified.
const DEBIAN_VERSION: &str = "6.12";
/// What the guest says of it.
const OPENED: &str = "guest: test attest ok ";
const REFUSED: &str = "guest: test attest failed: ";

/// How a guest ended.
struct Guest {
    what: String,
    got_key: bool,
    said: String,
    as_wanted: bool,
}

/// Everything that goes to the place.
struct Props {
    /// Of the test's root: name, mode, contents.
    root: Vec<(String, u32, Vec<u8>)>,
    key: [u8; KEY_BYTES],
    initrd: Vec<u8>,
    other_initrd: Vec<u8>,
    other_tenure: Vec<u8>,
}

/// Shows it, on this host or in the lab.
pub(crate) fn run(lab: &Lab, tenure: &Path, here: bool, progress: &mut Shown) -> Result<ExitCode> {
    let init = lab.build_static("test-guest", &Target::Bin("test-guest".to_owned()), progress)?;
    let image = lab.debian_guest(&DebianKernel::Version(DEBIAN_VERSION.to_owned()), progress)?;
    let scratch = tempfile::tempdir()?;
    let props = props(tenure, &init, scratch.path())?;
    let (dir, program, kernel, place);
    if here {
        dir = scratch.path().join("flow").display().to_string();
        (program, kernel) = (tenure.display().to_string(), image.display().to_string());
        place = Place::Here;
    } else {
        dir = LAB_DIR.to_owned();
        (program, kernel) = (LAB_TENURE.to_owned(), LAB_KERNEL.to_owned());
        let files = vec![(tenure.to_owned(), program.clone()), (image, kernel.clone())];
        place = Place::lab(lab, HOST_MEMORY_MIB, files)?;
    }
    let scene = Scene { dir: &dir, kernel: &kernel, tenure: &program };
    set_up(&place, &scene, &props)?;
    let party = relying_party(&place, &scene)?;

    let mut guests = vec![guest(&place, &scene, None)?];
    for other in Other::ALL {
        guests.push(guest(&place, &scene, Some(other))?);
    }
    let code = party.end()?;
    place.leave()?;
    eprintln!("\n{}", table(&guests));
    ensure!(code == 0, "the relying party ended with exit code {code}");
    let good = guests.iter().all(|guest| guest.as_wanted);
    eprintln!(
        "No hardware vouches for any of this: a test's root signed, and the relying party was told to accept it \
         (software-test)."
    );
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Makes what is needed, here.
fn props(tenure: &Path, init: &Path, scratch: &Path) -> Result<Props> {
    let root = scratch.join("root");
    eprintln!("\nA root of trust for tests: tenure attest testroot init");
    let made =
        Command::new(tenure).args(["attest", "testroot", "init", "--product", flow::PRODUCT]).arg(&root).output()?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut files = Vec::new();
    for file in fs::read_dir(&root)? {
        let file = file?;
        let mode = file.metadata()?.permissions().mode() & 0o777;
        files.push((file.file_name().to_string_lossy().into_owned(), mode, fs::read(file.path())?));
    }
    let mut key = [0; KEY_BYTES];
    fs::File::open("/dev/urandom")?.read_exact(&mut key)?;
    let tenure = fs::read(tenure)?;
    let initrd = flow::initrd(&fs::read(init)?, &tenure, &key)?;
    let other_initrd = flow::changed_initrd(initrd.clone())?;
    Ok(Props { root: files, key, initrd, other_initrd, other_tenure: flow::changed_firmware(tenure)? })
}

/// Puts everything where it belongs, and predicts the launch.
fn set_up(place: &Place, scene: &Scene<'_>, props: &Props) -> Result<()> {
    for (name, mode, contents) in &props.root {
        place.put(&scene.of_root(name), *mode, contents)?;
    }
    place.put(&scene.key(), 0o600, &props.key)?;
    place.put(&scene.initrd(), 0o644, &props.initrd)?;
    place.put(&scene.other_initrd(), 0o644, &props.other_initrd)?;
    place.put(&scene.other_tenure(), 0o755, &props.other_tenure)?;

    eprintln!("The launch, predicted before there is a guest: tenure measure sw");
    let mut predicting = place.start(scene.tenure, &scene.predict())?;
    let mut predicted = Vec::new();
    predicting.stdout.read_to_end(&mut predicted)?;
    let mut problems = String::new();
    predicting.stderr.read_to_string(&mut problems)?;
    let code = predicting.wait()?;
    ensure!(code == 0, "tenure measure sw: {problems}");
    let json: serde_json::Value = serde_json::from_slice(&predicted).context("tenure measure sw --json")?;
    eprintln!("  {}", json["digests"][0]["launch_digest"].as_str().unwrap_or_default());
    place.put(&scene.expected(), 0o644, &predicted)
}

/// Starts it, and waits until it listens.
fn relying_party(place: &Place, scene: &Scene<'_>) -> Result<Running> {
    let mut party = place.start(scene.tenure, &scene.serve())?;
    let mut listens = String::new();
    BufReader::new(std::mem::replace(&mut party.stdout, Box::new(std::io::empty()))).read_line(&mut listens)?;
    ensure!(!listens.is_empty(), "the relying party does not listen");
    eprintln!("The relying party, which has that prediction and the key of a disk: {}", listens.trim());
    // Nobody reads what it logs; it must not wait for somebody.
    let mut log = std::mem::replace(&mut party.stderr, Box::new(std::io::empty()));
    std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
    Ok(party)
}

/// Boots a guest, shows what it says of itself, and sees whether it got the key.
fn guest(place: &Place, scene: &Scene<'_>, other: Option<Other>) -> Result<Guest> {
    let what = other
        .map_or_else(|| "as predicted".to_owned(), |other| format!("with one byte of its {} changed", other.item()));
    eprintln!("\nA guest {what}");
    let (program, arguments) = scene.run(other);
    let mut vmm = place.start(&program, &[&["run".to_owned()], &arguments[..]].concat())?;
    let console = std::mem::replace(&mut vmm.stdout, Box::new(std::io::empty()));
    let messages = std::mem::replace(&mut vmm.stderr, Box::new(std::io::empty()));
    let messages = std::thread::spawn(move || {
        let (mut messages, mut text) = (messages, String::new());
        let _ = messages.read_to_string(&mut text);
        text
    });
    let mut said = String::new();
    for line in BufReader::new(console).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).trim_end().to_owned();
        let Some(at) = line.find("guest: ") else { continue };
        println!("  {}", &line[at..]);
        if let Some(found) = [OPENED, REFUSED].into_iter().find_map(|word| line.split_once(word)) {
            said = found.1.to_owned();
        }
    }
    let (code, messages) = (vmm.wait()?, messages.join().unwrap_or_default());
    ensure!(code == 0, "tenure run ended with exit code {code}: {messages}");
    let got_key = said.starts_with("payload ");
    let as_wanted = match other {
        None => said.contains(flow::TEXT),
        Some(other) => !got_key && said.contains(&format!("launch: {}", other.item())),
    };
    Ok(Guest { what, got_key, said, as_wanted })
}

fn table(guests: &[Guest]) -> String {
    let width = guests.iter().map(|guest| guest.what.len()).max().unwrap_or(0);
    let row = |guest: &Guest| {
        let key = if guest.got_key { "got the key" } else { "refused" };
        let mark = if guest.as_wanted { "" } else { "  NOT AS WANTED" };
        format!("  {:<width$}  {key:<11}  {}{mark}\n", guest.what, why(&guest.said))
    };
    guests.iter().map(row).collect()
}

/// Of a refusal, what the relying party says differs; of anything else, all of it.
fn why(said: &str) -> &str {
    said.find("launch: ").map_or(said, |at| said[at..].trim_end_matches([')', '.', '"']))
}

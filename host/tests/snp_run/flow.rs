//! From a prediction to a secret, with reports that the software platform signs: `tenure attest serve` knows what was
//! predicted, and guests that are launched ask it.
//!
//! What is not real is the program in the guest: a script has the report signed, and the test brings it to the relying
//! party. The relying party is a process of its own.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use attest::snp::CertificateTable;
use attest_kbs::client::evidence::launch_log::Logged;
use attest_kbs::client::evidence::{EvidenceSource, SourceError};
use attest_kbs::client::http::Http;
use attest_kbs::client::stream::Timed;
use attest_kbs::client::{ClientError, Session};
use attest_kbs::protocol::Tee;
use attest_kbs::protocol::evidence::Evidence;
use guest_fw::abi;
use silicon_kvm::script::Step;
use tempfile::TempDir;
use tenure::config::inputs::Inputs;
use tenure::config::values::VcpuCount;
use tenure::firmware::{self, FirmwareImage};
use tenure::measure::ours;
use tenure::run::Firmware;
use tenure::run::predict::{Predicted, SnpLaunches};
use tenure_silicon::report::EndorsementKey;

use crate::bed::{Bed, NOT_BUILT, predicted};
use crate::predicted::{linux, run_with, tenure};

const SECRET: &[u8] = b"the-key-of-a-disk-that-nobody-may-see";
const RESOURCE: &str = "default/key/disk";
/// The platform is a Milan, which nobody gets who does not name it.
const POLICY: &str = "[products.milan]\nsnp = 23\nmicrocode = 72\n";
/// Of the firmware, a byte of which can be changed and it is still one.
const MESSAGE: &[u8] = b"the kernel is truncated";

/// A guest that is launched when it is asked for evidence.
struct Launched {
    bed: Bed,
    firmware: Vec<u8>,
    /// What it has signed, if that is nothing that it was asked for.
    signs: Option<[u8; 64]>,
}

impl Launched {
    /// As a run with these arguments launches it.
    fn new(words: &[&str], firmware: &[u8]) -> Self {
        Self { bed: run_with(words), firmware: firmware.to_vec(), signs: None }
    }

    fn firmware(&self) -> Firmware<'_> {
        Firmware::Ours(FirmwareImage::parse(&self.firmware).unwrap())
    }

    /// What it is told of its launch.
    fn log(&self) -> Vec<u8> {
        // Files are read once.
        let (config, inputs) = (&self.bed.config, Inputs::open(&self.bed.config).unwrap());
        let launches = SnpLaunches::read_with_firmware(config, &inputs, self.firmware()).unwrap();
        let Predicted { launch, digest } = launches.with_vcpus(VcpuCount::ONE).unwrap();
        serde_json::to_vec(&ours::of_snp(config, &launch, digest).unwrap()).unwrap()
    }

    /// Asks the relying party for the secret.
    fn ask(self, party: &Party, log: Option<Vec<u8>>) -> Result<Vec<u8>, ClientError> {
        let source: Box<dyn EvidenceSource> = Box::new(self);
        let mut source = match log {
            Some(log) => Box::new(Logged::new(source, log)),
            None => source,
        };
        let http = Http::new(Timed::new(TcpStream::connect(&party.address).unwrap()).unwrap(), "relying-party");
        let mut session = Session::attest(http, source.as_mut())?;
        assert_eq!(session.tier(), "software-test");
        Ok(session.resource(&RESOURCE.parse().unwrap())?.to_vec())
    }
}

impl EvidenceSource for Launched {
    fn tee(&self) -> Tee {
        Tee::Snp
    }

    fn evidence(&mut self, report_data: &[u8; 64]) -> Result<Evidence, SourceError> {
        let data = self.signs.unwrap_or(*report_data);
        let ask = Step::Report { secrets: gmem::Gpa(abi::SNP_SECRETS), data, certificates: None };
        self.bed.script(0, [ask, Step::Terminate(NOT_BUILT)]);
        let (report, events) = self.bed.try_run_with(self.firmware());
        assert!(report.unwrap().teardown.is_clean());
        assert_eq!(self.bed.kernel.platform().violations(), []);
        assert_eq!(self.bed.measured(), [predicted(&events)]);
        let [reported] = self.bed.kernel.reports().try_into().unwrap_or_else(|_| unreachable!("it asked once"));
        let certificates = self.bed.kernel.platform().certificates(EndorsementKey::Vcek).unwrap().to_bytes();
        Ok(Evidence::Snp { report: reported.report.to_vec(), certificates: Some(certificates), launch_log: None })
    }
}

/// The relying party, while it is there.
struct Party {
    child: Child,
    address: String,
}

impl Party {
    /// It knows what was predicted, and the platform's root.
    fn start(dir: &TempDir, expected: &[u8]) -> Self {
        let path = |name: &str| dir.path().join(name);
        let table = Bed::new(1).kernel.platform().certificates(EndorsementKey::Vcek).unwrap().to_bytes();
        let root = CertificateTable::parse(&table).unwrap().endorsements().ark.unwrap();
        fs::create_dir_all(path("resources").join(RESOURCE).parent().unwrap()).unwrap();
        for (to, contents) in [
            (path("resources").join(RESOURCE), SECRET),
            (path("ark.der"), root),
            (path("policy.toml"), POLICY.as_bytes()),
            (path("expected.json"), expected),
        ] {
            fs::write(to, contents).unwrap();
        }
        let mut child = Command::new(env!("CARGO_BIN_EXE_tenure"))
            .args(["attest", "serve", "--resources", "resources", "--state", "state", "--listen", "127.0.0.1:0"])
            .args(["--test-root", "ark.der", "--allow-test-root", "milan", "--policy", "policy.toml"])
            .args(["--launch-digest", "expected.json"])
            .current_dir(dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut url = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut url).unwrap();
        let address = url.trim().strip_prefix("http://").unwrap().to_owned();
        Self { child, address }
    }
}

impl Drop for Party {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A copy with one bit of another value.
fn changed(path: &str, at: usize) -> String {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    let other = PathBuf::from(format!("{path}.changed"));
    fs::write(&other, bytes).unwrap();
    other.into_os_string().into_string().unwrap()
}

/// one-launch, no-silent-trust: the guest that was predicted gets the secret. One byte of its kernel, RAM disk, command
/// line or firmware, and it does not: the relying party says what differs, if the guest shows what was
/// launched, and refuses it as well if not.
#[test]
fn one_launch_a_secret_for_the_predicted_guest_only() {
    let dir = TempDir::new().unwrap();
    let [kernel, initrd] = linux(dir.path());
    let guest = |kernel: &str, initrd: &str, cmdline: &str| {
        ["--memory", "64M", "--kernel", kernel, "--initrd", initrd, "--cmdline", cmdline].map(ToOwned::to_owned)
    };
    let expected = guest(&kernel, &initrd, "quiet");
    fn words(guest: &[String; 8]) -> [&str; 8] {
        guest.each_ref().map(String::as_str)
    }
    let predict = ["measure", "snp", "--vcpu-type", "EPYC-Milan", "--trace", "--json"];
    let party = Party::start(&dir, &tenure(&[&predict[..], &words(&expected)].concat()));

    let firmware = firmware::image().unwrap().bytes();
    let mut other_firmware = firmware.to_vec();
    let message = firmware.windows(MESSAGE.len()).position(|window| window == MESSAGE).unwrap();
    other_firmware[message] ^= 1;
    let launched = |guest: &[String; 8], firmware: &[u8]| {
        Launched::new(&[&words(guest)[..], &["--vcpu-type", "EPYC-Milan"]].concat(), firmware)
    };

    for log in [false, true] {
        let guest = launched(&expected, firmware);
        let log = log.then(|| guest.log());
        assert_eq!(guest.ask(&party, log).unwrap(), SECRET);
    }
    let refused = |guest: Launched, log: Option<Vec<u8>>| {
        let error = guest.ask(&party, log).unwrap_err();
        let ClientError::Refused { status: 401, detail, .. } = error else { panic!("{error}") };
        detail
    };
    let unexplained = "(software-test) the evidence is not-met: reference.launch-digest";
    for (item, other, firmware) in [
        ("kernel", guest(&changed(&kernel, 3000), &initrd, "quiet"), firmware),
        ("initrd", guest(&kernel, &changed(&initrd, 4999), "quiet"), firmware),
        ("command line", guest(&kernel, &initrd, "quieu"), firmware),
        ("firmware", expected.clone(), &other_firmware),
    ] {
        let log = launched(&other, firmware).log();
        assert_eq!(refused(launched(&other, firmware), Some(log)), format!("{unexplained}, launch: {item}"));
        assert_eq!(refused(launched(&other, firmware), None), unexplained);
    }
    // Whose log is that of the expected guest is not believed.
    let other = guest(&kernel, &initrd, "quieu");
    let log = launched(&expected, firmware).log();
    let told = refused(launched(&other, firmware), Some(log));
    let not_its_own = format!("{unexplained}, launch: not explained: the log comes to launch digest ");
    assert!(told.starts_with(&not_its_own), "{told}");
    // Whose report answers another question is told nothing of its launch.
    let log = launched(&other, firmware).log();
    let told = refused(Launched { signs: Some([7; 64]), ..launched(&other, firmware) }, Some(log));
    assert_eq!(told, format!("{unexplained}, reference.report-data"));
}

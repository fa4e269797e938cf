//! Promise: the same for TDX guests: from two command lines to a secret, and what keeps others from it has a name.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use attest::eventlog::EventLog;
use attest_kbs::client::evidence::{EvidenceSource, SourceError};
use attest_kbs::client::stream::Timed;
use attest_kbs::client::{ClientError, Session};
use attest_kbs::protocol::Tee;
use attest_kbs::protocol::evidence::Evidence;
use base64ct::{Base64, Base64UrlUnpadded, Encoding};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha384};
use test_root::TdxRoot;
use test_root::tdx::{Collateral, Dates, Statement, Version};

use crate::party::{self, Party, RESOURCE, SECRET, Service, device, request, signing};

/// TCG PC Client Platform Firmware Profile, "Event Types", and TCG Algorithm Registry.
const EV_IPL: u32 = 0xd;
const TPM_ALG_SHA384: u16 = 0xc;

/// What the one guest has that is wanted.
const MRTD: [u8; 48] = [0x11; 48];
const RTMRS: [[u8; 48]; 4] = [[0x20; 48], [0x21; 48], [0x22; 48], [0; 48]];

/// A relying party's disk, and a root that signs quotes.
struct Place {
    dir: tempfile::TempDir,
    root: Arc<TdxRoot>,
}

/// A guest, whatever it asks for.
struct Td {
    root: Arc<TdxRoot>,
    statement: Statement,
    event_log: Option<Vec<u8>>,
    /// What it has signed in place of what it should.
    stale: Option<[u8; 64]>,
}

fn hex(bytes: &[u8]) -> String {
    snp::hex::text(bytes)
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = Arc::new(TdxRoot::init(&dir.path().join("root")).unwrap());
        fs::create_dir_all(dir.path().join("resources/default/key")).unwrap();
        fs::write(dir.path().join("resources").join(RESOURCE), SECRET).unwrap();
        Self { dir, root }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Serves guests that have these.
    fn serve_with(&self, mrtd: &[u8; 48], rtmr2: &[u8; 48], more: &[&str]) -> Service {
        let (mrtd, rtmr1, rtmr2) = (hex(mrtd), hex(&RTMRS[1]), hex(rtmr2));
        let wanted = ["--mrtd", &mrtd, "--rtmr1", &rtmr1, "--rtmr2", &rtmr2];
        Service::start(self.path(), &[&wanted[..], more].concat())
    }

    /// Serves the one guest below the test root.
    fn serve(&self, collateral: &str) -> Service {
        let below = ["--test-root", "root/root.der", "--allow-test-root", "intel", "--collateral", collateral];
        self.serve_with(&MRTD, &RTMRS[2], &below)
    }

    fn td(&self) -> Td {
        let statement = Statement { rtmrs: RTMRS, ..Statement::new(MRTD) };
        Td { root: self.root.clone(), statement, event_log: None, stale: None }
    }

    /// What would be published if it had ended an hour ago.
    fn ended(&self) -> Collateral {
        let hour = Duration::from_secs(3600);
        let dates = Dates { from: self.root.dates().from, to: UNIX_EPOCH.elapsed().unwrap() - hour };
        self.root.collateral_of(dates).unwrap()
    }
}

impl Td {
    fn answer(&self, data: &[u8; 64]) -> Value {
        let quote = self.root.sign(&Statement { report_data: *data, ..self.statement.clone() });
        json!({ "quote": Base64::encode_string(&quote) })
    }

    /// A device that has quotes signed for whoever opens it.
    fn device(self) -> PathBuf {
        let (path, master) = device();
        thread::spawn(move || signing(|data| self.answer(data), master.try_clone().unwrap(), master));
        path
    }

    /// What the service says to it.
    fn ask(mut self, service: &Service) -> Result<Session<Timed<TcpStream>>, String> {
        Session::attest(service.http(), &mut self).map_err(|error| match error {
            ClientError::Refused { status: 401, detail, .. } => detail,
            other => unreachable!("{other}"),
        })
    }
}

impl EvidenceSource for Td {
    fn tee(&self) -> Tee {
        Tee::Tdx
    }

    fn evidence(&mut self, report_data: &[u8; 64]) -> Result<Evidence, SourceError> {
        let report_data = self.stale.unwrap_or(*report_data);
        let quote = self.root.sign(&Statement { report_data, ..self.statement.clone() });
        Ok(Evidence::Tdx { quote, event_log: self.event_log.clone() })
    }
}

#[test]
fn a_td_gets_its_secret() {
    let place = Place::new();
    let service = place.serve("root/collateral");
    for version in [Version::V4, Version::V5] {
        let mut td = place.td();
        td.statement.version = version;
        let evidence = format!("test-tdx:{}", td.device().display());
        let (code, secret, said) = request(place.path(), &["--url", &service.url, "--evidence", &evidence]);
        assert_eq!((code, secret.as_str()), (0, SECRET), "{version:?}: {said}");
        assert!(said.starts_with("software-test: "), "{said}");
    }
    // A device of the other kind is one of neither.
    let evidence = format!("test:{}", place.td().device().display());
    assert_eq!(request(place.path(), &["--url", &service.url, "--evidence", &evidence]).0, 2);
}

/// no-silent-trust: a token below a test's root says so, and affirms no hardware.
#[test]
fn no_silent_trust_a_token_says_whose_word_it_is() {
    let place = Place::new();
    let session = place.td().ask(&place.serve("root/collateral")).unwrap();
    assert_eq!(session.tier(), "software-test");
    let payload = session.token().split('.').nth(1).unwrap();
    let claims: Value = serde_json::from_slice(&Base64UrlUnpadded::decode_vec(payload).unwrap()).unwrap();
    let cpu = &claims["submods"]["cpu0"];
    assert_eq!((&cpu["tenure_tier"], &cpu["ear_status"]), (&json!("software-test"), &json!("contraindicated")));
    let vector = &cpu["ear_trustworthiness_vector"];
    assert_eq!((&vector["hardware"], &vector["executables"]), (&json!(97), &json!(3)));
    let said = &cpu["ear_attester_claims"];
    assert_eq!((&said["tee"], &said["claims"]["quote"]["mrtd"]), (&json!("tdx"), &json!(hex(&MRTD))));
    assert_eq!(said["claims"]["quote"]["platform"]["tcb_status"], "UpToDate", "{said}");
}

/// no-silent-trust: whatever is wrong is refused, by the name of its check.
#[test]
fn no_silent_trust_refusals_have_names() {
    let place = Place::new();
    let service = place.serve("root/collateral");
    let refused = |change: fn(&mut Td)| {
        let mut td = place.td();
        change(&mut td);
        td.ask(&service).map(|_| ()).unwrap_err()
    };
    let not_met = |names: &str| format!("(software-test) the evidence is not-met: {names}");
    let rejected = |names: &str| format!("(software-test) the evidence is rejected: {names}");
    assert_eq!(refused(|td| td.statement.mr_td = [0x12; 48]), not_met("reference.mrtd"));
    assert_eq!(refused(|td| td.statement.rtmrs[2] = [0x23; 48]), not_met("reference.rtmr2"));
    assert_eq!(refused(|td| td.statement.attributes |= 1), not_met("policy.debug"));
    assert_eq!(refused(|td| td.statement.attributes = 0), not_met("policy.sept-ve"));
    // What was signed for another challenge, or for nobody's key.
    assert_eq!(refused(|td| td.stale = Some([0xda; 64])), not_met("reference.report-data"));
    // A log is not believed because somebody sends it.
    assert_eq!(refused(|td| td.event_log = Some(vec![1; 20])), not_met("log.form"));
    // Whoever makes a root of his own is nobody here.
    let stranger = refused(|td| td.root = Place::new().root);
    assert!(stranger.starts_with(&rejected("chain.root")), "{stranger}");
    let (code, _, said) = {
        let mut td = place.td();
        td.statement.mr_td = [0x12; 48];
        let evidence = format!("test-tdx:{}", td.device().display());
        request(place.path(), &["--url", &service.url, "--evidence", &evidence])
    };
    assert_eq!(code, 5, "{said}");
    assert!(said.contains("reference.mrtd"), "{said}");
}

/// So many events after those of the firmware, in RTMR3 (CCEL's index 4), as a TCG_PCR_EVENT2 each.
fn measured_by_the_system(events: u32) -> Vec<u8> {
    let event = |number: u32| {
        let data = number.to_le_bytes();
        let head = [4u32, EV_IPL, 1].map(u32::to_le_bytes).concat();
        let digest = Sha384::digest(data);
        [&head[..], &TPM_ALG_SHA384.to_le_bytes(), &digest, &4u32.to_le_bytes(), &data].concat()
    };
    (0..events).flat_map(event).collect()
}

/// A log that a real machine's firmware wrote, and its system went on with, is believed as far as it comes to the quote's RTMRs.
/// However long it is, its guest gets its secret.
#[test]
fn no_silent_trust_event_logs() {
    let place = Place::new();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/tdx/eventlog/gce-cos113.ccel");
    let log = [fs::read(path).unwrap(), measured_by_the_system(300)].concat();
    let below = ["--test-root", "root/root.der", "--allow-test-root", "intel", "--collateral", "root/collateral"];
    let service = Service::start(place.path(), &[&below[..], &["--mrtd", &hex(&MRTD)]].concat());
    let mut td = place.td();
    td.statement.rtmrs = EventLog::parse(&log).unwrap().replay();
    td.event_log = Some(log.clone());
    let mut session = td.ask(&service).unwrap();
    let payload = session.token().split('.').nth(1).unwrap();
    let claims: Value = serde_json::from_slice(&Base64UrlUnpadded::decode_vec(payload).unwrap()).unwrap();
    let cpu = &claims["submods"]["cpu0"];
    assert!(cpu["ear_attester_claims"]["claims"]["quote"].is_object(), "{cpu}");
    assert_eq!(*session.resource(&RESOURCE.parse().unwrap()).unwrap(), SECRET.as_bytes());
    assert_eq!(cpu["ear_trustworthiness_vector"]["executables"], Value::Null, "RTMRs were not compared with anything");
    let mut td = place.td();
    td.event_log = Some(log);
    let said = td.ask(&service).map(|_| ()).unwrap_err();
    let names = "log.rtmr0, log.rtmr1, log.rtmr2";
    assert!(said.starts_with(&format!("(software-test) the evidence is not-met: {names}")), "{said}");
}

/// no-silent-trust: nobody accepts a test's root who does not name it, and no quote without what Intel publishes.
#[test]
fn no_silent_trust_only_what_was_named() {
    let place = Place::new();
    let service = place.serve_with(&MRTD, &RTMRS[2], &["--collateral", "root/collateral"]);
    let said = place.td().ask(&service).map(|_| ()).unwrap_err();
    assert_eq!(said, "the evidence is rejected: chain.root", "no test is allowed, and none is labelled");
    drop(service);
    let service = Service::start(place.path(), &["--launch-digest", &hex(&MRTD)]);
    let said = place.td().ask(&service).map(|_| ()).unwrap_err();
    assert!(said.ends_with("is not judged here"), "{said}");
}

/// What Intel publishes ends while a service runs: it is read again, and nothing has to be begun anew.
#[test]
fn collateral_is_read_again() {
    let place = Place::new();
    place.ended().write(&place.path().join("published")).unwrap();
    let service = place.serve("published");
    let said = place.td().ask(&service).map(|_| ()).unwrap_err();
    let names = "crl.root.validity, crl.pck.validity, tcb-info.validity, qe-identity.validity";
    assert_eq!(said, format!("(software-test) the evidence is rejected: {names}"));
    let log = fs::read_to_string(place.path().join("log")).unwrap();
    assert!(log.contains("collateral is missing or out of date"), "{log}");

    fs::remove_dir_all(place.path().join("published")).unwrap();
    let said = place.td().ask(&service).map(|_| ()).unwrap_err();
    assert_eq!(said, "(software-test) the evidence is rejected: collateral.files");
    let log = fs::read_to_string(place.path().join("log")).unwrap();
    assert!(log.contains("no quote can be judged") && log.contains("published"), "{log}");

    place.root.collateral().write(&place.path().join("published")).unwrap();
    place.td().ask(&service).unwrap();
}

/// One service for guests of both, below a test's root of each.
#[test]
fn both_technologies_in_one_service() {
    let (party, place) = (Party::new(), Place::new());
    let (root, collateral) = (place.path().join("root/root.der"), place.path().join("root/collateral"));
    let (mrtd, root, collateral) = (hex(&MRTD), root.to_str().unwrap(), collateral.to_str().unwrap());
    let below = ["--test-root", root, "--allow-test-root", "intel", "--collateral", collateral, "--mrtd", &mrtd];
    let service = party.serve(&party.digest(), &below);
    let evidence = format!("test:{}", party.device().display());
    let (code, secret, said) = party.request(&["--url", &service.url, "--evidence", &evidence]);
    assert_eq!((code, secret.as_str()), (0, SECRET), "{said}");
    place.td().ask(&service).unwrap();
}

/// Slips in what is served are said before anybody is.
#[test]
fn slips_are_said_at_the_beginning() {
    let place = Place::new();
    let serve = |args: &[&str]| {
        let tenure = Command::new(env!("CARGO_BIN_EXE_tenure"))
            .args(["attest", "serve", "--resources", "resources", "--state", "state", "--listen", "127.0.0.1:0"])
            .args(args)
            .current_dir(place.path())
            .output()
            .unwrap();
        (tenure.status.code().unwrap(), String::from_utf8_lossy(&tenure.stderr).into_owned())
    };
    let mrtd = hex(&MRTD);
    let root = ["--test-root", "root/root.der", "--allow-test-root", "intel"];
    for (args, words) in [
        (&["--mrtd", &mrtd][..], "quotes are judged only with what Intel publishes: give collateral, too"),
        (&root, "give collateral, too"),
        (&["--collateral", "-"], "collateral is read again whenever a quote is judged: give files"),
        (&["--collateral", "resources"], "has no tcbInfo.json"),
        (&[&root[..], &root].concat(), "give one in place of a product's and one in place of intel's, no more"),
        (&[&root[..], &["--test-root", "x"]].concat(), "2 of test-root and 1 of allow-test-root: give one for each"),
    ] {
        let (code, said) = serve(args);
        assert_eq!(code, 1, "{args:?}: {said}");
        assert!(said.contains(words), "{args:?}: {said}");
    }
}

/// Promise: a client that is not ours, in another language, completes the flow.
#[test]
fn another_client_completes_the_flow_of_a_td() {
    let place = Place::new();
    let service = place.serve("root/collateral");
    let td = place.td();
    let socket = party::socket(place.path(), move |data| td.answer(data));
    party::another_client("another_client_completes_the_flow_of_a_td", &service, &socket, &["tdx"]);
}

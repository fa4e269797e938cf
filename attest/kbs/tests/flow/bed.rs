//! A service with a policy of its own, and guests that have reports signed.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use attest::UnixTime;
use attest::check::Checks;
use attest::ear::{TrustClaim, TrustVector};
use attest::snp::{self, Anchors, CertificateTable, Policy, Product, ReferenceValues, TcbFloor};
use attest_kbs::appraiser::{Appraiser, Granted, Refused, Release, Verdict};
use attest_kbs::client::http::Http;
use attest_kbs::client::stream::Timed;
use attest_kbs::protocol::Tee;
use attest_kbs::protocol::evidence::Evidence;
use attest_kbs::resources::Resources;
use attest_kbs::server::config::Config;
use attest_kbs::server::{Parts, Server, Stop};
use attest_kbs::state::StateDirectory;
use attest_kbs::store::Store;
use attest_kbs::token::Tokens;
use rustls::ServerConfig;
use tempfile::TempDir;

use crate::guest::Guest;

pub(crate) const SECRET: &[u8] = b"the-key-of-a-disk-that-nobody-may-see";
pub(crate) const RESOURCE: &str = "default/key/disk";

/// Wants this one guest.
struct Judge {
    anchors: Anchors,
    policy: Policy,
    references: ReferenceValues,
    release: Release,
}

impl Judge {
    fn new(guest: &Guest, release: Release) -> Self {
        let policy = Policy { products: [(Product::Milan, TcbFloor::default())].into(), ..Policy::default() };
        Self {
            anchors: Anchors::amd().with_test_root(Product::Milan, &guest.root()).unwrap(),
            policy,
            references: ReferenceValues { launch_digests: vec![guest.measurement()], ..ReferenceValues::default() },
            release,
        }
    }
}

fn refused(checks: &Checks) -> Refused {
    let failed = checks.failed().map(|check| check.id.name().to_owned()).collect();
    Refused { failed, label: Some("software-test") }
}

impl Appraiser for Judge {
    fn judges(&self, tee: Tee) -> bool {
        tee == Tee::Snp
    }

    fn policy_id(&self) -> &str {
        "test"
    }

    fn appraise(&self, evidence: &Evidence, report_data: &[u8; 64], _: UnixTime) -> Verdict {
        let Evidence::Snp { report, certificates: Some(table), .. } = evidence else { unreachable!("{evidence:?}") };
        let table = CertificateTable::parse(table).unwrap();
        // The platform's certificates are of a day long gone.
        let now = UnixTime::from_secs(1_780_272_000);
        let verified = match snp::verify(report, &table.endorsements(), &self.anchors, now) {
            Ok(verified) => verified,
            Err(rejected) => return Verdict::Rejected(refused(rejected.checks())),
        };
        let references = ReferenceValues { report_data: Some(*report_data), ..self.references.clone() };
        let appraisal = snp::appraise(&verified, &self.policy, &references);
        let claims = serde_json::json!({ "report_data": "…" });
        let vector = TrustVector { hardware: TrustClaim::AFFIRMED, ..TrustVector::default() };
        let valid_until = UnixTime::from_secs(u64::MAX);
        let granted = Granted { vector, claims, release: self.release.clone(), valid_until };
        match appraisal.verdict() {
            snp::Verdict::Affirmed => Verdict::Affirmed(granted),
            snp::Verdict::TestPassed => Verdict::TestPassed(granted),
            snp::Verdict::NotMet => Verdict::NotMet(refused(appraisal.checks())),
        }
    }
}

/// A service that runs until this is dropped.
pub(crate) struct Bed {
    pub(crate) address: SocketAddr,
    pub(crate) guest: Guest,
    pub(crate) dir: TempDir,
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

impl Bed {
    pub(crate) fn new() -> Self {
        Self::with(Config::default(), Release::All)
    }

    pub(crate) fn with(config: Config, release: Release) -> Self {
        Self::serve(config, release, None)
    }

    pub(crate) fn with_tls(config: Config, tls: Arc<ServerConfig>) -> Self {
        Self::serve(config, Release::All, Some(tls))
    }

    fn serve(config: Config, release: Release, tls: Option<Arc<ServerConfig>>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let [state, resources] = ["state", "resources"].map(|name| dir.path().join(name));
        let state = StateDirectory::make(&state).unwrap();
        fs::create_dir_all(resources.join("default/key")).unwrap();
        fs::write(resources.join(RESOURCE), SECRET).unwrap();
        let guest = Guest::new();
        let parts = Parts {
            appraiser: Box::new(Judge::new(&guest, release)),
            store: Store::open(&state, config.limits.most_sessions()).unwrap(),
            tokens: Tokens::open(&state, config.token).unwrap(),
            resources: Resources::open(&resources, config.limits.resource_bytes).unwrap(),
            tls,
        };
        let server = Server::bind("127.0.0.1:0".parse().unwrap(), config, parts).unwrap();
        let (address, stop) = (server.address(), server.stopper());
        let thread = thread::spawn(move || server.run().unwrap());
        Self { address, guest, dir, stop, thread: Some(thread) }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }

    pub(crate) fn http(&self) -> Http<Timed<TcpStream>> {
        Http::new(Timed::new(self.connect()).unwrap(), "kbs")
    }

    /// Everything that comes back for these bytes, until the other end closes.
    pub(crate) fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        // Who does not want them closes before they are through.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    pub(crate) fn get(&self, path: &str) -> String {
        String::from_utf8(self.http().request("GET", path, &[], None).unwrap().body).unwrap()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.stop.stop();
        let ended = self.thread.take().unwrap().join();
        if !thread::panicking() {
            ended.unwrap();
        }
    }
}

//! A relying party in a process of its own, and devices of a guest.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use attest_kbs::client::evidence::EvidenceSource as _;
use attest_kbs::client::http::Http;
use attest_kbs::client::stream::Timed;
use attest_kbs::protocol::evidence::Evidence;
use base64ct::{Base64, Encoding};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use serde_json::Value;
use snp::hex;
use tempfile::TempDir;

use crate::guest::Guest;

pub(crate) const SECRET: &str = "the-key-of-a-disk-that-nobody-may-see";
pub(crate) const RESOURCE: &str = "default/key/disk";
/// The platform is a Milan, which nobody gets who does not name it.
const POLICY: &str = "[products.milan]\nsnp = 23\nmicrocode = 72\n";

/// What a relying party has on its disk.
pub(crate) struct Party {
    pub(crate) dir: TempDir,
    pub(crate) guest: Guest,
}

/// A process of it.
pub(crate) struct Service {
    pub(crate) child: Child,
    pub(crate) url: String,
}

impl Party {
    pub(crate) fn new() -> Self {
        let guest = Guest::new();
        let party = Self { dir: tempfile::tempdir().unwrap(), guest };
        fs::create_dir_all(party.path("resources/default/key")).unwrap();
        fs::write(party.path("resources").join(RESOURCE), SECRET).unwrap();
        fs::write(party.path("ark.der"), party.guest.root()).unwrap();
        fs::write(party.path("policy.toml"), POLICY).unwrap();
        party
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn digest(&self) -> String {
        hex::text(&self.guest.measurement())
    }

    /// Serves guests with this launch digest; what it logs goes to a file.
    pub(crate) fn serve(&self, digest: &str, args: &[&str]) -> Service {
        let below = ["--test-root", "ark.der", "--allow-test-root", "milan", "--policy", "policy.toml"];
        Service::start(self.dir.path(), &[&below[..], &["--launch-digest", digest], args].concat())
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    /// What a guest gets that asks with these arguments: exit code, standard output, standard error.
    pub(crate) fn request(&self, args: &[&str]) -> (i32, String, String) {
        request(self.dir.path(), args)
    }

    /// A device that has reports signed for whoever opens it.
    pub(crate) fn device(&self) -> PathBuf {
        let (path, master) = device();
        let guest = self.guest.clone();
        thread::spawn(move || signing(|data| answer(&guest, data), master.try_clone().unwrap(), master));
        path
    }

    /// The same as a socket.
    pub(crate) fn socket(&self) -> PathBuf {
        let guest = self.guest.clone();
        socket(self.dir.path(), move |data| answer(&guest, data))
    }

    /// A device that leads to the service, as a console of a guest does.
    pub(crate) fn channel(&self, service: &Service) -> PathBuf {
        let (path, master) = device();
        let stream = TcpStream::connect(service.url.strip_prefix("http://").unwrap()).unwrap();
        let ways: [(Box<dyn Read + Send>, Box<dyn Write + Send>); 2] = [
            (Box::new(master.try_clone().unwrap()), Box::new(stream.try_clone().unwrap())),
            (Box::new(stream), Box::new(master)),
        ];
        for (mut from, mut to) in ways {
            thread::spawn(move || io::copy(&mut from, &mut to));
        }
        path
    }
}

impl Service {
    /// Serves what is in `resources` of this directory; what it logs goes to a file.
    pub(crate) fn start(dir: &Path, args: &[&str]) -> Self {
        let log = File::options().append(true).create(true).open(dir.join("log")).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_tenure"))
            .args(["attest", "serve", "--resources", "resources", "--state", "state", "--listen", "127.0.0.1:0"])
            .args(args)
            .current_dir(dir)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut url = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut url).unwrap();
        assert!(url.starts_with("http"), "{url:?}: {}", fs::read_to_string(dir.join("log")).unwrap());
        Self { child, url: url.trim().into() }
    }

    pub(crate) fn authority(&self) -> &str {
        self.url.strip_prefix("http://").unwrap()
    }

    pub(crate) fn http(&self) -> Http<Timed<TcpStream>> {
        Http::new(Timed::new(TcpStream::connect(self.authority()).unwrap()).unwrap(), "kbs")
    }

    /// kill -9.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a guest gets that asks with these arguments: exit code, standard output, standard error.
pub(crate) fn request(dir: &Path, args: &[&str]) -> (i32, String, String) {
    let tenure = Command::new(env!("CARGO_BIN_EXE_tenure"))
        .args(["attest", "request", "--resource", RESOURCE])
        .args(args)
        .current_dir(dir)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (tenure.status.code().unwrap(), text(tenure.stdout), text(tenure.stderr))
}

/// A file of certificates or keys for tests.
pub(crate) fn tls(name: &str) -> String {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../attest/kbs/tests/flow/tls");
    format!("{dir}/{name}")
}

/// A socket that answers whoever connects.
pub(crate) fn socket(dir: &Path, answer: impl Fn(&[u8; 64]) -> Value + Send + 'static) -> PathBuf {
    let path = dir.join("device.sock");
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            signing(&answer, stream.try_clone().unwrap(), stream);
        }
    });
    path
}

/// What a guest's device says to these bytes.
fn answer(guest: &Guest, data: &[u8; 64]) -> Value {
    let evidence = guest.clone().evidence(data).unwrap();
    let Evidence::Snp { report, certificates: Some(certificates), .. } = evidence else { unreachable!() };
    serde_json::json!({
        "attestation_report": Base64::encode_string(&report),
        "certificates": Base64::encode_string(&certificates),
    })
}

/// Answers until nobody asks any more.
pub(crate) fn signing(answer: impl Fn(&[u8; 64]) -> Value, mut from: impl Read, mut to: impl Write) {
    let mut data = [0; 64];
    while from.read_exact(&mut data).is_ok() {
        let answer = answer(&data).to_string();
        let length = u32::try_from(answer.len()).unwrap().to_le_bytes();
        to.write_all(&[&length[..], answer.as_bytes()].concat()).unwrap();
    }
}

/// Has the client in Python get the secret, or says why it cannot run here.
pub(crate) fn another_client(test: &str, service: &Service, socket: &Path, more: &[&str]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/kbs-client/kbs_client.py");
    let client = Command::new("python3").arg(script).arg(&service.url).arg(socket).arg(RESOURCE).args(more).output();
    let client = match client {
        Ok(client) if client.status.code() != Some(77) => client,
        other => {
            let why = other.map_or_else(
                |error| format!("python3: {error}"),
                |client| String::from_utf8_lossy(&client.stderr).trim().to_owned(),
            );
            println!("not run: {test}: {why}");
            return;
        }
    };
    let said = String::from_utf8_lossy(&client.stderr);
    assert_eq!((client.status.code(), String::from_utf8_lossy(&client.stdout).as_ref()), (Some(0), SECRET), "{said}");
    assert_eq!(said, "tier software-test\n");
}

/// A character device without a terminal's ways, and its other end.
pub(crate) fn device() -> (PathBuf, File) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let slave = File::options().read(true).write(true).open(&name).unwrap();
    let mut raw = tcgetattr(&slave).unwrap();
    raw.make_raw();
    tcsetattr(&slave, OptionalActions::Now, &raw).unwrap();
    // While somebody has it open, nobody who opens it is the last.
    std::mem::forget(slave);
    (Path::new(&name).into(), master.into())
}

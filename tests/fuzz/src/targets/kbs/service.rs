//! The relying party over HTTP: bytes of several connections to the service itself.
//!
//! Owns a language in which bytes can answer what they were told: most bytes are sent as they are, a few stand for
//! something that an honest guest would say now, which no input could guess. Below it is everything that `tenure attest
//! serve` has but sockets: hyper, the store on disk, tokens, resources. Who judges wants evidence to be the 64 bytes that it
//! should have in it and nothing else, and counts.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use attest::UnixTime;
use attest::ear::{TrustClaim, TrustVector};
use attest_kbs::appraiser::{Appraiser, Granted, Refused, Release, Verdict};
use attest_kbs::protocol::evidence::Evidence;
use attest_kbs::protocol::jwe::{GuestSecret, Jwe};
use attest_kbs::protocol::{COOKIE, HashAlgorithm, Tee, binding};
use attest_kbs::resources::Resources;
use attest_kbs::server::config::{Config, Limits};
use attest_kbs::server::{Desk, Parts};
use attest_kbs::state::StateDirectory;
use attest_kbs::store::Store;
use attest_kbs::token::Tokens;
use base64ct::{Base64, Encoding};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::runtime::Runtime;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// What stands for something else.
const COOKIE_HERE: u8 = 0x80;
const NONCE: u8 = 0x81;
const KEY: u8 = 0x82;
const EVIDENCE: u8 = 0x83;
const TOKEN: u8 = 0x84;
/// The length of what follows the next empty line.
const LENGTH: u8 = 0x85;
/// What was said so far is to be answered.
const LISTEN: u8 = 0xfe;
/// The next connection goes on.
const OTHER: u8 = 0xff;

const CONNECTIONS: usize = 3;
/// More than one connection of the service holds.
const PIPE: usize = 1 << 16;
/// How long an answer is waited for that may not come: an input may have said half of what it asks.
const PATIENCE: Duration = Duration::from_millis(15);
/// Most that is sent in all, after what stands for something was put in.
const MOST: usize = 1 << 18;
/// A file three names below what has the vectors.
const RESOURCE: &str = "tdx/eventlog/td-shim.ccel";
/// Inputs that one service answers: its sessions are all kept.
const INPUTS: usize = 300;

pub(crate) const WORDS: &[&str] = &[
    "POST /kbs/v0/auth HTTP/1.1\\x0D\\x0A",
    "POST /kbs/v0/attest HTTP/1.1\\x0D\\x0A",
    "GET /kbs/v0/resource/tdx/eventlog/td-shim.ccel HTTP/1.1\\x0D\\x0A",
    "GET /metrics HTTP/1.1\\x0D\\x0A",
    "GET /healthz HTTP/1.0\\x0D\\x0A",
    "Cookie: kbs-session-id=\\x80\\x0D\\x0A",
    "Authorization: Bearer \\x84\\x0D\\x0A",
    "Content-Length: \\x85\\x0D\\x0A\\x0D\\x0A",
    "Transfer-Encoding: chunked\\x0D\\x0A",
    "Expect: 100-continue\\x0D\\x0A",
    "Connection: close\\x0D\\x0A",
    "Upgrade: h2c\\x0D\\x0A",
    "\\x0D\\x0A\\x0D\\x0A",
    "\\xFE",
    "\\xFF",
    "%2e%2e%2f",
];

/// Counts, and believes whoever shows the very bytes.
#[derive(Debug, Default)]
struct Judge {
    seen: Mutex<BTreeMap<[u8; 64], u32>>,
    good: AtomicUsize,
}

#[derive(Debug)]
struct Shared(Arc<Judge>);

impl Appraiser for Shared {
    fn judges(&self, tee: Tee) -> bool {
        tee == Tee::Snp
    }

    fn policy_id(&self) -> &str {
        "fuzz"
    }

    fn appraise(&self, evidence: &Evidence, report_data: &[u8; 64], _: UnixTime) -> Verdict {
        *self.0.seen.lock().unwrap().entry(*report_data).or_default() += 1;
        match evidence {
            Evidence::Snp { report, .. } if report[..] == report_data[..] => {
                self.0.good.fetch_add(1, Ordering::SeqCst);
                let vector = TrustVector { hardware: TrustClaim::AFFIRMED, ..TrustVector::default() };
                let release = Release::Only([RESOURCE.to_owned()].into());
                let valid_until = UnixTime::from_secs(u64::MAX);
                Verdict::TestPassed(Granted { vector, claims: serde_json::json!({}), release, valid_until })
            }
            _ => Verdict::Rejected(Refused { failed: vec!["report".into()], label: Some("software-test") }),
        }
    }
}

/// A service, and how often it was asked.
struct Bed {
    desk: Desk,
    judge: Arc<Judge>,
    inputs: usize,
}

static GUEST: LazyLock<GuestSecret> = LazyLock::new(|| GuestSecret::new().unwrap());
static SECRET: LazyLock<Vec<u8>> = LazyLock::new(|| std::fs::read(vectors().join(RESOURCE)).unwrap());

fn vectors() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../vectors")
}

impl Bed {
    fn new() -> Self {
        // Only what is open is used, so the directory is gone before anything could leave it behind.
        let dir = tempfile::tempdir().unwrap();
        let state = StateDirectory::make(dir.path()).unwrap();
        let limits = Limits { rate: 1_000_000, burst: 1_000_000, ..Limits::default() };
        let config = Config { limits, ..Config::default() };
        let judge = Arc::new(Judge::default());
        let parts = Parts {
            appraiser: Box::new(Shared(judge.clone())),
            store: Store::open(&state, config.limits.most_sessions()).unwrap(),
            tokens: Tokens::open(&state, config.token).unwrap(),
            resources: Resources::open(&vectors(), config.limits.resource_bytes).unwrap(),
            tls: None,
        };
        Self { desk: Desk::new(config, parts), judge, inputs: 0 }
    }
}

thread_local! {
    static BED: RefCell<Option<Bed>> = const { RefCell::new(None) };
    static RUNTIME: Runtime =
        tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).enable_all().build().unwrap();
}

/// What was heard so far, of all connections.
#[derive(Debug, Default)]
struct Heard {
    cookie: String,
    nonce: String,
    token: String,
    challenges: usize,
    tokens: usize,
    secrets: usize,
}

impl Heard {
    /// The bytes that good evidence has in it now.
    fn report_data(&self) -> [u8; 64] {
        binding::report_data(HashAlgorithm::Sha384, &self.nonce, &GUEST.public(), "").unwrap_or([0; 64])
    }

    /// What is sent for a piece of an input.
    fn said(&self, piece: &[u8]) -> Vec<u8> {
        let mut said = Vec::new();
        for byte in piece {
            match *byte {
                COOKIE_HERE => said.extend(self.cookie.bytes()),
                NONCE => said.extend(self.nonce.bytes()),
                KEY => said.extend(serde_json::to_vec(&GUEST.public()).unwrap()),
                EVIDENCE => said.extend(Base64::encode_string(&self.report_data()).bytes()),
                TOKEN => said.extend(self.token.bytes()),
                other => said.push(other),
            }
        }
        // Only the first one counts: there is one request in a piece, or several lengths are wrong.
        if let Some(at) = said.iter().position(|byte| *byte == LENGTH) {
            let head = said[at..].windows(4).position(|it| it == b"\r\n\r\n").map_or(said.len(), |end| at + end + 4);
            let length = said.len().saturating_sub(head).to_string();
            said.splice(at..=at, length.bytes());
        }
        said
    }

    /// Takes what an answer says; it begins where one does.
    fn note(&mut self, answer: &[u8]) {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut headers);
        let Ok(httparse::Status::Complete(head)) = response.parse(answer) else { return };
        let status = response.code.unwrap_or_default();
        assert!((200..600).contains(&status) || status == 100, "status {status}");
        let header = |name: &str| {
            let mut found = response.headers.iter().filter(|it| it.name.eq_ignore_ascii_case(name));
            found.next().map(|it| String::from_utf8_lossy(it.value).into_owned())
        };
        let prefix = format!("{COOKIE}=");
        let cookie = header("set-cookie").and_then(|it| Some(it.split(';').next()?.strip_prefix(&prefix)?.to_owned()));
        self.cookie = cookie.unwrap_or(std::mem::take(&mut self.cookie));
        let Ok(body) = serde_json::from_slice::<serde_json::Value>(&answer[head..]) else { return };
        if status != 200 {
            assert!(body["type"].is_string() && body.get("token").is_none(), "{body}");
            return;
        }
        if let Some(nonce) = body["nonce"].as_str() {
            self.nonce = nonce.to_owned();
            self.challenges += 1;
        }
        if let Some(token) = body["token"].as_str() {
            self.token = token.to_owned();
            self.tokens += 1;
        }
        if let Ok(jwe) = serde_json::from_value::<Jwe>(body) {
            // Whose key it is sealed to says who was found good; an honest guest's is the only one with a token here.
            assert_eq!(GUEST.open(&jwe).ok().as_deref(), Some(&*SECRET));
            assert_eq!(header("tenure-tier").as_deref(), Some("software-test"));
            self.secrets += 1;
        }
    }

    /// Takes the answers that came whole, and leaves what is none yet.
    fn note_all(&mut self, received: &mut Vec<u8>) {
        while let Some(end) = whole(received) {
            let rest = received.split_off(end);
            self.note(received);
            *received = rest;
        }
    }
}

/// Where the first answer ends, if all of it is there.
fn whole(received: &[u8]) -> Option<usize> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let Ok(httparse::Status::Complete(head)) = response.parse(received) else { return None };
    let length = response.headers.iter().find(|it| it.name.eq_ignore_ascii_case("content-length"));
    let length: usize = length.map_or(0, |it| std::str::from_utf8(it.value).unwrap().parse().unwrap());
    Some(head + length).filter(|end| *end <= received.len())
}

/// One side of a connection; the service has the other.
struct Line {
    stream: DuplexStream,
    /// What came and was not yet taken.
    received: Vec<u8>,
    is_open: bool,
}

impl Line {
    /// Waits for the next bytes: for a moment, or until nothing more can come.
    async fn listen(&mut self, moment: Duration) {
        let mut piece = vec![0; 4096];
        match timeout(moment, self.stream.read(&mut piece)).await {
            Ok(Ok(0) | Err(_)) => self.is_open = false,
            Ok(Ok(count)) => self.received.extend(&piece[..count]),
            Err(_) => {}
        }
    }
}

/// No secret without a good verdict, no challenge twice, and every connection ends when its peer has no more to say.
pub(crate) fn service(input: &[u8]) {
    BED.with_borrow_mut(|place| {
        let bed = place.take().filter(|bed| bed.inputs < INPUTS);
        let bed = place.insert(bed.unwrap_or_else(Bed::new));
        bed.inputs += 1;
        bed.judge.seen.lock().unwrap().clear();
        bed.judge.good.store(0, Ordering::SeqCst);
        let heard = RUNTIME.with(|runtime| runtime.block_on(converse(&bed.desk, input, PATIENCE)));
        let seen = bed.judge.seen.lock().unwrap();
        let good = bed.judge.good.load(Ordering::SeqCst);
        assert!(seen.values().all(|times| *times == 1), "a challenge was answered twice");
        assert!(seen.len() <= heard.challenges, "{} judged, {} asked", seen.len(), heard.challenges);
        assert!(heard.tokens <= good, "{} tokens, {good} good verdicts", heard.tokens);
        assert!(heard.secrets == 0 || good > 0, "a secret without a verdict");
    });
}

async fn converse(desk: &Desk, input: &[u8], patience: Duration) -> Heard {
    let mut heard = Heard::default();
    let (mut lines, mut services) = (Vec::new(), Vec::new());
    for number in 0..CONNECTIONS {
        let (ours, theirs) = duplex(PIPE);
        let peer = IpAddr::V4(Ipv4Addr::new(10, 0, 0, u8::try_from(number).unwrap()));
        let desk = desk.clone();
        services.push(tokio::spawn(async move { desk.converse(theirs, peer).await }));
        lines.push(Line { stream: ours, received: Vec::new(), is_open: true });
    }
    let (mut current, mut sent) = (0, 0);
    for piece in input.split_inclusive(|byte| [LISTEN, OTHER].contains(byte)) {
        let (words, end) = match piece {
            [words @ .., end @ (LISTEN | OTHER)] => (words, Some(*end)),
            words => (words, None),
        };
        let said = heard.said(words);
        sent += said.len();
        let line = &mut lines[current];
        if sent > MOST {
            break;
        }
        // Who does not read is not written to for ever.
        if line.is_open && !said.is_empty() {
            let written = timeout(Duration::from_millis(50), line.stream.write_all(&said)).await;
            line.is_open = matches!(written, Ok(Ok(())));
        }
        match end {
            Some(OTHER) => current = (current + 1) % CONNECTIONS,
            Some(_) if line.is_open => {
                let mut before = usize::MAX;
                while line.is_open && line.received.len() != before && whole(&line.received).is_none() {
                    before = line.received.len();
                    line.listen(patience).await;
                }
                assert!(!contains(&line.received, &SECRET[..32]), "a secret in the clear");
                heard.note_all(&mut line.received);
            }
            _ => {}
        }
    }
    for line in &mut lines {
        let _ = line.stream.shutdown().await;
        let mut there = line.received.len();
        while line.is_open && there < MOST {
            line.listen(Duration::from_secs(5)).await;
            assert!(!line.is_open || line.received.len() > there, "the service waits for who has nothing more to say");
            there = line.received.len();
        }
        assert!(!contains(&line.received, &SECRET[..32]), "a secret in the clear");
        heard.note_all(&mut line.received);
    }
    drop(lines);
    for service in services {
        timeout(Duration::from_secs(5), service).await.unwrap().unwrap();
    }
    // Evidence is judged to the end even if who showed it went away, and would count as the next input's. There is one
    // thread for that, which takes one thing after another.
    spawn_blocking(|| ()).await.unwrap();
    heard
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn post(path: &str, headers: &[u8], body: &[u8]) -> Vec<u8> {
    let head = format!("POST /kbs/v0/{path} HTTP/1.1\r\nHost: kbs\r\n");
    [head.as_bytes(), headers, b"Content-Length: ", &[LENGTH], b"\r\n\r\n", body].concat()
}

fn get(path: &str, headers: &[u8]) -> Vec<u8> {
    [format!("GET {path} HTTP/1.1\r\nHost: kbs\r\n").as_bytes(), headers, b"\r\n"].concat()
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let cookie = [b"Cookie: kbs-session-id=", &[COOKIE_HERE][..], b"\r\n"].concat();
    let bearer = [b"Authorization: Bearer ", &[TOKEN][..], b"\r\n"].concat();
    let asks = post("auth", b"", br#"{"version":"0.4.0","tee":"snp","extra-params":""}"#);
    let shows = |report: &[u8]| {
        let body = [
            &br#"{"init-data":null,"runtime-data":{"nonce":""#[..],
            &[NONCE],
            br#"","tee-pubkey":"#,
            &[KEY],
            br#"},"tee-evidence":{"primary_evidence":{"attestation_report":""#,
            report,
            br#""},"additional_evidence":""}}"#,
        ];
        post("attest", &cookie, &body.concat())
    };
    let path = format!("/kbs/v0/resource/{RESOURCE}");
    let (good, bad) = (shows(&[EVIDENCE]), shows(b"AAAA"));
    let listen = &[LISTEN][..];
    let honest = [&asks[..], listen, &good, listen].concat();
    let chunked = b"POST /kbs/v0/auth HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"ver\r\n0\r\n\r\n";
    let mut seeds = vec![
        [&honest[..], &get(&path, &cookie), listen].concat(),
        [&honest[..], &get(&path, &bearer), listen, &get("/kbs/v0/resource/snp/attest/real", &bearer), listen].concat(),
        [&honest[..], &[OTHER], &get(&path, &cookie), listen, &good, listen].concat(),
        [&asks[..], listen, &bad, listen, &good, listen, &get(&path, &cookie), listen].concat(),
        [&asks[..], listen, &good, &[OTHER], &good, listen, &[OTHER, OTHER], listen].concat(),
        [&asks[..], &[OTHER], &asks, listen, &[OTHER, OTHER], listen, &good, listen].concat(),
        [get("/healthz", b""), get("/metrics", b""), get("/kbs/v0/auth", b"")].concat(),
        get("/kbs/v0/resource/../../x", b"Connection: close\r\n"),
        chunked.to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
    ];
    seeds.push([&asks[..40], listen].concat());
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(input: &[u8]) -> Heard {
        let bed = Bed::new();
        RUNTIME.with(|runtime| runtime.block_on(converse(&bed.desk, input, Duration::from_secs(5))))
    }

    /// What the target asserts would be true of a service that answers nothing: this one gives its secret to an honest
    /// guest, on its connection or another, and not to one that shows other evidence first.
    #[test]
    fn an_honest_guest_gets_its_secret() {
        let seeds = seeds();
        for (seed, secrets) in [(0, 1), (1, 1), (2, 1), (3, 0)] {
            let heard = heard(&seeds[seed]);
            assert_eq!((heard.challenges, heard.secrets), (1, secrets), "seed {seed}: {heard:?}");
            assert_eq!(heard.tokens, secrets, "seed {seed}");
        }
        assert_eq!(heard(&seeds[4]).tokens, 1, "the same evidence on two connections");
        assert_eq!(heard(&seeds[5]).tokens, 1, "of two challenges the later one is answered, on another connection");
    }
}

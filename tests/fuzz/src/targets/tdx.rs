//! Quotes, Intel's statements, and whole evidence.

use std::sync::LazyLock;

use attest::tdx::{Anchor, Anchors, Collateral, Endorsed, Quote, SignedJson, verify};
use attest::{UnixTime, Verified, parsers};

use super::certificates::PCK;
use crate::script::{Input, change, flip};
use crate::vectors::{NOW, all, collateral, vector};

pub(crate) const WORDS: &[&str] = &[
    "\\\"tcbLevels\\\"",
    "\\\"tcb\\\"",
    "\\\"svn\\\"",
    "\\\"isvsvn\\\"",
    "\\\"tcbStatus\\\"",
    "\\\"Revoked\\\"",
    "\\\"OutOfDateConfigurationNeeded\\\"",
    "\\\"advisoryIDs\\\"",
    "\\\"tdxModuleIdentities\\\"",
    "\\\"TDX_03\\\"",
    "\\\"2026-06-01T00:00:00Z\\\"",
    "\\\"version\\\":3",
    "\\\\uD800",
    "1e999",
    "[[[[[[[[[[[[[[[[",
];

/// Which of real platforms' evidence is tried: quote, collateral, moment in seconds.
const REAL: [(&str, &str, u64); 3] = [
    ("real/v4-uptodate-phala", "real/v4-uptodate-phala", 1_750_809_600),
    ("real/v4-debug-td-uptodate", "real/v4-debug-td-uptodate", 1_688_169_600),
    ("real/v5-td15-tcb-not-supported", "real/v5-td15-tcb-not-supported", 1_771_545_600),
];
const SYNTHETIC: [&str; 3] = ["good-v4", "good-module0", "v5-relaunch-advised"];

/// What is read is what is there, wherever it says it is.
pub(crate) fn quote(input: &[u8]) {
    let Ok(quote) = Quote::parse(input) else { return };
    assert!([4, 5].contains(&quote.version()));
    assert!(input.starts_with(quote.bytes()) && quote.bytes().starts_with(quote.signed_bytes()));
    let body = quote.signed_bytes();
    assert!(body.windows(48).any(|window| window == quote.mr_td()));
    assert!(body.windows(64).any(|window| window == quote.report_data()));
    assert!(quote.pck_chain().len() + quote.authenticated_data().len() + body.len() <= input.len());
    let attributes = quote.td_attributes();
    let _ = (attributes.reserved(), attributes.profiling(), quote.xfam(), quote.rtmrs(), quote.tee_tcb_svn2());
    let _ = (quote.mr_service_td(), quote.signature(), quote.attestation_key(), quote.user_data());
}

pub(crate) fn quote_seeds() -> Vec<Vec<u8>> {
    let mut seeds = all("tdx/attest/real", ".quote");
    seeds.extend(SYNTHETIC.map(|name| vector(&format!("tdx/attest/synthetic/{name}.quote"))));
    seeds
}

/// Versions first, then the text.
pub(crate) fn tcb_info(input: &[u8]) {
    let mut input = Input(input);
    let (svn, qe) = (input.take().unwrap_or_default(), input.take().map_or(0, u16::from_le_bytes));
    let _ = parsers::tcb_status(input.0, &QE_IDENTITY, &PCK, &svn, qe);
}

pub(crate) fn tcb_info_seeds() -> Vec<Vec<u8>> {
    let versions = [5, 1, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0];
    let seeds = ["real/v4-uptodate-phala", "real/v4-debug-td-uptodate", "synthetic/good-v4"];
    let seeds = seeds.map(|name| [&versions[..], &collateral(name).text("tcb_info")].concat());
    let said = parsers::tcb_status(&seeds[0][18..], &QE_IDENTITY, &PCK, &[9; 16], 9);
    assert!(said.is_some(), "the seed is none");
    seeds.into()
}

pub(crate) fn qe_identity(input: &[u8]) {
    let _ = parsers::qe_identity(input);
}

pub(crate) fn qe_identity_seeds() -> Vec<Vec<u8>> {
    vec![QE_IDENTITY.clone(), collateral("synthetic/good-v4").text("qe_identity")]
}

static QE_IDENTITY: LazyLock<Vec<u8>> = LazyLock::new(|| collateral("real/v4-uptodate-phala").text("qe_identity"));

/// Good evidence: its parts, and who vouches for it.
struct Good {
    parts: Vec<Vec<u8>>,
    now: UnixTime,
    anchor: Anchor,
}

impl Good {
    fn new(quote: &str, files: &str, now: UnixTime, anchor: Anchor) -> Self {
        let files = collateral(files);
        let mut parts = vec![vector(&format!("tdx/attest/{quote}.quote"))];
        for name in ["tcb_info", "qe_identity"] {
            parts.push(files.text(name));
            parts.push(files.bytes(&format!("{name}_signature")));
            parts.push(files.text(&format!("{name}_issuer_chain")));
        }
        parts.extend([files.bytes("root_ca_crl"), files.bytes("pck_crl")]);
        Self { parts, now, anchor }
    }
}

static GOOD: LazyLock<Vec<Good>> = LazyLock::new(|| {
    let real = REAL.map(|(quote, files, now)| Good::new(quote, files, UnixTime::from_secs(now), Anchor::Intel));
    let synthetic = SYNTHETIC.map(|name| format!("synthetic/{name}"));
    let synthetic = synthetic.map(|name| Good::new(&name, &name, NOW, Anchor::Test));
    real.into_iter().chain(synthetic).collect()
});

/// What of that is verified as it is.
pub(crate) fn verified() -> Vec<Verified<Endorsed<'static>>> {
    let verified = GOOD.iter().filter_map(|good| {
        let statement = |at: usize| SignedJson {
            text: &good.parts[at],
            signature: &good.parts[at + 1],
            chain: &good.parts[at + 2],
        };
        let collateral = Collateral {
            tcb_info: Some(statement(1)),
            qe_identity: Some(statement(4)),
            root_crl: Some(&good.parts[7]),
            pck_crl: Some(&good.parts[8]),
        };
        verify(&good.parts[0], &collateral, &ANCHORS, good.now).ok()
    });
    let verified: Vec<_> = verified.collect();
    assert_eq!(verified.len(), 5, "all but the one whose platform Intel does not know");
    verified
}

static ANCHORS: LazyLock<Anchors> =
    LazyLock::new(|| Anchors::intel().with_test_root(&vector("tdx/attest/synthetic/root.der")).unwrap());

/// What is verified says what it said, and rests on the root it rested on.
pub(crate) fn evidence(input: &[u8]) {
    let mut input = Input(input);
    let good = input.one_of(&GOOD);
    let mut parts = good.parts.clone();
    let is_changed = change(&mut parts, &mut input);
    let statement = |at: usize| Some(SignedJson { text: &parts[at], signature: &parts[at + 1], chain: &parts[at + 2] });
    let collateral = Collateral {
        tcb_info: statement(1),
        qe_identity: statement(4),
        root_crl: Some(&parts[7]),
        pck_crl: Some(&parts[8]),
    };
    match verify(&parts[0], &collateral, &ANCHORS, good.now) {
        Ok(verified) => {
            assert_eq!(verified.anchor(), good.anchor);
            let original = Quote::parse(&good.parts[0]).unwrap();
            assert_eq!(verified.evidence().quote().signed_bytes(), original.signed_bytes());
            // Of these nothing but what is signed can be read; of a quote and of chains more can.
            for part in [1, 2, 4, 5, 7, 8] {
                assert_eq!(parts[part], good.parts[part], "part {part}");
            }
        }
        Err(rejected) => {
            let text = rejected.to_string();
            assert!(rejected.checks().iter().any(|check| check.is_fatal()), "{text}");
            assert!(is_changed || text.contains("tcb.launch"), "{text}");
        }
    }
}

pub(crate) fn evidence_seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = (0..6).map(|number| vec![number]).collect();
    for (part, at) in [(0, 200), (1, 30), (1, 900), (3, 60), (4, 40), (7, 20), (8, 100)] {
        seeds.push([vec![3], flip(part, at, 0)].concat());
    }
    seeds
}

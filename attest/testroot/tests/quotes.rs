//! Quotes below a test root, judged by those who share no code with it: `attest`, and the crate `dcap-qvl`.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::OnceLock;
use std::time::Duration;

use attest::check::Fault;
use attest::tdx::{
    Anchor, Anchors, Collateral as Published, Policy, Preset, Quote, ReferenceValues, SignedJson, TcbStatus, Tier,
    Verdict, appraise,
};
use attest::{Rejected, UnixTime, Verified};
use dcap_qvl::QuoteCollateralV3;
use dcap_qvl::quote::Quote as TheirQuote;
use dcap_qvl::verify::QuoteVerifier;
use proptest::prelude::*;
use test_root::TdxRoot;
use test_root::chip::Seed;
use test_root::tdx::{Collateral, Dates, Statement, Version};

/// 2026-01-01.
const EPOCH: Duration = Duration::from_secs(1_767_225_600);
/// 2026-06-01.
const NOW: UnixTime = UnixTime::from_secs(1_780_272_000);

fn made(seed: u8) -> TdxRoot {
    let dir = tempfile::tempdir().unwrap();
    TdxRoot::create(&dir.path().join("root"), Seed([seed; 32]), EPOCH).unwrap()
}

fn root() -> &'static TdxRoot {
    static ROOT: OnceLock<TdxRoot> = OnceLock::new();
    ROOT.get_or_init(|| made(0x7d))
}

/// Evidence, in parts that can be changed.
#[derive(Clone)]
struct Evidence {
    quote: Vec<u8>,
    collateral: Collateral,
    anchors: Anchors,
    now: UnixTime,
}

/// A statement as it is served: its text, and its signature in hexadecimal digits.
fn served<'a>(name: &str, whole: &'a str) -> Option<(&'a str, Vec<u8>)> {
    let (text, signature) =
        whole.strip_prefix(&format!("{{\"{name}\":"))?.strip_suffix("\"}")?.rsplit_once(",\"signature\":\"")?;
    let digits: Option<Vec<_>> = signature.chars().map(|digit| digit.to_digit(16)).collect();
    Some((text, digits?.chunks(2).map(|pair| u8::try_from(pair[0] << 4 | pair[1]).unwrap()).collect()))
}

impl Evidence {
    fn of(statement: &Statement) -> Evidence {
        let anchors = Anchors::intel().with_test_root(root().anchor()).unwrap();
        Evidence { quote: root().sign(statement), collateral: root().collateral().clone(), anchors, now: NOW }
    }

    /// What is thought of it here.
    fn judge<T>(&self, then: impl FnOnce(&Verified<attest::tdx::Endorsed<'_>>) -> T) -> Result<T, Rejected> {
        let signed = |name, whole| served(name, whole).unwrap_or(("", Vec::new()));
        let info = signed("tcbInfo", &self.collateral.tcb_info);
        let identity = signed("enclaveIdentity", &self.collateral.qe_identity);
        fn json<'a>((text, signature): &'a (&str, Vec<u8>), chain: &'a str) -> SignedJson<'a> {
            SignedJson { text: text.as_bytes(), signature, chain: chain.as_bytes() }
        }
        let published = Published {
            tcb_info: Some(json(&info, &self.collateral.signing_chain)),
            qe_identity: Some(json(&identity, &self.collateral.signing_chain)),
            root_crl: Some(&self.collateral.root_crl),
            pck_crl: Some(&self.collateral.pck_crl),
        };
        attest::tdx::verify(&self.quote, &published, &self.anchors, self.now).map(|verified| then(&verified))
    }

    fn failed(&self) -> Vec<&'static str> {
        let rejected = self.judge(|_| ()).unwrap_err();
        rejected.checks().failed().map(|check| check.id.name()).collect()
    }

    /// And what `dcap-qvl` thinks: a status with advisories.
    fn theirs(&self) -> Option<(String, Vec<String>)> {
        let Collateral { tcb_info, qe_identity, signing_chain, root_crl, pck_crl } = self.collateral.clone();
        let (tcb_info, tcb_info_signature) = served("tcbInfo", &tcb_info)?;
        let (qe_identity, qe_identity_signature) = served("enclaveIdentity", &qe_identity)?;
        let collateral = QuoteCollateralV3 {
            pck_crl_issuer_chain: root().authority().platform_ca_chain().unwrap(),
            root_ca_crl: root_crl,
            pck_crl,
            tcb_info_issuer_chain: signing_chain.clone(),
            tcb_info: tcb_info.into(),
            tcb_info_signature,
            qe_identity_issuer_chain: signing_chain,
            qe_identity: qe_identity.into(),
            qe_identity_signature,
            pck_certificate_chain: None,
        };
        let verifier: QuoteVerifier = QuoteVerifier::new(root().anchor().to_vec());
        let report = verifier.verify(&self.quote, &collateral, self.now.as_secs()).ok()?;
        Some((report.status, report.advisory_ids))
    }

    /// That nobody takes it.
    fn assert_refused(&self, what: &str) {
        assert!(self.judge(|_| ()).is_err(), "{what}");
        assert_eq!(self.theirs(), None, "{what}");
    }
}

fn statement(version: Version) -> Statement {
    let rtmrs = [[0x20; 48], [0x21; 48], [0x22; 48], [0; 48]];
    Statement { version, rtmrs, report_data: [0xda; 64], ..Statement::new([0x11; 48]) }
}

/// A software root of trust can never pass for hardware: only where it is named, and then as a test.
#[test]
fn no_silent_trust_a_test_passes_below_the_named_root_and_nowhere_else() {
    for version in [Version::V4, Version::V5] {
        let evidence = Evidence::of(&statement(version));
        let found = evidence.judge(|verified| {
            let platform = verified.evidence().platform();
            assert_eq!((platform.fmspc, platform.pce_id), (root().platform().fmspc(), root().platform().pce_id()));
            assert!(platform.shortfalls.is_empty() && platform.advisories.is_empty());
            (verified.anchor(), platform.status)
        });
        assert_eq!(found.unwrap(), (Anchor::Test, TcbStatus::UpToDate));
        assert_eq!(evidence.theirs(), Some(("UpToDate".into(), vec![])), "{version:?}");
        // The root that comes along is none, and another one is another one.
        for anchors in [Anchors::intel(), Anchors::intel().with_test_root(made(0x7e).anchor()).unwrap()] {
            assert_eq!(Evidence { anchors, ..evidence.clone() }.failed(), ["chain.root"]);
        }
        // Nor is what is published about another platform about this one.
        let other = Evidence { collateral: made(0x7e).collateral().clone(), ..evidence };
        assert!(other.failed().contains(&"tcb-info.signer.signature"));
        other.assert_refused("another root's collateral");
    }
}

/// What the strictest policy wants is met, and the verdict is a test's all the same.
#[test]
fn no_silent_trust_the_verdict_is_test_passed_at_best() {
    let wanted = |digest| ReferenceValues {
        mr_tds: vec![digest],
        rtmrs: [vec![[0x20; 48]], vec![[0x21; 48]], vec![[0x22; 48]], vec![]],
        report_data: Some([0xda; 64]),
        mr_config_id: Some([0; 48]),
        ..ReferenceValues::default()
    };
    let judge = |statement: &Statement, digest| {
        let policy = Policy::preset(Preset::Hardened);
        let judged = Evidence::of(statement).judge(|verified| appraise(verified, &policy, &wanted(digest)));
        (judged.as_ref().unwrap().verdict(), judged.unwrap().tier())
    };
    for version in [Version::V4, Version::V5] {
        let good = statement(version);
        assert_eq!(judge(&good, [0x11; 48]), (Verdict::TestPassed, Tier::SoftwareTest));
        assert_eq!(judge(&good, [0x12; 48]), (Verdict::NotMet, Tier::SoftwareTest));
        let debugged = Statement { attributes: good.attributes | 1, ..good };
        assert_eq!(judge(&debugged, [0x11; 48]), (Verdict::NotMet, Tier::SoftwareTest));
    }
}

/// no-silent-trust: a bit of any part that is signed, of a signature or of a certificate, and nothing is verified.
#[test]
fn no_silent_trust_changed_quotes() {
    let evidence = Evidence::of(&statement(Version::V4));
    let quote = Quote::parse(&evidence.quote).unwrap();
    let chain = evidence.quote.len() - quote.pck_chain().len();
    let certificates = String::from_utf8(quote.pck_chain().to_vec()).unwrap();
    // The root that comes along is not what anything rests on.
    let of_root = chain + certificates.match_indices("-----BEGIN").nth(2).unwrap().0;
    let parts = [
        ("header", 0..48, 3),
        ("TD body", 48..632, 17),
        ("signature and attestation key", 636..764, 13),
        ("QE report", 770..1154, 31),
        ("QE report's signature", 1154..1218, 7),
        ("authenticated data", 1220..1252, 5),
        ("PCK chain", chain..of_root, 97),
    ];
    for (part, range, step) in parts {
        for at in range.step_by(step) {
            let mut changed = evidence.clone();
            // Between lines of PEM there is nothing of a certificate, and others take any white space.
            if part == "PCK chain" && changed.quote[at] == b'\n' {
                continue;
            }
            changed.quote[at] ^= 1;
            changed.assert_refused(&format!("{part}, byte {at}"));
        }
    }
    let named = |at: usize| {
        let mut changed = evidence.clone();
        changed.quote[at] ^= 1;
        changed.failed()
    };
    assert_eq!(named(30), ["quote.signature"], "user data");
    assert_eq!(named(48 + 140), ["quote.signature"], "MRTD");
    assert_eq!(named(770 + 64), ["qe.signature"], "MRENCLAVE");
    assert_eq!(named(1220), ["qe.binding"], "authenticated data");
}

/// no-silent-trust: the same of what is published.
#[test]
fn no_silent_trust_changed_collateral() {
    let evidence = Evidence::of(&statement(Version::V5));
    type Part = fn(&mut Collateral) -> &mut Vec<u8>;
    let lists: [(&str, Part); 2] = [("root's list", |it| &mut it.root_crl), ("platforms' list", |it| &mut it.pck_crl)];
    for (name, part) in lists {
        let length = part(&mut evidence.collateral.clone()).len();
        for at in (0..length).step_by(7).chain([length - 1]) {
            let mut changed = evidence.clone();
            part(&mut changed.collateral)[at] ^= 1;
            changed.assert_refused(&format!("{name}, byte {at}"));
        }
    }
    type Text = fn(&mut Collateral) -> &mut String;
    let texts: [(&str, Text); 3] = [
        ("TCB info", |it| &mut it.tcb_info),
        ("QE identity", |it| &mut it.qe_identity),
        ("signing chain", |it| &mut it.signing_chain),
    ];
    for (name, part) in texts {
        let whole = part(&mut evidence.collateral.clone()).clone();
        // Of the chain, not its root. Of a statement, not what serves it around its text and signature.
        let of_root = whole.match_indices("-----BEGIN").nth(1).map(|(at, _)| at);
        for at in (20..of_root.unwrap_or(whole.len() - 4)).step_by(41) {
            let mut bytes = whole.clone().into_bytes();
            // The case of hexadecimal digits says nothing; all of them are small where it matters.
            bytes[at] ^= 1;
            let mut changed = evidence.clone();
            *part(&mut changed.collateral) = String::from_utf8(bytes).unwrap();
            changed.assert_refused(&format!("{name}, byte {at}"));
        }
    }
}

/// no-silent-trust: what is published has its time, and its end has a name.
#[test]
fn no_silent_trust_collateral_that_ended() {
    let statement = statement(Version::V4);
    let now = Duration::from_secs(NOW.as_secs());
    let at = |from, to| Evidence {
        collateral: root().collateral_of(Dates { from, to }).unwrap(),
        ..Evidence::of(&statement)
    };
    assert!(at(now, now).judge(|verified| assert_eq!(verified.valid_until(), NOW)).is_ok());
    let second = Duration::from_secs(1);
    for evidence in [at(EPOCH, now - second), at(now + second, now + second * 2)] {
        let rejected = evidence.judge(|_| ()).unwrap_err();
        assert_eq!(rejected.fault(), Fault::Collateral);
        let names = ["crl.root.validity", "crl.pck.validity", "tcb-info.validity", "qe-identity.validity"];
        assert_eq!(evidence.failed(), names);
        evidence.assert_refused("out of date");
    }
    // All that was made with the root ends together, and before its authorities do.
    let Dates { to, .. } = root().dates();
    let last = UnixTime::from_secs(to.as_secs());
    let evidence = Evidence { now: last, ..Evidence::of(&statement) };
    assert_eq!(evidence.judge(|verified| verified.valid_until()).unwrap(), last);
    // To them a list has ended in the very second of its next update.
    let now = UnixTime::from_secs(last.as_secs() - 1);
    assert!(evidence.theirs().is_none() && Evidence { now, ..evidence.clone() }.theirs().is_some());
    let late = Evidence { now: UnixTime::from_secs(to.as_secs() + 1), ..evidence };
    assert_eq!(late.failed().len(), 4 + 3, "and the key's certificate and that of who signs statements, twice");
}

/// Any statement.
fn statements() -> impl Strategy<Value = Statement> {
    let digest = || any::<[u8; 48]>();
    let version = prop_oneof![Just(Version::V4), Just(Version::V5)];
    let said = (any::<[u8; 64]>(), digest(), digest(), digest());
    (version, digest(), prop::array::uniform4(digest()), said, any::<u64>()).prop_map(
        |(version, mr_td, rtmrs, (report_data, mr_config_id, mr_owner, mr_owner_config), xfam)| Statement {
            version,
            rtmrs,
            report_data,
            mr_config_id,
            mr_owner,
            mr_owner_config,
            xfam,
            ..Statement::new(mr_td)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever is stated is what others read, and is verified below this root.
    #[test]
    fn what_was_stated_is_what_is_read(statement in statements()) {
        let evidence = Evidence::of(&statement);
        let anchor = evidence.judge(|verified| verified.anchor());
        prop_assert!(anchor.as_ref().is_ok_and(|anchor| !anchor.is_hardware()), "{anchor:?}");
        let quote = Quote::parse(&evidence.quote).unwrap();
        prop_assert_eq!(quote.version(), if statement.version == Version::V4 { 4 } else { 5 });
        prop_assert_eq!((quote.mr_td(), quote.rtmrs()), (&statement.mr_td, &statement.rtmrs));
        prop_assert_eq!(quote.report_data(), &statement.report_data);
        prop_assert_eq!((quote.mr_config_id(), quote.mr_owner()), (&statement.mr_config_id, &statement.mr_owner));
        prop_assert_eq!(quote.mr_owner_config(), &statement.mr_owner_config);
        prop_assert_eq!((quote.td_attributes().bits(), quote.xfam()), (statement.attributes, statement.xfam));
        prop_assert_eq!(quote.mr_service_td().is_some(), statement.version == Version::V5);
        let theirs = TheirQuote::parse(&evidence.quote).unwrap();
        let body = theirs.report.as_td10().unwrap();
        prop_assert_eq!((&body.mr_td, &body.rt_mr3), (&statement.mr_td, &statement.rtmrs[3]));
        prop_assert_eq!((&body.report_data, &body.mr_config_id), (&statement.report_data, &statement.mr_config_id));
        prop_assert_eq!(theirs.report.as_td15().is_some(), statement.version == Version::V5);
    }
}

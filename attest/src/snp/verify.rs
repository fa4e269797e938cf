//! Whether a report is what it says: signed by a key of the chip or its provider, whose certificate leads to a root
//! that may be relied on, good at this moment, and for the versions that the report names.
//!
//! Owns every check and their order. All are made, so that a verdict names everything that is wrong; what cannot be
//! looked at because something before is missing is skipped, which is no better. Does not own what a guest should be
//! like: a report that is verified may be of a guest that its host can debug.
//!
//! Whether a certificate was revoked is checked if there is a list of those that were; each verdict says if there was none.
//!
//! Specifications: AMD 57230 for the chain; 56860, "ATTESTATION_REPORT", for what a report says of its key.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use p384::ecdsa::{Signature, VerifyingKey};

use super::report::SigningKey;
use super::vek::{self, Part};
use super::{Anchor, Anchors, Endorsements, PackedTcb, Product, Report, Tcb};
use crate::anchors::KNOWN;
use crate::check::{CheckId, Checks, Fault, Horizon};
use crate::hex::Hex;
use crate::signature;
use crate::time::UnixTime;
use crate::verified::{Rejected, Verified};
use crate::x509::crl::Crl;
use crate::x509::{Certificate, CertificateError};

const REPORT_FORM: CheckId = CheckId::required("report.form", "the report");
const REPORT_KEY: CheckId = CheckId::required("report.key", "the key that the report says signed it");
const TABLE: CheckId = CheckId::where_possible("chain.table", "the table of certificates that came along");
const ROOT: CheckId = CheckId::required("chain.root", "the root that the chain names");
const ROOT_VALIDITY: CheckId =
    CheckId::required("chain.root.validity", "the root's validity").failing_as(Fault::Collateral);
const ARK: CheckId = CheckId::where_possible("chain.ark", "the root that came along");
const INTERMEDIATE: CheckId = CheckId::required("chain.intermediate", "the intermediate certificate");
const INTERMEDIATE_SIGNER: CheckId =
    CheckId::required("chain.intermediate.signature", "the intermediate certificate's signature");
const INTERMEDIATE_VALIDITY: CheckId =
    CheckId::required("chain.intermediate.validity", "the intermediate certificate's validity")
        .failing_as(Fault::Collateral);
const LIST: CheckId = CheckId::where_possible("chain.revocation.list", "the list of revoked certificates");
const LIST_VALIDITY: CheckId =
    CheckId::where_possible("chain.revocation.validity", "the validity of the list of revoked certificates")
        .failing_as(Fault::Collateral);
const REVOCATION: CheckId = CheckId::where_possible("chain.revocation", "revocation").failing_as(Fault::Revoked);
const KEY: CheckId = CheckId::required("key.certificate", "the signing key's certificate");
const KEY_SIGNER: CheckId = CheckId::required("key.signature", "the signature of the signing key's certificate");
const KEY_VALIDITY: CheckId =
    CheckId::required("key.validity", "the validity of the signing key's certificate").failing_as(Fault::Collateral);
const KEY_PRODUCT: CheckId = CheckId::required("key.product", "the signing key's product");
const KEY_CHIP: CheckId = CheckId::where_possible("key.chip", "the signing key's chip");
const SIGNATURE: CheckId = CheckId::required("report.signature", "the report's signature");
const PROCESSOR: CheckId = CheckId::where_possible("report.processor", "the report's processor");
const TCB: CheckId = CheckId::required("report.tcb", "the report's set of TCB versions");

/// A part of the TCB: its check, where the certificate has it, where the report has it.
type TcbPart = (CheckId, Part, fn(Tcb) -> Option<u8>);

const TCB_PARTS: [TcbPart; 5] = [
    (CheckId::where_possible("key.tcb.fmc", "the signing key's FMC version"), Part::Fmc, |tcb| tcb.fmc),
    (CheckId::required("key.tcb.boot-loader", "the signing key's boot loader version"), Part::BootLoader, |tcb| {
        Some(tcb.boot_loader)
    }),
    (CheckId::required("key.tcb.tee", "the signing key's TEE version"), Part::Tee, |tcb| Some(tcb.tee)),
    (CheckId::required("key.tcb.snp", "the signing key's SNP firmware version"), Part::Snp, |tcb| Some(tcb.snp)),
    (CheckId::required("key.tcb.microcode", "the signing key's microcode version"), Part::Microcode, |tcb| {
        Some(tcb.microcode)
    }),
];

/// Verifies a report, as it was received, at this moment.
///
/// Whoever gets a [`Verified`] must look at what it rests on: [`Verified::anchor`] is a test's root only if the caller
/// put one among `anchors`.
pub fn verify<'r>(
    report: &'r [u8],
    endorsements: &Endorsements<'_>,
    anchors: &Anchors,
    now: UnixTime,
) -> Result<Verified<Report<'r>>, Rejected> {
    let mut checks = Checks::default();
    let form = "an attestation report of version 2 to 5";
    let report = match Report::parse(report) {
        Ok(report) => {
            checks.add(REPORT_FORM, form, Ok::<_, String>(format!("one of version {}", report.version())));
            report
        }
        Err(error) => {
            checks.add(REPORT_FORM, form, Err::<String, _>(format!("malformed: {error}")));
            return Err(Rejected::new(checks));
        }
    };
    if let Some(error) = endorsements.malformed {
        checks.add(TABLE, "one", Err::<String, _>(format!("malformed: {error}")));
    }
    let named = report.signing_key();
    checks.add(REPORT_KEY, "a VCEK or a VLEK", if named == SigningKey::None { Err(named) } else { Ok(named) });
    let certificate = match named {
        SigningKey::Vcek => endorsements.vcek,
        SigningKey::Vlek => endorsements.vlek,
        SigningKey::None => return Err(Rejected::new(checks)),
    };
    let mut judge = Judge { checks, kind: named, horizon: Horizon::at(now) };
    let intermediate = judge.read(INTERMEDIATE, endorsements.intermediate, judge.intermediate_wanted());
    let known = endorsements.intermediate.and_then(|certificate| anchors.knows(certificate));
    let root = judge.root(intermediate.as_ref(), known, anchors);
    let anchor = root.as_ref().map(|(anchor, _)| *anchor);
    judge.came_along(endorsements.ark, root.as_ref().map(|(_, root)| root));
    judge.intermediate(intermediate.as_ref(), known, root.as_ref());
    let key = judge.read(KEY, certificate, judge.key_wanted());
    judge.key(key.as_ref(), intermediate.as_ref(), anchor);
    judge.signature(&report, key.as_ref());
    judge.platform(&report, key.as_ref(), anchor.map(Anchor::product));
    judge.revocation(endorsements.crl, intermediate.as_ref(), root.as_ref());
    Verified::judge(report, anchor, judge.horizon, judge.checks)
}

/// Makes checks and notes them.
struct Judge {
    checks: Checks,
    kind: SigningKey,
    horizon: Horizon,
}

impl Judge {
    fn intermediate_wanted(&self) -> &'static str {
        if self.kind == SigningKey::Vlek { "an ASVK's, who issues VLEKs" } else { "an ASK's, who issues VCEKs" }
    }

    fn key_wanted(&self) -> &'static str {
        if self.kind == SigningKey::Vlek { "a VLEK's" } else { "a VCEK's" }
    }

    /// A certificate; if there is none, that is noted as a failure of this check.
    fn read<'a>(&mut self, id: CheckId, der: Option<&'a [u8]>, wanted: &str) -> Option<Certificate<'a>> {
        match der.map(Certificate::parse) {
            Some(Ok(certificate)) => return Some(certificate),
            Some(Err(error)) => self.checks.add(id, wanted, Err::<String, _>(error)),
            None => self.checks.missing(id, wanted),
        }
        None
    }

    /// Whether the root has revoked the intermediate certificate. Its list says nothing of keys' certificates, which have
    /// another issuer: the same number there is another certificate's.
    fn revocation(
        &mut self,
        list: Option<&[u8]>,
        intermediate: Option<&Certificate<'_>>,
        root: Option<&(Anchor, Certificate<'_>)>,
    ) {
        let all = [LIST, LIST_VALIDITY, REVOCATION].into_iter();
        let Some(list) = list else {
            return self.skip_all(all, "there is no list of revoked certificates");
        };
        let (Some(intermediate), Some((anchor, root))) = (intermediate, root) else {
            return self.skip_all(all, "whose list it must be depends on the root");
        };
        let wanted = format!("one that {anchor} signed");
        let list = match Crl::parse(list) {
            Ok(list) => list,
            Err(error) => {
                self.checks.add(LIST, wanted, Err::<String, _>(error));
                return self.skip_all(all.skip(1), "there is no list that can be read");
            }
        };
        let found = match list.is_signed_by(root) {
            _ if list.issuer() != root.subject() => Err(format!("one of {}", list.issuer())),
            Ok(()) => Ok(list.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let is_roots = found.is_ok();
        self.checks.add(LIST, wanted, found);
        if !is_roots {
            return self.skip_all(all.skip(1), "the list is not the root's");
        }
        self.horizon.span(&mut self.checks, LIST_VALIDITY, list.validity());
        self.horizon.list(LIST, list.number());
        let found = if list.has(intermediate) {
            let number = Hex(intermediate.serial().as_bytes());
            Err(format!("the intermediate certificate is on the list, by its number {number}"))
        } else {
            Ok("the intermediate certificate is not on the list".to_string())
        };
        self.checks.add(REVOCATION, "that the root has not revoked the intermediate certificate", found);
    }

    /// The trusted root that is named as the intermediate's issuer. Of several with that name, the one that signed.
    fn root<'a>(
        &mut self,
        intermediate: Option<&Certificate<'_>>,
        known: Option<Anchor>,
        anchors: &'a Anchors,
    ) -> Option<(Anchor, Certificate<'a>)> {
        let Some(intermediate) = intermediate else {
            self.checks.skip(ROOT, "there is no intermediate certificate");
            self.checks.skip(ROOT_VALIDITY, "there is no root");
            return None;
        };
        let mut named: Vec<_> =
            anchors.certificates().filter(|(_, root)| root.subject() == intermediate.issuer()).collect();
        let signed = match &named[..] {
            // Whether a single one signed is another check's to say.
            [] | [_] => None,
            several => several.iter().position(|(anchor, root)| match known {
                Some(known) => *anchor == known,
                None => intermediate.is_signed_by(root).is_ok(),
            }),
        };
        let root = (!named.is_empty()).then(|| named.swap_remove(signed.unwrap_or(0)));
        let wanted: Vec<String> = anchors.iter().map(|anchor| anchor.to_string()).collect();
        let wanted = if wanted.is_empty() { "a trusted one, and none is".into() } else { wanted.join(" or ") };
        match &root {
            Some((anchor, root)) => {
                self.checks.add(ROOT, wanted, Ok::<_, String>(anchor));
                self.validity(ROOT_VALIDITY, root);
            }
            None => {
                self.checks.add(ROOT, wanted, Err::<String, _>(intermediate.issuer()));
                self.checks.skip(ROOT_VALIDITY, "there is no root");
            }
        }
        root
    }

    /// A root that came along vouches for nothing, but it must not be another one than is relied on.
    fn came_along(&mut self, ark: Option<&[u8]>, root: Option<&Certificate<'_>>) {
        let Some(ark) = ark else {
            return self.checks.skip(ARK, "none did, and none is needed");
        };
        let found = match (Certificate::parse(ark), root) {
            (Err(error), _) => Err(error.to_string()),
            (Ok(_), None) => return self.checks.skip(ARK, "there is no root to compare it with"),
            (Ok(ark), Some(root)) if ark.subject() != root.subject() => Err(ark.subject().to_string()),
            (Ok(ark), Some(root)) if ark.key() != root.key() => {
                Err(format!("another key with the name {}", ark.subject()))
            }
            (Ok(_), Some(_)) => Ok("that one"),
        };
        self.checks.add(ARK, "the root that is trusted", found);
    }

    fn intermediate(
        &mut self,
        certificate: Option<&Certificate<'_>>,
        known: Option<Anchor>,
        root: Option<&(Anchor, Certificate<'_>)>,
    ) {
        let Some(certificate) = certificate else {
            self.checks.skip(INTERMEDIATE_SIGNER, "there is no intermediate certificate");
            return self.checks.skip(INTERMEDIATE_VALIDITY, "there is no intermediate certificate");
        };
        let Some((anchor, root)) = root else {
            self.checks.skip(INTERMEDIATE, "which name it must have depends on the root");
            self.checks.skip(INTERMEDIATE_SIGNER, "there is no root");
            return self.validity(INTERMEDIATE_VALIDITY, certificate);
        };
        let infix = if self.kind == SigningKey::Vlek { "VLEK-" } else { "" };
        let wanted = format!("SEV-{infix}{}", anchor.product());
        let name = plain_name(certificate, Some(*anchor));
        let found = match certificate.authority() {
            Ok(()) if name == wanted => Ok(name),
            Ok(()) => Err(format!("{name:?}'s")),
            Err(error) => Err(error.to_string()),
        };
        self.checks.add(INTERMEDIATE, format!("{}: {wanted}", self.intermediate_wanted()), found);
        if known == Some(*anchor) {
            self.checks.add(INTERMEDIATE_SIGNER, format!("by {anchor}"), Ok::<_, String>(KNOWN));
        } else {
            self.signer(INTERMEDIATE_SIGNER, certificate, root, &anchor.to_string());
        }
        self.validity(INTERMEDIATE_VALIDITY, certificate);
    }

    fn key(&mut self, key: Option<&Certificate<'_>>, intermediate: Option<&Certificate<'_>>, anchor: Option<Anchor>) {
        let Some(key) = key else {
            self.checks.skip(KEY_SIGNER, "there is no certificate of the key");
            return self.checks.skip(KEY_VALIDITY, "there is no certificate of the key");
        };
        let wanted = if self.kind == SigningKey::Vlek { "SEV-VLEK" } else { "SEV-VCEK" };
        let names = if self.kind == SigningKey::Vlek { (false, true) } else { (true, false) };
        let name = plain_name(key, anchor);
        let found = if name != wanted {
            Err(format!("{name:?}'s"))
        } else if (vek::names_chip(key), vek::names_provider(key)) != names {
            Err(format!("{name}'s by its name, but not by what it says of chip and provider"))
        } else {
            Ok(name)
        };
        self.checks.add(KEY, format!("{}: {wanted}", self.key_wanted()), found);
        match intermediate {
            Some(issuer) if key.issuer() != issuer.subject() => {
                self.checks.add(KEY_SIGNER, issuer.subject(), Err::<String, _>(key.issuer()));
            }
            Some(issuer) => self.signer(KEY_SIGNER, key, issuer, "the intermediate certificate's key"),
            None => self.checks.skip(KEY_SIGNER, "there is no intermediate certificate"),
        }
        self.validity(KEY_VALIDITY, key);
    }

    fn signature(&mut self, report: &Report<'_>, key: Option<&Certificate<'_>>) {
        let Some(key) = key else {
            return self.checks.skip(SIGNATURE, "there is no certificate of the key");
        };
        let found = match key.p384_key() {
            Ok(key) if is_signed(report, &key) => Ok("by it"),
            Ok(_) => Err("not by it, or something of the report was changed".to_string()),
            Err(error) => Err(format!("by {error}")),
        };
        self.checks.add(SIGNATURE, "by the signing key", found);
    }

    /// What certificate and report say of the platform.
    fn platform(&mut self, report: &Report<'_>, key: Option<&Certificate<'_>>, product: Option<Product>) {
        let of_key = [KEY_PRODUCT, KEY_CHIP].into_iter().chain(TCB_PARTS.map(|(id, ..)| id));
        let Some(product) = product else {
            return self.skip_all([PROCESSOR, TCB].into_iter().chain(of_key), "what it must be depends on the root");
        };
        match report.processor() {
            None => self.checks.skip(PROCESSOR, "reports of version 2 don't say"),
            Some(processor) if processor.product() == Some(product) => {
                self.checks.add(PROCESSOR, product, Ok::<_, String>(processor));
            }
            Some(processor) => self.checks.add(PROCESSOR, product, Err::<String, _>(processor)),
        }
        self.tcb(report, product);
        let Some(key) = key else {
            return self.skip_all(of_key, "there is no certificate of the key");
        };
        let said = vek::product(key);
        let is_it = said.as_ref().is_ok_and(|said| said.split('-').next() == Some(product.name()));
        let said = said.unwrap_or_else(|why| why.to_string());
        self.checks.add(KEY_PRODUCT, product, if is_it { Ok(said) } else { Err(said) });
        self.chip(report, key, product);
        self.key_tcb(report, key, product);
    }

    /// The chip that a VCEK belongs to. A masked chip's identifier is zero and so no chip's.
    fn chip(&mut self, report: &Report<'_>, key: &Certificate<'_>, product: Product) {
        if self.kind == SigningKey::Vlek {
            return self.checks.skip(KEY_CHIP, "a VLEK belongs to a provider, not to a chip");
        }
        let (chip, rest) = report.chip_id().split_at(product.chip_id_bytes());
        let found = match vek::chip(key, product) {
            Ok(of) if of == chip && rest.iter().all(|byte| *byte == 0) => Ok(Hex(of).to_string()),
            Ok(of) => Err(Hex(of).to_string()),
            Err(why) => Err(why.to_string()),
        };
        self.checks.add(KEY_CHIP, format!("the report's: {}", Hex(report.chip_id())), found);
    }

    /// The versions that the key belongs to are those that the report names, part by part.
    fn key_tcb(&mut self, report: &Report<'_>, key: &Certificate<'_>, product: Product) {
        let reported = report.reported_tcb().unpack(product);
        for (id, part, of) in TCB_PARTS {
            let Ok(reported) = reported.map(of) else {
                self.checks.skip(id, "the report's versions have reserved bytes");
                continue;
            };
            let Some(reported) = reported else {
                self.checks.skip(id, format!("{product} has none"));
                continue;
            };
            let found = match vek::version(key, part) {
                Ok(version) if version == reported => Ok(version.to_string()),
                Ok(version) => Err(version.to_string()),
                Err(why) => Err(why.to_string()),
            };
            self.checks.add(id, format!("the report's: {reported}"), found);
        }
    }

    /// A key is for versions that the platform cannot go back behind, and no later ones than run.
    fn tcb(&mut self, report: &Report<'_>, product: Product) {
        let versions = [report.reported_tcb(), report.committed_tcb(), report.current_tcb(), report.launch_tcb()];
        let [reported, committed, current, launch] = versions.map(|packed: PackedTcb| packed.unpack(product));
        let found = match (reported, committed, current, launch) {
            (Ok(reported), Ok(committed), Ok(current), Ok(_)) => {
                let all = format!("{reported} reported; {committed} committed; {current} running");
                let firmware = report.committed_version() <= report.current_version();
                if reported.is_within(committed) && committed.is_within(current) && firmware {
                    Ok(all)
                } else {
                    Err(all)
                }
            }
            (Err(error), ..) | (_, Err(error), ..) | (_, _, Err(error), _) | (.., Err(error)) => Err(error.to_string()),
        };
        self.checks.add(TCB, "reported within committed within running, firmware too", found);
    }

    fn skip_all(&mut self, ids: impl Iterator<Item = CheckId>, why: &str) {
        ids.for_each(|id| self.checks.skip(id, why));
    }

    fn signer(&mut self, id: CheckId, certificate: &Certificate<'_>, issuer: &Certificate<'_>, by: &str) {
        let found = match certificate.is_signed_by(issuer) {
            Ok(()) => Ok("by it"),
            Err(CertificateError::Signature) => {
                Err("not by it, or something of the certificate was changed".to_string())
            }
            Err(error) => Err(format!("by {error}")),
        };
        self.checks.add(id, format!("by {by}"), found);
    }

    fn validity(&mut self, id: CheckId, certificate: &Certificate<'_>) {
        self.horizon.span(&mut self.checks, id, certificate.validity());
    }
}

/// Whose a certificate is. Names may say TEST, but not below AMD's roots: what says so is not AMD's.
fn plain_name(certificate: &Certificate<'_>, anchor: Option<Anchor>) -> String {
    let name = certificate.common_name().unwrap_or_default();
    match name.strip_prefix("TEST ") {
        Some(plain) if !anchor.is_some_and(Anchor::is_hardware) => plain.into(),
        _ => name,
    }
}

/// Whether this key signed the report, over the bytes that were received.
fn is_signed(report: &Report<'_>, key: &VerifyingKey) -> bool {
    let Some((r, s)) = report.signature() else { return false };
    Signature::from_scalars(r, s).is_ok_and(|signature| signature::ecdsa_p384(key, report.signed_bytes(), &signature))
}

#[cfg(test)]
mod tests;

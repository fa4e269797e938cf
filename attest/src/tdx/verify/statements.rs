//! What Intel says of platforms: that Intel says it, now, and about this one.
//!
//! Owns the checks of TCB info and of the quoting enclave's identity: who signed their texts, when they are good, and
//! that platform, quoting enclave and TDX module are those they are about. Does not own what follows for the platform:
//! see [`mod@crate::tdx::tcb`]. Specification: Intel SGX and TDX Provisioning Certification Service API, version 4.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::chain::Signer;
use super::{Judge, is_signed};
use crate::UnixTime;
use crate::check::{CheckId, Fault};
use crate::hex::Hex;
use crate::pem::{self, PemError};
use crate::tdx::collateral::{CollateralError, Module, QeIdentity, SignedJson, TcbInfo};
use crate::tdx::pck::Pck;
use crate::tdx::quote::EnclaveReport;
use crate::tdx::tcb::{self, Evaluation, TcbError, TcbStatus};
use crate::tdx::{Collateral, Quote};
use crate::x509::crl::Crl;
use crate::x509::{Certificate, CertificateError};

const SIGNER_NAME: &str = "Intel SGX TCB Signing";

/// Checks of one statement.
struct Ids {
    form: CheckId,
    signer: CheckId,
    signer_signature: CheckId,
    signer_validity: CheckId,
    signer_revocation: CheckId,
    signature: CheckId,
    validity: CheckId,
}

const TCB_INFO: Ids = Ids {
    form: CheckId::required("tcb-info.form", "TCB info"),
    signer: CheckId::required("tcb-info.signer", "the certificate of who signed TCB info"),
    signer_signature: CheckId::required("tcb-info.signer.signature", "the signature of TCB info's certificate"),
    signer_validity: CheckId::required("tcb-info.signer.validity", "the validity of TCB info's certificate")
        .failing_as(Fault::Collateral),
    signer_revocation: CheckId::required("tcb-info.signer.revocation", "TCB info's certificate on the root's list")
        .failing_as(Fault::Revoked),
    signature: CheckId::required("tcb-info.signature", "TCB info's signature"),
    validity: CheckId::required("tcb-info.validity", "TCB info's validity").failing_as(Fault::Collateral),
};
const QE_IDENTITY: Ids = Ids {
    form: CheckId::required("qe-identity.form", "the QE's identity"),
    signer: CheckId::required("qe-identity.signer", "the certificate of who signed the QE's identity"),
    signer_signature: CheckId::required("qe-identity.signer.signature", "the signature of QE identity's certificate"),
    signer_validity: CheckId::required("qe-identity.signer.validity", "the validity of QE identity's certificate")
        .failing_as(Fault::Collateral),
    signer_revocation: CheckId::required(
        "qe-identity.signer.revocation",
        "QE identity's certificate on the root's list",
    )
    .failing_as(Fault::Revoked),
    signature: CheckId::required("qe-identity.signature", "the signature of the QE's identity"),
    validity: CheckId::required("qe-identity.validity", "the validity of the QE's identity")
        .failing_as(Fault::Collateral),
};
const PLATFORM: CheckId =
    CheckId::required("tcb-info.platform", "the kind of platform of TCB info").failing_as(Fault::Collateral);
const QE_SIGNER: CheckId = CheckId::required("qe.mrsigner", "who signed the QE");
const QE_PRODUCT: CheckId = CheckId::required("qe.product", "the QE's product number");
const QE_ATTRIBUTES: CheckId = CheckId::required("qe.attributes", "the set of the QE's attributes");
const QE_MISC: CheckId = CheckId::required("qe.misc-select", "the QE's MISCSELECT");
const MODULE_SIGNER: CheckId = CheckId::required("module.mrsigner", "who signed the TDX module");
const MODULE_ATTRIBUTES: CheckId = CheckId::required("module.attributes", "the set of the TDX module's attributes");
const LAUNCH: CheckId = CheckId::required("tcb.launch", "the platform's TCB when the guest was launched");
const CURRENT: CheckId = CheckId::where_possible("tcb.current", "the platform's TCB now");
const STATUS: CheckId = CheckId::required("tcb.status", "the platform's status").failing_as(Fault::Revoked);

/// Who signed a statement, who issues certificates for that, and what it has revoked.
#[derive(Clone, Copy)]
pub(super) struct By<'a> {
    pub(super) signer: &'a Found<'a>,
    pub(super) root: Option<Signer<'a>>,
    pub(super) revoked: Option<&'a Crl<'a>>,
}

/// Certificates of who signed both statements, and of a root, in DER. Mostly both came with the same, which is read once.
pub(super) struct Chains {
    of_info: Decoded,
    /// If it is another.
    of_identity: Option<Decoded>,
}

type Decoded = Result<[Vec<u8>; 2], PemError>;

/// Who signed a statement, as far as that can be read.
type Found<'a> = Result<Result<Certificate<'a>, CertificateError>, PemError>;

/// The first of each of [`Chains`].
pub(super) struct Signers<'a> {
    of_info: Found<'a>,
    of_identity: Option<Found<'a>>,
}

impl Chains {
    pub(super) fn of(collateral: &Collateral<'_>) -> Self {
        let [info, identity] =
            [collateral.tcb_info, collateral.qe_identity].map(|json| json.map_or(&[][..], |json| json.chain));
        Self { of_info: pem::chain(info), of_identity: (identity != info).then(|| pem::chain(identity)) }
    }

    pub(super) fn signers(&self) -> Signers<'_> {
        Signers { of_info: read(&self.of_info), of_identity: self.of_identity.as_ref().map(read) }
    }
}

fn read(chain: &Decoded) -> Found<'_> {
    chain.as_ref().map(|[signer, _root]| Certificate::parse(signer)).map_err(|error| *error)
}

impl<'a> Signers<'a> {
    pub(super) const fn of_info(&self) -> &Found<'a> {
        &self.of_info
    }

    pub(super) fn of_identity(&self) -> &Found<'a> {
        self.of_identity.as_ref().unwrap_or(&self.of_info)
    }
}

impl Judge<'_> {
    /// TCB info, and that it is about the platform with this key.
    pub(super) fn tcb_info(&mut self, json: Option<SignedJson<'_>>, by: By<'_>, pck: Option<&Pck>) -> Option<TcbInfo> {
        let info = self.statement(&TCB_INFO, json, by, TcbInfo::parse, |info| (info.issue_date, info.next_update));
        let (Some(of), Some(pck)) = (&info, pck) else {
            let why = if info.is_none() { "there is no TCB info" } else { "the platform is not known" };
            self.checks.skip(PLATFORM, why);
            return info;
        };
        let kind = |fmspc: &[u8], pce_id: &[u8]| format!("{}, PCE {}", Hex(fmspc), Hex(pce_id));
        let found = kind(&of.fmspc, &of.pce_id);
        let is_it = (of.fmspc, of.pce_id) == (pck.fmspc, pck.pce_id);
        let wanted = format!("the key's: {}", kind(&pck.fmspc, &pck.pce_id));
        self.checks.add(PLATFORM, wanted, if is_it { Ok(found) } else { Err(found) });
        info
    }

    /// The quoting enclave's identity, and that what wrote this report has it.
    pub(super) fn qe_identity(
        &mut self,
        json: Option<SignedJson<'_>>,
        by: By<'_>,
        qe: &EnclaveReport,
    ) -> Option<QeIdentity> {
        let times = |identity: &QeIdentity| (identity.issue_date, identity.next_update);
        let Some(identity) = self.statement(&QE_IDENTITY, json, by, QeIdentity::parse, times) else {
            self.skip_all([QE_SIGNER, QE_PRODUCT, QE_ATTRIBUTES, QE_MISC], "there is no identity to compare with");
            return None;
        };
        self.same(QE_SIGNER, &qe.mr_signer, &identity.mr_signer, &[0xff; 32]);
        let (found, wanted) = (qe.product.get(), identity.product);
        self.checks.add(QE_PRODUCT, wanted, if found == wanted { Ok(found) } else { Err(found) });
        self.same(QE_ATTRIBUTES, &qe.attributes, &identity.attributes, &identity.attributes_mask);
        self.same(QE_MISC, &qe.misc_select, &identity.misc_select, &identity.misc_select_mask);
        Some(identity)
    }

    /// What the platform is worth.
    pub(super) fn tcb(
        &mut self,
        quote: &Quote<'_>,
        pck: Option<&Pck>,
        info: Option<&TcbInfo>,
        identity: Option<&QeIdentity>,
    ) -> Option<Evaluation> {
        let (Some(info), Some(pck)) = (info, pck) else {
            let why = if info.is_none() { "there is no TCB info" } else { "the platform's versions are not known" };
            self.skip_all([MODULE_SIGNER, MODULE_ATTRIBUTES, LAUNCH, CURRENT, STATUS], why);
            return None;
        };
        self.module(quote, info);
        let Some(identity) = identity else {
            self.skip_all([LAUNCH, CURRENT, STATUS], "the QE's versions are not known");
            return None;
        };
        let qe = tcb::qe_level(identity, quote.qe_report().svn.get());
        let mut evaluate = |id, svn| {
            let evaluation = qe.clone().and_then(|level| tcb::evaluate(info, pck, svn, level));
            let found = evaluation.as_ref().map(|it| it.status);
            self.checks.add(blamed(id, evaluation.as_ref().err()), "at a level of TCB info, with module and QE", found);
            if let Some(shortfall) = evaluation.as_ref().err().and_then(TcbError::shortfall) {
                self.checks.fall_short(shortfall.to_string());
            }
            evaluation.ok()
        };
        let launch = evaluate(LAUNCH, quote.tee_tcb_svn());
        let current = quote.tee_tcb_svn2().map(|svn| evaluate(CURRENT, svn));
        let evaluation = match (launch, current) {
            (Some(launch), None) => {
                self.checks.skip(CURRENT, "TDX 1.0 doesn't say");
                launch
            }
            (Some(launch), Some(Some(current))) => launch.since(&current),
            (None, _) | (_, Some(None)) => {
                self.checks.skip(STATUS, "there is no level to have one");
                return None;
            }
        };
        let found = described(&evaluation);
        let found = if evaluation.status == TcbStatus::Revoked { Err(found) } else { Ok(found) };
        self.checks.add(STATUS, "not revoked", found);
        Some(evaluation)
    }

    fn module(&mut self, quote: &Quote<'_>, info: &TcbInfo) {
        match tcb::module(info, quote.tee_tcb_svn()) {
            Ok((Module { mr_signer, attributes, attributes_mask }, _)) => {
                self.same(MODULE_SIGNER, quote.mr_signer_seam(), &mr_signer, &[0xff; 48]);
                self.same(MODULE_ATTRIBUTES, quote.seam_attributes(), &attributes, &attributes_mask);
            }
            Err(error) => {
                self.checks.add(blamed(MODULE_SIGNER, Some(&error)), "known to TCB info", Err::<String, _>(error));
                self.checks.skip(MODULE_ATTRIBUTES, "the module is not known");
            }
        }
    }

    /// A statement whose text this key signed, certified by the root, at this moment.
    fn statement<T>(
        &mut self,
        ids: &Ids,
        json: Option<SignedJson<'_>>,
        by: By<'_>,
        parse: fn(&[u8]) -> Result<T, CollateralError>,
        times: fn(&T) -> (UnixTime, UnixTime),
    ) -> Option<T> {
        let Some(json) = json else {
            let of_signer = [ids.signer, ids.signer_signature, ids.signer_validity, ids.signer_revocation];
            self.checks.missing(ids.form, "as Intel writes it");
            self.skip_all(of_signer.into_iter().chain([ids.signature, ids.validity]), "there is nothing signed");
            return None;
        };
        self.signer(ids, json, by);
        let statement = parse(json.text);
        self.checks.add(ids.form, "as Intel writes it", statement.as_ref().map(|_| "that"));
        match &statement {
            Ok(statement) => self.span(ids.validity, times(statement)),
            Err(_) => self.checks.skip(ids.validity, "it cannot be read"),
        }
        statement.ok()
    }

    fn signer(&mut self, ids: &Ids, json: SignedJson<'_>, by: By<'_>) {
        const WANTED: &str = "one and a root's, in PEM";
        let signer = match by.signer {
            Ok(signer) => {
                let is_it = self.called(ids.signer, signer.as_ref(), &[SIGNER_NAME]);
                signer.as_ref().ok().filter(|_| is_it)
            }
            // Nothing is there, and so nothing that is wrong.
            Err(PemError::Count { found: 0, .. }) => {
                self.checks.missing(ids.signer, WANTED);
                None
            }
            Err(error) => {
                self.checks.add(ids.signer, WANTED, Err::<String, _>(error));
                None
            }
        };
        self.issued(ids.signer_signature, ids.signer_validity, signer, by.root);
        self.absent(ids.signer_revocation, signer, by.revoked);
        let Some(signer) = signer else {
            return self.checks.skip(ids.signature, "there is no certificate of who signed");
        };
        let found = match signer.p256_key() {
            Ok(key) if is_signed(key, json.text, json.signature) => Ok("by it"),
            Ok(_) => Err("not by it, or something of the text was changed".to_string()),
            Err(error) => Err(format!("by {error}")),
        };
        self.checks.add(ids.signature, "by the key of the certificate", found);
    }

    /// That bytes are those wanted, as far as a mask goes.
    fn same<const N: usize>(&mut self, id: CheckId, found: &[u8; N], wanted: &[u8; N], mask: &[u8; N]) {
        let is_it = (0..N).all(|index| (found[index] ^ wanted[index]) & mask[index] == 0);
        let shown = Hex(found);
        let partly =
            if mask.iter().all(|byte| *byte == 0xff) { String::new() } else { format!(" under {}", Hex(mask)) };
        self.checks.add(id, format!("{}{partly}", Hex(wanted)), if is_it { Ok(shown) } else { Err(shown) });
    }
}

/// The check, failing for this reason: of a module that TCB info does not have, another TCB info may say what it is worth.
const fn blamed(id: CheckId, error: Option<&TcbError>) -> CheckId {
    if matches!(error, Some(TcbError::UnknownModule(_))) { id.failing_as(Fault::Collateral) } else { id }
}

fn described(evaluation: &Evaluation) -> String {
    let Evaluation { status, date, advisories, .. } = evaluation;
    if advisories.is_empty() {
        format!("{status} as of {date}")
    } else {
        format!("{status} as of {date}, with {}", advisories.join(", "))
    }
}

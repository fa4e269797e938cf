//! `tenure attest verify --quote`: what is asked of TDX guests.

use attest::tdx::{Policy, ReferenceValues};
use clap::Args;
use snp::digest::Digest;

use super::VerifyArgs;
use super::ear::{Claimed, policy_id};
use crate::cli::CliError;
use crate::evidence::policy::tdx as policy;
use crate::evidence::tdx::collateral::{CollateralFiles, CollateralSources};
use crate::evidence::tdx::{self, QuoteEvidence, QuoteFileError};
use crate::evidence::verdict::{SOFTWARE_TEST, VerdictReport};
use crate::evidence::{self, EvidenceError, Judged};
use crate::exit::ExitCode;
use crate::idblock::Source;

/// What only quotes have.
#[derive(Debug, Args)]
#[group(id = "of-quote", conflicts_with = "report")]
pub struct QuoteArgs {
    /// The event log of the guest's firmware (the area of ACPI's CCEL table); - is standard input
    #[arg(long, value_name = "FILE|-")]
    pub event_log: Option<Source>,

    /// MRTD that the guest may have, several if given several times: 96 hexadecimal digits
    #[arg(long = "mrtd", value_name = "HEX")]
    pub mr_tds: Vec<Digest>,

    /// RTMR0 that the guest may have, several if given several times: 96 hexadecimal digits
    #[arg(long = "rtmr0", value_name = "HEX")]
    pub rtmr0: Vec<Digest>,

    /// RTMR1 likewise
    #[arg(long = "rtmr1", value_name = "HEX")]
    pub rtmr1: Vec<Digest>,

    /// RTMR2 likewise
    #[arg(long = "rtmr2", value_name = "HEX")]
    pub rtmr2: Vec<Digest>,

    /// RTMR3 likewise
    #[arg(long = "rtmr3", value_name = "HEX")]
    pub rtmr3: Vec<Digest>,

    /// What the host must have said of the configuration at launch (MRCONFIGID): 96 hexadecimal digits
    #[arg(long = "mrconfigid", value_name = "HEX")]
    pub mr_config_id: Option<Digest>,

    /// Whose the guest must be, as the host said at launch (MROWNER): 96 hexadecimal digits
    #[arg(long = "mrowner", value_name = "HEX")]
    pub mr_owner: Option<Digest>,

    /// What the owner must have configured, as the host said at launch (MROWNERCONFIG): 96 hexadecimal digits
    #[arg(long = "mrownerconfig", value_name = "HEX")]
    pub mr_owner_config: Option<Digest>,

    /// Service TDs that may be bound to the guest (MR_SERVICETD), several if given several times: 96 hexadecimal digits
    #[arg(long = "service-td", value_name = "HEX")]
    pub service_tds: Vec<Digest>,
}

/// What Intel publishes about a platform: together, or each part by itself.
#[derive(Debug, Args)]
#[group(id = "of-platform", conflicts_with = "report")]
pub struct CollateralArgs {
    /// All of it: a file of JSON, or a directory with tcbInfo.json, qeIdentity.json, tcbSignChain.pem, rootCaCrl.der and
    /// intermediateCaCrl.der; - is standard input
    #[arg(long, value_name = "FILE|DIR|-",
        conflicts_with_all = ["tcb_info", "qe_identity", "tcb_signing_chain", "root_crl", "pck_crl"])]
    pub collateral: Option<Source>,

    /// TCB info with its signature, as Intel serves it
    #[arg(long, value_name = "FILE|-")]
    pub tcb_info: Option<Source>,

    /// The quoting enclave's identity with its signature, as Intel serves it
    #[arg(long, value_name = "FILE|-")]
    pub qe_identity: Option<Source>,

    /// The certificates of who signed both, in PEM, as Intel serves them in a header
    #[arg(long, value_name = "FILE|-")]
    pub tcb_signing_chain: Option<Source>,

    /// What Intel's root has revoked: DER, PEM, or hexadecimal digits
    #[arg(long, value_name = "FILE|-")]
    pub root_crl: Option<Source>,

    /// Which platforms' certificates were revoked: DER, PEM, or hexadecimal digits
    #[arg(long, value_name = "FILE|-")]
    pub pck_crl: Option<Source>,
}

impl CollateralArgs {
    pub(super) fn sources(&self) -> impl Iterator<Item = (&'static str, &Source)> {
        let Self { collateral, tcb_info, qe_identity, tcb_signing_chain, root_crl, pck_crl } = self;
        let all = [
            ("collateral", collateral),
            ("tcb-info", tcb_info),
            ("qe-identity", qe_identity),
            ("tcb-signing-chain", tcb_signing_chain),
            ("root-crl", root_crl),
            ("pck-crl", pck_crl),
        ];
        all.into_iter().filter_map(|(what, source)| Some((what, source.as_ref()?)))
    }

    fn read(&self) -> Result<CollateralFiles, EvidenceError> {
        let files = match &self.collateral {
            Some(from) => CollateralFiles::read(from),
            None => CollateralFiles::read_parts(&CollateralSources {
                tcb_info: self.tcb_info.clone(),
                qe_identity: self.qe_identity.clone(),
                chain: self.tcb_signing_chain.clone(),
                root_crl: self.root_crl.clone(),
                pck_crl: self.pck_crl.clone(),
            }),
        };
        Ok(files.map_err(QuoteFileError::from)?)
    }
}

pub(super) fn verify(quote: &Source, args: &VerifyArgs) -> Result<ExitCode, CliError> {
    let policy: Policy = match &args.policy {
        Some(file) => policy::read(file).map_err(EvidenceError::from)?,
        None => Policy::preset(args.preset.into()),
    };
    let signing = args.for_others.signing(args.report_data)?;
    args.allow_test_root.map(super::RootName::intel).transpose()?;
    let anchors = tdx::anchors(args.test_root.as_ref())?;
    let now = evidence::moment(args.now)?;
    let collateral = args.of_platform.read()?;
    let log = args.of_quote.event_log.as_ref();
    let evidence = QuoteEvidence::read(quote, collateral, log).map_err(EvidenceError::from)?;
    let references = references(args);
    let judged = evidence.judge(&anchors, &policy, &references, now);
    let label = args.test_root.as_ref().map(|_| SOFTWARE_TEST);
    let verdict = VerdictReport::of_quote(&evidence, &judged, now, label);
    args.show(&verdict)?;
    if let (Some(signing), Judged::Verified(verified, appraisal)) = (signing, &judged) {
        // MRTD is of the firmware alone: RTMR1 and RTMR2 say what it started.
        let [_, loader, started, _] = &references.rtmrs;
        let claimed = Claimed {
            tee: "tdx",
            is_known: [&references.mr_tds, loader, started].iter().all(|values| !values.is_empty()),
            is_instance: false,
            is_debugged: verified.evidence().quote().td_attributes().debug(),
            policy: policy_id(&policy, &references),
        };
        signing.write(appraisal, claimed, &verdict.said, now)?;
    }
    Ok(judged.exit_code())
}

fn references(args: &VerifyArgs) -> ReferenceValues {
    let QuoteArgs { mr_tds, rtmr0, rtmr1, rtmr2, rtmr3, service_tds, .. } = &args.of_quote;
    let all = |digests: &[Digest]| digests.iter().map(|digest| digest.0).collect();
    let one = |digest: &Option<Digest>| digest.as_ref().map(|digest| digest.0);
    ReferenceValues {
        mr_tds: all(mr_tds),
        rtmrs: [rtmr0, rtmr1, rtmr2, rtmr3].map(|digests| all(digests)),
        mr_config_id: one(&args.of_quote.mr_config_id),
        mr_owner: one(&args.of_quote.mr_owner),
        mr_owner_config: one(&args.of_quote.mr_owner_config),
        report_data: args.report_data,
        mr_service_tds: all(service_tds),
    }
}

//! `tenure attest verify --quote`: what is asked of TDX guests.

use attest::tdx::{Policy, ReferenceValues};
use clap::Args;

use super::VerifyArgs;
use super::ear::{Claimed, policy_id};
use crate::cli::CliError;
use crate::cli::attest::references::QuoteReferenceArgs;
use crate::evidence::policy::tdx as policy;
use crate::evidence::tdx::{self, QuoteEvidence, QuoteFileError};
use crate::evidence::verdict::{SOFTWARE_TEST, VerdictReport};
use crate::evidence::{self, EvidenceError, Judged, trust};
use crate::exit::ExitCode;
use crate::idblock::Source;

/// What only quotes have.
#[derive(Debug, Args)]
pub struct QuoteArgs {
    /// The event log of the guest's firmware (the area of ACPI's CCEL table); - is standard input
    #[arg(long, value_name = "FILE|-")]
    pub event_log: Option<Source>,

    /// What the guest is expected to be.
    #[command(flatten)]
    pub references: QuoteReferenceArgs,
}

impl QuoteArgs {
    /// Whether there is anything of a quote's.
    pub(super) fn are_given(&self) -> bool {
        self.event_log.is_some() || self.references.are_given()
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
    let collateral = args.of_platform.place().read().map_err(QuoteFileError::from).map_err(EvidenceError::from)?;
    let log = args.of_quote.event_log.as_ref();
    let evidence = QuoteEvidence::read(quote, collateral, log).map_err(EvidenceError::from)?;
    let references = ReferenceValues { report_data: args.report_data, ..args.of_quote.references.values() };
    let judged = evidence.judge(&anchors, &policy, &references, now);
    let label = args.test_root.as_ref().map(|_| SOFTWARE_TEST);
    let verdict = VerdictReport::of_quote(&evidence, &judged, now, label);
    args.show(&verdict)?;
    if let (Some(signing), Judged::Verified(verified, appraisal)) = (signing, &judged) {
        let claimed = Claimed {
            tee: "tdx",
            vector: trust::of_quote(verified, &references),
            policy: policy_id(&policy, &ReferenceValues { report_data: None, ..references }),
        };
        signing.write(appraisal, claimed, &verdict.said, now)?;
    }
    Ok(judged.exit_code())
}

//! `tenure attest verify --report`: what is asked of SNP guests.

use attest::snp::{Product, ReferenceValues};
use clap::{Args, ValueEnum};

use super::ear::{Claimed, policy_id};
use super::{RootName, VerifyArgs};
use crate::cli::CliError;
use crate::cli::attest::chosen;
use crate::cli::attest::references::ReferenceArgs;
use crate::evidence::certificates::Certificates;
use crate::evidence::verdict::VerdictReport;
use crate::evidence::{self, Evidence, EvidenceError, Judged, trust};
use crate::exit::ExitCode;
use crate::idblock::Source;

/// What only reports have.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// The table of certificates that comes with an extended report; - is standard input
    #[arg(long, value_name = "FILE|-")]
    pub certificates: Option<Source>,

    /// The certificate of the key that signed, VCEK or VLEK, DER or PEM; counts before the table's
    #[arg(long, value_name = "FILE|-")]
    pub vek: Option<Source>,

    /// Who issued it, ASK or ASVK, DER or PEM; in PEM also the root after that, as AMD serves cert_chain
    #[arg(long, value_name = "FILE|-")]
    pub chain: Option<Source>,

    /// A list of revoked certificates in DER, PEM or hexadecimal digits, signed by the product's root; one that the table has is
    /// used without this
    #[arg(long, value_name = "FILE|-")]
    pub crl: Option<Source>,

    /// What the guest is expected to be.
    #[command(flatten)]
    pub references: ReferenceArgs,
}

/// Products with a root of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProductName {
    /// Zen 3
    Milan,
    /// Zen 4; also Bergamo and Siena
    Genoa,
    /// Zen 5
    Turin,
}

impl From<ProductName> for Product {
    fn from(name: ProductName) -> Self {
        match name {
            ProductName::Milan => Self::Milan,
            ProductName::Genoa => Self::Genoa,
            ProductName::Turin => Self::Turin,
        }
    }
}

impl ReportArgs {
    /// Whether there is anything of a report's. Who serves guests has some of these arguments as well, so that they cannot
    /// know of quotes.
    pub(super) fn are_given(&self) -> bool {
        self.sources().next().is_some() || self.references.are_given()
    }

    pub(super) fn sources(&self) -> impl Iterator<Item = (&'static str, &Source)> {
        let Self { certificates, vek, chain, crl, .. } = self;
        let all = [("certificates", certificates), ("vek", vek), ("chain", chain), ("crl", crl)];
        let files = all.into_iter().filter_map(|(what, source)| Some((what, source.as_ref()?)));
        files.chain(self.references.sources())
    }
}

pub(super) fn verify(report: &Source, args: &VerifyArgs) -> Result<ExitCode, CliError> {
    let ReportArgs { certificates, vek, chain, crl, .. } = &args.of_report;
    let signing = args.for_others.signing(args.report_data)?;
    let policy = chosen(args.policy.as_ref(), args.preset)?;
    let references = ReferenceValues { report_data: args.report_data, ..args.of_report.references.values()? };
    let product = args.allow_test_root.map(RootName::product).transpose()?.map(Product::from);
    let anchors = evidence::anchors(args.test_root.as_ref().zip(product))?;
    let now = evidence::moment(args.now)?;
    let files = Certificates::read(vek.as_ref(), chain.as_ref()).map_err(EvidenceError::from)?;
    let evidence = Evidence::read(report, certificates.as_ref(), crl.as_ref())?.with_certificates(files);
    let judged = evidence.judge(&anchors, &policy, &references, now);
    let verdict = VerdictReport::of(&evidence, &judged, now, product);
    args.show(&verdict)?;
    if let (Some(signing), Judged::Verified(verified, appraisal)) = (signing, &judged) {
        let claimed = Claimed {
            tee: "snp",
            vector: trust::of_report(verified, &references),
            policy: policy_id(&policy, &ReferenceValues { report_data: None, ..references }),
        };
        signing.write(appraisal, claimed, &verdict.said, now)?;
    }
    Ok(judged.exit_code())
}

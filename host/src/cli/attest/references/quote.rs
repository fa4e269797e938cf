//! What a TDX guest is expected to be, as arguments say it, and where that is what Intel publishes about platforms: for
//! `tenure attest verify` and `tenure attest serve` alike.

use attest::tdx::ReferenceValues;
use clap::Args;
use snp::digest::Digest;

use crate::evidence::tdx::collateral::{CollateralPlace, CollateralSources};
use crate::idblock::Source;

/// What a TDX guest is expected to be.
#[derive(Debug, Args)]
pub struct QuoteReferenceArgs {
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

impl QuoteReferenceArgs {
    /// Whether anything is expected.
    pub(in crate::cli::attest) fn are_given(&self) -> bool {
        let Self { mr_tds, rtmr0, rtmr1, rtmr2, rtmr3, mr_config_id, mr_owner, mr_owner_config, service_tds } = self;
        let listed = [mr_tds, rtmr0, rtmr1, rtmr2, rtmr3, service_tds].into_iter().any(|digests| !digests.is_empty());
        listed || [mr_config_id, mr_owner, mr_owner_config].into_iter().any(Option::is_some)
    }

    /// What a quote must say, but for the data of whoever asks.
    pub(in crate::cli::attest) fn values(&self) -> ReferenceValues {
        let Self { mr_tds, rtmr0, rtmr1, rtmr2, rtmr3, mr_config_id, mr_owner, mr_owner_config, service_tds } = self;
        let all = |digests: &[Digest]| digests.iter().map(|digest| digest.0).collect();
        let one = |digest: &Option<Digest>| digest.as_ref().map(|digest| digest.0);
        ReferenceValues {
            mr_tds: all(mr_tds),
            rtmrs: [rtmr0, rtmr1, rtmr2, rtmr3].map(|digests| all(digests)),
            mr_config_id: one(mr_config_id),
            mr_owner: one(mr_owner),
            mr_owner_config: one(mr_owner_config),
            report_data: None,
            mr_service_tds: all(service_tds),
        }
    }
}

/// What Intel publishes about a platform: together, or each part by itself.
#[derive(Debug, Args)]
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
    pub(in crate::cli::attest) fn sources(&self) -> impl Iterator<Item = (&'static str, &Source)> {
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

    /// Whether there is any.
    pub(in crate::cli::attest) fn are_given(&self) -> bool {
        self.sources().next().is_some()
    }

    /// Where it is.
    pub(in crate::cli::attest) fn place(&self) -> CollateralPlace {
        match &self.collateral {
            Some(from) => CollateralPlace::Whole(from.clone()),
            None => CollateralPlace::Parts(CollateralSources {
                tcb_info: self.tcb_info.clone(),
                qe_identity: self.qe_identity.clone(),
                chain: self.tcb_signing_chain.clone(),
                root_crl: self.root_crl.clone(),
                pck_crl: self.pck_crl.clone(),
            }),
        }
    }
}

//! Whole processes over the libraries that ours is compared with: files in, an exit code out. Who wrote them has no program
//! that does this without a network.

use std::env;
use std::fs;

use anyhow::{Result, bail, ensure};
use dcap_qvl::QuoteCollateralV3;
use dcap_qvl::verify::QuoteVerifier;
use sev::certs::snp::{Certificate, Chain, Verifiable, builtin, ca};
use sev::firmware::guest::AttestationReport;
use sev::parser::ByteParser;

/// 2025-06-25: what is published about platforms ends after a month.
const NOW: u64 = 1_750_809_600;

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["sev", report, vek, ask] => {
            let report = AttestationReport::from_bytes(&fs::read(report)?[..])?;
            let (vek, ask) = (Certificate::from_der(&fs::read(vek)?)?, Certificate::from_der(&fs::read(ask)?)?);
            let chain = Chain { ca: ca::Chain { ark: builtin::milan::ark()?, ask }, vek };
            Ok((&chain, &report).verify()?)
        }
        ["dcap-qvl", quote, collateral] => {
            let collateral: QuoteCollateralV3 = serde_json::from_slice(&fs::read(collateral)?)?;
            let report = QuoteVerifier::new_prod().verify(&fs::read(quote)?, &collateral, NOW)?;
            ensure!(report.status == "UpToDate");
            Ok(())
        }
        _ => bail!("sev REPORT VEK ASK, or dcap-qvl QUOTE COLLATERAL"),
    }
}

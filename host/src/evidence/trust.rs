//! What a token for others claims of evidence that is what was wanted: for `tenure attest verify --ear` and for the service
//! alike.
//!
//! Owns the vector: which of a verdict's parts affirms what. Forms of tokens are [`attest::ear`]'s.
//!
//! Law no-silent-trust: below a test's root nothing is claimed of hardware. Specification: RATS AR4SI (draft-ietf-rats-ar4si),
//! "Trustworthiness Vector".

use attest::Verified;
use attest::ear::{TrustClaim, TrustVector};
use attest::snp::{Product, Report};
use attest::tdx::{Endorsed, TcbStatus};
use attest::{snp, tdx};

/// DEBUG of an SNP guest's policy.
const DEBUG: u64 = 1 << 19;

/// Of a report that meets these. On Milan software reads the seed of all keys (arXiv 2605.12990): whoever did that once to a chip
/// signs what he likes, and no version takes it back.
pub fn of_report(verified: &Verified<Report<'_>>, references: &snp::ReferenceValues) -> TrustVector {
    let is_known = !references.launch_digests.is_empty() || !references.id_keys.is_empty();
    TrustVector {
        instance_identity: claimed(!references.chips.is_empty(), TrustClaim::AFFIRMED),
        hardware: hardware(verified.anchor().is_hardware(), verified.anchor().product() != Product::Milan),
        ..of_any(is_known, verified.evidence().policy() & DEBUG != 0)
    }
}

/// Of a quote that meets these. No quote names a machine.
pub fn of_quote(verified: &Verified<Endorsed<'_>>, references: &tdx::ReferenceValues) -> TrustVector {
    let endorsed = verified.evidence();
    // MRTD is of the firmware alone: what that loaded, and what was loaded then, is in the two others.
    let [_, loaded, then, _] = &references.rtmrs;
    let is_known = ![&references.mr_tds, loaded, then].into_iter().any(Vec::is_empty);
    let platform = endorsed.platform();
    let is_good = platform.status == TcbStatus::UpToDate && platform.advisories.is_empty();
    TrustVector {
        hardware: hardware(verified.anchor().is_hardware(), is_good),
        ..of_any(is_known, endorsed.quote().td_attributes().debug())
    }
}

/// Whether hardware vouches for it, and whether nothing is known that speaks against that.
const fn hardware(is_hardware: bool, is_good: bool) -> TrustClaim {
    match (is_hardware, is_good) {
        (true, true) => TrustClaim::AFFIRMED,
        (true, false) => TrustClaim::VULNERABLE,
        (false, _) => TrustClaim::UNRECOGNISED,
    }
}

/// Whether it is known which code was started, and whether others can look into the guest.
fn of_any(is_known: bool, is_debugged: bool) -> TrustVector {
    TrustVector {
        configuration: TrustClaim::AFFIRMED,
        executables: claimed(is_known, TrustClaim::BOOT_RECOGNISED),
        runtime_opaque: if is_debugged { TrustClaim::VISIBLE } else { TrustClaim::AFFIRMED },
        ..TrustVector::default()
    }
}

const fn claimed(is_so: bool, claim: TrustClaim) -> TrustClaim {
    if is_so { claim } else { TrustClaim::NONE }
}

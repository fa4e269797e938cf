//! The chain of certificates from a platform's key to a root, and whether one of them was revoked.
//!
//! Owns who may issue what, by name and by key; a root that came along only says which trusted one is meant. Does not
//! own what the platform's certificate says of it. Specification: Intel SGX PCK Certificate and CRL Profile.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::Judge;
use crate::anchors::KNOWN;
use crate::check::{CheckId, Fault};
use crate::pem;
use crate::tdx::{Anchor, Collateral};
use crate::x509::crl::Crl;
use crate::x509::{Certificate, CertificateError};

const FORM: CheckId = CheckId::required("chain.form", "the chain of certificates");
const ROOT: CheckId = CheckId::required("chain.root", "the root that the chain ends at");
const ROOT_VALIDITY: CheckId =
    CheckId::required("chain.root.validity", "the root's validity").failing_as(Fault::Collateral);
const CA: CheckId = CheckId::required("chain.intermediate", "the intermediate certificate");
const CA_SIGNER: CheckId =
    CheckId::required("chain.intermediate.signature", "the intermediate certificate's signature");
const CA_VALIDITY: CheckId =
    CheckId::required("chain.intermediate.validity", "the intermediate certificate's validity")
        .failing_as(Fault::Collateral);
const CA_AUTHORITY: CheckId =
    CheckId::required("chain.intermediate.authority", "what the intermediate certificate is for");
const KEY: CheckId = CheckId::required("key.certificate", "the platform key's certificate");
const KEY_SIGNER: CheckId = CheckId::required("key.signature", "the signature of the platform key's certificate");
const KEY_VALIDITY: CheckId =
    CheckId::required("key.validity", "the validity of the platform key's certificate").failing_as(Fault::Collateral);
const ROOT_CRL: ListIds = ListIds {
    signer: CheckId::required("crl.root.signature", "the signature of the root's list of revoked certificates"),
    validity: CheckId::required("crl.root.validity", "the validity of the root's list of revoked certificates")
        .failing_as(Fault::Collateral),
};
const PCK_CRL: ListIds = ListIds {
    signer: CheckId::required("crl.pck.signature", "the signature of the list of revoked platforms' certificates"),
    validity: CheckId::required("crl.pck.validity", "the validity of the list of revoked platforms' certificates")
        .failing_as(Fault::Collateral),
};
const CA_REVOCATION: CheckId =
    CheckId::required("chain.intermediate.revocation", "the intermediate certificate on the root's list")
        .failing_as(Fault::Revoked);
const KEY_REVOCATION: CheckId =
    CheckId::required("key.revocation", "the platform key's certificate on the list of revoked ones")
        .failing_as(Fault::Revoked);

/// Who issues platforms' certificates: for those with one processor package, and those with several.
const CAS: [&str; 2] = ["Intel SGX PCK Platform CA", "Intel SGX PCK Processor CA"];
const KEY_NAME: &str = "Intel SGX PCK Certificate";
/// What is found of a signature that was checked, and is its issuer's.
const BY_IT: &str = "by it";

struct ListIds {
    signer: CheckId,
    validity: CheckId,
}

/// Certificates in DER, the key's first.
pub(super) type Decoded = [Vec<u8>; 3];

/// What could be read of a chain. The root is the trusted one, not the one that came along.
#[derive(Default)]
pub(super) struct Chain<'a> {
    pub(super) key: Option<Certificate<'a>>,
    pub(super) ca: Option<Certificate<'a>>,
    pub(super) root: Option<(Anchor, Certificate<'a>)>,
}

/// A certificate whose key signs others. If it is a root's, it is said which.
#[derive(Clone, Copy)]
pub(super) struct Signer<'a> {
    certificate: &'a Certificate<'a>,
    anchor: Option<Anchor>,
}

impl<'a> Chain<'a> {
    pub(super) fn root(&self) -> Option<Signer<'_>> {
        self.root.as_ref().map(|(anchor, certificate)| Signer { certificate, anchor: Some(*anchor) })
    }

    fn ca(&self) -> Option<Signer<'_>> {
        self.ca.as_ref().map(|certificate| Signer { certificate, anchor: None })
    }

    pub(super) fn anchor(&self) -> Option<Anchor> {
        self.root.as_ref().map(|(anchor, _)| *anchor)
    }
}

impl<'a> Judge<'a> {
    pub(super) fn decode(&mut self, pem: &[u8]) -> Option<Decoded> {
        let chain = pem::chain(pem);
        let wanted = "a platform key's certificate, an intermediate one and a root, in PEM";
        self.checks.add(FORM, wanted, chain.as_ref().map(|_| "that"));
        if chain.is_err() {
            let ids = [ROOT, ROOT_VALIDITY, CA, CA_SIGNER, CA_VALIDITY, CA_AUTHORITY, KEY, KEY_SIGNER, KEY_VALIDITY];
            self.skip_all(ids, "there is no chain of certificates");
        }
        chain.ok()
    }

    pub(super) fn chain<'c>(&mut self, [key, ca, root]: &'c Decoded) -> Chain<'c>
    where
        'a: 'c,
    {
        let mut chain = Chain { root: self.root(root), ca: self.read(CA, ca, &CAS), key: None };
        self.issued(CA_SIGNER, CA_VALIDITY, chain.ca.as_ref(), chain.root());
        match &chain.ca {
            Some(ca) => self.checks.add(CA_AUTHORITY, "to sign certificates", ca.authority().map(|()| "that")),
            None => self.checks.skip(CA_AUTHORITY, "there is no such certificate"),
        }
        chain.key = self.read(KEY, key, &[KEY_NAME]);
        self.issued(KEY_SIGNER, KEY_VALIDITY, chain.key.as_ref(), chain.ca());
        chain
    }

    /// The trusted root whose key is that of the one that came along: that vouches for nothing, but is named so.
    fn root(&mut self, der: &[u8]) -> Option<(Anchor, Certificate<'a>)> {
        let anchors = self.anchors;
        let wanted: Vec<String> = anchors.iter().map(|anchor| anchor.to_string()).collect();
        let wanted = if wanted.is_empty() { "a trusted one, and none is".into() } else { wanted.join(" or ") };
        let same = anchors.certificates().find(|(_, root)| root.der() == der);
        let found = same.map_or_else(|| self.root_like(der), Ok);
        self.checks.add(ROOT, wanted, found.as_ref().map(|(anchor, _)| anchor));
        match &found {
            Ok((_, root)) => self.span(ROOT_VALIDITY, root.validity()),
            Err(_) => self.checks.skip(ROOT_VALIDITY, "there is no root"),
        }
        found.ok()
    }

    /// The trusted root with the name and the key of the one that came along, whose certificate is another.
    fn root_like(&self, der: &[u8]) -> Result<(Anchor, Certificate<'a>), String> {
        let came = Certificate::parse(der).map_err(|error| error.to_string())?;
        let mut roots = self.anchors.certificates();
        let found = roots.find(|(_, root)| root.subject() == came.subject() && root.key() == came.key());
        found.ok_or_else(|| format!("{} with a key that is not trusted", came.name()))
    }

    /// A certificate that must have one of these names. One with another name is none.
    pub(super) fn read<'c>(&mut self, id: CheckId, der: &'c [u8], names: &[&str]) -> Option<Certificate<'c>> {
        let found = Certificate::parse(der);
        let is_it = self.called(id, found.as_ref(), names);
        found.ok().filter(|_| is_it)
    }

    /// Whether a certificate could be read, and has one of these names.
    pub(super) fn called(
        &mut self,
        id: CheckId,
        found: Result<&Certificate<'_>, &CertificateError>,
        names: &[&str],
    ) -> bool {
        let wanted = names.join("'s or ");
        let found = match found.map(Certificate::common_name) {
            Ok(Some(name)) if names.contains(&name.as_str()) => Ok(format!("{name}'s")),
            Ok(name) => Err(format!("{:?}'s", name.unwrap_or_default())),
            Err(error) => Err(error.to_string()),
        };
        let is_it = found.is_ok();
        self.checks.add(id, format!("{wanted}'s"), found);
        is_it
    }

    /// That a certificate is by this issuer, and good at this moment.
    pub(super) fn issued(
        &mut self,
        signer: CheckId,
        validity: CheckId,
        certificate: Option<&Certificate<'_>>,
        issuer: Option<Signer<'_>>,
    ) {
        let Some(certificate) = certificate else {
            return self.skip_all([signer, validity], "there is no such certificate");
        };
        match issuer {
            Some(issuer) => {
                let found = if certificate.issuer() == issuer.certificate.subject() {
                    self.signed(certificate, issuer)
                } else {
                    Err(format!("by {}, as it says", certificate.issuer()))
                };
                self.checks.add(signer, format!("by {}", issuer.certificate.name()), found);
            }
            None => self.checks.skip(signer, "there is no certificate of its issuer"),
        }
        self.span(validity, certificate.validity());
    }

    /// That this issuer's key signed a certificate. What a root signed may be known, or was looked at before: mostly one
    /// certificate comes along with both of Intel's statements.
    fn signed(&mut self, certificate: &Certificate<'_>, issuer: Signer<'_>) -> Result<&'static str, String> {
        let is_known = issuer.anchor.is_some() && self.anchors.knows(certificate.der()) == issuer.anchor;
        if is_known {
            return Ok(KNOWN);
        }
        if issuer.anchor.is_some() && self.by_root.as_deref() == Some(certificate.der()) {
            return Ok(BY_IT);
        }
        let found = by(certificate.is_signed_by(issuer.certificate));
        if issuer.anchor.is_some() && found.is_ok() {
            self.by_root = Some(certificate.der().to_vec());
        }
        found
    }

    /// That neither the key's certificate nor its issuer's was revoked. The root's list, for more of its certificates.
    pub(super) fn revocation<'c>(&mut self, collateral: &Collateral<'c>, chain: &Chain<'_>) -> Option<Crl<'c>> {
        let of_root = self.list(ROOT_CRL, collateral.root_crl, chain.root().map(|root| root.certificate));
        self.absent(CA_REVOCATION, chain.ca.as_ref(), of_root.as_ref());
        let of_ca = self.list(PCK_CRL, collateral.pck_crl, chain.ca.as_ref());
        self.absent(KEY_REVOCATION, chain.key.as_ref(), of_ca.as_ref());
        of_root
    }

    /// A list by this issuer. One that somebody else signed is none.
    fn list<'c>(&mut self, ids: ListIds, der: Option<&'c [u8]>, issuer: Option<&Certificate<'_>>) -> Option<Crl<'c>> {
        let ListIds { signer, validity } = ids;
        let Some(der) = der else {
            self.checks
                .missing(signer, issuer.map_or("by its issuer".into(), |issuer| format!("by {}", issuer.name())));
            self.checks.skip(validity, "there is no such list");
            return None;
        };
        let Some(issuer) = issuer else {
            self.skip_all([signer, validity], "there is no certificate of its issuer");
            return None;
        };
        let list = match Crl::parse(der) {
            Ok(list) if list.issuer() == issuer.subject() => by(list.is_signed_by(issuer)).map(|by| (by, list)),
            Ok(list) => Err(format!("by {}", list.issuer())),
            Err(error) => Err(format!("unreadable: {error}")),
        };
        self.checks.add(signer, format!("by {}", issuer.name()), list.as_ref().map(|(by, _)| by));
        match &list {
            Ok((_, list)) => {
                self.span(validity, list.validity());
                self.horizon.list(signer, list.number());
            }
            Err(_) => self.checks.skip(validity, "there is no such list"),
        }
        list.ok().map(|(_, list)| list)
    }

    /// That a certificate is not on this list of its issuer's.
    pub(super) fn absent(&mut self, id: CheckId, certificate: Option<&Certificate<'_>>, list: Option<&Crl<'_>>) {
        match (certificate, list) {
            (Some(certificate), Some(list)) => {
                let found = if list.has(certificate) { Err("there") } else { Ok("not there") };
                self.checks.add(id, "not there", found);
            }
            (None, _) => self.checks.skip(id, "there is no such certificate"),
            (_, None) => self.checks.skip(id, "there is no list of revoked certificates"),
        }
    }
}

fn by(signed: Result<(), CertificateError>) -> Result<&'static str, String> {
    match signed {
        Ok(()) => Ok(BY_IT),
        Err(CertificateError::Signature) => Err("not by it, or something of it was changed".to_string()),
        Err(error) => Err(format!("by {error}")),
    }
}

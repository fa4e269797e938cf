//! Certificates of endorsement keys: VCEK and VLEK.
//!
//! Owns AMD's extensions. A VCEK names its chip, a VLEK its provider; both name each component's version. Turin has the
//! FMC's and no fourth one, and the structure's version is 1. Specification: AMD 57230, "X.509 extensions".

use std::time::Duration;

use x509_cert::der::Encode as _;
use x509_cert::der::asn1::{Any, BitString, Ia5StringRef, ObjectIdentifier, OctetStringRef};
use x509_cert::ext::Extension;
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};

use crate::chain::{Authority, ChainError, Contents, EC_PUBLIC_KEY, extension, issue, name};
use crate::model::{Model, Tcb};
use crate::report::EndorsementKey;

/// Years that a VCEK's certificate is good for.
pub(crate) const VCEK_YEARS: u32 = 7;
/// Years that a VLEK's is.
const VLEK_YEARS: u32 = 1;
const SECP384R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
/// AMD's arc for these extensions.
const ARC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1");

/// How the chip's identifier stands in its extension: both occur.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HwidForm {
    /// As it is.
    #[default]
    Raw,
    /// As an OCTET STRING.
    OctetString,
}

/// An endorsement key, and what its certificate says of it.
#[derive(Clone, Debug)]
pub struct VekSubject {
    /// Chip's or provider's.
    pub kind: EndorsementKey,
    /// The public key, an uncompressed point (SEC 1).
    pub public_point: Vec<u8>,
    /// The versions it belongs to.
    pub tcb: Tcb,
    /// The chip; not in a VLEK's certificate.
    pub chip_id: [u8; 64],
    /// How the chip stands there.
    pub hwid_form: HwidForm,
    /// The provider; not in a VCEK's certificate.
    pub csp_id: String,
    /// When the certificate begins, since 1970.
    pub not_before: Duration,
}

impl Authority {
    /// The certificate of an endorsement key.
    pub fn vek(&self, subject: &VekSubject) -> Result<Vec<u8>, ChainError> {
        let (common, for_years) = match subject.kind {
            EndorsementKey::Vcek => ("SEV-VCEK", VCEK_YEARS),
            EndorsementKey::Vlek => ("SEV-VLEK", VLEK_YEARS),
        };
        let contents = Contents {
            serial: 0,
            issuer: self.intermediate_name(subject.kind)?,
            subject: name(common)?,
            from: subject.not_before,
            for_years,
            key: subject.key()?,
            extensions: subject.extensions(self.model)?,
        };
        issue(contents, self.issuer(subject.kind))
    }
}

impl VekSubject {
    fn key(&self) -> Result<SubjectPublicKeyInfoOwned, ChainError> {
        let algorithm = AlgorithmIdentifierOwned { oid: EC_PUBLIC_KEY, parameters: Some(Any::from(&SECP384R1)) };
        Ok(SubjectPublicKeyInfoOwned { algorithm, subject_public_key: BitString::from_bytes(&self.public_point)? })
    }

    fn extensions(&self, model: Model) -> Result<Vec<Extension>, ChainError> {
        let turin = model == Model::Turin;
        let product = match model {
            Model::Milan => "Milan-B0",
            Model::Genoa => "Genoa-B1",
            Model::Turin => "Turin-B0",
        };
        let mut extensions =
            vec![amd(&[1], &u8::from(turin).to_der()?)?, amd(&[2], &Ia5StringRef::new(product)?.to_der()?)?];
        let version = |arc: u32, version: u8| -> Result<Extension, ChainError> { amd(&[3, arc], &version.to_der()?) };
        let tcb = self.tcb;
        let versions = [(1, tcb.boot_loader), (2, tcb.tee), (3, tcb.snp), (5, 0), (6, 0), (7, 0), (8, tcb.microcode)];
        for (arc, component) in versions {
            extensions.push(version(arc, component)?);
        }
        extensions.push(if turin { version(9, tcb.fmc)? } else { version(4, 0)? });
        extensions.push(match self.kind {
            EndorsementKey::Vcek => {
                let hwid = &self.chip_id[..model.chip_id_bytes()];
                match self.hwid_form {
                    HwidForm::Raw => amd(&[4], hwid)?,
                    HwidForm::OctetString => amd(&[4], &OctetStringRef::new(hwid)?.to_der()?)?,
                }
            }
            EndorsementKey::Vlek => amd(&[5], &Ia5StringRef::new(&self.csp_id)?.to_der()?)?,
        });
        Ok(extensions)
    }
}

/// One of AMD's extensions, by the numbers below their arc.
fn amd(arcs: &[u32], value: &[u8]) -> Result<Extension, ChainError> {
    let id = arcs.iter().try_fold(ARC, |id, arc| id.push_arc(*arc)).map_err(x509_cert::der::Error::from)?;
    extension(id, false, value)
}

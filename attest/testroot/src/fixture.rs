//! Authorities for tests, with the keys that everybody has: making others takes seconds.

use std::time::Duration;

use crate::chain::{Authority, HwidForm, VekSubject};
use crate::chip::Seed;
use crate::model::{Model, Tcb};
use crate::report::EndorsementKey;

/// 2026-01-01.
pub(crate) const EPOCH: Duration = Duration::from_secs(1_767_225_600);
pub(crate) const SEED: Seed = Seed([0x5e; 32]);

macro_rules! keys {
    ($product:literal) => {
        [
            include_bytes!(concat!("../../../tests/silicon/keys/", $product, "-ark.key.der")),
            include_bytes!(concat!("../../../tests/silicon/keys/", $product, "-ask.key.der")),
            include_bytes!(concat!("../../../tests/silicon/keys/", $product, "-asvk.key.der")),
        ]
    };
}

pub(crate) fn keys(model: Model) -> [&'static [u8]; 3] {
    match model {
        Model::Milan => keys!("milan"),
        Model::Genoa => keys!("genoa"),
        Model::Turin => keys!("turin"),
    }
}

pub(crate) fn authority(model: Model) -> Authority {
    Authority::from_pkcs8(model, keys(model), EPOCH).unwrap()
}

/// What is to be said of a chip's key, or a provider's.
pub(crate) fn subject(model: Model, kind: EndorsementKey) -> VekSubject {
    let tcb = Tcb::usual(model);
    let key = match kind {
        EndorsementKey::Vcek => SEED.vcek(model, tcb),
        EndorsementKey::Vlek => SEED.vlek(model, tcb),
    };
    VekSubject {
        kind,
        public_point: key.public_point(),
        tcb,
        chip_id: SEED.chip_id(model),
        hwid_form: HwidForm::default(),
        csp_id: "TEST-CSP".into(),
        not_before: EPOCH,
    }
}

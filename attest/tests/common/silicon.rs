//! A software platform with a guest on it that asks for reports.

use std::sync::{Arc, OnceLock};

use attest::snp::{Anchors, Endorsements, Product};
use tenure_silicon::asid::GuestKind;
use tenure_silicon::chain::{Authority, CertificateTable, VekSubject, authority};
use tenure_silicon::config::Config;
use tenure_silicon::message::GuestChannel;
use tenure_silicon::model::Model;
use tenure_silicon::platform::Platform;
use tenure_silicon::psp::secrets::vmpcks;
use tenure_silicon::psp::{LaunchFinish, LaunchUpdate, PageKind, Policy};
use tenure_silicon::report::EndorsementKey;
use tenure_silicon::rmp::{Access, Assignment, Mapping, Permissions};
use tenure_silicon::signing::KeyPair;
use tenure_silicon::units::{Gpa, PageSize, Pfn, Vmpl};

/// What the guest and its host want to see in the report.
pub const DATA: [u8; 64] = [0xda; 64];
pub const HOST_DATA: [u8; 32] = [0x4d; 32];

const CONTEXT: Pfn = Pfn(0x10);
const RESPONSE: Pfn = Pfn(0x11);
const REQUEST: Pfn = Pfn(0x12);
const SECRETS: (Pfn, Gpa) = (Pfn(0x20), Gpa(0x80_0000));
/// MSG_REPORT_REQ.
const REPORT_REQUEST: u8 = 5;
/// What stands before a report in the answer.
const ANSWER_HEADER: usize = 0x20;

fn index(model: Model) -> usize {
    Model::ALL.iter().position(|of| *of == model).unwrap()
}

pub fn product(model: Model) -> Product {
    match model {
        Model::Milan => Product::Milan,
        Model::Genoa => Product::Genoa,
        Model::Turin => Product::Turin,
    }
}

/// A report with what endorses it.
#[derive(Clone)]
pub struct Evidence {
    pub model: Model,
    pub report: Vec<u8>,
    pub certificates: CertificateTable,
    platform: Arc<Platform>,
}

impl Evidence {
    /// What a platform like this signs, with this kind of key.
    pub fn of(config: Config, kind: EndorsementKey) -> Evidence {
        let model = config.model;
        let platform = Platform::new(config);
        platform.snp_init().unwrap();
        if kind == EndorsementKey::Vlek {
            let wrapped = platform.inspect(|_, psp| psp.wrap_vlek([9; 32], psp.config().committed_tcb));
            platform.snp_vlek_load(&wrapped).unwrap();
        }
        let report = report(&platform);
        let certificates = platform.certificates(kind).unwrap();
        Evidence { model, report, certificates, platform: Arc::new(platform) }
    }

    /// The usual one of this model.
    pub fn new(model: Model) -> Evidence {
        Evidence::usual(EndorsementKey::Vcek, model)
    }

    fn usual(kind: EndorsementKey, model: Model) -> Evidence {
        static OF_CHIPS: [OnceLock<Evidence>; 3] = [const { OnceLock::new() }; 3];
        static OF_PROVIDERS: [OnceLock<Evidence>; 3] = [const { OnceLock::new() }; 3];
        let usual = match kind {
            EndorsementKey::Vcek => &OF_CHIPS,
            EndorsementKey::Vlek => &OF_PROVIDERS,
        };
        usual[index(model)].get_or_init(|| Evidence::of(Config::new(model, [0x5e; 32]), kind)).clone()
    }

    /// The report changed and the certificate saying something else, both signed as they should be.
    pub fn forged(model: Model, change: impl FnOnce(&mut [u8]), say: impl FnOnce(&mut VekSubject)) -> Evidence {
        Evidence::forged_by(EndorsementKey::Vcek, model, change, say)
    }

    /// The same with this kind of key.
    pub fn forged_by(
        kind: EndorsementKey,
        model: Model,
        change: impl FnOnce(&mut [u8]),
        say: impl FnOnce(&mut VekSubject),
    ) -> Evidence {
        let mut evidence = Evidence::usual(kind, model);
        let key = KeyPair::from_seed([3; 32]);
        change(&mut evidence.report);
        let signature = key.sign(&evidence.report[..0x2a0]);
        evidence.report[0x2a0..0x2a0 + signature.len()].copy_from_slice(&signature);
        let mut subject = evidence.platform.inspect(|_, psp| psp.vek_subject(kind)).unwrap();
        subject.public_point = key.public_point();
        say(&mut subject);
        static AUTHORITIES: [OnceLock<Authority>; 3] = [const { OnceLock::new() }; 3];
        let authority = AUTHORITIES[index(model)].get_or_init(|| authority(model).unwrap());
        evidence.certificates.vek = authority.vek(&subject).unwrap();
        evidence
    }

    pub fn endorsements(&self) -> Endorsements<'_> {
        let CertificateTable { kind, ark, intermediate, vek } = &self.certificates;
        let endorsements = Endorsements { intermediate: Some(intermediate), ark: Some(ark), ..Endorsements::default() };
        match kind {
            EndorsementKey::Vcek => Endorsements { vcek: Some(vek), ..endorsements },
            EndorsementKey::Vlek => Endorsements { vlek: Some(vek), ..endorsements },
        }
    }

    /// Its root, and no other.
    pub fn anchors(&self) -> Anchors {
        Anchors::none().with_test_root(product(self.model), &self.certificates.ark).unwrap()
    }
}

/// A guest's life up to its report.
fn report(platform: &Platform) -> Vec<u8> {
    let firmware = Assignment { assigned: true, immutable: true, ..Assignment::default() };
    let asid = platform.allocate_asid(GuestKind::Snp).unwrap();
    platform.rmpupdate(CONTEXT, firmware).unwrap();
    platform.snp_gctx_create(CONTEXT).unwrap();
    platform.snp_launch_start(CONTEXT, Policy::usual(), [0; 16]).unwrap();
    platform.snp_activate(CONTEXT, asid).unwrap();
    let (pfn, gpa) = SECRETS;
    platform.rmpupdate(pfn, Assignment { asid, gpa, ..firmware }).unwrap();
    platform.snp_launch_update(CONTEXT, LaunchUpdate::new(pfn, PageKind::Secrets)).unwrap();
    platform.snp_launch_finish(CONTEXT, LaunchFinish { host_data: HOST_DATA, ..Default::default() }).unwrap();

    let access = Access { asid, vmpl: Vmpl::Vmpl0, private: true, needs: Permissions::READ };
    let secrets = platform.guest_read(access, Mapping { gpa, pfn, size: PageSize::Size4K }).unwrap();
    let mut channel = GuestChannel::new(0, vmpcks(&secrets)[0]);
    let mut request = [0; 0x60];
    request[..DATA.len()].copy_from_slice(&DATA);
    platform.host_write(REQUEST, &channel.request(REPORT_REQUEST, &request)).unwrap();
    platform.rmpupdate(RESPONSE, firmware).unwrap();
    platform.snp_guest_request(CONTEXT, REQUEST, RESPONSE).unwrap();
    let (_, answer) = channel.response(&platform.host_read(RESPONSE)).unwrap();
    answer[ANSWER_HEADER..].to_vec()
}

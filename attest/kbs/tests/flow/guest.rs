//! A guest of the platform in software, which has reports signed with whatever it wants in them.

use std::sync::{Arc, Mutex, OnceLock};

use attest_kbs::client::evidence::{EvidenceSource, SourceError};
use attest_kbs::protocol::Tee;
use attest_kbs::protocol::evidence::Evidence;
use tenure_silicon::asid::GuestKind;
use tenure_silicon::config::Config as Silicon;
use tenure_silicon::message::GuestChannel;
use tenure_silicon::model::Model;
use tenure_silicon::platform::Platform;
use tenure_silicon::psp::secrets::vmpcks;
use tenure_silicon::psp::{LaunchFinish, LaunchUpdate, PageKind, Policy as GuestPolicy};
use tenure_silicon::report::EndorsementKey;
use tenure_silicon::rmp::{Access, Assignment, Mapping, Permissions};
use tenure_silicon::units::{Gpa, PageSize, Pfn, Vmpl};

const CONTEXT: Pfn = Pfn(0x10);
const RESPONSE: Pfn = Pfn(0x11);
const REQUEST: Pfn = Pfn(0x12);
const SECRETS: (Pfn, Gpa) = (Pfn(0x20), Gpa(0x80_0000));
/// MSG_REPORT_REQ.
const REPORT_REQUEST: u8 = 5;
/// What stands before a report in the answer.
const ANSWER_HEADER: usize = 0x20;

/// A guest on the platform; all tests have the same one.
#[derive(Clone)]
pub(crate) struct Guest(Arc<Mutex<Inside>>);

struct Inside {
    platform: Platform,
    channel: GuestChannel,
    certificates: Vec<u8>,
    ark: Vec<u8>,
    measurement: [u8; 48],
}

impl Guest {
    pub(crate) fn new() -> Self {
        static GUEST: OnceLock<Guest> = OnceLock::new();
        GUEST.get_or_init(Self::launch).clone()
    }

    fn launch() -> Self {
        let platform = Platform::new(Silicon::new(Model::Milan, [0x6b; 32]));
        platform.snp_init().unwrap();
        let firmware = Assignment { assigned: true, immutable: true, ..Assignment::default() };
        let asid = platform.allocate_asid(GuestKind::Snp).unwrap();
        platform.rmpupdate(CONTEXT, firmware).unwrap();
        platform.snp_gctx_create(CONTEXT).unwrap();
        platform.snp_launch_start(CONTEXT, GuestPolicy::usual(), [0; 16]).unwrap();
        platform.snp_activate(CONTEXT, asid).unwrap();
        let (pfn, gpa) = SECRETS;
        platform.rmpupdate(pfn, Assignment { asid, gpa, ..firmware }).unwrap();
        platform.snp_launch_update(CONTEXT, LaunchUpdate::new(pfn, PageKind::Secrets)).unwrap();
        platform.snp_launch_finish(CONTEXT, LaunchFinish::default()).unwrap();
        let access = Access { asid, vmpl: Vmpl::Vmpl0, private: true, needs: Permissions::READ };
        let secrets = platform.guest_read(access, Mapping { gpa, pfn, size: PageSize::Size4K }).unwrap();
        let channel = GuestChannel::new(0, vmpcks(&secrets)[0]);
        let certificates = platform.certificates(EndorsementKey::Vcek).unwrap();
        let mut inside = Inside {
            platform,
            channel,
            ark: certificates.ark.clone(),
            certificates: certificates.to_bytes(),
            measurement: [0; 48],
        };
        inside.measurement = inside.report(&[0; 64])[0x90..0xc0].try_into().unwrap();
        Self(Arc::new(Mutex::new(inside)))
    }

    /// The root of its platform.
    pub(crate) fn root(&self) -> Vec<u8> {
        self.0.lock().unwrap().ark.clone()
    }

    /// Its launch digest.
    pub(crate) fn measurement(&self) -> [u8; 48] {
        self.0.lock().unwrap().measurement
    }
}

impl Inside {
    fn report(&mut self, data: &[u8; 64]) -> Vec<u8> {
        let firmware = Assignment { assigned: true, immutable: true, ..Assignment::default() };
        let mut request = [0; 0x60];
        request[..data.len()].copy_from_slice(data);
        self.platform.host_write(REQUEST, &self.channel.request(REPORT_REQUEST, &request)).unwrap();
        self.platform.rmpupdate(RESPONSE, firmware).unwrap();
        self.platform.snp_guest_request(CONTEXT, REQUEST, RESPONSE).unwrap();
        self.platform.snp_page_reclaim(RESPONSE, PageSize::Size4K).unwrap();
        self.platform.rmpupdate(RESPONSE, Assignment::default()).unwrap();
        let (_, answer) = self.channel.response(&self.platform.host_read(RESPONSE)).unwrap();
        answer[ANSWER_HEADER..].to_vec()
    }
}

impl EvidenceSource for Guest {
    fn tee(&self) -> Tee {
        Tee::Snp
    }

    fn evidence(&mut self, report_data: &[u8; 64]) -> Result<Evidence, SourceError> {
        let mut inside = self.0.lock().unwrap();
        let report = inside.report(report_data);
        Ok(Evidence::Snp { report, certificates: Some(inside.certificates.clone()), launch_log: None })
    }
}

//! What the firmware answers to each kind of request.
//!
//! A request that authenticates always gets a response; what is wrong with its contents is the response's status.
//! Specification: 56860, MSG_CPUID_REQ, MSG_KEY_REQ, MSG_REPORT_REQ and their responses.

use crate::bytes::{all_zero, put, take, take_u32, take_u64};
use crate::message::firmware::Answer;
use crate::message::header::{Header, MessageKind};
use crate::model::Tcb;
use crate::psp::cpuid::{CpuidFunction, FUNCTION_BYTES, MAX_FUNCTIONS};
use crate::psp::{Guest, Psp, Status};
use crate::report::{EndorsementKey, KeySelection, REPORT_BYTES, ReportRequest};
use crate::units::Vmpl;
use test_root::chip::Seed;

const REPORT_REQUEST_BYTES: usize = 0x60;
const KEY_REQUEST_BYTES: usize = 0x20;
const LIST_HEADER: usize = 0x10;

/// Fields that a derived key can depend on (GUEST_FIELD_SELECT).
const POLICY: u64 = 1 << 0;
const IMAGE_ID: u64 = 1 << 1;
const FAMILY_ID: u64 = 1 << 2;
const MEASUREMENT: u64 = 1 << 3;
const GUEST_SVN: u64 = 1 << 4;
const TCB_VERSION: u64 = 1 << 5;

impl Psp {
    /// Answers a request that authenticated.
    pub(super) fn handle(&self, guest: &Guest, vmpl: Vmpl, header: &Header, text: &[u8]) -> Result<Answer, Status> {
        if header.version != 1 {
            return Err(Status::InvalidParam);
        }
        match MessageKind::from_number(header.kind) {
            Some(MessageKind::CpuidRequest) => Ok((MessageKind::CpuidResponse, cpuid(text))),
            Some(MessageKind::KeyRequest) => Ok((MessageKind::KeyResponse, self.key_response(guest, vmpl, text))),
            Some(MessageKind::ReportRequest) => {
                Ok((MessageKind::ReportResponse, self.report_response(guest, vmpl, text)))
            }
            _ => Err(Status::InvalidParam),
        }
    }

    fn report_response(&self, guest: &Guest, vmpl: Vmpl, text: &[u8]) -> Vec<u8> {
        let report = parse_report_request(vmpl, text).and_then(|request| self.report(guest, request));
        let mut response = vec![0; 0x20];
        match report {
            Ok(report) => {
                put(&mut response, 4, &u32::try_from(REPORT_BYTES).unwrap_or(0).to_le_bytes());
                response.extend(report);
            }
            Err(status) => {
                put(&mut response, 0, &status.code().to_le_bytes());
                response.resize(0x20 + REPORT_BYTES, 0);
            }
        }
        response
    }

    fn key_response(&self, guest: &Guest, vmpl: Vmpl, text: &[u8]) -> Vec<u8> {
        let mut response = vec![0; 0x40];
        match self.derived_key(guest, vmpl, text) {
            Ok(key) => put(&mut response, 0x20, &key),
            Err(status) => put(&mut response, 0, &status.code().to_le_bytes()),
        }
        response
    }

    /// A key that only this chip, or only this guest, gets again: if what it was mixed with is the same.
    fn derived_key(&self, guest: &Guest, caller: Vmpl, text: &[u8]) -> Result<[u8; 32], Status> {
        let (select, fields) = (take_u32(text, 0), take_u64(text, 0x08));
        let vmpl =
            Vmpl::from_number(take_u32(text, 0x10)).filter(|vmpl| *vmpl >= caller).ok_or(Status::InvalidParam)?;
        let (svn, packed) = (take_u32(text, 0x14), take::<8>(text, 0x18));
        let tcb = Tcb::from_bytes(self.config().model, packed).ok_or(Status::InvalidParam)?;
        let identity = guest.identity();
        let within = svn <= identity.map_or(0, |identity| identity.guest_svn) && tcb.is_within(self.committed_tcb);
        let known = select < 8 && fields < 1 << 6 && take_u32(text, 4) == 0;
        if text.len() != KEY_REQUEST_BYTES || !within || !known {
            return Err(Status::InvalidParam);
        }
        let wanted = KeySelection::from_number(select >> 1).ok_or(Status::InvalidParam)?;
        let root = match select & 1 {
            0 => self.endorsement_root(self.select_key(guest, wanted)?),
            _ => Seed(guest.root_key),
        };
        let mixed = |field: u64, bytes: &[u8]| if fields & field == 0 { Vec::new() } else { bytes.to_vec() };
        let parts = [
            vmpl.number().to_le_bytes().to_vec(),
            fields.to_le_bytes().to_vec(),
            mixed(POLICY, &guest.policy().0.to_le_bytes()),
            mixed(IMAGE_ID, &identity.map_or([0; 16], |identity| identity.image_id)),
            mixed(FAMILY_ID, &identity.map_or([0; 16], |identity| identity.family_id)),
            mixed(MEASUREMENT, &guest.digest()),
            mixed(GUEST_SVN, &svn.to_le_bytes()),
            mixed(TCB_VERSION, &packed),
        ];
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        Ok(root.derive("derived key", &parts))
    }

    fn endorsement_root(&self, key: EndorsementKey) -> Seed {
        match key {
            EndorsementKey::Vcek => self.chip_root(),
            EndorsementKey::Vlek => self.vlek_root().unwrap_or(self.chip_root()),
        }
    }
}

fn parse_report_request(caller: Vmpl, text: &[u8]) -> Result<ReportRequest, Status> {
    let vmpl = Vmpl::from_number(take_u32(text, 0x40)).filter(|vmpl| *vmpl >= caller);
    let key = KeySelection::from_number(take_u32(text, 0x44));
    match (vmpl, key) {
        (Some(vmpl), Some(key)) if text.len() == REPORT_REQUEST_BYTES && all_zero(&text[0x48..]) => {
            Ok(ReportRequest { report_data: take(text, 0), vmpl, key })
        }
        _ => Err(Status::InvalidParam),
    }
}

/// Every function as the processor would have it; the status says whether any was not.
fn cpuid(text: &[u8]) -> Vec<u8> {
    let count = usize::try_from(take_u32(text, 0)).unwrap_or(usize::MAX);
    let mut response = vec![0; LIST_HEADER];
    let invalid = Status::InvalidParam.code().to_le_bytes();
    if count > MAX_FUNCTIONS || text.len() != LIST_HEADER + count * FUNCTION_BYTES {
        put(&mut response, 0, &invalid);
        return response;
    }
    put(&mut response, 4, &take::<4>(text, 0));
    for entry in text[LIST_HEADER..].chunks_exact(FUNCTION_BYTES) {
        let function = CpuidFunction::from_bytes(entry);
        if function != function.corrected() {
            put(&mut response, 0, &invalid);
        }
        response.extend(function.corrected().to_bytes());
    }
    response
}

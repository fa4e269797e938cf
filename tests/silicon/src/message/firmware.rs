//! SNP_GUEST_REQUEST: the firmware opens a request, answers, and seals the response.

use crate::aead;
use crate::bytes::take;
use crate::hardware::Hardware;
use crate::message::header::{AUTHENTICATED, HEADER_BYTES, Header, MessageKind};
use crate::psp::secrets::Vmpck;
use crate::psp::{GuestState, Psp, Status};
use crate::rmp::PageState;
use crate::units::{PAGE_BYTES, Page, PageSize, Pfn, Vmpl};

/// What a handler gives back: a kind of response and its bytes.
pub(super) type Answer = (MessageKind, Vec<u8>);

impl Psp {
    /// SNP_GUEST_REQUEST: the message in one page is answered in another, which must be the firmware's.
    pub fn guest_request(
        &mut self,
        hw: &mut Hardware,
        context: Pfn,
        request: Pfn,
        response: Pfn,
    ) -> Result<(), Status> {
        self.guest_in(context, &[GuestState::Running])?;
        if hw.rmp.entry(request).is_err() {
            return Err(Status::InvalidAddress);
        }
        let target = hw.rmp.entry(response).map_err(|_| Status::InvalidAddress)?;
        if target.state() != PageState::Firmware {
            return Err(Status::InvalidPageState);
        }
        if target.size != PageSize::Size4K {
            return Err(Status::InvalidPageSize);
        }
        let answer = self.answer(context, &hw.memory.read(request, None))?;
        hw.memory.write(response, None, &answer);
        Ok(())
    }

    /// Opens a message, has it answered and seals the answer. The key's numbers are used up only if all that works.
    fn answer(&mut self, context: Pfn, page: &Page) -> Result<Page, Status> {
        let header = Header::read(page).ok_or(Status::InvalidParam)?;
        let guest = self.guests.get(&context).ok_or(Status::InvalidGuest)?;
        let vmpl = Vmpl::from_number(header.vmpck.into()).ok_or(Status::InvalidParam)?;
        let (key, sent) = (guest.vmpcks[vmpl.index()], guest.messages[vmpl.index()]);
        let (number, next) = (sent.checked_add(1), sent.checked_add(2));
        let (Some(number), Some(next)) = (number, next) else { return Err(Status::AeadOflow) };
        if header.sequence != number {
            return Err(Status::InvalidParam);
        }
        let request = open(&key, &header, page)?;
        let (kind, payload) = self.handle(guest, vmpl, &header, &request)?;
        let answer = seal(&key, header.vmpck, next, kind, &payload)?;
        self.guest_in(context, &[GuestState::Running])?.messages[vmpl.index()] = next;
        Ok(answer)
    }
}

fn open(key: &Vmpck, header: &Header, page: &Page) -> Result<Vec<u8>, Status> {
    let aad: [u8; HEADER_BYTES - AUTHENTICATED] = take(page, AUTHENTICATED);
    let mut text = page[HEADER_BYTES..HEADER_BYTES + header.length()].to_vec();
    aead::open(key, header.iv(), &aad, &mut text, header.tag).map_err(|_| Status::BadMeasurement)?;
    Ok(text)
}

fn seal(key: &Vmpck, vmpck: u8, sequence: u64, kind: MessageKind, payload: &[u8]) -> Result<Page, Status> {
    let size = u16::try_from(payload.len()).map_err(|_| Status::InvalidLength)?;
    let mut header = Header { tag: [0; 16], sequence, kind: kind.number(), version: 1, size, vmpck };
    let mut page = [0; PAGE_BYTES];
    header.write(&mut page);
    let aad: [u8; HEADER_BYTES - AUTHENTICATED] = take(&page, AUTHENTICATED);
    let text = page.get_mut(HEADER_BYTES..HEADER_BYTES + payload.len()).ok_or(Status::InvalidLength)?;
    text.copy_from_slice(payload);
    header.tag = aead::seal(key, header.iv(), &aad, text);
    header.write(&mut page);
    Ok(page)
}

//! What is known of each port, and what follows from what the guest says.
//!
//! Owns sessions and their order, and what the guest is to be told. Pure: nothing here waits, or touches a guest's
//! memory.
//!
//! A session begins and ends with messages, but its bytes come by another queue. So it is told from others by the places
//! of its chains: those that the guest had made available when it opened the port are not its own, those that were there
//! when it closed it are.

use super::ChannelsCounts;
use super::host::Pipes;
use super::message::{Event, Message, MessageError};
use crate::devices::virtio::chain::Place;
use std::collections::VecDeque;
use std::sync::Arc;

/// Sessions of one port that were opened and that the host is not done with: a guest that opens and closes faster than
/// it is served is hung up on.
pub(super) const SESSIONS_MAX: usize = 16;

/// What the threads of the device share.
#[derive(Debug)]
pub(super) struct State {
    pub(super) ports: Vec<Port>,
    pub(super) stopped: bool,
    pub(super) counts: ChannelsCounts,
}

/// One port.
#[derive(Debug)]
pub(super) struct Port {
    name: &'static str,
    /// Somebody on the host has the channel.
    served: bool,
    telling: Telling,
    guest: GuestEnd,
    /// Not taken by the host yet, the oldest first.
    waiting: VecDeque<Arc<Pipes>>,
    /// Whose bytes have not all been taken from the guest, the oldest first.
    sending: VecDeque<Sending>,
    /// How far the port's queue is worked off.
    sent: Place,
}

/// What the guest is to be told, and was.
#[derive(Debug, Default)]
struct Telling {
    /// That there is the port.
    add: bool,
    /// Its name.
    name: bool,
    /// The driver knows the port; what is said of others it ignores.
    ready: bool,
    /// Whether it was told last that the host is connected.
    connected: Option<bool>,
}

/// What the guest does with a port.
#[derive(Debug)]
enum GuestEnd {
    Closed,
    /// It has it open, and the host does not speak to it.
    Refused,
    /// It has it open.
    Open(Arc<Pipes>),
    /// It still has it open, but the host has hung up and all it said is with the guest.
    HungUp(Arc<Pipes>),
}

/// Which chains are a session's.
#[derive(Debug)]
struct Sending {
    session: Arc<Pipes>,
    first: Place,
    /// Once the guest has closed it.
    end: Option<Place>,
}

impl Port {
    pub(super) fn new(name: &'static str) -> Self {
        Self {
            name,
            served: false,
            telling: Telling::default(),
            guest: GuestEnd::Closed,
            waiting: VecDeque::new(),
            sending: VecDeque::new(),
            sent: Place::default(),
        }
    }

    /// Whether the guest should find the host connected.
    fn is_connected(&self) -> bool {
        self.served && matches!(self.guest, GuestEnd::Closed | GuestEnd::Open(_))
    }

    fn due(&self) -> Option<Event> {
        let Telling { add, name, ready, connected } = self.telling;
        let is_connected = self.is_connected();
        match connected {
            _ if add => Some(Event::PortAdd),
            _ if !ready => None,
            _ if name => Some(Event::PortName),
            Some(told) if told == is_connected => None,
            _ => Some(Event::PortOpen(is_connected)),
        }
    }

    fn told(&mut self, event: Event) {
        match event {
            Event::PortAdd => self.telling.add = false,
            Event::PortName => self.telling.name = false,
            Event::PortOpen(connected) => self.telling.connected = Some(connected),
            Event::DeviceReady(_) | Event::PortReady(_) => {}
        }
    }

    /// The guest opened the port, with so many chains made available before. Says whether the host has room for it.
    fn open(&mut self, first: Place) -> bool {
        if !self.served || self.waiting.len().max(self.sending.len()) >= SESSIONS_MAX {
            self.guest = GuestEnd::Refused;
            return false;
        }
        let session = Pipes::new();
        self.waiting.push_back(Arc::clone(&session));
        self.sending.push_back(Sending { session: Arc::clone(&session), first, end: None });
        self.guest = GuestEnd::Open(session);
        true
    }

    /// The guest closed the port, with so many chains made available before.
    fn close(&mut self, end: Place) {
        if let GuestEnd::Open(session) | GuestEnd::HungUp(session) =
            std::mem::replace(&mut self.guest, GuestEnd::Closed)
        {
            // Nobody there reads any more.
            session.to_guest.close();
            if let Some(last) = self.sending.back_mut() {
                last.end = Some(end);
                if last.first == end {
                    // It never said a word: nobody needs to know.
                    self.waiting.retain(|waiting| !Arc::ptr_eq(waiting, &session));
                }
            }
            self.settle();
        }
    }

    /// Ends sessions whose last bytes were taken.
    fn settle(&mut self) {
        while let Some(Sending { session, end: Some(end), .. }) = self.sending.front()
            && self.sent.has_reached(*end)
        {
            session.from_guest.close();
            self.sending.pop_front();
        }
    }

    /// Ends all sessions: nobody is there, on one side or the other.
    fn hang_up(&mut self) {
        if let GuestEnd::Open(session) = &self.guest {
            session.hang_up();
        }
        self.sending.iter().for_each(|sending| sending.session.hang_up());
    }
}

impl State {
    /// What to tell the guest next, about which port, and what follows the message.
    pub(super) fn due(&self) -> Option<(usize, Message, &'static str)> {
        let (port, event) = self.ports.iter().enumerate().find_map(|(at, port)| Some((at, port.due()?)))?;
        let name = if event == Event::PortName { self.ports.get(port)?.name } else { "" };
        Some((port, Message { id: u32::try_from(port).ok()?, event }, name))
    }

    /// The guest was told.
    pub(super) fn told(&mut self, port: usize, message: Message) {
        if let Some(port) = self.ports.get_mut(port) {
            port.told(message.event);
        }
    }

    /// The guest said something. `available` says how far it has got with what it sends on a port.
    pub(super) fn hear(
        &mut self,
        Message { id, event }: Message,
        available: impl FnOnce(usize) -> Place,
    ) -> Result<(), MessageError> {
        if self.stopped {
            // Nobody would end what began now.
            return Ok(());
        }
        if let Event::DeviceReady(ready) = event {
            self.ports.iter_mut().for_each(|port| port.telling.add = ready);
            return Ok(());
        }
        let ports = self.ports.len();
        let at = usize::try_from(id).ok().filter(|at| *at < ports);
        let Some((at, port)) = at.and_then(|at| Some((at, self.ports.get_mut(at)?))) else {
            return Err(MessageError::NoSuchPort { id, ports });
        };
        match event {
            // After hibernation a driver says this without having been told of the port again.
            Event::PortReady(ready) => {
                port.telling = Telling { ready, name: ready, ..Telling::default() };
            }
            Event::PortOpen(true) if matches!(port.guest, GuestEnd::Closed) => {
                if port.open(available(at)) {
                    self.counts.sessions += 1;
                } else {
                    self.counts.refused_sessions += 1;
                }
            }
            Event::PortOpen(false) if !matches!(port.guest, GuestEnd::Closed) => port.close(available(at)),
            // It already is. Other events are not a driver's.
            _ => {}
        }
        Ok(())
    }

    /// The session that the guest has open, if the host has something to say to it yet.
    pub(super) fn speaking(&self, port: usize) -> Option<Arc<Pipes>> {
        match &self.ports.get(port)?.guest {
            GuestEnd::Open(session) => Some(Arc::clone(session)),
            _ => None,
        }
    }

    /// Whether the guest has this session open.
    pub(super) fn is_open(&self, port: usize, session: &Arc<Pipes>) -> bool {
        self.speaking(port).is_some_and(|open| Arc::ptr_eq(&open, session))
    }

    /// All that the host says to this session is in the guest's buffers: only now it may be told that the host hung up,
    /// or it would not read the rest.
    pub(super) fn said_all(&mut self, port: usize, session: &Arc<Pipes>) {
        if self.is_open(port, session)
            && let Some(port) = self.ports.get_mut(port)
        {
            port.guest = GuestEnd::HungUp(Arc::clone(session));
        }
    }

    /// The session that the chain at `place` is from.
    pub(super) fn sender(&mut self, port: usize, place: Place) -> Option<Arc<Pipes>> {
        let port = self.ports.get_mut(port)?;
        port.sent = place;
        port.settle();
        let Sending { session, first, .. } = port.sending.front()?;
        place.has_reached(*first).then(|| Arc::clone(session))
    }

    /// A port's queue is worked off up to `place`.
    pub(super) fn sent(&mut self, port: usize, place: Place) {
        if let Some(port) = self.ports.get_mut(port) {
            port.sent = place;
            port.settle();
        }
    }

    /// The driver reset the device.
    pub(super) fn reset(&mut self) {
        for port in &mut self.ports {
            port.hang_up();
            port.guest = GuestEnd::Closed;
            port.sending.clear();
            port.telling = Telling::default();
        }
    }

    /// The device is at its end. What was sent before can still be taken.
    pub(super) fn stop(&mut self) {
        self.reset();
        self.stopped = true;
    }

    /// Somebody on the host wants the channel of this name. There can only be one.
    pub(super) fn serve(&mut self, name: &str) -> Option<(usize, &'static str)> {
        let (at, port) = self.ports.iter_mut().enumerate().find(|(_, port)| port.name == name && !port.served)?;
        port.served = true;
        Some((at, port.name))
    }

    /// Nobody on the host wants the channel any more.
    pub(super) fn abandon(&mut self, port: usize) {
        if let Some(port) = self.ports.get_mut(port) {
            port.served = false;
            port.hang_up();
            port.waiting.clear();
        }
    }

    /// The oldest session that the host has not taken.
    pub(super) fn accept(&mut self, port: usize) -> Option<Arc<Pipes>> {
        self.ports.get_mut(port)?.waiting.pop_front()
    }
}

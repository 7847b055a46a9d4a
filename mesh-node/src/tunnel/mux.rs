//! `mesh/1`: the streams of one tunnel in frames of our own, see [`mesh_core::tunnel`] and `docs/tunnel.md`.
//!
//! What a turn of the thread brings for all streams of a tunnel leaves in one call: streams put frames into [`Output`],
//! and the tunnel's task, which runs after them, writes them. It reads as well, and hands bytes to streams without a
//! task between it and them.
//!
//! Memory: unread bytes of a stream up to [`mesh_core::tunnel::credit::FIRST`]; unwritten ones of all streams up to [`MAX_UNWRITTEN`], the
//! rest waits in the applications' sockets. Nobody's unread bytes are in anybody else's way.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, StatusCode};
use mesh_core::http::frames::FrameBudget;
use mesh_core::tunnel::credit::{Inbound, Outbound};
use mesh_core::tunnel::frame::{Frame, MAX_PAYLOAD, Refusal, StreamId};
use mesh_core::tunnel::open::Open;
use mesh_core::tunnel::{MAX_EARLY, MAX_STREAMS};

use super::pool::ConnectRequest;
use super::{Carrier, Early, OpenError, PING_INTERVAL, PING_TIMEOUT, StreamError};
use crate::tls::TlsStream;

mod drive;
mod output;
pub(super) mod serve;
mod stream;

pub(super) use drive::Driver;
use output::Output;
pub(super) use stream::Stream;

/// One tunnel, as its task and its streams share it.
#[derive(Debug)]
pub(super) struct Link {
    side: Side,
    state: RefCell<State>,
    /// Goes up with everything the peer sends.
    heard: Cell<u64>,
    /// When that was.
    heard_at: Cell<Instant>,
}

/// Which end of a tunnel this is: the client opens streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

#[derive(Debug)]
struct State {
    streams: HashMap<StreamId, Slot>,
    /// The last stream that was opened.
    last: StreamId,
    output: Output,
    /// Whether it is to leave with this turn of the thread, and not with what comes next.
    urgent: bool,
    /// The tunnel's task.
    driver: Option<Waker>,
    /// Whoever waits for room in `output`.
    crowded: Vec<Waker>,
    /// No new streams; the tunnel ends with the last one.
    leaving: bool,
    /// Why nothing moves any more.
    over: Option<Rc<str>>,
    budget: FrameBudget,
}

/// One stream.
#[derive(Debug)]
struct Slot {
    /// The client's: what the answer was, once it is there.
    answer: Option<Result<(), Refusal>>,
    /// The server's, until it has accepted: bytes that may still come.
    early: Option<usize>,
    arrived: VecDeque<Bytes>,
    inbound: Inbound,
    /// The peer's FIN has come.
    ended: bool,
    outbound: Outbound,
    /// Ours was sent.
    finished: bool,
    broken: Option<StreamError>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// Why a tunnel ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The connection broke.
    #[error("{0}")]
    Lost(#[from] std::io::Error),
    /// The peer broke the rules.
    #[error("{0}")]
    Protocol(String),
    /// The peer makes more work than anybody with a purpose.
    #[error("the peer sends too many frames that carry nothing")]
    Flood,
}

impl Link {
    /// The client's end of a new tunnel, and what must be run for it.
    pub(super) fn client(tls: TlsStream) -> (Rc<Self>, Driver) {
        Self::new(Side::Client, tls)
    }

    fn new(side: Side, tls: TlsStream) -> (Rc<Self>, Driver) {
        let state = State {
            streams: HashMap::new(),
            last: 0,
            output: Output::default(),
            urgent: false,
            driver: None,
            crowded: Vec::new(),
            leaving: false,
            over: None,
            budget: FrameBudget::new(),
        };
        let link = Rc::new(Self {
            side,
            state: RefCell::new(state),
            heard: Cell::new(0),
            heard_at: Cell::new(Instant::now()),
        });
        let driver = Driver::new(Rc::clone(&link), tls);
        (link, driver)
    }

    /// Asks for a connection and waits for the answer.
    pub(super) async fn connect(
        self: &Rc<Self>,
        request: &ConnectRequest,
        early: &Early<'_>,
    ) -> Result<Carrier, OpenError> {
        let mut stream = self.open(request)?;
        // What goes out on a tunnel that has died unnoticed is lost for the application; without it, another tunnel will do.
        stream.answered(self.is_lively().then_some(early)).await?;
        Ok(Carrier::Mux(stream))
    }

    /// Whether the peer was heard a moment ago.
    fn is_lively(&self) -> bool {
        self.heard_at.get().elapsed() < LIVELY
    }

    fn open(self: &Rc<Self>, request: &ConnectRequest) -> Result<Stream, OpenError> {
        let mut state = self.state.borrow_mut();
        if let Some(why) = &state.over {
            return Err(OpenError::TunnelLost((&**why).into()));
        }
        let next = state.last.checked_add(1).filter(|_| !state.leaving);
        let Some(id) = next else { return Err(OpenError::NotTaken) };
        state.last = id;
        state.streams.insert(id, Slot::new(self.side));
        let mut payload = Vec::new();
        let [forwarded, baggage, traceparent] =
            request.claims().map(|(_, value)| value.map(HeaderValue::as_bytes));
        Open { authority: request.authority, forwarded, baggage, traceparent }
            .write(&mut payload, MAX_PAYLOAD);
        state.say(&Frame::Open(id, &payload));
        Ok(Stream::new(Rc::clone(self), id))
    }

    /// No new streams; the tunnel ends with the last one.
    pub(super) fn leave(&self) {
        let mut state = self.state.borrow_mut();
        if std::mem::replace(&mut state.leaving, true) {
            return;
        }
        if self.side == Side::Server {
            let last = state.last;
            state.say(&Frame::Leave(last));
        }
        state.stir();
    }

    pub(super) fn is_leaving(&self) -> bool {
        let state = self.state.borrow();
        state.leaving || state.over.is_some()
    }

    /// Whether no stream is open.
    fn is_empty(&self) -> bool {
        self.state.borrow().streams.is_empty()
    }

    /// Whether nothing is under way: what is left has been reset, or has ended both ways.
    fn is_quiet(&self) -> bool {
        self.state.borrow().streams.values().all(|slot| slot.broken.is_some() || slot.is_over())
    }

    /// Resolves when the peer no longer answers.
    pub(super) async fn silence(&self) {
        loop {
            let heard = self.heard.get();
            tokio::time::sleep(PING_INTERVAL).await;
            if self.heard.get() != heard {
                continue;
            }
            self.state.borrow_mut().say(&Frame::Ping(*b"mesh/1??"));
            tokio::time::sleep(PING_TIMEOUT).await;
            if self.heard.get() == heard {
                return;
            }
        }
    }

    /// Nothing moves any more: everybody who waits is told why.
    fn end(&self, why: &str) {
        let mut state = self.state.borrow_mut();
        if state.over.is_some() {
            return;
        }
        state.over = Some(why.into());
        state.output = Output::default();
        for slot in state.streams.values_mut() {
            slot.fail(StreamError::Lost(why.to_owned()));
        }
        state.crowded.drain(..).for_each(Waker::wake);
    }
}

impl State {
    /// Puts a frame into the output.
    fn say(&mut self, frame: &Frame<'_>) {
        if self.over.is_none() {
            if frame.carries() {
                self.budget.earn();
            }
            self.output.push(frame);
            self.stir();
        }
    }

    /// Puts a frame into the output that nobody waits for: it leaves with the next one, or [`LATE`] after now.
    fn say_late(&mut self, frame: &Frame<'_>) {
        if self.over.is_none() {
            self.budget.earn();
            self.output.push(frame);
            self.stir_late();
        }
    }

    /// Has the tunnel's task write the output.
    fn stir(&mut self) {
        self.urgent = true;
        self.stir_late();
    }

    /// Has the tunnel's task look at the output.
    fn stir_late(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    /// Whether as many streams are open as may be. Those that are over for the peer are not counted, although whoever serves
    /// them may not have noticed yet, or else a client with as many as it may have would be refused now and then.
    fn is_full(&self) -> bool {
        let over = |slot: &&Slot| slot.broken.is_some() || slot.is_over();
        self.streams.len() >= MAX_STREAMS
            && self.streams.len() - self.streams.values().filter(over).count() >= MAX_STREAMS
    }

    /// Bytes that streams may still put into the output.
    fn room(&self) -> usize {
        MAX_UNWRITTEN.saturating_sub(self.output.len())
    }

    fn wait_for_room(&mut self, waker: &Waker) {
        if !self.crowded.iter().any(|known| known.will_wake(waker)) {
            self.crowded.push(waker.clone());
        }
    }

    /// Lets those who wait for room try again.
    fn relieve(&mut self) {
        if self.room() >= MAX_UNWRITTEN / 2 {
            self.crowded.drain(..).for_each(Waker::wake);
        }
    }

    /// Acts on a frame that is not about opening or answering, and carries nothing: those have methods of their own.
    fn take(&mut self, frame: &Frame<'_>) -> Result<(), Fault> {
        if !frame.carries() && !self.budget.spend(Instant::now()) {
            return Err(Fault::Flood);
        }
        match *frame {
            Frame::Accept(id) => self.answer(id, Ok(())),
            Frame::Refuse(id, refusal) => self.answer(id, Err(refusal)),
            Frame::Credit(id, more) => {
                let Some(slot) = self.known(id)? else { return Ok(()) };
                slot.outbound.given(more).map_err(|error| protocol(&error))?;
                wake(&mut slot.writer);
                Ok(())
            }
            Frame::Reset(id) => {
                let Some(slot) = self.known(id)? else { return Ok(()) };
                slot.fail(StreamError::Reset("by the peer".to_owned()));
                Ok(())
            }
            Frame::Ping(bytes) => {
                self.say(&Frame::Pong(bytes));
                Ok(())
            }
            Frame::Leave(last) => {
                self.leaving = true;
                // Forgotten, since the refusal of each may be under way as well.
                let mut left = self.streams.extract_if(|id, _| *id > last);
                left.try_for_each(|(_, mut slot)| slot.answer(Err(Refusal::NotTaken)))
            }
            Frame::Pong(_) | Frame::Open(..) | Frame::Data { .. } => Ok(()),
        }
    }

    fn answer(&mut self, id: StreamId, answer: Result<(), Refusal>) -> Result<(), Fault> {
        match self.known(id)? {
            Some(slot) => slot.answer(answer),
            None => Ok(()),
        }
    }

    /// Bytes of a stream have come. Whatever comes for one that is over was under way when it ended.
    fn data(&mut self, id: StreamId, bytes: Bytes, fin: bool) -> Result<(), Fault> {
        self.budget.earn();
        let Some(slot) = self.known(id)? else { return Ok(()) };
        if slot.ended {
            return Err(Fault::Protocol(format!("bytes of stream {id} after its end")));
        }
        slot.inbound.arrived(bytes.len()).map_err(|error| protocol(&error))?;
        if !slot.may_come_early(bytes.len()) {
            return Err(Fault::Protocol(format!("more of stream {id} before its answer than may be")));
        }
        slot.keep(bytes);
        slot.ended = fin;
        wake(&mut slot.reader);
        Ok(())
    }

    /// The stream, if it is open; an error if it never was.
    fn known(&mut self, id: StreamId) -> Result<Option<&mut Slot>, Fault> {
        if id > self.last {
            return Err(Fault::Protocol(format!("a frame of stream {id}, which was never opened")));
        }
        Ok(self.streams.get_mut(&id))
    }
}

impl Slot {
    fn new(side: Side) -> Self {
        Self {
            answer: None,
            early: (side == Side::Server).then_some(MAX_EARLY),
            arrived: VecDeque::new(),
            inbound: Inbound::new(),
            ended: false,
            outbound: Outbound::new(),
            finished: false,
            broken: None,
            reader: None,
            writer: None,
        }
    }

    fn answer(&mut self, answer: Result<(), Refusal>) -> Result<(), Fault> {
        if self.answer.replace(answer).is_some() {
            return Err(Fault::Protocol("a stream is answered twice".to_owned()));
        }
        wake(&mut self.reader);
        Ok(())
    }

    /// Whether so many bytes may come: all that there is credit for, but few before the answer.
    fn may_come_early(&mut self, bytes: usize) -> bool {
        let Some(early) = &mut self.early else { return true };
        let left = early.checked_sub(bytes);
        *early = left.unwrap_or_default();
        left.is_some()
    }

    /// Keeps bytes for whoever reads. Each piece holds on to all that was read from the tunnel with it, so that one
    /// who reads slowly gets copies.
    fn keep(&mut self, bytes: Bytes) {
        match bytes.len() {
            0 => {}
            _ if self.arrived.len() < MAX_PIECES => self.arrived.push_back(bytes),
            _ => self.keep_copy(&bytes),
        }
    }

    /// Small pieces are put together, or else their number would count, not their size; in place, or else one that sends
    /// single bytes would have all of them copied each time.
    fn keep_copy(&mut self, bytes: &[u8]) {
        let mut last = match self.arrived.pop_back().unwrap_or_default().try_into_mut() {
            Ok(last) if last.len() + bytes.len() <= MAX_PAYLOAD => last,
            Ok(full) => self.close(full.freeze()),
            Err(shared) => self.close(shared),
        };
        last.extend_from_slice(bytes);
        self.arrived.push_back(last.freeze());
    }

    /// Keeps a piece that nothing is added to; room for those that follow.
    fn close(&mut self, piece: Bytes) -> BytesMut {
        self.arrived.push_back(piece);
        BytesMut::with_capacity(MAX_PAYLOAD)
    }

    fn fail(&mut self, why: StreamError) {
        self.broken.get_or_insert(why);
        wake(&mut self.reader);
        wake(&mut self.writer);
    }

    /// Whether both directions have ended.
    fn is_over(&self) -> bool {
        self.ended && self.finished
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

fn protocol(why: &impl ToString) -> Fault {
    Fault::Protocol(why.to_string())
}

/// Bytes that wait for the tunnel's socket before streams wait; frames that carry nothing may make it more.
const MAX_UNWRITTEN: usize = 128 << 10;
/// Bytes that wait in any case: a peer that makes us answer and does not read is left.
const MAX_OUTPUT: usize = 1 << 20;
/// After this long without a word, a tunnel may have died.
const LIVELY: Duration = Duration::from_secs(1);
/// How long a frame that nobody waits for is held back at most, give or take a millisecond.
const LATE: Duration = Duration::from_millis(5);
/// Pieces of a stream kept as they came.
const MAX_PIECES: usize = 8;

#[cfg(test)]
mod tests;

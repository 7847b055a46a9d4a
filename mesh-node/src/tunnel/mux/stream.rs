//! One carried connection.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Context;

use super::{Bytes, Early, Frame, Link, OpenError, Poll, Refusal, StatusCode, StreamError, StreamId, Waker};

/// See the module. Dropped before both directions ended, it is reset.
#[derive(Debug)]
pub(crate) struct Stream {
    link: Rc<Link>,
    id: StreamId,
    /// Nothing is left to say.
    silent: bool,
}

impl Stream {
    pub(super) fn new(link: Rc<Link>, id: StreamId) -> Self {
        Self { link, id, silent: false }
    }

    /// The client's: waits for the answer, and meanwhile sends what there is to be sent `early`.
    pub(super) async fn answered(&mut self, mut early: Option<&Early<'_>>) -> Result<(), OpenError> {
        poll_fn(|cx| {
            if let Some(now) = early
                && self.link.state.borrow().room() > 0
                && let Poll::Ready(bytes) = now.poll(cx)
            {
                early = None;
                if !bytes.is_empty() && self.send(bytes).is_ok() {
                    now.risk();
                }
            }
            let mut state = self.link.state.borrow_mut();
            let Some(slot) = state.streams.get_mut(&self.id) else {
                return Poll::Ready(Err(OpenError::NotTaken));
            };
            Poll::Ready(match (slot.answer, &slot.broken) {
                (Some(Ok(())), _) => Ok(()),
                (Some(Err(refusal)), _) => {
                    state.streams.remove(&self.id);
                    Err(refused(refusal))
                }
                (None, Some(StreamError::Reset(why))) => Err(OpenError::Reset(why.as_str().into())),
                (None, Some(StreamError::Lost(why))) => Err(OpenError::TunnelLost(why.as_str().into())),
                (None, None) => {
                    set(&mut slot.reader, cx);
                    return Poll::Pending;
                }
            })
        })
        .await
    }

    /// The server's: says yes.
    pub(crate) fn accept(self) -> Result<Self, StreamError> {
        let mut state = self.link.state.borrow_mut();
        if let Some(broken) = state.streams.get(&self.id).and_then(|slot| slot.broken.clone()) {
            return Err(broken);
        }
        let slot = state.streams.get_mut(&self.id).ok_or_else(gone)?;
        slot.early = None;
        // One that has spoken already waits for what the application says to that, and not for this.
        if slot.arrived.is_empty() {
            state.say(&Frame::Accept(self.id));
        } else {
            state.say_late(&Frame::Accept(self.id));
        }
        drop(state);
        Ok(self)
    }

    /// The server's: says no.
    pub(crate) fn reject(mut self, status: StatusCode) -> Result<(), StreamError> {
        self.silent = true;
        let mut state = self.link.state.borrow_mut();
        let slot = state.streams.remove(&self.id);
        if let Some(broken) = slot.and_then(|slot| slot.broken) {
            return Err(broken);
        }
        state.say(&Frame::Refuse(self.id, Refusal::Status(status.as_u16())));
        Ok(())
    }

    pub(crate) fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, StreamError>>> {
        let mut state = self.link.state.borrow_mut();
        let Some(slot) = state.streams.get_mut(&self.id) else { return Poll::Ready(None) };
        // As with a socket: what has come is read before the reset that followed it.
        if let Some(bytes) = slot.arrived.pop_front() {
            return Poll::Ready(Some(Ok(bytes)));
        }
        match &slot.broken {
            _ if slot.ended => Poll::Ready(None),
            Some(broken) => Poll::Ready(Some(Err(broken.clone()))),
            None => {
                set(&mut slot.reader, cx);
                Poll::Pending
            }
        }
    }

    pub(crate) fn taken(&mut self, bytes: usize) {
        let mut state = self.link.state.borrow_mut();
        let Some(slot) = state.streams.get_mut(&self.id) else { return };
        let more = slot.inbound.taken(bytes).filter(|_| !slot.ended && slot.broken.is_none());
        if let Some(more) = more {
            state.say(&Frame::Credit(self.id, more));
        }
    }

    pub(crate) fn poll_room(
        &mut self,
        cx: &mut Context<'_>,
        wanted: usize,
    ) -> Poll<Result<usize, StreamError>> {
        let mut state = self.link.state.borrow_mut();
        let room = state.room();
        let Some(slot) = state.streams.get_mut(&self.id) else { return Poll::Ready(Err(gone())) };
        if let Some(broken) = &slot.broken {
            return Poll::Ready(Err(broken.clone()));
        }
        let allowed = slot.outbound.allows(wanted);
        set(&mut slot.writer, cx);
        if allowed == 0 {
            return Poll::Pending;
        }
        if room == 0 {
            state.wait_for_room(cx.waker());
            return Poll::Pending;
        }
        // A whole frame, even if it is more than there is room for: a part of one would leave the rest for a frame of its own,
        // and from then on none would fill a record.
        Poll::Ready(Ok(allowed))
    }

    pub(crate) fn send(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        self.put(bytes, false)
    }

    pub(crate) fn finish(&mut self) -> Result<(), StreamError> {
        self.put(Bytes::new(), true)
    }

    fn put(&mut self, bytes: Bytes, fin: bool) -> Result<(), StreamError> {
        let mut state = self.link.state.borrow_mut();
        let slot = state.streams.get_mut(&self.id).ok_or_else(gone)?;
        if let Some(broken) = &slot.broken {
            return Err(broken.clone());
        }
        slot.outbound.spend(bytes.len());
        slot.finished |= fin;
        state.budget.earn();
        state.output.push_data(self.id, bytes, fin);
        state.stir();
        Ok(())
    }

    pub(crate) fn reset(&mut self) {
        if std::mem::replace(&mut self.silent, true) {
            return;
        }
        let mut state = self.link.state.borrow_mut();
        let known = state.streams.remove(&self.id);
        if known.is_some_and(|slot| slot.broken.is_none() && !slot.is_over()) {
            state.say(&Frame::Reset(self.id));
        }
        // The last one of a tunnel that is about to end lets it.
        if state.leaving {
            state.stir();
        }
    }

    /// Resolves when the connection breaks, without receiving from it.
    pub(crate) fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        let mut state = self.link.state.borrow_mut();
        let Some(slot) = state.streams.get_mut(&self.id) else { return Poll::Ready(gone()) };
        if let Some(broken) = &slot.broken {
            return Poll::Ready(broken.clone());
        }
        set(&mut slot.reader, cx);
        Poll::Pending
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.reset();
    }
}

fn refused(refusal: Refusal) -> OpenError {
    match refusal {
        Refusal::NotTaken => OpenError::NotTaken,
        Refusal::Status(code) => match StatusCode::from_u16(code) {
            Ok(status) => OpenError::Refused { status },
            Err(_) => OpenError::Reset(format!("with the status {code}").into()),
        },
    }
}

fn gone() -> StreamError {
    StreamError::Lost("the stream is closed".to_owned())
}

fn set(waker: &mut Option<Waker>, cx: &Context<'_>) {
    match waker {
        Some(known) if known.will_wake(cx.waker()) => {}
        _ => *waker = Some(cx.waker().clone()),
    }
}

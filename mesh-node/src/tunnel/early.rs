//! What an application says before the far end has answered: it may go out with the wish to be connected.
//!
//! Far ends keep such bytes until they have decided and reached the application, so that a refusal means that nobody has seen
//! them: they are kept here as well, and go out again with the next try. Any other end before the answer leaves open whether they were
//! seen, and then nothing is tried again.

use std::cell::{Cell, RefCell};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use mesh_core::tunnel::MAX_EARLY;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::OpenError;

/// See the module.
#[derive(Debug)]
pub struct Early<'a> {
    application: Option<&'a TcpStream>,
    bytes: RefCell<Bytes>,
    /// Whether they are with a far end that has not answered.
    risked: Cell<bool>,
}

impl<'a> Early<'a> {
    /// Nothing goes out before the answer.
    pub const fn none() -> Self {
        Self { application: None, bytes: RefCell::new(Bytes::new()), risked: Cell::new(false) }
    }

    /// What `application` says.
    pub fn of(application: &'a TcpStream) -> Self {
        Self { application: Some(application), ..Self::none() }
    }

    /// The bytes, once there are any; at most [`MAX_EARLY`]. None at all if none will come: why is seen by whoever reads next.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<Bytes> {
        let mut kept = self.bytes.borrow_mut();
        let Some(application) = self.application else { return Poll::Ready(Bytes::new()) };
        while kept.is_empty() {
            match application.poll_read_ready(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_)) => break,
                Poll::Ready(Ok(())) => {}
            }
            let mut read = BytesMut::with_capacity(MAX_EARLY);
            match application.try_read_buf(&mut read) {
                Ok(0) => break,
                // Most first words are short, and wait for as long as the answer takes.
                Ok(_) => *kept = Bytes::copy_from_slice(&read),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                Err(_) => break,
            }
            if kept.len() < MAX_EARLY {
                // As with all short reads: the socket is empty, and no edge can be lost, because only this thread looks for it.
                let empty = || Err::<(), _>(std::io::ErrorKind::WouldBlock.into());
                let _ = application.try_io(Interest::READABLE, empty);
            }
        }
        Poll::Ready(kept.clone())
    }

    /// They are on their way.
    pub(super) fn risk(&self) {
        self.risked.set(true);
    }

    /// An attempt has ended; whether another one may be made.
    pub(super) fn may_go_again(&self, error: &OpenError) -> bool {
        if matches!(error, OpenError::Refused { .. } | OpenError::NotTaken) {
            self.risked.set(false);
        }
        !self.risked.get()
    }

    /// Whether nobody knows who has seen the bytes.
    pub fn is_lost(&self) -> bool {
        self.risked.get()
    }

    /// What has gone out with an attempt that was answered, and what was read and has not.
    pub fn into_parts(self) -> (usize, Bytes) {
        let bytes = self.bytes.into_inner();
        if self.risked.get() { (bytes.len(), Bytes::new()) } else { (0, bytes) }
    }
}

//! The request on its way up, while the answer comes down.

use std::task::{Context, Poll};

use super::connect::Server;
use super::kept::{Kept, Replay};
use super::message::{Broken, RequestHead};
use super::transfer::{Downstream, Either, Flow, Sink};

/// The request on its way up.
pub struct Upload {
    flow: Flow,
    position: usize,
    raw: bool,
    /// The server takes no more of it, and may answer all the same.
    refused: bool,
}

impl Upload {
    /// Of a request with this head, which the server has.
    pub fn new(head: &RequestHead, server: &mut Server) -> Self {
        let mut flow = Flow::Open;
        if head.leaves_http() {
            flow = Flow::Ending;
        } else if !head.framing.has_body() {
            // Says that there is no body; nothing can be wrong with that.
            let _ = server.end(None);
            flow = Flow::Ending;
        }
        Self { flow, position: 0, raw: false, refused: false }
    }

    /// Of a connection that has left HTTP.
    pub fn raw() -> Self {
        Self { flow: Flow::Open, position: 0, raw: true, refused: false }
    }

    /// Whether HTTP was left.
    pub fn is_raw(&self) -> bool {
        self.raw
    }

    /// Whether all of it is with the server.
    pub fn is_done(&self) -> bool {
        self.flow == Flow::Done
    }

    /// Moves it on. An error is the client's.
    pub fn poll<D: Downstream>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut D,
        kept: &mut Kept,
        server: &mut Server,
    ) -> Poll<Result<(), Broken>> {
        if self.refused || self.flow == Flow::Done {
            return Poll::Ready(Ok(()));
        }
        let mut body = Replay { source: client, kept, position: &mut self.position };
        match self.flow.poll(cx, &mut body, server, |_| {}) {
            Poll::Ready(Err(Either::Sink(_))) => {
                self.refused = true;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(Either::Body(broken))) => Poll::Ready(Err(broken)),
            Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        }
    }
}

//! Copies of requests, whose answers are dropped. A copy never slows the original down: one that cannot keep up is given up.

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use mesh_core::route::{Action, Mirror, Route, RouteTable};
use tokio::sync::mpsc;

use super::exchange::Stage;
use super::forward::{Job, run};
use super::message::{Broken, Piece, RequestHead, ResponseHead};
use super::record::Record;
use super::site::{Chosen, Clients, Site};
use super::transfer::{Body, Downstream, Sink};
use crate::run::tasks;

/// A client whose request body also goes to copies.
pub struct Teed<'a, D> {
    client: &'a mut D,
    copies: Vec<mpsc::Sender<Copied>>,
}

/// What a copy is given.
pub enum Copied {
    Data(Bytes),
    End,
}

/// The client of a copy: nobody.
pub struct Nobody {
    /// `None` if there is no body.
    body: Option<mpsc::Receiver<Copied>>,
}

/// Begins the copies of a request that its rule asks for.
pub fn start(stage: &Stage<'_>, job: &Job<'_>, head: &RequestHead) -> Vec<mpsc::Sender<Copied>> {
    if job.route.mirrors.is_empty() || head.leaves_http() {
        return Vec::new();
    }
    if Rc::strong_count(&stage.engine.copies) > MAX_COPIES {
        return Vec::new();
    }
    let drawn = job.route.mirrors.iter().filter(|mirror| mirror.is_drawn(stage.engine.random()));
    drawn.filter_map(|mirror| begin(stage, mirror, head)).collect()
}

fn begin(stage: &Stage<'_>, mirror: &Mirror, head: &RequestHead) -> Option<mpsc::Sender<Copied>> {
    let copy = RequestHead {
        method: head.method.clone(),
        secure: head.secure,
        authority: head.authority.clone(),
        target: head.target.clone(),
        client: head.client,
        version: head.version,
        headers: head.headers.clone(),
        framing: head.framing,
        upgrade: None,
        expects_continue: false,
        claims: None,
        trace: head.trace,
    };
    let (sender, receiver) = if head.framing.has_body() {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Some(sender), Some(receiver))
    } else {
        (None, None)
    };
    let route = Arc::new(Route::to(mirror.to.clone()));
    let (engine, facts, port) = (Rc::clone(stage.engine), stage.facts.clone(), stage.site.port());
    let held = Rc::clone(&stage.engine.copies);
    tasks::spawn_local("mirror", async move {
        let sent = shadow(engine, (facts, port), route, copy, Nobody { body: receiver });
        // Nobody waits for a copy, so nobody gives it up.
        let _ = tokio::time::timeout(COPY, sent).await;
        drop(held);
    });
    sender
}

/// Sends a copy of a request to nobody's knowledge.
async fn shadow(
    engine: Rc<super::engine::Engine>,
    (facts, port): (super::site::Facts, u16),
    route: Arc<Route>,
    mut head: RequestHead,
    mut client: Nobody,
) {
    let site = Shadow { port };
    let stage = Stage { engine: &engine, site: &site, facts: &facts };
    let mut record = Record::begin(&stage, &head);
    let Action::Forward(forward) = &route.action else { return };
    let matched = route.unmatched();
    let job = Job { route: &route, forward, matched: &matched, cors: None, limited: false };
    let sent = Box::pin(run(&stage, job, &mut head, &mut client, &mut record)).await;
    if let Err(error) = sent {
        tracing::debug!(?error, "A copy of a request was not answered.");
    }
}

/// The listener of copies.
struct Shadow {
    port: u16,
}

impl Site for Shadow {
    fn routes(&self) -> Option<Arc<RouteTable>> {
        None
    }

    fn fallback(&self) -> Option<Chosen> {
        None
    }

    fn port(&self) -> u16 {
        self.port
    }

    fn clients(&self) -> Clients {
        Clients::Own
    }
}

impl<'a, D> Teed<'a, D> {
    /// `client`, whose body also goes to `copies`.
    pub fn new(client: &'a mut D, copies: Vec<mpsc::Sender<Copied>>) -> Self {
        Self { client, copies }
    }

    fn copy(&mut self, piece: &Piece) {
        self.copies.retain(|copy| {
            let copied = match piece {
                Piece::Data(data) => Copied::Data(data.clone()),
                Piece::End(_) => Copied::End,
            };
            copy.try_send(copied).is_ok()
        });
    }
}

impl<D: Body> Body for Teed<'_, D> {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, Broken>> {
        let polled = self.client.poll_piece(cx);
        if let Poll::Ready(Ok(piece)) = &polled
            && !self.copies.is_empty()
        {
            self.copy(piece);
        }
        polled
    }
}

impl<D: Sink> Sink for Teed<'_, D> {
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.client.poll_room(cx)
    }

    fn push(&mut self, data: Bytes) -> Result<(), Broken> {
        self.client.push(data)
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), Broken> {
        self.client.end(trailers)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.client.poll_flush(cx)
    }
}

impl<D: Downstream> Downstream for Teed<'_, D> {
    fn inform(&mut self, head: ResponseHead) {
        self.client.inform(head);
    }

    fn respond(&mut self, head: ResponseHead) -> Result<(), Broken> {
        self.client.respond(head)
    }

    fn spare(&mut self) -> HeaderMap {
        self.client.spare()
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        self.client.poll_gone(cx)
    }

    fn leave_http(&mut self, head: ResponseHead) -> Result<(), Broken> {
        self.client.leave_http(head)
    }
}

impl Body for Nobody {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, Broken>> {
        let Some(body) = &mut self.body else { return Poll::Ready(Ok(Piece::End(None))) };
        body.poll_recv(cx).map(|copied| match copied {
            Some(Copied::Data(data)) => Ok(Piece::Data(data)),
            Some(Copied::End) => Ok(Piece::End(None)),
            // The original broke, or was faster than the copy.
            None => Err(Broken::Closed("before the end of the original")),
        })
    }
}

impl Sink for Nobody {
    fn poll_room(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        Poll::Ready(Ok(()))
    }

    fn push(&mut self, _: Bytes) -> Result<(), Broken> {
        Ok(())
    }

    fn end(&mut self, _: Option<HeaderMap>) -> Result<(), Broken> {
        Ok(())
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        Poll::Ready(Ok(()))
    }
}

impl Downstream for Nobody {
    fn inform(&mut self, _: ResponseHead) {}

    fn respond(&mut self, _: ResponseHead) -> Result<(), Broken> {
        Ok(())
    }

    fn poll_gone(&mut self, _: &mut Context<'_>) -> Poll<Broken> {
        Poll::Pending
    }

    fn leave_http(&mut self, _: ResponseHead) -> Result<(), Broken> {
        Err(Broken::Closed("by nobody"))
    }
}

/// Copies under way on a thread for one client; beyond that requests are not copied.
const MAX_COPIES: usize = 1024;
/// How long a copy may take.
const COPY: Duration = Duration::from_secs(60);
/// Pieces of a body that a copy may be behind.
const QUEUE: usize = 64;

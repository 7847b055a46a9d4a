//! Carries one connection between an application's socket and its far side, byte by byte and end by end.
//!
//! Each direction ends by itself: a FIN on one side becomes a FIN on the other once all bytes before it were passed
//! on, and the other direction goes on. Whatever is not a FIN (a reset, the death of a tunnel, a cut) becomes a reset
//! on the other side.
//!
//! Invariant: no side ever sees a clean end that the other side did not send. Sockets are in the state "close means
//! reset" from the first moment until the real FIN was passed on, so that this holds even if the task, or the
//! process, dies.
//!
//! Both directions run in the one task that awaits [`relay`]. Memory per direction: one read of up to
//! [`MAX_READ`] bytes for TCP; up to [`MAX_BATCH`] bytes taken from a tunnel, besides its window.

use std::future::{pending, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use mesh_core::tunnel::frame::MAX_PAYLOAD;
use tokio::net::TcpStream;

use crate::l7::io::Io;
use crate::sys::sockopt::set_linger_zero;
use crate::tunnel::{Stream, StreamError};

mod end;
mod io;
mod tcp;
mod tunnel;

pub use end::Broken;
use end::{End, Queue};
use io::IoEnd;
use tcp::TcpEnd;
use tunnel::TunnelEnd;

/// The side away from the application.
#[derive(Debug)]
pub enum Far {
    /// A plain connection.
    Tcp(TcpStream),
    /// A stream of a tunnel, already answered.
    Tunnel(Stream),
}

impl From<Far> for Io {
    fn from(far: Far) -> Self {
        match far {
            Far::Tcp(tcp) => Self::Tcp(tcp),
            Far::Tunnel(stream) => Self::from(stream),
        }
    }
}

/// Where the bytes are counted, while they flow.
#[derive(Debug, Clone, Copy)]
pub struct Counters<'a> {
    /// From the application to the far side.
    pub from_app: &'a AtomicU64,
    /// From the far side to the application.
    pub to_app: &'a AtomicU64,
    /// Who looks at them besides.
    pub watch: Option<&'a dyn Watch>,
}

/// Somebody who looks at bytes on their way. They go on whatever it makes of them.
pub trait Watch: std::fmt::Debug + Sync {
    /// These were read from `side`, after those before.
    fn read(&self, side: Side, bytes: &[u8]);
}

impl<'a> Counters<'a> {
    /// As these, with somebody who looks.
    #[must_use]
    pub fn watched(self, watch: Option<&'a dyn Watch>) -> Self {
        Self { watch, ..self }
    }
}

/// One of the two ends of a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The application's socket.
    App,
    /// The far side.
    Far,
}

/// Why a relay ended other than by both FINs. Both sides have been reset.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The application's connection broke.
    #[error("the application's connection broke: {0}")]
    App(Broken),
    /// The far side's connection broke.
    #[error("the far side's connection broke: {0}")]
    Far(Broken),
    /// The caller cut it.
    #[error("the connection was cut")]
    Cut,
}

impl RelayError {
    /// Stable token for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::App(_) => "app_reset",
            Self::Far(Broken::Socket(_)) => "far_reset",
            Self::Far(Broken::Stream(StreamError::Reset(_))) => "stream_reset",
            Self::Far(Broken::Stream(StreamError::Lost(_))) => "tunnel_lost",
            Self::Cut => "cut",
        }
    }
}

/// Relays until both directions have ended, something breaks, or `cut` completes.
///
/// Takes over both sides: they are closed or reset when it returns, and reset if the future is dropped.
pub async fn relay(
    app: TcpStream,
    far: Far,
    counters: Counters<'_>,
    cut: impl Future<Output = ()>,
) -> Result<(), RelayError> {
    relay_any((app.into(), Bytes::new()), far.into(), counters, (pending(), cut)).await
}

/// [`relay`] between any two connections. `early` is what was read from the application already.
///
/// When the first of `ends` completes, the application is told that nothing more comes, as if the far side had said so:
/// whoever has nothing under way ends the connection then. The second cuts it.
pub async fn relay_any(
    (app, early): (Io, Bytes),
    far: Io,
    counters: Counters<'_>,
    ends: (impl Future<Output = ()>, impl Future<Output = ()>),
) -> Result<(), RelayError> {
    let mut up = Flow::new(counters.from_app, (Side::App, counters.watch));
    up.begin_with(early);
    let flows = (up, Flow::new(counters.to_app, (Side::Far, counters.watch)));
    match app {
        Io::Tcp(mut tcp) => {
            // A socket that refuses the option is broken, and about to say so itself.
            let _ = set_linger_zero(&tcp, true);
            let (read, write) = tcp.split();
            let broken = pin!(tcp::broken(&read));
            with_far(TcpEnd::new(&read, write, broken), far, flows, ends).await
        }
        app => with_far(IoEnd::new(app), far, flows, ends).await,
    }
}

async fn with_far(
    app: impl End,
    far: Io,
    flows: (Flow<'_>, Flow<'_>),
    ends: (impl Future<Output = ()>, impl Future<Output = ()>),
) -> Result<(), RelayError> {
    match far {
        Io::Tcp(mut tcp) => {
            let _ = set_linger_zero(&tcp, true);
            let (read, write) = tcp.split();
            let broken = pin!(tcp::broken(&read));
            run(app, TcpEnd::new(&read, write, broken), flows, ends).await
        }
        Io::Tunnel(tunnel) => match tunnel.into_stream() {
            Ok(stream) => run(app, TunnelEnd::new(stream), flows, ends).await,
            Err(tunnel) => run(app, IoEnd::new(Io::Tunnel(tunnel)), flows, ends).await,
        },
        far => run(app, IoEnd::new(far), flows, ends).await,
    }
}

async fn run(
    app: impl End,
    far: impl End,
    (up, down): (Flow<'_>, Flow<'_>),
    (finish, cut): (impl Future<Output = ()>, impl Future<Output = ()>),
) -> Result<(), RelayError> {
    let mut pair = Pair { app, far, up, down, failed: None };
    let (mut finish, mut cut) = (pin!(finish), pin!(cut));
    let mut finishing = false;
    let result = poll_fn(|cx| {
        if cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(RelayError::Cut));
        }
        if !finishing && finish.as_mut().poll(cx).is_ready() {
            finishing = true;
            pair.down.ended = true;
        }
        pair.poll(cx)
    })
    .await;
    if result.is_ok() {
        pair.app.complete();
        pair.far.complete();
    }
    // An end that is not complete is reset by its destructor.
    result
}

/// Both ends and both directions.
struct Pair<'c, A: End, F: End> {
    app: A,
    far: F,
    /// Application to far side.
    up: Flow<'c>,
    /// Far side to application.
    down: Flow<'c>,
    /// A side that broke after its FIN, while bytes before that FIN are still to be delivered.
    failed: Option<(Side, Broken)>,
}

impl<A: End, F: End> Pair<'_, A, F> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RelayError>> {
        for _ in 0..MAX_ROUNDS {
            match self.round(cx) {
                Ok(Round::Progress) => {}
                Ok(Round::Blocked) => return Poll::Pending,
                Ok(Round::Finished) => return Poll::Ready(self.outcome()),
                Err((side, broken)) => {
                    if let Some(error) = self.fail(side, broken) {
                        return Poll::Ready(Err(error));
                    }
                }
            }
        }
        // Others on this thread have waited long enough.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// One step of each direction that is still of use.
    fn round(&mut self, cx: &mut Context<'_>) -> Result<Round, (Side, Broken)> {
        let failed = self.failed.as_ref().map(|(side, _)| *side);
        let mut progress = false;
        let (up, down) = (failed != Some(Side::Far), failed != Some(Side::App));
        // Both reads before both writes: what a side sent before it broke is read before a write to it fails.
        if up {
            progress |= self.up.fill(cx, &mut self.app).map_err(|e| (Side::App, e))?;
        }
        if down {
            progress |= self.down.fill(cx, &mut self.far).map_err(|e| (Side::Far, e))?;
        }
        if up {
            progress |= self.up.drain(cx, &mut self.app, &mut self.far).map_err(|e| (Side::Far, e))?;
        }
        if down {
            progress |= self.down.drain(cx, &mut self.far, &mut self.app).map_err(|e| (Side::App, e))?;
        }
        let finished = match failed {
            None => self.up.done && self.down.done,
            Some(Side::App) => self.up.done,
            Some(Side::Far) => self.down.done,
        };
        if finished {
            return Ok(Round::Finished);
        }
        if progress {
            return Ok(Round::Progress);
        }
        // A side that nobody reads from at present can break unnoticed.
        if down
            && self.up.is_deaf()
            && let Poll::Ready(broken) = self.app.poll_broken(cx)
        {
            return Err((Side::App, broken));
        }
        if up
            && self.down.is_deaf()
            && let Poll::Ready(broken) = self.far.poll_broken(cx)
        {
            return Err((Side::Far, broken));
        }
        Ok(Round::Blocked)
    }

    /// Notes that `side` broke. What it sent before a FIN of its own is still delivered; only then is the other side
    /// reset. Everything else ends the relay at once.
    fn fail(&mut self, side: Side, broken: Broken) -> Option<RelayError> {
        let from_it = match side {
            Side::App => &self.up,
            Side::Far => &self.down,
        };
        if self.failed.is_none() && from_it.ended && !from_it.done {
            self.failed = Some((side, broken));
            return None;
        }
        Some(error(side, broken))
    }

    fn outcome(&mut self) -> Result<(), RelayError> {
        match self.failed.take() {
            None => Ok(()),
            Some((side, broken)) => Err(error(side, broken)),
        }
    }
}

fn error(side: Side, broken: Broken) -> RelayError {
    match side {
        Side::App => RelayError::App(broken),
        Side::Far => RelayError::Far(broken),
    }
}

enum Round {
    Progress,
    Blocked,
    Finished,
}

/// One direction.
struct Flow<'c> {
    queue: Queue,
    /// The source's FIN was seen.
    ended: bool,
    /// And passed on.
    done: bool,
    counter: &'c AtomicU64,
    /// Where it comes from, and who looks at it.
    watch: (Side, Option<&'c dyn Watch>),
}

impl<'c> Flow<'c> {
    fn new(counter: &'c AtomicU64, watch: (Side, Option<&'c dyn Watch>)) -> Self {
        Self { queue: Queue::default(), ended: false, done: false, counter, watch }
    }

    /// With what was read already.
    fn begin_with(&mut self, early: Bytes) {
        self.queue = Queue::of(early);
        self.show(0);
    }

    /// Shows what has come after the first pieces of the queue.
    fn show(&self, pieces: usize) {
        if let (side, Some(watch)) = self.watch {
            self.queue.iter().skip(pieces).for_each(|piece| watch.read(side, piece));
        }
    }

    /// Whether nothing waits for the source to say something.
    fn is_deaf(&self) -> bool {
        self.ended || !self.queue.is_empty()
    }

    /// Takes what the source has; whether anything came.
    fn fill(&mut self, cx: &mut Context<'_>, source: &mut impl End) -> Result<bool, Broken> {
        if self.ended {
            return Ok(false);
        }
        let before = self.queue.pieces();
        let filled = source.poll_fill(cx, &mut self.queue)?;
        self.show(before);
        self.ended = matches!(filled, Poll::Ready(false));
        Ok(filled.is_ready())
    }

    /// Gives the sink what there is; whether anything went.
    fn drain(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut impl End,
        sink: &mut impl End,
    ) -> Result<bool, Broken> {
        let mut progress = false;
        if !self.queue.is_empty()
            && let Poll::Ready(n) = sink.poll_drain(cx, &mut self.queue)?
        {
            source.passed_on(n);
            self.counter.fetch_add(n as u64, Ordering::Relaxed);
            progress = true;
        }
        if self.ended && !self.done && self.queue.is_empty() && sink.poll_finish(cx)?.is_ready() {
            self.done = true;
            progress = true;
        }
        Ok(progress)
    }
}

/// First size of a TCP read; grows while reads come back full.
const FIRST_READ: usize = 4 << 10;
/// Largest TCP read: what fills frames of a tunnel without a rest.
const MAX_READ: usize = 4 * MAX_PAYLOAD;
/// Bytes taken from a tunnel before they are passed on in one call.
const MAX_BATCH: usize = 64 << 10;
/// Slices per vectored write.
const MAX_SLICES: usize = 16;
/// Rounds before the task lets others run: 1 MiB or so in each direction.
const MAX_ROUNDS: usize = 16;

#[cfg(test)]
mod tests;

//! The access log: one line for each connection or request, written when it is over.
//!
//! Data threads only hand finished lines over, each through a ring that it has for itself. A thread of its own takes them out
//! and writes many at a time; if it cannot keep up, for instance because nobody reads the pipe, lines are dropped and counted.
//!
//! Invariant: a line handed over before [`AccessLog::flush`] is called, or before the log is dropped, is written before the
//! flush returns or the writer ends.

mod ends;
mod lane;
mod line;
mod ring;
mod writer;

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwapOption;

pub(super) use line::{Line, escape, is_plain};

use super::Told;
use super::request::{AccessFormat, RequestFacts};
use lane::Lane;
use ring::Ring;
use writer::{Message, Writer};

/// Whether and how connections are logged, and requests that have no format of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum AccessLogFormat {
    /// No access log.
    #[default]
    Off,
    /// `key=value` pairs, strings quoted.
    Text,
    /// One JSON object a line.
    Json,
}

impl AccessLogFormat {
    /// As users write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// The data threads' end of the access log.
#[derive(Debug)]
pub(super) struct AccessLog {
    format: AtomicU8,
    /// Whether all connections are logged, and all requests; others only if a Telemetry asks for it.
    all: [AtomicBool; 2],
    /// How requests are logged, if it is not as connections are.
    requests: ArcSwapOption<AccessFormat>,
    /// Whether that has headers or trailers of answers.
    reads_answers: AtomicBool,
    queue: SyncSender<Message>,
    shared: Arc<Shared>,
}

/// What both ends of the log know.
#[derive(Debug)]
struct Shared {
    /// Tells the lanes of the threads which log they lead to.
    id: u64,
    /// Of all threads that have logged something and still run.
    rings: Mutex<Vec<Arc<Ring>>>,
    /// Whether the writer wants to be called when there is a line in a ring.
    asleep: AtomicBool,
    dropped: AtomicU64,
}

impl AccessLog {
    /// Starts the writing thread; it ends when the log is dropped and all lines are written.
    pub(super) fn start(format: AccessLogFormat, sink: Box<dyn Write + Send>) -> io::Result<Self> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let (queue, lines) = sync_channel(QUEUE);
        let shared = Arc::new(Shared {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            rings: Mutex::default(),
            asleep: AtomicBool::new(true),
            dropped: AtomicU64::new(0),
        });
        let mut writer = Writer::new(lines, sink, shared.clone());
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || writer.run())?;
        Ok(Self {
            all: [true, true].map(AtomicBool::new),
            format: AtomicU8::new(format as u8),
            requests: ArcSwapOption::empty(),
            reads_answers: AtomicBool::new(false),
            queue,
            shared,
        })
    }

    /// Logs a request; never waits.
    pub(super) fn request(&self, facts: &RequestFacts<'_>) {
        let [_, all] = &self.all;
        if !all.load(Ordering::Relaxed) && !facts.told.is_some_and(|told| told.asks_for_log()) {
            return;
        }
        let own = self.requests.load();
        let named = facts.told.and_then(|told| told.line());
        let format = match (named.or(own.as_deref()), self.format()) {
            (Some(own), _) => own,
            (None, Some(format)) => AccessFormat::standard(format),
            (None, None) => return,
        };
        self.hand_over(|lane| format.write(&mut lane.line, &mut lane.clock, facts));
    }

    /// Logs a connection; never waits.
    pub(super) fn connection(&self, line: &Line<'_>, format: AccessLogFormat) {
        self.hand_over(|lane| line.write(&mut lane.line, (&mut lane.clock, &mut lane.ends), format));
    }

    fn hand_over(&self, write: impl FnOnce(&mut Lane)) {
        if lane::log(&self.shared, write) {
            // A full queue calls the writer just as well.
            let _ = self.queue.try_send(Message::Wake);
        }
    }

    /// Logs requests in a format of their own, or again as connections are.
    pub(super) fn set_requests(&self, format: Option<AccessFormat>) {
        let reads = format.as_ref().is_some_and(AccessFormat::reads_answers);
        self.reads_answers.store(reads, Ordering::Relaxed);
        self.requests.store(format.map(Arc::new));
    }

    /// Whether the format of requests has headers or trailers of answers.
    pub(super) fn reads_answers(&self) -> bool {
        self.reads_answers.load(Ordering::Relaxed)
    }

    /// How to format lines; `None` if nobody wants any.
    pub(super) fn format(&self) -> Option<AccessLogFormat> {
        let format = self.format.load(Ordering::Relaxed);
        [AccessLogFormat::Text, AccessLogFormat::Json].into_iter().find(|known| *known as u8 == format)
    }

    /// The same of a connection.
    pub(super) fn format_of_connection(&self, told: Option<&Arc<Told>>) -> Option<AccessLogFormat> {
        let [all, _] = &self.all;
        let wanted = all.load(Ordering::Relaxed) || told.is_some_and(|told| told.asks_for_log());
        self.format().filter(|_| wanted)
    }

    /// Whether all connections are logged, and all requests, or only those of which a Telemetry wants it.
    pub(super) fn set_all(&self, connections: bool, requests: bool) {
        let [of_connections, of_requests] = &self.all;
        of_connections.store(connections, Ordering::Relaxed);
        of_requests.store(requests, Ordering::Relaxed);
    }

    pub(super) fn set_format(&self, format: AccessLogFormat) {
        self.format.store(format as u8, Ordering::Relaxed);
    }

    /// Lines lost so far.
    pub(super) fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// Waits until all lines queued so far are written, or the time is up.
    pub(super) fn flush(&self, limit: Duration) {
        let (done, wait) = sync_channel(1);
        let until = std::time::Instant::now() + limit;
        let mut message = Message::Flush(done);
        // The queue may be full: there is no send with a deadline.
        while let Err(std::sync::mpsc::TrySendError::Full(back)) = self.queue.try_send(message) {
            if std::time::Instant::now() >= until {
                return;
            }
            message = back;
            std::thread::sleep(PAUSE);
        }
        // Nothing to do about a writer that is stuck or gone.
        let _ = wait.recv_timeout(until.saturating_duration_since(std::time::Instant::now()));
    }
}

/// Calls that may wait for the writer.
const QUEUE: usize = 16;
/// How long the first line of a batch waits for company, and a flush for room.
const PAUSE: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests;

//! The access log: one line for each connection, written when it is over.
//!
//! Data threads only put finished lines into a bounded queue. A thread of its own takes them out and writes many at a
//! time; if it cannot keep up, for instance because nobody reads the pipe, lines are dropped and counted.

mod line;

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

pub(super) use line::Line;

/// Whether and how connections are logged.
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
    queue: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

enum Message {
    Line(String),
    /// Answered when everything before it has been written.
    Flush(SyncSender<()>),
}

impl AccessLog {
    /// Starts the writing thread; it ends when the log is dropped and all lines are written.
    pub(super) fn start(format: AccessLogFormat, sink: Box<dyn Write + Send>) -> io::Result<Self> {
        let (queue, lines) = sync_channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let mut writer = Writer { lines, sink, dropped: dropped.clone(), batch: Vec::new(), held: 0 };
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || writer.run())?;
        Ok(Self { format: AtomicU8::new(format as u8), queue, dropped })
    }

    /// How to format lines; `None` if nobody wants any.
    pub(super) fn format(&self) -> Option<AccessLogFormat> {
        let format = self.format.load(Ordering::Relaxed);
        [AccessLogFormat::Text, AccessLogFormat::Json].into_iter().find(|known| *known as u8 == format)
    }

    pub(super) fn set_format(&self, format: AccessLogFormat) {
        self.format.store(format as u8, Ordering::Relaxed);
    }

    /// Queues a line that ends in a newline; never waits.
    pub(super) fn write(&self, line: String) {
        if self.queue.try_send(Message::Line(line)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines lost so far.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
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

/// The writing thread's end.
struct Writer {
    lines: Receiver<Message>,
    sink: Box<dyn Write + Send>,
    dropped: Arc<AtomicU64>,
    /// Lines not written yet, and how many.
    batch: Vec<u8>,
    held: u64,
}

impl Writer {
    fn run(&mut self) {
        while let Ok(first) = self.lines.recv() {
            self.take(first);
            // Under load a pause collects lines for one write, and spares their senders the cost of waking this thread.
            std::thread::sleep(PAUSE);
            while let Ok(next) = self.lines.try_recv() {
                self.take(next);
            }
            self.write_out();
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Line(line) => {
                self.batch.extend_from_slice(line.as_bytes());
                self.held += 1;
                if self.batch.len() >= BATCH {
                    self.write_out();
                }
            }
            Message::Flush(done) => {
                self.write_out();
                let _ = done.try_send(());
            }
        }
    }

    fn write_out(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        if self.sink.write_all(&self.batch).and_then(|()| self.sink.flush()).is_err() {
            self.dropped.fetch_add(self.held, Ordering::Relaxed);
        }
        self.batch.clear();
        self.held = 0;
    }
}

/// Lines that may wait for the writer: some 4 MB.
const QUEUE: usize = 8_192;
/// Bytes after which a batch is written without waiting for more.
const BATCH: usize = 64 * 1024;
/// How long the first line of a batch waits for company.
const PAUSE: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests;

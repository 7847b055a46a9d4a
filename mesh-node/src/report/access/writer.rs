//! The thread that writes the access log.

use std::io::Write;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::{PAUSE, Shared};

/// What the writer is sent.
pub(super) enum Message {
    /// There are lines.
    Wake,
    /// Answered when everything before it has been written.
    Flush(SyncSender<()>),
}

/// The writing thread's end of the log.
pub(super) struct Writer {
    lines: Receiver<Message>,
    sink: Box<dyn Write + Send>,
    shared: Arc<Shared>,
    /// Lines not written yet, and how many.
    batch: Vec<u8>,
    held: u64,
    pace: Pace,
}

/// How long the writer waits for messages.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// Lines come in: looks at the rings every [`GATHER`].
    Busy,
    /// None has come since the last look. A thread may not have seen yet that the writer wants to be called: looks once
    /// more after [`IDLE`].
    Drowsy,
    /// Waits to be called.
    Asleep,
}

impl Writer {
    pub(super) fn new(lines: Receiver<Message>, sink: Box<dyn Write + Send>, shared: Arc<Shared>) -> Self {
        Self { lines, sink, shared, batch: Vec::new(), held: 0, pace: Pace::Asleep }
    }

    /// Writes until the log is dropped.
    pub(super) fn run(&mut self) {
        while let Ok(message) = self.wait() {
            if let Some(first) = message {
                // Who calls a busy writer has a whole batch already, and should not run out of room meanwhile.
                let is_urgent = self.pace == Pace::Busy && matches!(first, Message::Wake);
                self.take(first);
                if !is_urgent {
                    // Under load a pause collects lines for one write, and spares their senders the cost of waking this
                    // thread.
                    std::thread::sleep(PAUSE);
                }
                while let Ok(next) = self.lines.try_recv() {
                    self.take(next);
                }
            }
            let found = self.collect();
            self.write_out();
            self.settle(found);
        }
        self.collect();
        self.write_out();
    }

    /// The next message, or `None` if it is time to look at the rings.
    fn wait(&self) -> Result<Option<Message>, RecvTimeoutError> {
        let waited = match self.pace {
            Pace::Busy => self.lines.recv_timeout(GATHER),
            Pace::Drowsy => self.lines.recv_timeout(IDLE),
            Pace::Asleep => self.lines.recv().map_err(RecvTimeoutError::from),
        };
        match waited {
            Ok(message) => Ok(Some(message)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(disconnected) => Err(disconnected),
        }
    }

    /// Chooses the pace after a look at the rings that has found lines or not.
    fn settle(&mut self, found: bool) {
        self.pace = match self.pace {
            _ if found => Pace::Busy,
            Pace::Busy => Pace::Drowsy,
            Pace::Drowsy | Pace::Asleep => Pace::Asleep,
        };
        self.shared.asleep.store(self.pace != Pace::Busy, Ordering::Relaxed);
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Wake => {}
            Message::Flush(done) => {
                self.collect();
                self.write_out();
                let _ = done.try_send(());
            }
        }
    }

    /// Takes what is in the rings now, and forgets those of threads that have ended; says whether there was anything.
    fn collect(&mut self) -> bool {
        let rings = {
            let mut rings = self.shared.rings.lock().unwrap_or_else(PoisonError::into_inner);
            rings.retain(|ring| !ring.is_over());
            rings.clone()
        };
        let mut found = false;
        for ring in rings {
            let end = ring.end();
            loop {
                let lines = ring.drain(end, BATCH, &mut self.batch);
                self.held += lines;
                found |= lines > 0;
                if self.batch.len() < BATCH {
                    break;
                }
                self.write_out();
            }
        }
        found
    }

    fn write_out(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        if self.sink.write_all(&self.batch).and_then(|()| self.sink.flush()).is_err() {
            self.shared.dropped.fetch_add(self.held, Ordering::Relaxed);
        }
        self.batch.clear();
        self.held = 0;
    }
}

/// Bytes after which a batch is written without waiting for more.
const BATCH: usize = 64 * 1024;
/// How long lines may gather while more come in. A look costs as much for few lines as for many, so that under a light load it is
/// most of what the log costs; a person who follows the log does not see the difference. Whoever has a batch calls earlier.
const GATHER: Duration = Duration::from_millis(100);
/// How long it may take until a thread sees that the writer wants to be called; far more than it does.
const IDLE: Duration = Duration::from_millis(500);

//! Sees threads that do not turn: a thread of its own looks at what they count, and whoever asks for readiness or metrics is told.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use mesh_core::stall::{BEAT, News, Watched};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::tasks;
use crate::report::Reporter;

/// The threads of a process that are looked at.
#[derive(Default)]
pub struct Watchdog {
    threads: Mutex<Vec<Thread>>,
}

struct Thread {
    name: Arc<str>,
    /// What it counts, as long as it runs.
    turns: Weak<AtomicU64>,
    watched: Option<Watched>,
    /// How often it has stood still.
    stalls: u64,
}

impl Watchdog {
    /// Begins to look, on a thread of its own, for as long as somebody has what is returned; at the thread that calls this, inside of
    /// its `LocalSet`, from now on.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn start(reporter: &Reporter) -> std::io::Result<Arc<Self>> {
        let this = Arc::new(Self::default());
        this.watch_this("control");
        reporter.register(this.clone());
        let watcher = Arc::downgrade(&this);
        let begun = Instant::now();
        let body = move || {
            while let Some(this) = watcher.upgrade() {
                this.look(begun);
                drop(this);
                std::thread::sleep(BEAT);
            }
        };
        std::thread::Builder::new().name("watchdog".to_owned()).spawn(body)?;
        Ok(this)
    }

    /// Has the thread that runs this looked at from now on, for as long as its tasks run. Call it inside of its `LocalSet`.
    pub fn watch_this(&self, name: &str) {
        let turns = Arc::<AtomicU64>::default();
        let thread = Thread { name: name.into(), turns: Arc::downgrade(&turns), watched: None, stalls: 0 };
        self.lock().push(thread);
        tasks::spawn_local("beat", async move {
            loop {
                turns.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(BEAT).await;
            }
        });
    }

    /// A thread that stands still, if any does.
    pub fn stalled(&self) -> Option<Arc<str>> {
        let threads = self.lock();
        let stalled = threads.iter().find(|it| it.watched.is_some_and(|watched| watched.is_stalled()));
        stalled.map(|thread| Arc::clone(&thread.name))
    }

    fn look(&self, begun: Instant) {
        let now = begun.elapsed();
        for thread in &mut *self.lock() {
            let Some(turns) = thread.turns.upgrade().map(|turns| turns.load(Ordering::Relaxed)) else {
                // It has ended, as threads do that are told to.
                thread.watched = None;
                continue;
            };
            let name = &thread.name;
            match thread.watched.get_or_insert_with(|| Watched::new(turns, now)).look(turns, now) {
                Some(News::Stalls(stands)) => {
                    thread.stalls += 1;
                    let for_ms = stands.as_millis();
                    tracing::error!(thread = %name, for_ms, "A thread stands still; its connections wait.");
                }
                Some(News::Turns(stood)) => {
                    tracing::warn!(thread = %name, after_ms = stood.as_millis(), "A thread turns again.");
                }
                None => {}
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Thread>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for Watchdog {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "How often a thread has stood still for longer than any piece of its work takes.";
        let mut family = encoder.encode_descriptor("mesh_thread_stalls", help, None, MetricType::Counter)?;
        for thread in &*self.lock() {
            family
                .encode_family(&[("thread", &*thread.name)])?
                .encode_counter::<NoLabelSet, _, u64>(&thread.stalls, None)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Watchdog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watchdog").field("threads", &self.lock().len()).finish()
    }
}

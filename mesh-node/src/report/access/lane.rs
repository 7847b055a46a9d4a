//! What a thread needs to log: a ring to the writer, and room to write a line in.

use std::cell::RefCell;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::Shared;
use super::ends::Ends;
use super::ring::{Pushed, Ring};
use crate::report::request::Clock;

/// One thread's way to the writer of one log.
pub(super) struct Lane {
    /// Which log.
    log: u64,
    ring: Arc<Ring>,
    pub(super) line: Vec<u8>,
    pub(super) clock: Clock,
    pub(super) ends: Ends,
}

impl Lane {
    fn open(shared: &Shared) -> Self {
        let ring = Arc::new(Ring::new(WORDS));
        shared.rings.lock().unwrap_or_else(PoisonError::into_inner).push(ring.clone());
        Self { log: shared.id, ring, line: Vec::new(), clock: Clock::default(), ends: Ends::default() }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.ring.close();
    }
}

/// Has `write` write a line, with its newline, and gives it to the writer. The answer is whether the writer should be
/// called; without room, or on a thread that is ending, the line is lost and counted.
pub(super) fn log(shared: &Shared, write: impl FnOnce(&mut Lane)) -> bool {
    let pushed = LANE.try_with(|lane| {
        let lane = &mut *lane.borrow_mut();
        if lane.as_ref().is_none_or(|lane| lane.log != shared.id) {
            *lane = Some(Lane::open(shared));
        }
        let lane = lane.as_mut()?;
        lane.line.clear();
        write(lane);
        Some(lane.ring.push(&lane.line))
    });
    match pushed.ok().flatten() {
        Some(Pushed::In) => {
            shared.asleep.load(Ordering::Relaxed) && shared.asleep.swap(false, Ordering::Relaxed)
        }
        Some(Pushed::Crowded) => true,
        Some(Pushed::Full) | None => {
            shared.dropped.fetch_add(1, Ordering::Relaxed);
            false
        }
    }
}

thread_local! {
    static LANE: RefCell<Option<Lane>> = const { RefCell::new(None) };
}

/// Words of a thread's ring: 512 KB, which at 100,000 lines a second last for 10 ms.
pub(super) const WORDS: usize = 64 * 1024;

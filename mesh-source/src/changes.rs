//! What a source tells: not everything every time, but what is different.

use std::sync::Arc;

use mesh_core::resource::{Finding, Object, ObjectKey};
use tokio::sync::mpsc;

/// One thing that is different now.
#[derive(Debug, Clone)]
pub enum Change {
    /// The object is new, or different from what was sent under its key before: it takes that one's place.
    Apply(Arc<Object>),
    /// There is no such object any more, and nothing to say about it.
    Delete(ObjectKey),
    /// All there is to say now, in place of what was said before; nothing, if the list is empty.
    Findings(About, Vec<Finding>),
    /// Everything that exists has been sent. Comes once in the life of a source.
    Synced,
}

/// What findings are about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum About {
    /// The source as a whole: a directory's findings come together.
    Source,
    /// One object, valid or not.
    Object(ObjectKey),
    /// What is to be written back to objects. No source says so; who writes does.
    WrittenBack,
}

/// The receiving end of a source. Dropping it ends the source.
///
/// What comes in one batch belongs together (an edit of many files, a page of a list), so a batch should be taken as
/// a whole. At most 16 batches wait; a source that is ahead of its reader stops reading.
#[derive(Debug)]
pub struct Changes {
    batches: mpsc::Receiver<Vec<Change>>,
}

/// The sending end.
#[derive(Debug, Clone)]
pub(crate) struct Sender {
    batches: mpsc::Sender<Vec<Change>>,
}

/// Nobody listens any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Closed;

/// A pair of ends.
pub(crate) fn channel() -> (Sender, Changes) {
    let (sender, receiver) = mpsc::channel(BATCHES);
    (Sender { batches: sender }, Changes { batches: receiver })
}

impl Changes {
    /// The next batch, never an empty one; `None` when the source has ended. Cancelling it loses nothing.
    pub async fn next(&mut self) -> Option<Vec<Change>> {
        self.batches.recv().await
    }

    /// The next batch if there is one already: what a reader adds to its batch before it starts to compute.
    pub fn next_waiting(&mut self) -> Option<Vec<Change>> {
        self.batches.try_recv().ok()
    }
}

impl Sender {
    /// Hands on a batch, unless it is empty; waits while the reader is behind.
    pub(crate) async fn send(&self, batch: Vec<Change>) -> Result<(), Closed> {
        if batch.is_empty() {
            return Ok(());
        }
        self.batches.send(batch).await.map_err(|_| Closed)
    }

    /// Waits until nobody listens any more.
    pub(crate) async fn closed(&self) {
        self.batches.closed().await;
    }
}

/// Batches that may wait: enough that a reader never waits for a source, few enough that they take little memory.
const BATCHES: usize = 16;

//! Tells users, in the status of what they wrote, what became of it.
//!
//! Only the leader writes; the others keep what there would be to say, so that a new leader can say it at once. A status
//! is shared with other controllers, so it is read, merged with what is ours ([`merge`]) and written back on the condition
//! that it is still what was read. What would change nothing is not written.

mod merge;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use k8s_openapi::jiff::Timestamp;
use kube::core::Request;
use mesh_core::resource::ObjectKey;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

pub use self::merge::{Addresses, Condition, Parents, Status};
use self::merge::{Merged, merge};
use super::Kubernetes;
use super::api::Api;
use super::backoff::Backoff;
use super::discovery::{Place, Places};
use super::in_namespace;
use super::leader::Leadership;
use super::wire::Failure;

/// Takes what there is to say. Clones speak to the same writer.
#[derive(Debug, Clone)]
pub struct Statuses {
    wishes: Arc<watch::Sender<Wishes>>,
}

/// How fast statuses are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Objects a second, on average.
    pub per_second: u32,
    /// Objects at once, after a time of rest.
    pub burst: u32,
}

/// Writes statuses while it leads. Made by [`Kubernetes::status_writer`].
pub struct StatusWriter {
    api: Api,
    places: watch::Receiver<Places>,
    leadership: Leadership,
    wishes: Arc<watch::Sender<Wishes>>,
    news: watch::Receiver<Wishes>,
    budget: Budget,
    backoff: Backoff,
}

/// What there is to say, and of which objects it has not been said yet.
#[derive(Debug, Clone, Default)]
struct Wishes {
    all: BTreeMap<ObjectKey, Arc<Status>>,
    unsaid: BTreeSet<ObjectKey>,
}

/// Permission to write so and so many objects.
#[derive(Debug)]
struct Budget {
    rate: Rate,
    /// In thousandths of an object.
    left: u64,
    since: Instant,
}

/// How writing one status ended.
#[derive(Debug)]
enum Outcome {
    /// It says what it should.
    Done,
    /// It has been changed while we looked.
    Again,
    /// It shows something else than what was decided on, of which we shall hear.
    Stale,
    /// There is no such object, or no such kind, or it is another's turn to write.
    Gone,
}

impl Kubernetes {
    /// A writer for the cluster that is watched, and the way to tell it what to write.
    pub fn status_writer(&self, leadership: Leadership, rate: Rate) -> (StatusWriter, Statuses) {
        let (wishes, news) = watch::channel(Wishes::default());
        let wishes = Arc::new(wishes);
        let writer = StatusWriter {
            api: Api::new(self.client.clone(), self.pace.clone()),
            places: self.places.subscribe(),
            leadership,
            wishes: Arc::clone(&wishes),
            news,
            budget: Budget { rate, left: u64::from(rate.burst) * 1000, since: Instant::now() },
            backoff: Backoff::new(self.pace.least_backoff, self.pace.most_backoff),
        };
        (writer, Statuses { wishes })
    }
}

impl Statuses {
    /// What the status of an object should say from now on. Saying the same again costs nothing.
    pub fn set(&self, key: ObjectKey, status: Status) {
        self.wishes.send_if_modified(|wishes| {
            if wishes.all.get(&key).is_some_and(|known| **known == status) {
                return false;
            }
            wishes.all.insert(key.clone(), Arc::new(status));
            wishes.unsaid.insert(key)
        });
    }

    /// There is nothing to say about an object any more, normally because there is none. What was said stays.
    pub fn forget(&self, key: &ObjectKey) {
        self.wishes.send_if_modified(|wishes| {
            wishes.unsaid.remove(key);
            wishes.all.remove(key);
            false
        });
    }
}

impl StatusWriter {
    /// Writes until the election has ended.
    pub async fn run(mut self) {
        while self.leadership.wait_until(true).await {
            // Another may have led in the meantime, with another opinion.
            self.wishes.send_if_modified(|wishes| {
                wishes.unsaid = wishes.all.keys().cloned().collect();
                false
            });
            while self.leadership.is_leading() {
                self.round().await;
            }
        }
    }

    /// Writes one status, or waits for there to be one.
    async fn round(&mut self) {
        let mut lost = self.leadership.clone();
        let next = self.news.borrow_and_update().unsaid.first().cloned();
        let Some(key) = next else {
            tokio::select! {
                // It cannot end: we hold a sender.
                _ = self.news.changed() => {}
                _ = lost.wait_until(false) => {}
            }
            return;
        };
        let at = self.budget.next();
        let ready = async {
            sleep_until(at).await;
            // Before the cluster has been asked, nobody knows where anything is. It fails when the source has ended, and
            // then there is nowhere to write to.
            let _ = self.places.wait_for(|places| places.contains_key(key.kind)).await;
        };
        tokio::select! {
            () = ready => self.budget.spend(),
            _ = lost.wait_until(false) => return,
        }
        let Some(status) = self.take(&key) else { return };
        match self.write_patiently(&key, &status).await {
            Ok(Outcome::Stale) => {
                // By then there is another decision in its place.
                self.put_back(&key, &status);
                sleep(self.backoff.next(None)).await;
            }
            Ok(_) => self.backoff.reset(),
            Err(failure) => {
                tracing::warn!(object = %key, error = %failure, "The status of an object cannot be written.");
                if !is_final(&failure) {
                    self.put_back(&key, &status);
                    sleep(self.backoff.next(failure.retry_after())).await;
                }
            }
        }
    }

    /// As often as it takes when others write at the same time, within reason.
    async fn write_patiently(&self, key: &ObjectKey, status: &Status) -> Result<Outcome, Failure> {
        for _ in 0..ATTEMPTS {
            match self.write(key, status).await? {
                Outcome::Again => {}
                outcome => return Ok(outcome),
            }
        }
        Err(Failure::Malformed(format!("it changed {ATTEMPTS} times while it was written")))
    }

    async fn write(&self, key: &ObjectKey, status: &Status) -> Result<Outcome, Failure> {
        let place = self.places.borrow().get(key.kind).cloned();
        let Some(Place::At(path)) = place else { return Ok(Outcome::Gone) };
        let path = in_namespace(&path, &key.namespace);
        let request = Request::new(&path).get_subresource("status", &key.name);
        let text = match self.api.read(request.map_err(Failure::malformed)?).await {
            Ok(text) => text,
            Err(failure) if failure.is_absent() => return Ok(Outcome::Gone),
            Err(failure) => return Err(failure),
        };
        let object: Value = serde_json::from_str(&text).map_err(Failure::malformed)?;
        if status.uid.as_ref().is_some_and(|uid| object["metadata"]["uid"] != **uid) {
            return Ok(Outcome::Gone);
        }
        let Merged { changes, is_stale } = merge(&object["status"], status, Timestamp::now());
        let done = if is_stale { Outcome::Stale } else { Outcome::Done };
        let Some(changes) = changes else { return Ok(done) };
        // The last moment at which it can be known.
        if !self.leadership.is_leading() {
            return Ok(Outcome::Gone);
        }
        let version = &object["metadata"]["resourceVersion"];
        let body = json!({"metadata": {"resourceVersion": version}, "status": changes});
        let request = http::Request::patch(format!("{path}/{}/status?fieldManager={MANAGER}", key.name))
            .header(CONTENT_TYPE, "application/merge-patch+json")
            .body(body.to_string().into_bytes())
            .map_err(Failure::malformed)?;
        match self.api.read(request).await {
            Ok(_) => Ok(done),
            Err(Failure::Refused { code: 409, .. }) => Ok(Outcome::Again),
            Err(failure) if failure.is_absent() => Ok(Outcome::Gone),
            Err(failure) => Err(failure),
        }
    }

    fn take(&self, key: &ObjectKey) -> Option<Arc<Status>> {
        let mut status = None;
        self.wishes.send_if_modified(|wishes| {
            wishes.unsaid.remove(key);
            status = wishes.all.get(key).cloned();
            false
        });
        status
    }

    /// Unless there is something else to say by now.
    fn put_back(&self, key: &ObjectKey, status: &Arc<Status>) {
        self.wishes.send_if_modified(|wishes| {
            if wishes.all.get(key).is_some_and(|known| Arc::ptr_eq(known, status)) {
                wishes.unsaid.insert(key.clone());
            }
            false
        });
    }
}

impl Budget {
    /// When one more may be written.
    fn next(&mut self) -> Instant {
        let now = Instant::now();
        let per_second = u64::from(self.rate.per_second.max(1));
        let gained =
            u64::try_from((now - self.since).as_millis()).unwrap_or(u64::MAX).saturating_mul(per_second);
        self.left = self.left.saturating_add(gained).min(u64::from(self.rate.burst.max(1)) * 1000);
        self.since = now;
        let lacking = 1000_u64.saturating_sub(self.left);
        now + Duration::from_millis(lacking.div_ceil(per_second))
    }

    fn spend(&mut self) {
        self.next();
        self.left = self.left.saturating_sub(1000);
    }
}

impl Default for Rate {
    /// Well below what makes an API server hold a client back.
    fn default() -> Self {
        Self { per_second: 20, burst: 50 }
    }
}

impl std::fmt::Debug for StatusWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StatusWriter").field("budget", &self.budget).finish_non_exhaustive()
    }
}

/// Whether trying again would come to the same: the server has understood, and does not want it.
fn is_final(failure: &Failure) -> bool {
    matches!(failure, Failure::Refused { code: 400 | 403 | 405 | 415 | 422, .. })
}

/// As whom fields are owned.
const MANAGER: &str = "mesh-control";
/// Attempts on one status before others get their turn.
const ATTEMPTS: usize = 5;

#[cfg(test)]
mod tests;

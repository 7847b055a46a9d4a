//! One kind: list it, watch it from there, and list it again only when there is no other way.
//!
//! The rules of the protocol that matter here: a list names the version of the whole collection, from which a watch
//! misses nothing; every event, and every bookmark between events, moves that place on; a server that has forgotten
//! the place says 410, and only a new list can tell what was deleted meanwhile. Everything else that goes wrong is
//! answered by waiting and watching on from the same place.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kube::core::Request;
use kube::core::params::{GetParams, ListParams, WatchParams};
use mesh_core::resource::ObjectKey;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep};

use super::api::Api;
use super::backoff::{Backoff, jittered};
use super::discovery::{Place, Places};
use super::in_namespace;
use super::kinds::{Content, Watched};
use super::known::Known;
use super::wire::{Event, EventType, Failure, Page, PageMeta, Status};
use crate::changes::{Change, Closed, Sender};

/// The demand for content, where it is read on demand.
type Demand = watch::Receiver<Arc<BTreeSet<ObjectKey>>>;

/// Keeps a reader up to date about one kind.
pub(super) struct Reflector {
    watched: Watched,
    api: Api,
    places: watch::Receiver<Places>,
    /// Wakes the discovery: a kind is not where it was said to be.
    again: Arc<Notify>,
    known: Known,
    /// The version from which to watch; `None`: only a list can help.
    position: Option<String>,
    /// The server forgot the last list between two pages, so the next one is asked for without pages.
    in_one_piece: bool,
    backoff: Backoff,
    /// What was last logged, so that an outage is a line and not a flood.
    complaint: Option<String>,
}

/// Where news go.
struct Outlet {
    sender: Sender,
    demand: Option<Demand>,
    /// Told once, when everything that exists has been sent.
    in_sync: Option<mpsc::Sender<()>>,
}

/// Why work stopped.
enum Stop {
    /// Nobody listens.
    Closed,
    /// To be tried again.
    Failed(Failure),
}

impl Reflector {
    pub(super) fn new(
        watched: &Watched,
        api: Api,
        places: watch::Receiver<Places>,
        again: Arc<Notify>,
    ) -> Self {
        let backoff = Backoff::new(api.pace.least_backoff, api.pace.most_backoff);
        let known = Known::new(watched.kind, None);
        Self {
            watched: *watched,
            api,
            places,
            again,
            known,
            position: None,
            in_one_piece: false,
            backoff,
            complaint: None,
        }
    }

    /// Goes on until nobody listens.
    pub(super) async fn run(mut self, sender: Sender, mut demand: Option<Demand>, in_sync: mpsc::Sender<()>) {
        if let Some(demand) = &mut demand {
            self.known.want(&demand.borrow_and_update(), &mut Vec::new());
        }
        let mut outlet = Outlet { sender, demand, in_sync: Some(in_sync) };
        if self.watched.content == Content::Never {
            // Nothing depends on it, so nothing waits for it: be it that we may not list it.
            outlet.tell_in_sync().await;
        }
        while let Ok(path) = self.locate(&mut outlet).await {
            if self.follow(&path, &mut outlet).await.is_err() {
                return;
            }
        }
    }

    /// Lists and watches until there is nothing at `path` any more.
    async fn follow(&mut self, path: &str, outlet: &mut Outlet) -> Result<(), Closed> {
        loop {
            match self.round(path, outlet).await {
                Ok(()) => {}
                Err(Stop::Closed) => return Err(Closed),
                Err(Stop::Failed(failure)) => {
                    sleep(self.complain(&failure)).await;
                    if failure.is_absent() {
                        self.again.notify_one();
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Waits until the kind is served somewhere.
    async fn locate(&mut self, outlet: &mut Outlet) -> Result<Arc<str>, Closed> {
        loop {
            let place = self.places.borrow_and_update().get(self.watched.kind.key()).cloned();
            match place {
                Some(Place::At(path)) => return Ok(path),
                Some(Place::Absent) => {
                    let mut batch = Vec::new();
                    self.known.forget_all(&mut batch);
                    self.position = None;
                    outlet.send(batch).await?;
                    outlet.tell_in_sync().await;
                }
                None => {}
            }
            self.places.changed().await.map_err(|_| Closed)?;
        }
    }

    /// A list if one is needed, otherwise a watch until it ends.
    async fn round(&mut self, path: &str, outlet: &mut Outlet) -> Result<(), Stop> {
        let result = match self.position.clone() {
            None => self.list(path, outlet).await,
            Some(position) => self.watch(path, &position, outlet).await,
        };
        if let Err(Stop::Failed(failure)) = &result {
            // A list that a server forgot half-way, and a place that it does not know any more: begin anew, at once. What
            // is malformed would be sent again.
            self.in_one_piece = failure.is_expired() && self.position.is_none();
            if failure.is_expired() || matches!(failure, Failure::Malformed(_)) {
                self.position = None;
            }
        }
        result
    }

    async fn list(&mut self, path: &str, outlet: &mut Outlet) -> Result<(), Stop> {
        self.known.begin_list();
        let limit = (!self.in_one_piece).then_some(PAGE);
        let mut params = ListParams { field_selector: self.fields(), limit, ..ListParams::default() };
        let position = loop {
            let request = Request::new(path);
            let request = if self.watched.content.is_metadata() {
                request.list_metadata(&params)
            } else {
                request.list(&params)
            };
            let text = self.api.read(request.map_err(Failure::malformed)?).await?;
            let PageMeta { resource_version, next } = self.take_page(&text, outlet).await?;
            if next.is_empty() {
                break resource_version;
            }
            params.continue_token = Some(next);
        };
        let mut batch = Vec::new();
        self.known.end_list(&mut batch);
        outlet.send(batch).await?;
        self.read_wanted(path, outlet).await?;
        outlet.tell_in_sync().await;
        self.position = Some(position);
        Ok(())
    }

    async fn take_page(&mut self, text: &str, outlet: &Outlet) -> Result<PageMeta, Stop> {
        let page: Page<'_> = serde_json::from_str(text).map_err(Failure::malformed)?;
        let mut batch = Vec::new();
        for (index, item) in page.items.into_iter().flatten().enumerate() {
            self.known.take(item.get(), &mut batch)?;
            if index % AT_ONCE == AT_ONCE - 1 {
                // Reading takes time that other tasks of this thread may need.
                tokio::task::yield_now().await;
            }
        }
        outlet.send(batch).await?;
        Ok(page.metadata)
    }

    async fn watch(&mut self, path: &str, position: &str, outlet: &mut Outlet) -> Result<(), Stop> {
        let timeout = Some(watch_seconds(self.api.pace.watch));
        let params = WatchParams { field_selector: self.fields(), timeout, ..WatchParams::default() };
        let request = Request::new(path);
        let request = if self.watched.content.is_metadata() {
            request.watch_metadata(&params, position)
        } else {
            request.watch(&params, position)
        };
        let started = Instant::now();
        let mut lines = self.api.lines(request.map_err(Failure::malformed)?).await?;
        let mut heard = false;
        loop {
            let next = tokio::select! {
                next = lines.next() => next,
                () = outlet.demand_changes() => {
                    self.take_demand(path, outlet).await?;
                    continue;
                }
            };
            match next {
                Ok(Some(text)) => self.take_events(&text, outlet).await?,
                Ok(None) if heard || started.elapsed() >= SHORT => return Ok(()),
                Ok(None) => return Err(Failure::Unreachable("the watch ended as it began".into()).into()),
                // It is as good as ended, and the place is still good.
                Err(Failure::Silent) => return Ok(()),
                Err(failure) => return Err(failure.into()),
            }
            self.read_wanted(path, outlet).await?;
            heard = true;
            self.recover();
        }
    }

    async fn take_events(&mut self, lines: &str, outlet: &Outlet) -> Result<(), Stop> {
        let mut batch = Vec::new();
        let mut result = Ok(());
        for line in lines.lines().filter(|line| !line.is_empty()) {
            match self.take_event(line, &mut batch) {
                Ok(position) => self.position = Some(position).filter(|it| !it.is_empty()),
                Err(failure) => {
                    result = Err(failure.into());
                    break;
                }
            }
        }
        outlet.send(batch).await?;
        result
    }

    /// Returns where the watch is now.
    fn take_event(&mut self, line: &str, batch: &mut Vec<Change>) -> Result<String, Failure> {
        let Event { sort, object } = serde_json::from_str(line).map_err(Failure::malformed)?;
        match sort {
            EventType::Added | EventType::Modified => self.known.take(object.get(), batch),
            EventType::Deleted => self.known.take_back(object.get(), batch),
            EventType::Bookmark => {
                let page: Page<'_> = serde_json::from_str(object.get()).map_err(Failure::malformed)?;
                Ok(page.metadata.resource_version)
            }
            EventType::Error => {
                let status: Status = serde_json::from_str(object.get()).map_err(Failure::malformed)?;
                Err(status.into())
            }
        }
    }

    async fn take_demand(&mut self, path: &str, outlet: &mut Outlet) -> Result<(), Stop> {
        let Some(demand) = &mut outlet.demand else { return Ok(()) };
        let wanted = Arc::clone(&demand.borrow_and_update());
        let mut batch = Vec::new();
        self.known.want(&wanted, &mut batch);
        outlet.send(batch).await?;
        self.read_wanted(path, outlet).await
    }

    /// Reads the content of everything that is wanted and has not been read.
    async fn read_wanted(&mut self, path: &str, outlet: &Outlet) -> Result<(), Stop> {
        while let Some(key) = self.known.next_unread().cloned() {
            let request =
                Request::new(in_namespace(path, &key.namespace)).get(&key.name, &GetParams::default());
            let text = match self.api.read(request.map_err(Failure::malformed)?).await {
                Ok(text) => Some(text),
                Err(failure) if failure.is_absent() => None,
                Err(failure) => return Err(failure.into()),
            };
            let mut batch = Vec::new();
            self.known.take_content(&key, text.as_deref(), &mut batch);
            outlet.send(batch).await?;
        }
        Ok(())
    }

    /// Says what went wrong unless it was just said; returns how long to wait.
    fn complain(&mut self, failure: &Failure) -> Duration {
        let kind = self.watched.kind.key();
        if failure.is_expired() {
            tracing::info!(kind, "The API server has forgotten where we were: listing again.");
            // Everybody who watched the same server comes now.
            return jittered(self.api.pace.least_backoff);
        }
        let text = failure.to_string();
        if self.complaint.as_ref() != Some(&text) {
            tracing::warn!(
                kind,
                error = text,
                "The cluster cannot be watched; what is known stays in force."
            );
            self.complaint = Some(text);
        }
        self.backoff.next(failure.retry_after())
    }

    fn fields(&self) -> Option<String> {
        Some(self.watched.fields.to_owned()).filter(|fields| !fields.is_empty())
    }

    fn recover(&mut self) {
        self.backoff.reset();
        if self.complaint.take().is_some() {
            tracing::info!(kind = self.watched.kind.key(), "The cluster is watched again.");
        }
    }
}

impl Outlet {
    async fn send(&self, batch: Vec<Change>) -> Result<(), Closed> {
        self.sender.send(batch).await
    }

    async fn tell_in_sync(&mut self) {
        if let Some(in_sync) = self.in_sync.take() {
            // Nobody counts any more only when nobody listens.
            let _ = in_sync.send(()).await;
        }
    }

    /// Never, where nothing is read on demand.
    async fn demand_changes(&mut self) {
        let changed = match &mut self.demand {
            Some(demand) => demand.changed().await.is_ok(),
            None => false,
        };
        if !changed {
            std::future::pending::<()>().await;
        }
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<Closed> for Stop {
    fn from(_: Closed) -> Self {
        Self::Closed
    }
}

/// How long a watch is to last. Those that began together should not end together.
fn watch_seconds(wanted: Duration) -> u32 {
    u32::try_from(jittered(wanted).as_secs()).unwrap_or(u32::MAX).max(1)
}

/// Objects a page; what `kubectl` and every other client asks for.
const PAGE: u32 = 500;
/// Objects that are read in one go.
const AT_ONCE: usize = 50;
/// A watch that says nothing and ends sooner than this was no watch.
const SHORT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;

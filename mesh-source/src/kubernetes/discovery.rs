//! What the cluster calls the kinds that are watched, and which of them it has.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use mesh_core::resource::ServedKind;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use super::api::Api;
use super::backoff::{Backoff, jittered};
use super::kinds::Watched;
use super::wire::{Failure, Groups, Resources};

/// Where a kind is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Nowhere: its definition is not installed.
    Absent,
    /// Under this path, which names the version and all namespaces, for example `/api/v1/pods`.
    At(Arc<str>),
}

/// The places of all kinds of which they are known.
pub(super) type Places = HashMap<&'static str, Place>;

/// Asks the cluster, at first and whenever there is reason to think that the answer has changed.
pub(super) struct Discovery {
    api: Api,
    kinds: Vec<ServedKind>,
    /// Somebody did not find a kind where it was said to be.
    again: Arc<Notify>,
    places: watch::Sender<Places>,
    /// Since when kinds that had a place are said to have none.
    missing: HashMap<&'static str, Instant>,
}

impl Discovery {
    pub(super) fn new(
        api: Api,
        kinds: &[Watched],
        again: Arc<Notify>,
        places: watch::Sender<Places>,
    ) -> Self {
        let kinds = kinds.iter().map(|watched| watched.kind).collect();
        Self { api, kinds, again, places, missing: HashMap::new() }
    }

    /// Goes on for ever.
    pub(super) async fn run(mut self) {
        let pace = self.api.pace.clone();
        let mut backoff = Backoff::new(pace.least_backoff, pace.most_backoff);
        let mut complaint = None;
        loop {
            let wait = match self.look().await {
                Ok(()) => {
                    complaint = None;
                    backoff.reset();
                    let settled = self.missing.is_empty() && !self.lacks_some();
                    jittered(if settled { SETTLED.max(pace.discovery) } else { pace.discovery })
                }
                Err(failure) => {
                    let text = failure.to_string();
                    if complaint.as_ref() != Some(&text) {
                        tracing::warn!(error = text, "The cluster cannot be asked which kinds it has.");
                        complaint = Some(text);
                    }
                    backoff.next(failure.retry_after())
                }
            };
            let started = Instant::now();
            if timeout(wait, self.again.notified()).await.is_ok() {
                // However often somebody asks, the cluster is not asked all the time.
                tokio::time::sleep_until(started + wait.min(pace.least_backoff)).await;
            }
        }
    }

    /// One round of questions. `Err` if one of them got no answer; kinds that it is about stay where they are.
    async fn look(&mut self) -> Result<(), Failure> {
        let (found, outcome) = find(&self.api, &self.kinds).await;
        self.publish(found);
        outcome
    }

    /// Makes known what was found, and says once what is new about it.
    fn publish(&mut self, found: Places) {
        let now = Instant::now();
        let mut places = self.places.borrow().clone();
        for (kind, place) in found {
            let before = places.get(kind);
            if place != Place::Absent {
                self.missing.remove(kind);
            } else if matches!(before, Some(Place::At(_))) {
                let since = *self.missing.entry(kind).or_insert(now);
                if now - since < self.api.pace.gone {
                    continue;
                }
                self.missing.remove(kind);
            }
            match (before, &place) {
                (None, Place::Absent) => {
                    tracing::info!(kind, "The cluster does not have this kind; it is used once it comes.");
                }
                (Some(Place::At(_)), Place::Absent) => {
                    tracing::warn!(kind, "The cluster does not have this kind any more.");
                }
                (Some(Place::Absent), Place::At(path)) => {
                    tracing::info!(kind, path = &**path, "The cluster has this kind now.");
                }
                _ => {}
            }
            places.insert(kind, place);
        }
        self.places.send_if_modified(|current| {
            let differs = *current != places;
            *current = places;
            differs
        });
    }

    fn lacks_some(&self) -> bool {
        let places = self.places.borrow();
        self.kinds.iter().any(|kind| !matches!(places.get(kind.key()), Some(Place::At(_))))
    }
}

/// Where these kinds are at this moment, as far as there were answers; `Err` if one of the questions got none.
pub(super) async fn find(api: &Api, kinds: &[ServedKind]) -> (Places, Result<(), Failure>) {
    let mut found = Places::new();
    let groups: Groups = match ask(api, "/apis").await {
        Ok(groups) => groups,
        Err(failure) => return (found, Err(failure)),
    };
    let mut outcome = Ok(());
    for group in kinds.iter().map(|kind| kind.group()).collect::<BTreeSet<_>>() {
        let versions = match groups.groups.iter().find(|known| known.name == group) {
            Some(known) => known.versions.iter().map(|version| version.version.as_str()).collect(),
            // The core group is not listed with the others.
            None if group.is_empty() => vec!["v1"],
            None => Vec::new(),
        };
        let kinds: Vec<_> = kinds.iter().filter(|kind| kind.group() == group).copied().collect();
        match find_in_group(api, &kinds, &versions).await {
            Ok(places) => found.extend(places),
            Err(failure) => outcome = Err(failure),
        }
    }
    (found, outcome)
}

/// The places of kinds of one group, each in the version that we prefer.
async fn find_in_group(api: &Api, kinds: &[ServedKind], served: &[&str]) -> Result<Places, Failure> {
    let mut places: Places = kinds.iter().map(|kind| (kind.key(), Place::Absent)).collect();
    let wanted: BTreeSet<_> = kinds
        .iter()
        .flat_map(|kind| kind.versions().iter().map(|version| (kind.group(), *version)))
        .collect();
    let mut resources = HashMap::new();
    for (group, version) in wanted.into_iter().filter(|(_, version)| served.contains(version)) {
        let path = if group.is_empty() { "/api/v1".into() } else { format!("/apis/{group}/{version}") };
        match ask::<Resources>(api, &path).await {
            Ok(list) => drop(resources.insert(version, (path, list))),
            // Gone since it was listed.
            Err(failure) if failure.is_absent() => {}
            Err(failure) => return Err(failure),
        }
    }
    for kind in kinds {
        let at = kind.versions().iter().find_map(|version| {
            let (path, list) = resources.get(version)?;
            let has = |verb: &str, verbs: &[String]| verbs.iter().any(|it| it == verb);
            let resource = list.resources.iter().find(|it| {
                it.kind == kind.name()
                    && !it.name.contains('/')
                    && has("list", &it.verbs)
                    && has("watch", &it.verbs)
            })?;
            Some(Place::At(format!("{path}/{}", resource.name).into()))
        });
        if let Some(at) = at {
            places.insert(kind.key(), at);
        }
    }
    Ok(places)
}

async fn ask<T: serde::de::DeserializeOwned>(api: &Api, path: &str) -> Result<T, Failure> {
    let request = http::Request::get(path).body(Vec::new()).map_err(Failure::malformed)?;
    let text = api.read(request).await?;
    serde_json::from_str(&text).map_err(Failure::malformed)
}

/// A cluster that has every kind is asked so often all the same: it may come to serve another version.
const SETTLED: std::time::Duration = std::time::Duration::from_secs(300);

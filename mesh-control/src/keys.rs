//! Keys of issuers on their way to subscribers: those who reconnect are not told of rules before their keys were asked for.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::authn::{KeySite, Wanted};
use mesh_core::model::{Mirror, Record, Snapshot};
use mesh_proto::names::ResourceType;
use mesh_source::keys::{Found, KeyFeed, KeyOptions, Schedule};
use tokio::time::Instant;

use crate::hub::Hub;
use crate::tasks;

/// Has keys fetched, and knows which have never been.
#[derive(Debug)]
pub struct Keys {
    feed: KeyFeed,
    /// Those that have been asked for, whatever came of it.
    asked: BTreeSet<KeySite>,
    wanted: BTreeSet<KeySite>,
    /// How long those are waited for that have not.
    patience: Option<Instant>,
}

impl Keys {
    /// Starts to fetch whatever will be wanted, from where it may be by what `hub` knows.
    pub fn follow(hub: Arc<Hub>) -> Self {
        let options = KeyOptions {
            surroundings: Arc::new(move || Arc::new(surroundings(&hub))),
            // Rules are written by users of the mesh, who do not own this machine.
            local: false,
            schedule: Schedule::default(),
        };
        let (feed, follower) = KeyFeed::new(options);
        drop(tasks::spawn("keys", follower.run()));
        Self { feed, asked: BTreeSet::new(), wanted: BTreeSet::new(), patience: None }
    }

    /// These and no others.
    pub fn want(&mut self, wanted: &Wanted) {
        self.feed.want(wanted);
        self.wanted = wanted.keys().cloned().collect();
        self.asked.retain(|site| wanted.contains_key(site));
    }

    /// Everything that exists was read: from now on, what is wanted is waited for, but not for long.
    pub fn synced(&mut self) {
        self.patience.get_or_insert_with(|| Instant::now() + PATIENCE);
    }

    /// Whether everything was read, and nothing is waited for any more.
    pub fn are_settled(&self) -> bool {
        let is_over = |until: Instant| until <= Instant::now() || self.wanted.is_subset(&self.asked);
        self.patience.is_some_and(is_over)
    }

    /// What has been found next; `None` when nothing is waited for any more.
    pub async fn next(&mut self) -> Option<Found> {
        let waits = self.patience.filter(|until| *until > Instant::now());
        let over = async {
            match waits {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            found = self.feed.next() => {
                self.asked.insert(found.0.clone());
                Some(found)
            }
            () = over => None,
        }
    }
}

/// The mesh as far as it says what is where.
fn surroundings(hub: &Hub) -> Snapshot {
    let records: Vec<Record> = {
        let shelf = hub.shelf();
        let kinds = [ResourceType::Mesh, ResourceType::Address];
        kinds.iter().flat_map(|kind| shelf.store(*kind).iter()).map(|entry| entry.record.clone()).collect()
    };
    let mut mirror = Mirror::new("");
    records.into_iter().for_each(|record| mirror.apply(record));
    mirror.snapshot()
}

/// One question for keys, with one for where they are, takes no longer.
const PATIENCE: Duration = Duration::from_secs(10);

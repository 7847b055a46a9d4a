//! What stands in the cluster of what was made for Gateways: metadata, of what has the label.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use kube::api::{Api, ApiResource, DynamicObject, ListParams, ObjectMeta, WatchEvent, WatchParams};
use mesh_core::gateway_api::{Generated, GeneratedKind};
use mesh_core::resource::ObjectKey;
use mesh_source::kubernetes::Client;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_stream::StreamExt as _;

use super::super::{CallError, MANAGER, call};

/// What stands there, of all kinds that have been looked at.
#[derive(Debug, Clone, Default)]
pub(super) struct Known(Arc<BTreeMap<GeneratedKind, BTreeMap<Id, Standing>>>);

/// What an object is known by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id {
    pub(super) kind: GeneratedKind,
    pub(super) namespace: Arc<str>,
    pub(super) name: String,
}

/// What is known of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) uid: String,
    pub(super) version: String,
    /// Names and UIDs of the Gateways that own it.
    owners: Vec<(String, String)>,
    /// Whether it was we who have written it.
    is_applied: bool,
}

impl Known {
    /// Whether all kinds have been looked at.
    pub(super) fn is_complete(&self) -> bool {
        GeneratedKind::ALL.iter().all(|kind| self.0.contains_key(kind))
    }

    pub(super) fn get(&self, id: &Id) -> Option<&Standing> {
        self.0.get(&id.kind)?.get(id)
    }

    /// What we have made for a Gateway.
    pub(super) fn made_for(&self, gateway: &ObjectKey) -> impl Iterator<Item = (&Id, &Standing)> {
        self.0.values().flatten().filter(|(id, it)| {
            let owned = it.owners.iter().any(|(name, _)| **name == *gateway.name);
            it.is_applied && owned && id.namespace == gateway.namespace
        })
    }
}

impl Id {
    pub(super) fn of(object: &Generated) -> Self {
        Self { kind: object.kind, namespace: Arc::clone(&object.namespace), name: object.name.clone() }
    }

    /// Where it is written.
    pub(super) fn api(&self, client: &Client) -> Api<DynamicObject> {
        Api::namespaced_with(client.clone(), &self.namespace, &resource(self.kind))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind.name(), self.namespace, self.name)
    }
}

impl Standing {
    pub(super) fn of(metadata: &ObjectMeta) -> Self {
        let owners = metadata.owner_references.iter().flatten().filter(|owner| owner.kind == "Gateway");
        let mut managers = metadata.managed_fields.iter().flatten();
        let ours = |manager: Option<&str>, operation: Option<&str>| {
            manager == Some(MANAGER) && operation == Some("Apply")
        };
        Self {
            uid: metadata.uid.clone().unwrap_or_default(),
            version: metadata.resource_version.clone().unwrap_or_default(),
            owners: owners.map(|owner| (owner.name.clone(), owner.uid.clone())).collect(),
            is_applied: managers.any(|it| ours(it.manager.as_deref(), it.operation.as_deref())),
        }
    }

    /// Whether it belongs to the Gateway that `wanted` is made for.
    pub(super) fn is_of(&self, wanted: &Value) -> bool {
        let owner = wanted.pointer("/metadata/ownerReferences/0/uid").and_then(Value::as_str);
        owner.is_some_and(|owner| self.owners.iter().any(|(_, uid)| uid == owner))
    }
}

/// Follows all kinds, until `watches` are dropped.
pub(super) fn follow(client: &Client, known: &watch::Sender<Known>, watches: &mut JoinSet<()>) {
    for kind in GeneratedKind::ALL {
        watches.spawn(follow_kind(client.clone(), kind, known.clone()));
    }
}

/// Lists, and waits for anything to change: there are as many objects as Gateways, so a list costs little, and a watch that
/// only says that there is news can miss none.
async fn follow_kind(client: Client, kind: GeneratedKind, known: watch::Sender<Known>) {
    let api: Api<DynamicObject> = Api::all_with(client, &resource(kind));
    let mut complaint = None;
    loop {
        let outcome = once(&api, kind, &known).await.map_err(|error| error.to_string());
        if let Err(error) = &outcome {
            if complaint.as_ref() != Some(error) {
                tracing::warn!(kind = kind.name(), error, "What was made for Gateways cannot be followed.");
            }
            sleep(RETRY).await;
        }
        complaint = outcome.err();
        sleep(GAP).await;
    }
}

/// Returns when there may be news.
async fn once(
    api: &Api<DynamicObject>,
    kind: GeneratedKind,
    known: &watch::Sender<Known>,
) -> Result<(), CallError> {
    let list = match call(api.list_metadata(&ListParams::default().labels(LABEL))).await {
        // A cluster without this kind has none of it.
        Err(error) if error.code() == Some(404) => {
            tell(known, kind, BTreeMap::new());
            return Err(error);
        }
        list => list?,
    };
    let version = list.metadata.resource_version.unwrap_or_default();
    let objects = list.items.into_iter().filter_map(|object| {
        let metadata = object.metadata;
        let (name, namespace) = (metadata.name.clone()?, Arc::from(metadata.namespace.as_deref()?));
        Some((Id { kind, namespace, name }, Standing::of(&metadata)))
    });
    tell(known, kind, objects.collect());
    let params = WatchParams { bookmarks: true, ..WatchParams::default() };
    let events = call(api.watch_metadata(&params.labels(LABEL).timeout(WATCH), &version)).await?;
    let mut events = Box::pin(events);
    let news = async { while let Some(Ok(WatchEvent::Bookmark(_))) = events.next().await {} };
    // A server that is gone without a word is asked again.
    let _ = timeout(Duration::from_secs(u64::from(WATCH) + 10), news).await;
    Ok(())
}

fn tell(known: &watch::Sender<Known>, kind: GeneratedKind, objects: BTreeMap<Id, Standing>) {
    known.send_if_modified(|known| {
        let differs = known.0.get(&kind) != Some(&objects);
        if differs {
            Arc::make_mut(&mut known.0).insert(kind, objects);
        }
        differs
    });
}

fn resource(kind: GeneratedKind) -> ApiResource {
    let (group, version) = kind.group_version();
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: kind.api_version(),
        kind: kind.name().to_owned(),
        plural: kind.plural().to_owned(),
    }
}

/// What is made for a Gateway has its name in this label.
const LABEL: &str = "gateway.networking.k8s.io/gateway-name";
/// Seconds after which a watch is begun anew.
const WATCH: u32 = 270;
/// After a failure.
const RETRY: Duration = Duration::from_secs(5);
/// Between two lists, so that a flood of news is one.
const GAP: Duration = Duration::from_millis(200);

//! What nodes say of their pods, where people look: Istio's annotation `ambient.istio.io/redirection` on a pod whose traffic is
//! captured, and an event on one that something is wrong with.
//!
//! Every replica writes about the pods of the nodes that tell it something. What is written changes nothing but what people see:
//! no decision hangs on it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams, PostParams};
use mesh_core::model::Record;
use mesh_proto::names::ResourceType;
use mesh_source::kubernetes::Client;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{CallError, MANAGER, call};
use crate::hub::Hub;
use crate::topology::{self, Proxy, Traffic};

/// Writes for as long as the process lives.
pub(super) struct Marks {
    client: Client,
    hub: Arc<Hub>,
    traffic: Arc<Traffic>,
    /// What stands on pods, as far as this process has written it.
    written: BTreeMap<Key, Mark>,
    /// Events, and when they were written.
    told: BTreeMap<(Key, Box<str>), Instant>,
    complaint: Option<String>,
}

/// Namespace and name of a pod.
type Key = (Arc<str>, Arc<str>);

/// What is to be seen on a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Mark {
    captured: bool,
    /// A reason in one word, and the sentence.
    troubles: Vec<(&'static str, Box<str>)>,
}

impl Marks {
    /// Writes what `traffic` was told about pods that `hub` knows.
    pub(super) fn new(client: Client, hub: Arc<Hub>, traffic: Arc<Traffic>) -> Self {
        Self { client, hub, traffic, written: BTreeMap::new(), told: BTreeMap::new(), complaint: None }
    }

    /// Looks again and again.
    pub(super) async fn run(mut self) {
        loop {
            sleep(ROUND).await;
            let outcome = self.round().await;
            let error = outcome.err().map(|error| error.to_string());
            if let Some(error) = error.as_ref().filter(|error| self.complaint.as_ref() != Some(error)) {
                tracing::warn!(error, "What nodes say of pods cannot be written on them.");
            }
            self.complaint = error;
        }
    }

    async fn round(&mut self) -> Result<(), CallError> {
        let wanted = self.wanted();
        self.told.retain(|_, at| at.elapsed() < AGAIN);
        for (key, mark) in &wanted {
            let known = self.written.get(key);
            let stands = known.is_some_and(|known| known.captured == mark.captured);
            let news =
                mark.troubles.iter().any(|(_, text)| !self.told.contains_key(&(key.clone(), text.clone())));
            if stands && !news {
                continue;
            }
            self.write(key, mark).await?;
            self.written.insert(key.clone(), mark.clone());
            sleep(PAUSE).await;
        }
        // Of a pod that is gone, or that another replica hears of now, nothing is known any more.
        self.written.retain(|key, _| wanted.contains_key(key));
        Ok(())
    }

    /// What is to be seen on the pods of nodes that tell this process how they are. One that was never marked and is not to be
    /// is left alone.
    fn wanted(&self) -> BTreeMap<Key, Mark> {
        let (proxies, now) = (self.traffic.proxies(), topology::now());
        let shelf = self.hub.shelf();
        let mut wanted = BTreeMap::new();
        for entry in shelf.store(ResourceType::Address).iter() {
            let Record::Workload(workload) = &entry.record else { continue };
            let node = workload.node.as_ref().and_then(|node| proxies.get(node));
            let Some(node) = node.filter(|it| !it.is_relayed) else { continue };
            if !workload.uid.contains(POD) || now.saturating_sub(node.at) > FRESH {
                continue;
            }
            let key = (Arc::clone(&workload.namespace), Arc::clone(&workload.name));
            let known = self.written.get(&key).is_some_and(|known| known.captured);
            let mark = mark(node, (&*key.0, &*key.1), workload.enrolled, known);
            if known || mark != Mark::default() {
                wanted.insert(key, mark);
            }
        }
        wanted
    }

    async fn write(&mut self, key: &Key, mark: &Mark) -> Result<(), CallError> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &key.0);
        let value = mark.captured.then_some(ENABLED);
        let patch = json!({"metadata": {"annotations": {REDIRECTION: value}}});
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let pod = match call(pods.patch_status(&key.1, &params, &Patch::Merge(patch))).await {
            // It has gone, or nobody may write here: the others get theirs.
            Err(CallError::Refused { code, message }) if code < 429 => {
                if code != 404 {
                    tracing::warn!(namespace = %key.0, pod = %key.1, code, error = message, "A pod cannot be marked.");
                }
                return Ok(());
            }
            outcome => outcome?,
        };
        for (reason, text) in &mark.troubles {
            let told = (key.clone(), text.clone());
            if self.told.len() >= MOST_TOLD || self.told.contains_key(&told) {
                continue;
            }
            let events: Api<Event> = Api::namespaced(self.client.clone(), &key.0);
            match call(events.create(&PostParams::default(), &event(&pod, reason, text))).await {
                // As above: in a namespace that is about to go, for one, nothing can be made.
                Err(CallError::Refused { code, message }) if code < 429 => {
                    tracing::warn!(namespace = %key.0, pod = %key.1, code, error = message, "An event is refused.");
                }
                outcome => drop(outcome?),
            }
            self.told.insert(told, Instant::now());
        }
        Ok(())
    }
}

/// What is to be seen on a pod of `node`. A pod that has just come and one that the node cannot capture look alike until the node
/// has named all that wait; meanwhile what stands there stays.
fn mark(node: &Proxy, (namespace, name): (&str, &str), enrolled: bool, before: bool) -> Mark {
    let trouble = node.troubles.iter().find(|it| *it.namespace == *namespace && *it.name == *name);
    let capture = trouble.and_then(|it| it.capture.clone()).map(|why| (NOT_CAPTURED, why));
    let certificate = trouble.and_then(|it| it.certificate.clone()).map(|why| (NOT_CERTIFIED, why));
    let named = node.troubles.iter().filter(|it| it.capture.is_some()).count();
    let captured = if usize::try_from(node.pending).unwrap_or(usize::MAX) > named { before } else { true };
    Mark {
        captured: enrolled && capture.is_none() && captured,
        troubles: capture.into_iter().chain(certificate).collect(),
    }
}

fn event(pod: &Pod, reason: &str, text: &str) -> Event {
    let metadata = &pod.metadata;
    let now = Some(Time(Timestamp::now()));
    let name = metadata.name.clone().unwrap_or_default();
    let mut event = Event {
        reason: Some(reason.to_owned()),
        message: Some(text.to_owned()),
        type_: Some("Warning".to_owned()),
        first_timestamp: now.clone(),
        last_timestamp: now,
        count: Some(1),
        ..Event::default()
    };
    event.metadata.generate_name = Some(format!("{name}."));
    event.metadata.namespace.clone_from(&metadata.namespace);
    event.involved_object.api_version = Some("v1".to_owned());
    event.involved_object.kind = Some("Pod".to_owned());
    event.involved_object.name = Some(name);
    event.involved_object.namespace.clone_from(&metadata.namespace);
    event.involved_object.uid.clone_from(&metadata.uid);
    event.source =
        Some(k8s_openapi::api::core::v1::EventSource { component: Some(MANAGER.to_owned()), host: None });
    event
}

/// Istio's annotation of a pod whose traffic is captured, and its value.
const REDIRECTION: &str = "ambient.istio.io/redirection";
const ENABLED: &str = "enabled";
/// Reasons of events, as `kubectl describe pod` prints them.
const NOT_CAPTURED: &str = "MeshNotCaptured";
const NOT_CERTIFIED: &str = "MeshNotCertified";
/// What is in the uid of a workload that is a pod.
const POD: &str = "/Pod/";
/// How often it is looked.
const ROUND: Duration = Duration::from_secs(3);
/// Between two writes: a mesh that is new must not keep the API server from everything else.
const PAUSE: Duration = Duration::from_millis(20);
/// Seconds after which what a node has told may not be true any more.
const FRESH: u64 = 20;
/// What is still wrong is said again after this long; the API server forgets events after an hour.
const AGAIN: Duration = Duration::from_secs(900);
/// Events that are remembered. Beyond, none are written.
const MOST_TOLD: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::Trouble;

    fn node(pending: u32, troubles: &[(&str, Option<&str>, Option<&str>)]) -> Proxy {
        let trouble = |(name, capture, certificate): &(&str, Option<&str>, Option<&str>)| Trouble {
            namespace: "shop".into(),
            name: (*name).into(),
            capture: capture.map(Into::into),
            certificate: certificate.map(Into::into),
        };
        let troubles = troubles.iter().map(trouble).collect();
        Proxy {
            version: "1".into(),
            captured: 1,
            pending,
            connections: 0,
            troubles,
            is_relayed: false,
            at: 1,
        }
    }

    fn of(node: &Proxy, name: &str, enrolled: bool, before: bool) -> (bool, Vec<&'static str>) {
        let mark = mark(node, ("shop", name), enrolled, before);
        (mark.captured, mark.troubles.iter().map(|(reason, _)| *reason).collect())
    }

    #[test]
    fn what_a_node_says_is_what_is_seen() {
        let well = node(0, &[]);
        assert_eq!(of(&well, "web", true, false), (true, vec![]));
        assert_eq!(of(&well, "web", false, true), (false, vec![]), "not in the mesh any more");
        let one = node(1, &[("web", Some("no eth0"), None), ("db", None, Some("refused"))]);
        assert_eq!(of(&one, "web", true, true), (false, vec![NOT_CAPTURED]));
        assert_eq!(of(&one, "db", true, false), (true, vec![NOT_CERTIFIED]));
        assert_eq!(of(&one, "else", true, false), (true, vec![]));
    }

    #[test]
    fn while_pods_wait_that_nobody_names_everything_stays() {
        let busy = node(2, &[("web", Some("no eth0"), None)]);
        assert_eq!(of(&busy, "new", true, false), (false, vec![]));
        assert_eq!(of(&busy, "old", true, true), (true, vec![]));
        assert_eq!(of(&busy, "web", true, true), (false, vec![NOT_CAPTURED]));
    }
}

//! The root certificates, where every pod can mount them: a `ConfigMap` in each namespace, under Istio's names. The
//! leader writes it; what is right already is not written.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ListParams, Patch, PatchParams};
use mesh_ca::Ca;
use mesh_source::kubernetes::Client;
use mesh_source::kubernetes::leader::Leadership;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::{CallError, MANAGER, call};

/// Writes root certificates while this process leads.
pub(super) struct Roots {
    client: Client,
    ca: Arc<Ca>,
    leadership: Leadership,
    /// All namespaces, as the source knows them.
    namespaces: watch::Receiver<Namespaces>,
    /// What is written, and where it stands already.
    text: String,
    right: BTreeSet<Arc<str>>,
    looked: Option<Instant>,
    complaint: Option<String>,
}

/// Names of namespaces.
pub(super) type Namespaces = Arc<BTreeSet<Arc<str>>>;

impl Roots {
    /// Writes what is trusted by `ca` into all `namespaces`.
    pub(super) fn new(
        client: Client,
        ca: Arc<Ca>,
        leadership: Leadership,
        namespaces: watch::Receiver<Namespaces>,
    ) -> Self {
        let (text, right) = (String::new(), BTreeSet::new());
        Self { client, ca, leadership, namespaces, text, right, looked: None, complaint: None }
    }

    /// Writes until the election has ended.
    pub(super) async fn run(mut self) {
        while self.leadership.wait_until(true).await {
            // Another may have led in the meantime.
            self.looked = None;
            while self.leadership.is_leading() {
                let outcome = self.round().await;
                self.complain(outcome.err());
                // A new namespace is served at once; a new root with the next round.
                if let Ok(Err(_)) = timeout(ROUND, self.namespaces.changed()).await {
                    // The source has ended, and with it the news of namespaces.
                    sleep(ROUND).await;
                }
            }
        }
    }

    async fn round(&mut self) -> Result<(), CallError> {
        let text = self.ca.authority().bundle().roots_pem();
        if self.text != text || self.looked.is_none_or(|looked| looked.elapsed() >= LOOK) {
            self.text = text;
            // If the look fails, what is right for another text must not pass for right.
            self.looked = None;
            self.look().await?;
        }
        let all = Arc::clone(&self.namespaces.borrow_and_update());
        for namespace in all.iter() {
            if self.right.contains(namespace) {
                continue;
            }
            if !self.leadership.is_leading() {
                return Ok(());
            }
            self.offer(namespace).await?;
            self.right.insert(Arc::clone(namespace));
            sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Finds out where it stands already.
    async fn look(&mut self) -> Result<(), CallError> {
        let all: Api<ConfigMap> = Api::all(self.client.clone());
        let params = ListParams::default().fields(&format!("metadata.name={NAME}"));
        let found = call(all.list(&params)).await?;
        let right = found.items.into_iter().filter(|map| {
            map.metadata.name.as_deref() == Some(NAME)
                && map.data.as_ref().and_then(|data| data.get(KEY)) == Some(&self.text)
        });
        self.right = right.filter_map(|map| map.metadata.namespace).map(Arc::from).collect();
        self.looked = Some(Instant::now());
        Ok(())
    }

    /// Writes unless the namespace has gone, is about to, or has a quota: none of which may keep the others from theirs.
    /// The next look finds out whether it is worth another attempt.
    async fn offer(&self, namespace: &str) -> Result<(), CallError> {
        match self.write(namespace).await {
            Err(CallError::Refused { code, message }) if code < 429 => {
                if code != 404 && !message.contains(TERMINATING) {
                    tracing::warn!(namespace, code, error = message, "The root certificates were refused.");
                }
                Ok(())
            }
            outcome => outcome,
        }
    }

    async fn write(&self, namespace: &str) -> Result<(), CallError> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let map = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": { "name": NAME, "namespace": namespace, "labels": { "istio.io/config": "true" } },
            "data": { KEY: self.text },
        });
        let params = PatchParams::apply(MANAGER).force();
        call(maps.patch(NAME, &params, &Patch::Apply(map))).await.map(drop)
    }

    /// Says what goes wrong once, not in every round.
    fn complain(&mut self, error: Option<CallError>) {
        let error = error.map(|error| error.to_string());
        if let Some(error) = error.as_ref().filter(|error| self.complaint.as_ref() != Some(error)) {
            tracing::warn!(error, "Root certificates cannot be written into all namespaces.");
        }
        self.complaint = error;
    }
}

/// Istio's names of the `ConfigMap` and of the entry in it.
const NAME: &str = "istio-ca-root-cert";
const KEY: &str = "root-cert.pem";
/// What an API server says of a namespace that is about to go.
const TERMINATING: &str = "being terminated";
/// How often the root is compared with what was written.
const ROUND: Duration = Duration::from_secs(5);
/// How often it is checked that what was written still stands there.
const LOOK: Duration = Duration::from_secs(60);
/// After each write: 20 a second, well below what makes an API server hold a client back.
const PAUSE: Duration = Duration::from_millis(50);

//! A cluster as it is now: every kind listed once, nothing watched, nothing written.
//!
//! Whoever judges a cluster concludes from what is not there. So a kind that exists and cannot be listed fails the whole;
//! only Secrets, which many may not read, are known to be unknown.

use std::collections::BTreeSet;
use std::fmt;

use http::Request;
use kube::Client;
use kube::core::Request as Path;
use kube::core::params::{GetParams, ListParams};
use mesh_core::resource::{ObjectKey, Origin, Parsed, Received, Rejected, ServedKind, from_json};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::api::Api;
use super::discovery::{Place, Places, find};
use super::kinds::{Watched, listed};
use super::wire::{Failure, Header, Page};
use super::{Pace, in_namespace};

/// A cluster to look at. Made by [`Cluster::find`].
pub struct Cluster {
    api: Api,
    places: Places,
}

/// What could not be read, and why.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {failure}")]
pub struct ReadError {
    what: String,
    failure: String,
}

impl Cluster {
    /// Asks the cluster which kinds it has.
    pub async fn find(client: Client) -> Result<Self, ReadError> {
        let api = Api::new(client, Pace::default());
        let kinds: Vec<_> = ServedKind::all().collect();
        let (places, outcome) = find(&api, &kinds).await;
        outcome.map_err(|failure| failed("the cluster cannot be asked which kinds it has", &failure))?;
        Ok(Self { api, places })
    }

    /// All objects but Secrets and `ConfigMap`s, and what there is to say about each. Where they stand is
    /// [`Origin::in_cluster`].
    pub async fn list(&self) -> Result<Parsed, ReadError> {
        let mut lists = JoinSet::new();
        for kind in listed() {
            let Some(Place::At(path)) = self.places.get(kind.kind.key()).cloned() else { continue };
            let api = self.api.clone();
            lists.spawn(async move { (kind.kind, list(&api, kind, &path).await) });
        }
        let mut all = Parsed::default();
        for (kind, outcome) in lists.join_all().await {
            all.append(outcome.map_err(|failure| failed(&format!("every {}", kind.key()), &failure))?);
        }
        all.objects.sort_by(|a, b| a.origin.cmp(&b.origin));
        Ok(all)
    }

    /// These Secrets, as far as they exist. Those that may not be read count as rejected, without a finding.
    pub async fn secrets(&self, keys: &BTreeSet<ObjectKey>) -> Result<Parsed, ReadError> {
        let secret = ServedKind::all().find(|kind| kind.key() == SECRET);
        let (Some(kind), Some(Place::At(path))) = (secret, self.places.get(SECRET)) else {
            return Ok(Parsed::default());
        };
        let mut all = Parsed::default();
        for key in keys.iter().filter(|key| key.kind == SECRET) {
            let request = Path::new(in_namespace(path, &key.namespace)).get(&key.name, &GetParams::default());
            let answer = match request {
                Ok(request) => patiently(&self.api, request).await,
                Err(error) => Err(Failure::malformed(error)),
            };
            match answer {
                Ok(text) => take(kind, key, &text, &mut all),
                Err(failure) if failure.is_absent() => {}
                Err(Failure::Refused { code: 403, .. }) => {
                    all.rejected.push(Rejected { origin: Origin::in_cluster(key), key: Some(key.clone()) });
                }
                Err(failure) => return Err(failed(&key.to_string(), &failure)),
            }
        }
        Ok(all)
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("places", &self.places).finish_non_exhaustive()
    }
}

async fn list(api: &Api, kind: Watched, path: &str) -> Result<Parsed, Failure> {
    match pages(api, kind, path, Some(PAGE)).await {
        // The server has forgotten the moment that the pages are of.
        Err(failure) if failure.is_expired() => pages(api, kind, path, None).await,
        // It was there when the cluster was asked.
        Err(failure) if failure.is_absent() => Ok(Parsed::default()),
        outcome => outcome,
    }
}

async fn pages(
    api: &Api,
    Watched { kind, fields, content }: Watched,
    path: &str,
    limit: Option<u32>,
) -> Result<Parsed, Failure> {
    let field_selector = Some(fields.to_owned()).filter(|fields| !fields.is_empty());
    let mut params = ListParams { field_selector, limit, ..ListParams::default() };
    let mut all = Parsed::default();
    loop {
        let request = Path::new(path);
        let request =
            if content.is_metadata() { request.list_metadata(&params) } else { request.list(&params) };
        let request = request.map_err(Failure::malformed)?;
        let text = patiently(api, request).await?;
        let page: Page<'_> = read(&text)?;
        for item in page.items.into_iter().flatten() {
            let Header { metadata } = read(item.get())?;
            let namespace = if kind.is_namespaced() { metadata.namespace } else { String::new() };
            let key = ObjectKey { kind: kind.key(), namespace: namespace.into(), name: metadata.name.into() };
            take(kind, &key, item.get(), &mut all);
        }
        if page.metadata.next.is_empty() {
            return Ok(all);
        }
        params.continue_token = Some(page.metadata.next);
    }
}

/// The answer, also of a server that wants to be asked later.
async fn patiently(api: &Api, request: Request<Vec<u8>>) -> Result<String, Failure> {
    for _ in 1..ATTEMPTS {
        match api.read(request.clone()).await {
            Err(failure) => match failure.retry_after() {
                Some(wait) => sleep(wait.min(api.pace.most_backoff)).await,
                None => return Err(failure),
            },
            answer => return answer,
        }
    }
    api.read(request).await
}

fn take(kind: ServedKind, key: &ObjectKey, text: &str, all: &mut Parsed) {
    let origin = Origin::in_cluster(key);
    let Received { object, findings } = from_json(kind, text, &origin);
    if object.is_none() && kind.is_supported() {
        all.rejected.push(Rejected { origin, key: Some(key.clone()) });
    }
    all.objects.extend(object);
    all.findings.extend(findings);
    all.documents += 1;
}

fn read<'a, T: serde::Deserialize<'a>>(text: &'a str) -> Result<T, Failure> {
    serde_json::from_str(text).map_err(Failure::malformed)
}

fn failed(what: &str, failure: &Failure) -> ReadError {
    ReadError { what: what.to_owned(), failure: failure.to_string() }
}

const SECRET: &str = "Secret";
/// Objects a page; what `kubectl` asks for.
const PAGE: u32 = 500;
/// Questions to a server that is busy.
const ATTEMPTS: usize = 5;

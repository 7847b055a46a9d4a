//! The mesh page: a graph of what flows, and what there is to know of workloads, services, policies, problems and nodes.
//! Under `/` the page, under `/api/v1/` what it shows, in JSON. Both only to be read.
//!
//! Invariants: it is shown to this machine alone, by a name of this machine, so that neither another machine nor a page of
//! somebody else's in a browser here gets at it; the page is all in this binary and asks nobody else for anything.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;

pub(crate) use self::guard::names_this_machine;
pub(crate) use self::nodes::status as sync_status;
use self::query::Query;
use crate::config::PageOptions;
use crate::feed::Findings;
use crate::hub::Hub;
use crate::topology::{self, Traffic};

mod assets;
mod guard;
mod nodes;
mod policies;
mod query;
mod services;
mod workloads;

/// What the page is made from.
#[derive(Debug)]
pub struct Dashboard {
    /// The model and who follows it.
    pub hub: Arc<Hub>,
    /// The resources and what there is to say about them.
    pub findings: Arc<Findings>,
    /// What was told of traffic.
    pub traffic: Arc<Traffic>,
    /// What it links to.
    pub options: PageOptions,
    /// The cluster's name.
    pub cluster: String,
    /// The namespace of mesh-wide configuration.
    pub root_namespace: String,
    /// The directory that is followed, where it is one.
    pub config: Option<PathBuf>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum NoAnswer {
    #[error("{0}")]
    Forbidden(&'static str),
    #[error("there is no {0}")]
    NotFound(String),
    #[error("{0}")]
    Invalid(String),
}

/// An error, as the API tells it.
#[derive(Debug, Serialize)]
struct Complaint {
    error: String,
}

/// `/api/v1/mesh`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Mesh {
    version: &'static str,
    cluster: String,
    ready: bool,
    /// Of the model; moves with every change.
    sequence: u64,
    namespaces: Vec<workloads::Namespace>,
    counts: Counts,
    links: PageOptions,
    /// The directory that is followed, where it is one: tools on this machine read the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    config_directory: Option<PathBuf>,
    /// Seconds since 1970, of this machine.
    now: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Counts {
    workloads: usize,
    pods: usize,
    enrolled: usize,
    services: usize,
    policies: usize,
    /// Proxies that have told of traffic within a minute.
    proxies: usize,
    /// Edges that have carried something within an hour.
    edges: usize,
}

impl Dashboard {
    /// Whether a request for this path is the page's.
    pub fn serves(path: &str) -> bool {
        path == "/" || path.starts_with("/api/") || assets::find(path).is_some()
    }

    /// Answers a request of `peer`.
    pub fn answer(&self, peer: IpAddr, request: &Parts) -> Response<Full<Bytes>> {
        match self.try_answer(peer, request) {
            Ok(response) => response,
            Err(reason) => {
                let status = match &reason {
                    NoAnswer::Forbidden(_) => StatusCode::FORBIDDEN,
                    NoAnswer::NotFound(_) => StatusCode::NOT_FOUND,
                    NoAnswer::Invalid(_) => StatusCode::BAD_REQUEST,
                };
                let mut response = json(&Complaint { error: reason.to_string() });
                *response.status_mut() = status;
                response
            }
        }
    }

    fn try_answer(&self, peer: IpAddr, request: &Parts) -> Result<Response<Full<Bytes>>, NoAnswer> {
        guard::check(peer, request).map_err(NoAnswer::Forbidden)?;
        let path = request.uri.path();
        if let Some(asset) = assets::find(path) {
            return Ok(respond(asset.kind, Bytes::from_static(asset.content)));
        }
        let query = Query::parse(request.uri.query().unwrap_or_default()).map_err(NoAnswer::Invalid)?;
        let rest = path.strip_prefix("/api/v1/").unwrap_or_default();
        let parts = rest.split('/').map(query::decode).collect::<Option<Vec<_>>>();
        let parts = parts.ok_or_else(|| NoAnswer::Invalid("the path is not UTF-8".to_owned()))?;
        let words: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
        self.api(&words, &query)
    }

    fn api(&self, words: &[&str], query: &Query) -> Result<Response<Full<Bytes>>, NoAnswer> {
        let missing = |what: &str| NoAnswer::NotFound(what.to_owned());
        Ok(match words {
            ["mesh"] => json(&self.mesh()),
            ["graph"] => json(&self.graph(query)),
            ["workloads"] => json(&self.workloads(query)),
            ["workloads", namespace, name] => {
                json(&self.workload((namespace, name), query).ok_or_else(|| missing("such workload"))?)
            }
            ["services"] => json(&self.services(query)),
            ["services", namespace, name] => {
                json(&self.service((namespace, name), query).ok_or_else(|| missing("such service"))?)
            }
            ["policies"] => json(&self.policies(query)),
            ["policies", kind, namespace, name] => {
                json(&self.policy_detail(kind, namespace, name).ok_or_else(|| missing("such policy"))?)
            }
            ["problems"] => json(&self.problems(query)),
            ["nodes"] => json(&self.nodes()),
            _ => {
                return Err(missing(
                    "such path: there are mesh, graph, workloads, services, policies, problems and nodes",
                ));
            }
        })
    }

    fn mesh(&self) -> Mesh {
        let (workloads, namespaces) = self.inventory();
        let now = topology::now();
        let proxies = self.traffic.proxies();
        let sum = |count: fn(&workloads::Namespace) -> usize| namespaces.iter().map(count).sum();
        let counts = Counts {
            workloads: workloads.len(),
            pods: sum(|it| it.pods),
            enrolled: sum(|it| it.enrolled),
            services: self.service_count(),
            policies: self.findings.catalog.objects(policies::is_policy).len(),
            proxies: proxies.values().filter(|proxy| now.saturating_sub(proxy.at) < LATELY).count(),
            edges: self.traffic.store().summary().edges,
        };
        Mesh {
            version: env!("CARGO_PKG_VERSION"),
            cluster: self.cluster.clone(),
            ready: self.hub.is_ready(),
            sequence: self.hub.shelf().sequence(),
            namespaces,
            counts,
            links: self.options.clone(),
            config_directory: self.config.clone(),
            now,
        }
    }

    fn graph(&self, query: &Query) -> mesh_core::topology::Graph {
        let store = self.traffic.store();
        store.graph(topology::now(), query.window, query.level, |edge| query.wants_edge(edge))
    }
}

fn json(value: &impl Serialize) -> Response<Full<Bytes>> {
    let body = serde_json::to_vec(value).unwrap_or_default();
    respond("application/json", body.into())
}

fn respond(kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    let headers = response.headers_mut();
    let fixed = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-cache"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The page may use what comes from here, and nothing else; and nobody may show it inside of another.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Seconds within which a proxy that lives tells something.
const LATELY: u64 = 60;

#[cfg(test)]
pub(crate) mod tests;

//! `meshctl authz check`: one question, asked of the policies in a directory or a cluster.

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::ValueEnum;
use http::{HeaderMap, HeaderName, HeaderValue};
use mesh_core::authn::Claims;
use mesh_core::http::path::{EscapedSlashes, Normalization, normalize};
use mesh_core::id::SpiffeId;
use mesh_core::model::{CompileOptions, Snapshot, compile};
use mesh_core::policy::{Connection, Host, Question, Request, Seen};
use mesh_core::resource::mesh_config::settings::PathNormalization;
use mesh_core::resource::{Object, SourceFile, Spec, parse};
use serde_json::{Map, Value, json};

use super::place::Place;
use super::show;
use crate::cmd::analyze::{Source, load};
use crate::{emit, note};

/// Tell what policies say of a connection to a pod, or of a request on it, and why.
///
/// Reads Kubernetes YAML as `kubectl apply` takes it, or a cluster, and asks what a node asks about the pod: policies with a selector or
/// without one, of its namespace and of the root namespace. Those with targetRefs are asked at waypoints and gateways: with
/// --waypoint it is asked what a waypoint asks about a service, and with --gateway what a gateway asks about whoever comes to it.
///
/// Without --method, --path, --host, --header and --claims it is asked about a connection of which nothing is known yet. The
/// exit code is 0 if it is allowed, 1 if it is denied or depends on a request.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The pod that is called, as NAMESPACE/NAME; the name of a Deployment stands for any pod of it. With --waypoint the Service or
    /// ServiceEntry.
    #[arg(value_name = "NAMESPACE/POD")]
    pub(super) pod: String,
    /// Ask what this waypoint asks.
    #[arg(long, value_name = "NAMESPACE/GATEWAY", conflicts_with = "gateway")]
    pub(super) waypoint: Option<String>,
    /// Ask what the pod asks as a gateway: with its labels, or as the Gateway of that name.
    #[arg(long)]
    pub(super) gateway: bool,
    /// Who calls: TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT, or NAMESPACE/ACCOUNT of the mesh itself. Nobody proven without it.
    #[arg(long, value_name = "IDENTITY")]
    from: Option<String>,
    /// The caller's address.
    #[arg(long, value_name = "IP", default_value = "192.0.2.1")]
    from_ip: IpAddr,
    /// The client's address as trusted proxies tell it; the caller's own without it.
    #[arg(long, value_name = "IP")]
    remote_ip: Option<IpAddr>,
    /// The port of the pod.
    #[arg(long, default_value_t = 80)]
    port: u16,
    /// The method of a request [default: GET].
    #[arg(long)]
    method: Option<String>,
    /// The path of a request [default: /].
    #[arg(long)]
    path: Option<String>,
    /// The host of a request, with a port or without.
    #[arg(long)]
    host: Option<String>,
    /// A header of a request. Can be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = header)]
    header: Vec<(HeaderName, HeaderValue)>,
    /// What the token of a request says, as a JSON object; it counts as verified.
    #[arg(long, value_name = "JSON", value_parser = claims)]
    claims: Option<Map<String, Value>>,
    #[command(flatten)]
    source: Source,
    /// How the answer is printed.
    #[arg(short, long, value_name = "FORMAT", default_value = "table", ignore_case = true)]
    output: Format,
}

/// How the answer is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let (namespace, name) = args.pod.split_once('/').context("name the pod as NAMESPACE/NAME")?;
    let mut objects = load(&args.source)?;
    objects.extend(stand_in(&objects, namespace, name));
    let options =
        CompileOptions { root_namespace: args.source.root_namespace.clone(), ..CompileOptions::default() };
    let snapshot = compile(&objects, &options).snapshot;
    let place = Place::of(args, &snapshot, &objects)?;
    let targeted = objects.iter().filter(|object| has_targets(object)).count();
    if targeted > 0 && matches!(place, Place::Pod(_)) {
        note(&format!(
            "left out because they have targetRefs: {targeted} policies; --waypoint and --gateway ask about those"
        ));
    }
    let answer = args.ask(&snapshot, &place)?;
    emit(&match args.output {
        Format::Table => show::table(&answer),
        Format::Json => serde_json::to_string_pretty(&answer)? + "\n",
    })?;
    Ok(if answer.is_allowed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Args {
    fn ask(&self, snapshot: &Snapshot, place: &Place) -> Result<show::Answer> {
        let peer = self.from.as_deref().map(|from| identity(from, snapshot)).transpose()?;
        let connection = Connection {
            peer: peer.as_ref(),
            source_ip: self.from_ip,
            destination: SocketAddr::new(place.address()?, self.port),
            encrypted: peer.is_some(),
        };
        let mut headers = HeaderMap::new();
        self.header.iter().for_each(|(name, value)| _ = headers.append(name, value.clone()));
        let path = self.path.as_deref().unwrap_or("/").split(['?', '#']).next().unwrap_or("/");
        let path = normalize(path, normalization(snapshot), EscapedSlashes::Keep);
        let path = path.map_err(|wrong| anyhow!("the path {wrong}: such a request is refused with 400"))?;
        let (host, claims) = (self.host.as_deref().map(Host::of), self.claims.clone());
        let claims = claims.map(|claims| Claims::verified(claims, &[]));
        let request = Request {
            method: self.method.as_deref().unwrap_or("GET"),
            host: host.as_ref(),
            path: &path,
            headers: &headers,
            remote_ip: self.remote_ip.unwrap_or(self.from_ip),
            server_name: None,
            claims: claims.as_ref(),
        };
        let seen = if self.is_request() { Seen::Request(&request) } else { Seen::Nothing };
        let question = Question { connection: &connection, seen, approved: &[] };
        place.ask(snapshot, &question)
    }

    fn is_request(&self) -> bool {
        let line = [&self.method, &self.path, &self.host];
        line.into_iter().any(Option::is_some) || !self.header.is_empty() || self.claims.is_some()
    }
}

/// `spiffe://` makes no difference.
fn identity(text: &str, snapshot: &Snapshot) -> Result<SpiffeId> {
    let text = text.trim_start_matches("spiffe://");
    let id = match text.split('/').collect::<Vec<_>>()[..] {
        [namespace, account] => SpiffeId::new(snapshot.trust_domain(), namespace, account),
        _ => SpiffeId::parse(&format!("spiffe://{text}")),
    };
    id.with_context(|| format!("{text:?} is no identity: write TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT"))
}

/// How paths become normal, as MeshConfig says.
pub(in crate::cmd) fn normalization(snapshot: &Snapshot) -> Normalization {
    match snapshot.mesh().path_normalization {
        PathNormalization::None => Normalization::None,
        PathNormalization::Base => Normalization::Base,
        PathNormalization::MergeSlashes => Normalization::MergeSlashes,
        PathNormalization::DecodeAndMergeSlashes => Normalization::DecodeAndMergeSlashes,
    }
}

/// A pod of the Deployment of this name, if there is no Pod; and an address for a Pod that has none.
fn stand_in(objects: &[Object], namespace: &str, name: &str) -> Vec<Object> {
    let named = |object: &&Object| *object.meta.namespace == *namespace && *object.meta.name == *name;
    let mut named = objects.iter().filter(named);
    let labels = named.clone().find_map(|object| match &object.spec {
        Spec::Pod(pod) => {
            let has_address = pod.status.as_ref().is_some_and(|status| status.pod_ip.is_some());
            (!has_address).then(|| json!(object.meta.labels))
        }
        _ => None,
    });
    let is_pod = |object: &Object| matches!(object.spec, Spec::Pod(_));
    let template = if named.clone().any(is_pod) {
        None
    } else {
        named.find_map(|object| match &object.spec {
            Spec::Deployment(deployment) => {
                let meta = deployment.spec.template.metadata.as_ref();
                Some(json!(meta.and_then(|meta| meta.labels.clone()).unwrap_or_default()))
            }
            _ => None,
        })
    };
    let Some(labels) = labels.or(template) else { return Vec::new() };
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"containers": [{"name": "any", "image": "any"}]},
        "status": {"podIP": STAND_IN},
    });
    parse(&SourceFile { name: "pod", text: &pod.to_string() }).objects
}

fn has_targets(object: &Object) -> bool {
    matches!(&object.spec, Spec::AuthorizationPolicy(spec) if spec.target_ref.is_some() || !spec.target_refs.is_empty())
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue)> {
    let (name, value) = text.split_once('=').context("write NAME=VALUE")?;
    Ok((HeaderName::from_bytes(name.as_bytes())?, HeaderValue::from_str(value)?))
}

fn claims(text: &str) -> Result<Map<String, Value>> {
    match serde_json::from_str(text)? {
        Value::Object(claims) => Ok(claims),
        _ => bail!("is no JSON object"),
    }
}

/// The address of a pod that has none; nobody's (RFC 5737).
const STAND_IN: &str = "192.0.2.200";

const EXAMPLES: &str = "\
Example: meshctl authz check default/ratings-v1 --config deploy/ \\
             --from cluster.local/ns/default/sa/bookinfo-reviews --method POST --path /ratings/0
         meshctl authz check shop/cart-0 --from shop/web --port 8080 -k
         meshctl authz check shop/cart --waypoint shop/waypoint --from shop/web --path /items
         meshctl authz check istio-system/istio-ingressgateway --gateway --host shop.example --path /admin
         meshctl authz check shop/cart-0 --host shop.example --claims '{\"iss\": \"me\", \"sub\": \"ann\"}' -o json";

#[cfg(test)]
mod tests;

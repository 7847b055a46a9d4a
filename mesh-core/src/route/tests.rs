//! Rules as users write them, requests, and what becomes of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::*;
use crate::resource::{self, SourceFile, Spec};

mod acts;
mod bench;
mod change;
mod delegate;
mod gateway;
mod mesh;
mod property;
mod stream;
mod waypoint;

/// The VirtualServices of `yaml`, which must be fine. `metadata: {}` may be left out by writing `vs NAMESPACE/NAME`
/// [`@`age] in a line of its own, and the fields of the spec below it.
pub(crate) fn virtual_services(yaml: &str) -> Vec<VirtualService> {
    let parsed = resource::parse(&SourceFile { name: "test.yaml", text: &expand(yaml) });
    let errors: Vec<_> = parsed.findings.iter().filter(|it| it.level == resource::Level::Error).collect();
    assert!(errors.is_empty(), "{errors:?} in\n{yaml}");
    let objects = parsed.objects.into_iter().filter_map(|object| match object.spec {
        Spec::VirtualService(spec) => Some(VirtualService {
            namespace: object.meta.namespace,
            name: object.meta.name,
            created: object.meta.creation_timestamp,
            spec: *spec,
        }),
        _ => None,
    });
    objects.collect()
}

/// `vs ns/name @3`, or `gw`, and the lines below it become a document.
fn expand(yaml: &str) -> String {
    let mut out = String::new();
    let first = yaml.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let indent = first.len() - first.trim_start().len();
    for line in yaml.lines() {
        let line = line.get(indent..).unwrap_or_default();
        let kinds = [("vs ", "VirtualService"), ("gw ", "Gateway")];
        let kind = kinds.into_iter().find_map(|(short, kind)| Some((kind, line.strip_prefix(short)?)));
        if let Some((kind, name)) = kind {
            let (name, age) = name.split_once(" @").unwrap_or((name, "0"));
            let (namespace, name) = name.split_once('/').unwrap();
            let _ = write!(
                out,
                "---\napiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{namespace: {namespace}, name: {name}, \
                 creationTimestamp: \"2024-01-01T00:00:0{age}Z\"}}\nspec:\n"
            );
        } else {
            let _ = writeln!(out, "  {line}");
        }
    }
    out
}

pub(super) fn labels(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned())).collect()
}

/// A request that owns its parts: `GET http://host:port/path?query` and `name: value` in further lines.
#[derive(Debug)]
pub(crate) struct Request {
    method: Method,
    scheme: String,
    authority: String,
    path: String,
    query: Option<String>,
    headers: HeaderMap,
    pub(super) port: u16,
    claims: Option<Map<String, Value>>,
}

impl Request {
    pub(crate) fn parse(text: &str) -> Self {
        let mut lines = text.split('\n').map(str::trim).filter(|line| !line.is_empty());
        let line = lines.next().unwrap();
        let (method, url) = line.split_once(' ').unwrap();
        let (scheme, rest) = url.split_once("://").unwrap();
        let slash = rest.find('/').unwrap_or(rest.len());
        let (authority, target) = rest.split_at(slash);
        let (path, query) =
            target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        let mut headers = HeaderMap::new();
        let mut claims = None;
        for (name, value) in lines.map(|line| line.split_once(':').unwrap()) {
            if name == "@claims" {
                claims = Some(serde_json::from_str(value).unwrap());
                continue;
            }
            headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value.trim()).unwrap());
        }
        let explicit = hosts::split_port(authority).1.and_then(|port| port.get(1..)?.parse().ok());
        Self {
            method: method.parse().unwrap(),
            scheme: scheme.to_owned(),
            authority: authority.to_owned(),
            path: path.to_owned(),
            query: query.map(str::to_owned),
            headers,
            port: explicit.unwrap_or(80),
            claims,
        }
    }

    pub(crate) fn view(&self) -> RequestView<'_> {
        RequestView {
            method: &self.method,
            scheme: &self.scheme,
            authority: &self.authority,
            path: &self.path,
            query: self.query.as_deref(),
            headers: &self.headers,
            port: self.port,
            claims: self.claims.as_ref(),
        }
    }
}

/// What becomes of a request, in short: `NAME -> HOST/SUBSET:PORT*WEIGHT …`, with `default.svc.cluster.local` left out.
pub(crate) fn outcome(table: Option<&RouteTable>, request: &Request) -> String {
    let Some(table) = table else { return "no table".to_owned() };
    let request = request.view();
    match table.pick(&request) {
        Picked::NoHost => "no host".to_owned(),
        Picked::NoRoute => "404".to_owned(),
        Picked::Misdirected => "421".to_owned(),
        Picked::ToHttps => format!("301 {}", https_location(&request)),
        Picked::Route(route, matched) => {
            let action = match &route.action {
                Action::Split(_) => "split".to_owned(),
                Action::Redirect(redirect) => {
                    format!("{} {}", redirect.status.as_u16(), redirect.location(&request, matched))
                }
                Action::Respond(answer) => {
                    format!("{} {}", answer.status.as_u16(), String::from_utf8_lossy(&answer.body))
                }
                Action::Forward(forward) => {
                    let all: Vec<_> = forward.destinations().iter().map(shown).collect();
                    let path = route.rewrite.as_ref().map(|it| it.path(request.path, matched));
                    format!("{}{}", all.join(" "), path.map(|path| format!(" {path}")).unwrap_or_default())
                }
            };
            let name = if matched.name.is_empty() { String::new() } else { format!("{}: ", matched.name) };
            format!("{name}{action}")
        }
    }
}

pub(super) fn shown(it: &Weighted) -> String {
    let host = it.to.host.strip_suffix(".svc.cluster.local").unwrap_or(&it.to.host);
    let host = host.strip_suffix(".default").unwrap_or(host);
    let subset = it.to.subset.as_ref().map(|it| format!("/{it}")).unwrap_or_default();
    let port = it.to.port.map(|it| format!(":{it}")).unwrap_or_default();
    let weight = if it.weight == 1 { String::new() } else { format!("*{}", it.weight) };
    format!("{host}{subset}{port}{weight}")
}

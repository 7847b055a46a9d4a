//! A request as expressions of Telemetries see it: Envoy's attributes, as far as there is something to say.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::Duration;

use mesh_core::model::Workload;
use mesh_core::telemetry::{Attributes, Value};

use super::RequestFacts;

/// See the module.
pub(in crate::report) struct View<'a, 'f>(pub(in crate::report) &'a RequestFacts<'f>);

impl Attributes for View<'_, '_> {
    fn get(&self, path: &[Box<str>]) -> Option<Value<'_>> {
        let parts = |at: usize| path.get(at).map_or("", |part| &**part);
        if path.len() > 3 {
            return None;
        }
        match (parts(0), parts(1), parts(2)) {
            ("request", "headers", name) if path.len() == 3 => self.request_header(name),
            ("response", "headers", name) if path.len() == 3 => {
                lossy((self.0.headers.response)(&name.to_ascii_lowercase()))
            }
            ("request", name, "") => self.request(name),
            ("response", name, "") => self.response(name),
            ("connection", name, "") => self.connection(name),
            ("source", name, "") => peer(name, Some(self.0.downstream_remote)),
            ("destination", name, "") => peer(name, self.0.downstream_local),
            ("upstream", "transport_failure_reason", "") => text(self.0.upstream_failure),
            ("upstream", name, "") => peer(name, self.0.upstream_host),
            ("xds", "route_name", "") | ("route_name", "", "") => text(self.0.route_name),
            ("xds", "cluster_name", "") | ("cluster_name", "", "") => text(self.0.upstream_cluster),
            ("downstream_peer", name, "") => workload(name, self.0.source.map(|it| &**it)),
            ("upstream_peer", name, "") => workload(name, self.0.destination.map(|it| &**it)),
            _ => None,
        }
    }
}

impl View<'_, '_> {
    fn request_header(&self, name: &str) -> Option<Value<'_>> {
        match name.to_ascii_lowercase().as_str() {
            ":method" => text(self.0.method),
            ":path" => text(self.0.path),
            ":authority" | "host" => text(self.0.authority),
            name => lossy((self.0.headers.request)(name)),
        }
    }

    fn request(&self, name: &str) -> Option<Value<'_>> {
        let (path, query) = self.0.path.split_once('?').unwrap_or((self.0.path, ""));
        match name {
            "method" => text(self.0.method),
            "path" => text(self.0.path),
            "url_path" => text(path),
            "query" => text(query),
            "host" => text(self.0.authority),
            "protocol" => text(self.0.protocol),
            "id" => lossy(self.0.headers.request_id),
            "useragent" => lossy(self.0.headers.user_agent),
            "referer" => lossy((self.0.headers.request)("referer")),
            "size" | "total_size" => number(self.0.bytes_received),
            "duration" => number(millis(self.0.duration)),
            _ => None,
        }
    }

    fn response(&self, name: &str) -> Option<Value<'_>> {
        match name {
            "code" => number(self.0.code.into()).filter(|_| self.0.code != 0),
            "code_details" => text(self.0.details),
            "grpc_status" => number(self.0.grpc_status?.into()),
            "flags" => Some(Value::Text(self.0.flags.to_string().into())),
            "size" | "total_size" => number(self.0.bytes_sent),
            "backend_latency" => number(millis(self.0.upstream_service_time?)),
            _ => None,
        }
    }

    fn connection(&self, name: &str) -> Option<Value<'_>> {
        match name {
            "mtls" => Some(Value::Bool(self.0.tls.mutual)),
            "tls_version" => text(self.0.tls.downstream.version()?),
            "requested_server_name" => text(self.0.sni),
            "uri_san_peer_certificate" => text(self.0.client_identity?.uri()),
            "uri_san_local_certificate" => text(self.0.tls.own?.uri()),
            "termination_details" => text(self.0.termination_details),
            _ => None,
        }
    }
}

fn peer(name: &str, address: Option<SocketAddr>) -> Option<Value<'static>> {
    let address = address?;
    match name {
        "address" => Some(Value::Text(address.to_string().into())),
        "ip" => Some(Value::Text(address.ip().to_canonical().to_string().into())),
        "port" => number(address.port().into()),
        _ => None,
    }
}

fn workload<'a>(name: &str, workload: Option<&'a Workload>) -> Option<Value<'a>> {
    let workload = workload?;
    text(match name {
        "workload" => &workload.workload_name,
        "name" => &workload.name,
        "namespace" => &workload.namespace,
        "service" => &workload.canonical_name,
        "revision" => &workload.canonical_revision,
        "app" => &workload.app,
        "version" => &workload.version,
        "cluster" => &workload.cluster,
        "region" => &workload.region,
        "zone" => &workload.zone,
        _ => return None,
    })
}

fn text(text: &str) -> Option<Value<'_>> {
    (!text.is_empty()).then_some(Value::Text(Cow::Borrowed(text)))
}

fn lossy(bytes: Option<&[u8]>) -> Option<Value<'_>> {
    bytes.map(|bytes| Value::Text(String::from_utf8_lossy(bytes)))
}

fn number(number: u64) -> Option<Value<'static>> {
    i64::try_from(number).ok().map(Value::Number)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

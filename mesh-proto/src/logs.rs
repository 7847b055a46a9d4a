//! Entries of access logs as services read them: Envoy's access log service, and collectors of OpenTelemetry.
//!
//! An entry is written when what it tells of is over, and waits as bytes; deliveries put entries together.

use std::net::SocketAddr;
use std::time::Duration;

use prost::Message as _;

use crate::spans::pair;
use crate::{als, otlp};

/// Who tells, as Envoy names its node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Teller {
    /// For example `sidecar~10.0.0.1~web-1.shop~shop.svc.cluster.local`.
    pub node: String,
    /// The service that it is, for example `web.shop`.
    pub cluster: String,
    /// Of its machine; empty if unknown.
    pub region: String,
    /// Of its machine; empty if unknown.
    pub zone: String,
}

/// What entries of requests and of connections have in common. Empty texts are unknown ones.
#[derive(Debug, Clone, Copy)]
pub struct Common<'a> {
    /// Since the Unix epoch.
    pub start: Duration,
    /// From then until all was over.
    pub duration: Duration,
    /// The client; of port 0 if a proxy has named it.
    pub client: SocketAddr,
    /// The address that the client connected to.
    pub local: Option<SocketAddr>,
    /// The server's address.
    pub upstream: Option<SocketAddr>,
    /// The proxy's own towards the server.
    pub upstream_local: Option<SocketAddr>,
    /// The cluster that was chosen.
    pub cluster: &'a str,
    /// One bit for each of Envoy's response flags, in the order of their fields.
    pub flags: u32,
    /// Why there is no connection to the server.
    pub failure: &'a str,
    /// The route that was taken.
    pub route: &'a str,
    /// Why the client's connection was ended, if the proxy did.
    pub termination: &'a str,
    /// The server name of the client's TLS handshake.
    pub sni: &'a str,
    /// The client's proven identity.
    pub peer: &'a str,
    /// The identity that was shown to the client.
    pub own: &'a str,
}

/// What an entry tells of a request. Empty texts are unknown ones.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// `HTTP/1.1` and the like.
    pub protocol: &'a str,
    /// The method.
    pub method: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// `Host` or `:authority`, as it was sent on.
    pub authority: String,
    /// Path and query, as they were sent on.
    pub path: String,
    /// The same as the client sent them, where a rule has made something else of them.
    pub original_path: String,
    /// `user-agent`.
    pub user_agent: String,
    /// `referer`.
    pub referer: String,
    /// `x-forwarded-for`.
    pub forwarded_for: String,
    /// `x-request-id`.
    pub id: String,
    /// Headers that somebody wants to see.
    pub headers: Vec<(String, String)>,
    /// Bytes of the request's body.
    pub received: u64,
    /// The status; 0 if there was none.
    pub code: u16,
    /// Bytes of the response's body.
    pub sent: u64,
    /// How the response came to be.
    pub details: &'a str,
}

/// A record of OpenTelemetry.
#[derive(Debug, Clone)]
pub struct Record {
    /// Nanoseconds since the Unix epoch.
    pub time: u64,
    /// What it says.
    pub body: String,
    /// Names and values.
    pub attributes: Vec<(String, String)>,
    /// The trace that it is part of, and the span.
    pub trace: Option<(u128, u64)>,
}

/// The entry of a request.
pub fn http_entry(common: &Common<'_>, request: &Request<'_>) -> Vec<u8> {
    let version = ["HTTP/1.0", "HTTP/1.1", "HTTP/2", "HTTP/3"];
    let entry = als::HttpEntry {
        common_properties: Some(properties(common)),
        protocol_version: place(&version, request.protocol),
        request: Some(als::HttpRequest {
            request_method: place(&METHODS, request.method),
            scheme: request.scheme.to_owned(),
            authority: request.authority.clone(),
            path: request.path.clone(),
            original_path: request.original_path.clone(),
            user_agent: request.user_agent.clone(),
            referer: request.referer.clone(),
            forwarded_for: request.forwarded_for.clone(),
            request_id: request.id.clone(),
            request_body_bytes: request.received,
            request_headers: request.headers.iter().cloned().collect(),
        }),
        response: Some(als::HttpResponse {
            response_code: (request.code != 0).then_some(u32::from(request.code)),
            response_body_bytes: request.sent,
            response_code_details: request.details.to_owned(),
        }),
    };
    entry.encode_to_vec()
}

/// The entry of a connection: bytes that the client has sent, and those it was sent.
pub fn tcp_entry(common: &Common<'_>, received: u64, sent: u64) -> Vec<u8> {
    let connection = als::Connection { received_bytes: received, sent_bytes: sent };
    let (common, connection) = (Some(properties(common)), Some(connection));
    als::TcpEntry { common_properties: common, connection_properties: connection }.encode_to_vec()
}

/// The entry that a record is.
pub fn record(record: &Record) -> Vec<u8> {
    let text = pair("", &record.body).value;
    let (trace, span) = record.trace.unzip();
    let entry = otlp::LogRecord {
        time_unix_nano: record.time,
        body: text,
        attributes: record.attributes.iter().map(|(name, value)| pair(name, value)).collect(),
        trace_id: trace.map(|it| it.to_be_bytes().to_vec().into()).unwrap_or_default(),
        span_id: span.map(|it| it.to_be_bytes().to_vec().into()).unwrap_or_default(),
    };
    entry.encode_to_vec()
}

/// A message of Envoy's access log service that delivers entries of requests, or else of connections.
pub fn stream(teller: &Teller, log_name: &str, entries: &[Vec<u8>], requests: bool) -> Vec<u8> {
    let locality =
        als::Locality { region: teller.region.clone(), zone: teller.zone.clone(), sub_zone: String::new() };
    let is_placed = !(teller.region.is_empty() && teller.zone.is_empty());
    let node = als::Node {
        id: teller.node.clone(),
        cluster: teller.cluster.clone(),
        locality: is_placed.then_some(locality),
    };
    let log_entry = entries.iter().map(|it| it.clone().into()).collect();
    let entries = als::Entries { log_entry };
    let entries = if requests {
        als::stream_message::LogEntries::HttpLogs(entries)
    } else {
        als::stream_message::LogEntries::TcpLogs(entries)
    };
    let identifier = als::Identifier { node: Some(node), log_name: log_name.to_owned() };
    als::StreamMessage { identifier: Some(identifier), log_entries: Some(entries) }.encode_to_vec()
}

/// A request that delivers records to a collector of OpenTelemetry, under the attributes that Envoy has for itself.
pub fn export(teller: &Teller, log_name: &str, records: &[Vec<u8>]) -> Vec<u8> {
    let attributes = vec![
        pair("log_name", log_name),
        pair("zone_name", &teller.zone),
        pair("cluster_name", &teller.cluster),
        pair("node_name", &teller.node),
    ];
    let log_records = records.iter().map(|it| it.clone().into()).collect();
    let logs = otlp::ResourceLogs {
        resource: Some(otlp::Resource { attributes }),
        scope_logs: vec![otlp::ScopeLogs { scope: None, log_records }],
    };
    otlp::LogsRequest { resource_logs: vec![logs] }.encode_to_vec()
}

fn properties(common: &Common<'_>) -> als::Common {
    let certificate =
        |uri: &str| als::Certificate { subject_alt_name: vec![als::AltName { uri: uri.to_owned() }] };
    let known = |uri: &str| (!uri.is_empty()).then(|| certificate(uri));
    let tls = als::Tls {
        tls_sni_hostname: common.sni.to_owned(),
        local_certificate_properties: known(common.own),
        peer_certificate_properties: known(common.peer),
    };
    let is_secure = !(common.sni.is_empty() && common.peer.is_empty());
    let start = prost_types::Timestamp {
        seconds: i64::try_from(common.start.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(common.start.subsec_nanos()).unwrap_or_default(),
    };
    als::Common {
        downstream_remote_address: Some(address(common.client)),
        downstream_local_address: common.local.map(address),
        tls_properties: is_secure.then_some(tls),
        start_time: Some(start),
        time_to_last_downstream_tx_byte: Some(duration(common.duration)),
        upstream_remote_address: common.upstream.map(address),
        upstream_local_address: common.upstream_local.map(address),
        upstream_cluster: common.cluster.to_owned(),
        response_flags: flags(common.flags).into(),
        upstream_transport_failure_reason: common.failure.to_owned(),
        route_name: common.route.to_owned(),
        downstream_direct_remote_address: Some(address(common.client)),
        duration: Some(duration(common.duration)),
        connection_termination_details: common.termination.to_owned(),
    }
}

fn address(address: SocketAddr) -> als::Address {
    let ip = address.ip().to_canonical().to_string();
    als::Address {
        socket_address: Some(als::SocketAddress { address: ip, port_value: address.port().into() }),
    }
}

fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or_default(),
    }
}

/// A message with a field that is true for each flag. Why a request was not authorised is a message of its own: an external
/// service said so.
fn flags(bits: u32) -> Vec<u8> {
    const VARINT: usize = 0;
    const LENGTH: usize = 2;
    const EXTERNAL_SERVICE: [u8; 3] = [2, 1 << 3, 1];
    let mut out = Vec::new();
    for (number, _) in (1_usize..).zip(0..u32::BITS).filter(|(_, bit)| bits >> bit & 1 == 1) {
        let is_refused = number == UNAUTHORIZED;
        let key = number << 3 | if is_refused { LENGTH } else { VARINT };
        prost::encode_length_delimiter(key, &mut out).expect("a Vec takes all");
        out.extend_from_slice(if is_refused { &EXTERNAL_SERVICE } else { &[1] });
    }
    out
}

/// One more than the place in a list, 0 for what is not in it.
fn place(all: &[&str], one: &str) -> i32 {
    all.iter().zip(1..).find(|(known, _)| **known == one).map_or(0, |(_, place)| place)
}

/// The field of a refusal among the flags.
const UNAUTHORIZED: usize = 13;
/// In the order of their numbers.
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

#[cfg(test)]
mod tests {
    use super::*;

    fn common() -> Common<'static> {
        Common {
            start: Duration::from_millis(1_500),
            duration: Duration::from_millis(20),
            client: ([10, 0, 0, 1], 40_000).into(),
            local: Some(([10, 0, 0, 2], 80).into()),
            upstream: None,
            upstream_local: None,
            cluster: "outbound|80||web",
            flags: 0,
            failure: "",
            route: "",
            termination: "",
            sni: "",
            peer: "",
            own: "",
        }
    }

    #[test]
    fn flags_are_fields_of_a_message() {
        assert_eq!(flags(0), [0_u8; 0]);
        assert_eq!(flags(1), [1 << 3, 1], "the first field");
        assert_eq!(flags(1 << 12), [13 << 3 | 2, 2, 8, 1], "an external service refused");
        assert_eq!(flags(1 << 15 | 1 << 1), [2 << 3, 1, 0x80, 1, 1], "keys from 16 on have two bytes");
    }

    #[test]
    fn entries_are_delivered_as_they_were_written() {
        let teller =
            Teller { node: "n".into(), cluster: "c".into(), region: String::new(), zone: "z".into() };
        let entry = tcp_entry(&Common { peer: "spiffe://a", ..common() }, 3, 4);
        let message = stream(&teller, "log", &[entry.clone(), entry], false);
        let read = als::StreamMessage::decode(&*message).unwrap();
        let identifier = read.identifier.unwrap();
        let node = identifier.node.unwrap();
        assert_eq!((&*identifier.log_name, &*node.id, &*node.cluster), ("log", "n", "c"));
        assert_eq!(node.locality.unwrap().zone, "z");
        let Some(als::stream_message::LogEntries::TcpLogs(entries)) = read.log_entries else { panic!() };
        assert_eq!(entries.log_entry.len(), 2);
        let read = als::TcpEntry::decode(entries.log_entry[1].clone()).unwrap();
        let bytes = read.connection_properties.unwrap();
        assert_eq!((bytes.received_bytes, bytes.sent_bytes), (3, 4));
        let common = read.common_properties.unwrap();
        assert_eq!(common.start_time.unwrap().nanos, 500_000_000);
        let peer = common.tls_properties.unwrap().peer_certificate_properties.unwrap();
        assert_eq!(peer.subject_alt_name[0].uri, "spiffe://a");
    }

    #[test]
    fn requests_have_numbers_where_the_protocol_has() {
        let request = Request {
            protocol: "HTTP/2",
            method: "PATCH",
            scheme: "http",
            authority: "a".into(),
            path: "/new".into(),
            original_path: "/old".into(),
            user_agent: String::new(),
            referer: String::new(),
            forwarded_for: String::new(),
            id: "1".into(),
            headers: vec![("x".into(), "y".into())],
            received: 1,
            code: 0,
            sent: 2,
            details: "via_upstream",
        };
        let read = als::HttpEntry::decode(&*http_entry(&common(), &request)).unwrap();
        assert_eq!(read.protocol_version, 3);
        let asked = read.request.unwrap();
        assert_eq!((asked.request_method, &*asked.request_headers["x"]), (9, "y"));
        assert_eq!(read.response.unwrap().response_code, None, "no answer has no status");
        let odd = Request { method: "BREW", code: 418, ..request };
        let read = als::HttpEntry::decode(&*http_entry(&common(), &odd)).unwrap();
        assert_eq!(read.request.unwrap().request_method, 0);
        assert_eq!(read.response.unwrap().response_code, Some(418));
    }
}

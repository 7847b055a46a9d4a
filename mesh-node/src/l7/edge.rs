//! What a proxy adds to requests and answers, and what it does not believe.

use std::borrow::Cow;
use std::time::Duration;

use http::header::Entry;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use mesh_core::http::path::{EscapedSlashes, Normalization, PathError, normalize};
use mesh_core::http::xfcc;
use mesh_core::http::xff::{self, SaidBy};
use mesh_core::model::Snapshot;
use mesh_core::resource::mesh_config::proxy::{ForwardClientCert, Topology};
use mesh_core::resource::mesh_config::settings::PathNormalization;
use mesh_core::route::Route;

use super::exchange::Stage;
use super::h1::TargetForm;
use super::message::RequestHead;
use super::site::{Clients, Facts};

/// What of a request is believed, and how its path is read: as `MeshConfig` says.
#[derive(Debug, Clone, Copy, Default)]
pub struct Trust {
    /// Proxies between clients and a gateway (`numTrustedProxies`).
    proxies: u32,
    /// Who may say which certificate a client has (`forwardClientCertDetails`).
    certificates: ForwardClientCert,
    normalization: Normalization,
}

impl Trust {
    /// As a configuration has it.
    pub fn of(snapshot: &Snapshot) -> Self {
        let mesh = snapshot.mesh();
        let topology = mesh.default_config.gateway_topology;
        Self {
            proxies: topology.map_or(0, |topology| topology.num_trusted_proxies),
            certificates: topology.map(|topology| topology.forward_client_cert_details).unwrap_or_default(),
            normalization: match mesh.path_normalization {
                PathNormalization::None => Normalization::None,
                PathNormalization::Base => Normalization::Base,
                PathNormalization::MergeSlashes => Normalization::MergeSlashes,
                PathNormalization::DecodeAndMergeSlashes => Normalization::DecodeAndMergeSlashes,
            },
        }
    }

    /// The same for a gateway that says itself what stands before it.
    pub fn of_client(self, topology: Option<Topology>) -> Self {
        let Some(topology) = topology else { return self };
        let (proxies, certificates) = (topology.num_trusted_proxies, topology.forward_client_cert_details);
        Self { proxies, certificates, ..self }
    }
}

/// Makes a request one that rules can be asked about: what a stranger says about itself is taken away, and what others
/// rely on is there.
///
/// Returns the number that its id begins with, if it was made here; `Err` says what is wrong with its path.
pub fn receive(stage: &Stage<'_>, head: &mut RequestHead) -> Result<Option<u32>, PathError> {
    let Trust { proxies, certificates, normalization } = stage.engine.trust();
    normalize_path(head, normalization)?;
    let scheme = HeaderValue::from_static(if head.secure { "https" } else { "http" });
    let clients = stage.site.clients();
    let headers = &mut head.headers;
    if clients == Clients::Strangers {
        let peer = stage.facts.peer.ip();
        let received = headers.get_all(X_FORWARDED_FOR).iter().map(HeaderValue::as_bytes);
        let client = xff::client(received, peer, proxies);
        let named = client.said_by == SaidBy::Header;
        let internal = is_internal(client.address) && (named || !headers.contains_key(X_FORWARDED_FOR));
        head.client = named.then_some(client.address);
        strip(headers);
        if headers.contains_key(X_FORWARDED_FOR) {
            append_address(headers, peer);
        } else {
            headers.insert(X_FORWARDED_FOR, stage.facts.forwarded_for());
        }
        let mut said = headers.get_all(X_FORWARDED_PROTO).iter();
        let said = said.next().filter(|_| said.next().is_none()).map(HeaderValue::as_bytes);
        let scheme = HeaderValue::from_static(xff::proto(said, head.secure, proxies));
        headers.insert(X_FORWARDED_PROTO, scheme);
        forward_certificate(headers, stage.facts.certificate.as_deref(), certificates);
        if !internal {
            headers.remove(&X_REQUEST_ID);
        }
    } else {
        receive_within(stage.facts, clients, headers);
        headers.entry(X_FORWARDED_PROTO).or_insert(scheme);
    }
    Ok(match headers.entry(X_REQUEST_ID) {
        Entry::Occupied(_) => None,
        Entry::Vacant(place) => {
            let (id, first) = request_id(stage);
            place.insert(id);
            Some(first)
        }
    })
}

/// The same where pods are called or call. `x-forwarded-for` and what else proxies outside of the mesh have written is left to the
/// workload, as Istio's sidecars do; nothing of the mesh goes by it.
fn receive_within(facts: &Facts, clients: Clients, headers: &mut HeaderMap) {
    let rule = match clients {
        Clients::Callers => ForwardClientCert::AppendForward,
        // A workload has no clients whose certificates it has seen here.
        Clients::Own | Clients::Strangers => ForwardClientCert::Sanitize,
    };
    forward_certificate(headers, facts.certificate.as_deref(), rule);
    if clients == Clients::Callers && facts.identity.is_none() {
        strip(headers);
    }
}

/// Whether so many have passed a request on that it goes round in a circle: a rule can send to a gateway what that gateway
/// sends out. Only gateways add to the list, and every circle that rules can make has one in it.
pub fn is_looping(head: &RequestHead) -> bool {
    let mut all = head.headers.get_all(X_FORWARDED_FOR).iter().map(HeaderValue::as_bytes).peekable();
    all.peek().is_some_and(|first| first.len() > MAX_HOPS) && xff::hops(all) > MAX_HOPS
}

/// Rules are asked about the path that is sent on, and it is what servers make of the one that came.
fn normalize_path(head: &mut RequestHead, level: Normalization) -> Result<(), PathError> {
    if !matches!(head.target.form(), TargetForm::Origin | TargetForm::Absolute(_)) {
        return Ok(());
    }
    let path = match normalize(head.target.path(), level, EscapedSlashes::Keep)? {
        Cow::Borrowed(_) => return Ok(()),
        Cow::Owned(path) => path,
    };
    head.target = head.target.with_path(&path).map_err(|_| PathError::Character)?;
    Ok(())
}

/// Notes the path before it is rewritten.
pub fn note_original(head: &mut RequestHead) {
    if let Ok(path) = HeaderValue::from_bytes(head.target.as_bytes()) {
        head.headers.insert(X_ENVOY_ORIGINAL_PATH, path);
    }
}

/// Adds what endpoints are told.
pub fn forward(_: &Stage<'_>, route: &Route, head: &mut RequestHead) {
    head.headers.insert(X_ENVOY_ATTEMPT_COUNT, HeaderValue::from_static("1"));
    if head.expects_continue {
        // The client is told by us, as soon as its body is wanted.
        head.headers.remove(header::EXPECT);
    }
    if let Some(timeout) = route.timeout {
        let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        head.headers.insert(X_ENVOY_EXPECTED_TIMEOUT, millis.into());
    }
}

/// Says that this is the `tries`-th try.
pub fn count_try(head: &mut RequestHead, tries: u32) {
    head.headers.insert(X_ENVOY_ATTEMPT_COUNT, tries.into());
}

/// Adds what clients are told of an answer that took so long.
pub fn answer(stage: &Stage<'_>, headers: &mut HeaderMap, took: Duration) {
    let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let took = if millis < 10 { DIGITS.get(usize::try_from(millis).unwrap_or(0)) } else { None };
    let took = took.map_or_else(|| HeaderValue::from(millis), |digit| HeaderValue::from_static(digit));
    headers.insert(X_ENVOY_UPSTREAM_SERVICE_TIME, took);
    if stage.site.is_edge() {
        headers.insert(header::SERVER, HeaderValue::from_static(SERVER));
    }
}

/// Adds what clients are told of an answer of the proxy's own.
pub fn answer_alone(_: &Stage<'_>, headers: &mut HeaderMap) {
    headers.insert(header::SERVER, HeaderValue::from_static(SERVER));
    if let Ok(date) = HeaderValue::from_str(&httpdate::fmt_http_date(std::time::SystemTime::now())) {
        headers.insert(header::DATE, date);
    }
}

/// What only proxies may say.
fn strip(headers: &mut HeaderMap) {
    let says = |name: &HeaderName| name.as_str().starts_with("x-envoy-");
    if headers.keys().any(says) {
        let all: Vec<_> = headers.keys().filter(|name| says(name)).cloned().collect();
        for name in all {
            headers.remove(name);
        }
    }
}

/// Says which certificate the client has, or who says so.
fn forward_certificate(headers: &mut HeaderMap, own: Option<&str>, rule: ForwardClientCert) {
    if own.is_none() && !headers.contains_key(X_FORWARDED_CLIENT_CERT) {
        return;
    }
    let received = headers.get_all(X_FORWARDED_CLIENT_CERT).iter().map(HeaderValue::as_bytes);
    let value = xfcc::forwarded(received, own, rule).map(HeaderValue::try_from);
    headers.remove(X_FORWARDED_CLIENT_CERT);
    // A certificate whose names no header can have is not told of at all.
    if let Some(Ok(value)) = value {
        headers.insert(X_FORWARDED_CLIENT_CERT, value);
    }
}

fn append_address(headers: &mut HeaderMap, ip: std::net::IpAddr) {
    let all = || headers.get_all(X_FORWARDED_FOR).iter().map(HeaderValue::as_bytes);
    let list = xff::appended(all(), ip).or_else(|| xff::appended([], ip));
    if let Some(Ok(value)) = list.map(HeaderValue::try_from) {
        headers.insert(X_FORWARDED_FOR, value);
    }
}

/// Addresses that Envoy takes for the operator's own: private and loopback.
fn is_internal(ip: std::net::IpAddr) -> bool {
    match ip.to_canonical() {
        std::net::IpAddr::V4(ip) => ip.is_private() || ip.is_loopback(),
        std::net::IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local(),
    }
}

/// A UUID of version 4 that nobody has to be unable to guess, and the number that it begins with.
fn request_id(stage: &Stage<'_>) -> (HeaderValue, u32) {
    let (high, low) = (stage.engine.random(), stage.engine.random());
    let bits = (u128::from(high) << 64) | u128::from(low);
    let bits = (bits & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let mut text = [b'-'; 36];
    let mut digits = (0..32u32).rev().map(|place| (bits >> (place * 4)) & 0xf);
    for (at, byte) in text.iter_mut().enumerate() {
        if !matches!(at, 8 | 13 | 18 | 23) {
            let digit = digits.next().and_then(|digit| usize::try_from(digit).ok()).unwrap_or_default();
            *byte = HEX.get(digit).copied().unwrap_or(b'0');
        }
    }
    let id = HeaderValue::from_bytes(&text).expect("hexadecimal digits and dashes are a header's value");
    (id, u32::try_from(high >> 32).unwrap_or_default())
}

/// Proxies that a request may have passed. [`xff::MAX_BYTES`] would be reached later, and forgets what came before.
const MAX_HOPS: usize = 100;
const HEX: &[u8; 16] = b"0123456789abcdef";
const DIGITS: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
const SERVER: &str = "istio-envoy";
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_ENVOY_ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
const X_ENVOY_ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
const X_ENVOY_EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
const X_ENVOY_UPSTREAM_SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");

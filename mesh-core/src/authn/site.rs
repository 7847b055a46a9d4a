//! Where the keys of issuers are, and which of those places may be asked: whoever may write a RequestAuthentication must not have
//! the control plane, or a node, reach for him what he cannot reach himself.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::json;
use crate::model::{Service, Snapshot, Target};
use crate::resource::RequestAuthenticationSpec;
use crate::resource::request_authentication::{JwtRule, KeySource};
use crate::resource::value;

/// A place that keys are to be fetched from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeySite {
    /// A key set is there.
    Url(Arc<str>),
    /// The configuration of this issuer says where it is (`OpenID` Connect Discovery 1.0, 4).
    Issuer(Arc<str>),
}

/// The places that are wanted, each with what those who want it say about it.
pub type Wanted = BTreeMap<KeySite, Wish>;

/// What rules say about a place that they want keys from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wish {
    /// The namespaces of the rules.
    pub namespaces: BTreeSet<Arc<str>>,
    /// How long an answer may take: the longest that any of them allows.
    pub timeout: Duration,
}

/// A URL that keys can be fetched from: of HTTP, with nothing in it but a host, perhaps a port, a path and a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// Whether the server has to prove who it is.
    pub secure: bool,
    /// A name in lower case, or an address without brackets.
    pub host: Box<str>,
    /// The port.
    pub port: u16,
    /// Path and query; at least `/`.
    pub target: Box<str>,
}

/// Where the configuration of an issuer says that its keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovered(pub Url);

impl KeySite {
    /// Where a rule has its keys fetched from; `None` if it has them itself, or nowhere that can be asked.
    pub fn of(rule: &JwtRule) -> Option<Self> {
        match rule.keys() {
            KeySource::Url(url) => Url::parse(url).map(|_| Self::Url(url.into())),
            KeySource::Issuer(issuer) => Url::parse(issuer).map(|_| Self::Issuer(issuer.into())),
            KeySource::Inline(_) | KeySource::Nowhere => None,
        }
    }

    /// Those of a resource, with how long an answer may take: [`PATIENCE`] where a rule does not say it.
    pub fn all_of(spec: &RequestAuthenticationSpec) -> BTreeMap<Self, Duration> {
        let mut all = BTreeMap::new();
        for rule in &spec.jwt_rules {
            let Some(site) = Self::of(rule) else { continue };
            let timeout = all.entry(site).or_insert(Duration::ZERO);
            *timeout = rule.timeout.map_or(PATIENCE, value::Duration::get).min(MAX_PATIENCE).max(*timeout);
        }
        all
    }

    /// What is asked first.
    pub fn url(&self) -> Option<Url> {
        match self {
            Self::Url(url) => Url::parse(url),
            Self::Issuer(issuer) => Url::parse(&format!("{}{WELL_KNOWN}", issuer.trim_end_matches('/'))),
        }
    }
}

impl fmt::Display for KeySite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => write!(f, "{url}"),
            Self::Issuer(issuer) => write!(f, "{issuer} (by discovery)"),
        }
    }
}

impl Url {
    /// Reads a URL; `None` if it is any other. Whose name stands before an `@` is no host, and nobody is to be misled by one.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_URL || !text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\') {
            return None;
        }
        let (scheme, rest) = text.split_once("://")?;
        let secure = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let rest = rest.split('#').next()?;
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at_checked(end)?;
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']')?;
                host.parse::<std::net::Ipv6Addr>().ok()?;
                (host, port)
            }
            None => authority.split_at_checked(authority.find(':').unwrap_or(authority.len()))?,
        };
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().ok().filter(|port| *port != 0)?,
            None if port.is_empty() => {
                if secure {
                    443
                } else {
                    80
                }
            }
            None => return None,
        };
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let is_host = authority.starts_with('[') || host.bytes().all(is_name);
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        (is_host && !host.is_empty()).then(|| Self {
            secure,
            host: host.trim_end_matches('.').to_ascii_lowercase().into(),
            port,
            target: target.into(),
        })
    }

    /// The host as an address, if it is one.
    pub fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl Discovered {
    /// Reads the configuration of an issuer.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let document = json::object(text)?;
        document.get("jwks_uri").and_then(Value::as_str).and_then(Url::parse).map(Self)
    }
}

/// How long an answer may take where a rule does not say it, as with Istio.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// The longest that a rule may say: who waits keeps a place that others wait for.
const MAX_PATIENCE: Duration = Duration::from_secs(60);

/// Where a host is that is a service of the mesh which one of these namespaces sees: its endpoints. `None` if it is none, or its
/// addresses have to be looked up.
pub fn places_of(snapshot: &Snapshot, url: &Url, namespaces: &BTreeSet<Arc<str>>) -> Option<Vec<SocketAddr>> {
    let short = [String::new(), ".cluster.local".to_owned(), ".svc.cluster.local".to_owned()];
    let named = |namespace: &Arc<str>| {
        short.iter().find_map(|end| snapshot.service_by_name(&format!("{}{end}", url.host), namespace))
    };
    let service: &Arc<Service> = namespaces.iter().find_map(named)?;
    let port = service.ports.iter().find(|port| port.number == url.port);
    let endpoints: Vec<_> =
        port.into_iter().flat_map(|port| &port.endpoints).map(|endpoint| endpoint.addr).collect();
    (service.entry.is_none() || !endpoints.is_empty()).then_some(endpoints)
}

/// Whether an address may be asked for keys. What is the mesh's, only if it is that of a service; `of_service` says that somebody
/// has found it to be one's endpoint. What means something else on every machine, such as the machine itself and its link with
/// the cloud's metadata, never is, unless `local` says that whoever writes the configuration owns the machine as well: then a
/// service may be there.
pub fn may_be_asked(snapshot: &Snapshot, address: SocketAddr, of_service: bool, local: bool) -> bool {
    // Of an empty mesh, it asks about the address alone.
    let is_everybodys = Snapshot::default().may_be_named(address);
    if of_service {
        return is_everybodys || local;
    }
    let is_services = matches!(snapshot.resolve(address), Target::Service { .. });
    is_everybodys && (is_services || snapshot.may_be_named(address))
}

/// Characters of a URL: Istio's.
const MAX_URL: usize = 2048;
/// Behind an issuer.
const WELL_KNOWN: &str = "/.well-known/openid-configuration";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{CompileOptions, compile};
    use crate::resource::{SourceFile, parse};

    #[test]
    fn a_url_is_read_in_one_way_or_not_at_all() {
        let read = |text: &str| {
            Url::parse(text).map(|url| format!("{} {} {} {}", url.secure, url.host, url.port, url.target))
        };
        for (text, expected) in [
            ("https://Keys.Example./a?b=c#d", Some("true keys.example 443 /a?b=c")),
            ("http://keys.example", Some("false keys.example 80 /")),
            ("HTTP://keys.example?a", Some("false keys.example 80 /?a")),
            ("http://10.0.0.1:8080/", Some("false 10.0.0.1 8080 /")),
            ("https://[fd00::1]:444/x", Some("true fd00::1 444 /x")),
            ("https://[fd00::1]x/", None),
            ("https://[keys]/", None),
            ("https://user@keys.example/", None),
            ("https://good.example@evil.example/", None),
            ("https://good.example\\@evil.example/", None),
            ("https://keys.example:0/", None),
            ("https://keys.example:65536/", None),
            ("https://keys.example:/", None),
            ("https:///path", None),
            ("https://", None),
            ("ftp://keys.example/", None),
            ("file:///etc/passwd", None),
            ("keys.example", None),
            ("https://keys.example/a b", None),
            ("https://keys.example/\r\nHost: x", None),
            ("https://k\u{e9}ys.example/", None),
        ] {
            assert_eq!(read(text).as_deref(), expected, "{text}");
        }
        assert_eq!(Url::parse(&format!("https://a/{}", "x".repeat(2048))), None);
    }

    #[test]
    fn an_issuer_is_asked_where_its_keys_are() {
        let issuer = KeySite::Issuer("https://issuer.example/tenant/".into());
        let url = issuer.url().unwrap();
        assert_eq!(&*url.target, "/tenant/.well-known/openid-configuration");
        let found = |text: &str| Discovered::parse(text.as_bytes()).map(|it| it.0.host.to_string());
        assert_eq!(found(r#"{"jwks_uri": "https://keys.example/"}"#).as_deref(), Some("keys.example"));
        assert_eq!(found(r#"{"jwks_uri": "file:///etc/passwd"}"#), None);
        assert_eq!(found(r#"{"jwks_uri": 1}"#), None);
        assert_eq!(found("<html>"), None);
    }

    fn snapshot() -> Snapshot {
        let text = r"
{apiVersion: v1, kind: Node, metadata: {name: n}, spec: {podCIDR: 10.1.0.0/24}}
---
{apiVersion: v1, kind: Service, metadata: {name: keys, namespace: shop}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80, targetPort: 8080}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: keys, namespace: shop, labels: {kubernetes.io/service-name: keys}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [127.0.0.9]}, {addresses: [10.1.0.9]}]
---
{apiVersion: v1, kind: Service, metadata: {name: none, namespace: shop}, spec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: own, namespace: shop}
spec: {hosts: [own.example], exportTo: ['.'], resolution: STATIC, ports: [{name: http, number: 80}], endpoints: [{address: 203.0.113.9}]}
";
        let objects = parse(&SourceFile { name: "mesh.yaml", text }).objects;
        compile(&objects, &CompileOptions::default()).snapshot
    }

    #[test]
    fn a_service_of_the_mesh_is_where_its_endpoints_are_for_those_who_see_it() {
        let snapshot = snapshot();
        for (url, namespace, expected) in [
            ("http://keys.shop.svc.cluster.local/", "other", Some("127.0.0.9:8080 10.1.0.9:8080")),
            ("http://keys.shop.svc/", "other", Some("127.0.0.9:8080 10.1.0.9:8080")),
            ("http://keys.shop/", "other", Some("127.0.0.9:8080 10.1.0.9:8080")),
            ("http://keys.shop:81/", "other", Some("")),
            ("http://none.shop/", "other", Some("")),
            ("http://own.example/", "shop", Some("203.0.113.9:80")),
            ("http://own.example/", "other", None),
            ("http://elsewhere.example/", "shop", None),
        ] {
            let places = places_of(&snapshot, &Url::parse(url).unwrap(), &[namespace.into()].into());
            let places = places.map(|mut all| {
                all.sort_by_key(|it| std::cmp::Reverse(*it));
                all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
            });
            assert_eq!(places.as_deref(), expected, "{url} {namespace}");
        }
    }

    #[test]
    fn what_is_not_everybodys_may_not_be_asked() {
        let snapshot = snapshot();
        for (address, by_name, of_service, local) in [
            ("203.0.113.7:443", true, true, true),
            ("192.168.7.7:443", true, true, true),
            ("10.96.0.1:80", true, true, true),
            ("10.96.0.1:81", false, true, true),
            ("10.1.0.9:8080", false, true, true),
            ("10.1.0.77:8080", false, true, true),
            ("127.0.0.1:15014", false, false, true),
            ("[::1]:15014", false, false, true),
            ("[::ffff:127.0.0.1]:80", false, false, true),
            ("[64:ff9b::7f00:1]:80", false, false, true),
            ("0.0.0.0:80", false, false, true),
            ("[::]:80", false, false, true),
            ("169.254.169.254:80", false, false, true),
            ("[fe80::1]:80", false, false, true),
            ("224.0.0.1:80", false, false, true),
            ("255.255.255.255:80", false, false, true),
            ("[2001:db8::1]:443", true, true, true),
        ] {
            let at = address.parse().unwrap();
            assert_eq!(may_be_asked(&snapshot, at, false, false), by_name, "{address} by a name");
            assert_eq!(may_be_asked(&snapshot, at, false, true), by_name, "{address} by a name, locally");
            assert_eq!(may_be_asked(&snapshot, at, true, false), of_service, "{address} of a service");
            assert_eq!(may_be_asked(&snapshot, at, true, true), local, "{address} of a service, locally");
        }
    }
}

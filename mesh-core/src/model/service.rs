//! Services and their endpoints, as data.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Serialize, Serializer};

use super::Workload;
use super::reach::Exported;
use super::waypoint::Waypoint;
use super::workload::{Membership, ServiceKey};
use crate::balance::mix;
use crate::cluster::{BackendTls, TrafficDistribution};
use crate::net::{canonical, canonical_ip};
use crate::resource::value::Host;

/// A service of Kubernetes, or of a ServiceEntry, with the endpoints that may be chosen on this node. On its way to the node it has no endpoints:
/// workloads say what they serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Service {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name; the host name where it is not Kubernetes'.
    pub name: Arc<str>,
    /// `<name>.<namespace>.svc.cluster.local`, or whatever host a ServiceEntry has, which may begin with `*`.
    pub hostname: Arc<str>,
    /// Cluster addresses, and load balancer addresses that behave like one. Empty for headless services. Sorted.
    pub vips: Vec<IpAddr>,
    /// Its TCP ports, in the order of the resource.
    pub ports: Vec<ServicePort>,
    /// Its UDP ports, in the order of the resource: a list of their own, because one number for both protocols is usual.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub udp_ports: Vec<ServicePort>,
    /// `ClientIP` affinity and how long it lasts after the last connection; Kubernetes' default is 3 hours.
    pub session_affinity: Option<Duration>,
    /// `internalTrafficPolicy: Local`: only endpoints on the client's node are chosen, even if there is none.
    pub local_only: bool,
    /// Which of its endpoints are preferred: those that are near the client.
    pub traffic_distribution: Option<TrafficDistribution>,
    /// Has no address of its own: clients learn the endpoints' addresses from DNS.
    pub headless: bool,
    /// `publishNotReadyAddresses`: endpoints are chosen before they are ready.
    pub publish_not_ready: bool,
    /// Which addresses of its workloads are endpoints.
    pub families: Families,
    /// Who sees it. Decided before a node is told.
    #[serde(skip)]
    pub exported: Exported,
    /// What a ServiceEntry says besides; nothing of a Service of Kubernetes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry: Option<Arc<Entry>>,
    /// What connections to one of its addresses go through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waypoint: Option<Arc<Waypoint>>,
}

impl Service {
    /// What stands for one port that no resource is about: connections go to the address that the client asked for.
    /// What else `entry` says holds as it is.
    pub fn of_a_port(
        (namespace, name, hostname): (Arc<str>, Arc<str>, Arc<str>),
        number: u16,
        entry: Entry,
    ) -> Self {
        let port = ServicePort { number, name: None, app_protocol: None, tls: None, endpoints: Vec::new() };
        Self {
            namespace,
            name,
            hostname,
            vips: Vec::new(),
            ports: vec![port],
            udp_ports: Vec::new(),
            session_affinity: None,
            local_only: false,
            traffic_distribution: None,
            headless: true,
            publish_not_ready: false,
            families: Families::Any,
            exported: Exported::default(),
            entry: Some(Arc::new(Entry { passthrough: true, ..entry })),
            waypoint: None,
        }
    }
}

/// What only a service of a ServiceEntry is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "what a resource says, one field each")]
pub struct Entry {
    /// The name of the ServiceEntry, by which policies know it.
    pub name: Arc<str>,
    /// `MESH_EXTERNAL`: nobody there has an identity of the mesh.
    pub external: bool,
    /// `resolution: NONE`: connections go to the address that the client asked for.
    pub passthrough: bool,
    /// `DYNAMIC_DNS`: connections go wherever the name leads that the client asks for in them. See [`Service::name_for`].
    pub dynamic: bool,
    /// `DNS_ROUND_ROBIN`: of the addresses of a name only the first is an endpoint.
    pub first_address_only: bool,
    /// The networks among its `addresses`: any address of these leads to it that nobody has. Sorted.
    pub networks: Vec<IpNet>,
    /// `subjectAltNames`, of which the certificate of a server has to have one.
    pub subject_alt_names: Vec<Arc<str>>,
}

/// IP families.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Families {
    /// Both, as far as they are there.
    #[default]
    Any,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
}

/// An address that serves ports of services and belongs to no workload: whoever wrote the `EndpointSlice` knows what
/// is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StaticEndpoint {
    /// `<cluster>/discovery.k8s.io/EndpointSlice/<namespace>/<slice>/<address>`.
    pub uid: Arc<str>,
    /// The namespace of the slice.
    pub namespace: Arc<str>,
    /// Never an IPv4-mapped one.
    pub ip: IpAddr,
    /// The node that the slice names.
    pub node: Option<Arc<str>>,
    /// Its service.
    pub services: Vec<Membership>,
    /// Ready to serve.
    pub ready: bool,
}

/// A port of a [`Service`], of TCP or UDP as the list says that it is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServicePort {
    /// The port that clients use with the service's address.
    pub number: u16,
    /// Its name; only services with a single port may leave it out.
    pub name: Option<Arc<str>>,
    /// `appProtocol` as written.
    pub app_protocol: Option<Arc<str>>,
    /// The TLS that a BackendTLSPolicy asks of clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Arc<BackendTls>>,
    /// The endpoints that may be chosen: ready (or published anyway), and on this node if the service is
    /// [`Service::local_only`]. Sorted by address.
    pub endpoints: Vec<Endpoint>,
}

/// One address that serves a [`ServicePort`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    /// Stable for the address and port, over any number of compilations.
    pub id: EndpointId,
    /// Where it listens; never an IPv4-mapped address.
    pub addr: SocketAddr,
    /// The workload that owns the address, if it is a pod that is known.
    #[serde(rename = "workload_uid", serialize_with = "serialize_uid")]
    pub workload: Option<Arc<Workload>>,
}

impl Service {
    /// Whether connections go to the address that the client asked for ([`Entry::passthrough`]).
    pub fn is_passthrough(&self) -> bool {
        self.entry.as_ref().is_some_and(|entry| entry.passthrough)
    }

    /// Whether connections go wherever the name leads that the client asks for ([`Entry::dynamic`]).
    pub fn is_dynamic(&self) -> bool {
        self.entry.as_ref().is_some_and(|entry| entry.dynamic)
    }

    /// The whole name that has to be looked up for a client that asks for `host`, if this is where such names lead.
    pub fn name_for(&self, host: &str) -> Option<String> {
        if !self.is_dynamic() {
            return None;
        }
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let is_name = matches!(Host::parse(&host), Ok(Host::Name(_)));
        let covers = Host::parse(&self.hostname).is_ok_and(|own| own.is_wildcard() && own.matches(&host));
        (is_name && covers).then_some(host)
    }

    /// Whether clients can know it by addresses.
    pub(crate) fn has_addresses(&self) -> bool {
        !self.vips.is_empty() || self.entry.as_ref().is_some_and(|entry| !entry.networks.is_empty())
    }

    /// Whether a workload that takes part in the mesh may serve it: one of the `subjectAltNames` of a ServiceEntry has to be
    /// its identity, if it has any. Whoever takes no part has no identity to compare.
    pub fn admits(&self, workload: &Workload) -> bool {
        let names = self.entry.as_ref().map_or(&[][..], |entry| &entry.subject_alt_names);
        names.is_empty()
            || !workload.accepts_tunnel()
            || names.iter().any(|name| **name == *workload.identity.uri())
    }

    /// What makes it unique.
    pub fn key(&self) -> ServiceKey {
        ServiceKey { namespace: Arc::clone(&self.namespace), hostname: Arc::clone(&self.hostname) }
    }
}

impl Families {
    /// Whether `ip` is of such a family.
    pub fn contains(self, ip: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::V4 => ip.is_ipv4(),
            Self::V6 => ip.is_ipv6(),
        }
    }
}

/// What a port is declared to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum Declared {
    /// HTTP/1.1, or what the client upgrades it to.
    Http,
    /// HTTP/2 without TLS, gRPC included.
    Http2,
    /// TLS, whatever is inside.
    Tls,
    /// Anything else: bytes.
    Tcp,
    /// Nothing: the first bytes tell.
    Nothing,
}

/// A protocol whose connections are passed on as bytes, and counted by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Named {
    /// `MongoDB`'s, whose commands are counted as well.
    Mongo,
    /// `MySQL`'s, in which the server speaks first.
    MySql,
    /// That of Redis.
    Redis,
}

impl Named {
    /// As metrics have it, and names of ports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mongo => "mongo",
            Self::MySql => "mysql",
            Self::Redis => "redis",
        }
    }
}

impl ServicePort {
    /// The protocol that it is declared to speak, if it is one that is counted by its name; as [`Self::declared`], but well-known
    /// ports alone say nothing.
    pub fn named(&self) -> Option<Named> {
        let all = [Named::Mongo, Named::MySql, Named::Redis];
        let said = self.said()?;
        all.into_iter().find(|known| known.name().eq_ignore_ascii_case(said))
    }

    /// `appProtocol`, or what its name begins with.
    fn said(&self) -> Option<&str> {
        let by_name =
            || self.name.as_deref().map(|name| name.split_once('-').map_or(name, |(prefix, _)| prefix));
        self.app_protocol.as_deref().or_else(by_name)
    }

    /// What it is declared to speak, by `appProtocol` before its name, as Istio does. Well-known ports of protocols in
    /// which the server speaks first are not guessed.
    pub fn declared(&self) -> Declared {
        match self.said().and_then(declared) {
            Some(declared) => declared,
            None if SERVER_FIRST.contains(&self.number) => Declared::Tcp,
            None => Declared::Nothing,
        }
    }

    /// The endpoints of one address family, so that a client of an IPv4 address is served over IPv4; all of them where
    /// the family has none.
    pub fn endpoints_for(&self, ipv4: bool) -> &[Endpoint] {
        // Endpoints are sorted by address, and IPv4 sorts before IPv6.
        let split = self.endpoints.partition_point(|endpoint| endpoint.addr.is_ipv4());
        let (v4, v6) = self.endpoints.split_at(split);
        match if ipv4 { v4 } else { v6 } {
            [] => &self.endpoints,
            family => family,
        }
    }
}

/// Names an endpoint in load counters and lists of tried endpoints. Equal for equal (ip, port), IPv4-mapped or not,
/// and in no other case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId {
    ip: u128,
    port: u16,
}

impl Endpoint {
    /// An endpoint at `addr`, which is brought into canonical form.
    pub fn new(addr: SocketAddr, workload: Option<Arc<Workload>>) -> Self {
        let addr = canonical(addr);
        Self { id: EndpointId::of(addr), addr, workload }
    }
}

impl EndpointId {
    /// The id of whatever listens at `addr`.
    pub fn of(addr: SocketAddr) -> Self {
        let ip = match canonical_ip(addr.ip()) {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        Self { ip: ip.to_bits(), port: addr.port() }
    }

    /// The address it stands for.
    pub fn addr(self) -> SocketAddr {
        canonical(SocketAddr::new(IpAddr::V6(self.ip.into()), self.port))
    }

    /// What sessions know it by: equal on every node and in every run, and not the address itself.
    pub fn mark(self) -> u64 {
        mix(self.hash64() ^ SESSIONS)
    }

    /// 64 well-mixed bits, equal on every node and in every run.
    pub(crate) fn hash64(self) -> u64 {
        let half = |bits: u128| u64::try_from(bits & u128::from(u64::MAX)).expect("masked to 64 bits");
        mix(mix(half(self.ip >> 64)) ^ mix(half(self.ip)) ^ u64::from(self.port))
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.addr())
    }
}

impl Serialize for EndpointId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A dump lists every workload once; endpoints refer to it.
#[expect(clippy::ref_option, reason = "serde calls it with a reference to the field")]
fn serialize_uid<S: Serializer>(workload: &Option<Arc<Workload>>, serializer: S) -> Result<S::Ok, S::Error> {
    workload.as_ref().map(|workload| &workload.uid).serialize(serializer)
}

fn declared(name: &str) -> Option<Declared> {
    Some(match name.to_ascii_lowercase().as_str() {
        "http" | "grpc-web" | "kubernetes.io/ws" => Declared::Http,
        "http2" | "grpc" | "h2c" | "kubernetes.io/h2c" => Declared::Http2,
        "https" | "tls" | "kubernetes.io/wss" => Declared::Tls,
        "tcp" | "udp" | "mongo" | "redis" | "mysql" => Declared::Tcp,
        _ => return None,
    })
}

/// Tells marks from other hashes of the same address.
const SESSIONS: u64 = 0x7365_7373_696f_6e73;
/// SMTP, DNS, `MySQL` and `MongoDB`.
const SERVER_FIRST: [u16; 4] = [25, 53, 3306, 27017];

//! The little that the mesh reads back of an object's `status`: what it has written there itself and has to find again,
//! after a restart or when another takes over.
//!
//! Everything else in a status is for others. Only objects of a cluster have one: in a file it is what was copied along.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;

use super::kind::Kind;
use super::tree::{Problem, Tree, quote};
use super::value::Host;

/// The part of a status that the mesh reads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct ObjectStatus {
    /// `status.addresses` of a ServiceEntry: what its hosts were given. In order, nothing twice.
    pub addresses: Vec<HostAddress>,
    /// Whether a Gateway of the Gateway API has an address, which is to say that somebody serves it.
    pub is_served: bool,
    /// The condition `Healthy` of a WorkloadEntry, if it has one.
    pub is_healthy: Option<bool>,
    /// Types of conditions, of those that are taken away again when there is nothing more to say.
    pub conditions: BTreeSet<Arc<str>>,
}

/// An address that a host was given, an entry of `status.addresses`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostAddress {
    /// The host; never a wildcard.
    pub host: Host,
    /// Its address.
    pub value: IpAddr,
}

impl ObjectStatus {
    /// Of no two statuses that differ are the digests the same, but for one case in 2⁶⁴. That of none is 0.
    pub(super) fn digest(&self) -> u64 {
        if *self == Self::default() {
            return 0;
        }
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

impl HostAddress {
    /// Reads `status.addresses`, each `{host, value}`, in order and nothing twice, and says whether that is all there is: as
    /// [`ObjectStatus::addresses`], what cannot be read is passed over.
    pub fn read(addresses: &Value) -> (Vec<Self>, bool) {
        let mut read = Vec::new();
        let mut is_all = addresses.is_array() || addresses.is_null();
        for entry in addresses.as_array().into_iter().flatten() {
            match Self::entry(entry["host"].as_str(), entry["value"].as_str()) {
                Ok(address) if !read.contains(&address) => read.push(address),
                _ => is_all = false,
            }
        }
        (read, is_all)
    }

    fn entry(host: Option<&str>, value: Option<&str>) -> Result<Self, (&'static str, String)> {
        let (host, value) = (host.unwrap_or_default(), value.unwrap_or_default());
        let host = match Host::parse(host) {
            Ok(host) if !host.is_wildcard() => host,
            _ => return Err(("host", format!("{} is not the name of a host", quote(host)))),
        };
        let parsed =
            value.parse().map_err(|_| ("value", format!("{} is not an IP address", quote(value))))?;
        Ok(Self { host, value: parsed })
    }
}

/// What `tree` says. What cannot be read is passed over: it is not the user's to mend, but they are told.
pub(super) fn read(kind: Kind, tree: &Tree) -> (ObjectStatus, Vec<Problem>) {
    let mut problems = Vec::new();
    let mut read = ObjectStatus::default();
    let Some(status) = tree.get("status") else { return (read, problems) };
    let list = |field| match status.get(field) {
        Some(Tree::List(items)) => items.as_slice(),
        _ => &[],
    };
    match kind {
        Kind::ServiceEntry => {
            for (index, entry) in list("addresses").iter().enumerate() {
                let text = |field| entry.get(field).and_then(Tree::as_str);
                match HostAddress::entry(text("host"), text("value")) {
                    Ok(address) if read.addresses.contains(&address) => {}
                    Ok(address) => read.addresses.push(address),
                    Err((field, reason)) => {
                        let problem = Problem::warning(format!("status.addresses[{index}].{field}"), reason);
                        problems.push(problem.hint("it is not used; the mesh writes this list itself"));
                    }
                }
            }
        }
        Kind::WorkloadEntry => {
            let text = |condition: &Tree, field| condition.get(field)?.as_str().map(str::to_owned);
            let is_it = |condition: &&Tree| text(condition, "type").as_deref() == Some(HEALTHY);
            let status = list("conditions").iter().find(is_it).and_then(|one| text(one, "status"));
            read.is_healthy = status.map(|status| status == "True");
        }
        Kind::KubernetesGateway => read.is_served = !list("addresses").is_empty(),
        _ => {}
    }
    if let Kind::Service | Kind::ServiceEntry | Kind::RequestAuthentication | Kind::Telemetry = kind {
        let types = list("conditions").iter().filter_map(|condition| condition.get("type")?.as_str());
        read.conditions = types.filter(|sort| TAKEN_AWAY.contains(sort)).map(Arc::from).collect();
    }
    (read, problems)
}

/// Says on a WorkloadEntry whether the machine's own probe finds it well.
pub const HEALTHY: &str = "Healthy";
/// Says on a service which waypoint it is bound to. The names are Istio's.
pub const WAYPOINT_BOUND: &str = "istio.io/WaypointBound";
/// Says on a policy whether waypoints enforce it.
pub const WAYPOINT_ACCEPTED: &str = "WaypointAccepted";
const TAKEN_AWAY: [&str; 2] = [WAYPOINT_BOUND, WAYPOINT_ACCEPTED];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Origin, Received, ServedKind, from_json};
    use super::*;

    fn received(kind: &str, status: &Value) -> Received {
        let spec = match kind {
            "ServiceEntry" => {
                json!({"hosts": ["a.example"], "ports": [{"name": "http", "number": 80}], "resolution": "DNS"})
            }
            "KubernetesGateway" => {
                json!({"gatewayClassName": "c", "listeners": [{"name": "l", "port": 1, "protocol": "HBONE"}]})
            }
            "Service" => json!({"ports": [{"port": 80}]}),
            _ => json!({"hosts": ["a.example"], "http": [{"route": [{"destination": {"host": "b"}}]}]}),
        };
        let object = json!({"metadata": {"name": "n", "namespace": "a"}, "spec": spec, "status": status});
        let kind = ServedKind::all().find(|known| known.key() == kind).expect("a kind");
        from_json(kind, &object.to_string(), &Origin { file: "f".into(), document: 1 })
    }

    fn status(kind: &str, status: &Value) -> (ObjectStatus, u64) {
        let object = received(kind, status).object.expect("a valid object");
        (object.status, object.digest)
    }

    #[test]
    fn addresses_are_read_and_what_is_none_is_named() {
        let good = json!([
            {"host": "A.example", "value": "240.240.0.1"}, {"host": "a.example", "value": "2001:2:0:0::1"},
            {"host": "a.example", "value": "240.240.0.1"},
        ]);
        let expected = ["240.240.0.1", "2001:2::1"].map(|value| HostAddress {
            host: Host::parse("a.example").expect("a host"),
            value: value.parse().expect("an address"),
        });
        assert_eq!(status("ServiceEntry", &json!({ "addresses": good })).0.addresses, expected);
        assert_eq!(HostAddress::read(&good), (expected.to_vec(), false));
        assert_eq!(HostAddress::read(&json!([good[0], good[1]])), (expected.to_vec(), true));
        let bad = json!([
            {"host": "a.example", "value": "nowhere"}, {"host": "*.example", "value": "240.240.0.2"}, 7,
            {"host": "a.example", "value": "240.240.0.3"},
        ]);
        let received = received("ServiceEntry", &json!({ "addresses": bad }));
        let read = received.object.expect("a valid object").status.addresses;
        assert_eq!(read.len(), 1);
        assert_eq!(HostAddress::read(&bad), (read, false));
        let fields: Vec<_> = received.findings.iter().map(|finding| finding.field.as_str()).collect();
        let expected = ["status.addresses[0].value", "status.addresses[1].host", "status.addresses[2].host"];
        assert!(expected.iter().all(|field| fields.contains(field)), "{fields:?}");
        assert_eq!(HostAddress::read(&json!(null)), (Vec::new(), true));
        assert_eq!(HostAddress::read(&json!("none")), (Vec::new(), false));
    }

    #[test]
    fn only_what_is_read_back_makes_a_version_differ() {
        let bound = |message: &str| {
            json!({"conditions": [
                {"type": WAYPOINT_BOUND, "status": "True", "message": message, "lastTransitionTime": message},
                {"type": "Other", "status": message},
            ]})
        };
        for kind in ["Service", "ServiceEntry"] {
            let (none, one, other) =
                (status(kind, &json!({})), status(kind, &bound("a")), status(kind, &bound("b")));
            assert_eq!(one, other);
            assert_ne!(none.1, one.1, "{kind}");
            assert_eq!(one.0.conditions.iter().map(|it| &**it).collect::<Vec<_>>(), [WAYPOINT_BOUND]);
        }
        assert_eq!(status("VirtualService", &bound("a")).0, ObjectStatus::default());
    }

    #[test]
    fn a_gateway_with_an_address_is_served() {
        let address = json!({"addresses": [{"type": "Hostname", "value": "w.a.svc"}]});
        assert!(status("KubernetesGateway", &address).0.is_served);
        assert!(!status("KubernetesGateway", &json!({"addresses": []})).0.is_served);
    }
}

//! As what a process asks a control plane: what it calls itself, and what it wants to be told.

use std::net::IpAddr;

use mesh_ca::authorize::{NodeName, NodeNameError, node_identity};
use mesh_core::id::{SpiffeId, TrustDomain};
use mesh_core::machine::registered_name;
use mesh_proto::discovery::Node;
use mesh_proto::names::{self, ResourceType};
use mesh_proto::protocol;
use prost_types::{Struct, Value, value::Kind};

use crate::config::Namespaced;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subscriber {
    /// The proxy of a node.
    Node(String),
    /// A gateway, which is told the certificates of its namespace.
    Gateway(Namespaced),
    /// The node of a machine that is the workload of a WorkloadEntry.
    Machine(Machine),
}

/// A machine, and who it is in the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Its WorkloadEntry.
    pub entry: Namespaced,
    /// What it registers with, if somebody else makes that.
    pub group: Option<Joining>,
    node: String,
}

/// What a machine says of itself to be registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joining {
    /// The name of its WorkloadGroup, of the entry's namespace.
    pub group: String,
    /// Its address.
    pub address: IpAddr,
    /// The network of that.
    pub network: String,
}

impl Machine {
    /// The machine of a WorkloadEntry that somebody has written.
    pub fn of_entry(entry: Namespaced) -> Self {
        Self { node: entry.to_string(), entry, group: None }
    }

    /// A machine that registers with a WorkloadGroup.
    pub fn of_group(group: &Namespaced, address: IpAddr, network: &str) -> Self {
        let address = address.to_canonical();
        let name = registered_name(&group.name, address, network);
        let entry = Namespaced { namespace: group.namespace.clone(), name };
        let joining = Joining { group: group.name.clone(), address, network: network.to_owned() };
        Self { node: entry.to_string(), entry, group: Some(joining) }
    }
}

impl Subscriber {
    /// The node whose pods are local; empty for a gateway.
    pub fn node(&self) -> &str {
        match self {
            Self::Node(name) => name,
            Self::Machine(machine) => &machine.node,
            Self::Gateway(_) => "",
        }
    }

    /// A name for directories.
    pub fn file_name(&self) -> String {
        match self {
            Self::Node(name) => name.clone(),
            Self::Gateway(Namespaced { namespace, name }) => format!("{namespace}.{name}"),
            Self::Machine(machine) => machine.node.replace('/', "."),
        }
    }

    /// Whether whatever it shows at first is exchanged for a certificate of its own, which it renews by itself from then on.
    /// Nobody brings a machine new tokens.
    pub fn exchanges_tokens(&self) -> bool {
        matches!(self, Self::Machine(_))
    }

    /// The identity that it gets for a join token: a node its node's; a gateway whatever the token is for, of which
    /// this is the best guess.
    pub fn identity(&self, domain: &TrustDomain) -> Result<SpiffeId, String> {
        match self {
            Self::Node(name) => NodeName::parse(name)
                .map(|name| node_identity(domain, &name))
                .map_err(|error: NodeNameError| error.to_string()),
            Self::Gateway(Namespaced { namespace, name })
            | Self::Machine(Machine { entry: Namespaced { namespace, name }, .. }) => {
                SpiffeId::new(domain, namespace, name).map_err(|error| format!("the name {error}"))
            }
        }
    }

    /// What it wants to be told.
    pub(super) fn kinds(&self) -> impl Iterator<Item = ResourceType> {
        let is_node = !matches!(self, Self::Gateway(_));
        // Keys are not for nodes, and what only a pod's node needs is not for gateways.
        let other = if is_node { ResourceType::Credential } else { ResourceType::LocalPod };
        ResourceType::ALL.into_iter().filter(move |kind| *kind != other)
    }

    /// What it calls itself. Istio's control plane takes nobody who is none of its kinds of proxies or has no address,
    /// and looks at neither again.
    pub(super) fn describe(&self) -> Node {
        let text = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
        let (id, fields) = match self {
            Self::Node(name) => (
                format!("ztunnel~{NO_ADDRESS}~{name}.nodes~nodes.svc.cluster.local"),
                vec![("NODE_NAME", text(name)), ("GENERATOR", text("ambient"))],
            ),
            Self::Machine(machine) => {
                let Namespaced { namespace, name } = &machine.entry;
                let mut fields = vec![("NODE_NAME", text(&machine.node)), ("NAMESPACE", text(namespace))];
                let mut address = NO_ADDRESS.to_owned();
                if let Some(Joining { group, address: own, network }) = &machine.group {
                    address = own.to_string();
                    fields.extend([(names::GROUP, text(group)), (names::INSTANCE_IPS, text(&address))]);
                    fields.extend((!network.is_empty()).then(|| (names::NETWORK, text(network))));
                }
                (format!("ztunnel~{address}~{name}.{namespace}~{namespace}.svc.cluster.local"), fields)
            }
            Self::Gateway(gateway) => {
                let Namespaced { namespace, name } = gateway;
                let id = format!("router~{NO_ADDRESS}~{name}.{namespace}~{namespace}.svc.cluster.local");
                (id, vec![(names::GATEWAY, text(&gateway.to_string())), ("NAMESPACE", text(namespace))])
            }
        };
        let version = (protocol::FIELD, text(&protocol::own().to_string()));
        let fields =
            fields.into_iter().chain([version]).map(|(key, value)| (key.to_owned(), value)).collect();
        Node { id, cluster: String::new(), metadata: Some(Struct { fields }) }
    }
}

/// In place of an address of one's own.
const NO_ADDRESS: &str = "0.0.0.0";

#[cfg(test)]
mod tests {
    use super::*;

    fn gateway() -> Subscriber {
        Subscriber::Gateway(Namespaced { namespace: "edge".to_owned(), name: "shop".to_owned() })
    }

    #[test]
    fn keys_are_asked_for_by_gateways_only() {
        let asks = |who: &Subscriber| who.kinds().any(|kind| kind == ResourceType::Credential);
        assert!(!asks(&Subscriber::Node("n1".to_owned())) && asks(&gateway()));
    }

    #[test]
    fn everybody_has_a_name() {
        let domain = TrustDomain::default();
        assert_eq!(gateway().identity(&domain).unwrap().uri(), "spiffe://cluster.local/ns/edge/sa/shop");
        assert!(Subscriber::Node("N_1".to_owned()).identity(&domain).is_err());
        let fields = gateway().describe().metadata.unwrap().fields;
        assert_eq!(fields["GATEWAY"].kind, Some(Kind::StringValue("edge/shop".to_owned())));
        assert!(!fields.contains_key("NODE_NAME"));
        let version = Some(Kind::StringValue(protocol::VERSION.to_string()));
        assert_eq!(fields[protocol::FIELD].kind, version);
    }
}

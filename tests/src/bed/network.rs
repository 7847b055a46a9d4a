//! The links and routes of a bed: nodes on a common wire, pods behind their node.
//!
//! Invariant: nothing is added to the network namespace of the machine itself, so beds with equal addresses can run
//! side by side, and whatever is made here disappears with its namespaces.

use std::fs;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::addr::{self, Pair, SERVICES_V4, SERVICES_V6};
use super::error::{Doing, Result};
use super::ip;
use super::layout::{Layout, digest, netns_path};
use crate::sys;

/// How pods are connected to their node: the two ways that CNI plugins have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// A route to each pod, no common link (as Calico and others do).
    #[default]
    Routed,
    /// One Linux bridge for all pods of the node, hairpin on (as the `bridge` plugin does).
    Bridged,
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "routed" => Ok(Self::Routed),
            "bridged" => Ok(Self::Bridged),
            other => Err(format!("{other:?} is neither \"routed\" nor \"bridged\"")),
        }
    }
}

/// A node's place in the network.
#[derive(Debug, Clone)]
pub(crate) struct NodeNet {
    pub(crate) name: String,
    /// From 1; part of all its addresses.
    pub(crate) number: u8,
    pub(crate) netns: String,
    pub(crate) address: Pair,
}

/// A pod's place in the network.
#[derive(Debug, Clone)]
pub(crate) struct PodNet {
    pub(crate) netns: String,
    pub(crate) address: Pair,
    /// The interface at the node's end.
    pub(crate) veth: String,
}

impl PodNet {
    /// The interface name for a pod: the node's end is found by the pod's UID, whatever its name is.
    pub(crate) fn new(netns: String, address: Pair, uid: &str) -> Self {
        Self { netns, address, veth: format!("veth{:010x}", digest(&uid) & 0xff_ffff_ffff) }
    }
}

/// Makes the wire and the nodes `node-1` to `node-<count>`. The first answer names the wire's namespace.
pub(crate) fn make_nodes(layout: &Layout, count: u8, network: Network) -> Result<(String, Vec<NodeNet>)> {
    let wire = layout.reserve_netns(&["wire"])?;
    let mut nodes = Vec::new();
    for number in 1..=count {
        let name = format!("node-{number}");
        let netns = layout.reserve_netns(&[&name])?;
        nodes.push(NodeNet { name, number, netns, address: addr::node(number) });
    }
    let names: Vec<&str> =
        [wire.as_str()].into_iter().chain(nodes.iter().map(|n| n.netns.as_str())).collect();
    make_namespaces(&names)?;
    ip::sysctls(&wire, WIRE_SETTINGS)?;
    for node in &nodes {
        ip::sysctls(&node.netns, QUICK_SETTINGS)?;
        ip::sysctls(&node.netns, NODE_SETTINGS)?;
    }
    ip::batch(Some(&wire), &wire_lines(&nodes))?;
    for node in &nodes {
        ip::batch(Some(&node.netns), &node_lines(node, &nodes, network))?;
    }
    Ok((wire, nodes))
}

/// Makes the namespaces of pods of one node and connects them.
pub(crate) fn attach_pods(node: &NodeNet, network: Network, pods: &[PodNet]) -> Result<()> {
    make_namespaces(&pods.iter().map(|p| p.netns.as_str()).collect::<Vec<_>>())?;
    for pod in pods {
        ip::sysctls(&pod.netns, QUICK_SETTINGS)?;
    }
    let lines: Vec<String> = pods.iter().flat_map(|pod| host_side_lines(node, pod, network)).collect();
    ip::batch(Some(&node.netns), &lines)?;
    for pod in pods {
        ip::batch(Some(&pod.netns), &pod_lines(node, pod, network))?;
    }
    Ok(())
}

fn make_namespaces(names: &[&str]) -> Result<()> {
    ip::batch(None, &names.iter().map(|name| format!("netns add {name}")).collect::<Vec<_>>())
}

/// Removes the name of a network namespace. The namespace and its links go with the last process or socket in it.
pub(crate) fn remove_namespace(netns: &str) -> Result<()> {
    let path = netns_path(netns);
    sys::unmount(&path).at("unmount", &path)?;
    match fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).at("remove", &path),
        _ => Ok(()),
    }
}

fn wire_lines(nodes: &[NodeNet]) -> Vec<String> {
    let mut lines = vec![
        "link set lo up".to_owned(),
        "link add wire type bridge stp_state 0 mcast_snooping 0".to_owned(),
        "link set wire up".to_owned(),
    ];
    for NodeNet { name, netns, .. } in nodes {
        lines.push(format!("link add {name} type veth peer name eth0 netns {netns}"));
        lines.push(format!("link set {name} master wire up"));
    }
    lines
}

fn node_lines(node: &NodeNet, all: &[NodeNet], network: Network) -> Vec<String> {
    let Pair { v4, v6 } = node.address;
    let mut lines = vec![
        "link set lo up".to_owned(),
        format!("addr add {v4}/24 dev eth0"),
        format!("addr add {v6}/64 dev eth0 nodad"),
        "link set eth0 up".to_owned(),
        // What the node itself sends to a service needs a route before it is translated.
        format!("route add {SERVICES_V4} dev eth0 src {v4}"),
        format!("route add {SERVICES_V6} dev eth0 src {v6}"),
    ];
    for other in all.iter().filter(|other| other.number != node.number) {
        for (network, via) in addr::pod_networks(other.number).iter().zip(other.address.both()) {
            lines.push(format!("route add {network} via {via}"));
        }
    }
    if network == Network::Bridged {
        let Pair { v4, v6 } = addr::pod(node.number, 1);
        // A bridge without an address of its own has the lowest of its ports' addresses: it would change as pods come
        // and go, and the other pods would send to the old one until their neighbour entries expire.
        let [a, b, c, d] = v4.octets();
        let mac = format!("0a:58:{a:02x}:{b:02x}:{c:02x}:{d:02x}");
        lines.push(format!("link add cni0 address {mac} type bridge stp_state 0 mcast_snooping 0"));
        lines.push(format!("addr add {v4}/24 dev cni0"));
        lines.push(format!("addr add {v6}/64 dev cni0 nodad"));
        lines.push("link set cni0 up".to_owned());
    }
    lines
}

fn host_side_lines(node: &NodeNet, pod: &PodNet, network: Network) -> Vec<String> {
    let PodNet { netns, veth, address: Pair { v4, v6 } } = pod;
    let mut lines = vec![format!("link add {veth} type veth peer name eth0 netns {netns}")];
    if network == Network::Bridged {
        lines.push(format!("link set {veth} master cni0 up"));
        lines.push(format!("link set {veth} type bridge_slave hairpin on"));
        return lines;
    }
    let node = node.address;
    lines.push(format!("addr add {GATEWAY_V4}/32 dev {veth}"));
    lines.push(format!("link set {veth} up"));
    lines.push(format!("addr add {GATEWAY_V6}/64 dev {veth} nodad"));
    lines.push(format!("route add {v4}/32 dev {veth} src {}", node.v4));
    lines.push(format!("route add {v6}/128 dev {veth} src {}", node.v6));
    lines
}

fn pod_lines(node: &NodeNet, pod: &PodNet, network: Network) -> Vec<String> {
    let Pair { v4, v6 } = pod.address;
    let mut lines = vec!["link set lo up".to_owned(), "link set eth0 up".to_owned()];
    if network == Network::Bridged {
        let gateway = addr::pod(node.number, 1);
        lines.push(format!("addr add {v4}/24 dev eth0"));
        lines.push(format!("addr add {v6}/64 dev eth0 nodad"));
        lines.push(format!("route add default via {}", gateway.v4));
        lines.push(format!("route add default via {}", gateway.v6));
        return lines;
    }
    lines.push(format!("addr add {v4}/32 dev eth0"));
    lines.push(format!("addr add {v6}/128 dev eth0 nodad"));
    lines.push(format!("route add {GATEWAY_V4} dev eth0 scope link"));
    lines.push(format!("route add default via {GATEWAY_V4} dev eth0"));
    lines.push(format!("route add default via {GATEWAY_V6} dev eth0"));
    lines
}

/// The gateway that every routed pod sees; it is the node's end of the pod's own link.
const GATEWAY_V4: &str = "169.254.1.1";
const GATEWAY_V6: &str = "fe80::1";

/// Addresses are known to be unique: without these a new address would be unusable for a second or two.
const QUICK_SETTINGS: &[(&str, &str)] = &[
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv6/conf/default/router_solicitations", "0"),
];

const NODE_SETTINGS: &[(&str, &str)] = &[
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    // A pod and its service's backend may share a bridge; a redirect would lead the pod past the translation.
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
    // Answers between pods of one bridge must pass the translation as well.
    ("net/bridge/bridge-nf-call-iptables?", "1"),
    ("net/bridge/bridge-nf-call-ip6tables?", "1"),
];

const WIRE_SETTINGS: &[(&str, &str)] = &[
    ("net/ipv6/conf/all/disable_ipv6", "1"),
    ("net/ipv6/conf/default/disable_ipv6", "1"),
    ("net/bridge/bridge-nf-call-iptables?", "0"),
    ("net/bridge/bridge-nf-call-ip6tables?", "0"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn two_nodes() -> Vec<NodeNet> {
        let node = |number| NodeNet {
            name: format!("node-{number}"),
            number,
            netns: format!("mesh-x-node-{number}"),
            address: addr::node(number),
        };
        vec![node(1), node(2)]
    }

    #[test]
    fn nodes_reach_each_others_pods() {
        let nodes = two_nodes();
        let lines = node_lines(&nodes[0], &nodes, Network::Routed);
        assert!(lines.contains(&"route add 10.244.2.0/24 via 192.168.77.2".to_owned()), "{lines:?}");
        assert!(lines.contains(&"route add fd00:244:2::/64 via fd77::2".to_owned()), "{lines:?}");
        assert!(!lines.iter().any(|l| l.contains("10.244.1.0") || l.contains("cni0")), "{lines:?}");
    }

    #[test]
    fn routed_pods_have_host_routes_and_bridged_pods_a_subnet() {
        let nodes = two_nodes();
        let pod = PodNet::new("mesh-x-default-a".into(), addr::pod(1, 2), "uid");
        assert_eq!(pod.veth.len(), 14, "interface names have 15 characters at most");
        let routed = pod_lines(&nodes[0], &pod, Network::Routed).join("\n");
        assert!(routed.contains("addr add 10.244.1.2/32 dev eth0"), "{routed}");
        assert!(routed.contains("route add default via fe80::1 dev eth0"), "{routed}");
        let bridged = pod_lines(&nodes[0], &pod, Network::Bridged).join("\n");
        assert!(bridged.contains("addr add fd00:244:1::2/64 dev eth0 nodad"), "{bridged}");
        assert!(bridged.contains("route add default via 10.244.1.1"), "{bridged}");
        let bridge = node_lines(&nodes[0], &nodes, Network::Bridged).join("\n");
        assert!(bridge.contains("link add cni0 address 0a:58:0a:f4:01:01 type bridge"), "{bridge}");
        let host = host_side_lines(&nodes[0], &pod, Network::Bridged).join("\n");
        assert!(host.contains("hairpin on"), "{host}");
    }
}

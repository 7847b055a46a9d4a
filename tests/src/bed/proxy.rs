//! What kube-proxy does on each node: connections to cluster IPs are translated to backends, for pods that the mesh
//! does not serve and for the node itself.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use super::addr::{SERVICES_V4, SERVICES_V6};
use super::services::{PortView, ServiceView};

/// The tables of one node for IPv4 or IPv6, as `iptables-restore` takes them.
pub(crate) fn tables(services: &[ServiceView], node: &str, v6: bool) -> String {
    let mut nat =
        String::from("*nat\n:PREROUTING ACCEPT\n:INPUT ACCEPT\n:OUTPUT ACCEPT\n:POSTROUTING ACCEPT\n");
    nat.push_str(":SERVICES -\n-A PREROUTING -j SERVICES\n-A OUTPUT -j SERVICES\n");
    let mut hairpin = Vec::new();
    for service in services {
        for vip in service.vips.iter().filter(|ip| ip.is_ipv6() == v6) {
            for port in &service.ports {
                let local =
                    |b: &&super::services::Backend| !service.local_only || b.node.as_deref() == Some(node);
                let backends = port.backends.iter().filter(local).map(|b| b.addr);
                let backends: Vec<SocketAddr> = backends.filter(|a| a.is_ipv6() == v6).collect();
                translate(&mut nat, (*vip, port), &backends);
                hairpin.extend(backends.iter().map(SocketAddr::ip));
            }
        }
    }
    hairpin.sort_unstable();
    hairpin.dedup();
    for ip in hairpin {
        // A pod that calls its own service would drop a packet that comes back from itself.
        let ip = prefix(ip);
        line(&mut nat, &format!("POSTROUTING -m conntrack --ctstate DNAT -s {ip} -d {ip} -j MASQUERADE"));
    }
    nat.push_str("COMMIT\n");
    nat.push_str(&refusals(if v6 { SERVICES_V6 } else { SERVICES_V4 }));
    nat
}

/// A rule for each backend; each takes its share of what the rules before it have left.
fn translate(nat: &mut String, (vip, port): (IpAddr, &PortView), backends: &[SocketAddr]) {
    for (index, backend) in backends.iter().enumerate() {
        let PortView { number, protocol, .. } = port;
        let left = u32::try_from(backends.len() - index).unwrap_or(1);
        let share = match left {
            1 => String::new(),
            _ => format!("-m statistic --mode random --probability {:.10} ", 1.0 / f64::from(left)),
        };
        let vip = prefix(vip);
        line(
            nat,
            &format!(
                "SERVICES -d {vip} -p {protocol} --dport {number} {share}-j DNAT --to-destination {backend}"
            ),
        );
    }
}

/// What still has a service's address when it is routed has no backend: refused at once, as kube-proxy does.
fn refusals(range: &str) -> String {
    let mut filter = String::from("*filter\n:INPUT ACCEPT\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\n");
    for chain in ["FORWARD", "OUTPUT"] {
        line(&mut filter, &format!("{chain} -d {range} -j REJECT"));
    }
    filter.push_str("COMMIT\n");
    filter
}

fn line(table: &mut String, rule: &str) {
    writeln!(table, "-A {rule}").expect("writing to a string cannot fail");
}

fn prefix(ip: IpAddr) -> String {
    format!("{ip}/{}", if ip.is_ipv6() { 128 } else { 32 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bed::manifests::Key;
    use crate::bed::services::Backend;

    fn service(local_only: bool) -> ServiceView {
        let backend = |a: &str, n: &str| Backend { addr: a.parse().unwrap(), node: Some(n.to_owned()) };
        ServiceView {
            key: Key::new("default", "web"),
            manifest: k8s_openapi::api::core::v1::Service::default(),
            vips: vec!["10.96.1.1".parse().unwrap(), "fd96::1".parse().unwrap()],
            local_only,
            ports: vec![PortView {
                number: 80,
                protocol: "tcp".to_owned(),
                backends: vec![
                    backend("10.244.1.2:8080", "node-1"),
                    backend("10.244.2.2:8080", "node-2"),
                    backend("[fd00:244:1::2]:8080", "node-1"),
                ],
            }],
            slices: Vec::new(),
            members: Vec::new(),
        }
    }

    #[test]
    fn backends_share_evenly() {
        let text = tables(&[service(false)], "node-1", false);
        assert!(text.contains(
            "-A SERVICES -d 10.96.1.1/32 -p tcp --dport 80 -m statistic --mode random --probability 0.5000000000 \
             -j DNAT --to-destination 10.244.1.2:8080\n"
        ));
        assert!(text.contains(
            "-A SERVICES -d 10.96.1.1/32 -p tcp --dport 80 -j DNAT --to-destination 10.244.2.2:8080\n"
        ));
        assert!(text.contains("-s 10.244.2.2/32 -d 10.244.2.2/32 -j MASQUERADE"));
        assert!(!text.contains("fd"), "{text}");
    }

    #[test]
    fn families_and_nodes_are_kept_apart() {
        let v6 = tables(&[service(false)], "node-1", true);
        assert!(
            v6.contains("-d fd96::1/128 -p tcp --dport 80 -j DNAT --to-destination [fd00:244:1::2]:8080\n"),
            "{v6}"
        );
        let local = tables(&[service(true)], "node-2", false);
        assert!(local.contains("10.244.2.2:8080") && !local.contains("10.244.1.2:8080"), "{local}");
    }

    #[test]
    fn what_has_no_backend_is_refused() {
        let text = tables(&[], "node-1", false);
        assert!(text.contains("-A FORWARD -d 10.96.0.0/12 -j REJECT\n"), "{text}");
    }
}

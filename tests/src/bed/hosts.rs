//! Names: what `/etc/hosts` and `/etc/resolv.conf` say inside a pod.
//!
//! There is no DNS server on the bed, so the hosts file holds every service under each name that a cluster's DNS
//! would answer to from that pod.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::services::ServiceView;

/// The hosts file of a pod.
pub(crate) fn hosts(pod: &str, namespace: &str, ips: &[IpAddr], services: &[ServiceView]) -> String {
    let mut text = String::from("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n");
    for ip in ips {
        line(&mut text, *ip, pod);
    }
    for service in services {
        let names = names(service, namespace);
        for vip in &service.vips {
            line(&mut text, *vip, &names);
        }
        let full = format!("{}.{}.svc.{DOMAIN}", service.key.name, service.key.namespace);
        for (ip, host) in &service.members {
            line(&mut text, *ip, &format!("{names} {host}.{full}"));
        }
    }
    text
}

/// The resolver's configuration of a pod, with the search list that a kubelet writes.
pub(crate) fn resolv_conf(namespace: &str) -> String {
    format!("search {namespace}.svc.{DOMAIN} svc.{DOMAIN} {DOMAIN}\nnameserver {DNS}\noptions ndots:5\n")
}

/// All names of a service as seen from a namespace, the full one first.
fn names(service: &ServiceView, from: &str) -> String {
    let name = &service.key.name;
    let qualified = format!("{name}.{}", service.key.namespace);
    let mut names = format!("{qualified}.svc.{DOMAIN} {qualified}.svc {qualified}");
    if service.key.namespace == from {
        names.push(' ');
        names.push_str(name);
    }
    names
}

fn line(text: &mut String, ip: IpAddr, names: &str) {
    writeln!(text, "{ip} {names}").expect("writing to a string cannot fail");
}

const DOMAIN: &str = "cluster.local";

/// Where clusters usually have their DNS service.
const DNS: &str = "10.96.0.10";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bed::manifests::Key;

    fn service(namespace: &str, vips: &[&str], members: &[(&str, &str)]) -> ServiceView {
        ServiceView {
            key: Key::new(namespace, "web"),
            manifest: k8s_openapi::api::core::v1::Service::default(),
            vips: vips.iter().map(|ip| ip.parse().unwrap()).collect(),
            local_only: false,
            ports: Vec::new(),
            slices: Vec::new(),
            members: members.iter().map(|(ip, host)| (ip.parse().unwrap(), (*host).to_owned())).collect(),
        }
    }

    #[test]
    fn short_names_are_for_the_own_namespace() {
        let services = [service("a", &["10.96.1.1", "fd96::1"], &[]), service("b", &["10.96.1.2"], &[])];
        let text = hosts("client", "a", &["10.244.1.2".parse().unwrap()], &services);
        assert!(text.contains("10.244.1.2 client\n"), "{text}");
        assert!(text.contains("\n10.96.1.1 web.a.svc.cluster.local web.a.svc web.a web\n"), "{text}");
        assert!(text.contains("\nfd96::1 web.a.svc.cluster.local web.a.svc web.a web\n"), "{text}");
        assert!(text.contains("\n10.96.1.2 web.b.svc.cluster.local web.b.svc web.b\n"), "{text}");
    }

    #[test]
    fn headless_services_name_their_pods() {
        let text = hosts("client", "b", &[], &[service("a", &[], &[("10.244.1.3", "web-0")])]);
        let names = "web.a.svc.cluster.local web.a.svc web.a web-0.web.a.svc.cluster.local";
        assert!(text.contains(&format!("10.244.1.3 {names}\n")), "{text}");
    }

    #[test]
    fn resolvers_search_the_namespace_first() {
        assert!(
            resolv_conf("shop")
                .starts_with("search shop.svc.cluster.local svc.cluster.local cluster.local\n")
        );
    }
}

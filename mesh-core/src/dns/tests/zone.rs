//! Which names are answered, with what, and to whom.

use std::sync::Arc;

use super::*;
use crate::model::{CompileOptions, Snapshot, Workload, compile};
use crate::resource::{SourceFile, parse};

const MESH: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: client, namespace: shop}, spec: {nodeName: n1, containers: [{name: c, image: i}]},
 status: {phase: Running, podIP: 10.0.0.9, podIPs: [{ip: 10.0.0.9}, {ip: 'fd00::9'}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: old, namespace: other}, spec: {nodeName: n1, containers: [{name: c, image: i}]},
 status: {phase: Running, podIP: 10.0.0.8}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, 'fd96::1'], selector: {app: web}, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: hidden, namespace: shop, annotations: {networking.istio.io/exportTo: '.'}}, spec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: db, namespace: shop}, spec: {clusterIP: None, selector: {app: db}, ports: [{name: sql, port: 5432, targetPort: 5433}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: all, namespace: shop}, spec: {clusterIP: None, selector: {tier: all}, ports: [{name: http, port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: named, namespace: shop}, spec: {clusterIP: 10.96.0.3, selector: {app: db}, ports: [{name: sql, port: 5432, targetPort: 5433}, {name: more, port: 99}, {name: dns, port: 5432, targetPort: 53, protocol: UDP}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: plain, namespace: shop, labels: {tier: all}}, spec: {nodeName: n2, containers: [{name: c, image: i}]},
 status: {phase: Running, podIP: 10.0.2.1, podIPs: [{ip: 10.0.2.1}, {ip: 'fd00::2:1'}], conditions: [{type: Ready, status: 'True'}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: alias, namespace: shop}, spec: {type: ExternalName, externalName: real.example}}
---
{apiVersion: v1, kind: Service, metadata: {name: in, namespace: shop}, spec: {type: ExternalName, externalName: also.shop.svc.cluster.local}}
---
{apiVersion: v1, kind: Service, metadata: {name: also, namespace: shop}, spec: {type: ExternalName, externalName: web.shop.svc.cluster.local}}
---
{apiVersion: v1, kind: Service, metadata: {name: entry, namespace: shop}, spec: {type: ExternalName, externalName: own.example}}
---
{apiVersion: v1, kind: Service, metadata: {name: round, namespace: shop}, spec: {type: ExternalName, externalName: round.shop.svc.cluster.local}}
---
{apiVersion: v1, kind: Service, metadata: {name: digits, namespace: shop}, spec: {type: ExternalName, externalName: 192.0.2.1}}
---
{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: given, namespace: shop}, spec: {hosts: [api.example], resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP}], endpoints: [{address: 192.0.2.1}]}}
---
{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: own, namespace: shop}, spec: {hosts: [own.example], addresses: [192.0.2.50], exportTo: ['.'], resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP}], endpoints: [{address: 192.0.2.2}]}}
---
{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: any, namespace: shop}, spec: {hosts: ['*.wild.example'], addresses: [192.0.2.60], resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP}], endpoints: [{address: 192.0.2.3}]}}
---
{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: deep, namespace: shop}, spec: {hosts: ['*.deep.wild.example'], addresses: [192.0.2.61], resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP}], endpoints: [{address: 192.0.2.4}]}}
---
{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: none, namespace: shop}, spec: {hosts: [none.example], ports: [{number: 80, name: http, protocol: HTTP}]}}
---
{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: bare, namespace: shop, labels: {networking.istio.io/enable-autoallocate-ip: 'false'}}, spec: {hosts: [bare.example], resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP}], endpoints: [{address: 192.0.2.70}, {address: 192.0.2.71}]}}
";

fn db(index: u8, ready: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: db-{index}, namespace: shop, labels: {{app: db}}, \
         ownerReferences: [{{apiVersion: apps/v1, kind: StatefulSet, name: db, uid: x, controller: true}}]}}, \
         spec: {{nodeName: n2, containers: [{{name: c, image: i}}]}}, \
         status: {{phase: Running, podIP: 10.0.1.{index}, conditions: [{{type: Ready, status: '{ready}'}}]}}}}\n"
    )
}

struct Case {
    snapshot: Snapshot,
    pod: Arc<Workload>,
}

fn case(pod: &str) -> Case {
    let yaml = [MESH, &db(1, "True"), &db(2, "True"), &db(3, "False")].concat();
    let parsed = parse(&SourceFile { name: "test.yaml", text: &yaml });
    let options = CompileOptions { node: "n1".to_owned(), ..CompileOptions::default() };
    let snapshot = compile(&parsed.objects, &options).snapshot;
    let pod = snapshot.workload_by_uid(&format!("Kubernetes//Pod/{pod}")).unwrap().clone();
    Case { snapshot, pod }
}

impl Case {
    fn answer(&self, name: &str, kind: u16) -> Answer {
        self.snapshot.answer(&self.pod, &query(name, kind), 0)
    }

    /// The addresses and the alias of a name that is known.
    fn known(&self, name: &str, kind: u16) -> (Vec<String>, Option<String>) {
        match self.answer(name, kind) {
            Answer::Known(Records { aliases, addresses, .. }) => {
                let alias = aliases.into_iter().next();
                (addresses.iter().map(ToString::to_string).collect(), alias)
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn services_have_their_addresses_under_every_name() {
    let case = case("shop/client");
    for name in ["web.shop.svc.cluster.local", "WEB.Shop.svc.cluster.LOCAL", "web.shop.svc", "web"] {
        assert_eq!(case.known(name, A).0, ["10.96.0.1"], "{name}");
        assert_eq!(case.known(name, AAAA).0, ["fd96::1"], "{name}");
    }
    assert_eq!(case.known("web.shop.svc.cluster.local", ANY).0, ["10.96.0.1", "fd96::1"]);
    // Hints for HTTPS would lead past the addresses.
    assert_eq!(case.known("web.shop.svc.cluster.local", HTTPS).0, [""; 0]);
    for name in [
        "nosuch.shop.svc.cluster.local",
        "web.other.svc.cluster.local",
        "web.shop",
        "cluster.local",
        "svc.cluster.local",
        "shop.svc.cluster.local",
        "www.example.com",
        "_http._tcp.web.shop.svc.cluster.local",
    ] {
        assert_eq!(case.answer(name, A), Answer::Elsewhere, "{name}");
    }
    assert_eq!(case.answer("web.shop.svc.cluster.local", TXT), Answer::Elsewhere);
}

/// A service of type `ExternalName`: its real names, then the addresses, if the mesh has them.
#[test]
fn aliases_lead_to_their_real_names() {
    let case = case("shop/client");
    let records = |name: &str, kind| match case.answer(name, kind) {
        Answer::Known(Records { aliases, addresses, ttl, .. }) => {
            assert_eq!(ttl, 5, "{name}");
            let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            format!("{} {}", aliases.join(" "), addresses.join(" "))
        }
        Answer::Follow(Aliases { names, ttl }) => format!("ask for {}, {ttl}", names.join(" ")),
        Answer::Fail(code) => format!("{code:?}"),
        Answer::Elsewhere => "elsewhere".to_owned(),
    };
    let web = "also.shop.svc.cluster.local web.shop.svc.cluster.local";
    for (name, kind, expected) in [
        ("in.shop.svc.cluster.local", A, format!("{web} 10.96.0.1")),
        ("in", AAAA, format!("{web} fd96::1")),
        ("in.shop.svc", ANY, format!("{web} 10.96.0.1 fd96::1")),
        ("in.shop.svc.cluster.local", CNAME, "also.shop.svc.cluster.local ".to_owned()),
        ("in.shop.svc.cluster.local", HTTPS, "also.shop.svc.cluster.local ".to_owned()),
        ("entry.shop.svc.cluster.local", A, "own.example 192.0.2.50".to_owned()),
        ("alias.shop.svc.cluster.local", A, "ask for real.example, 5".to_owned()),
        ("alias.shop.svc.cluster.local", AAAA, "ask for real.example, 5".to_owned()),
        ("alias.shop.svc.cluster.local", CNAME, "real.example ".to_owned()),
        ("alias.shop.svc.cluster.local", TXT, "elsewhere".to_owned()),
        ("round.shop.svc.cluster.local", A, "ServerFailure".to_owned()),
        ("digits.shop.svc.cluster.local", A, "NoSuchName".to_owned()),
        ("web.shop.svc.cluster.local", CNAME, "elsewhere".to_owned()),
        ("alias.other.svc.cluster.local", A, "elsewhere".to_owned()),
    ] {
        assert_eq!(records(name, kind), expected, "{name} {kind}");
    }
    // What is another namespace's own is not known there under an alias either.
    let other = self::case("other/old");
    let entry = other.answer("entry.shop.svc.cluster.local", A);
    assert!(matches!(entry, Answer::Follow(Aliases { names, .. }) if names == ["own.example"]));
}

#[test]
fn headless_services_have_their_ready_endpoints() {
    let case = case("shop/client");
    assert_eq!(case.known("db.shop.svc.cluster.local", A).0, ["10.0.1.1", "10.0.1.2"]);
    assert_eq!(
        case.known("db.shop.svc.cluster.local", AAAA).0,
        [""; 0],
        "there is such a name, without IPv6"
    );
    assert_eq!(case.known("db-2.db.shop.svc.cluster.local", A).0, ["10.0.1.2"]);
    for name in [
        "db-3.db.shop.svc.cluster.local",
        "db-9.db.shop.svc.cluster.local",
        "db-1.web.shop.svc.cluster.local",
    ] {
        assert_eq!(case.answer(name, A), Answer::Elsewhere, "{name}");
    }
    // Not everybody begins with the same.
    let first = |seed| match case.snapshot.answer(&case.pod, &query("db.shop.svc.cluster.local", A), seed) {
        Answer::Known(records) => records.addresses[0].to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!([first(0), first(1), first(u64::MAX)], ["10.0.1.1", "10.0.1.2", "10.0.1.2"]);
}

#[test]
fn hosts_of_service_entries_have_addresses_that_they_have_or_were_given() {
    let case = case("shop/client");
    assert_eq!(case.known("own.example", A).0, ["192.0.2.50"]);
    let (given, alias) = case.known("api.example", A);
    assert!(given[0].starts_with("240.240.") && given.len() == 1 && alias.is_none(), "{given:?}");
    let (given6, _) = case.known("API.example", AAAA);
    assert!(given6[0].starts_with("2001:2:"), "{given6:?}");
    // The address leads to the entry.
    let to = format!("{}:80", given[0]).parse().unwrap();
    let crate::model::Target::Service { service, .. } = case.snapshot.resolve_for("shop", to) else {
        panic!("{given:?} leads nowhere")
    };
    assert_eq!(&*service.hostname, "api.example");
    // The domain of the pod is what its resolver tries first.
    for domain in ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local"] {
        let (found, alias) = case.known(&format!("api.example.{domain}"), A);
        assert_eq!((found, alias.as_deref()), (given.clone(), Some("api.example")), "{domain}");
    }
    assert_eq!(case.answer("api.example.other.svc.cluster.local", A), Answer::Elsewhere);
    // Without addresses those of the endpoints, and of what is anywhere nobody knows them here.
    assert_eq!(case.known("bare.example", A).0, ["192.0.2.70", "192.0.2.71"]);
    assert_eq!(case.answer("none.example", A), Answer::Elsewhere);
    assert_eq!(case.answer("api.example", TXT), Answer::Elsewhere);
}

#[test]
fn the_longest_wildcard_counts() {
    let case = case("shop/client");
    for (name, expected) in [
        ("a.wild.example", "192.0.2.60"),
        ("b.a.wild.example", "192.0.2.60"),
        ("a.deep.wild.example", "192.0.2.61"),
        ("deep.wild.example", "192.0.2.60"),
    ] {
        assert_eq!(case.known(name, A).0, [expected], "{name}");
    }
    assert_eq!(case.answer("wild.example", A), Answer::Elsewhere);
    let (found, alias) = case.known("a.wild.example.shop.svc.cluster.local", A);
    assert_eq!((found[0].as_str(), alias.as_deref()), ("192.0.2.60", Some("a.wild.example")));
}

#[test]
fn a_pod_is_told_what_it_sees_and_can_reach() {
    let case = case("other/old");
    assert_eq!(case.known("web.shop.svc.cluster.local", A).0, ["10.96.0.1"]);
    assert_eq!(case.known("web.shop.svc.cluster.local", AAAA).0, [""; 0], "it has no IPv6");
    for name in ["web", "hidden.shop.svc.cluster.local", "own.example"] {
        assert_eq!(case.answer(name, A), Answer::Elsewhere, "{name}");
    }
    let (found, alias) = case.known("api.example.other.svc.cluster.local", A);
    assert!(found[0].starts_with("240.240.") && alias.as_deref() == Some("api.example"));
}

impl Case {
    /// What leads to names, as text; nothing if another has to be asked.
    fn led(&self, name: &str, kind: u16) -> Option<Vec<String>> {
        let Answer::Known(records) = self.answer(name, kind) else { return None };
        assert!(records.addresses.is_empty() && records.aliases.is_empty(), "{records:?}");
        let text = |other: &Other| match other {
            Other::Pointer(host) => host.clone(),
            Other::Location { port, host } => format!("{port} {host}"),
        };
        Some(records.others.iter().map(text).collect())
    }
}

#[test]
fn named_ports_are_found_where_their_endpoints_are() {
    let case = case("shop/client");
    let led = |name: &str| case.led(name, SRV);
    let known = |all: &[&str]| Some(all.iter().map(ToString::to_string).collect::<Vec<_>>());
    let members = ["5433 db-1.db.shop.svc.cluster.local", "5433 db-2.db.shop.svc.cluster.local"];
    assert_eq!(led("_sql._tcp.db.shop.svc.cluster.local"), known(&members));
    assert_eq!(led("_SQL._tcp.db.shop.svc"), known(&members));
    assert_eq!(led("_sql._tcp.db"), known(&members));
    let own = ["5432 named.shop.svc.cluster.local"];
    assert_eq!(led("_sql._tcp.named.shop.svc.cluster.local"), known(&own));
    assert_eq!(led("_dns._udp.named.shop.svc.cluster.local"), known(&own));
    // Who has no name of its own has its address there, and is found by it.
    let addressed = led("_http._tcp.all.shop.svc.cluster.local").unwrap();
    let expected = ["80 10-0-2-1.all.shop.svc.cluster.local", "80 fd00--2-1.all.shop.svc.cluster.local"];
    assert_eq!(addressed, expected);
    assert_eq!(case.known("10-0-2-1.all.shop.svc.cluster.local", A).0, ["10.0.2.1"]);
    assert_eq!(case.known("fd00--2-1.all.shop.svc.cluster.local", AAAA).0, ["fd00::2:1"]);
    for elsewhere in [
        "_none._tcp.db.shop.svc.cluster.local",
        "_sql._udp.db.shop.svc.cluster.local",
        "_dns._tcp.named.shop.svc.cluster.local",
        "_dns._sctp.named.shop.svc.cluster.local",
        "_sql._tcp.nosuch.shop.svc.cluster.local",
        "_sql._tcp.db-1.db.shop.svc.cluster.local",
        "sql._tcp.db.shop.svc.cluster.local",
        "_http._tcp.api.example",
        "_tcp.db.shop.svc.cluster.local",
        "db.shop.svc.cluster.local",
    ] {
        assert_eq!(led(elsewhere), None, "{elsewhere}");
    }
}

#[test]
fn addresses_have_the_names_that_lead_to_them() {
    let case = case("shop/client");
    let led = |name: &str| case.led(name, PTR);
    let known = |host: &str| Some(vec![host.to_owned()]);
    assert_eq!(led("1.0.96.10.in-addr.arpa"), known("web.shop.svc.cluster.local"));
    assert_eq!(led("1.1.0.10.IN-ADDR.arpa"), known("db-1.db.shop.svc.cluster.local"));
    assert_eq!(led("1.2.0.10.in-addr.arpa"), known("10-0-2-1.all.shop.svc.cluster.local"));
    assert_eq!(led("50.2.0.192.in-addr.arpa"), known("own.example"));
    let digits =
        "fd960000000000000000000000000001".chars().rev().map(String::from).collect::<Vec<_>>().join(".");
    assert_eq!(led(&format!("{digits}.ip6.arpa")), known("web.shop.svc.cluster.local"));
    // What was given leads back to whom it was given.
    let given = case.known("api.example", A).0;
    let back = given[0].rsplit('.').collect::<Vec<_>>().join(".");
    assert_eq!(led(&format!("{back}.in-addr.arpa")), known("api.example"));
    let short = &digits[2..];
    for elsewhere in [
        "3.1.0.10.in-addr.arpa",
        "9.0.0.10.in-addr.arpa",
        "60.2.0.192.in-addr.arpa",
        "1.1.1.1.in-addr.arpa",
        "0.96.10.in-addr.arpa",
        "01.0.96.10.in-addr.arpa",
        "256.0.96.10.in-addr.arpa",
        "in-addr.arpa",
        "web.shop.svc.cluster.local",
        &format!("{short}.ip6.arpa"),
        &format!("{}g.ip6.arpa", &digits[..digits.len() - 1]),
    ] {
        assert_eq!(led(elsewhere), None, "{elsewhere}");
    }
    // Whoever does not see it is not told of it.
    let other = self::case("other/old");
    assert_eq!(other.led("2.0.96.10.in-addr.arpa", PTR), None);
    assert_eq!(other.led("50.2.0.192.in-addr.arpa", PTR), None);
}

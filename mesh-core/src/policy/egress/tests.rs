//! Names that clients choose, and where they must not lead.

use super::*;
use crate::model::{CompileOptions, compile};
use crate::resource::{SourceFile, parse};

const MESH: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: app, labels: {istio.io/dataplane-mode: ambient}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: plain}}
---
{apiVersion: v1, kind: Node, metadata: {name: n1}, spec: {podCIDRs: [10.244.0.0/16, 'fd00:10::/64']}}
---
{apiVersion: v1, kind: Pod, metadata: {name: client, namespace: app}, spec: {nodeName: n1, containers: [{name: c, image: i}]}, status: {phase: Running, podIP: 10.244.0.1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: other, namespace: plain}, spec: {nodeName: n1, containers: [{name: c, image: i}]}, status: {phase: Running, podIP: 10.9.9.9}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: app}, spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}]}}
---
{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: fixed, namespace: app}, spec: {hosts: [fixed.example], addresses: [192.0.2.10], resolution: STATIC, ports: [{name: http, number: 80, protocol: HTTP}], endpoints: [{address: 192.0.2.11}]}}
---
{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: any, namespace: app}, spec: {hosts: ['*.wild.example'], resolution: DYNAMIC_DNS, ports: [{name: http, number: 80, protocol: HTTP}]}}
";

fn snapshot() -> Snapshot {
    let parsed = parse(&SourceFile { name: "f.yaml", text: MESH });
    assert_eq!(parsed.rejected, [], "{:?}", parsed.findings);
    compile(&parsed.objects, &CompileOptions::default()).snapshot
}

#[test]
fn a_name_leads_to_nothing_of_the_mesh_and_to_nothing_of_everybodys_own() {
    let snapshot = snapshot();
    let source = snapshot.workload_by_uid("Kubernetes//Pod/app/client").unwrap().clone();
    let service = snapshot.service_by_host(&"*.wild.example".into(), "app").unwrap().clone();
    let target = Target::Service { service, port: 0 };
    for (to, allowed) in [
        ("203.0.113.7:80", true),
        ("10.1.2.3:80", true),
        ("192.168.0.1:80", true),
        ("[2001:db8::7]:80", true),
        ("[fd12::7]:80", true),
        ("[::ffff:203.0.113.7]:80", true),
        ("[64:ff9b::203.0.113.7]:80", true),
        // Whoever asks, itself.
        ("127.0.0.1:80", false),
        ("127.1.2.3:80", false),
        ("[::1]:80", false),
        ("[::ffff:127.0.0.1]:80", false),
        ("[::127.0.0.1]:80", false),
        ("[64:ff9b::127.0.0.1]:80", false),
        ("[2002:7f00:1::]:80", false),
        ("0.0.0.0:80", false),
        ("0.1.2.3:80", false),
        ("[::]:80", false),
        // The link, with the cloud's metadata.
        ("169.254.169.254:80", false),
        ("[::ffff:169.254.169.254]:80", false),
        ("[64:ff9b::a9fe:a9fe]:80", false),
        ("[fe80::1]:80", false),
        // Everybody.
        ("224.0.0.1:80", false),
        ("255.255.255.255:80", false),
        ("240.240.0.1:80", false),
        ("[ff02::1]:80", false),
        // The mesh.
        ("10.96.0.1:80", false),
        ("10.96.0.1:81", false),
        ("10.244.0.1:80", false),
        ("10.244.7.7:80", false),
        ("[fd00:10::5]:80", false),
        ("10.9.9.9:80", false),
        ("192.0.2.10:80", false),
    ] {
        let to: SocketAddr = to.parse().unwrap();
        assert_eq!(snapshot.may_be_named(to), allowed, "{to}");
        assert_eq!(snapshot.permit_egress(&source, to, &target).is_ok(), allowed, "{to} from a pod");
        assert_eq!(snapshot.permit_gateway(to, &target).is_ok(), allowed, "{to} from a gateway");
    }
}

#[test]
fn only_names_that_the_entry_is_for_are_looked_up() {
    let snapshot = snapshot();
    let service = snapshot.service_by_host(&"*.wild.example".into(), "app").unwrap();
    for (asked, expected) in [
        ("a.wild.example", Some("a.wild.example")),
        ("A.b.Wild.example.", Some("a.b.wild.example")),
        ("wild.example", None),
        ("awild.example", None),
        ("a.wild.example.evil", None),
        ("*.wild.example", None),
        ("127.0.0.1", None),
        ("", None),
        (".wild.example", None),
        ("a..wild.example", None),
    ] {
        assert_eq!(service.name_for(asked).as_deref(), expected, "{asked}");
    }
    let fixed = snapshot.service_by_host(&"fixed.example".into(), "app").unwrap();
    assert_eq!(fixed.name_for("fixed.example"), None, "its endpoints are known");
}

//! What clients are told of the TLS of Services, over changes of what it depends on.

use crate::cluster::BackendTrust;
use crate::model::world::World;
use crate::model::{CompileOptions, Record};
use crate::resource::{self, Object, SourceFile};

fn objects(yaml: &str) -> Vec<Object> {
    let parsed = resource::parse(&SourceFile { name: "test.yaml", text: yaml });
    assert!(parsed.rejected.is_empty(), "{:?}", parsed.findings);
    parsed.objects
}

fn policy(name: &str, port: &str, host: &str) -> Object {
    objects(&format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: BackendTLSPolicy, metadata: {{name: {name}, namespace: app}}, \
         spec: {{targetRefs: [{{group: '', kind: Service, name: web{port}}}], \
         validation: {{caCertificateRefs: [{{group: '', kind: ConfigMap, name: ca}}], hostname: {host}}}}}}}"
    ))
    .remove(0)
}

fn map(text: &str) -> Object {
    let yaml = format!(
        "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: ca, namespace: app}}, data: {{ca.crt: '{text}'}}}}"
    );
    objects(&yaml).remove(0)
}

/// `PORT HOST TRUST` for each port of the Service, if it was told anew.
fn told(world: &mut World) -> String {
    let services = world.commit().into_iter().filter_map(|(_, record)| match record {
        Some(Record::Service(service)) => Some(service),
        _ => None,
    });
    let ports = services.flat_map(|service| service.ports.clone());
    let shown = ports.map(|port| match &port.tls {
        None => format!("{} plain", port.number),
        Some(tls) => {
            let trust = match &tls.trust {
                BackendTrust::System => "system",
                BackendTrust::Authorities(text) => text.trim_matches('-'),
                BackendTrust::Nobody => "nobody",
            };
            format!("{} {} {trust}", port.number, tls.hostname)
        }
    });
    shown.collect::<Vec<_>>().join(", ")
}

#[test]
fn ports_are_told_with_the_policy_that_decides_and_what_it_trusts() {
    let service = "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: app}, spec: {ports: [{name: a, port: 1}, {name: b, port: 2}]}}";
    let mut world = World::new(CompileOptions::default());
    world.upsert(&objects(service).remove(0));
    assert_eq!(told(&mut world), "1 plain, 2 plain");
    // Nobody is trusted before it is known who is.
    world.upsert(&policy("late", "", "all.test"));
    assert_eq!(told(&mut world), "1 all.test nobody, 2 all.test nobody");
    assert!(world.wanted_secrets().iter().any(|key| key.kind == "ConfigMap" && *key.name == *"ca"));
    world.upsert(&map("-----BEGIN CERTIFICATE-----"));
    assert_eq!(told(&mut world), "1 all.test BEGIN CERTIFICATE, 2 all.test BEGIN CERTIFICATE");
    // The first by name comes before others of its age, and one that names the port before both.
    world.upsert(&policy("early", "", "first.test"));
    world.upsert(&policy("port", ", sectionName: b", "port.test"));
    assert_eq!(told(&mut world), "1 first.test BEGIN CERTIFICATE, 2 port.test BEGIN CERTIFICATE");
    world.remove(&policy("early", "", "x.test").key());
    world.upsert(&map("nothing"));
    assert_eq!(told(&mut world), "1 all.test nobody, 2 port.test nobody");
    world.remove(&policy("port", "", "x.test").key());
    world.remove(&policy("late", "", "x.test").key());
    assert_eq!(told(&mut world), "1 plain, 2 plain");
}

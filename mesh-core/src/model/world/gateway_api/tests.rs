//! What gateways are told, over changes of what it depends on.

use std::collections::BTreeMap;

use super::*;
use crate::model::{CompileOptions, CredentialScope};
use crate::resource::{self, SourceFile};

fn objects(yaml: &str) -> Vec<Object> {
    let parsed = resource::parse(&SourceFile { name: "test.yaml", text: yaml });
    assert!(parsed.rejected.is_empty(), "{:?}", parsed.findings);
    parsed.objects
}

fn world(scope: CredentialScope) -> World {
    World::new(CompileOptions { credentials: scope, ..CompileOptions::default() })
}

/// Names of what is told and taken back: Secrets by what they are told as, and the namespaces that Gateways admit.
fn news(world: &mut World) -> BTreeMap<String, String> {
    let told = world.commit().into_iter().filter_map(|(key, record)| match (key, record) {
        (RecordKey::Credential(name), record) => {
            Some((name.to_string(), if record.is_some() { "told" } else { "gone" }.to_owned()))
        }
        (RecordKey::Config(key), Some(Record::Config(config))) if key.kind == "KubernetesGateway" => {
            let Spec::KubernetesGateway(spec) = &config.object().spec else { panic!() };
            // What travels says the same as what stays.
            let name = (&*key.namespace, &*key.name);
            let read = Config::read(key.kind, name, None, config.text()).unwrap();
            let Spec::KubernetesGateway(other) = &read.object().spec else { panic!() };
            assert_eq!(spec, other);
            let selector = spec.listeners.first()?.allowed_routes.namespaces.selector.clone();
            let names =
                selector.map(|it| match it.match_expressions.into_iter().next().map(|it| it.operator) {
                    Some(Operator::In(names)) => names.join(" "),
                    other => panic!("{other:?}"),
                });
            Some((key.name.to_string(), names.unwrap_or_else(|| "nobody".to_owned())))
        }
        _ => None,
    });
    told.collect()
}

const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gw, namespace: infra}
spec:
  gatewayClassName: istio
  listeners:
  - name: https
    port: 443
    protocol: HTTPS
    tls: {certificateRefs: [{name: own}, {name: theirs, namespace: web}]}
    allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: a}}}}
";
const GRANT: &str = "
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: g, namespace: web}
spec: {from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: infra}], to: [{group: '', kind: Secret, name: theirs}]}
";
const SECRETS: &str = "
apiVersion: v1
kind: Secret
metadata: {name: own, namespace: infra}
stringData: {ca.crt: '-----BEGIN CERTIFICATE-----'}
---
apiVersion: v1
kind: Secret
metadata: {name: theirs, namespace: web}
stringData: {ca.crt: '-----BEGIN CERTIFICATE-----'}
---
apiVersion: v1
kind: Secret
metadata: {name: unnamed, namespace: infra}
stringData: {ca.crt: '-----BEGIN CERTIFICATE-----'}
";

fn pairs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn namespaces_are_told_by_name() {
    let namespace = |name: &str, team: &str| {
        objects(&format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{team: {team}}}}}"
        ))
        .remove(0)
    };
    let mut world = world(CredentialScope::Nobody);
    world.upsert(&objects(GATEWAY).remove(0));
    assert_eq!(news(&mut world), pairs(&[("gw", "nobody")]));
    world.upsert(&namespace("one", "a"));
    world.upsert(&namespace("two", "b"));
    world.upsert(&namespace("three", "a"));
    assert_eq!(news(&mut world), pairs(&[("gw", "one three")]));
    world.upsert(&namespace("one", "b"));
    world.upsert(&namespace("two", "c"));
    assert_eq!(news(&mut world), pairs(&[("gw", "three")]));
    world.remove(&namespace("three", "a").key());
    assert_eq!(news(&mut world), pairs(&[("gw", "nobody")]));
}

#[test]
fn secrets_of_others_are_told_while_they_permit_it() {
    for scope in [CredentialScope::Everybody, CredentialScope::Namespace("infra".to_owned())] {
        let mut world = world(scope);
        objects(SECRETS).iter().for_each(|object| world.upsert(object));
        assert_eq!(news(&mut world), pairs(&[]));
        world.upsert(&objects(GATEWAY).remove(0));
        assert_eq!(news(&mut world), pairs(&[("gw", "nobody"), ("infra/own", "told")]));
        let grant = objects(GRANT).remove(0);
        world.upsert(&grant);
        assert_eq!(news(&mut world), pairs(&[("infra/web/theirs", "told")]));
        world.remove(&grant.key());
        assert_eq!(news(&mut world), pairs(&[("infra/web/theirs", "gone")]));
        world.upsert(&grant);
        assert_eq!(news(&mut world), pairs(&[("infra/web/theirs", "told")]));
        world.remove(&objects(SECRETS).remove(1).key());
        assert_eq!(news(&mut world), pairs(&[("infra/web/theirs", "gone")]));
        world.upsert(&objects(SECRETS).remove(1));
        assert_eq!(news(&mut world), pairs(&[("infra/web/theirs", "told")]));
        world.remove(&objects(GATEWAY).remove(0).key());
        assert_eq!(news(&mut world), pairs(&[("infra/own", "gone"), ("infra/web/theirs", "gone")]));
    }
    let mut world = world(CredentialScope::Namespace("elsewhere".to_owned()));
    [SECRETS, GATEWAY, GRANT].iter().flat_map(|yaml| objects(yaml)).for_each(|object| world.upsert(&object));
    assert_eq!(news(&mut world), pairs(&[("gw", "nobody")]));
}

#[test]
fn authorities_of_clients_are_told_together_or_not_at_all() {
    let gateway = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gw, namespace: infra}
spec:
  gatewayClassName: istio
  tls: {frontend: {default: {validation: {caCertificateRefs: [{group: '', kind: ConfigMap, name: one}, {group: '', kind: Secret, name: own}]}}}}
  listeners: [{name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: own}]}}]
";
    let map = |text: &str| {
        objects(&format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: one, namespace: infra}}\ndata: {{ca.crt: '{text}'}}")).remove(0)
    };
    let mut world = world(CredentialScope::Namespace("infra".to_owned()));
    world.upsert(&objects(gateway).remove(0));
    world.upsert(&map("-----BEGIN CERTIFICATE-----"));
    assert_eq!(news(&mut world), pairs(&[("gw", "nobody")]));
    assert!(world.wanted_secrets().iter().any(|key| key.kind == "ConfigMap" && *key.name == *"one"));
    objects(SECRETS).iter().for_each(|object| world.upsert(object));
    assert_eq!(news(&mut world), pairs(&[("infra/clients/gw/443", "told"), ("infra/own", "told")]));
    world.upsert(&map("nothing"));
    assert_eq!(news(&mut world), pairs(&[("infra/clients/gw/443", "gone")]));
}

#[test]
fn what_gateways_show_to_servers_and_what_listener_sets_name_is_told() {
    let yaml = "
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: gw, namespace: infra}, spec: {gatewayClassName: istio,
  tls: {backend: {clientCertificateRef: {name: own}}}, allowedListeners: {namespaces: {from: Selector, selector: {matchLabels: {team: a}}}},
  listeners: [{name: a, port: 80, protocol: HTTP}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: ListenerSet, metadata: {name: s, namespace: web}, spec: {parentRef: {name: gw, namespace: infra},
  listeners: [{name: a, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: theirs}]}, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: a}}}}}]}}";
    let mut world = world(CredentialScope::Namespace("infra".to_owned()));
    [SECRETS, yaml].iter().flat_map(|yaml| objects(yaml)).for_each(|object| world.upsert(&object));
    assert_eq!(news(&mut world), pairs(&[("gw", "nobody"), ("infra/own", "told")]));
    let namespace =
        objects("apiVersion: v1\nkind: Namespace\nmetadata: {name: web, labels: {team: a}}").remove(0);
    world.upsert(&namespace);
    let told = world.commit();
    let sets = told.iter().filter_map(|(_, record)| match record {
        Some(Record::Config(config)) => match &config.object().spec {
            Spec::ListenerSet(set) => Some(set.listeners[0].allowed_routes.namespaces.selector.clone()),
            _ => None,
        },
        _ => None,
    });
    let [Some(selector)] = &sets.collect::<Vec<_>>()[..] else { panic!("{told:?}") };
    assert_eq!(selector.match_expressions[0].operator, Operator::In(vec!["web".to_owned()]));
    let alias = |(key, record): &(RecordKey, Option<Record>)| match key {
        RecordKey::Credential(name) => Some((name.to_string(), record.is_some())),
        _ => None,
    };
    assert_eq!(told.iter().filter_map(alias).collect::<Vec<_>>(), [("infra/web/theirs".to_owned(), true)]);
    world.remove(&namespace.key());
    assert_eq!(news(&mut world), pairs(&[("gw", "nobody"), ("infra/web/theirs", "gone")]));
}

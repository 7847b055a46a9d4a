use super::*;
use crate::model::{CompileOptions, Mirror, Record, RecordKey, compile};
use crate::resource::{SourceFile, parse};

fn snapshot(yaml: &str) -> Snapshot {
    let parsed = parse(&SourceFile { name: "f.yaml", text: yaml });
    assert_eq!(parsed.rejected, [], "{:?}", parsed.findings);
    compile(&parsed.objects, &CompileOptions::default()).snapshot
}

fn alias(name: &str, real: &str, more: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap();
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: {namespace}{more}}}, \
         spec: {{type: ExternalName, externalName: {real}, ports: [{{port: 80}}]}}}}\n---\n"
    )
}

const WEB: &str = "
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}]}}
---
";
const OWN: &str = ", annotations: {networking.istio.io/exportTo: '.'}";

fn names(names: &[&str]) -> Lead {
    Lead::To(names.iter().map(|name| (*name).into()).collect())
}

#[test]
fn an_alias_leads_through_others_to_what_is_none() {
    let yaml = [
        alias("shop/one", "two.shop.svc.cluster.local", ""),
        alias("shop/two", "web.shop.svc.cluster.local.", ""),
        alias("shop/out", "real.example", ""),
        WEB.to_owned(),
    ];
    let snapshot = snapshot(&yaml.concat());
    let full = |name: &str| format!("{name}.shop.svc.cluster.local");
    assert_eq!(snapshot.follow(&full("one"), "any"), Some(names(&[&full("two"), &full("web")])));
    assert_eq!(snapshot.follow(&full("out"), "any"), Some(names(&["real.example"])));
    assert_eq!(snapshot.follow(&full("web"), "any"), None);
    // Whoever sends to an alias means what it leads to.
    let service =
        |host: &str| snapshot.service_by_host(&host.into(), "any").map(|it| it.hostname.to_string());
    assert_eq!(service(&full("one")), Some(full("web")));
    assert_eq!(service(&full("out")), None);
    assert_eq!(snapshot.service_count(), 1, "an alias is no service");
}

#[test]
fn what_leads_nowhere_says_so() {
    let chain: Vec<_> = (0..=MAX_ALIASES)
        .map(|n| alias(&format!("a/n{n}"), &format!("n{}.a.svc.cluster.local", n + 1), ""))
        .collect();
    let yaml = [
        alias("a/self", "self.a.svc.cluster.local", ""),
        alias("a/x", "y.a.svc.cluster.local", ""),
        alias("a/y", "x.a.svc.cluster.local", ""),
        alias("a/into", "x.a.svc.cluster.local", ""),
        alias("a/digits", "192.0.2.1", ""),
        chain.concat(),
    ];
    let snapshot = snapshot(&yaml.concat());
    let lead = |name: &str| snapshot.follow(&format!("{name}.a.svc.cluster.local"), "a");
    for name in ["self", "x", "into", "n0"] {
        assert_eq!(lead(name), Some(Lead::Round), "{name}");
    }
    assert_eq!(lead("digits"), Some(Lead::Nowhere));
    // One less is not too many.
    assert!(matches!(lead("n1"), Some(Lead::To(names)) if names.len() == MAX_ALIASES));
}

#[test]
fn an_alias_is_for_whom_it_is_exported_to() {
    let hidden = alias("a/hidden", "real.example", OWN);
    let through = alias("b/through", "hidden.a.svc.cluster.local", "");
    let snapshot = snapshot(&[hidden, through].concat());
    assert_eq!(snapshot.follow("hidden.a.svc.cluster.local", "a"), Some(names(&["real.example"])));
    assert_eq!(snapshot.follow("hidden.a.svc.cluster.local", "b"), None);
    let last = |namespace: &str| snapshot.real("through.b.svc.cluster.local", namespace);
    assert_eq!(last("a").as_deref(), Some("real.example"));
    assert_eq!(last("b").as_deref(), Some("hidden.a.svc.cluster.local"));
    let mesh = "{apiVersion: v1, kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, data: {mesh: 'defaultServiceExportTo: [.]'}}\n---\n";
    let other = self::snapshot(&[mesh.to_owned(), alias("a/out", "real.example", "")].concat());
    assert_eq!(other.follow("out.a.svc.cluster.local", "b"), None);
    assert!(other.follow("out.a.svc.cluster.local", "a").is_some());
}

/// Whoever says where a host really is knows better.
#[test]
fn a_service_entry_of_the_same_host_comes_first() {
    let entry = "{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: e, namespace: a}, spec: \
                 {hosts: [out.a.svc.cluster.local], addresses: [192.0.2.7], resolution: STATIC, ports: [{name: tcp, number: 80}]}}\n---\n";
    let snapshot = snapshot(&[alias("a/out", "real.example", ""), entry.to_owned()].concat());
    assert_eq!(snapshot.follow("out.a.svc.cluster.local", "a"), None);
    assert!(snapshot.service_by_host(&"out.a.svc.cluster.local".into(), "a").is_some());
}

#[test]
fn an_alias_travels_with_its_audience_and_goes_when_it_is_gone() {
    let text = alias("a/out", "real.example", OWN);
    let parsed = parse(&SourceFile { name: "f.yaml", text: &text });
    let config = Config::of(&parsed.objects[0]).unwrap();
    let annotations = config.annotations().map(|(key, value)| (key.clone(), value.clone()));
    let read = Config::read("Service", ("a", "out"), None, config.text()).unwrap();
    assert_ne!(read, config, "who sees it makes a difference");
    let read = read.annotated(annotations.collect::<Vec<_>>());
    assert_eq!(read, config);
    let mut mirror = Mirror::new("n");
    let key = config.key();
    mirror.apply(Record::Config(Arc::new(read)));
    assert_eq!(mirror.snapshot().follow("out.a.svc.cluster.local", "a"), Some(names(&["real.example"])));
    assert_eq!(mirror.snapshot().follow("out.a.svc.cluster.local", "b"), None);
    mirror.remove(&RecordKey::Config(key));
    assert_eq!(mirror.snapshot().follow("out.a.svc.cluster.local", "a"), None);
    let plain = parse(&SourceFile { name: "f.yaml", text: WEB });
    assert!(Config::of(&plain.objects[0]).is_none(), "other Services are told otherwise");
}

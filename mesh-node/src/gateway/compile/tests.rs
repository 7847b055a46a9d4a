use mesh_core::model::{CompileOptions, compile};
use mesh_core::own::Sightings;
use mesh_core::resource::{SourceFile, parse};
use mesh_core::route::ListenerProtocol;

use super::*;

/// What `istio-system/istio-ingressgateway` makes of these manifests.
fn outcome(yaml: &str, bind: &[&str]) -> Outcome {
    let parsed = parse(&SourceFile { name: "t.yaml", text: yaml });
    assert!(parsed.rejected.is_empty(), "{:?}", parsed.findings);
    let mut sightings = Sightings::of("istio-system", "istio-ingressgateway", []);
    parsed.objects.iter().for_each(|object| sightings.apply(object));
    let snapshot = compile(&parsed.objects, &CompileOptions::default()).snapshot;
    let inputs = Inputs {
        doors: Doors::Gateways,
        snapshot: Arc::new(snapshot),
        own: Arc::new(sightings.own()),
        addresses: bind.iter().map(|ip| ip.parse().unwrap()).collect(),
        before: BTreeMap::new(),
    };
    inputs.compile(&mut Files::default())
}

fn gateway(name: &str, servers: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{ name: {name} }}\nspec:\n  \
         selector: {{ istio: ingressgateway }}\n  servers:\n{servers}"
    )
}

fn addresses(outcome: &Outcome) -> Vec<(String, ListenerProtocol)> {
    let wanted = outcome.wanted.iter();
    wanted.map(|(address, serving)| (address.to_string(), serving.protocol())).collect()
}

const SERVICE: &str = "
---
apiVersion: v1
kind: Service
metadata: { name: istio-ingressgateway, namespace: istio-system }
spec:
  selector: { istio: ingressgateway }
  ports: [{ name: http2, port: 80, targetPort: 8080 }, { name: tcp, port: 9000 }]
";
const HTTP: &str = "  - { port: { number: 80, name: http, protocol: HTTP }, hosts: ['*'] }\n";

#[test]
fn gateways_that_select_this_one_are_listened_for() {
    use ListenerProtocol::{Http, Tcp, Tls};
    let servers = format!(
        "{HTTP}  - {{ port: {{ number: 443, name: tls, protocol: TLS }}, hosts: ['*'], tls: {{ mode: PASSTHROUGH }} }}
  - {{ port: {{ number: 9000, name: tcp, protocol: TCP }}, hosts: ['*'] }}\n"
    );
    let ours = gateway("ours", &servers);
    let others = gateway("others", HTTP).replace("istio: ingress", "istio: egress").replace("80", "81");
    let all = outcome(&[&ours, &*others].concat(), &["127.0.0.1"]);
    let expected = [("127.0.0.1:80", Http), ("127.0.0.1:443", Tls), ("127.0.0.1:9000", Tcp)];
    assert_eq!(addresses(&all), expected.map(|(address, protocol)| (address.to_owned(), protocol)));
    assert!(all.findings.is_empty(), "{:?}", all.findings);
}

#[test]
fn ports_of_the_service_lead_to_those_of_the_pod() {
    let all = outcome(&[SERVICE, &gateway("ours", HTTP)].concat(), &["0.0.0.0", "::"]);
    let names: Vec<_> = addresses(&all).into_iter().map(|(address, _)| address).collect();
    assert_eq!(names, ["0.0.0.0:8080", "[::]:8080"]);
    let serving: Vec<_> = all.wanted.values().collect();
    assert!(Arc::ptr_eq(serving[0], serving[1]));
    assert_eq!(serving[0].select(None).unwrap().key.port, 80, "rules know the port of the Service");
}

#[test]
fn what_cannot_be_served_is_said() {
    let servers = "  - { port: { number: 80, name: a, protocol: HTTP }, hosts: ['*'], bind: 127.0.0.7 }
  - { port: { number: 0, name: b, protocol: HTTP }, hosts: ['*'], bind: 'unix:///run/gateway' }
  - { port: { number: 80, name: c, protocol: TCP }, hosts: ['*'] }
  - { port: { number: 80, name: d, protocol: HTTP }, hosts: ['*'] }
";
    let all = outcome(&gateway("ours", servers), &["127.0.0.7"]);
    assert_eq!(addresses(&all), [("127.0.0.7:80".to_owned(), ListenerProtocol::Http)]);
    let findings: Vec<_> = all.findings.iter().map(String::as_str).collect();
    let expected = [
        "Gateway default/ours: 127.0.0.7:80 is served for another Gateway",
        "Gateway default/ours: Unix domain sockets are not served: /run/gateway",
    ];
    assert_eq!(findings[..2], expected);
    assert!(findings[2].starts_with("Gateway default/ours: spec.servers[3] is left out: "), "{findings:?}");
}

use super::*;
use crate::model::{CompileOptions, CredentialScope, Mirror, Snapshot};
use crate::resource::{SourceFile, parse};

const GATEWAY: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: { name: gw, namespace: anywhere }
spec:
  selector: { istio: ingressgateway }
  servers:
  - port: { number: 443, name: https, protocol: HTTPS }
    hosts: ['*']
    tls: { mode: MUTUAL, credentialName: shop }
";

fn secret(namespace: &str, name: &str, text: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{ name: {name}, namespace: {namespace} }}\n\
         stringData: {{ cert: {text}, key: very-secret }}\n"
    )
}

struct Bed {
    world: World,
    mirror: Mirror,
}

impl Bed {
    fn new(credentials: CredentialScope) -> Self {
        let options = CompileOptions { credentials, ..CompileOptions::default() };
        Self { world: World::new(options), mirror: Mirror::new("") }
    }

    fn apply(&mut self, yaml: &str) -> Snapshot {
        let parsed = parse(&SourceFile { name: "t.yaml", text: yaml });
        assert!(parsed.rejected.is_empty(), "{:?}", parsed.findings);
        parsed.objects.iter().for_each(|object| self.world.upsert(object));
        self.snapshot()
    }

    fn remove(&mut self, kind: &'static str, namespace: &str, name: &str) -> Snapshot {
        self.world.remove(&ObjectKey { kind, namespace: namespace.into(), name: name.into() });
        self.snapshot()
    }

    fn snapshot(&mut self) -> Snapshot {
        for (key, record) in self.world.commit() {
            match record {
                Some(record) => self.mirror.apply(record),
                None => self.mirror.remove(&key),
            }
        }
        self.mirror.snapshot()
    }
}

fn names(snapshot: &Snapshot) -> Vec<String> {
    snapshot.credentials().map(|credential| credential.name.to_string()).collect()
}

#[test]
fn only_what_a_gateway_names_is_told() {
    let all = [
        GATEWAY,
        &secret("edge", "shop", "a"),
        &secret("edge", "shop-cacert", "b"),
        &secret("edge", "other", "c"),
    ];
    for (scope, expected) in [
        (CredentialScope::Nobody, &[][..]),
        (CredentialScope::Namespace("edge".to_owned()), &["edge/shop", "edge/shop-cacert"]),
        (CredentialScope::Namespace("anywhere".to_owned()), &[]),
        (CredentialScope::Everybody, &["edge/shop", "edge/shop-cacert"]),
    ] {
        for order in [all.to_vec(), all.iter().rev().copied().collect()] {
            let snapshot = Bed::new(scope.clone()).apply(&order.join("---\n"));
            assert_eq!(names(&snapshot), expected, "{scope:?}");
        }
    }
}

#[test]
fn what_a_rule_names_is_told_as_well() {
    let rule = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: { name: out, namespace: edge }
spec:
  host: db.example
  trafficPolicy:
    tls: { mode: SIMPLE, credentialName: 'configmap://edge/roots' }
    portLevelSettings:
    - { port: { number: 5432 }, tls: { mode: MUTUAL, credentialName: db } }
  subsets:
  - { name: v1, trafficPolicy: { tls: { mode: MUTUAL, credentialName: v1 } } }
";
    let mut bed = Bed::new(CredentialScope::Namespace("edge".to_owned()));
    let secrets = ["db", "db-cacert", "v1", "roots", "other"].map(|name| secret("edge", name, "a"));
    let all = [rule, &secret("elsewhere", "db", "a"), &secrets.join("---\n")].join("---\n");
    assert_eq!(names(&bed.apply(&all)), ["edge/db", "edge/db-cacert", "edge/v1"]);
    assert!(names(&bed.remove("DestinationRule", "edge", "out")).is_empty());
}

#[test]
fn what_changes_is_told_again_and_what_nobody_names_is_withdrawn() {
    let mut bed = Bed::new(CredentialScope::Everybody);
    let first = bed.apply(&[GATEWAY, &secret("edge", "shop", "a")].join("---\n"));
    let second = bed.apply(&secret("edge", "shop", "b"));
    let text = |snapshot: &Snapshot| {
        let secret = snapshot.credential("edge", "shop").unwrap();
        secret.certificate.as_ref().unwrap().expose().to_vec()
    };
    assert_eq!((text(&first), text(&second)), (b"a".to_vec(), b"b".to_vec()));
    assert_ne!(first.credential_generation(), second.credential_generation());
    let again = bed.apply(&secret("edge", "shop", "b"));
    assert_eq!(second.credential_generation(), again.credential_generation());
    let named = bed.apply(&GATEWAY.replace("name: gw", "name: second"));
    assert_eq!(names(&named), ["edge/shop"]);
    assert_eq!(
        names(&bed.remove("Gateway", "anywhere", "gw")),
        ["edge/shop"],
        "the other one still names it"
    );
    assert!(names(&bed.apply(&GATEWAY.replace("name: gw", "name: second").replace("shop", "x"))).is_empty());
    assert_eq!(names(&bed.apply(GATEWAY)), ["edge/shop"]);
    assert!(names(&bed.remove("Secret", "edge", "shop")).is_empty());
}

#[test]
fn a_source_is_told_which_to_read() {
    let pod = |namespace: &str, istio: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{ name: p, namespace: {namespace}, labels: {{ istio: {istio} }} }}\n\
             spec: {{ containers: [{{ name: c, image: i }}] }}\n"
        )
    };
    let mut bed = Bed::new(CredentialScope::Everybody);
    bed.apply(&[GATEWAY, &pod("edge", "ingressgateway"), &pod("other", "egressgateway")].join("---\n"));
    let wanted = |bed: &Bed| bed.world.wanted_secrets().iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(wanted(&bed), ["Secret edge/shop", "Secret edge/shop-cacert"]);
    bed.remove("Pod", "edge", "p");
    assert!(wanted(&bed).is_empty());
    let mut nobody = Bed::new(CredentialScope::Nobody);
    nobody.apply(&[GATEWAY, &pod("edge", "ingressgateway")].join("---\n"));
    assert!(wanted(&nobody).is_empty());
}

#[test]
fn nothing_shows_what_is_in_them() {
    let mut bed = Bed::new(CredentialScope::Everybody);
    let snapshot = bed.apply(&[GATEWAY, &secret("edge", "shop", "a")].join("---\n"));
    let shown = [
        format!("{snapshot:?}"),
        format!("{:?}", bed.world),
        format!("{:?}", bed.mirror),
        serde_json::to_string(&snapshot).unwrap(),
    ];
    for text in shown {
        assert!(!text.contains("very-secret"), "{text}");
        // As a list of bytes, which is how they would be shown.
        assert!(!text.contains("118, 101, 114, 121"), "{text}");
    }
}

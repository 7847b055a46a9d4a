use mesh_core::resource::{Origin, Rejected, SourceFile, parse};

use super::*;

fn service(port: &str, more: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: a, namespace: shop{more}}}, spec: {{ports: [{{port: {port}}}]}}}}"
    )
}

/// As it stands in a cluster.
fn there(text: &str) -> Parsed {
    let mut parsed = parse(&SourceFile { name: "there", text });
    for object in &mut parsed.objects {
        object.origin = Origin::in_cluster(&object.key());
    }
    parsed
}

fn here(text: &str) -> Parsed {
    parse(&SourceFile { name: "here.yaml", text })
}

#[test]
fn what_is_applied_takes_the_place_of_what_was_there_and_its_age() {
    let there = there(&service("80", ", creationTimestamp: '2020-01-01T00:00:00Z', uid: one"));
    let both = apply(&there, &here(&service("81", "")));
    let [object] = &both.objects[..] else { panic!("{:?}", both.objects) };
    assert_eq!(object.origin.to_string(), "here.yaml:1");
    assert_eq!(
        object.meta.creation_timestamp,
        there.objects.first().and_then(|it| it.meta.creation_timestamp)
    );
    assert_eq!(object.meta.uid.as_deref(), Some("one"));
}

#[test]
fn what_would_be_refused_changes_nothing() {
    let both = apply(&there(&service("80", "")), &here(&service("eighty", "")));
    let origins: Vec<_> = both.objects.iter().map(|object| object.origin.to_string()).collect();
    assert_eq!(origins, ["Service shop/a"]);
    assert!(both.findings.iter().any(|finding| finding.origin.to_string() == "here.yaml:1"));
}

#[test]
fn what_was_wrong_with_it_before_is_not_said_any_more() {
    let mut before = here(&service("eighty", ""));
    let key = before.rejected.first().and_then(|it| it.key.clone()).expect("a key");
    let origin = Origin::in_cluster(&key);
    before.rejected = vec![Rejected { origin: origin.clone(), key: Some(key) }];
    before.findings.iter_mut().for_each(|finding| finding.origin = origin.clone());
    let both = apply(&before, &here(&service("80", "")));
    assert!(both.rejected.is_empty() && both.findings.is_empty(), "{both:?}");
}

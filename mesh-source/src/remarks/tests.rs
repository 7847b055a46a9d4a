use mesh_core::model::CompileOptions;
use mesh_core::resource::{Level, Object, Origin, SourceFile, parse};

use super::*;

fn finding(reason: &str) -> Finding {
    let origin = Origin { file: "a.yaml".into(), document: 1 };
    Finding { origin, level: Level::Warning, field: "spec".into(), reason: reason.into(), hint: None }
}

fn object(text: &str) -> Object {
    let parsed = parse(&SourceFile { name: "b.yaml", text });
    parsed.objects.into_iter().next().expect("an object")
}

/// A policy that is refused what it asks for at layer 4.
fn policy(rule: &str) -> Object {
    object(&format!(
        "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: p, namespace: a}}, \
         spec: {{action: DENY, rules: [{{{rule}}}]}}}}"
    ))
}

#[test]
fn lines_are_made_anew_only_when_there_is_something_new() {
    let mut world = World::new(CompileOptions::default());
    let mut remarks = Remarks::default();
    remarks.update(&world);
    assert!(remarks.lines().is_empty());

    remarks.set(About::Source, vec![finding("one")]);
    remarks.update(&world);
    let lines = Arc::clone(remarks.lines());
    assert_eq!(lines.iter().collect::<Vec<_>>(), ["a.yaml:1 Warning spec: one"]);

    // The same again, and a change that nothing is to be said about.
    remarks.set(About::Source, vec![finding("one")]);
    world.upsert(&object("{apiVersion: v1, kind: Namespace, metadata: {name: a}}"));
    world.commit();
    remarks.update(&world);
    assert!(Arc::ptr_eq(remarks.lines(), &lines));

    world.upsert(&policy("when: [{key: 'experimental.envoy.filters.a.b[c]', values: [x]}]"));
    world.commit();
    remarks.update(&world);
    assert_eq!(remarks.lines().len(), 2, "{:?}", remarks.lines());
    assert_eq!(remarks.iter().count(), 2);

    world.upsert(&policy("to: [{operation: {ports: ['80']}}]"));
    world.commit();
    remarks.update(&world);
    remarks.set(About::Source, Vec::new());
    remarks.update(&world);
    assert!(remarks.lines().is_empty(), "{:?}", remarks.lines());
}

//! Manifests that are wrong: each is refused alone, with its place, its reason and a way out, and what was good stays.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    bed::{Bed, NodeHandle},
    scenario::{Dialled, at, dial, eventually, manifests, start},
};

/// One document, and what the node has to say of it.
struct Case {
    name: &'static str,
    document: &'static str,
    level: &'static str,
    /// Parts of the line, in their order: field, reason, hint.
    says: &'static [&'static str],
}

const CASES: &[Case] = &[
    Case {
        name: "a YAML error",
        document: "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: [default\nspec: {}",
        level: "Error",
        says: &["line "],
    },
    Case {
        name: "an unknown field",
        document: "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
                   metadata: {name: default, namespace: mesh}\nspec: {mtsl: {mode: STRICT}}",
        level: "Error",
        says: &["spec.mtsl: ", "unknown", "(did you mean \"mtls\"?)"],
    },
    Case {
        name: "a wrong type",
        document: "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
                   metadata: {name: wrong-type, namespace: mesh}\nspec: {rules: [{to: [{operation: {ports: 7000}}]}]}",
        level: "Error",
        says: &["spec.rules[0].to[0].operation.ports: ", "expected", "7000"],
    },
    Case {
        name: "a bad value",
        document: "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
                   metadata: {name: bad-value, namespace: mesh}\n\
                   spec: {rules: [{from: [{source: {ipBlocks: [10.0.0.300]}}]}]}",
        level: "Error",
        says: &["spec.rules[0].from[0].source.ipBlocks[0]: ", "10.0.0.300"],
    },
    Case {
        name: "a value that is none of the known ones",
        document: "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
                   metadata: {name: strikt, namespace: mesh}\nspec: {mtls: {mode: STRIKT}}",
        level: "Error",
        says: &["spec.mtls.mode: ", "STRIKT", "STRICT"],
    },
    Case {
        name: "no name",
        document: "apiVersion: v1\nkind: ConfigMap\ndata: {}",
        level: "Error",
        says: &["metadata", "name"],
    },
    Case {
        name: "the first of two",
        document: "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
                   metadata: {name: twice, namespace: mesh}\n\
                   spec: {action: DENY, rules: [{to: [{operation: {ports: [\"7009\"]}}]}]}",
        level: "",
        says: &[],
    },
    Case {
        name: "the second of two",
        document: "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
                   metadata: {name: twice, namespace: mesh}\nspec: {action: DENY, rules: [{}]}",
        level: "Error",
        says: &["AuthorizationPolicy mesh/twice is already defined in wrong.yaml:7", "the first"],
    },
    Case {
        name: "a Telemetry whose expression is none",
        document: "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\n\
                   metadata: {name: logs, namespace: mesh}\nspec: {accessLogging: [{filter: {expression: 'response.code >='}}]}",
        level: "Warning",
        says: &["accessLogging[0].filter.expression", "nothing is filtered out"],
    },
    Case {
        name: "a kind of somebody else",
        document: "apiVersion: monitoring.coreos.com/v1\nkind: PodMonitor\nmetadata: {name: all, namespace: mesh}\nspec: {}",
        level: "Info",
        says: &["PodMonitor"],
    },
];

/// At the end of the same file, so that all that is wrong before it has not kept it out.
const GOOD: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
                    metadata: {name: closes-far, namespace: mesh}\n\
                    spec: {selector: {matchLabels: {app: far}}, action: DENY, rules: [{}]}";

/// Whether a line of the log has all these parts in this order.
fn says(log: &str, parts: &[&str]) -> bool {
    log.lines().any(|line| {
        let mut rest = line;
        parts.iter().all(|part| {
            let found = rest.split_once(part);
            rest = found.map_or(rest, |(_, behind)| behind);
            found.is_some()
        })
    })
}

/// Waits for a line with these parts.
fn told(bed: &Bed, parts: &[&str]) -> Result<()> {
    let said = bed
        .wait("a line of the log", Duration::from_secs(5), |bed| log(bed).is_ok_and(|log| says(&log, parts)));
    said.with_context(|| format!("no line with {parts:?} in\n{}", about_configuration(bed)))
}

/// What the control plane has printed so far: it is the one that reads manifests.
fn log(bed: &Bed) -> Result<String> {
    Ok(bed.control()?.log()?)
}

fn about_configuration(bed: &Bed) -> String {
    let log = log(bed).unwrap_or_default();
    log.lines().filter(|line| line.contains(" config: ")).collect::<Vec<_>>().join("\n")
}

/// What the node's dump lists under `key`, as text.
fn dumped(node: &NodeHandle<'_>, key: &str) -> Result<String> {
    let dump: serde_json::Value = serde_json::from_str(&node.admin("/config_dump")?)?;
    Ok(dump.get(key).with_context(|| format!("no {key} in the dump"))?.to_string())
}

#[test]
fn wrong_documents_are_refused_alone_and_explained() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).manifests(manifests()))?;
    let (client, node) = (bed.pod("mesh/client")?, bed.node("node-2")?);
    let (near, far) = (at(&bed.pod("mesh/near")?), at(&bed.pod("mesh/far")?));
    let documents: Vec<&str> = CASES.iter().map(|case| case.document).chain([GOOD]).collect();
    bed.write_file("wrong.yaml", &documents.join("\n---\n"))?;

    eventually(&bed, &client, &far, Dialled::refused).context("the one good document")?;
    for (index, case) in CASES.iter().enumerate() {
        let place = format!(" config: wrong.yaml:{} ", index + 1);
        if case.level.is_empty() {
            ensure!(!log(&bed)?.contains(&place), "{}:\n{}", case.name, about_configuration(&bed));
            continue;
        }
        let parts = [&[place.as_str(), case.level], case.says].concat();
        told(&bed, &parts).with_context(|| case.name.to_owned())?;
    }
    let seen = dial(&client, &[&near])?;
    ensure!(seen.served(), "what nothing good is said about works as before: {seen:?}");
    let stranger = dial(&bed.pod("outside/stranger")?, &[&near])?;
    ensure!(stranger.served(), "a STRICT with a typo is not in force: {stranger:?}");

    let policies = dumped(&node, "policies")?;
    ensure!(policies.contains("closes-far") && policies.contains("twice"), "{policies}");
    ensure!(!policies.contains("wrong-type") && !policies.contains("bad-value"), "{policies}");
    let findings = bed.control()?.debug("/debug/findings")?;
    ensure!(findings.contains("wrong.yaml:2 Error spec.mtsl"), "{findings}");
    Ok(())
}

fn closed(spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: closed, namespace: mesh}}\nspec: {spec}\n"
    )
}

/// An edit that breaks a policy leaves the last good one in force: a slip must not open what was closed. What is
/// removed is gone.
#[test]
fn a_broken_edit_changes_nothing_until_it_is_mended() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).manifests(manifests()))?;
    let (client, node) = (bed.pod("mesh/client")?, bed.node("node-2")?);
    let far = at(&bed.pod("mesh/far")?);
    let good = closed("{selector: {matchLabels: {app: far}}, action: DENY, rules: [{}]}");
    bed.write_file("policy.yaml", &good)?;
    eventually(&bed, &client, &far, Dialled::refused)?;

    let typo = closed("{selector: {matchLabels: {app: far}}, acton: DENY, rules: [{}]}");
    let torn =
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: closed, namespa";
    let type_error = closed("{selector: {matchLabels: {app: far}}, action: DENY, rules: 5}");
    for (name, text, parts) in [
        ("a typo", typo.as_str(), [" policy.yaml:1 Error", "spec.acton", "(did you mean \"action\"?)"]),
        ("half a file", torn, [" policy.yaml:1 Error", "", ""]),
        ("a wrong type", &type_error, [" policy.yaml:1 Error", "spec.rules", "expected"]),
    ] {
        let before = log(&bed)?.len();
        bed.write_file("policy.yaml", text)?;
        let fresh = bed.wait("the finding", Duration::from_secs(5), |_| {
            log(&bed).is_ok_and(|log| says(log.get(before..).unwrap_or_default(), &parts))
        });
        fresh.with_context(|| format!("{name}: no line with {parts:?} in\n{}", about_configuration(&bed)))?;
        told(&bed, &["policy.yaml:1 Warning", "mesh/closed stays in force"]).context(name)?;
        let seen = dial(&client, &[&far])?;
        ensure!(seen.refused(), "{name} opened what was closed: {seen:?}");
        ensure!(dumped(&node, "policies")?.contains("closed"), "{name}: the policy is gone from the dump");
        ensure!(
            bed.control()?.debug("/debug/findings")?.contains("stays in force"),
            "{name}: the control plane says nothing of it"
        );
    }

    bed.write_file(
        "policy.yaml",
        &closed("{selector: {matchLabels: {app: near}}, action: DENY, rules: [{}]}"),
    )?;
    eventually(&bed, &client, &far, Dialled::served).context("mended: far is open")?;
    eventually(&bed, &client, &at(&bed.pod("mesh/near")?), Dialled::refused)
        .context("mended: near is closed")?;
    told(&bed, &["Mended: policy.yaml:1 Error spec.rules"])?;
    let findings = bed.control()?.debug("/debug/findings")?;
    ensure!(findings.trim() == "[]", "{findings}");

    bed.write_file("policy.yaml", "")?;
    eventually(&bed, &client, &at(&bed.pod("mesh/near")?), Dialled::served).context("removed")?;
    Ok(())
}

/// Trouble in one file is no trouble for pods: one that comes later is enrolled and served all the same.
#[test]
fn a_node_starts_and_grows_with_a_broken_file_beside() -> Result<()> {
    let broken = "kind: Pod\napiVersion: v1\nmetadata: {name: x, namespace: mesh}\nspec: {containers: [{name: main, image: local, comand: []}]}\n";
    let bed = Bed::builder().nodes(2).begin()?;
    bed.write_file("broken.yaml", broken)?;
    bed.write_file("noise.yaml", "%&§ {{{ \u{0} not a manifest")?;
    bed.apply(&manifests())?;
    bed.wait("pods that work", Duration::from_secs(20), |bed| {
        ["mesh/client", "mesh/far"].iter().all(|name| bed.pod(name).is_ok_and(|pod| pod.status().ready))
    })?;
    let client = bed.pod("mesh/client")?;
    eventually(&bed, &client, &at(&bed.pod("mesh/far")?), Dialled::served)?;
    told(&bed, &[" broken.yaml:1 Error spec.containers[0].comand", "(did you mean \"command\"?)"])?;
    told(&bed, &[" noise.yaml:1 Error"])
}

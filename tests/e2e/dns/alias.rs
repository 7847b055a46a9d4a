//! Services of type `ExternalName`: names that lead elsewhere.

use super::*;

fn alias(name: &str, real: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: mesh}}, \
         spec: {{type: ExternalName, externalName: {real}}}}}\n---\n"
    )
}

fn aliases() -> String {
    let all = [
        ("inner", "hop.mesh.svc.cluster.local"),
        ("hop", "near.mesh.svc.cluster.local"),
        ("out", "www.out.test"),
        ("far-out", "far.out.test"),
        ("big", "big.out.test"),
        ("twice", "alias.out.test"),
        ("nosuch", "nosuch.out.test"),
        ("round", "round.mesh.svc.cluster.local"),
        ("digits", "192.0.2.1"),
    ];
    all.iter().map(|(name, real)| alias(name, real)).collect()
}

fn full(name: &str) -> String {
    format!("{name}.mesh.svc.cluster.local")
}

#[test]
fn aliases_are_answered_with_what_they_lead_to() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).manifests(names() + &aliases()))?;
    let outside = outside(&bed)?;
    let client = bed.pod("mesh/client")?;
    let near = bed.status().service_ip("mesh/near")?.to_string();
    for (server, transport) in
        [(&outside.v4, "+notcp"), (&outside.v4, "+tcp"), (&outside.v6, "+notcp"), (&outside.v6, "+tcp")]
    {
        let at = format!("@{server}");
        let known = |name: &str, kind: &str| dig(&client, &[&at, transport, &full(name), kind]);
        let dug = known("inner", "A")?;
        ensure!(
            dug.answers() == ["hop.mesh.svc.cluster.local.", "near.mesh.svc.cluster.local.", &near],
            "{dug:?}"
        );
        let dug = known("out", "A")?;
        ensure!(dug.answers() == ["www.out.test.", "203.0.113.7"], "{dug:?}");
        let dug = known("out", "AAAA")?;
        ensure!(dug.answers() == ["www.out.test.", "2001:db8::7"], "{dug:?}");
        let dug = known("out", "CNAME")?;
        ensure!(dug.answers() == ["www.out.test."], "{dug:?}");
        // An alias there as well: its addresses are those of what it is an alias of.
        let dug = known("twice", "A")?;
        ensure!(dug.answers() == ["alias.out.test.", "203.0.113.7"], "{dug:?}");
        // More than a packet holds, from there and to here.
        let dug = dig(&client, &[&at, transport, "+noedns", &full("big")])?;
        ensure!(dug.answers().len() == 61, "{dug:?}");
        let dug = known("nosuch", "A")?;
        ensure!(dug.status() == "NXDOMAIN" && dug.answers() == ["nosuch.out.test."], "{dug:?}");
        let dug = known("round", "A")?;
        ensure!(dug.status() == "SERVFAIL", "{dug:?}");
        let dug = known("digits", "A")?;
        ensure!(dug.status() == "NXDOMAIN" && dug.answers().is_empty(), "{dug:?}");
    }
    // Where nobody answers, it is a failure, and soon.
    let dug = dig(&client, &[&format!("@{CLUSTER_DNS}"), &full("out")])?;
    ensure!(dug.status() == "SERVFAIL", "{dug:?}");
    // The resolver of the C library, and a change of mind.
    let found = client.exec(&["getent", "ahostsv4", &full("inner")])?;
    let found = String::from_utf8_lossy(&found.stdout).into_owned();
    ensure!(found.starts_with(&near), "{found}");
    bed.apply(&alias("out", &full("near")))?;
    bed.wait("where it leads now", Duration::from_secs(10), |_| {
        let dug = dig(&client, &[&format!("@{}", outside.v4), &full("out")]);
        dug.is_ok_and(|dug| dug.answers() == [format!("{}.", full("near")).as_str(), near.as_str()])
    })?;
    Ok(())
}

/// Requests to an alias have the rules of what it leads to, which only their host tells.
#[test]
fn requests_to_an_alias_have_the_rules_of_what_it_leads_to() -> Result<()> {
    let bed = start(Bed::builder().nodes(2).manifests(names() + &aliases()))?;
    let outside = outside(&bed)?;
    let (client, node) = (bed.pod("mesh/client")?, bed.node("node-2")?);
    let _server = node.spawn(&["httpbin", "--port", "7100"])?;
    let status = |alias: &str| -> Result<String> {
        let (at, url) = (format!("{alias}:7100:{}", outside.v4), format!("http://{alias}:7100/headers"));
        let words = [
            "curl",
            "-sS",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "--max-time",
            "5",
            "--resolve",
            &at,
            &url,
        ];
        Ok(String::from_utf8_lossy(&client.exec(&words)?.stdout).into_owned())
    };
    let (far, other) = (full("far-out"), full("out"));
    bed.wait("an answer without any rule", Duration::from_secs(10), |_| {
        status(&far).is_ok_and(|it| it == "200")
    })?;
    bed.apply(
        "{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: far, namespace: mesh}, \
         spec: {hosts: [far.out.test], ports: [{name: http, number: 7100, protocol: HTTP}]}}\n---\n\
         {apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: far, namespace: mesh}, \
         spec: {hosts: [far.out.test], http: [{fault: {abort: {httpStatus: 418, percentage: {value: 100}}}, \
         route: [{destination: {host: far.out.test}}]}]}}",
    )?;
    bed.wait("the rule of the real name", Duration::from_secs(10), |_| {
        status(&far).is_ok_and(|it| it == "418")
    })?;
    // No rule, and no way out for what the mesh does not know.
    bed.apply(
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, \
         data: {mesh: 'outboundTrafficPolicy: {mode: REGISTRY_ONLY}'}}",
    )?;
    bed.wait("the end of the way out", Duration::from_secs(10), |_| {
        status(&other).is_ok_and(|it| it == "502")
    })?;
    ensure!(status(&far)? == "418", "an alias of what is known stays known");
    Ok(())
}

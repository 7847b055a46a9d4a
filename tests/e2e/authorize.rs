//! Who may ask for what: policies about requests, held by the node of the server.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_tests::bed::{Bed, PodHandle};
use mesh_tests::scenario::{Dialled, at, dial, eventually, logged, pod, service, start};

use crate::routing::{Answer, ask_once, until};
use crate::scrape::counted;

/// `mesh/client` and the servers `mesh/near` on node-1 and `mesh/far` on node-2, which speak HTTP at port 8080 behind services
/// that do not say so, `mesh/raw` on node-2, which speaks no HTTP, and `outside/stranger`.
fn bed() -> Result<Bed> {
    let mut all = String::from(
        "{apiVersion: v1, kind: Namespace, metadata: {name: mesh, labels: {istio.io/dataplane-mode: ambient}}}\n---\n\
         {apiVersion: v1, kind: Namespace, metadata: {name: outside}}\n---\n",
    );
    all += &pod("mesh", "client", "node-1", &["sleep", "infinity"]);
    all += &pod("outside", "stranger", "node-1", &["sleep", "infinity"]);
    all += &pod("mesh", "raw", "node-2", &["netprobe", "serve", "--port", "7000"]);
    for (name, node) in [("near", "node-1"), ("far", "node-2")] {
        all += &pod("mesh", name, node, &["httpbin"]);
        let to = service("mesh", name, &format!("app: {name}"));
        all += &to.replace("name: tcp, ", "").replace("7000", "8080");
    }
    let bed = start(Bed::builder().nodes(2).manifests(all))?;
    let client = bed.pod("mesh/client")?;
    for server in ["near", "far"] {
        until(&bed, &client, &[&format!("http://{server}.mesh/get")], |answer| answer.status == 200)?;
    }
    Ok(bed)
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: {name}, namespace: mesh}}, \
         spec: {{{spec}}}}}"
    )
}

/// Policies, and for requests (curl's words, path first) the status that each comes to; 0 is none at all.
type Row<'a> = (&'a str, &'a [(&'a [&'a str], u16)]);

const TABLE: &[Row<'_>] = &[
    (
        "rules: [{to: [{operation: {methods: [GET], paths: [\"/status/{*}\", /get]}}]}]",
        &[
            (&["/get"], 200),
            (&["/get?x=/status/200"], 200),
            (&["/status/201"], 201),
            (&["/status/201/x"], 403),
            (&["/headers"], 403),
            (&["/get", "-X", "POST"], 403),
            (&["/headers", "--http2-prior-knowledge"], 403),
        ],
    ),
    (
        "action: DENY, rules: [{to: [{operation: {paths: [/status/*]}}]}]",
        &[
            (&["/get"], 200),
            (&["/status/200"], 403),
            (&["/x/../status/200", "--path-as-is"], 403),
            (&["/%73tatus/200"], 403),
            (&["/status\\200"], 403),
            (&["/Status/200"], 404),
        ],
    ),
    (
        "action: DENY, rules: [{when: [{key: \"request.headers[x-role]\", values: [admin]}]}]",
        &[
            (&["/get"], 200),
            (&["/get", "-H", "x-role: user"], 200),
            (&["/get", "-H", "X-Role: admin"], 403),
            (&["/get", "-H", "x-role: user", "-H", "x-role: admin"], 403),
            (&["/get", "-H", "x-role: user, admin"], 403),
        ],
    ),
    // A header that the proxies keep apart from the others.
    (
        "action: DENY, rules: [{when: [{key: \"request.headers[x-b3-sampled]\", values: [\"0\"]}]}]",
        &[
            (&["/get"], 200),
            (&["/get", "-H", "x-b3-sampled: 1"], 200),
            (&["/get", "-H", "X-B3-Sampled: 0"], 403),
            (&["/get", "-H", "x-b3-sampled: 0", "--http2-prior-knowledge"], 403),
        ],
    ),
    (
        "rules: [{to: [{operation: {hosts: [shop.example]}}]}]",
        &[
            (&["/get"], 403),
            (&["/get", "-H", "host: shop.example"], 200),
            (&["/get", "-H", "host: SHOP.example:8080"], 200),
            (&["/get", "-H", "host: shop.example."], 200),
            (&["/get", "-H", "host: shop.example.org"], 403),
        ],
    ),
    (
        "rules: [{from: [{source: {principals: [\"*/sa/client\"], requestPrincipals: [\"*\"]}}]}]",
        &[(&["/get"], 403)],
    ),
    // There is no such provider, and that is no yes.
    (
        "action: CUSTOM, provider: {name: opa}, rules: [{to: [{operation: {paths: [/get]}}]}]",
        &[(&["/get"], 403), (&["/headers"], 200)],
    ),
];

fn asks(bed: &Bed, from: &PodHandle, url: &str, words: &[&str], status: u16) -> Result<Answer> {
    until(bed, from, &[&[&*format!("{url}{}", words[0])], &words[1..]].concat(), |it| it.status == status)
        .with_context(|| format!("{words:?} is to get {status}"))
}

/// The same for servers on the client's node and on another one, by their services and by their addresses.
#[test]
fn requests_are_decided_about_one_by_one() -> Result<()> {
    let bed = bed()?;
    let client = bed.pod("mesh/client")?;
    let (near, far) = (bed.pod("mesh/near")?, bed.pod("mesh/far")?);
    let urls = [
        "http://near.mesh".to_owned(),
        "http://far.mesh".to_owned(),
        format!("http://{}:8080", near.ip()),
        format!("http://{}:8080", far.ip()),
    ];
    for (spec, requests) in TABLE {
        bed.apply(&policy("p", spec))?;
        for url in &urls {
            for (words, status) in *requests {
                let answer =
                    asks(&bed, &client, url, words, *status).with_context(|| format!("{spec} {url}"))?;
                ensure!(answer.status != 403 || answer.body == "RBAC: access denied", "{answer:?}");
            }
        }
    }
    bed.delete("AuthorizationPolicy", "mesh", "p")?;
    asks(&bed, &client, &urls[0], &["/headers"], 200)?;
    Ok(())
}

/// What is refused is in the log, in the metrics and on the admin page by the policy's name; the client is told nothing of it.
#[test]
fn refusals_are_told_to_the_owner_and_not_to_the_client() -> Result<()> {
    let bed = bed()?;
    let client = bed.pod("mesh/client")?;
    bed.apply(&policy("secret-rule", "action: DENY, rules: [{to: [{operation: {paths: [/headers]}}]}]"))?;
    let answer = asks(&bed, &client, "http://far.mesh", &["/headers", "-i"], 403)?;
    ensure!(!answer.body.contains("secret"), "{answer:?}");
    let node = bed.node("node-2")?;
    logged(
        &bed,
        "node-2",
        &["rbac_access_denied_matched_policy[ns[mesh]-policy[secret-rule]-rule[0]]", "403"],
    )?;
    let labels = [("policy", "mesh/secret-rule"), ("verdict", "denied")];
    counted(&node, "mesh_policy_verdicts_total", &labels, |count| count > 0)?;
    let labels = [("reporter", "destination"), ("response_code", "403"), ("source_workload", "client")];
    counted(&node, "istio_requests_total", &labels, |count| count > 0)?;
    let state = node.admin("/state.json")?;
    ensure!(state.contains("GET far.mesh/headers") && state.contains("sa/client"), "{state}");
    // gRPC has a status of its own.
    let grpc = [
        "http://far.mesh/headers",
        "--http2-prior-knowledge",
        "-si",
        "-X",
        "POST",
        "-H",
        "content-type: application/grpc",
    ];
    let output = client.exec(&[&["curl", "--max-time", "5"], &grpc[..]].concat())?;
    let text = String::from_utf8_lossy(&output.stdout).to_lowercase();
    ensure!(text.contains("grpc-status: 7") && text.contains("grpc-message: rbac: access denied"), "{text}");
    Ok(())
}

/// What is no request gets the strict answer, and strangers are asked as everybody is.
#[test]
fn bytes_get_the_strict_answer() -> Result<()> {
    let bed = bed()?;
    let (client, stranger) = (bed.pod("mesh/client")?, bed.pod("outside/stranger")?);
    let raw = at(&bed.pod("mesh/raw")?);
    let far = format!("http://{}:8080", bed.pod("mesh/far")?.ip());
    eventually(&bed, &client, &raw, Dialled::served)?;
    bed.apply(&policy("p", "action: DENY, rules: [{to: [{operation: {methods: [DELETE]}}]}]"))?;
    eventually(&bed, &client, &raw, |seen| !seen.served())?;
    asks(&bed, &stranger, &far, &["/get", "-X", "DELETE"], 403)?;
    asks(&bed, &stranger, &far, &["/get"], 200)?;
    bed.apply(&policy("p", "rules: [{to: [{operation: {methods: [GET]}}]}]"))?;
    asks(&bed, &stranger, &far, &["/get", "-X", "DELETE"], 403)?;
    asks(&bed, &stranger, &far, &["/get"], 200)?;
    ensure!(!dial(&client, &[&raw])?.served(), "no GET");
    bed.apply(&policy(
        "p",
        "rules: [{from: [{source: {principals: [\"*\"]}}], to: [{operation: {methods: [GET]}}]}]",
    ))?;
    asks(&bed, &stranger, &far, &["/get"], 0)?;
    asks(&bed, &client, &far, &["/get"], 200)?;
    Ok(())
}

/// A request under way is cut within a second of the change that forbids it, and so is a connection whose bytes nobody has read.
#[test]
fn a_change_cuts_requests_under_way() -> Result<()> {
    let bed = bed()?;
    let client = bed.pod("mesh/client")?;
    for (name, open) in [("near", "{to: [{operation: {methods: [GET]}}]}"), ("far", "{}")] {
        let rules = format!("selector: {{matchLabels: {{app: {name}}}}}, rules: [{open}]");
        bed.apply(&policy(name, &rules))?;
        let url = format!("http://{}:8080/delay/8", bed.pod(&format!("mesh/{name}"))?.ip());
        asks(&bed, &client, &url.replace("/delay/8", ""), &["/get"], 200)?;
        let waiting = std::thread::scope(|scope| {
            let asked = scope.spawn(|| {
                let answer = ask_once(&client, &[&url]);
                (answer, Instant::now())
            });
            std::thread::sleep(Duration::from_millis(700));
            let changed = Instant::now();
            bed.apply(&policy(name, &rules.replace(open, "{to: [{operation: {methods: [PUT]}}]}")))?;
            let (answer, ended) = asked.join().expect("it asks");
            Ok::<_, anyhow::Error>((answer?, ended.duration_since(changed)))
        });
        let (answer, took) = waiting?;
        ensure!([403, 0].contains(&answer.status), "{name}: {answer:?}");
        ensure!(took < Duration::from_millis(1500), "{name}: cut after {took:?}");
    }
    Ok(())
}

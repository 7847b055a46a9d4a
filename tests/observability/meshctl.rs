//! `meshctl` as people run it, on a node of a real mesh and in a waypoint's pod.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_tests::bed::Bed;
use serde_json::Value;

/// All of it that asks a running mesh.
pub(crate) fn answers(bed: &Bed) -> Result<()> {
    who_is_there(bed)?;
    what_a_node_decides_with(bed)?;
    what_a_waypoint_decides_with(bed)?;
    what_would_become_of_requests(bed)?;
    what_policies_say(bed)?;
    what_flows(bed)?;
    what_helps(bed)
}

fn program() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    Ok(own.ancestors().nth(2).context("a target directory")?.join("meshctl"))
}

/// On the node of the control plane, which it finds without being told.
fn run(bed: &Bed, words: &[&str]) -> Result<Output> {
    let program = program()?;
    let output = bed.node("node-1")?.run_in_netns(|| Command::new(program).args(words).output())??;
    Ok(output)
}

/// What it prints, if it is satisfied.
fn said(output: &Output) -> Result<String> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{}: {text}{}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(text)
}

fn told(bed: &Bed, words: &[&str]) -> Result<String> {
    said(&run(bed, words)?).with_context(|| words.join(" "))
}

#[track_caller]
fn has(text: &str, wanted: &[&str]) -> Result<()> {
    let missing: Vec<_> = wanted.iter().filter(|it| !text.contains(**it)).collect();
    ensure!(missing.is_empty(), "{missing:?} in\n{text}");
    Ok(())
}

fn who_is_there(bed: &Bed) -> Result<()> {
    let own = env!("CARGO_PKG_VERSION");
    let version = told(bed, &["version"])?;
    has(&version, &[&format!("client version: {own}"), &format!("{own} (1 replicas)"), "(2 nodes)"])?;
    let status = told(bed, &["proxy-status"])?;
    let head = status.lines().next().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
    ensure!(head == "NAME CLUSTER ISTIOD VERSION SUBSCRIBED TYPES STATUS NODE LAST REJECTION", "{status}");
    ensure!(status.lines().count() == 4, "two nodes and a waypoint: {status}");
    for line in status.lines().skip(1) {
        has(line, &["Kubernetes", "Address,", "SYNCED"])?;
    }
    let wide = told(bed, &["proxy-status", "-o", "wide"])?;
    has(&wide, &["AUTHORIZATION", "node-2"])?;
    let yaml = told(bed, &["proxy-status", "-o", "yaml"])?;
    has(&yaml, &["subscribers:\n"])
}

fn what_a_node_decides_with(bed: &Bed) -> Result<()> {
    for (what, wanted) in [
        ("workload", &["NAMESPACE", "default    httpbin", "HBONE"][..]),
        ("service", &["SERVICE VIP", "reviews", "3/3", "default/way"]),
        ("endpoint", &["HEALTHY", "outbound|9080||reviews.default.svc.cluster.local"]),
        ("route", &["VIRTUAL SERVICE", "httpbin.default", "prefix /broken", "VirtualService"]),
        ("policy", &["POLICY NAME"]),
        ("certificate", &["VALID CERT", "/ns/default/sa/sleep", "Leaf", "Available", "true"]),
        ("connection", &["REMOTE TARGET"]),
    ] {
        has(&told(bed, &["config", what])?, wanted).with_context(|| what.to_owned())?;
        let json = told(bed, &["config", what, "-o", "json"])?;
        let json: Value = serde_json::from_str(&json).context("JSON")?;
        let yaml = told(bed, &["config", what, "-o", "yaml"])?;
        ensure!(!json.is_null() && !yaml.trim().is_empty(), "{what}: {json}");
    }
    let none = run(bed, &["config", "listener"])?;
    has(&String::from_utf8_lossy(&none.stderr), &["a node has no listeners but those inside of its pods"])?;
    let all: Value = serde_json::from_str(&told(bed, &["config", "all"])?)?;
    ensure!(all["services"].is_array() && all["certificates"].is_array(), "everything");
    ensure!(!all.to_string().contains("PRIVATE KEY"), "no keys");
    Ok(())
}

fn what_a_waypoint_decides_with(bed: &Bed) -> Result<()> {
    let (way, program) = (bed.pod("default/way-pod")?, program()?);
    let ask = |what: &'static str| -> Result<String> {
        let ask = || Command::new(&program).args(["config", what]).output();
        said(&way.run_in_netns(ask)??).with_context(|| what.to_owned())
    };
    has(&ask("route")?, &["httpbin.default"])?;
    has(&ask("certificate")?, &["Leaf", "true"])?;
    has(&ask("listener")?, &["ADDRESSES", "15008"])
}

fn what_would_become_of_requests(bed: &Bed) -> Result<()> {
    let trace = |method: &str, url: &str| run(bed, &["trace", method, url, "--from", "default/sleep"]);
    let direct = said(&trace("GET", "http://reviews:9080/reviews/0")?)?;
    has(&direct, &["service      default/reviews", "mutual TLS, or within the node; allowed"])?;
    let through = said(&trace("GET", "http://httpbin:8000/get")?)?;
    has(&through, &["waypoint     default/way at ", ":15008 decides", "default/httpbin at ", "; allowed"])?;
    let aborted = trace("GET", "http://httpbin:8000/broken")?;
    let text = String::from_utf8_lossy(&aborted.stdout).into_owned();
    ensure!(aborted.status.code() == Some(1), "{text}");
    has(&text, &["fault        all are answered with 503, flag FI, and not sent"])?;
    // And so it is.
    let sleep = bed.pod("default/sleep")?;
    for (path, status) in [("get", "200"), ("broken", "503")] {
        let url = format!("http://httpbin:8000/{path}");
        let answer = sleep.exec(&["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", &url])?;
        ensure!(answer.stdout == status.as_bytes(), "{path}: {answer:?}");
    }
    Ok(())
}

/// What `authz check` and `trace` say of a policy at the waypoint is what becomes of requests.
fn what_policies_say(bed: &Bed) -> Result<()> {
    let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
                  metadata: {name: no-posts, namespace: default}\nspec: {action: DENY,\n  \
                  targetRefs: [{kind: Service, group: '', name: httpbin}], rules: [{to: [{operation: {methods: [POST]}}]}]}\n";
    bed.apply(policy)?;
    let asked = ["authz", "check", "default/httpbin", "--waypoint", "default/way", "--from", "default/sleep"];
    let check = |method: &str| run(bed, &[&asked[..], &["--method", method, "--path", "/anything"]].concat());
    let until = Instant::now() + Duration::from_secs(15);
    let sleep = bed.pod("default/sleep")?;
    let post =
        ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-X", "POST", "http://httpbin:8000/anything"];
    while sleep.exec(&post)?.stdout != b"403" {
        ensure!(Instant::now() < until, "the policy is not in force");
        std::thread::sleep(Duration::from_millis(300));
    }
    let denied = check("POST")?;
    let text = String::from_utf8_lossy(&denied.stdout).into_owned();
    ensure!(denied.status.code() == Some(1), "{text}{}", String::from_utf8_lossy(&denied.stderr));
    has(&text, &["DENIED: ", "AuthorizationPolicy", "default/no-posts"])?;
    has(&said(&check("GET")?)?, &["ALLOWED: "])?;
    let trace = run(bed, &["trace", "POST", "http://httpbin:8000/anything", "--from", "default/sleep"])?;
    let text = String::from_utf8_lossy(&trace.stdout).into_owned();
    ensure!(trace.status.code() == Some(1), "{text}");
    has(&text, &["policy       waypoint default/way: denied: "])
}

fn what_flows(bed: &Bed) -> Result<()> {
    let sleep = bed.pod("default/sleep")?;
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        sleep.exec(&["curl", "-s", "-o", "/dev/null", "http://productpage:9080/productpage"])?;
        let top = told(bed, &["top", "--once"])?;
        if top.contains("sleep") && top.contains("productpage") && top.contains("reviews") {
            break;
        }
        ensure!(Instant::now() < until, "{top}");
        std::thread::sleep(Duration::from_secs(1));
    }
    let graph: Value = serde_json::from_str(&told(bed, &["top", "-o", "json", "--level", "app"])?)?;
    ensure!(graph["edges"].as_array().is_some_and(|edges| !edges.is_empty()), "{graph}");
    let service = told(bed, &["describe", "service", "default/httpbin"])?;
    has(&service, &["Waypoint     default/way\n", "1 of 1 ready"])?;
    has(&told(bed, &["describe", "pod", "default/sleep"])?, &["In the mesh  yes\n"])
}

/// Everything that a node and the control plane are asked for is there.
fn what_helps(bed: &Bed) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("report.tar.gz");
    let file = file.to_str().context("text")?;
    let said = told(bed, &["bug-report", "--proxy", "http://127.0.0.1:15000", "-f", file])?;
    has(&said, &["; 0 could not be had"])?;
    let one = |name: &str| -> Result<String> {
        let name = format!("mesh-bug-report/{name}");
        let output = Command::new("tar").args(["-xzOf", file, &name]).output()?;
        ensure!(output.status.success(), "{name}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    has(&one("proxy-1/metrics.txt")?, &["istio_build{"])?;
    has(&one("control/metrics.txt")?, &["pilot_xds_pushes{"])?;
    has(&one("proxy-1/config_dump.json")?, &["\"workloadState\""])?;
    ensure!(one("missing.txt")?.is_empty(), "nothing is missing");
    Ok(())
}

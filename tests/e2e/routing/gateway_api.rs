//! The Gateway API: its versions of the samples, and the conformance tests for the mesh by name, from pods on a real bed.
//! Those for gateways are in the suite `gateway-api`.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::bed::{Bed, PodHandle};
use mesh_tests::scenario::start;

use super::gateway::gateway_process;
use super::{Answer, apply, ask, ask_once, bookinfo, is_share, sample, until, versions};

#[test]
fn the_samples_work_in_words_of_the_gateway_api() -> Result<()> {
    let outside = sample("bookinfo/outside.yaml")?;
    let bed = start(Bed::builder().nodes(2).manifests([bookinfo()?, outside].join("---\n")))?;
    for file in [
        "helloworld/helloworld.yaml",
        "bookinfo/gateway-api/bookinfo-versions.yaml",
        "bookinfo/gateway-api/bookinfo-gateway.yaml",
    ] {
        apply(&bed, file)?;
    }
    for name in ["bookinfo-gateway", "helloworld-gateway"] {
        let selector = format!("gateway.networking.k8s.io/gateway-name: {name}");
        // It speaks for itself in the mesh, in a namespace whose pods nodes speak for.
        let labels = format!("{{{selector}, istio.io/dataplane-mode: none}}");
        bed.apply(&gateway_process(&bed, ("default", name), (&labels, &format!("{{{selector}}}")))?)?;
    }
    bed.wait_ready(Duration::from_secs(30), |_| ())?;
    let client = bed.pod("outside/client")?;
    let address = |name: &str| bed.status().service_ip(&format!("default/{name}")).map(|ip| ip.to_string());
    let page = format!("http://{}", address("bookinfo-gateway")?);
    let found = until(&bed, &client, &[&format!("{page}/productpage")], |answer| answer.status == 200)?;
    ensure!(found.body.contains("<title>Simple Bookstore App</title>"), "{found:?}");
    for (path, status) in [("/", 404), ("/productpagex", 404), ("/static/style.css", 200), ("/staticx", 404)]
    {
        let answer = ask_once(&client, &[&format!("{page}{path}")])?;
        ensure!(answer.status == status, "{path}: {answer:?}");
    }
    hello(&bed, &client, &format!("http://{}", address("helloworld-gateway")?)).context("helloworld")?;
    reviews(&bed).context("reviews")
}

fn hello(bed: &Bed, client: &PodHandle, host: &str) -> Result<()> {
    apply(bed, "helloworld/gateway-api/helloworld-gateway.yaml")?;
    until(bed, client, &[&format!("{host}/hello")], |answer| answer.status == 200)?;
    let answers = ask(client, &[&format!("{host}/hello?n=[1-100]")])?;
    let one = answers.iter().filter(|answer| answer.body.contains("version: v1")).count();
    ensure!(is_share(one, 100, 50.0), "{one} of 100");
    ensure!(ask_once(client, &[&format!("{host}/helloworld")])?.status == 404, "an exact path");
    Ok(())
}

fn reviews(bed: &Bed) -> Result<()> {
    let sleep = bed.pod("default/sleep")?;
    let all = "http://reviews:9080/reviews/[1-100]";
    let route = |name: &str| apply(bed, &format!("bookinfo/gateway-api/route-reviews-{name}.yaml"));
    route("v1")?;
    bed.wait("version 1 alone", Duration::from_secs(10), |_| {
        ask(&sleep, &[all]).is_ok_and(|seen| versions(&seen).is_ok_and(|it| it.keys().eq([&"1"])))
    })?;
    for (name, version, percent) in [("90-10", "2", 10.0), ("50-v3", "3", 50.0)] {
        route(name)?;
        bed.wait("the share", Duration::from_secs(10), |_| {
            let seen = ask(&sleep, &[all]).unwrap_or_default();
            versions(&seen)
                .is_ok_and(|it| it.get(version).is_some_and(|count| is_share(*count, 100, percent)))
        })?;
    }
    route("test-v2")?;
    let jason = ["-H", "end-user: jason", all];
    bed.wait("what jason sees", Duration::from_secs(10), |_| {
        let jason = ask(&sleep, &jason).unwrap_or_default();
        let others = ask(&sleep, &[all]).unwrap_or_default();
        versions(&jason).is_ok_and(|it| it.keys().eq([&"2"]))
            && versions(&others).is_ok_and(|it| it.keys().eq([&"1"]))
    })?;
    Ok(())
}

/// A mesh with `echo` in two versions, which tell what has reached them; clients of the same and of another namespace.
fn mesh() -> Result<Bed> {
    let mut documents = vec![namespace("gc"), namespace("consumer")];
    for version in ["v1", "v2"] {
        documents.push(format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: echo-{version}, namespace: gc, labels: {{app: echo, version: {version}}}}}, \
             spec: {{nodeName: node-2, containers: [{{name: echo, image: mesh/httpbin, command: [httpbin], ports: [{{containerPort: 8080}}], \
             readinessProbe: {{httpGet: {{path: /get, port: 8080}}}}}}]}}}}"
        ));
        documents.push(service(&format!("echo-{version}"), &format!("{{app: echo, version: {version}}}")));
    }
    documents.push(service("echo", "{app: echo}"));
    for name in ["gc", "consumer"] {
        documents.push(format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: client, namespace: {name}}}, \
             spec: {{nodeName: node-1, containers: [{{name: client, image: mesh/curl, command: [sleep, infinity]}}]}}}}"
        ));
    }
    start(Bed::builder().nodes(2).manifests(documents.join("\n---\n")))
}

fn namespace(name: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: {{istio.io/dataplane-mode: ambient}}}}}}"
    )
}

fn service(name: &str, selector: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: gc}}, spec: {{selector: {selector}, \
         ports: [{{name: http, port: 80, targetPort: 8080}}, {{name: http-alt, port: 8080, targetPort: 8080}}, \
         {{name: grpc, port: 7070, targetPort: 8080}}]}}}}"
    )
}

/// A route of Service `echo`.
fn route(kind: &str, namespace: &str, parent: &str, rules: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: {kind}, metadata: {{name: mesh, namespace: {namespace}}}, \
         spec: {{parentRefs: [{{group: '', kind: Service, {parent}}}], rules: [{rules}]}}}}"
    )
}

fn http(rules: &str) -> String {
    route("HTTPRoute", "gc", "name: echo, port: 80", rules)
}

fn to(version: &str) -> String {
    format!("backendRefs: [{{name: echo-{version}, port: 80}}]")
}

/// What a test does on the bed, from the client of the same namespace.
type Step = fn(&Bed, &PodHandle) -> Result<()>;

/// The answer with its head, from the Service unless the URL says otherwise.
fn head(client: &PodHandle, words: &[&str]) -> Result<String> {
    let output = client.exec(&[&["curl", "-si", "--max-time", "10"], words].concat())?;
    Ok(String::from_utf8_lossy(&output.stdout).to_lowercase())
}

/// Repeats a request until its head and body have all of `wanted`.
fn until_has(bed: &Bed, client: &PodHandle, words: &[&str], wanted: &[&str]) -> Result<()> {
    let mut last = String::new();
    let reached = bed.wait("the wanted answer", Duration::from_secs(10), |_| {
        last = head(client, words).unwrap_or_default();
        wanted.iter().all(|part| last.contains(part))
    });
    reached.with_context(|| format!("{words:?} has not {wanted:?}: {last}"))?;
    Ok(())
}

fn pod(answer: &Answer) -> &str {
    if answer.body.contains("echo-v1") {
        "v1"
    } else if answer.body.contains("echo-v2") {
        "v2"
    } else {
        ""
    }
}

#[test]
fn the_conformance_tests_for_the_mesh() -> Result<()> {
    let bed = mesh()?;
    let client = bed.pod("gc/client")?;
    let steps: [(&str, Step); 13] = [
        ("MeshBasic", basic),
        ("MeshHTTPRouteSimpleSameNamespace", simple),
        ("MeshHTTPRouteMatching, MeshHTTPRouteQueryParamMatching, MeshHTTPRouteNamedRule", matching),
        ("MeshHTTPRouteWeight, MeshTrafficSplit", weight),
        ("MeshHTTPRouteRequestHeaderModifier", headers),
        ("MeshHTTPRouteBackendRequestHeaderModifier", backend_headers),
        (
            "MeshHTTPRouteRedirectHostAndStatus, …Path, …Port, MeshHTTPRouteSchemeRedirect, MeshHTTPRoute303Redirect, …307, …308",
            redirects,
        ),
        ("MeshHTTPRouteRewritePath", rewrite),
        ("MeshFrontend, MeshFrontendHostname", frontend),
        ("MeshPorts", ports),
        ("MeshConsumerRoute", consumer),
        ("MeshGRPCRouteRequestHeaderModifier, MeshGRPCRouteWeight", grpc),
        ("the end of a route", end),
    ];
    for (name, step) in steps {
        step(&bed, &client).with_context(|| name.to_owned())?;
    }
    Ok(())
}

const ECHO: &str = "http://echo.gc/headers";

fn basic(bed: &Bed, client: &PodHandle) -> Result<()> {
    until(bed, client, &[ECHO], |answer| answer.status == 200).map(drop)
}

fn simple(bed: &Bed, client: &PodHandle) -> Result<()> {
    bed.apply(&http(&format!("{{{}}}", to("v1"))))?;
    bed.wait("version 1 alone", Duration::from_secs(10), |_| {
        ask(client, &["http://echo.gc/get?[1-30]"]).is_ok_and(|all| all.iter().all(|it| pod(it) == "v1"))
    })?;
    Ok(())
}

fn matching(bed: &Bed, client: &PodHandle) -> Result<()> {
    bed.apply(&http(&format!(
        "{{matches: [{{path: {{value: /}}}}, {{headers: [{{name: version, value: one}}]}}], {}}}, \
         {{name: named, matches: [{{path: {{value: /anything}}}}, {{headers: [{{name: version, value: two}}]}}, {{queryParams: [{{name: animal, value: whale}}]}}], {}}}",
        to("v1"),
        to("v2")
    )))?;
    until(bed, client, &["http://echo.gc/anything"], |answer| pod(answer) == "v2")?;
    for (words, version) in [
        (vec!["http://echo.gc/get"], "v1"),
        (vec!["http://echo.gc/anything/x"], "v2"),
        (vec!["http://echo.gc/headers", "-H", "version: two"], "v2"),
        (vec!["http://echo.gc/headers", "-H", "version: one"], "v1"),
        (vec!["http://echo.gc/get?animal=whale"], "v2"),
        (vec!["http://echo.gc/get?animal=dolphin"], "v1"),
        // What is like a prefix and is none.
        (vec!["http://echo.gc/headers/../get"], "v1"),
    ] {
        let answer = ask_once(client, &words)?;
        ensure!(answer.status == 200 && pod(&answer) == version, "{words:?}: {answer:?}");
    }
    Ok(())
}

fn weight(bed: &Bed, client: &PodHandle) -> Result<()> {
    bed.apply(&http(
        "{backendRefs: [{name: echo-v1, port: 80, weight: 70}, {name: echo-v2, port: 80, weight: 30}]}",
    ))?;
    bed.wait("the share", Duration::from_secs(10), |_| {
        let all = ask(client, &["http://echo.gc/get?[1-200]"]).unwrap_or_default();
        let one = all.iter().filter(|it| pod(it) == "v1").count();
        all.len() == 200 && is_share(one, 200, 70.0)
    })?;
    Ok(())
}

const MODIFIER: &str = "requestHeaderModifier: {set: [{name: X-Set, value: set}], add: [{name: X-Add, value: added}], remove: [X-Remove]}";

fn modified(bed: &Bed, client: &PodHandle, url: &str) -> Result<()> {
    until_has(
        bed,
        client,
        &[url, "-H", "x-set: old", "-H", "x-remove: gone"],
        &["\"x-set\":\"set\"", "\"x-add\":\"added\""],
    )?;
    let seen = head(client, &[url, "-H", "x-remove: gone"])?;
    ensure!(!seen.contains("x-remove"), "{seen}");
    Ok(())
}

fn headers(bed: &Bed, client: &PodHandle) -> Result<()> {
    bed.apply(&http(&format!("{{filters: [{{type: RequestHeaderModifier, {MODIFIER}}}], {}}}", to("v1"))))?;
    modified(bed, client, ECHO)
}

fn backend_headers(bed: &Bed, client: &PodHandle) -> Result<()> {
    bed.apply(&http(&format!(
        "{{backendRefs: [{{name: echo-v2, port: 80, filters: [{{type: RequestHeaderModifier, {}}}]}}]}}",
        MODIFIER.replace("value: added", "value: by-backend")
    )))?;
    until_has(bed, client, &[ECHO], &["\"x-add\":\"by-backend\"", "echo-v2"])
}

fn redirects(bed: &Bed, client: &PodHandle) -> Result<()> {
    for (filter, status, location) in [
        ("hostname: example.org", 302, "http://example.org/get/x"),
        ("hostname: example.org, statusCode: 301", 301, "http://example.org/get/x"),
        ("path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}", 302, "http://echo.gc/new/x"),
        ("path: {type: ReplaceFullPath, replaceFullPath: /full}", 302, "http://echo.gc/full"),
        ("port: 8083", 302, "http://echo.gc:8083/get/x"),
        ("scheme: https", 302, "https://echo.gc/get/x"),
        ("statusCode: 303, hostname: example.org", 303, "http://example.org/get/x"),
        ("statusCode: 307, hostname: example.org", 307, "http://example.org/get/x"),
        ("statusCode: 308, hostname: example.org", 308, "http://example.org/get/x"),
    ] {
        bed.apply(&http(&format!(
            "{{matches: [{{path: {{value: /get}}}}], filters: [{{type: RequestRedirect, requestRedirect: {{{filter}}}}}]}}"
        )))?;
        let (line, location) = (format!("http/1.1 {status} "), format!("location: {location}\r\n"));
        until_has(bed, client, &["http://echo.gc/get/x"], &[&line, &location])
            .with_context(|| filter.to_owned())?;
    }
    Ok(())
}

fn rewrite(bed: &Bed, client: &PodHandle) -> Result<()> {
    bed.apply(&http(&format!(
        "{{matches: [{{path: {{value: /anything/one}}}}], filters: [{{type: URLRewrite, urlRewrite: {{path: {{type: ReplacePrefixMatch, replacePrefixMatch: /anything/two}}}}}}], {}}}",
        to("v1")
    )))?;
    until_has(bed, client, &["http://echo.gc/anything/one/x"], &["\"url\":\"/anything/two/x\""])?;
    // No rule is for it, and what rules are for the service are all there is.
    until_has(bed, client, &["http://echo.gc/get"], &["http/1.1 404 "])
}

/// A filter of a route shows which Service it was that was asked.
const MARK: &str = "filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-Header-Set, value: MARK}]}}]";

fn frontend(bed: &Bed, client: &PodHandle) -> Result<()> {
    bed.apply(&http(&format!("{{{}, {}}}", MARK.replace("MARK", "v1"), to("v1"))))?;
    until_has(bed, client, &[ECHO], &["x-header-set: v1"])?;
    // The Service's address counts, not what the request says of its host.
    until_has(bed, client, &[ECHO, "-H", "host: echo-v2.gc"], &["x-header-set: v1", "echo-v1"])?;
    let other = head(client, &["http://echo-v2.gc/headers", "-H", "host: echo.gc"])?;
    ensure!(other.contains("echo-v2") && !other.contains("x-header-set"), "{other}");
    Ok(())
}

fn ports(bed: &Bed, client: &PodHandle) -> Result<()> {
    let alt = route(
        "HTTPRoute",
        "gc",
        "name: echo, port: 8080",
        &format!("{{{}, {}}}", MARK.replace("MARK", "alt"), to("v2")),
    );
    bed.apply(&alt.replace("name: mesh,", "name: alt,"))?;
    until_has(bed, client, &["http://echo.gc:8080/headers"], &["x-header-set: alt", "echo-v2"])?;
    until_has(bed, client, &[ECHO], &["x-header-set: v1", "echo-v1"])
}

fn consumer(bed: &Bed, client: &PodHandle) -> Result<()> {
    let grant = "{apiVersion: gateway.networking.k8s.io/v1beta1, kind: ReferenceGrant, metadata: {name: g, namespace: gc}, spec: \
        {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: consumer}], to: [{group: '', kind: Service}]}}";
    let rules = format!(
        "{{{}, backendRefs: [{{name: echo-v2, namespace: gc, port: 80}}]}}",
        MARK.replace("MARK", "consumer")
    );
    bed.apply(&route("HTTPRoute", "consumer", "name: echo, namespace: gc", &rules))?;
    let theirs = bed.pod("consumer/client")?;
    until_has(bed, &theirs, &[ECHO], &["http/1.1 500 "])?;
    bed.apply(grant)?;
    until_has(bed, &theirs, &[ECHO], &["x-header-set: consumer", "echo-v2"])?;
    until_has(bed, client, &[ECHO], &["x-header-set: v1", "echo-v1"])
}

fn grpc(bed: &Bed, client: &PodHandle) -> Result<()> {
    // The pods speak no gRPC; what counts is what reaches them, and who.
    let rules = "{matches: [{method: {service: anything}}], FILTERS backendRefs: [{name: echo-v1, port: 80, weight: 50}, {name: echo-v2, port: 80, weight: 50}]}";
    let filters = format!("filters: [{{type: RequestHeaderModifier, {MODIFIER}}}],");
    let route = route("GRPCRoute", "gc", "name: echo, port: 80", &rules.replace("FILTERS", &filters));
    bed.delete("HTTPRoute", "gc", "mesh")?;
    bed.apply(&route)?;
    modified(bed, client, "http://echo.gc/anything/Call")?;
    let all = ask(client, &["http://echo.gc/anything/Call?[1-200]"])?;
    let mut pods = BTreeMap::<&str, usize>::new();
    all.iter().for_each(|it| *pods.entry(pod(it)).or_default() += 1);
    ensure!(pods.get("v1").is_some_and(|count| is_share(*count, 200, 50.0)) && pods.len() == 2, "{pods:?}");
    until_has(bed, client, &["http://echo.gc/get"], &["http/1.1 404 "])
}

fn end(bed: &Bed, client: &PodHandle) -> Result<()> {
    bed.delete("GRPCRoute", "gc", "mesh")?;
    until_has(bed, client, &[ECHO], &["http/1.1 200 "])
}

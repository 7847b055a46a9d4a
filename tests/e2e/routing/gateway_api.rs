//! The Gateway API: its versions of the samples, from pods on a real bed. The conformance tests by name are in the suite
//! `gateway-api`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::bed::{Bed, PodHandle};
use mesh_tests::scenario::start;

use super::gateway::gateway_process;
use super::{apply, ask, ask_once, bookinfo, is_share, sample, until, versions};

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

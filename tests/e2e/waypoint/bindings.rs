//! What is bound to a waypoint, and by what.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::bed::{Bed, PodHandle};
use mesh_tests::scenario::{captured, pod};

use super::{URL, Way, bind, counted, gateway, service, waits, waypoint, with_waypoint};
use crate::routing::gateway::gateway_pod;
use crate::routing::{Answer, ask, ask_once};
use crate::scrape::Scrape;

/// The namespace of the service, with these labels besides that of capture.
fn shop(labels: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Namespace, metadata: {{name: shop, \
         labels: {{istio.io/dataplane-mode: ambient{labels}}}}}}}\n---\n"
    )
}

/// Requests that the waypoint has reported, after one more from `client`.
fn goes_through(bed: &Bed, client: &PodHandle, words: &[&str]) -> Result<bool> {
    let before = counted(bed, "istio_requests_total", &[])?;
    let answer = ask_once(client, words)?;
    ensure!(answer.status == 200, "{answer:?}");
    Ok(counted(bed, "istio_requests_total", &[])? > before)
}

fn eventually(bed: &Bed, client: &PodHandle, words: &[&str], through: bool) -> Result<()> {
    let mut last = String::new();
    let reached = bed.wait("the binding", Duration::from_secs(10), |bed| {
        match goes_through(bed, client, words) {
            Ok(now) if now == through => return true,
            other => last = format!("{other:?}"),
        }
        false
    });
    reached.with_context(|| format!("{words:?} goes through: {through}, at last {last}"))
}

#[test]
fn services_are_bound_by_themselves_and_by_their_namespace() -> Result<()> {
    let bed = with_waypoint(Way::Wire)?;
    let client = bed.pod("mesh/client")?;
    eventually(&bed, &client, &[URL], false).context("bound to nothing")?;
    bed.apply(&shop(", istio.io/use-waypoint: way"))?;
    eventually(&bed, &client, &[URL], true).context("by the namespace")?;
    bed.apply(&service("istio.io/use-waypoint: none"))?;
    eventually(&bed, &client, &[URL], false).context("but not this one")?;
    bed.apply(&shop(""))?;
    bind(&bed)?;
    eventually(&bed, &client, &[URL], true).context("by itself")?;
    // Pods are reached by their addresses as before: the waypoint is for services.
    let pod = format!("http://{}:8080/headers", bed.pod("shop/web-v1")?.ip());
    eventually(&bed, &client, &[&pod], false).context("a pod")?;
    // What is outside of the mesh, in another namespace's words.
    bed.apply(&entry(&bed, ""))?;
    let ext = ["--resolve", "ext.example:80:192.0.2.30", "http://ext.example/headers"];
    eventually(&bed, &client, &ext, false).context("a ServiceEntry that asks for nothing")?;
    bed.apply(&entry(&bed, "istio.io/use-waypoint: way, istio.io/use-waypoint-namespace: shop"))?;
    eventually(&bed, &client, &ext, true).context("a ServiceEntry")?;
    Ok(())
}

/// A ServiceEntry of another namespace, that leads to a pod.
fn entry(bed: &Bed, labels: &str) -> String {
    let ip = bed.pod("shop/web-v2").map(|pod| pod.ip().to_string()).unwrap_or_default();
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: ext, namespace: mesh, \
         labels: {{{labels}}}}}, spec: {{hosts: [ext.example], addresses: [192.0.2.30], resolution: STATIC, \
         endpoints: [{{address: {ip}}}], ports: [{{name: http, number: 80, protocol: HTTP, targetPort: 8080}}]}}}}\n---\n"
    )
}

#[test]
fn workloads_are_bound_where_a_waypoint_is_for_them() -> Result<()> {
    let bed = with_waypoint(Way::Wire)?;
    let client = bed.pod("mesh/client")?;
    let pod = bed.pod("shop/web-v1")?;
    let url = format!("http://{}:8080/headers", pod.ip());
    let connections = || {
        counted(
            &bed,
            "istio_tcp_connections_opened_total",
            &[("destination_workload", "web-v1"), ("reporter", "waypoint")],
        )
    };
    let good = |answer: &Answer| answer.status == 200;
    bed.apply(&shop(", istio.io/use-waypoint: way"))?;
    eventually(&bed, &client, &[URL], true)?;
    waits(&bed, &client, &[&url], good)?;
    ensure!(connections()? == 0, "the waypoint is for services");
    bed.apply(&gateway("way", "istio.io/waypoint-for: all"))?;
    bed.wait("a connection through it", Duration::from_secs(10), |_| {
        ask_once(&client, &[&url]).is_ok_and(|answer| answer.status == 200)
            && connections().is_ok_and(|count| count > 0)
    })?;
    bed.apply(&gateway("way", "istio.io/waypoint-for: none"))?;
    eventually(&bed, &client, &[URL], false).context("for nothing")?;
    Ok(())
}

/// Half of the connections go to another waypoint, which has no pods, and are refused.
#[test]
fn a_canary_gets_its_share() -> Result<()> {
    let bed = with_waypoint(Way::Wire)?;
    let client = bed.pod("mesh/client")?;
    bind(&bed)?;
    eventually(&bed, &client, &[URL], true)?;
    bed.apply(&gateway("canary", ""))?;
    let canary = |weight: &str| {
        service("istio.io/use-waypoint: way, istio.io/use-waypoint-canary: canary").replace(
            "namespace: shop, ",
            &format!("namespace: shop, annotations: {{istio.io/use-waypoint-canary-weight: {weight:?}}}, "),
        )
    };
    let refused = || -> Result<usize> {
        let mut refused = 0;
        for _ in 0..20 {
            refused += usize::from(ask_once(&client, &[URL])?.status == 0);
        }
        Ok(refused)
    };
    bed.apply(&canary("50"))?;
    bed.wait("a refusal of the canary's", Duration::from_secs(10), |_| {
        ask_once(&client, &[URL]).is_ok_and(|answer| answer.status == 0)
    })?;
    let share = refused()?;
    ensure!((1..20).contains(&share), "{share} of 20 at a half");
    bed.apply(&canary("101"))?;
    bed.wait("no canary", Duration::from_secs(10), |_| refused().is_ok_and(|refused| refused == 0))?;
    Ok(())
}

/// The pod of the waypoint is replaced while requests go through: those that fail are few, and fail because nobody is there.
#[test]
fn a_waypoint_may_be_restarted_under_traffic() -> Result<()> {
    let bed = with_waypoint(Way::Wire)?;
    let client = bed.pod("mesh/client")?;
    bind(&bed)?;
    eventually(&bed, &client, &[URL], true)?;
    let second =
        waypoint(&bed, Way::Wire, "way")?.replace("way-pod", "way-second").replace("node-2", "node-1");
    bed.apply(&second)?;
    bed.wait_ready(Duration::from_secs(30), |_| ())?;
    let stop = AtomicBool::new(false);
    let (sent, failed) = thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            let (mut sent, mut failed) = (0, 0);
            while !stop.load(Ordering::Relaxed) {
                let answers = ask(&client, &[&format!("{URL}?n=[1-20]")]).unwrap_or_default();
                sent += 20;
                failed += 20 - answers.iter().filter(|answer| answer.status == 200).count();
            }
            (sent, failed)
        });
        thread::sleep(Duration::from_secs(2));
        let deleted = bed.delete("Pod", "shop", "way-second");
        thread::sleep(Duration::from_secs(5));
        stop.store(true, Ordering::Relaxed);
        let counts = traffic.join().expect("the traffic has ended");
        deleted.map(|()| counts)
    })?;
    ensure!(sent >= 100, "{sent} requests only");
    ensure!(failed == 0, "{failed} of {sent} requests failed");
    captured(&bed, Duration::from_secs(20))?;
    let unavailable = Scrape::of(&bed.node("node-1")?)?.count("mesh_waypoint_unavailable_total", &[]);
    ensure!(unavailable == 0, "{unavailable} connections found no waypoint");
    Ok(())
}

/// A gateway goes through the waypoint of a service where that says so, and past it where not.
#[test]
fn gateways_go_through_it_where_a_service_wants_them_to() -> Result<()> {
    let bed = with_waypoint(Way::Wire)?;
    bed.apply("{apiVersion: v1, kind: Namespace, metadata: {name: outside}}")?;
    bed.apply(&pod("outside", "stranger", "node-1", &["sleep", "infinity"]))?;
    bed.apply(&gateway_pod(&bed, ("istio-ingressgateway", "ingressgateway"))?)?;
    bed.wait_ready(Duration::from_secs(30), |_| ())?;
    bed.apply(WAY_IN)?;
    let stranger = bed.pod("outside/stranger")?;
    let host = bed.status().service_ip("istio-system/istio-ingressgateway")?;
    let url = format!("http://{host}/headers");
    waits(&bed, &stranger, &[&url], |answer| answer.status == 200)?;
    bind(&bed)?;
    let client = bed.pod("mesh/client")?;
    eventually(&bed, &client, &[URL], true).context("from a pod")?;
    eventually(&bed, &stranger, &[&url], false).context("a gateway, unasked")?;
    bed.apply(&service("istio.io/use-waypoint: way, istio.io/ingress-use-waypoint: 'true'"))?;
    eventually(&bed, &stranger, &[&url], true).context("a gateway")?;
    let labels = [("source_principal", "spiffe://cluster.local/ns/istio-system/sa/istio-ingressgateway")];
    ensure!(counted(&bed, "istio_requests_total", &labels)? > 0, "from whom");
    Ok(())
}

const WAY_IN: &str = "{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: in, namespace: istio-system}, \
     spec: {selector: {istio: ingressgateway}, \
     servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}}\n---\n\
     {apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: in, namespace: istio-system}, \
     spec: {hosts: ['*'], gateways: [in], http: [{route: [{destination: {host: web.shop.svc.cluster.local}}]}]}}";

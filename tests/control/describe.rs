//! `meshctl describe`, as users run it: what it says of routes that are attached to nothing, or lead nowhere.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::control::program_at;
use crate::discovery::app;
use crate::plane::{MONITORING, Plane};

const ROUTES: &str = "
{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: split, namespace: a}, spec: {hosts: [web],
  gateways: [mesh, absent], http: [{route: [{destination: {host: web, subset: v9}, weight: 50}, {destination: {host: nobody}, weight: 50}]}]}}
---
{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: from-afar, namespace: b}, spec: {hosts: [shop.example],
  http: [{route: [{destination: {host: web.a.svc.cluster.local}}]}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: edge, namespace: a}, spec: {gatewayClassName: istio,
  listeners: [{name: web, port: 80, protocol: HTTP, hostname: '*.example'}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: refused, namespace: a}, spec: {parentRefs: [{name: edge}, {name: lost}],
  hostnames: [a.other], rules: [{backendRefs: [{name: web, port: 80}]}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: inside, namespace: a}, spec: {
  parentRefs: [{group: '', kind: Service, name: web}], rules: [{backendRefs: [{name: gone, port: 80}]}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: other, namespace: b}, spec: {
  parentRefs: [{group: '', kind: Service, name: web}], rules: [{backendRefs: [{name: web, port: 80}]}]}}
";

fn describe(plane: &Plane, args: &[&str]) -> Result<String> {
    let control = format!("http://{}", plane.at(MONITORING));
    let output = Command::new(program_at("meshctl"))
        .arg("describe")
        .args(args)
        .args(["--control", &control])
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// The rule that begins like this, and what is wrong with it.
fn rule<'t>(text: &'t str, start: &str) -> Option<Vec<&'t str>> {
    let mut lines = text.lines().skip_while(|line| !line.starts_with(&format!("   {start}")));
    let first = lines.next()?;
    Some([first].into_iter().chain(lines.take_while(|line| line.starts_with("      "))).collect())
}

#[test]
fn routes_that_do_not_apply_say_where_and_why() -> Result<()> {
    let files = [("a.yaml", app("a", "n1", "10.1.0.1", 80)), ("b.yaml", app("b", "n2", "10.2.0.2", 80))];
    let files: Vec<_> =
        files.iter().map(|(name, text)| (*name, text.as_str())).chain([("routes.yaml", ROUTES)]).collect();
    let plane = Plane::start(&files, &[])?;
    // Of the pod it is said as well, since requests to it come by its service.
    for args in [["service", "web.a"], ["pod", "a/web"]] {
        let text = describe(&plane, &args)?;
        let wrong = |start: &str| rule(&text, start).map(|lines| lines.join("\n")).unwrap_or_default();
        let split = wrong("VirtualService a/split: 1 route");
        for wanted in [
            "error [IST0101] spec.gateways[1]: there is no Gateway \"a/absent\"",
            "spec.http[0].route[0].destination.subset: ",
            "spec.http[0].route[1].destination.host: ",
        ] {
            ensure!(split.contains(wanted), "{wanted} in {split}\n{text}");
        }
        let refused = wrong("HTTPRoute a/refused: 1 rule");
        for wanted in [
            "[IST0133] spec.parentRefs[0]: the route is not attached: ",
            "error [IST0101] spec.parentRefs[1].name: there is no Gateway \"a/lost\"",
        ] {
            ensure!(refused.contains(wanted), "{wanted} in {refused}\n{text}");
        }
        let inside = wrong("HTTPRoute a/inside: 1 rule");
        ensure!(
            inside.contains("error [IST0101] spec.rules: ") && inside.contains("a/gone"),
            "{inside}\n{text}"
        );
        ensure!(
            wrong("VirtualService b/from-afar: 1 route").lines().count() == 1,
            "nothing is wrong with it:\n{text}"
        );
        ensure!(!text.contains("b/other"), "it is about another service:\n{text}");
    }
    ensure!(!describe(&plane, &["service", "web.b"])?.contains("a/inside"));
    Ok(())
}

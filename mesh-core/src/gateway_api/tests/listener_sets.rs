//! Listeners of ListenerSets.

use super::statuses::check as says;
use super::{check, objects};
use crate::gateway_api::{ListenerFault, Resources};

const GATEWAY: &str = "
        gateway infra/gw
          gatewayClassName: istio
          allowedListeners: {namespaces: {from: Selector, selector: {matchLabels: {team: web}}}}
          listeners: [{name: own, port: 80, protocol: HTTP, hostname: own.test}]
        namespace /web
          {}
        service infra/gw
          {ports: [{port: 80}], externalIPs: [192.0.2.7]}
        service web/v1
          {ports: [{port: 80}]}";

#[test]
fn the_older_set_comes_first_and_the_gateway_before_both() {
    let yaml = format!(
        "{GATEWAY}
        set web/a @5
          parentRef: {{name: gw, namespace: infra}}
          listeners: [{{name: l, port: 80, protocol: HTTP, hostname: a.test}}, {{name: m, port: 80, protocol: HTTP, hostname: own.test}}]
        set web/z @1
          parentRef: {{name: gw, namespace: infra}}
          listeners: [{{name: l, port: 80, protocol: HTTP, hostname: a.test}}]
        set other/no
          parentRef: {{name: gw, namespace: infra}}
          listeners: [{{name: l, port: 80, protocol: HTTP, hostname: b.test}}]
        http web/r
          parentRefs: [{{kind: ListenerSet, name: z}}, {{kind: ListenerSet, name: a, sectionName: l}}, {{name: gw, namespace: infra, sectionName: l}}]
          rules: [{{backendRefs: [{{name: v1, port: 80}}]}}]
        "
    );
    says(
        &yaml,
        "
        gw: Accepted Programmed [\"192.0.2.7\"]
        gw/own: 0 HTTPRoute,GRPCRoute Accepted !Conflicted=NoConflicts ResolvedRefs Programmed
        no: !Accepted=NotAllowed !Programmed=NotAllowed
        a: !Accepted=ListenersNotValid !Programmed=ListenersNotValid
        a/l: 0 HTTPRoute,GRPCRoute !Accepted=HostnameConflict Conflicted=HostnameConflict ResolvedRefs !Programmed=Invalid
        a/m: 0 HTTPRoute,GRPCRoute !Accepted=HostnameConflict Conflicted=HostnameConflict ResolvedRefs !Programmed=Invalid
        z: Accepted Programmed
        z/l: 1 HTTPRoute,GRPCRoute Accepted !Conflicted=NoConflicts ResolvedRefs Programmed
        r at z: Accepted ResolvedRefs
        r at a: !Accepted=NotAllowedByListeners ResolvedRefs
        r at gw: !Accepted=NoMatchingParent ResolvedRefs
        ",
    );
    check(
        &yaml,
        "80 | GET http://a.test/ | v1.web:80\n80 | GET http://b.test/ | no host\n80 | GET http://own.test/ | 404",
    );
}

#[test]
fn thousands_of_listeners_cost_what_they_are() {
    let sets = (0..300).map(|set| {
        let listeners = (0..64).map(|number| {
            format!("{{name: l{number}, port: 80, protocol: HTTP, hostname: h{number}-{}.test}}", set % 150)
        });
        let listeners: Vec<_> = listeners.collect();
        format!("        set web/s{set:03}\n          parentRef: {{name: gw, namespace: infra}}\n          listeners: [{}]", listeners.join(", "))
    });
    let yaml = format!("{GATEWAY}\n{}\n", sets.collect::<Vec<_>>().join("\n"));
    let objects = objects(&yaml);
    let resources = Resources::of(&objects);
    let gateway = resources.gateways().next().unwrap();
    let all = resources.listeners(gateway);
    assert_eq!(all.len(), 300 * 64 + 1);
    assert_eq!(all.iter().filter(|it| it.fault == Some(ListenerFault::HostnameConflict)).count(), 150 * 64);
}

//! Gateways themselves: what they say of their listeners, their certificates and what is attached.

use anyhow::{Result, ensure};
use serde_json::json;

use super::http::{GATEWAY, by, route};
use super::stage::Case;
use super::tls::inside;
use super::{Test, core, extended};
use crate::client::{Req, Tls, get};

fn gateway(fields: &str, listeners: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: gw, namespace: infra}}, \
         spec: {{gatewayClassName: istio, {fields} listeners: [{listeners}]}}}}"
    )
}

fn https(reference: &str) -> String {
    gateway(
        "",
        &format!("{{name: https, port: 443, protocol: HTTPS, tls: {{certificateRefs: [{reference}]}}}}"),
    )
}

fn grant(name: &str, namespace: &str, from: &str, to: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1beta1, kind: ReferenceGrant, metadata: {{name: {name}, namespace: {namespace}}}, \
         spec: {{from: [{from}], to: [{to}]}}}}"
    )
}

const GATEWAYS: &str = "{group: gateway.networking.k8s.io, kind: Gateway, namespace: infra}";
const V1: &str = "rules: [{backendRefs: [{name: v1, port: 8080}]}]";
const OF_WEB: &str = "{name: cert, namespace: web}";
const SECRET: &str = "SECRET(web cert example.org)";

pub(super) fn tests() -> Vec<Test> {
    [listeners(), secrets(), clients(), changes()].into_iter().flatten().collect()
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn listeners() -> Vec<Test> {
    let own = "{name: invalid, port: 8080, protocol: example.com/own}";
    let http = "{name: http, port: 80, protocol: HTTP, allowedRoutes: {kinds: [{kind: HTTPRoute}]}}";
    let kinds = |kinds: &str| {
        gateway("", &format!("{{name: http, port: 80, protocol: HTTP, allowedRoutes: {{kinds: [{kinds}]}}}}"))
    };
    let other = |reference: &str| {
        gateway(
            "",
            &format!(
                "{{name: https, port: 443, protocol: HTTPS, allowedRoutes: {{kinds: [{{kind: HTTPRoute}}]}}, tls: {{certificateRefs: [{reference}]}}}}"
            ),
        )
    };
    let invalid =
        "ResolvedRefs=False/InvalidCertificateRef Programmed=False/Invalid attached=0 kinds=HTTPRoute";
    vec![
        core("GatewayListenerUnsupportedProtocol")
            .yaml(&gateway("", own))
            .yaml(&gateway("", &format!("{http}, {own}")).replace("name: gw,", "name: both,"))
            .says("Gateway infra/gw", "Accepted=False/ListenersNotValid")
            .says("Gateway infra/gw invalid", "Accepted=False/UnsupportedProtocol attached=0 kinds=")
            .says("Gateway infra/both", "Accepted=True/ListenersNotValid")
            .says("Gateway infra/both http", "Accepted=True/Accepted kinds=HTTPRoute")
            .says("Gateway infra/both invalid", "Accepted=False/UnsupportedProtocol"),
        core("GatewayInvalidRouteKind")
            .yaml(&kinds("{kind: InvalidRoute}"))
            .yaml(&kinds("{kind: InvalidRoute}, {kind: HTTPRoute}").replace("name: gw,", "name: both,"))
            .says("Gateway infra/gw http", "ResolvedRefs=False/InvalidRouteKinds attached=0 kinds=")
            .says("Gateway infra/both http", "ResolvedRefs=False/InvalidRouteKinds kinds=HTTPRoute"),
        core("GatewayInvalidTLSConfiguration")
            .yaml(&other("{name: nonexistent}"))
            .yaml(&other("{group: wrong.group.company.io, kind: Secret, name: cert}").replace("name: gw,", "name: group,"))
            .yaml(&other("{kind: WrongKind, name: cert}").replace("name: gw,", "name: kind,"))
            .says("Gateway infra/gw https", invalid)
            .says("Gateway infra/group https", invalid)
            .says("Gateway infra/kind https", invalid),
        core("GatewayInvalidParametersRef")
            .yaml(&gateway("infrastructure: {parametersRef: {group: invalid.example.com, kind: NotAThing, name: x}},", http))
            .says("Gateway infra/gw", "Accepted=False/InvalidParameters"),
        core("GatewayNameMaximumLength")
            .yaml(&GATEWAY.replace("name: gw,", &format!("name: {},", LONG.repeat(25) + "abc")))
            .act(async |case| case.must_say(&format!("Gateway infra/{}abc", LONG.repeat(25)), "Accepted=True/Accepted").await),
        core("GatewayWithAttachedRoutes")
            .yaml(&gateway("", "{name: http, port: 80, protocol: HTTP}, {name: unattached, port: 8090, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {kind: none}}}}}"))
            .yaml(&route("r1", V1))
            .yaml(&route("r2", &format!("hostnames: [a.test], {V1}")))
            .says("Gateway infra/gw http", "attached=2 Accepted=True/Accepted")
            .says("Gateway infra/gw unattached", "attached=0 Accepted=True/Accepted"),
        extended("GatewayWithAttachedRoutesWithPort8080")
            .yaml(&gateway("", "{name: http, port: 8080, protocol: HTTP}"))
            .yaml(&route("r", V1))
            .says("Gateway infra/gw http", "attached=1 Accepted=True/Accepted")
            .ask_at("infra/gw", 8080, get("/"), by("v1")),
        extended("GatewayStaticAddresses")
            .yaml(&gateway("addresses: [{type: IPAddress, value: 192.0.2.1}],", http))
            .yaml(&gateway("addresses: [{type: IPAddress, value: 192.0.2.99}],", http).replace("name: gw,", "name: unusable,"))
            .yaml(&gateway("addresses: [{type: NamedAddress, value: x}],", http).replace("name: gw,", "name: unsupported,"))
            .says("Gateway infra/gw", "Accepted=True/Accepted Programmed=True/Programmed")
            .says("Gateway infra/unusable", "Accepted=True/Accepted Programmed=False/AddressNotUsable")
            .says("Gateway infra/unsupported", "Accepted=False/UnsupportedAddress")
            .act(async |case| {
                let status = case.read("Gateway", "infra/gw").unwrap_or_default()["status"]["addresses"].clone();
                ensure!(status == json!([{"type": "IPAddress", "value": "192.0.2.1"}]), "{status}");
                Ok(())
            }),
        extended("GatewayInfrastructure")
            .yaml(&gateway("infrastructure: {labels: {key1: value1}, annotations: {key2: value2}},", http))
            .says("Gateway infra/gw", "Accepted=True/Accepted Programmed=True/Programmed")
            .act(async |case| case.soon(async || is_marked(&case)).await),
        extended("GatewayOptionalAddressValue")
            .yaml(&gateway("addresses: [{type: IPAddress}],", http))
            .says("Gateway infra/gw", "Accepted=True/Accepted Programmed=True/Programmed"),
    ]
}

/// Whether all that was made for Gateway `infra/gw` has its infrastructure's label and annotation.
fn is_marked(case: &Case) -> Result<()> {
    for kind in ["ServiceAccount", "Deployment", "Service", "Pod"] {
        let made = case.made(kind, "gw");
        ensure!(made.len() == 1, "{kind}: {made:?}");
        for object in made {
            let metadata = &object["metadata"];
            let marks = (&metadata["labels"]["key1"], &metadata["annotations"]["key2"]);
            ensure!(marks == (&json!("value1"), &json!("value2")), "{kind}: {metadata}");
        }
    }
    Ok(())
}

fn secrets() -> Vec<Test> {
    let served = |name: &'static str, to: &str| {
        core(name)
            .yaml(&https(OF_WEB))
            .yaml(SECRET)
            .yaml(&grant("g", "web", GATEWAYS, to))
            .yaml(&route("r", V1))
            .says(
                "Gateway infra/gw https",
                "ResolvedRefs=True/ResolvedRefs Programmed=True/Programmed attached=1",
            )
            .ask_at("infra/gw", 443, inside("example.org", get("/").to("example.org")), by("v1"))
    };
    let refused = |name: &'static str, grants: &[String]| {
        let test = grants.iter().fold(core(name), |test, grant| test.yaml(grant));
        test.yaml(&https(OF_WEB))
            .yaml(SECRET)
            .yaml(&route("r", V1))
            .says("Gateway infra/gw https", "ResolvedRefs=False/RefNotPermitted Programmed=False/Invalid")
            .act(async |case| {
                let connected = case.connect(("infra/gw", 443), None, false).await;
                ensure!(connected.is_err(), "it listens without a certificate");
                Ok(())
            })
    };
    let wrong = [
        grant("g1", "web", &GATEWAYS.replace("infra", "app"), "{group: '', kind: Secret}"),
        grant(
            "g2",
            "web",
            &GATEWAYS.replace("kind: Gateway", "kind: HTTPRoute"),
            "{group: '', kind: Secret}",
        ),
        grant("g3", "web", GATEWAYS, "{group: '', kind: Service}"),
        grant("g4", "web", GATEWAYS, "{group: '', kind: Secret, name: other}"),
        grant("g5", "app", GATEWAYS, "{group: '', kind: Secret}"),
    ];
    vec![
        served("GatewaySecretReferenceGrantAllInNamespace", "{group: '', kind: Secret}"),
        served("GatewaySecretReferenceGrantSpecific", "{group: '', kind: Secret, name: cert}"),
        refused("GatewaySecretMissingReferenceGrant", &[]),
        refused("GatewaySecretInvalidReferenceGrant", &wrong),
    ]
}

const CAS: &str = "
{apiVersion: v1, kind: ConfigMap, metadata: {name: ca, namespace: infra}, data: OUR-CA}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: other-ca, namespace: infra}, data: OTHER-CA}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: far-ca, namespace: web}, data: OUR-CA}
---
SECRET(infra cert example.org)";

/// Who gets in on a port: with a certificate of ours, of others, without any.
async fn lets_in(case: &Case, port: u16, wanted: [bool; 3]) -> Result<()> {
    let clients = [Some(case.certificate(true)?), Some(case.certificate(false)?), None];
    for (number, (client, wanted)) in clients.into_iter().zip(wanted).enumerate() {
        let tls = Tls { sni: "example.org".to_owned(), client };
        let request = Req { tls: Some(tls), ..get("/").to("example.org") };
        let answer = case.send(("infra/gw", port), request).await;
        let is_in = answer.as_ref().is_ok_and(|reply| reply.status == 200 && reply.pod() == "v1");
        ensure!(is_in == wanted, "client {number} at {port}: {answer:?}");
    }
    Ok(())
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn clients() -> Vec<Test> {
    let at = |port: u16| {
        format!(
            "{{name: l{port}, port: {port}, protocol: HTTPS, tls: {{certificateRefs: [{{name: cert}}]}}}}"
        )
    };
    let validation =
        |reference: &str, more: &str| format!("validation: {{caCertificateRefs: [{reference}]{more}}}");
    let map = |name: &str| format!("{{group: '', kind: ConfigMap, name: {name}}}");
    let all = |default: &str, listeners: &[String]| {
        let other = validation(&map("other-ca"), "");
        let tls = format!(
            "tls: {{frontend: {{default: {{{default}}}, perPort: [{{port: 8443, tls: {{{other}}}}}]}}}},"
        );
        gateway(&tls, &listeners.join(", "))
    };
    let two = [at(443), at(8443)];
    let with_http = [at(443), at(8443), "{name: http, port: 80, protocol: HTTP}".to_owned()];
    let refused = |reason: &'static str, reference: &str| {
        (
            all(&validation(reference, ""), &two)
                .replace("name: gw,", &format!("name: {},", reason.to_lowercase())),
            reason,
        )
    };
    let wrong = [
        refused("InvalidCACertificateRef", &map("nonexistent")),
        refused("InvalidCACertificateKind", "{group: '', kind: Service, name: v1}"),
        refused("RefNotPermitted", "{group: '', kind: ConfigMap, name: far-ca, namespace: web}"),
    ];
    let invalid = wrong
        .iter()
        .fold(extended("GatewayInvalidFrontendClientCertificateValidation"), |test, (yaml, _)| {
            test.yaml(yaml)
        });
    let reasons = wrong.map(|(_, reason)| reason);
    vec![
        extended("GatewayFrontendClientCertificateValidation")
            .yaml(&all(&validation(&map("ca"), ""), &two))
            .yaml(CAS)
            .yaml(&route("r", V1))
            .says("Gateway infra/gw l443", "Accepted=True/Accepted ResolvedRefs=True/ResolvedRefs Programmed=True/Programmed")
            .act(async |case| lets_in(&case, 443, [true, false, false]).await)
            .act(async |case| lets_in(&case, 8443, [false, true, false]).await),
        extended("GatewayFrontendClientCertificateValidationInsecureFallback")
            .yaml(&all(&validation(&map("ca"), ", mode: AllowInsecureFallback"), &two))
            .yaml(CAS)
            .yaml(&route("r", V1))
            .says("Gateway infra/gw", "Accepted=True/Accepted InsecureFrontendValidationMode=True/ConfigurationChanged")
            .act(async |case| lets_in(&case, 443, [true, true, true]).await)
            .act(async |case| lets_in(&case, 8443, [false, true, false]).await),
        extended("GatewayFrontendInvalidDefaultClientCertificateValidation")
            .yaml(&all(&validation(&map("nonexistent"), ""), &with_http))
            .yaml(CAS)
            .yaml(&route("r", V1))
            .says("Gateway infra/gw l443", "Accepted=False/NoValidCACertificate ResolvedRefs=False/InvalidCACertificateRef Programmed=False/Invalid")
            .says("Gateway infra/gw l8443", "Accepted=True/Accepted Programmed=True/Programmed")
            .ask(get("/"), by("v1"))
            .act(async |case| lets_in(&case, 443, [false, false, false]).await)
            .act(async |case| lets_in(&case, 8443, [false, true, false]).await),
        invalid.yaml(CAS).act(async move |case| {
            for reason in reasons {
                let listener = format!("Gateway infra/{} l443", reason.to_lowercase());
                let conditions = format!("Accepted=False/NoValidCACertificate ResolvedRefs=False/{reason} Programmed=False/Invalid");
                case.must_say(&listener, &conditions).await?;
            }
            Ok(())
        }),
    ]
}

fn changes() -> Vec<Test> {
    let bumped = "Accepted=True/Accepted Programmed=True/Programmed";
    let more =
        gateway("", "{name: http, port: 80, protocol: HTTP}, {name: more, port: 8080, protocol: HTTP}");
    let (wider, narrower) = (more.clone(), GATEWAY.to_owned());
    let another = route("r", "rules: [{backendRefs: [{name: v2, port: 8080}]}]");
    vec![
        core("GatewayModifyListeners")
            .yaml(GATEWAY)
            .yaml(&route("r", V1))
            .says("Gateway infra/gw http", "attached=1")
            .ask(get("/"), by("v1"))
            .act(async move |case| {
                case.rewrite(&wider)?;
                case.must_say("Gateway infra/gw more", "attached=1 Accepted=True/Accepted").await?;
                case.until(("infra/gw", 8080), get("/"), &by("v1")).await?;
                case.rewrite(&narrower)?;
                case.must_say("Gateway infra/gw http", "attached=1").await?;
                case.until_closed(("infra/gw", 8080)).await
            })
            .ask(get("/"), by("v1")),
        core("GatewayObservedGenerationBump")
            .yaml(GATEWAY)
            .says("Gateway infra/gw", bumped)
            .act(async move |case| {
                case.rewrite(&more)?;
                case.must_say("Gateway infra/gw", bumped).await?;
                case.must_say("Gateway infra/gw more", "Accepted=True/Accepted ResolvedRefs=True/ResolvedRefs").await
            }),
        core("HTTPRouteObservedGenerationBump")
            .yaml(GATEWAY)
            .yaml(&route("r", V1))
            .says("HTTPRoute infra/r", super::http::FINE)
            .ask(get("/"), by("v1"))
            .act(async move |case| {
                case.rewrite(&another)?;
                case.must_say("HTTPRoute infra/r", super::http::FINE).await?;
                case.until(("infra/gw", 80), get("/"), &by("v2")).await
            }),
        core("GatewayClassObservedGenerationBump")
            .yaml("{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: bump}, spec: {controllerName: istio.io/gateway-controller, description: old}}")
            .says("GatewayClass /bump", "Accepted=True/Accepted")
            .act(async |case| {
                case.rewrite("{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: bump}, spec: {controllerName: istio.io/gateway-controller, description: new}}")?;
                case.must_say("GatewayClass /bump", "Accepted=True/Accepted").await
            }),
    ]
}

/// Ten characters of a name.
const LONG: &str = "abcdefghij";

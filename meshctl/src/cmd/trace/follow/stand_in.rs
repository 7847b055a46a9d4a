//! Pods that do not run yet: files say what will run.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use mesh_core::resource::{Object, SourceFile, Spec, parse};
use mesh_core::waypoint::WAYPOINT_CLASS;
use serde_json::{Value, json};

/// A pod for each Deployment, and for each waypoint, of which none runs.
pub(super) fn pods(objects: &[Object]) -> Vec<Object> {
    let wanted = objects.iter().filter_map(template).filter(|template| !runs(objects, template));
    let pods = (1_u32..).zip(wanted).map(|(number, Template { namespace, name, labels, account })| {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": labels},
            "spec": {"serviceAccountName": account, "containers": [{"name": "any", "image": "any"}]},
            "status": {
                "podIP": Ipv4Addr::from(FIRST + number).to_string(),
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        });
        parse(&SourceFile { name: "pods to be", text: &pod.to_string() }).objects
    });
    pods.flatten().collect()
}

/// What pods are made from.
struct Template<'a> {
    namespace: &'a str,
    name: &'a str,
    labels: BTreeMap<String, String>,
    account: Value,
}

fn template(object: &Object) -> Option<Template<'_>> {
    let (namespace, name) = (&*object.meta.namespace, &*object.meta.name);
    match &object.spec {
        Spec::Deployment(deployment) => {
            let template = &deployment.spec.template;
            let labels = template.metadata.as_ref()?.labels.clone()?;
            let account = json!(template.spec.as_ref().and_then(|spec| spec.service_account_name.as_ref()));
            Some(Template { namespace, name, labels, account })
        }
        // The control plane runs it, with an account of its name.
        Spec::KubernetesGateway(gateway) if *gateway.gateway_class_name == *WAYPOINT_CLASS => {
            let labels = BTreeMap::from([(GATEWAY_NAME.to_owned(), name.to_owned())]);
            Some(Template { namespace, name, labels, account: json!(name) })
        }
        _ => None,
    }
}

fn runs(objects: &[Object], template: &Template<'_>) -> bool {
    let has = |object: &Object, (key, value): (&String, &String)| object.meta.labels.get(key) == Some(value);
    objects.iter().any(|object| {
        matches!(object.spec, Spec::Pod(_))
            && *object.meta.namespace == *template.namespace
            && template.labels.iter().all(|label| has(object, label))
    })
}

/// Before the addresses of pods that do not run yet; nobody's (RFC 2544).
const FIRST: u32 = u32::from_be_bytes([198, 18, 0, 0]);
/// On the pods of a Gateway: its name.
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";

//! A waypoint as an object of the cluster: what is written, and what is read of it.

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::table::one_line;

/// What a waypoint is to be.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    pub(super) name: String,
    /// What its label says; the control plane has a default.
    pub(super) traffic: Option<String>,
    pub(super) revision: Option<String>,
}

/// A waypoint that is there, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Found {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) revision: String,
    pub(super) traffic_type: String,
    /// The status of the condition: `True`, `False` or `Unknown`.
    pub(super) programmed: String,
    #[serde(skip)]
    pub(super) reason: String,
    #[serde(skip)]
    pub(super) message: String,
}

impl Wish {
    /// The Gateway. Without a namespace it is for the one that `kubectl` uses.
    pub(super) fn gateway(&self, namespace: Option<&str>) -> Value {
        let mut metadata = Map::from_iter([("name".to_owned(), json!(self.name))]);
        metadata.extend(namespace.map(|namespace| ("namespace".to_owned(), json!(namespace))));
        let labels = [(WAYPOINT_FOR, &self.traffic), (REVISION, &self.revision)];
        let labels: Map<_, _> = labels
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), json!(value.as_ref()?))))
            .collect();
        if !labels.is_empty() {
            metadata.insert("labels".to_owned(), Value::Object(labels));
        }
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "Gateway",
            "metadata": metadata,
            "spec": {
                "gatewayClassName": CLASS,
                "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}],
            },
        })
    }
}

impl Found {
    /// Reads a Gateway; `None` if it is no waypoint. Texts are others' to choose, and end up on a terminal.
    pub(super) fn read(gateway: &Value) -> Option<Self> {
        let text = |value: &Value| one_line(value.as_str().unwrap_or_default());
        let metadata = &gateway["metadata"];
        if gateway["spec"]["gatewayClassName"] != CLASS {
            return None;
        }
        let label = |key: &str, default: &str| {
            let value = text(&metadata["labels"][key]);
            if value.is_empty() { default.to_owned() } else { value }
        };
        let conditions = gateway["status"]["conditions"].as_array();
        let programmed = conditions.into_iter().flatten().find(|it| it["type"] == "Programmed");
        // What was said of another version of it says nothing of this one.
        let is_old = |it: &&Value| it["observedGeneration"].as_i64() < metadata["generation"].as_i64();
        let programmed = programmed.filter(|it| it["observedGeneration"].is_null() || !is_old(it));
        let of = |field: &str| programmed.map(|it| text(&it[field])).unwrap_or_default();
        let status = of("status");
        Some(Self {
            namespace: text(&metadata["namespace"]),
            name: text(&metadata["name"]),
            revision: label(REVISION, "default"),
            traffic_type: label(WAYPOINT_FOR, "service"),
            programmed: if status.is_empty() { "False".to_owned() } else { status },
            reason: of("reason"),
            message: of("message"),
        })
    }

    pub(super) fn is_programmed(&self) -> bool {
        self.programmed == "True"
    }
}

/// Istio's class of waypoints.
const CLASS: &str = "istio-waypoint";
const WAYPOINT_FOR: &str = "istio.io/waypoint-for";
const REVISION: &str = "istio.io/rev";
/// On a namespace: the waypoint of its services.
pub(super) const USE_WAYPOINT: &str = "istio.io/use-waypoint";

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(traffic: Option<&str>) -> Wish {
        Wish { name: "way".into(), traffic: traffic.map(str::to_owned), revision: None }
    }

    #[test]
    fn what_is_generated_is_what_kubectl_takes() {
        let yaml = serde_yaml_ng::to_string(&wish(Some("all")).gateway(Some("shop"))).unwrap();
        let expected = "\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  labels:
    istio.io/waypoint-for: all
  name: way
  namespace: shop
spec:
  gatewayClassName: istio-waypoint
  listeners:
  - name: mesh
    port: 15008
    protocol: HBONE
";
        assert_eq!(yaml, expected);
        let parsed =
            mesh_core::resource::parse(&mesh_core::resource::SourceFile { name: "w.yaml", text: &yaml });
        assert!(parsed.findings.is_empty() && parsed.objects.len() == 1, "{:?}", parsed.findings);
        assert!(wish(None).gateway(None)["metadata"].get("labels").is_none());
    }

    #[test]
    fn what_is_found_says_how_far_it_is() {
        let mut gateway = wish(None).gateway(Some("shop"));
        gateway["metadata"]["generation"] = json!(2);
        let found = Found::read(&gateway).unwrap();
        assert_eq!(
            (&*found.traffic_type, &*found.revision, &*found.programmed),
            ("service", "default", "False")
        );
        gateway["status"] = json!({"conditions": [
            {"type": "Accepted", "status": "True"},
            {"type": "Programmed", "status": "True", "reason": "Programmed", "message": "a\u{1b}b", "observedGeneration": 2},
        ]});
        let found = Found::read(&gateway).unwrap();
        assert!(found.is_programmed() && found.message == "a b");
        gateway["metadata"]["generation"] = json!(3);
        assert!(!Found::read(&gateway).unwrap().is_programmed(), "nothing is known of what it is now");
        gateway["spec"]["gatewayClassName"] = json!("istio");
        assert_eq!(Found::read(&gateway), None);
    }
}

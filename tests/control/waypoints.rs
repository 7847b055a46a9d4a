//! `meshctl waypoint`, as users run it.

use mesh_tests::apiserver::{ApiServer, Resource};
use serde_json::{Value, json};

use crate::api::Cluster;
use crate::meshctl::Meshctl;

struct Bed {
    cluster: Cluster,
    meshctl: Meshctl,
}

impl Bed {
    fn new() -> Self {
        let cluster = Cluster::own();
        let meshctl = Meshctl::of(&cluster, None);
        let bed = Self { cluster, meshctl };
        let mut gateways = Resource::custom("gateway.networking.k8s.io", &["v1"], "Gateway", "gateways");
        gateways.lists.clear();
        bed.server().define(gateways);
        let labels = json!({"istio.io/dataplane-mode": "ambient"});
        bed.server().put(
            &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": labels}}),
        );
        bed.server().put(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "plain"}}));
        bed
    }

    fn server(&self) -> &ApiServer {
        self.cluster.ours.as_ref().expect("the suite's own")
    }

    /// What `meshctl waypoint` prints that must succeed.
    fn prints(&self, words: &[&str]) -> String {
        self.meshctl.prints(&[&["waypoint"], words].concat())
    }

    /// What it says that must fail.
    fn fails(&self, words: &[&str]) -> String {
        self.meshctl.fails(&[&["waypoint"], words].concat())
    }

    fn gateway(&self, name: &str) -> Option<Value> {
        self.server().read("Gateway", "shop", name)
    }

    fn program(&self, name: &str, holds: bool) {
        let mut gateway = self.gateway(name).expect("the Gateway");
        let (status, reason) = if holds { ("True", "Programmed") } else { ("False", "Pending") };
        gateway["status"] = json!({"conditions": [
            {"type": "Programmed", "status": status, "reason": reason, "message": "as it is", "observedGeneration": 1},
        ]});
        self.server().put(&gateway);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waypoint_is_applied_listed_and_deleted() {
    let bed = Bed::new();
    let applied =
        bed.prints(&["apply", "-n", "shop", "--for", "all", "--revision", "r1", "--enroll-namespace"]);
    assert_eq!(
        applied,
        "✅ waypoint shop/waypoint applied\n✅ namespace shop labeled with \"istio.io/use-waypoint: waypoint\"\n"
    );
    let gateway = bed.gateway("waypoint").expect("the Gateway");
    assert_eq!(
        gateway["spec"],
        json!({
            "gatewayClassName": "istio-waypoint",
            "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}],
        })
    );
    assert_eq!(gateway["metadata"]["labels"], json!({"istio.io/waypoint-for": "all", "istio.io/rev": "r1"}));
    let namespace = bed.server().read("Namespace", "", "shop").expect("the namespace");
    assert_eq!(namespace["metadata"]["labels"]["istio.io/use-waypoint"], "waypoint");
    assert_eq!(namespace["metadata"]["labels"]["istio.io/dataplane-mode"], "ambient");
    // Others in the way of the namespace's label are not written over without a word.
    let again = bed.prints(&["apply", "-n", "shop", "--name", "second", "--enroll-namespace"]);
    assert!(again.contains("already has an enrolled Waypoint") && bed.gateway("second").is_none(), "{again}");
    bed.prints(&["apply", "-n", "shop", "--name", "second", "--enroll-namespace", "--overwrite"]);
    let namespace = bed.server().read("Namespace", "", "shop").expect("the namespace");
    assert_eq!(namespace["metadata"]["labels"]["istio.io/use-waypoint"], "second");
    let plain = bed.prints(&["apply", "-n", "plain", "--enroll-namespace"]);
    assert!(plain.contains("kubectl label namespace plain istio.io/dataplane-mode=ambient"), "{plain}");

    bed.program("waypoint", true);
    let mut edge = gateway.clone();
    (edge["metadata"]["name"], edge["spec"]["gatewayClassName"]) = (json!("edge"), json!("istio"));
    bed.server().put(&edge);
    let table = "NAME      REVISION  TRAFFIC TYPE  PROGRAMMED\nsecond    default   service       False\nwaypoint  r1        all           True\n";
    assert_eq!(bed.prints(&["list", "-n", "shop"]), table);
    let all = bed.prints(&["list", "-A"]);
    assert!(all.starts_with("NAMESPACE  NAME ") && all.lines().count() == 4, "{all}");
    let json: Value = serde_json::from_str(&bed.prints(&["list", "-n", "shop", "-o", "json"])).expect("JSON");
    assert_eq!(
        json[1],
        json!({
            "namespace": "shop", "name": "waypoint", "revision": "r1", "trafficType": "all", "programmed": "True",
        })
    );
    let status = bed.prints(&["status", "-n", "shop"]);
    assert!(status.contains("waypoint  True    Programmed  Programmed  as it is\n"), "{status}");

    assert_eq!(bed.prints(&["delete", "second", "-n", "shop"]), "waypoint shop/second deleted\n");
    // A Gateway that is no waypoint is not deleted, by whatever name.
    assert!(bed.fails(&["delete", "edge", "-n", "shop"]).contains("waypoint shop/edge not found"));
    assert!(bed.gateway("edge").is_some() && bed.gateway("second").is_none());
    assert_eq!(bed.prints(&["delete", "-r", "r2", "-n", "shop"]), "No waypoints found.\n");
    assert_eq!(bed.prints(&["delete", "--all", "-n", "shop"]), "waypoint shop/waypoint deleted\n");
    assert_eq!(bed.prints(&["list", "-n", "shop"]), "No waypoints found.\n");
    assert!(bed.gateway("edge").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_waited_for_and_what_cannot_be_done_is_said() {
    let bed = Bed::new();
    let late =
        bed.fails(&["apply", "-n", "shop", "--wait", "--waypoint-timeout", "1s", "--enroll-namespace"]);
    assert!(late.contains("timed out while waiting for waypoint shop/waypoint"), "{late}");
    let namespace = bed.server().read("Namespace", "", "shop").expect("the namespace");
    assert!(
        namespace["metadata"]["labels"]["istio.io/use-waypoint"].is_null(),
        "nothing leads to what is not ready"
    );
    bed.program("waypoint", true);
    let ready = bed.prints(&["apply", "-n", "shop", "--wait"]);
    assert_eq!(ready, "✅ waypoint shop/waypoint applied\n✅ waypoint shop/waypoint is ready!\n");
    bed.program("waypoint", false);
    assert!(
        bed.prints(&["status", "-n", "shop"]).contains("waypoint  False   Programmed  Pending  as it is")
    );
    assert!(bed.fails(&["apply", "-n", "nowhere"]).contains("nowhere"));
    assert!(bed.fails(&["apply", "--name", "none"]).contains("reserved"));
    assert!(bed.fails(&["delete", "-n", "shop"]).contains("NAME"));
    bed.server().undefine("gateway.networking.k8s.io", "gateways");
    assert!(bed.fails(&["apply", "-n", "shop"]).contains("the Gateway API is not installed"));
}

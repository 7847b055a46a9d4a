//! The table, from an answer as the control plane gives it.

use super::*;

const ANSWER: &str = r#"{
  "sequence": 7,
  "subscribers": [
    {"id": "ztunnel~10.0.0.1~mesh-node-x.istio-system~domain", "name": "mesh-node-x.istio-system", "cluster": "east",
     "controlPlane": "mesh-control-a", "version": "1.2.3", "node": "node-1", "identity": "spiffe://cluster.local/ns/istio-system/sa/mesh-node",
     "address": "10.0.0.1:4242", "connectedSeconds": 3,
     "types": [
       {"type": "Address", "status": "SYNCED", "sent": 7, "acknowledged": 7, "accepted": 2, "rejected": 0, "lastRejection": null},
       {"type": "Authorization", "status": "STALE", "sent": 7, "acknowledged": 6, "accepted": 1, "rejected": 1, "lastRejection": "no\nsuch \u001b[31mthing"},
       {"type": "Future", "status": "NOT SENT", "sent": 0, "acknowledged": 0, "accepted": 0, "rejected": 0, "lastRejection": null}
     ]},
    {"id": "z", "node": null, "identity": "plaintext", "address": null, "connectedSeconds": 0, "types": []}
  ]
}"#;

fn rows(answer: &str, wide: bool) -> Vec<String> {
    let status: Status = serde_json::from_str(answer).expect("it is an answer");
    table(&status, wide).lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn columns_are_those_that_people_know_and_more() {
    assert_eq!(
        rows(ANSWER, false),
        [
            "NAME CLUSTER ISTIOD VERSION SUBSCRIBED TYPES STATUS NODE LAST REJECTION",
            "mesh-node-x.istio-system east mesh-control-a 1.2.3 3 (Address,Authorization,Future) STALE node-1 \
             Authorization: no such [31mthing",
            "z - - - 0 - -",
        ]
    );
}

#[test]
fn every_proxy_has_a_row_and_every_type_a_column() {
    assert_eq!(
        rows(ANSWER, true),
        [
            "NAME CLUSTER ISTIOD VERSION SUBSCRIBED TYPES NODE ID IDENTITY PEER TRUST MESH AUTHORIZATION LOCALPOD \
             ADDRESS FUTURE LAST REJECTION",
            "mesh-node-x.istio-system east mesh-control-a 1.2.3 3 (Address,Authorization,Future) node-1 \
             ztunnel~10.0.0.1~mesh-node-x.istio-system~domain spiffe://cluster.local/ns/istio-system/sa/mesh-node \
             10.0.0.1:4242 - - STALE - SYNCED NOT SENT Authorization: no such [31mthing",
            "z - - - 0 - z plaintext - - - - - - -",
        ]
    );
}

#[test]
fn each_proxy_is_said_by_its_replica() {
    let one = |name: &str, id: &str| {
        json(&format!("{{\"controlPlane\": \"{name}\", \"subscribers\": [{{\"id\": \"{id}\"}}]}}"))
    };
    let all = [one("a", "x"), one("b", "y")].map(|answer| signed(answer.expect("it is JSON")));
    let all = together(all.to_vec());
    let said: Vec<_> = ["/subscribers/0/controlPlane", "/subscribers/1/controlPlane"]
        .map(|path| all.pointer(path).and_then(Value::as_str))
        .to_vec();
    assert_eq!(said, [Some("a"), Some("b")]);
}

#[test]
fn columns_begin_below_each_other() {
    let status: Status = serde_json::from_str(ANSWER).expect("it is an answer");
    let table = table(&status, true);
    let starts: Vec<_> =
        table.lines().map(|line| line.find("10.0.0.1:").or_else(|| line.find("PEER"))).collect();
    assert_eq!(starts.first(), starts.get(1), "{table}");
    assert!(table.lines().all(|line| !line.ends_with(' ')), "{table}");
}

#[test]
fn nobody_is_said_in_words() {
    assert_eq!(
        rows(r#"{"sequence": 0, "subscribers": []}"#, false),
        ["No proxy is connected to the control plane."]
    );
}

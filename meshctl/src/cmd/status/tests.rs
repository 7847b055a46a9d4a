//! The table, from an answer as the control plane gives it.

use super::*;

const ANSWER: &str = r#"{
  "sequence": 7,
  "subscribers": [
    {"id": "node-1", "node": "node-1", "identity": "spiffe://cluster.local/ns/istio-system/sa/mesh-node",
     "address": "10.0.0.1:4242", "connectedSeconds": 3,
     "types": [
       {"type": "Address", "status": "SYNCED", "sent": 7, "acknowledged": 7, "accepted": 2, "rejected": 0, "lastRejection": null},
       {"type": "Authorization", "status": "STALE", "sent": 7, "acknowledged": 6, "accepted": 1, "rejected": 1, "lastRejection": "no\nsuch \u001b[31mthing"},
       {"type": "Future", "status": "NOT SENT", "sent": 0, "acknowledged": 0, "accepted": 0, "rejected": 0, "lastRejection": null}
     ]},
    {"id": "z", "node": null, "identity": "plaintext", "address": null, "connectedSeconds": 0, "types": []}
  ]
}"#;

fn rows(answer: &str) -> Vec<String> {
    let status: Status = serde_json::from_str(answer).expect("it is an answer");
    table(&status).lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn every_proxy_has_a_row_and_every_type_a_column() {
    assert_eq!(
        rows(ANSWER),
        [
            "NODE ID IDENTITY PEER TRUST MESH AUTHORIZATION LOCALPOD ADDRESS FUTURE LAST REJECTION",
            "node-1 node-1 spiffe://cluster.local/ns/istio-system/sa/mesh-node 10.0.0.1:4242 - - STALE - SYNCED \
             NOT SENT Authorization: no such [31mthing",
            "- z plaintext - - - - - - -",
        ]
    );
}

#[test]
fn columns_begin_below_each_other() {
    let status: Status = serde_json::from_str(ANSWER).expect("it is an answer");
    let table = table(&status);
    let starts: Vec<_> = table.lines().map(|line| line.find("10.0").or_else(|| line.find("PEER"))).collect();
    assert_eq!(starts.first(), starts.get(1), "{table}");
    assert!(table.lines().all(|line| !line.ends_with(' ')), "{table}");
}

#[test]
fn nobody_is_said_in_words() {
    assert_eq!(
        rows(r#"{"sequence": 0, "subscribers": []}"#),
        ["No proxy is connected to the control plane."]
    );
}

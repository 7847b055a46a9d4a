//! `meshctl proxy-status` as users run it, against a control plane that answers as ours does.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output};
use std::thread::JoinHandle;

const ANSWER: &str = r#"{"sequence": 3, "subscribers": [
  {"id": "a", "node": "node-1", "identity": "spiffe://cluster.local/ns/istio-system/sa/mesh-node", "address": "10.0.0.1:1",
   "connectedSeconds": 1, "types": [{"type": "Address", "status": "SYNCED", "sent": 3, "acknowledged": 3,
   "accepted": 1, "rejected": 0, "lastRejection": null}]},
  {"id": "b", "node": "node-2", "identity": "plaintext", "address": null, "connectedSeconds": 1, "types": []}]}"#;

/// Answers one request with `answer`; returns what was asked.
fn control(answer: String) -> (SocketAddr, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a port");
    let address = listener.local_addr().expect("it is bound");
    let asked = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("meshctl connects");
        let mut request = Vec::new();
        let mut chunk = [0; 1024];
        while !request.ends_with(b"\r\n\r\n") {
            let count = stream.read(&mut chunk).expect("meshctl asks");
            assert!(count > 0, "the request breaks off");
            request.extend_from_slice(&chunk[..count]);
        }
        stream.write_all(answer.as_bytes()).expect("meshctl reads");
        String::from_utf8(request).expect("the request is text")
    });
    (address, asked)
}

fn ok(body: &str) -> String {
    format!(
        "HTTP/1.0 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn status(answer: String, args: &[&str]) -> (Output, String) {
    let (address, asked) = control(answer);
    let output = Command::new(env!("CARGO_BIN_EXE_meshctl"))
        .args(["proxy-status", "--control", &format!("http://{address}")])
        .args(args)
        .output()
        .expect("meshctl starts");
    (output, asked.join().expect("the control plane was asked"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn proxies_are_shown_as_a_table() {
    let (output, asked) = status(ok(ANSWER), &[]);
    assert!(asked.starts_with("GET /debug/subscribers HTTP/1.0\r\nHost: 127.0.0.1:"), "{asked}");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let table = text(&output.stdout);
    let first: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().take(3).collect()).collect();
    assert_eq!(first, [vec!["NAME", "CLUSTER", "ISTIOD"], vec!["a", "-", "-"], vec!["b", "-", "-"]]);
    assert!(table.lines().nth(1).is_some_and(|line| line.ends_with("SYNCED  node-1")), "{table}");
}

#[test]
fn one_node_is_shown_alone() {
    for name in ["node-2", "b"] {
        let (output, _) = status(ok(ANSWER), &[name, "-o", "json"]);
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
        assert_eq!(json.pointer("/subscribers/0/id").and_then(|id| id.as_str()), Some("b"));
        assert_eq!(json.pointer("/subscribers/1"), None);
        assert_eq!(json.pointer("/sequence").and_then(serde_json::Value::as_u64), Some(3));
    }
    let (output, _) = status(ok(ANSWER), &["node-3"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stderr), "meshctl: no proxy of \"node-3\" is connected to the control plane\n");
}

#[test]
fn an_answer_that_is_none_is_an_error() {
    for (answer, says) in [
        (
            "HTTP/1.0 503 Service Unavailable\r\n\r\nthe sources have not told everything yet\n".to_owned(),
            "503",
        ),
        ("SSH-2.0-server\r\n".to_owned(), "not an HTTP answer"),
        (ok("[]"), "the control plane's answer"),
        (ok("no"), "is not JSON"),
        (ok(ANSWER).replace("-length: ", "-length: 1"), "breaks off"),
    ] {
        let (output, _) = status(answer, &[]);
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stdout.is_empty());
        assert!(text(&output.stderr).contains(says), "{says}: {}", text(&output.stderr));
    }
}

#[test]
fn a_control_plane_that_is_not_there_is_named() {
    let unused = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let output = Command::new(env!("CARGO_BIN_EXE_meshctl"))
        .args(["proxy-status", "--control", &unused.to_string()])
        .output()
        .expect("meshctl starts");
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(
        error.starts_with(&format!("meshctl: http://{unused}/debug/subscribers: Connection refused")),
        "{error}"
    );
}

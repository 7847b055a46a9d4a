//! `meshctl bug-report` as users run it, against a mesh that tells more than it should.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::process::Command;

/// Answers requests for these paths as a process of the mesh does, but with secrets of all kinds; nothing else is there.
fn talkative(served: &'static [&'static str]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a port");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("meshctl connects");
            let mut request = Vec::new();
            let mut chunk = [0; 1024];
            while !request.ends_with(b"\r\n\r\n") {
                let count = stream.read(&mut chunk).expect("meshctl asks");
                request.extend_from_slice(&chunk[..count]);
            }
            let request = String::from_utf8(request).expect("text");
            let path = request.split(' ').nth(1).expect("a path").to_owned();
            let bare = path.split('?').next().expect("the first");
            if !served.contains(&bare) {
                stream.write_all(b"HTTP/1.0 404 Not Found\r\n\r\n").expect("meshctl reads");
                continue;
            }
            let body = if path == "/metrics" {
                format!("# kept-by-{path}\nx{{a=\"{TOKEN}\"}} 1\n{KEY}")
            } else {
                serde_json::json!({"kept": path, "kind": "Secret", "data": {"tls.key": "S3CRET-data"},
                    "password": "S3CRET-password", "note": format!("cookie: S3CRET-cookie\n{KEY}"), "jwt": TOKEN})
                .to_string()
            };
            let length = body.len();
            let head = format!("HTTP/1.0 200 OK\r\ncontent-length: {length}\r\n\r\n");
            stream.write_all((head + &body).as_bytes()).expect("meshctl reads");
        }
    });
    address
}

const TOKEN: &str = "eyJhbGciOiJFUzI1NiJ9.eyJTM0NSRVQiOiJhIn0.UzNDUkVU";
const KEY: &str = "-----BEGIN PRIVATE KEY-----\nS3CRET-key\n-----END PRIVATE KEY-----\n";

/// What a control plane answers.
const CONTROL: &[&str] = &[
    "/version",
    "/metrics",
    "/debug/subscribers",
    "/debug/syncz",
    "/debug/findings",
    "/api/v1/mesh",
    "/api/v1/graph",
    "/api/v1/workloads",
    "/api/v1/services",
    "/api/v1/policies",
    "/api/v1/problems",
    "/api/v1/nodes",
];
/// What a gateway answers on its admin port: it has no kernel programs. The observability suite asks real ones.
const PROXY: &[&str] = &["/state.json", "/config_dump", "/connections", "/certs", "/logging", "/metrics"];

#[test]
fn a_report_has_what_helps_and_no_secrets() {
    let directory = tempfile::tempdir().expect("a directory");
    let logs = directory.path().join("logs");
    std::fs::create_dir(&logs).expect("another");
    std::fs::write(logs.join("node-1.mesh-node.log"), format!("kept-log\nBearer {TOKEN}\n{KEY}"))
        .expect("a log");
    let file = directory.path().join("report.tar.gz");
    let control = format!("http://{}", talkative(CONTROL));
    let proxy = format!("http://{}", talkative(PROXY));
    let report = || {
        Command::new(env!("CARGO_BIN_EXE_meshctl"))
            .args(["bug-report", "--control", &control, "--proxy", &proxy, "--file"])
            .arg(&file)
            .arg("--bed")
            .arg(directory.path())
            .output()
            .expect("meshctl starts")
    };
    let output = report();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let listing = Command::new("tar").arg("-tzf").arg(&file).output().expect("tar starts");
    let names = String::from_utf8(listing.stdout).expect("text");
    for name in [
        "control/nodes.json",
        "proxy-1/config_dump.json",
        "proxy-1/metrics.txt",
        "logs/node-1.mesh-node.log",
        "missing.txt",
    ] {
        assert!(names.contains(&format!("mesh-bug-report/{name}\n")), "{name} in\n{names}");
    }
    let all = Command::new("tar").arg("-xzOf").arg(&file).output().expect("tar starts");
    let all = String::from_utf8(all.stdout).expect("text");
    for kept in ["kept-by-/metrics", "kept-log", "\"kept\": \"/config_dump\"", "proxy-1/ebpf.json: "] {
        assert!(all.contains(kept), "{kept} in\n{all}");
    }
    for gone in ["S3CRET", "eyJ", "PRIVATE KEY"] {
        assert!(!all.contains(gone), "{gone} in\n{all}");
    }
    let again = report();
    assert_eq!(again.status.code(), Some(1), "nothing is written over");
}

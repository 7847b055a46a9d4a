use std::io::Write;
use std::sync::{Arc, Mutex};

use tracing_subscriber::layer::SubscriberExt;

use crate::authority::{Authority, Limits};
use crate::authorize::{Caller, Grant, NodeName, Placement, Request, Rules};
use crate::testkit::{DAY, HOUR, TestCa, contents, csr, domain, id, now};
use mesh_core::id::SpiffeId;

/// What the log would have been.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("lines").write(data)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn lines_of(f: impl FnOnce()) -> Vec<String> {
    let lines = Lines::default();
    let writer = lines.clone();
    let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || writer.clone());
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), f);
    let bytes = lines.0.lock().expect("lines").clone();
    String::from_utf8(bytes).expect("text").lines().map(str::to_owned).collect()
}

struct Everywhere;

impl Placement for Everywhere {
    fn is_somebody(&self, _: &SpiffeId) -> bool {
        true
    }

    fn runs_on(&self, _: &NodeName, id: &SpiffeId) -> bool {
        id.service_account() != "nowhere"
    }
}

fn ask(wanted: &str, at: std::time::SystemTime) -> Vec<String> {
    let root = TestCa::new("root");
    let authority =
        Authority::load(&contents(root.root_files()), &domain(), Limits::default(), now()).expect("a CA");
    let caller = Caller::ServiceAccountToken {
        namespace: "istio-system".into(),
        service_account: "ztunnel".into(),
        audiences: vec!["istio-ca".into()],
        pod: None,
        node: Some(NodeName::parse("n1").expect("name")),
    };
    let request = Request { impersonated: Some(id(wanted)), csr: csr(), ttl: Some(HOUR) };
    let rules = Rules::new(domain(), "istio-system");
    lines_of(|| drop(crate::issue(&authority, &caller, request, (&rules, &Everywhere), at)))
}

fn contains_all(line: &str, parts: &[&str]) {
    for part in parts {
        assert!(line.contains(part), "{part} is missing in: {line}");
    }
}

#[test]
fn every_request_is_one_line() {
    let [line] = &*ask("cart", now()) else { panic!("one line") };
    contains_all(
        line,
        &[
            " INFO ",
            " audit: ",
            "Certificate signed.",
            "caller=\"service account istio-system/ztunnel on node n1\"",
            "method=\"service_account_token\"",
            "identity=\"spiffe://cluster.local/ns/default/sa/cart\"",
            "serial=\"",
            "not_before=1799999940",
            "not_after=1800003600",
            "outcome=\"signed\"",
        ],
    );
    let [line] = &*ask("nowhere", now()) else { panic!("one line") };
    contains_all(
        line,
        &[
            " WARN ",
            " audit: ",
            "caller=service account istio-system/ztunnel on node n1",
            "identity=\"spiffe://cluster.local/ns/default/sa/nowhere\"",
            "outcome=\"not_on_node\"",
        ],
    );
    let [line] = &*ask("cart", now() + DAY * 365 * 5000) else { panic!("one line") };
    contains_all(line, &["ERROR", " audit: ", "outcome=\"ca_expired\"", "identity="]);
}

#[test]
fn the_nodes_own_requests_are_lines_too() {
    let root = TestCa::new("root");
    let authority =
        Authority::load(&contents(root.root_files()), &domain(), Limits::default(), now()).expect("a CA");
    let grant = Grant::embedded(id("cart"), csr(), HOUR);
    let lines = lines_of(|| drop(authority.sign(&grant, now())));
    let [line] = &*lines else { panic!("one line: {lines:?}") };
    contains_all(line, &["method=\"embedded\"", "outcome=\"signed\""]);
}

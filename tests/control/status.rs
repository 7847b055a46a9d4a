//! Statuses, as users and other controllers see them.

use std::time::Duration;

use mesh_core::resource::ObjectKey;
use mesh_source::kubernetes::leader::{Candidate, Election, Terms};
use mesh_source::kubernetes::status::{Condition, Rate, Status, Statuses};
use mesh_source::kubernetes::{Kubernetes, Options, client};
use mesh_tests::apiserver::{ApiServer, Fault, Refusal, Resource, Settings};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// A control plane that writes statuses, as soon as it leads.
struct Control {
    statuses: Statuses,
    running: JoinSet<()>,
}

fn server() -> ApiServer {
    let server = ApiServer::start(&Settings::default()).expect("a server");
    let group = "security.istio.io";
    server.define(Resource::custom(group, &["v1"], "PeerAuthentication", "peerauthentications"));
    server
}

impl Control {
    fn new(server: &ApiServer, identity: &str, rate: Rate) -> Self {
        let client = || client(kube::Config::new(server.url().parse().expect("a URL"))).expect("a client");
        let mut options = Options::default();
        options.pace.least_backoff = Duration::from_millis(50);
        options.pace.most_backoff = Duration::from_millis(200);
        let (source, mut changes) = Kubernetes::new(client(), options);
        let terms = Terms {
            lease: Duration::from_secs(2),
            renewal: Duration::from_millis(1200),
            retry: Duration::from_millis(100),
        };
        let candidate =
            Candidate { namespace: "default".into(), name: "l".into(), identity: identity.into(), terms };
        let (election, leadership) = Election::new(client(), candidate);
        let (writer, statuses) = source.status_writer(leadership, rate);
        let mut running = JoinSet::new();
        running.spawn(source.run());
        running.spawn(election.run(std::future::pending()));
        running.spawn(writer.run());
        running.spawn(async move { while changes.next().await.is_some() {} });
        Self { statuses, running }
    }

    fn say(&self, name: &str, status: &str) {
        self.statuses.set(key(name), wish(status));
    }
}

fn key(name: &str) -> ObjectKey {
    ObjectKey { kind: "PeerAuthentication", namespace: "a".into(), name: name.into() }
}

fn wish(status: &str) -> Status {
    let condition = Condition {
        sort: "Accepted".into(),
        status: status.into(),
        reason: "Test".into(),
        message: String::new(),
        observed_generation: Some(1),
    };
    Status { conditions: vec![condition], ..Status::default() }
}

fn put(server: &ApiServer, name: &str) {
    server.put(&json!({
        "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": {"name": name, "namespace": "a"}, "spec": {"mtls": {"mode": "STRICT"}},
        "status": {"conditions": [{"type": "Other", "status": "True"}]},
    }));
}

fn read(server: &ApiServer, name: &str) -> Value {
    server.read("PeerAuthentication", "a", name).expect("the policy")
}

/// The status of our condition.
fn accepted(server: &ApiServer, name: &str) -> Option<String> {
    let policy = read(server, name);
    let conditions = policy["status"]["conditions"].as_array()?;
    let ours = conditions.iter().find(|it| it["type"] == "Accepted")?;
    ours["status"].as_str().map(str::to_owned)
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "{what} did not come");
        sleep(Duration::from_millis(20)).await;
    }
}

fn writes(server: &ApiServer) -> usize {
    server.requests().iter().filter(|request| request.starts_with("patch peerauthentications/status")).count()
}

#[tokio::test]
async fn a_status_is_written_when_it_changes_and_not_otherwise() {
    let server = server();
    put(&server, "p");
    let control = Control::new(&server, "one", Rate::default());
    control.say("p", "True");
    until("the condition", || accepted(&server, "p").as_deref() == Some("True")).await;
    let first = read(&server, "p");
    assert_eq!(first["status"]["conditions"][0]["type"], "Other");
    assert_eq!(first["metadata"]["generation"], 1);
    assert!(first["status"]["conditions"][1]["lastTransitionTime"].is_string());
    assert_eq!(writes(&server), 1);
    // The same again, and the same after something else that was never written.
    control.say("p", "True");
    sleep(Duration::from_millis(300)).await;
    assert_eq!(writes(&server), 0);
    control.say("p", "False");
    until("the change", || accepted(&server, "p").as_deref() == Some("False")).await;
    assert_eq!(writes(&server), 1);
    drop(control.running);
}

#[tokio::test]
async fn another_object_of_the_same_name_is_told_anew() {
    let server = server();
    put(&server, "p");
    let control = Control::new(&server, "one", Rate::default());
    let about = |uid: &Value| Status { uid: uid.as_str().map(Into::into), ..wish("True") };
    let first = read(&server, "p")["metadata"]["uid"].clone();
    control.statuses.set(key("p"), about(&first));
    until("the condition", || accepted(&server, "p").is_some()).await;
    server.remove("PeerAuthentication", "a", "p");
    put(&server, "p");
    let second = read(&server, "p")["metadata"]["uid"].clone();
    // Late news of the first are no news of the second.
    control.statuses.set(key("p"), Status { uid: first.as_str().map(Into::into), ..wish("False") });
    sleep(Duration::from_millis(300)).await;
    assert_eq!(accepted(&server, "p"), None);
    control.statuses.set(key("p"), about(&second));
    until("the condition again", || accepted(&server, "p").is_some()).await;
    drop(control.running);
}

#[tokio::test]
async fn only_the_leader_writes_and_the_next_one_goes_on() {
    let server = server();
    put(&server, "p");
    let mut first = Control::new(&server, "first", Rate::default());
    first.say("p", "True");
    until("the condition", || accepted(&server, "p").as_deref() == Some("True")).await;
    let second = Control::new(&server, "second", Rate::default());
    second.say("p", "False");
    sleep(Duration::from_millis(800)).await;
    assert_eq!(accepted(&server, "p").as_deref(), Some("True"));
    // Without a word; the second has to wait until the lease has run out.
    first.running.shutdown().await;
    until("the other's opinion", || accepted(&server, "p").as_deref() == Some("False")).await;
    drop(second.running);
}

#[tokio::test]
async fn others_may_write_at_the_same_time() {
    let server = server();
    put(&server, "p");
    let control = Control::new(&server, "one", Rate { per_second: 1000, burst: 1000 });
    // Between what we read and what we write, somebody else writes: twice, and then no more.
    for (round, status) in ["True", "False", "True", "False"].into_iter().enumerate() {
        server.fail(Fault {
            matching: "patch peerauthentications/status".into(),
            times: 2,
            delay: Duration::from_millis(100),
            refusal: None,
        });
        control.say("p", status);
        sleep(Duration::from_millis(50)).await;
        let mut policy = read(&server, "p");
        let theirs = json!({"type": format!("Other{round}"), "status": "True"});
        policy["status"]["conditions"].as_array_mut().expect("a list").push(theirs.clone());
        server.put(&policy);
        until("our condition", || accepted(&server, "p").as_deref() == Some(status)).await;
        let after = read(&server, "p");
        let conditions = after["status"]["conditions"].as_array().expect("a list");
        assert!(conditions.contains(&theirs), "what another wrote was lost: {after}");
        server.heal();
    }
    drop(control.running);
}

#[tokio::test]
async fn writing_is_held_back() {
    let server = server();
    for number in 0..40 {
        put(&server, &format!("p{number}"));
    }
    let control = Control::new(&server, "one", Rate { per_second: 10, burst: 5 });
    control.say("p0", "True");
    until("the first", || accepted(&server, "p0").is_some()).await;
    let started = Instant::now();
    for number in 1..40 {
        control.say(&format!("p{number}"), "True");
    }
    let done = || (0..40).all(|number| accepted(&server, &format!("p{number}")).is_some());
    until("all of them", done).await;
    // 39 of them: 4 at once, the others ten a second.
    let took = started.elapsed();
    assert!((Duration::from_secs(3)..Duration::from_secs(8)).contains(&took), "{took:?}");
    drop(control.running);
}

#[tokio::test]
async fn failures_are_tried_again_and_refusals_are_not() {
    let server = server();
    put(&server, "p");
    put(&server, "q");
    let fail = |matching: &str, times, code| {
        server.fail(Fault {
            matching: matching.into(),
            times,
            delay: Duration::ZERO,
            refusal: Some(Refusal::new(code, "Test", "it was told to fail")),
        });
    };
    fail("patch peerauthentications/status a/p", 3, 500);
    fail("patch peerauthentications/status a/q", usize::MAX, 403);
    let control = Control::new(&server, "one", Rate::default());
    control.say("p", "True");
    control.say("q", "True");
    control.say("gone", "True");
    until("the first", || accepted(&server, "p").is_some()).await;
    sleep(Duration::from_millis(500)).await;
    let requests = server.requests();
    let count = |what: &str| requests.iter().filter(|request| *request == what).count();
    assert_eq!(count("patch peerauthentications/status a/p"), 4);
    assert_eq!(count("patch peerauthentications/status a/q"), 1);
    assert_eq!(count("get peerauthentications/status a/gone"), 1);
    // Something else to say is worth another attempt.
    server.heal();
    control.say("q", "False");
    until("the second", || accepted(&server, "q").is_some()).await;
    drop(control.running);
}

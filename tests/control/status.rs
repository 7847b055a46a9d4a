//! Statuses, as users and other controllers see them, in any cluster (see [`crate::real`]) but where the server has to
//! fail.

use std::time::Duration;

use mesh_core::resource::ObjectKey;
use mesh_source::kubernetes::leader::{Candidate, Election, Terms};
use mesh_source::kubernetes::status::{Condition, Rate, Status, Statuses};
use mesh_source::kubernetes::{Kubernetes, Options, client};
use mesh_tests::apiserver::{Fault, Refusal};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::api::Cluster;
use crate::stage::soon;

/// A control plane that writes statuses, as soon as it leads.
struct Control {
    statuses: Statuses,
    namespace: String,
    running: JoinSet<()>,
}

/// A cluster with a namespace for policies, and for the lease.
async fn cluster() -> Cluster {
    ready(Cluster::any().await).await
}

/// The suite's own server, which can be made to fail, and tells what it was asked.
async fn own() -> Cluster {
    ready(Cluster::own()).await
}

async fn ready(mut cluster: Cluster) -> Cluster {
    cluster.kinds().await;
    cluster.root = cluster.namespace().await;
    cluster
}

impl Control {
    fn new(cluster: &Cluster, identity: &str, rate: Rate) -> Self {
        let client = || client(cluster.admin()).expect("a client");
        let namespace = cluster.root.clone();
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
            Candidate { namespace: namespace.clone(), name: "l".into(), identity: identity.into(), terms };
        let (election, leadership) = Election::new(client(), candidate);
        let (writer, statuses) = source.status_writer(leadership, rate);
        let mut running = JoinSet::new();
        running.spawn(source.run());
        running.spawn(election.run(std::future::pending()));
        running.spawn(writer.run());
        running.spawn(async move { while changes.next().await.is_some() {} });
        Self { statuses, namespace, running }
    }

    fn say(&self, name: &str, status: &str) {
        self.statuses.set(self.key(name), wish(status));
    }

    fn key(&self, name: &str) -> ObjectKey {
        ObjectKey { kind: "PeerAuthentication", namespace: self.namespace.as_str().into(), name: name.into() }
    }
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

async fn put(cluster: &Cluster, name: &str) {
    let object = json!({
        "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": {"name": name, "namespace": cluster.root}, "spec": {"mtls": {"mode": "STRICT"}},
        "status": {"conditions": [{"type": "Other", "status": "True"}]},
    });
    cluster.put(&object).await;
}

async fn read(cluster: &Cluster, name: &str) -> Value {
    cluster.read("PeerAuthentication", &cluster.root, name).await.expect("the policy")
}

/// The status of our condition.
async fn accepted(cluster: &Cluster, name: &str) -> Option<String> {
    let policy = read(cluster, name).await;
    let conditions = policy["status"]["conditions"].as_array()?;
    let ours = conditions.iter().find(|it| it["type"] == "Accepted")?;
    ours["status"].as_str().map(str::to_owned)
}

async fn until_it_is(cluster: &Cluster, name: &str, status: &str) {
    soon("the condition", async || accepted(cluster, name).await.as_deref() == Some(status)).await;
}

#[tokio::test]
async fn a_status_is_written_when_it_changes_and_not_otherwise() {
    let cluster = cluster().await;
    put(&cluster, "p").await;
    let control = Control::new(&cluster, "one", Rate::default());
    control.say("p", "True");
    until_it_is(&cluster, "p", "True").await;
    let first = read(&cluster, "p").await;
    assert_eq!(first["status"]["conditions"][0]["type"], "Other");
    assert_eq!(first["metadata"]["generation"], 1);
    assert!(first["status"]["conditions"][1]["lastTransitionTime"].is_string());
    // The same again.
    control.say("p", "True");
    sleep(Duration::from_millis(300)).await;
    let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
    assert_eq!(version(&read(&cluster, "p").await), version(&first));
    control.say("p", "False");
    until_it_is(&cluster, "p", "False").await;
    let second = read(&cluster, "p").await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(version(&read(&cluster, "p").await), version(&second));
    drop(control.running);
}

/// What costs nothing is not even asked: on the suite's own server only, as no other tells what it was asked.
#[tokio::test]
async fn a_status_costs_one_request_and_none_if_it_is_the_same() {
    let mut cluster = own().await;
    put(&cluster, "p").await;
    cluster.server().requests();
    let control = Control::new(&cluster, "one", Rate::default());
    let writes = async |cluster: &mut Cluster| {
        sleep(Duration::from_millis(300)).await;
        let requests = cluster.server().requests();
        requests.iter().filter(|it| it.starts_with("patch peerauthentications/status")).count()
    };
    control.say("p", "True");
    until_it_is(&cluster, "p", "True").await;
    assert_eq!(writes(&mut cluster).await, 1);
    control.say("p", "True");
    assert_eq!(writes(&mut cluster).await, 0);
    control.say("p", "False");
    until_it_is(&cluster, "p", "False").await;
    assert_eq!(writes(&mut cluster).await, 1);
    drop(control.running);
}

#[tokio::test]
async fn another_object_of_the_same_name_is_told_anew() {
    let cluster = cluster().await;
    put(&cluster, "p").await;
    let control = Control::new(&cluster, "one", Rate::default());
    let about = |uid: &Value| Status { uid: uid.as_str().map(Into::into), ..wish("True") };
    let first = read(&cluster, "p").await["metadata"]["uid"].clone();
    control.statuses.set(control.key("p"), about(&first));
    until_it_is(&cluster, "p", "True").await;
    cluster.remove("PeerAuthentication", &cluster.root, "p").await;
    put(&cluster, "p").await;
    let second = read(&cluster, "p").await["metadata"]["uid"].clone();
    // Late news of the first are no news of the second.
    let late = Status { uid: first.as_str().map(Into::into), ..wish("False") };
    control.statuses.set(control.key("p"), late);
    sleep(Duration::from_millis(300)).await;
    assert_eq!(accepted(&cluster, "p").await, None);
    control.statuses.set(control.key("p"), about(&second));
    until_it_is(&cluster, "p", "True").await;
    drop(control.running);
}

#[tokio::test]
async fn only_the_leader_writes_and_the_next_one_goes_on() {
    let cluster = cluster().await;
    put(&cluster, "p").await;
    let mut first = Control::new(&cluster, "first", Rate::default());
    first.say("p", "True");
    until_it_is(&cluster, "p", "True").await;
    let second = Control::new(&cluster, "second", Rate::default());
    second.say("p", "False");
    sleep(Duration::from_millis(800)).await;
    assert_eq!(accepted(&cluster, "p").await.as_deref(), Some("True"));
    // Without a word; the second has to wait until the lease has run out.
    first.running.shutdown().await;
    until_it_is(&cluster, "p", "False").await;
    drop(second.running);
}

/// On the suite's own server only, as no other answers late when it is told to.
#[tokio::test]
async fn others_may_write_at_the_same_time() {
    let mut cluster = own().await;
    put(&cluster, "p").await;
    let control = Control::new(&cluster, "one", Rate { per_second: 1000, burst: 1000 });
    // Between what we read and what we write, somebody else writes: twice, and then no more.
    for (round, status) in ["True", "False", "True", "False"].into_iter().enumerate() {
        cluster.server().fail(Fault {
            matching: "patch peerauthentications/status".into(),
            times: 2,
            delay: Duration::from_millis(100),
            refusal: None,
        });
        control.say("p", status);
        sleep(Duration::from_millis(50)).await;
        let mut policy = read(&cluster, "p").await;
        let theirs = json!({"type": format!("Other{round}"), "status": "True"});
        policy["status"]["conditions"].as_array_mut().expect("a list").push(theirs.clone());
        cluster.server().put(&policy);
        until_it_is(&cluster, "p", status).await;
        let after = read(&cluster, "p").await;
        let conditions = after["status"]["conditions"].as_array().expect("a list");
        assert!(conditions.contains(&theirs), "what another wrote was lost: {after}");
        cluster.server().heal();
    }
    drop(control.running);
}

#[tokio::test]
async fn writing_is_held_back() {
    let cluster = cluster().await;
    for number in 0..40 {
        put(&cluster, &format!("p{number}")).await;
    }
    let control = Control::new(&cluster, "one", Rate { per_second: 10, burst: 5 });
    control.say("p0", "True");
    until_it_is(&cluster, "p0", "True").await;
    let started = Instant::now();
    for number in 1..40 {
        control.say(&format!("p{number}"), "True");
    }
    for number in 1..40 {
        until_it_is(&cluster, &format!("p{number}"), "True").await;
    }
    // 39 of them: 4 at once, the others ten a second.
    let took = started.elapsed();
    assert!((Duration::from_secs(3)..Duration::from_secs(8)).contains(&took), "{took:?}");
    drop(control.running);
}

/// On the suite's own server only, as no other fails when it is told to.
#[tokio::test]
async fn failures_are_tried_again_and_refusals_are_not() {
    let mut cluster = own().await;
    let namespace = cluster.root.clone();
    put(&cluster, "p").await;
    put(&cluster, "q").await;
    cluster.server().requests();
    for (name, times, code) in [("p", 3, 500), ("q", usize::MAX, 403)] {
        cluster.server().fail(Fault {
            matching: format!("patch peerauthentications/status {namespace}/{name}"),
            times,
            delay: Duration::ZERO,
            refusal: Some(Refusal::new(code, "Test", "it was told to fail")),
        });
    }
    let control = Control::new(&cluster, "one", Rate::default());
    control.say("p", "True");
    control.say("q", "True");
    control.say("gone", "True");
    until_it_is(&cluster, "p", "True").await;
    sleep(Duration::from_millis(500)).await;
    let requests = cluster.server().requests();
    let count = |verb: &str, name: &str| {
        let what = format!("{verb} peerauthentications/status {namespace}/{name}");
        requests.iter().filter(|request| **request == what).count()
    };
    assert_eq!((count("patch", "p"), count("patch", "q"), count("get", "gone")), (4, 1, 1));
    // Something else to say is worth another attempt.
    cluster.server().heal();
    control.say("q", "False");
    until_it_is(&cluster, "q", "False").await;
    drop(control.running);
}

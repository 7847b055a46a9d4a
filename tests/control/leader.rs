//! Elections, in any cluster (see [`crate::real`]) but where the server has to fail.

use std::time::Duration;

use mesh_source::kubernetes::client;
use mesh_source::kubernetes::leader::{Candidate, Election, Leadership, Terms};
use mesh_tests::apiserver::{Fault, Refusal};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::api::Cluster;

/// One who wants to lead.
struct Member {
    leadership: Leadership,
    end: Option<oneshot::Sender<()>>,
    running: JoinSet<()>,
}

/// A second takes two tenths here.
fn terms() -> Terms {
    Terms {
        lease: Duration::from_secs(2),
        renewal: Duration::from_millis(1200),
        retry: Duration::from_millis(200),
    }
}

/// A cluster with a namespace for the lease.
async fn cluster() -> Cluster {
    elected_in(Cluster::any().await).await
}

/// The suite's own server, which can be made to fail.
async fn own() -> Cluster {
    elected_in(Cluster::own()).await
}

async fn elected_in(mut cluster: Cluster) -> Cluster {
    cluster.root = cluster.namespace().await;
    cluster
}

async fn lease(cluster: &Cluster) -> Value {
    cluster.read("Lease", &cluster.root, "mesh-control").await.expect("a lease")
}

impl Member {
    fn new(cluster: &Cluster, identity: &str) -> Self {
        let client = client(cluster.admin()).expect("a client");
        let candidate = Candidate {
            namespace: cluster.root.clone(),
            name: "mesh-control".into(),
            identity: identity.into(),
            terms: terms(),
        };
        let (election, leadership) = Election::new(client, candidate);
        let (end, ended) = oneshot::channel::<()>();
        let mut running = JoinSet::new();
        // Ends when it is told to, and never if the test just drops it.
        running.spawn(election.run(async {
            if ended.await.is_err() {
                std::future::pending::<()>().await;
            }
        }));
        Self { leadership, end: Some(end), running }
    }

    async fn leads(&mut self, leads: bool) {
        let reached = timeout(Duration::from_secs(20), self.leadership.wait_until(leads)).await;
        assert_eq!(reached, Ok(true), "leading should have become {leads}");
    }

    /// Ends in good order.
    async fn end(&mut self) {
        if let Some(end) = self.end.take() {
            let _ = end.send(());
        }
        let _ = timeout(Duration::from_secs(10), self.running.join_next()).await.expect("it ends");
    }

    /// Ends without a word, as if its machine had lost power.
    async fn die(&mut self) {
        self.running.shutdown().await;
    }
}

/// How many of them believe to lead.
fn leading(members: &[Member]) -> usize {
    members.iter().filter(|member| member.leadership.is_leading()).count()
}

#[tokio::test]
async fn exactly_one_leads() {
    let cluster = cluster().await;
    let mut members: Vec<_> = ["a", "b", "c"].map(|name| Member::new(&cluster, name)).into();
    for _ in 0..30 {
        sleep(Duration::from_millis(100)).await;
        assert!(leading(&members) <= 1);
    }
    assert_eq!(leading(&members), 1);
    let found = lease(&cluster).await;
    let holder = found["spec"]["holderIdentity"].as_str().expect("a holder");
    assert!(members.iter().all(|member| *member.leadership.holder() == *holder));
    assert_eq!(found["spec"]["leaseTransitions"], 1);
    assert_eq!(found["spec"]["leaseDurationSeconds"], 2);
    // It renews, and does not acquire anew.
    let acquired = found["spec"]["acquireTime"].clone();
    sleep(Duration::from_millis(600)).await;
    let later = lease(&cluster).await;
    assert_ne!(later["spec"]["renewTime"], found["spec"]["renewTime"]);
    assert_eq!(later["spec"]["acquireTime"], acquired);
    for member in &mut members {
        member.die().await;
    }
}

#[tokio::test]
async fn whoever_ends_in_good_order_hands_over_at_once() {
    let cluster = cluster().await;
    let mut first = Member::new(&cluster, "first");
    first.leads(true).await;
    let mut second = Member::new(&cluster, "second");
    sleep(Duration::from_millis(500)).await;
    assert!(!second.leadership.is_leading());
    first.end().await;
    assert!(!first.leadership.is_leading());
    // Less than the lease would have lasted.
    let handed_over = timeout(Duration::from_millis(1200), second.leadership.wait_until(true)).await;
    assert_eq!(handed_over, Ok(true));
    let found = lease(&cluster).await;
    assert_eq!(
        (&found["spec"]["holderIdentity"], &found["spec"]["leaseTransitions"]),
        (&json!("second"), &json!(2))
    );
}

#[tokio::test]
async fn whoever_dies_is_followed_when_the_lease_has_run_out() {
    let cluster = cluster().await;
    let mut first = Member::new(&cluster, "first");
    first.leads(true).await;
    let mut second = Member::new(&cluster, "second");
    sleep(Duration::from_millis(500)).await;
    first.die().await;
    // It believes to lead for a while; the other does not yet.
    while first.leadership.is_leading() {
        assert!(!second.leadership.is_leading(), "two lead");
        sleep(Duration::from_millis(10)).await;
    }
    second.leads(true).await;
}

/// On the suite's own server only, as no other fails when it is told to.
#[tokio::test]
async fn whoever_cannot_renew_stops_leading_before_others_start() {
    let mut cluster = own().await;
    let mut first = Member::new(&cluster, "first");
    first.leads(true).await;
    cluster.server().stop().await;
    first.leads(false).await;
    cluster.server().start_again().await;
    first.leads(true).await;
    let found = lease(&cluster).await;
    // It held the lease all the time, so nobody took over.
    assert_eq!(found["spec"]["leaseTransitions"], 1);
}

#[tokio::test]
async fn of_two_who_write_at_once_one_wins() {
    let cluster = cluster().await;
    let mut members: Vec<_> = (0..8).map(|number| Member::new(&cluster, &format!("m{number}"))).collect();
    for _ in 0..3 {
        // Nobody holds it, and all are told so at about the same time.
        cluster.remove("Lease", &cluster.root, "mesh-control").await;
        for _ in 0..15 {
            sleep(Duration::from_millis(50)).await;
            let lease = cluster.read("Lease", &cluster.root, "mesh-control").await;
            let holder = lease.as_ref().and_then(|lease| lease["spec"]["holderIdentity"].as_str());
            let believe: Vec<_> = members
                .iter()
                .filter(|it| it.leadership.is_leading())
                .map(|it| it.leadership.holder())
                .collect();
            // A deleted lease fences nothing: the last holder learns of it with its next look.
            assert!(believe.len() <= 2, "{believe:?}, and the lease says {holder:?}");
        }
        assert_eq!(leading(&members), 1);
    }
    for member in &mut members {
        member.die().await;
    }
}

/// On the suite's own server only, as no other fails when it is told to.
#[tokio::test]
async fn an_answer_that_never_comes_ends_leadership() {
    let mut cluster = own().await;
    let mut first = Member::new(&cluster, "first");
    first.leads(true).await;
    cluster.server().fail(Fault {
        matching: "leases".into(),
        times: usize::MAX,
        delay: Duration::from_secs(3600),
        refusal: None,
    });
    first.leads(false).await;
    cluster.server().heal();
    first.leads(true).await;
}

/// On the suite's own server only, as no other fails when it is told to.
#[tokio::test]
async fn a_refusal_is_survived() {
    let mut cluster = own().await;
    cluster.server().fail(Fault {
        matching: "create leases".into(),
        times: 3,
        delay: Duration::ZERO,
        refusal: Some(Refusal::new(403, "Forbidden", "not yet")),
    });
    let mut first = Member::new(&cluster, "first");
    first.leads(true).await;
    assert_eq!(
        cluster.server().requests().iter().filter(|request| request.starts_with("create leases")).count(),
        4
    );
}

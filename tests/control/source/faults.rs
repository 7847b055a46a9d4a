//! A cluster that fails: nothing is lost, nothing is dropped, and nobody is flooded. On the suite's own server only, as
//! no other fails when it is told to, or tells what it was asked.

use std::time::Duration;

use mesh_tests::apiserver::{Fault, Refusal};
use tokio::time::sleep;

use super::{Follower, define_policies, hasty, pod, policy, server};

fn refusal(code: u16, retry_after: Option<u64>) -> Refusal {
    Refusal { retry_after, ..Refusal::new(code, "Test", "it was told to fail") }
}

/// How often something was asked.
fn count(requests: &[String], what: &str) -> usize {
    requests.iter().filter(|request| *request == what).count()
}

#[tokio::test]
async fn an_ended_watch_goes_on_from_where_it_was() {
    let server = server();
    for name in ["a", "b", "c"] {
        server.put(&pod("n", name, "1"));
    }
    let mut follower = Follower::new(server);
    follower.synced().await;
    follower.log();
    follower.server.requests();
    for label in ["2", "3", "4"] {
        // A watch that never lasted would be a failure, and answered by waiting.
        sleep(Duration::from_millis(300)).await;
        follower.server.end_watches();
        // Or the old watch might still tell of it.
        sleep(Duration::from_millis(200)).await;
        follower.server.put(&pod("n", "a", label));
        follower.until("the change", |seen| seen.label("Pod", "n", "a") == Some(label)).await;
    }
    let requests = follower.server.requests();
    assert_eq!(count(&requests, "list pods"), 0, "{requests:?}");
    assert!(count(&requests, "watch pods") >= 3, "{requests:?}");
    assert_eq!(follower.log(), ["+Pod n/a"; 3]);
}

#[tokio::test]
async fn bookmarks_move_the_place_on() {
    let server = server();
    server.put(&pod("n", "a", "1"));
    let mut follower = Follower::new(server);
    follower.synced().await;
    // Much happens that has nothing to do with Pods; then all that is forgotten.
    for number in 0..20 {
        follower.server.put(&account(number));
    }
    sleep(Duration::from_millis(700)).await;
    follower.server.compact();
    follower.server.requests();
    follower.server.end_watches();
    follower.server.put(&pod("n", "a", "2"));
    follower.until("the change", |seen| seen.label("Pod", "n", "a") == Some("2")).await;
    // Without bookmarks the watch would have begun too far back.
    assert_eq!(count(&follower.server.requests(), "list pods"), 0);
}

/// An object of a kind that nobody watches.
fn account(number: usize) -> serde_json::Value {
    serde_json::json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": format!("s{number}"), "namespace": "n"},
    })
}

#[tokio::test]
async fn what_vanished_while_nobody_looked_is_told() {
    let server = server();
    for name in ["a", "b", "c"] {
        server.put(&pod("n", name, "1"));
    }
    let mut follower = Follower::new(server);
    follower.synced().await;
    follower.log();
    follower.server.stop().await;
    follower.server.remove("Pod", "n", "b");
    follower.server.put(&pod("n", "c", "2"));
    follower.server.put(&pod("n", "d", "1"));
    follower.server.compact();
    // An outage drops nothing.
    follower.for_a_moment().await;
    assert_eq!(follower.log(), Vec::<String>::new());
    follower.server.requests();
    follower.server.start_again().await;
    follower.until("the end of b", |seen| !seen.has("Pod", "n", "b")).await;
    let mut log = follower.log();
    log.sort();
    // What has not changed is not told again, although it was listed again.
    assert_eq!(log, ["+Pod n/c", "+Pod n/d", "-Pod n/b"]);
    assert_eq!(count(&follower.server.requests(), "list pods"), 1);
}

#[tokio::test]
async fn a_short_outage_needs_no_list() {
    let server = server();
    server.put(&pod("n", "a", "1"));
    let mut follower = Follower::new(server);
    follower.synced().await;
    follower.server.stop().await;
    follower.server.put(&pod("n", "a", "2"));
    follower.server.remove("Pod", "n", "a");
    follower.server.put(&pod("n", "b", "1"));
    follower.server.requests();
    follower.server.start_again().await;
    follower.until("b", |seen| seen.has("Pod", "n", "b") && !seen.has("Pod", "n", "a")).await;
    assert_eq!(count(&follower.server.requests(), "list pods"), 0);
}

#[tokio::test]
async fn many_outages_in_a_row_lose_nothing() {
    let server = server();
    let mut follower = Follower::new(server);
    follower.synced().await;
    for round in 0..5 {
        follower.server.stop().await;
        follower.server.put(&pod("n", &format!("p{round}"), "1"));
        if round % 2 == 0 {
            follower.server.compact();
        }
        follower.server.start_again().await;
        if round % 2 == 1 {
            sleep(Duration::from_millis(200)).await;
        }
    }
    follower.until("all five", |seen| (0..5).all(|it| seen.has("Pod", "n", &format!("p{it}")))).await;
}

#[tokio::test]
async fn a_server_that_refuses_is_left_alone_for_a_while() {
    let server = server();
    server.put(&pod("n", "a", "1"));
    let fail = |matching: &str, code, retry_after| Fault {
        matching: matching.into(),
        times: usize::MAX,
        delay: Duration::ZERO,
        refusal: Some(refusal(code, retry_after)),
    };
    server.fail(fail("list pods", 500, None));
    let mut follower = Follower::new(server);
    sleep(Duration::from_secs(2)).await;
    let requests = follower.server.requests();
    // 50, 100, 200, 400, 400, … ms, each more or less.
    let asked = count(&requests, "list pods");
    assert!((4..=12).contains(&asked), "{asked} times");
    // Other kinds do not wait for this one; the whole does.
    follower.until("a namespace", |seen| seen.has("Namespace", "", "n")).await;
    assert!(!follower.seen.log.contains(&"synced".to_owned()));
    follower.server.heal();
    follower.synced().await;
    assert!(follower.seen.has("Pod", "n", "a"));
    // A server that names a time is asked again then, and not before.
    follower.server.fail(fail("watch pods", 429, Some(2)));
    follower.server.requests();
    follower.server.end_watches();
    sleep(Duration::from_millis(1700)).await;
    assert_eq!(count(&follower.server.requests(), "watch pods"), 1);
    follower.server.heal();
    follower.server.put(&pod("n", "a", "2"));
    follower.until("the change", |seen| seen.label("Pod", "n", "a") == Some("2")).await;
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let server = server();
    server.put(&pod("n", "a", "1"));
    let mut pace = hasty();
    pace.answer = Duration::from_millis(300);
    pace.silence = Duration::from_millis(900);
    let mut follower = Follower::with(server, pace);
    follower.synced().await;
    let hang =
        Fault { matching: "watch pods".into(), times: 2, delay: Duration::from_secs(3600), refusal: None };
    follower.server.fail(hang);
    follower.server.end_watches();
    follower.server.put(&pod("n", "a", "2"));
    follower.until("the change", |seen| seen.label("Pod", "n", "a") == Some("2")).await;
}

#[tokio::test]
async fn a_watch_that_always_ends_at_once_is_no_reason_to_hurry() {
    let server = server();
    let mut follower = Follower::new(server);
    follower.synced().await;
    follower.server.requests();
    for _ in 0..200 {
        follower.server.end_watches();
        sleep(Duration::from_millis(10)).await;
    }
    let asked = count(&follower.server.requests(), "watch pods");
    assert!(asked < 40, "{asked} watches in two seconds");
}

#[tokio::test]
async fn discovery_that_fails_delays_but_drops_nothing() {
    let server = server();
    define_policies(&server, &["v1"]);
    server.put(&policy("a", "strict", "STRICT"));
    let fault = Fault {
        matching: "GET /apis".into(),
        times: usize::MAX,
        delay: Duration::ZERO,
        refusal: Some(refusal(503, None)),
    };
    server.fail(fault.clone());
    let mut follower = Follower::new(server);
    follower.for_a_moment().await;
    assert_eq!(follower.log(), Vec::<String>::new());
    follower.server.heal();
    follower.synced().await;
    assert!(follower.seen.has("PeerAuthentication", "a", "strict"));
    follower.log();
    follower.server.fail(fault);
    follower.server.compact();
    follower.server.end_watches();
    follower.for_a_moment().await;
    assert_eq!(follower.log(), Vec::<String>::new());
}

#[tokio::test]
async fn pages_that_expire_are_read_in_one_piece() {
    let server = server();
    for number in 0..1200 {
        server.put(&pod("n", &format!("p{number:04}"), "1"));
    }
    let expired = Fault {
        matching: "list pods".into(),
        times: 1,
        delay: Duration::ZERO,
        refusal: Some(Refusal::new(410, "Expired", "too old")),
    };
    let first = Fault { refusal: None, ..expired.clone() };
    server.fail(first);
    server.fail(expired);
    let mut follower = Follower::new(server);
    follower.synced().await;
    let pods = follower.seen.objects.keys().filter(|key| key.kind == "Pod").count();
    assert_eq!(pods, 1200);
    // A first page, a second that had expired, and then everything at once.
    assert_eq!(count(&follower.server.requests(), "list pods"), 3);
}

#[tokio::test]
async fn dropping_the_receiver_ends_the_source() {
    let server = server();
    let follower = Follower::new(server);
    let Follower { changes, mut running, server: _server, .. } = follower;
    drop(changes);
    let ended = tokio::time::timeout(Duration::from_secs(5), running.join_next()).await;
    assert!(matches!(ended, Ok(Some(Ok(())))), "{ended:?}");
}

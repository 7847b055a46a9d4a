//! Many objects: how long it takes, and how much of them stays in memory. On the suite's own server only, which
//! can be filled within seconds.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{Follower, pod, server};

/// A Pod about as large as those of a real cluster.
fn large(number: usize) -> serde_json::Value {
    let mut pod = pod("n", &format!("p{number:05}"), "1");
    let env: Vec<_> =
        (0..40).map(|it| json!({"name": format!("VARIABLE_{it}"), "value": "x".repeat(60)})).collect();
    pod["spec"]["containers"][0]["env"] = json!(env);
    pod["spec"]["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
    let managed = json!({"f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {"f:env": "x".repeat(3000)}}}});
    pod["metadata"]["managedFields"] = json!([{"manager": "kubelet", "fieldsV1": managed}]);
    pod
}

/// Bytes of memory that this process uses.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("Linux");
    let kib: usize = line.split_whitespace().nth(1).and_then(|it| it.parse().ok()).expect("a number");
    kib << 10
}

#[tokio::test]
async fn ten_thousand_pods_are_known_in_seconds_and_take_little_room() {
    let server = server();
    let mut text = 0;
    for number in 0..COUNT {
        let pod = large(number);
        text += pod.to_string().len();
        server.put(&pod);
    }
    let before = resident();
    let started = Instant::now();
    let mut follower = Follower::new(server);
    follower.synced().await;
    let took = started.elapsed();
    let pods = follower.seen.objects.keys().filter(|key| key.kind == "Pod").count();
    assert_eq!(pods, COUNT);
    // Unoptimised, on a machine that has other things to do.
    assert!(took < Duration::from_secs(60), "{took:?}");
    let grown = resident().saturating_sub(before);
    let each = grown / COUNT;
    // A typed Pod with one container has 5 kB before it says anything, so what it says must be little.
    assert!(each < 16 << 10, "{each} bytes a Pod, of {} in JSON", text / COUNT);
    // One change of one Pod is one change.
    follower.log();
    follower.server.put(&pod("n", "p00007", "2"));
    follower.until("the change", |seen| seen.label("Pod", "n", "p00007") == Some("2")).await;
    assert_eq!(follower.log(), ["+Pod n/p00007"]);
}

const COUNT: usize = 10_000;

//! What a decision costs. Run with
//! `cargo test --release -p mesh-core -- --ignored --nocapture cost_of_a_decision`.

use std::fmt::Write;
use std::hint::black_box;
use std::io::Write as _;
use std::time::Instant;

use super::*;

/// 1,000 policies: `here` of them in the workload's namespace, the others elsewhere.
fn policies(here: usize) -> String {
    (0..1000).fold(String::new(), |mut yaml, index| {
        let namespace = if index < here { "app".to_owned() } else { format!("ns-{}", index % 50) };
        let source = format!(
            "{{principals: [cluster.local/ns/n{index}/sa/s{index}], notIpBlocks: [10.{}.0.0/16]}}",
            index % 200
        );
        let spec =
            format!("{{rules: [{{from: [{{source: {source}}}], to: [{{operation: {{ports: ['80']}}}}]}}]}}");
        let _ = write!(yaml, "{}", authz(&format!("{namespace}/p{index:04}"), &spec));
        yaml
    })
}

#[test]
#[ignore = "measures, does not check"]
fn cost_of_a_decision() {
    for here in [0, 1, 10, 1000] {
        let snapshot = world(&policies(here)).snapshot;
        let workload = snapshot.workload_by_ip("10.0.0.1".parse().unwrap()).unwrap();
        // The last policy is the one that allows.
        let last = here.max(1) - 1;
        let peer = SpiffeId::new(&TrustDomain::default(), &format!("n{last}"), &format!("s{last}")).unwrap();
        let connection = Connection {
            peer: Some(&peer),
            source_ip: "192.168.0.1".parse().unwrap(),
            destination: "10.0.0.1:80".parse().unwrap(),
            encrypted: true,
        };
        assert!(snapshot.policies().authorize(workload, &connection).is_ok());
        let rounds = 200_000;
        let start = Instant::now();
        for _ in 0..rounds {
            let _ = black_box(snapshot.policies().authorize(black_box(workload), black_box(&connection)));
        }
        let nanos = start.elapsed().as_nanos() / rounds;
        let line =
            format!("authorize: {nanos} ns with 1000 policies, {here} of them in the workload's namespace\n");
        std::io::stderr().write_all(line.as_bytes()).unwrap();
    }
}

/// As `cargo xtask bench policy`, without what that needs.
#[test]
#[ignore = "measures, does not check"]
fn cost_of_a_request() {
    for (elsewhere, from, path) in [
        (0, "cluster.local/ns/n{}/sa/s", "/team-{}/r{r}/*"),
        (10_000, "cluster.local/ns/n{}/sa/s", "/team-{}/r{r}/*"),
        (0, "*/ns/n{}/sa/s", "*/r{r}/item"),
        (0, "*", "/team-{}/r{r}/*"),
        (0, "*", "*/team-{}/r{r}/item"),
    ] {
        let mut yaml = String::new();
        for index in 0..100 + elsewhere {
            let namespace = if index < 100 { "app".to_owned() } else { format!("ns-{}", index % 50) };
            let fill = |text: &str, rule: usize| {
                text.replace("{}", &index.to_string()).replace("{r}", &rule.to_string())
            };
            let rule = |rule| {
                format!(
                    "{{from: [{{source: {{principals: ['{}']}}}}], to: [{{operation: {{methods: [GET], paths: ['{}']}}}}]}}",
                    fill(from, rule),
                    fill(path, rule)
                )
            };
            let rules: Vec<_> = (0..10).map(rule).collect();
            let _ = write!(
                yaml,
                "{}",
                authz(&format!("{namespace}/p{index:05}"), &format!("{{rules: [{}]}}", rules.join(", ")))
            );
        }
        let snapshot = world(&yaml).snapshot;
        let workload = snapshot.workload_by_ip("10.0.0.1".parse().unwrap()).unwrap();
        let peer = SpiffeId::new(&TrustDomain::default(), "n99", "s").unwrap();
        let connection = Connection {
            peer: Some(&peer),
            source_ip: "192.168.0.1".parse().unwrap(),
            destination: "10.0.0.1:80".parse().unwrap(),
            encrypted: true,
        };
        let (host, headers, remote_ip) = (Host::of("h"), http::HeaderMap::new(), connection.source_ip);
        let request = Request {
            method: "GET",
            host: Some(&host),
            path: "/team-99/r9/item",
            headers: &headers,
            remote_ip,
            server_name: None,
            claims: None,
        };
        let question = Question { connection: &connection, seen: Seen::Request(&request), approved: &[] };
        let decide = || snapshot.policies().decide(black_box(workload), black_box(&question));
        assert!(matches!(decide(), Decision::Allowed(_)));
        let (rounds, start) = (100_000, Instant::now());
        for _ in 0..rounds {
            let _ = black_box(decide());
        }
        let nanos = start.elapsed().as_nanos() / rounds;
        let line = format!(
            "decide: {nanos} ns with 100 policies of 10 rules from {from} to {path}, {elsewhere} elsewhere\n"
        );
        std::io::stderr().write_all(line.as_bytes()).unwrap();
    }
}

//! What picking costs. Run with
//! `cargo test --release -p mesh-core -- --ignored --nocapture cost_of_picking`.

use std::hint::black_box;
use std::io::Write as _;
use std::time::Instant;

use super::*;

/// Rules of three kinds in turn, for paths that end with their number; more than would fit into one document.
fn rules(count: usize) -> Vec<VirtualService> {
    let mut all: Vec<VirtualService> = Vec::new();
    for first in (0..count).step_by(500) {
        let mut yaml = "vs default/reviews\nhosts: [reviews]\nhttp:\n".to_owned();
        for number in first..count.min(first + 500) {
            let asked = match number % 3 {
                0 => format!("uri: {{exact: /api/v1/orders/{number}}}"),
                1 => format!("uri: {{prefix: /api/v1/orders/{number}/}}"),
                _ => format!("uri: {{prefix: /api/v1/orders/{number}}}, headers: {{user: {{exact: jason}}}}"),
            };
            let _ = writeln!(yaml, "- match: [{{{asked}}}]\n  route: [{{destination: {{host: reviews}}}}]");
        }
        let more = virtual_services(&yaml);
        match all.first_mut() {
            Some(one) => one.spec.http.extend(more.into_iter().flat_map(|it| it.spec.http)),
            None => all = more,
        }
    }
    all
}

#[test]
#[ignore = "measures, does not check"]
fn cost_of_picking() {
    for count in [10, 100, 1_000, 10_000] {
        let virtuals = Virtuals::of(&rules(count), &Settings::default());
        let labels = BTreeMap::new();
        let client = Client { namespace: "default", labels: &labels };
        let host = "reviews.default.svc.cluster.local";
        let services = [ServiceName { host, aliases: &[], addresses: &[], by_host: false }];
        let table = RouteTable::for_mesh(&virtuals, client, 80, &services, &|_| false).unwrap();
        let paths = (0..256).map(|at| at * 7919 % count).map(|number| {
            let rest = if number % 3 == 1 { "/items?x=1" } else { "" };
            let headers = "user: jason\naccept: */*\nuser-agent: curl/8\nx-request-id: 0123";
            Request::parse(&format!("GET http://reviews/api/v1/orders/{number}{rest}\n{headers}"))
        });
        let requests: Vec<_> = paths.collect();
        let rounds = 4_000;
        let start = Instant::now();
        for _ in 0..rounds {
            for request in &requests {
                assert!(matches!(black_box(table.pick(black_box(&request.view()))), Picked::Route(..)));
            }
        }
        let nanos = start.elapsed().as_nanos() / (rounds * requests.len() as u128);
        let line = format!("pick: {nanos} ns with {count} rules\n");
        std::io::stderr().write_all(line.as_bytes()).unwrap();
    }
}

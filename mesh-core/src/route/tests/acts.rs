//! What a picked rule does: destinations, paths, addresses, headers, origins, faults, retries.

use std::time::Duration;

use super::*;
use crate::resource::networking::virtual_service::{AbortError, GrpcStatus};
use crate::resource::value::{HttpStatus, Percent};
use crate::retry::RetryPolicy;

/// The rule of `fields`, and the match that `uri` makes.
fn rule(uri: &str, fields: &str) -> (Arc<Route>, Arc<MatchInfo>) {
    let rules = format!(
        "
        vs default/reviews
        hosts: [reviews]
        http:
        - match: [{{uri: {uri}}}]
          {fields}"
    );
    let virtuals = Virtuals::of(&virtual_services(&rules), &Settings::default());
    let labels = BTreeMap::new();
    let client = Client { namespace: "default", labels: &labels };
    let service = "reviews.default.svc.cluster.local";
    let table = RouteTable::for_service(&virtuals.about(service), client, 80).unwrap();
    let [entry] = table.entries().collect::<Vec<_>>()[..] else { panic!("{rules}") };
    (Arc::clone(&entry.route), Arc::clone(&entry.info))
}

/// A rule for everything that goes to `reviews`.
fn forward(fields: &str) -> Arc<Route> {
    rule("{prefix: /}", &format!("route: [{{destination: {{host: reviews}}}}]\n          {fields}")).0
}

#[test]
fn each_destination_gets_its_share() {
    let rule = rule(
        "{prefix: /}",
        "route:
          - {destination: {host: a}, weight: 90}
          - {destination: {host: b}, weight: 9}
          - {destination: {host: c}, weight: 1}
          - {destination: {host: d}, weight: 0}",
    );
    let Action::Forward(forward) = &rule.0.action else { panic!() };
    let chosen = |seed| shown(forward.choose(seed));
    assert_eq!(chosen(0), "a*90");
    assert_eq!(chosen(u64::MAX), "c");
    let share = u64::MAX / 100;
    assert_eq!(chosen(share * 90 - 100), "a*90");
    assert_eq!(chosen(share * 90 + 100), "b*9");
    assert_eq!(chosen(share * 99 - 100), "b*9");
    assert_eq!(chosen(share * 99 + 100), "c");
}

#[test]
fn a_port_is_found() {
    let to = |port| ClusterRef { host: "a".into(), subset: None, port };
    assert_eq!(to(Some(1)).port_of([2].into_iter(), 3), 1);
    assert_eq!(to(None).port_of([2].into_iter(), 3), 2);
    assert_eq!(to(None).port_of([2, 4].into_iter(), 3), 3);
    assert_eq!(to(None).port_of([].into_iter(), 3), 3);
}

#[test]
fn rewrites() {
    let route = "route: [{destination: {host: reviews}}]";
    for (id, uri, rewrite, path, expected) in [
        ("rewrite-prefix", "{prefix: /wpcatalog}", "uri: /newcatalog", "/wpcatalog/x", "/newcatalog/x"),
        ("rewrite-prefix-whole", "{prefix: /a}", "uri: /b", "/a", "/b"),
        ("rewrite-prefix-slashes", "{prefix: /a}", "uri: /", "/a/b", "//b"),
        ("rewrite-prefix-slash", "{prefix: /a/}", "uri: /", "/a/b", "/b"),
        ("rewrite-prefix-joined", "{prefix: /a}", "uri: /b", "/ac", "/bc"),
        ("rewrite-exact", "{exact: /a/b}", "uri: /c", "/a/b", "/c"),
        ("rewrite-regex-whole", "{regex: '/a/.*'}", "uri: /c", "/a/b", "/c"),
        ("rewrite-root", "{prefix: /}", "uri: /v2", "/a", "/v2a"),
        ("rewrite-root-slash", "{prefix: /}", "uri: /v2/", "/a", "/v2/a"),
        ("rewrite-relative", "{prefix: /a}", "uri: b", "/a/c", "/b/c"),
        (
            "rewrite-groups",
            "{prefix: /}",
            r"uriRegexRewrite: {match: '^/service/([^/]+)(/.*)$', rewrite: '\2/instance/\1'}",
            "/service/foo/v1/api",
            "/v1/api/instance/foo",
        ),
        (
            "rewrite-all-findings",
            "{prefix: /}",
            "uriRegexRewrite: {match: one, rewrite: two}",
            "/xxx/one/yyy/one/zzz",
            "/xxx/two/yyy/two/zzz",
        ),
        ("rewrite-nothing-found", "{prefix: /}", "uriRegexRewrite: {match: x, rewrite: y}", "/a", "/a"),
        (
            "rewrite-whole-finding",
            "{prefix: /}",
            r"uriRegexRewrite: {match: '[a-c]+', rewrite: '<\0\\>'}",
            "/abcd",
            r"/<abc\>d",
        ),
        ("rewrite-to-nothing", "{prefix: /}", "uriRegexRewrite: {match: '^/', rewrite: '-'}", "/a", "/-a"),
        (
            "rewrite-missing-group",
            "{prefix: /}",
            r"uriRegexRewrite: {match: '/(x)?a', rewrite: '/\1b'}",
            "/a",
            "/b",
        ),
    ] {
        let (rule, matched) = rule(uri, &format!("{route}\n          rewrite: {{{rewrite}}}"));
        assert_eq!(rule.rewrite.as_ref().unwrap().path(path, &matched), expected, "{id}");
    }
    assert_eq!(forward("rewrite: {authority: x}").rewrite, None);
}

#[test]
fn redirects() {
    for (id, uri, redirect, request, expected) in [
        ("redirect-uri", "{exact: /a}", "uri: /b", "http://h/a?q=1", "301 http://h/b?q=1"),
        ("redirect-uri-query", "{exact: /a}", "uri: '/b?x'", "http://h/a?q=1", "301 http://h/b?x"),
        ("redirect-prefix", "{prefix: /a}", "prefixRewrite: /b", "http://h/a/c?q", "301 http://h/b/c?q"),
        ("redirect-authority", "{prefix: /}", "authority: x.com", "http://h:81/a", "301 http://x.com/a"),
        ("redirect-code", "{prefix: /}", "authority: x, redirectCode: 308", "http://h/", "308 http://x/"),
        ("redirect-scheme", "{prefix: /}", "scheme: https", "http://h/a", "301 https://h/a"),
        ("redirect-scheme-80", "{prefix: /}", "scheme: https", "http://h:80/a", "301 https://h/a"),
        ("redirect-scheme-443", "{prefix: /}", "scheme: http", "https://h:443/a", "301 http://h/a"),
        ("redirect-scheme-port", "{prefix: /}", "scheme: https", "http://h:8080/a", "301 https://h:8080/a"),
        ("redirect-port", "{prefix: /}", "port: 8443", "http://h/a", "301 http://h:8443/a"),
        ("redirect-port-replaced", "{prefix: /}", "port: 8443", "http://h:1/a", "301 http://h:8443/a"),
        ("redirect-port-80", "{prefix: /}", "port: 80", "http://h/a", "301 http://h/a"),
        ("redirect-port-80-carried", "{prefix: /}", "port: 80", "http://h:80/a", "301 http://h:80/a"),
        ("redirect-port-80-other", "{prefix: /}", "port: 80", "http://h:81/a", "301 http://h/a"),
        ("redirect-port-443", "{prefix: /}", "port: 443, scheme: https", "http://h/a", "301 https://h/a"),
        ("redirect-port-443-http", "{prefix: /}", "port: 443", "http://h/a", "301 http://h:443/a"),
        (
            "redirect-request-port",
            "{prefix: /}",
            "derivePort: FROM_REQUEST_PORT",
            "http://h:81/",
            "301 http://h:81/",
        ),
        (
            "redirect-request-port-elsewhere",
            "{prefix: /}",
            "derivePort: FROM_REQUEST_PORT, authority: x",
            "http://h:81/",
            "301 http://x:81/",
        ),
        (
            "redirect-request-port-default",
            "{prefix: /}",
            "derivePort: FROM_REQUEST_PORT, authority: x",
            "http://h:80/",
            "301 http://x/",
        ),
        (
            "redirect-default-port",
            "{prefix: /}",
            "derivePort: FROM_PROTOCOL_DEFAULT, scheme: https",
            "http://h:80/",
            "301 https://h/",
        ),
        ("redirect-v6", "{prefix: /}", "port: 81", "http://[::1]:80/a", "301 http://[::1]:81/a"),
        ("redirect-v6-bare", "{prefix: /}", "scheme: https", "http://[::1]/a", "301 https://[::1]/a"),
        ("redirect-no-slash", "{prefix: /}", "uri: a", "http://h/b", "301 http://h/a"),
    ] {
        let (rule, matched) = rule(uri, &format!("redirect: {{{redirect}}}"));
        let Action::Redirect(redirect) = &rule.action else { panic!() };
        let request = Request::parse(&format!("GET {request}"));
        let location = redirect.location(&request.view(), &matched);
        assert_eq!(format!("{} {location}", redirect.status.as_u16()), expected, "{id}");
    }
}

#[test]
fn changes_to_headers() {
    let rule = rule(
        "{prefix: /}",
        "headers:
            request:
              set: {a: rule, both: rule, again: rule, gone: rule, empty: ''}
              add: {b: rule}
              remove: [a, old]
            response:
              set: {r: rule}
          route:
          - destination: {host: reviews}
            headers:
              request:
                set: {both: '%REQ(x)%-%MISSING%%%', unknown: '%MISSING%'}
                add: {b: destination, again: destination, bad: '%BAD%'}
                remove: [gone]
              response:
                add: {r: destination}
                remove: [server]",
    )
    .0;
    let Action::Forward(forward) = &rule.action else { panic!() };
    let headers = &forward.choose(7).headers;
    let variable = |name: &str, headers: &HeaderMap| match name {
        "REQ(x)" => headers.get("x").map(|x| x.to_str().unwrap().to_owned()),
        "BAD" => Some("\n".to_owned()),
        _ => None,
    };
    let shown = |edit: &HeaderEdit, headers: &[(&'static str, &'static str)]| {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        edit.apply(&mut map, variable);
        listed(&map)
    };
    assert_eq!(
        shown(
            &headers.request,
            &[("a", "0"), ("a", "1"), ("b", "0"), ("old", "0"), ("x", "7"), ("empty", "0"), ("unknown", "0")]
        ),
        "a=rule again=destination again=rule b=0 b=destination b=rule both=7-% empty=0 gone=rule unknown=0 x=7"
    );
    assert_eq!(shown(&headers.response, &[("r", "0"), ("server", "x")]), "r=destination r=rule");
    assert_eq!(shown(&rule.headers.response, &[("r", "0"), ("server", "x")]), "r=rule server=x");
}

#[test]
fn the_host_of_requests() {
    for (id, rule_says, destination_says, expected) in [
        ("host-of-none", "", "", None),
        ("host-of-rewrite", "rewrite: {authority: a}", "request: {set: {host: b}}", Some("a")),
        ("host-of-rule", "headers: {request: {set: {Host: a}}}", "request: {set: {host: b}}", Some("a")),
        ("host-of-rule-added", "headers: {request: {add: {':authority': a}}}", "", Some("a")),
        ("host-of-destination", "", "request: {set: {':authority': b}}", Some("b")),
        ("host-is-literal", "headers: {request: {set: {host: 'a%%b'}}}", "", Some("a%b")),
    ] {
        let fields = format!(
            "route: [{{destination: {{host: x}}, headers: {{{destination_says}}}}}]\n          {rule_says}"
        );
        let (rule, _) = rule("{prefix: /}", &fields);
        let Action::Forward(forward) = &rule.action else { panic!() };
        let chosen = forward.choose(0);
        assert_eq!(chosen.host.as_deref(), expected, "{id}");
        assert!(chosen.headers.is_empty(), "{id}");
    }
}

/// What follows for a request: the kind of answer, and the headers that it gets.
fn answered(cors: &Cors, request: &str) -> String {
    let request = Request::parse(request);
    let request = request.view();
    let mut answer = HeaderMap::new();
    let kind = match cors.decide(&request) {
        CorsAnswer::None => "none",
        CorsAnswer::Refused => "refused",
        CorsAnswer::Preflight(origin) => {
            cors.preflight(origin, request.headers, &mut answer);
            "preflight"
        }
        CorsAnswer::Actual(origin) => {
            cors.actual(origin, &mut answer);
            "actual"
        }
    };
    format!("{kind} {}", listed(&answer)).trim().to_owned()
}

/// All headers, sorted.
fn listed(headers: &HeaderMap) -> String {
    let all = headers.iter().map(|(name, value)| format!("{name}={}", value.to_str().unwrap()));
    let mut all: Vec<_> = all.collect();
    all.sort();
    all.join(" ")
}

#[test]
fn origins() {
    let policy = "corsPolicy:
            allowOrigins: [{exact: 'https://a.com'}, {regex: 'https://[a-z]+\\.b\\.com'}]
            allowMethods: [GET, POST]
            allowHeaders: [x, y]
            exposeHeaders: [z]
            maxAge: 24h
            allowCredentials: true";
    let ignoring = format!("{policy}\n            unmatchedPreflights: IGNORE");
    let any = "corsPolicy: {allowOrigins: [{exact: '*'}]}";
    let older = "corsPolicy: {allowOrigin: ['https://old.com']}";
    let full = "preflight access-control-allow-credentials=true access-control-allow-headers=x,y \
                access-control-allow-methods=GET,POST access-control-allow-origin=https://a.com \
                access-control-max-age=86400";
    let actual = "actual access-control-allow-credentials=true access-control-allow-origin=https://x.b.com \
                  access-control-expose-headers=z";
    let asks = "\naccess-control-request-method: PUT";
    for (id, policy, request, expected) in [
        ("cors-preflight", policy, format!("OPTIONS http://h/\norigin: https://a.com{asks}"), full),
        ("cors-preflight-other", policy, format!("OPTIONS http://h/\norigin: https://c.com{asks}"), "none"),
        (
            "cors-preflight-ignored",
            &ignoring,
            format!("OPTIONS http://h/\norigin: https://c.com{asks}"),
            "refused",
        ),
        ("cors-preflight-kept", &ignoring, format!("OPTIONS http://h/\norigin: https://a.com{asks}"), full),
        ("cors-no-preflight", &ignoring, format!("GET http://h/\norigin: https://c.com{asks}"), "none"),
        ("cors-actual", policy, "GET http://h/\norigin: https://x.b.com".to_owned(), actual),
        (
            "cors-options",
            older,
            "OPTIONS http://h/\norigin: https://old.com".to_owned(),
            "actual access-control-allow-origin=https://old.com",
        ),
        ("cors-actual-other", policy, "GET http://h/\norigin: https://x.b.com.evil".to_owned(), "none"),
        ("cors-no-origin", policy, "GET http://h/".to_owned(), "none"),
        ("cors-empty-origin", any, "GET http://h/\norigin:".to_owned(), "none"),
        (
            "cors-any",
            any,
            format!("OPTIONS http://h/\norigin: null{asks}"),
            "preflight access-control-allow-origin=null",
        ),
    ] {
        assert_eq!(answered(forward(policy).cors.as_ref().unwrap(), &request), expected, "{id}");
    }
}

#[test]
fn shares_are_exact_to_a_ten_thousandth_of_a_percent() {
    let nothing = Percent::default();
    assert!(!is_drawn(nothing, 0) && is_drawn(Percent::ALL, u64::MAX));
    // Of evenly spread lots, each share gets what it says.
    let lots = 1_000_000;
    let part = u64::MAX / lots;
    for (percent, expected) in [("0.0001", 1), ("0.5", 5_000), ("33.3333", 333_333), ("99.9999", 999_999)] {
        let fault =
            forward(&format!("fault: {{abort: {{httpStatus: 500, percentage: {{value: {percent}}}}}}}"));
        let fault = fault.fault.clone().unwrap();
        let drawn = (0..lots).filter(|lot| fault.decide(0, lot * part + part / 2).abort.is_some()).count();
        assert_eq!(drawn, expected, "{percent}");
    }
}

#[test]
fn faults() {
    let decide = |fault: &str, delay_lot, abort_lot| {
        let fault = forward(&format!("fault: {{{fault}}}")).fault.clone();
        fault.map(|fault| fault.decide(delay_lot, abort_lot))
    };
    let both = "delay: {fixedDelay: 7s, percentage: {value: 50}}, abort: {grpcStatus: UNAVAILABLE, percentage: {value: 10}}";
    let delay = Some(Duration::from_secs(7));
    let abort = Some(AbortError::Grpc(GrpcStatus::Unavailable));
    for (id, lots, expected) in [
        ("fault-both", (0, 0), Injection { delay, abort }),
        ("fault-delay", (0, u64::MAX), Injection { delay, abort: None }),
        ("fault-abort", (u64::MAX, 0), Injection { delay: None, abort }),
        ("fault-none", (u64::MAX, u64::MAX), Injection::default()),
    ] {
        assert_eq!(decide(both, lots.0, lots.1), Some(expected), "{id}");
    }
    let http = Some(AbortError::Http(HttpStatus::new(400).unwrap()));
    for (id, fault, expected) in [
        ("fault-no-share", "abort: {httpStatus: 400}", None),
        ("fault-older-abort", "abort: {httpStatus: 400, percent: 100}", http),
        ("fault-abort-http", "abort: {httpStatus: 400, percentage: {value: 100}}", http),
    ] {
        assert_eq!(decide(fault, 0, u64::MAX).and_then(|it| it.abort), expected, "{id}");
    }
    let older = decide("delay: {fixedDelay: 7s, percent: 100}", u64::MAX, 0).unwrap();
    assert_eq!(older, Injection { delay, abort: None });
    assert_eq!(decide("delay: {fixedDelay: 7s}", 0, 0), None);
}

#[test]
fn copies() {
    let mirrors = |fields: &str| {
        let rule = forward(fields);
        let all = rule.mirrors.iter();
        let all = all.map(|it| format!("{}/{:?} {}", it.to.host, it.to.subset, it.share.parts_per_million()));
        all.collect::<Vec<_>>().join(", ")
    };
    let shop = "shop.default.svc.cluster.local";
    for (id, fields, expected) in [
        ("mirror", "mirror: {host: shop, subset: v2}", format!("{shop}/Some(\"v2\") 1000000")),
        (
            "mirror-share",
            "mirror: {host: shop}\n          mirrorPercentage: {value: 0.5}",
            format!("{shop}/None 5000"),
        ),
        ("mirror-older", "mirror: {host: shop}\n          mirrorPercent: 10", format!("{shop}/None 100000")),
        ("mirror-nothing", "mirror: {host: shop}\n          mirrorPercentage: {value: 0}", String::new()),
        (
            "mirrors",
            "mirrors: [{destination: {host: shop}, percentage: {value: 1}}, {destination: {host: a.com}}]",
            format!("{shop}/None 10000, a.com/None 1000000"),
        ),
    ] {
        assert_eq!(mirrors(fields), expected, "{id}");
    }
    let half = forward("mirror: {host: shop}\n          mirrorPercentage: {value: 50}");
    assert!(half.mirrors[0].is_drawn(0) && !half.mirrors[0].is_drawn(u64::MAX));
}

#[test]
fn retries() {
    let policy = forward("timeout: 3s").retries.clone();
    assert_eq!(policy, Some(Arc::new(RetryPolicy::new(None, false))));
    assert_eq!(policy.unwrap().attempts, 2);
    assert_eq!(forward("retries: {attempts: 0}").retries, None);
    let policy =
        forward("retries: {attempts: 5, perTryTimeout: 2s, retryOn: '5xx'}").retries.clone().unwrap();
    assert_eq!((policy.attempts, policy.per_try_timeout), (5, Some(Duration::from_secs(2))));
}

#[test]
fn timeouts() {
    assert_eq!(forward("timeout: 1.5s").timeout, Some(Duration::from_millis(1500)));
    assert_eq!(forward("retries: {attempts: 1}").timeout, None);
}

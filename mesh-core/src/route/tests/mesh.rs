//! Clients in the mesh: hosts, matching and who a rule is for. A row is an id, rules, a client, a request, the outcome.

use super::*;

/// Services on every port that a case asks for.
const SERVICES: [&str; 5] = [
    "reviews.default.svc.cluster.local",
    "ratings.default.svc.cluster.local",
    "core.other.svc.cluster.local",
    "www.example.org",
    "*.wild.example.org",
];

pub(super) fn ask(rules: &str, client: &str, request: &str) -> String {
    let (namespace, text) = client.split_once(' ').unwrap_or((client, ""));
    let labels = labels(text);
    let request = Request::parse(request);
    let address = ["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
    let out = [Arc::from("out.other.svc.cluster.local")];
    let services: Vec<_> = SERVICES
        .iter()
        .enumerate()
        .map(|(at, host)| ServiceName {
            host,
            aliases: if *host == "www.example.org" { &out } else { &[] },
            addresses: if at == 0 { &address } else { &[] },
            by_host: false,
        })
        .collect();
    let virtuals = Virtuals::of(&virtual_services(rules), &Settings::default());
    let client = Client { namespace, labels: &labels };
    let table = RouteTable::for_mesh(&virtuals, client, request.port, &services, &|_| false);
    outcome(table.as_ref(), &request)
}

/// Rules, and what becomes of requests: `id | client | request | outcome`, further lines of a request after ` ; `.
pub(super) fn check(rules: &str, rows: &str) {
    let mut wrong = String::new();
    for row in rows.lines().map(str::trim).filter(|row| !row.is_empty()) {
        let parts: Vec<_> = row.split(" | ").map(str::trim).collect();
        let [id, client, request, expected] = parts.as_slice() else { panic!("{row}") };
        let actual = ask(rules, client, &request.replace(" ; ", "\n"));
        if actual != *expected {
            let _ = writeln!(wrong, "{id}: {request} from {client}: {actual}, not {expected}");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}\nof{rules}");
}

/// A service of type `ExternalName` has the rules of what it leads to.
#[test]
fn rules_are_for_aliases_as_well() {
    check(
        "
        vs default/site
        hosts: [www.example.org]
        http:
        - route: [{destination: {host: yes}}]",
        "
        real | default | GET http://www.example.org/ | yes
        whole | default | GET http://out.other.svc.cluster.local/ | yes
        shorter | default | GET http://out.other.svc/ | yes
        short | other | GET http://out/ | yes
        short-elsewhere | default | GET http://out/ | no host
        another | default | GET http://in.other.svc.cluster.local/ | no host",
    );
}

/// A rule for `reviews` that sends what meets `matches` to `yes`, and all else to `no`.
fn check_match(matches: &str, rows: &str) {
    let rules = format!(
        "
        vs default/reviews
        hosts: [reviews]
        http:
        - match: [{matches}]
          route: [{{destination: {{host: yes}}}}]
        - route: [{{destination: {{host: no}}}}]"
    );
    check(&rules, rows);
}

#[test]
fn hosts_of_services() {
    check(
        "
        vs default/reviews
        hosts: [reviews]
        http:
        - route: [{destination: {host: reviews, subset: v1}}]",
        "
        host-short             | default | GET http://reviews:9080/                            | reviews/v1
        host-namespace         | default | GET http://reviews.default:9080/                    | reviews/v1
        host-svc               | default | GET http://reviews.default.svc:9080/                | reviews/v1
        host-full              | default | GET http://reviews.default.svc.cluster.local:9080/  | reviews/v1
        host-dot               | default | GET http://reviews.default.svc.cluster.local.:9080/ | reviews/v1
        host-case              | default | GET http://Reviews.DEFAULT:9080/                    | reviews/v1
        host-no-port           | default | GET http://reviews/                                 | reviews/v1
        host-address           | default | GET http://10.0.0.1:9080/                           | reviews/v1
        host-address-6         | default | GET http://[fd00::1]:9080/                          | reviews/v1
        host-other-service     | default | GET http://ratings:9080/                            | no host
        host-unknown           | default | GET http://example.com:9080/                        | no host
        host-short-elsewhere   | other   | GET http://reviews:9080/                            | no host
        host-full-elsewhere    | other   | GET http://reviews.default.svc.cluster.local:9080/  | reviews/v1
        host-namespaced-elsewhere | other | GET http://reviews.default:9080/                   | reviews/v1",
    );
}

#[test]
fn hosts_that_are_no_service() {
    check(
        "
        vs default/mixed
        hosts: [reviews, bookinfo.com]
        http:
        - route: [{destination: {host: mixed}}]
        vs default/plain
        hosts: [plain.com, '*.plain.com']
        http:
        - route: [{destination: {host: plain}}]
        vs default/outer
        hosts: ['*.example.net']
        http:
        - route: [{destination: {host: outer}}]
        vs default/entry
        hosts: [www.example.org]
        http:
        - route: [{destination: {host: entry}}]
        vs default/part-of-entry
        hosts: [a.wild.example.org]
        http:
        - route: [{destination: {host: part}}]",
        "
        plain-80           | default | GET http://plain.com/                 | plain
        plain-80-wildcard  | default | GET http://a.b.plain.com/             | plain
        plain-other-port   | default | GET http://plain.com:9080/            | no host
        plain-beside-service | default | GET http://bookinfo.com:9080/       | mixed
        entry              | default | GET http://www.example.org:9080/      | entry
        entry-not-reached  | default | GET http://b.wild.example.org:9080/   | no host
        entry-part-80      | default | GET http://a.wild.example.org/        | part
        entry-part         | default | GET http://a.wild.example.org:9080/   | no host
        wildcard-80        | default | GET http://x.example.net/             | outer
        wildcard-not-itself | default | GET http://example.net/              | no host",
    );
}

#[test]
fn the_most_specific_host_counts_then_the_oldest() {
    check(
        "
        vs default/all @1
        hosts: ['*.cluster.local']
        http:
        - route: [{destination: {host: all}}]
        vs default/namespace @2
        hosts: ['*.default.svc.cluster.local']
        http:
        - route: [{destination: {host: namespace}}]
        vs default/younger @5
        hosts: [reviews]
        http:
        - route: [{destination: {host: younger}}]
        vs default/a-older @4
        hosts: [reviews.default.svc.cluster.local]
        http:
        - route: [{destination: {host: older}}]",
        "
        specific-exact  | default | GET http://reviews:9080/    | older
        specific-longer | default | GET http://ratings:9080/    | namespace
        specific-shorter | other  | GET http://core:9080/       | all
        specific-alias  | default | GET http://core.other:9080/ | all",
    );
    check(
        "
        vs default/b @1
        hosts: [reviews]
        http:
        - route: [{destination: {host: b}}]
        vs zoo/a @1
        hosts: [reviews.default.svc.cluster.local]
        http:
        - route: [{destination: {host: a}}]",
        "same-age-by-name | default | GET http://reviews:9080/ | a.zoo",
    );
    check(
        "
        vs default/inert @1
        hosts: [reviews]
        http:
        - match: [{sourceLabels: {app: x}}]
          route: [{destination: {host: inert}}]
        vs default/live @2
        hosts: [reviews]
        http:
        - route: [{destination: {host: live}}]",
        "
        older-without-rules | default       | GET http://reviews:9080/ | live
        older-with-rules    | default app=x | GET http://reviews:9080/ | inert",
    );
}

#[test]
fn a_wildcard_is_not_for_services_without_rules() {
    check(
        "
        vs default/wild
        hosts: ['*.default', '*.example.org']
        http:
        - route: [{destination: {host: wild}}]",
        "
        shadow-alias   | default | GET http://ratings.default/  | default: ratings:80
        shadow-other   | default | GET http://nothing.default/  | wild
        shadow-covered | default | GET http://www.example.org/  | wild",
    );
}

#[test]
fn who_a_rule_is_for() {
    check(
        "
        vs default/mine
        hosts: [reviews]
        exportTo: ['.']
        http:
        - route: [{destination: {host: mine}}]
        vs other/theirs
        hosts: [reviews.default.svc.cluster.local]
        exportTo: [other, third]
        http:
        - route: [{destination: {host: theirs}}]",
        "
        export-own   | default | GET http://reviews.default:9080/ | mine
        export-named | other   | GET http://reviews.default:9080/ | theirs.other
        export-also  | third   | GET http://reviews.default:9080/ | theirs.other
        export-none  | fourth  | GET http://reviews.default:9080/ | no table",
    );
    check(
        "
        vs default/reviews
        hosts: [reviews]
        gateways: [mesh, edge]
        http:
        - match: [{gateways: [edge]}]
          route: [{destination: {host: edge}}]
        - match: [{gateways: [mesh], uri: {prefix: /mesh}}]
          route: [{destination: {host: mesh}}]
        - match: [{sourceNamespace: other}]
          route: [{destination: {host: other}}]
        - match: [{sourceLabels: {app: checkout, tier: web}}]
          route: [{destination: {host: checkout}}]
        - match: [{port: 9081}]
          route: [{destination: {host: port}}]
        - match: [{sourceLabels: {app: cart}, gateways: [mesh]}]
          route: [{destination: {host: cart}}]
        vs default/ratings
        hosts: [ratings]
        gateways: [edge]
        http:
        - route: [{destination: {host: edge}}]",
        "
        gateway-not-mesh   | default                       | GET http://ratings:9080/         | no host
        gateway-of-match   | default                       | GET http://reviews:9080/mesh     | mesh
        source-namespace   | other                         | GET http://reviews.default:9080/ | other
        source-labels      | default app=checkout,tier=web,x=y | GET http://reviews:9080/     | checkout
        source-labels-part | default app=checkout          | GET http://reviews:9080/         | 404
        source-and-gateway | default app=cart              | GET http://reviews:9080/         | cart
        port               | default                       | GET http://reviews:9081/         | port
        port-other         | default                       | GET http://reviews:9080/         | 404",
    );
}

#[test]
fn the_default_of_export_to_is_the_meshs() {
    let rules = virtual_services(
        "
        vs default/reviews
        hosts: [reviews]
        http:
        - route: [{destination: {host: reviews}}]",
    );
    let labels = BTreeMap::new();
    let settings = Settings { export_to: vec![resource::value::ExportTo::Own], ..Settings::default() };
    let virtuals = Virtuals::of(&rules, &settings);
    let table = |namespace| {
        let client = Client { namespace, labels: &labels };
        RouteTable::for_service(&virtuals.about("reviews.default.svc.cluster.local"), client, 80)
    };
    assert!(table("default").is_some() && table("other").is_none());
}

#[test]
fn the_default_of_retries_is_the_meshs() {
    let retries = |attempts: u32| {
        let text = format!("{{attempts: {attempts}, retryOn: gateway-error}}");
        serde_yaml_ng::from_str::<resource::networking::virtual_service::Retries>(&text).unwrap()
    };
    let rules = virtual_services(
        "
        vs default/reviews
        hosts: [reviews]
        http:
        - name: own
          match: [{uri: {prefix: /own}}]
          retries: {attempts: 7}
          route: [{destination: {host: reviews}}]
        - route: [{destination: {host: reviews}}]",
    );
    let labels = BTreeMap::new();
    let client = Client { namespace: "default", labels: &labels };
    let attempts = |policy: Option<&crate::retry::RetryPolicy>| policy.map_or(0, |policy| policy.attempts);
    for (of_mesh, expected) in [(None, [7, 2, 2]), (Some(5), [7, 5, 5]), (Some(0), [7, 0, 0])] {
        let settings = Settings { retries: of_mesh.map(retries), ..Settings::default() };
        let virtuals = Virtuals::of(&rules, &settings);
        let about = virtuals.about("reviews.default.svc.cluster.local");
        let table = RouteTable::for_service(&about, client, 80).unwrap();
        let mut seen: Vec<_> = table.entries().map(|it| attempts(it.route.retries.as_deref())).collect();
        let to = ClusterRef { host: "ratings".into(), subset: None, port: None };
        seen.push(attempts(Route::by_default(to, &settings).retries.as_deref()));
        assert_eq!(seen, expected, "{of_mesh:?}");
    }
}

#[test]
fn a_service_that_is_known_by_its_address() {
    let rules = virtual_services(
        "
        vs default/wide @1
        hosts: ['*.cluster.local']
        http:
        - route: [{destination: {host: wide}}]
        vs default/reviews @2
        hosts: [reviews]
        http:
        - match: [{sourceLabels: {app: x}}]
          route: [{destination: {host: narrow}}]",
    );
    let virtuals = Virtuals::of(&rules, &Settings::default());
    let ask = |app: &str, host: &str| {
        let labels = labels(app);
        let client = Client { namespace: "default", labels: &labels };
        let table = RouteTable::for_service(&virtuals.about(host), client, 80);
        outcome(table.as_ref(), &Request::parse("GET http://whatever/"))
    };
    assert_eq!(ask("app=x", "reviews.default.svc.cluster.local"), "narrow");
    assert_eq!(ask("app=y", "reviews.default.svc.cluster.local"), "wide");
    assert_eq!(ask("app=x", "ratings.default.svc.cluster.local"), "wide");
    assert_eq!(ask("app=x", "example.com"), "no table");
}

#[test]
fn paths() {
    check_match(
        "{uri: {exact: /a}}",
        "
        exact       | default | GET http://reviews/a   | yes
        exact-query | default | GET http://reviews/a?b | yes
        exact-case  | default | GET http://reviews/A   | no
        exact-slash | default | GET http://reviews/a/  | no",
    );
    check_match(
        "{uri: {prefix: /wpcatalog}}",
        "
        prefix       | default | GET http://reviews/wpcatalog/x | yes
        prefix-text  | default | GET http://reviews/wpcatalogX  | yes
        prefix-query | default | GET http://reviews/wp?/wpcatalog | no
        prefix-case  | default | GET http://reviews/Wpcatalog   | no",
    );
    check_match(
        "{uri: {regex: '/v[0-9]+/.*x|/y'}}",
        "
        regex       | default | GET http://reviews/v12/x    | yes
        regex-whole | default | GET http://reviews/v12/xy   | no
        regex-start | default | GET http://reviews/a/v1/x   | no
        regex-or    | default | GET http://reviews/y        | yes
        regex-or-whole | default | GET http://reviews/yy    | no
        regex-query | default | GET http://reviews/v1/x?q=1 | yes",
    );
    check_match(
        "{uri: {exact: /Ab}, ignoreUriCase: true}, {uri: {prefix: /Cd/}, ignoreUriCase: true}",
        "
        fold-exact      | default | GET http://reviews/aB   | yes
        fold-exact-more | default | GET http://reviews/aBc  | no
        fold-prefix     | default | GET http://reviews/cD/e | yes
        fold-prefix-less | default | GET http://reviews/cD  | no",
    );
    check_match(
        "{uri: {regex: /a}, ignoreUriCase: true}, {uri: {regex: '(?i)/b'}}",
        "
        fold-regex     | default | GET http://reviews/A | no
        fold-regex-own | default | GET http://reviews/B | yes",
    );
    check_match("{uri: {}}", "uri-present | default | GET http://reviews/x | yes");
}

#[test]
fn the_request_line() {
    check_match(
        "{method: {exact: GET}, scheme: {exact: https}, authority: {prefix: 'reviews:'}}",
        "
        line           | default | GET https://reviews:9080/  | yes
        line-method    | default | POST https://reviews:9080/ | no
        line-scheme    | default | GET http://reviews:9080/   | no
        line-authority | default | GET https://reviews/       | no",
    );
    check_match(
        "{authority: {exact: 'Reviews:80'}}, {method: {regex: 'P.*'}}",
        "
        authority-as-sent | default | GET http://Reviews:80/   | yes
        authority-case    | default | GET http://reviews:80/   | no
        method-regex      | default | PATCH http://reviews/    | yes",
    );
    check_match(
        "{headers: {':method': {exact: PUT}, ':authority': {exact: reviews}, ':path': {exact: '/a?b=c'}}}",
        "
        pseudo       | default | PUT http://reviews/a?b=c | yes
        pseudo-query | default | PUT http://reviews/a     | no",
    );
    check_match(
        "{headers: {host: {exact: 'reviews:9080'}}}",
        "host-header | default | GET http://reviews:9080/ | yes",
    );
}

#[test]
fn headers() {
    check_match(
        "{headers: {x: {exact: a}, y: {prefix: b}}}",
        "
        and         | default | GET http://reviews/ ; x: a ; y: bc  | yes
        and-one     | default | GET http://reviews/ ; x: a          | no
        and-case    | default | GET http://reviews/ ; x: A ; y: b   | no
        name-case   | default | GET http://reviews/ ; X: a ; Y: b   | yes",
    );
    check_match(
        "{headers: {x: {exact: a}}}, {headers: {y: {regex: '[0-9]+'}}}",
        "
        or         | default | GET http://reviews/ ; y: 12  | yes
        or-whole   | default | GET http://reviews/ ; y: 12a | no
        or-neither | default | GET http://reviews/          | no",
    );
    check_match(
        "{headers: {x: {}, y: {regex: '*'}}}",
        "
        present       | default | GET http://reviews/ ; x: a ; y:  | yes
        present-one   | default | GET http://reviews/ ; x: a       | no",
    );
    check_match(
        "{headers: {x: {exact: 'a,b'}}}, {headers: {x: {prefix: q}}}",
        "
        repeated      | default | GET http://reviews/ ; x: a ; x: b | yes
        repeated-part | default | GET http://reviews/ ; x: b ; x: q | no",
    );
    check_match(
        "{headers: {uri: {exact: /a}, scheme: {exact: x}, method: {exact: x}, authority: {exact: x}}}",
        "ignored-names | default | GET http://reviews/ | yes",
    );
    check_match("{headers: {x: {regex: '.*'}}}", "absent-regex | default | GET http://reviews/ | no");
}

#[test]
fn headers_that_must_not_be() {
    check_match(
        "{withoutHeaders: {x: {exact: a}}}",
        "
        without-absent | default | GET http://reviews/        | yes
        without-other  | default | GET http://reviews/ ; x: b | yes
        without-it     | default | GET http://reviews/ ; x: a | no",
    );
    check_match(
        "{withoutHeaders: {x: {}}}",
        "
        without-present        | default | GET http://reviews/ ; x: a | no
        without-present-empty  | default | GET http://reviews/ ; x:   | no
        without-present-absent | default | GET http://reviews/        | yes",
    );
    check_match(
        "{withoutHeaders: {x: {regex: '.*'}}}, {withoutHeaders: {y: {regex: '.+'}}, headers: {z: {}}}",
        "
        without-counts-as-empty | default | GET http://reviews/        | no
        without-needs-something | default | GET http://reviews/ ; z: 1 | yes",
    );
    check_match(
        "{withoutHeaders: {x: {}}, headers: {y: {exact: a}}}",
        "
        without-and    | default | GET http://reviews/ ; y: a ; x: b | no
        without-and-is | default | GET http://reviews/ ; y: a        | yes",
    );
}

#[test]
fn parameters() {
    check_match(
        "{queryParams: {a: {exact: '1'}, b: {}}}",
        "
        query         | default | GET http://reviews/?a=1&b=x   | yes
        query-order   | default | GET http://reviews/?b&a=1     | yes
        query-one     | default | GET http://reviews/?a=1       | no
        query-first   | default | GET http://reviews/?a=2&a=1&b | no
        query-none    | default | GET http://reviews/           | no
        query-encoded | default | GET http://reviews/?a=%31&b   | no",
    );
    check_match(
        "{queryParams: {v: {regex: '[0-9]{2}'}}}, {queryParams: {p: {prefix: x}}}, {queryParams: {e: {exact: ''}}}",
        "
        query-regex       | default | GET http://reviews/?v=12  | yes
        query-regex-whole | default | GET http://reviews/?v=123 | no
        query-prefix      | default | GET http://reviews/?p=xy  | yes
        query-empty       | default | GET http://reviews/?e     | yes
        query-name-case   | default | GET http://reviews/?V=12  | no",
    );
}

#[test]
fn the_first_rule_counts() {
    check(
        "
        vs default/reviews
        hosts: [reviews]
        http:
        - name: one
          match: [{name: m, uri: {prefix: /a/b}}, {uri: {exact: /x}}]
          route: [{destination: {host: one}}]
        - name: two
          match: [{uri: {prefix: /a}}]
          route: [{destination: {host: two}}]
        - match: [{uri: {prefix: /a/b/c}}, {uri: {exact: /a/b/c}}]
          route: [{destination: {host: never}}]
        - match: [{uri: {prefix: /}, headers: {h: {}}}]
          route: [{destination: {host: header}}]
        - match: [{uri: {regex: '.*'}}]
          route: [{destination: {host: all}}]
        - match: [{uri: {exact: /never}}]
          route: [{destination: {host: never}}]",
        "
        order-first       | default | GET http://reviews/a/b/c        | one.m: one
        order-second      | default | GET http://reviews/a            | two: two
        order-later-match | default | GET http://reviews/x            | one: one
        order-header      | default | GET http://reviews/never ; h: 1 | header
        order-catch-all   | default | GET http://reviews/never        | all",
    );
    check(
        "
        vs default/reviews
        hosts: [reviews]
        http:
        - match: [{uri: {exact: /a}}]
          route: [{destination: {host: a}}]",
        "no-rule | default | GET http://reviews/b | 404",
    );
}

#[test]
fn destinations() {
    check(
        "
        vs default/reviews
        hosts: [reviews]
        http:
        - match: [{uri: {exact: /one}}]
          route: [{destination: {host: reviews, subset: v1, port: {number: 9080}}, weight: 0}]
        - match: [{uri: {exact: /some}}]
          route:
          - {destination: {host: reviews, subset: v1}, weight: 90}
          - {destination: {host: reviews, subset: v2}, weight: 10}
          - {destination: {host: reviews, subset: v3}, weight: 0}
        - match: [{uri: {exact: /names}}]
          route:
          - {destination: {host: www.Example.org}, weight: 2}
          - {destination: {host: core.other.svc.cluster.local}, weight: 2}
        - match: [{uri: {exact: /respond}}]
          directResponse: {status: 418, body: {string: short and stout}}
        - match: [{uri: {exact: /bytes}}]
          directResponse: {status: 200, body: {bytes: aGk=}}
        - match: [{uri: {prefix: /other}}]
          redirect: {uri: /else, authority: example.com}
        - match: [{uri: {prefix: /dropped}}]
          redirect: {uri: /else, redirectCode: 304}
        vs second/core
        hosts: [core.other.svc.cluster.local]
        http:
        - route: [{destination: {host: core}}]",
        "
        single        | default | GET http://reviews/one      | reviews/v1:9080
        weights       | default | GET http://reviews/some     | reviews/v1*90 reviews/v2*10
        full-names    | default | GET http://reviews/names    | www.example.org*2 core.other*2
        rules-namespace | default | GET http://core.other/    | core.second
        respond       | default | GET http://reviews/respond  | 418 short and stout
        respond-bytes | default | GET http://reviews/bytes    | 200 hi
        redirect      | default | GET http://reviews/other?q  | 301 http://example.com/else?q
        redirect-none | default | GET http://reviews/dropped  | 404",
    );
}

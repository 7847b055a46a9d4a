use std::fmt::Write as _;
use std::num::NonZeroU32;
use std::time::{Duration as Time, Instant};

use super::*;
use crate::resource::rows::{self, yaml};
use crate::resource::value::Port;
use crate::resource::{Level, Spec};

fn document(version: &str, kind: &str, spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/{version}\nkind: {kind}\nmetadata: {{name: x}}\nspec: {spec}\n"
    )
}

/// The one object that `spec` makes; nothing may be wrong with it.
fn good(version: &str, kind: &str, spec: &str) -> Spec {
    let parsed = yaml(&document(version, kind, spec));
    let findings: Vec<_> =
        parsed.findings.iter().filter(|it| !it.reason.contains("not enforced yet")).collect();
    assert!(findings.is_empty(), "{kind} {spec}: {findings:?}");
    let [object] = &parsed.objects[..] else { panic!("{kind} {spec}: one object") };
    object.spec.clone()
}

fn http(spec: &str) -> HttpRouteSpec {
    let Spec::HttpRoute(spec) = good("v1", "HTTPRoute", spec) else { panic!("kind") };
    *spec
}

fn assert_rows(version: &str, kind: &str, rows: &[(&str, Level, &str, &str)]) {
    rows::assert_rows(|spec| document(version, kind, spec), rows);
}

fn repeated(times: usize, item: impl Fn(usize) -> String) -> String {
    (0..times).fold(String::from("["), |text, n| text + &item(n) + ", ") + "]"
}

const E: Level = Level::Error;
const W: Level = Level::Warning;

#[test]
fn a_route_gets_the_api_servers_defaults() {
    let route = http("{parentRefs: [{name: g}], rules: [{backendRefs: [{name: b, port: 80}]}]}");
    let parent = &route.parent_refs[0];
    assert_eq!((&*parent.group, &*parent.kind), ("gateway.networking.k8s.io", "Gateway"));
    assert_eq!((&parent.namespace, &parent.section_name, parent.port), (&None, &None, None));
    let [rule] = &route.rules[..] else { panic!("one rule") };
    let [only] = &rule.matches[..] else { panic!("one match") };
    assert_eq!(only.path, PathMatch::Prefix("/".into()));
    assert_eq!((only.headers.len(), only.query_params.len(), only.method), (0, 0, None));
    let backend = &rule.backend_refs[0];
    assert_eq!((&*backend.backend.group, &*backend.backend.kind), ("", "Service"));
    assert_eq!((backend.weight.get(), backend.filters.len()), (1, 0));
    assert_eq!(rule.timeouts, Timeouts::default());
    for spec in ["{}", "{rules: [{}]}", "{rules: [{matches: []}]}", "{rules: [{matches: [{}]}]}"] {
        assert_eq!(http(spec).rules[0].matches[0].path, PathMatch::default(), "{spec}");
    }
    let paths = [
        ("{value: /a}", PathMatch::Prefix("/a".into())),
        ("{type: Exact}", PathMatch::Exact("/".into())),
        ("{}", PathMatch::Prefix("/".into())),
    ];
    for (path, expected) in paths {
        let route = http(&format!("{{rules: [{{matches: [{{path: {path}}}]}}]}}"));
        assert_eq!(route.rules[0].matches[0].path, expected);
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a document with every field, and what becomes of each")]
fn every_field_of_a_route_is_read() {
    let route = http(
        "
  parentRefs: [{group: '', kind: Service, namespace: n, name: s, sectionName: web, port: 80}]
  hostnames: [a.example.com, '*.example.org']
  rules:
  - name: main
    matches:
    - path: {type: RegularExpression, value: '/v[12]/.*'}
      method: PATCH
      headers: [{name: X-Env, value: a b}, {type: RegularExpression, name: y, value: '[0-9]+'}]
      queryParams: [{name: Q, value: 'ä ö'}]
    filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: A, value: b}], add: [{name: c, value: d}], remove: [E]}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {remove: [x]}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: m, port: 1}, percent: 5}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: m, port: 1}, fraction: {numerator: 1, denominator: 3}}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: m, port: 1}}}
    - {type: URLRewrite, urlRewrite: {hostname: h.example.com, path: {type: ReplaceFullPath, replaceFullPath: /new}}}
    - type: CORS
      cors: {allowOrigins: ['https://*.example.com', 'http://a:8080', 'https://*'], allowMethods: ['*'], allowHeaders: [X-A],
        exposeHeaders: ['*'], allowCredentials: true, maxAge: 60}
    - {type: ExternalAuth, externalAuth: {protocol: HTTP, backendRef: {name: a, port: 9000}, http: {path: /check, allowedHeaders: [a]}, forwardBody: {maxSize: 10}}}
    backendRefs:
    - {name: b, namespace: other, port: 8080, weight: 0, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {}}]}
    - {group: example.com, kind: Thing, name: t}
    timeouts: {request: 1m30s, backendRequest: 0s}
    retry: {codes: [503, 504], attempts: 3, backoff: 100ms}
    sessionPersistence: {absoluteTimeout: 24h, cookie: {name: c, lifetimeType: Permanent}}
  - matches: [{path: {value: /old}}]
    filters: [{type: RequestRedirect, requestRedirect: {scheme: https, hostname: h, port: 8443, statusCode: 308,
      path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]
  - filters: [{type: RequestRedirect, requestRedirect: {}}]
    sessionPersistence: {type: Header, header: {name: X-Session}}
",
    );
    assert_eq!(route.parent_refs[0].port.map(Port::get), Some(80));
    assert_eq!(route.hostnames[1].wildcard_suffix(), Some(".example.org"));
    let rule = &route.rules[0];
    let matched = &rule.matches[0];
    assert!(matches!(&matched.path, PathMatch::Regex(it) if it.matches(b"/v1/x") && !it.matches(b"/v3/")));
    assert_eq!(matched.method.map(Method::as_str), Some("PATCH"));
    assert_eq!((&*matched.headers[0].name, matched.headers[0].name.written()), ("x-env", "X-Env"));
    assert_eq!(matched.headers[0].value, ValueMatch::Exact("a b".into()));
    assert!(matches!(&matched.headers[1].value, ValueMatch::Regex(it) if it.matches(b"42")));
    assert_eq!(&*matched.query_params[0].name, "Q");
    let HttpFilter::RequestHeaderModifier(modifier) = &rule.filters[0] else { panic!("filter") };
    assert_eq!((&*modifier.set[0].name, &*modifier.set[0].value, &modifier.remove[0][..]), ("a", "b", "E"));
    let shares = [(2, (5, 100)), (3, (1, 3)), (4, (1, 1))];
    for (index, expected) in shares {
        let HttpFilter::RequestMirror(mirror) = &rule.filters[index] else { panic!("filter") };
        assert_eq!((mirror.fraction.numerator, mirror.fraction.denominator.get()), expected);
    }
    let HttpFilter::Cors(cors) = &rule.filters[6] else { panic!("filter") };
    let AllowList::Of(origins) = &cors.allow_origins else { panic!("origins") };
    assert_eq!(origins[0].host, CorsHost::Suffix(".example.com".into()));
    assert_eq!((&origins[1].host, origins[1].port), (&CorsHost::Exact("a".into()), Some(8080)));
    assert_eq!((&origins[2].host, origins[2].scheme), (&CorsHost::Any, Scheme::Https));
    assert_eq!((&cors.allow_methods, cors.max_age.seconds()), (&AllowList::Any, 60));
    let HttpFilter::ExternalAuth(auth) = &rule.filters[7] else { panic!("filter") };
    assert!(matches!(&auth.protocol, AuthProtocol::Http { path: Some(path), .. } if path == "/check"));
    assert_eq!(auth.forward_body, 10);
    assert_eq!((rule.backend_refs[0].weight.get(), rule.backend_refs[1].backend.is_service()), (0, false));
    assert_eq!(rule.timeouts.request, Some(Timeout::After(Time::from_secs(90))));
    assert_eq!(rule.timeouts.backend_request, Some(Timeout::Never));
    let retry = rule.retry.as_ref().expect("given");
    assert_eq!((&retry.codes[..], retry.attempts.map(NonZeroU32::get)), (&[503, 504][..], Some(3)));
    assert_eq!(retry.backoff.map(Duration::get), Some(Time::from_millis(100)));
    let session = rule.session_persistence.as_ref().expect("given");
    assert!(
        matches!(&session.carrier, SessionCarrier::Cookie { path, lifetime: CookieLifetime::Permanent, .. } if path == "/")
    );
    let HttpFilter::RequestRedirect(redirect) = &route.rules[1].filters[0] else { panic!("filter") };
    assert_eq!((redirect.scheme, redirect.status_code.code()), (Some(Scheme::Https), 308));
    let HttpFilter::RequestRedirect(redirect) = &route.rules[2].filters[0] else { panic!("filter") };
    assert_eq!(redirect.status_code.code(), 302);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table, one row per rule")]
fn references_and_hosts_of_routes_are_checked() {
    let many =
        |list: &str, times, item: &str| format!("{{{list}: {}}}", repeated(times, |_| item.to_owned()));
    assert_rows(
        "v1",
        "HTTPRoute",
        &[
            ("{parentRefs: [{}]}", E, "spec.parentRefs[0]", "the field name is required"),
            ("{parentRefs: [{name: ''}]}", E, "spec.parentRefs[0].name", "must not be empty"),
            ("{parentRefs: [{name: a, kind: 1a}]}", E, "spec.parentRefs[0].kind", "is not a kind"),
            ("{parentRefs: [{name: a, group: A.b}]}", E, "spec.parentRefs[0].group", "is not an API group"),
            (
                "{parentRefs: [{name: a, namespace: a.b}]}",
                E,
                "spec.parentRefs[0].namespace",
                "is not a namespace",
            ),
            ("{parentRefs: [{name: a, port: 0}]}", E, "spec.parentRefs[0].port", "port 0 is not between"),
            (
                "{parentRefs: [{name: a, port: 65536}]}",
                E,
                "spec.parentRefs[0].port",
                "not between 1 and 65535",
            ),
            (
                "{parentRefs: [{name: a, sectionName: A}]}",
                E,
                "spec.parentRefs[0].sectionName",
                "not a section name",
            ),
            ("{parentRefs: [{name: a, section: a}]}", E, "spec.parentRefs[0].section", "unknown field"),
            ("{parentRefs: [{name: a}, {name: a}]}", E, "spec.parentRefs[1]", "refers to the same"),
            (
                "{parentRefs: [{name: a}, {name: a, sectionName: b}]}",
                E,
                "spec.parentRefs[1]",
                "an earlier one refers to by other means",
            ),
            (
                "{parentRefs: [{name: a, sectionName: b}, {name: a, sectionName: b}]}",
                E,
                "spec.parentRefs[1]",
                "refers to the same",
            ),
            (&many("hostnames", 17, "a"), E, "spec.hostnames", "has 17 entries, the limit is 16"),
            ("{hostnames: [A.b]}", E, "spec.hostnames[0]", "is not a host name"),
            ("{hostnames: ['a.*.b']}", E, "spec.hostnames[0]", "is not a host name"),
            ("{hostnames: ['*']}", E, "spec.hostnames[0]", "is not a host name"),
            ("{hostnames: ['a:80']}", E, "spec.hostnames[0]", "is not a host name"),
            ("{hostnames: [10.0.0.1]}", W, "spec.hostnames[0]", "is an IP address"),
            ("{hostnames: null}", E, "spec.hostnames", "null is not a value"),
            ("{useDefaultGateways: All}", W, "spec.useDefaultGateways", "not supported"),
            (
                &format!("{{parentRefs: {}}}", repeated(33, |n| format!("{{name: a{n}}}"))),
                E,
                "spec.parentRefs",
                "has 33 entries, the limit is 32",
            ),
        ],
    );
    let parents =
        "{parentRefs: [{name: a, sectionName: b}, {name: a, sectionName: c}, {name: a, namespace: n}]}";
    assert_eq!(http(parents).parent_refs.len(), 3);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table, one row per rule")]
fn rules_and_matches_of_routes_are_checked() {
    let rule = |rule: &str| format!("{{rules: [{rule}]}}");
    let path = |path: &str| rule(&format!("{{matches: [{{path: {path}}}]}}"));
    let header = |header: &str| rule(&format!("{{matches: [{{headers: [{header}]}}]}}"));
    let at = "spec.rules[0].matches[0]";
    let rows: &[(String, Level, String, &str)] = &[
        ("{rules: []}".into(), E, "spec.rules".into(), "must not be empty"),
        (format!("{{rules: {}}}", repeated(17, |_| "{}".into())), E, "spec.rules".into(), "has 17 entries"),
        (rule("{name: a}, {name: a}"), E, "spec.rules[1].name".into(), "used twice"),
        (
            rule(&format!("{{matches: {}}}", repeated(65, |_| "{}".into()))),
            E,
            "spec.rules[0].matches".into(),
            "65",
        ),
        (
            format!(
                "{{rules: {}}}",
                repeated(3, |_| format!("{{matches: {}}}", repeated(43, |_| "{}".into())))
            ),
            E,
            "spec.rules".into(),
            "have 129 matches together",
        ),
        (path("{value: a}"), E, format!("{at}.path.value"), "does not begin with /"),
        (path("{value: ''}"), E, format!("{at}.path.value"), "does not begin with /"),
        (path("{value: /a//b}"), E, format!("{at}.path.value"), "must not contain //"),
        (path("{value: /a/./b}"), E, format!("{at}.path.value"), "must not contain /./"),
        (path("{value: /a/../b}"), E, format!("{at}.path.value"), "must not contain /../"),
        (path("{value: /a%2fb}"), E, format!("{at}.path.value"), "must not contain %2f"),
        (path("{type: Exact, value: /a%2Fb}"), E, format!("{at}.path.value"), "must not contain %2F"),
        (path("{value: '/a#b'}"), E, format!("{at}.path.value"), "must not contain #"),
        (path("{value: /a/..}"), E, format!("{at}.path.value"), "must not end in /.."),
        (path("{value: /a/.}"), E, format!("{at}.path.value"), "must not end in /."),
        (path("{value: '/a b'}"), E, format!("{at}.path.value"), "percent-encoded"),
        (path("{value: /a%zz}"), E, format!("{at}.path.value"), "percent-encoded"),
        (path(&format!("{{value: /{}}}", "x".repeat(1024))), E, format!("{at}.path.value"), "more than 1024"),
        (path("{type: Prefix, value: /a}"), E, format!("{at}.path.type"), "unknown value \"Prefix\""),
        (
            path("{type: RegularExpression, value: '('}"),
            Level::Warning,
            format!("{at}.path.value"),
            "is not a regular expression",
        ),
        (
            path("{type: RegularExpression, value: '((a{1,100}){1,100}){1,100}'}"),
            E,
            format!("{at}.path.value"),
            "",
        ),
        (rule("{matches: [{method: get}]}"), E, format!("{at}.method"), "unknown value \"get\""),
        (header("{name: a b, value: x}"), E, format!("{at}.headers[0].name"), "is not a valid name"),
        (header("{name: a}"), E, format!("{at}.headers[0]"), "the field value is required"),
        (header("{name: a, value: 'x  y'}"), E, format!("{at}.headers[0].value"), "is not a header value"),
        (header("{name: a, value: ''}"), E, format!("{at}.headers[0].value"), "must not be empty"),
        (header("{name: a, value: ä}"), E, format!("{at}.headers[0].value"), "is not a header value"),
        (
            header("{name: a, value: '[', type: RegularExpression}"),
            Level::Warning,
            format!("{at}.headers[0].value"),
            "regular",
        ),
        (
            header("{name: a, value: x}, {name: a, value: y}"),
            E,
            format!("{at}.headers[1]"),
            "name of an earlier",
        ),
        (header("{name: a, value: x}, {name: A, value: y}"), W, format!("{at}.headers[1]"), "has no effect"),
        (
            rule(&format!(
                "{{matches: [{{headers: {}}}]}}",
                repeated(17, |n| format!("{{name: h{n}, value: x}}"))
            )),
            E,
            format!("{at}.headers"),
            "has 17 entries",
        ),
        (
            rule("{matches: [{queryParams: [{name: a, value: x}, {name: a, value: y}]}]}"),
            E,
            format!("{at}.queryParams[1]"),
            "name of an earlier",
        ),
        (
            rule("{matches: [{queryParams: [{name: a, value: ''}]}]}"),
            E,
            format!("{at}.queryParams[0].value"),
            "must not be empty",
        ),
    ];
    let rows: Vec<_> = rows.iter().map(|(a, b, c, d)| (a.as_str(), *b, c.as_str(), *d)).collect();
    assert_rows("v1", "HTTPRoute", &rows);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table, one row per rule")]
fn filters_are_checked() {
    let filter = |filter: &str| format!("{{rules: [{{filters: [{filter}]}}]}}");
    let at = "spec.rules[0].filters[0]";
    let redirect = |path: &str| filter(&format!("{{type: RequestRedirect, requestRedirect: {path}}}"));
    let mirror = |mirror: &str| filter(&format!("{{type: RequestMirror, requestMirror: {mirror}}}"));
    let cors = |cors: &str| filter(&format!("{{type: CORS, cors: {cors}}}"));
    let auth = |auth: &str| filter(&format!("{{type: ExternalAuth, externalAuth: {auth}}}"));
    let set = |set: &str| {
        filter(&format!("{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{set}]}}}}"))
    };
    let rows: &[(String, Level, String, &str)] = &[
        (filter("{}"), E, at.into(), "the field type is required"),
        (filter("{type: Rewrite}"), E, format!("{at}.type"), "unknown value"),
        (filter("{type: CORS}"), E, at.into(), "cors is required"),
        (filter("{type: CORS, cors: {}, urlRewrite: {}}"), E, format!("{at}.urlRewrite"), "of another type"),
        (
            filter("{type: URLRewrite, urlRewrite: {hostname: '*.a'}}"),
            E,
            format!("{at}.urlRewrite.hostname"),
            "host",
        ),
        (
            filter("{type: CORS, cors: {}}, {type: CORS, cors: {}}"),
            E,
            "spec.rules[0].filters[1]".into(),
            "only once",
        ),
        (
            filter("{type: RequestRedirect, requestRedirect: {}}, {type: URLRewrite, urlRewrite: {}}"),
            E,
            "spec.rules[0].filters[1]".into(),
            "exclude each other",
        ),
        (
            filter(&"{type: RequestMirror, requestMirror: {backendRef: {name: a, port: 1}}},".repeat(17)),
            E,
            "spec.rules[0].filters".into(),
            "17",
        ),
        (
            filter("{type: ExtensionRef, extensionRef: {group: g.io, kind: K, name: n}}"),
            W,
            format!("{at}.extensionRef"),
            "no filter",
        ),
        (
            redirect("{statusCode: 300}"),
            E,
            format!("{at}.requestRedirect.statusCode"),
            "not the status of a redirect",
        ),
        (redirect("{scheme: ftp}"), E, format!("{at}.requestRedirect.scheme"), "unknown value"),
        (redirect("{port: 0}"), E, format!("{at}.requestRedirect.port"), "port 0"),
        (redirect("{path: {}}"), E, format!("{at}.requestRedirect.path"), "the field type is required"),
        (
            redirect("{path: {type: ReplaceFullPath}}"),
            E,
            format!("{at}.requestRedirect.path"),
            "replaceFullPath is required",
        ),
        (
            redirect("{path: {type: ReplaceFullPath, replaceFullPath: /, replacePrefixMatch: /}}"),
            E,
            format!("{at}.requestRedirect.path.replacePrefixMatch"),
            "not for type",
        ),
        (mirror("{}"), E, format!("{at}.requestMirror"), "the field backendRef is required"),
        (
            mirror("{backendRef: {name: a}}"),
            E,
            format!("{at}.requestMirror.backendRef.port"),
            "required for a Service",
        ),
        (
            mirror("{backendRef: {name: a, port: 1}, percent: 101}"),
            E,
            format!("{at}.requestMirror.percent"),
            "101",
        ),
        (
            mirror("{backendRef: {name: a, port: 1}, percent: 1, fraction: {numerator: 1}}"),
            E,
            format!("{at}.requestMirror.fraction"),
            "combined",
        ),
        (
            mirror("{backendRef: {name: a, port: 1}, fraction: {numerator: 101}}"),
            E,
            format!("{at}.requestMirror.fraction.numerator"),
            "more than the denominator",
        ),
        (
            mirror("{backendRef: {name: a, port: 1}, fraction: {numerator: 0, denominator: 0}}"),
            E,
            format!("{at}.requestMirror.fraction.denominator"),
            "must not be 0",
        ),
        (cors("{allowOrigins: ['*', 'http://a']}"), E, format!("{at}.cors.allowOrigins"), "must stand alone"),
        (cors("{allowOrigins: ['ftp://a']}"), E, format!("{at}.cors.allowOrigins"), "is not an origin"),
        (cors("{allowOrigins: ['http://a/b']}"), E, format!("{at}.cors.allowOrigins"), "is not an origin"),
        (
            cors("{allowOrigins: ['http://a', 'http://a']}"),
            E,
            format!("{at}.cors.allowOrigins[1]"),
            "earlier entry",
        ),
        (
            cors("{allowOrigins: ['*'], allowMethods: [get]}"),
            E,
            format!("{at}.cors.allowMethods"),
            "unknown method",
        ),
        (cors("{allowOrigins: ['*'], maxAge: 0}"), E, format!("{at}.cors.maxAge"), "less than 1 second"),
        (cors("{}"), W, format!("{at}.cors.allowOrigins"), "no other origin"),
        (
            auth("{protocol: HTTP, backendRef: {name: a, port: 1}}"),
            E,
            format!("{at}.externalAuth"),
            "http is required",
        ),
        (
            auth("{protocol: GRPC, backendRef: {name: a, port: 1}, grpc: {}, http: {}}"),
            E,
            format!("{at}.externalAuth.http"),
            "not for protocol GRPC",
        ),
        (
            set("{name: a, value: x}, {name: a, value: y}"),
            E,
            format!("{at}.requestHeaderModifier.set[1]"),
            "earlier",
        ),
        (
            filter("{type: ResponseHeaderModifier, responseHeaderModifier: {remove: [a, a]}}"),
            E,
            format!("{at}.responseHeaderModifier.remove[1]"),
            "earlier",
        ),
    ];
    let rows: Vec<_> = rows.iter().map(|(a, b, c, d)| (a.as_str(), *b, c.as_str(), *d)).collect();
    assert_rows("v1", "HTTPRoute", &rows);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table, one row per rule")]
fn backends_and_times_of_rules_are_checked() {
    let rule = |rule: &str| format!("{{rules: [{rule}]}}");
    let prefix = "{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}";
    let rows: &[(String, Level, &str, &str)] = &[
        (
            rule("{backendRefs: [{name: a}]}"),
            E,
            "spec.rules[0].backendRefs[0].port",
            "required for a Service",
        ),
        (
            rule("{backendRefs: [{name: a, port: 1, weight: -1}]}"),
            E,
            "spec.rules[0].backendRefs[0].weight",
            "-1",
        ),
        (
            rule("{backendRefs: [{name: a, port: 1, weight: 1000001}]}"),
            E,
            "spec.rules[0].backendRefs[0].weight",
            "not between 0 and 1000000",
        ),
        (
            rule(&format!("{{backendRefs: {}}}", repeated(17, |_| "{name: a, port: 1}".into()))),
            E,
            "spec.rules[0].backendRefs",
            "has 17 entries",
        ),
        (
            rule(
                "{filters: [{type: RequestRedirect, requestRedirect: {}}], backendRefs: [{name: a, port: 1}]}",
            ),
            E,
            "spec.rules[0].backendRefs",
            "a rule that redirects",
        ),
        (
            rule(&format!("{{matches: [{{path: {{type: Exact, value: /a}}}}], filters: [{prefix}]}}")),
            E,
            "spec.rules[0].filters[0]",
            "exactly one match, of type PathPrefix",
        ),
        (
            rule(&format!(
                "{{matches: [{{}}, {{}}], backendRefs: [{{name: a, port: 1, filters: [{prefix}]}}]}}"
            )),
            E,
            "spec.rules[0].backendRefs[0].filters[0]",
            "exactly one match, of type PathPrefix",
        ),
        (
            rule("{timeouts: {request: 1s, backendRequest: 2s}}"),
            E,
            "spec.rules[0].timeouts.backendRequest",
            "longer",
        ),
        (rule("{timeouts: {request: 5}}"), E, "spec.rules[0].timeouts.request", "expected string"),
        (rule("{timeouts: {request: 1.5s}}"), E, "spec.rules[0].timeouts.request", "is not a duration"),
        (rule("{timeouts: {request: -1s}}"), E, "spec.rules[0].timeouts.request", "is not a duration"),
        (rule("{timeouts: {request: 100000s}}"), E, "spec.rules[0].timeouts.request", "is not a duration"),
        (rule("{timeouts: {request: 1s1s1s1s1s}}"), E, "spec.rules[0].timeouts.request", "is not a duration"),
        (rule("{timeouts: {request: 1us}}"), E, "spec.rules[0].timeouts.request", "is not a duration"),
        (rule("{timeouts: {request: ''}}"), E, "spec.rules[0].timeouts.request", "is not a duration"),
        (rule("{retry: {codes: [399]}}"), E, "spec.rules[0].retry.codes[0]", "399 is not between"),
        (rule("{retry: {codes: [500, 500]}}"), E, "spec.rules[0].retry.codes[1]", "earlier"),
        (rule("{retry: {attempts: 0}}"), E, "spec.rules[0].retry.attempts", ""),
        (rule("{sessionPersistence: {}}"), E, "spec.rules[0].sessionPersistence", "cookie is required"),
        (
            rule("{sessionPersistence: {type: Header}}"),
            E,
            "spec.rules[0].sessionPersistence",
            "header is required",
        ),
        (
            rule("{sessionPersistence: {cookie: {}, header: {name: a}}}"),
            E,
            "spec.rules[0].sessionPersistence.header",
            "not for type Cookie",
        ),
        (
            rule("{sessionPersistence: {cookie: {lifetimeType: Permanent}}}"),
            E,
            "spec.rules[0].sessionPersistence",
            "absoluteTimeout is required",
        ),
    ];
    let rows: Vec<_> = rows.iter().map(|(a, b, c, d)| (a.as_str(), *b, *c, *d)).collect();
    assert_rows("v1", "HTTPRoute", &rows);
    assert_eq!(http("{rules: [{timeouts: {request: 0s, backendRequest: 2s}}]}").rules.len(), 1);
    for (text, milliseconds) in
        [("1h1m1s1ms", 3_661_001), ("0h", 0), ("99999ms", 99_999), ("1m1h", 3_660_000)]
    {
        let duration = Duration::try_from(text.to_owned()).expect("valid");
        assert_eq!(duration.get(), Time::from_millis(milliseconds), "{text}");
    }
}

#[test]
fn grpc_routes_are_read_and_checked() {
    let spec = good(
        "v1",
        "GRPCRoute",
        "{hostnames: [a.b], rules: [{matches: [{method: {service: a.B, method: C}, headers: [{name: X, value: 'a  b'}]},
          {method: {type: RegularExpression, service: 'a.*'}}], backendRefs: [{name: b, port: 1,
          filters: [{type: RequestMirror, requestMirror: {backendRef: {name: m, port: 1}}}]}]}, {}]}",
    );
    let Spec::GrpcRoute(route) = spec else { panic!("kind") };
    let exact = GrpcMethodMatch::Exact { service: Some("a.B".into()), method: Some("C".into()) };
    assert_eq!(route.rules[0].matches[0].method, Some(exact));
    assert!(matches!(
        &route.rules[0].matches[1].method,
        Some(GrpcMethodMatch::Regex { service: Some(_), method: None })
    ));
    assert!(route.rules[1].matches.is_empty());
    let Spec::GrpcRoute(route) = good("v1", "GRPCRoute", "{}") else { panic!("kind") };
    assert!(route.rules.is_empty());
    let at = "spec.rules[0].matches[0].method";
    assert_rows(
        "v1",
        "GRPCRoute",
        &[
            ("{rules: [{matches: [{method: {}}]}]}", E, at, "service or method is required"),
            ("{rules: [{matches: [{method: {service: a/b}}]}]}", E, &format!("{at}.service"), "gRPC service"),
            ("{rules: [{matches: [{method: {method: a.b}}]}]}", E, &format!("{at}.method"), "gRPC method"),
            (
                "{rules: [{matches: [{method: {type: RegularExpression, method: '['}}]}]}",
                Level::Warning,
                at,
                "regular expression",
            ),
            (
                "{rules: [{filters: [{type: URLRewrite, urlRewrite: {}}]}]}",
                E,
                "spec.rules[0].filters[0].type",
                "unknown value \"URLRewrite\"",
            ),
            ("{rules: [{backendRefs: [{name: a}]}]}", E, "spec.rules[0].backendRefs[0].port", "required"),
            ("{rules: [{timeouts: {}}]}", E, "spec.rules[0].timeouts", "unknown field"),
            ("{rules: [{name: a}, {name: a}]}", E, "spec.rules[1].name", "used twice"),
        ],
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn l4_routes_are_read_and_checked() {
    let rules = "rules: [{backendRefs: [{name: b, port: 1}, {name: c, port: 2, weight: 3}]}]";
    let spec = good("v1", "TLSRoute", &format!("{{hostnames: ['*.a.b'], {rules}}}"));
    let Spec::TlsRoute(route) = spec else { panic!("kind") };
    assert_eq!(route.rules[0].backend_refs[1].weight.get(), 3);
    good("v1alpha3", "TLSRoute", &format!("{{hostnames: [a.b], {rules}}}"));
    good("v1alpha2", "TLSRoute", &format!("{{{rules}}}"));
    let Spec::TcpRoute(route) = good("v1", "TCPRoute", &format!("{{{rules}}}")) else { panic!("kind") };
    assert_eq!(&*route.rules[0].backend_refs[0].backend.name, "b");
    let Spec::UdpRoute(route) = good("v1alpha2", "UDPRoute", &format!("{{{rules}}}")) else { panic!("kind") };
    assert_eq!(route.rules[0].backend_refs[1].weight.get(), 3);
    let two = "{rules: [{backendRefs: [{name: b, port: 1}]}, {backendRefs: [{name: b, port: 1}]}]}";
    let cases: &[(&str, &str, String, Level, &str, &str)] = &[
        ("v1", "TLSRoute", format!("{{{rules}}}"), E, "spec.hostnames", "must not be empty"),
        (
            "v1",
            "TLSRoute",
            format!("{{hostnames: [1.2.3.4], {rules}}}"),
            E,
            "spec.hostnames[0]",
            "is an IP address",
        ),
        (
            "v1alpha2",
            "TLSRoute",
            format!("{{hostnames: [1.2.3.4], {rules}}}"),
            W,
            "spec.hostnames[0]",
            "IP address",
        ),
        ("v1", "TLSRoute", "{hostnames: [a.b]}".into(), E, "spec", "the field rules is required"),
        ("v1", "TCPRoute", "{rules: []}".into(), E, "spec.rules", "must not be empty"),
        ("v1", "TCPRoute", "{rules: [{}]}".into(), E, "spec.rules[0]", "the field backendRefs is required"),
        (
            "v1",
            "TCPRoute",
            "{rules: [{backendRefs: []}]}".into(),
            E,
            "spec.rules[0].backendRefs",
            "must not be empty",
        ),
        ("v1", "TCPRoute", two.into(), E, "spec.rules", "has 2 entries, the limit is 1"),
        ("v1alpha2", "TCPRoute", two.into(), W, "spec.rules[1]", "the first rule gets all"),
        ("v1", "UDPRoute", two.into(), E, "spec.rules", "has 2 entries, the limit is 1"),
        ("v1alpha2", "UDPRoute", two.into(), W, "spec.rules[1]", "the first rule gets all"),
        (
            "v1",
            "UDPRoute",
            "{rules: [{backendRefs: [{name: b}]}]}".into(),
            E,
            "spec.rules[0].backendRefs[0].port",
            "required",
        ),
        (
            "v1",
            "UDPRoute",
            format!("{{parentRefs: [{{kind: Service, group: '', name: s}}], {rules}}}"),
            W,
            "spec.parentRefs[0]",
            "this parent has no effect",
        ),
        (
            "v1",
            "TCPRoute",
            "{rules: [{backendRefs: [{name: a, port: 1, filters: []}]}]}".into(),
            E,
            "spec.rules[0].backendRefs[0].filters",
            "unknown field",
        ),
    ];
    for (version, kind, spec, level, field, reason) in cases {
        assert_rows(version, kind, &[(spec, *level, field, reason)]);
    }
}

#[test]
fn gateways_are_read() {
    let spec = good(
        "v1",
        "Gateway",
        "
  gatewayClassName: istio
  addresses: [{value: 10.0.0.1}, {type: Hostname, value: a.b}, {type: NamedAddress, value: x}, {type: a.b/c, value: y}, {}]
  infrastructure: {labels: {a.b/c: d}, annotations: {e: f}, parametersRef: {group: '', kind: ConfigMap, name: g}}
  tls:
    backend: {clientCertificateRef: {name: c}}
    frontend: {default: {}, perPort: [{port: 8443, tls: {validation: {caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}]}}}]}
  listeners:
  - {name: http, port: 80, protocol: HTTP}
  - name: https
    port: 443
    protocol: HTTPS
    hostname: '*.example.com'
    tls: {certificateRefs: [{name: cert}]}
    allowedRoutes: {kinds: [{kind: HTTPRoute}], namespaces: {from: Selector, selector: {matchLabels: {a: b},
      matchExpressions: [{key: c, operator: In, values: [d]}, {key: e, operator: Exists}]}}}
  - {name: tls, port: 443, protocol: TLS, hostname: a.b, tls: {mode: Passthrough}, allowedRoutes: {namespaces: {from: All}}}
  - {name: mesh, port: 15008, protocol: HBONE}
  - {name: opt, port: 15443, protocol: TLS, tls: {options: {gateway.istio.io/tls-terminate-mode: MUTUAL}}}
",
    );
    let Spec::KubernetesGateway(gateway) = spec else { panic!("kind") };
    let kinds: Vec<_> = gateway.addresses.iter().map(|it| it.kind.clone()).collect();
    assert_eq!(kinds[0], AddressKind::Ip("10.0.0.1".parse().ok()));
    assert_eq!(kinds[3..], [AddressKind::Other("a.b/c".into()), AddressKind::Ip(None)]);
    let http = &gateway.listeners[0];
    assert_eq!((&http.protocol, http.port.get(), &http.tls), (&Protocol::Http, 80, &None));
    assert_eq!(http.allowed_routes.namespaces.from, RouteNamespacesFrom::Same);
    let https = &gateway.listeners[1];
    let tls = https.tls.as_ref().expect("given");
    assert_eq!((tls.mode, &*tls.certificate_refs[0].kind), (TlsMode::Terminate, "Secret"));
    assert_eq!(&*https.allowed_routes.kinds[0].group, "gateway.networking.k8s.io");
    let labels = |text: &str| {
        text.split(',').filter_map(|it| it.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect()
    };
    let namespaces = &https.allowed_routes.namespaces;
    assert!(namespaces.admit(false, &labels("a=b,c=d,e=")));
    assert!(!namespaces.admit(true, &labels("a=b,c=x,e=")));
    assert!(gateway.listeners[2].allowed_routes.namespaces.admit(false, &labels("")));
    assert!(!http.allowed_routes.namespaces.admit(false, &labels("")));
    assert_eq!(gateway.listeners[3].protocol, Protocol::Hbone);
    let frontend = gateway.tls.frontend.as_ref().expect("given");
    assert!(frontend.of_port(https.port).validation.is_none());
    let port = frontend.per_port[0].port;
    assert_eq!(
        frontend.of_port(port).validation.as_ref().map(|it| it.mode),
        Some(CertificateMode::AllowValidOnly)
    );
    let Spec::GatewayClass(class) = good(
        "v1beta1",
        "GatewayClass",
        "{controllerName: istio.io/gateway-controller, parametersRef: {group: '', kind: ConfigMap, name: a, namespace: b}}",
    ) else {
        panic!("kind")
    };
    assert_eq!(&*class.controller_name, "istio.io/gateway-controller");
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table, one row per rule")]
fn gateways_are_checked() {
    let listener = |listener: &str| format!("{{gatewayClassName: c, listeners: [{listener}]}}");
    let gateway = |rest: &str| {
        format!("{{gatewayClassName: c, listeners: [{{name: a, port: 1, protocol: TCP}}], {rest}}}")
    };
    let at = "spec.listeners[0]";
    let cert = "certificateRefs: [{name: c}]";
    let rows: &[(String, Level, String, &str)] = &[
        ("{listeners: []}".into(), E, "spec".into(), "the field gatewayClassName is required"),
        ("{gatewayClassName: c, listeners: []}".into(), E, "spec.listeners".into(), "must not be empty"),
        (listener("{name: a, port: 1}"), E, at.into(), "the field protocol is required"),
        (listener("{name: a, port: 0, protocol: TCP}"), E, format!("{at}.port"), "port 0"),
        (listener("{name: A, port: 1, protocol: TCP}"), E, format!("{at}.name"), "is not a section name"),
        (listener("{name: a, port: 1, protocol: 'a b'}"), E, format!("{at}.protocol"), "is not a protocol"),
        (
            listener("{name: a, port: 1, protocol: http}"),
            W,
            format!("{at}.protocol"),
            "http is not supported",
        ),
        (
            listener("{name: a, port: 1, protocol: UDP, hostname: a}"),
            E,
            format!("{at}.hostname"),
            "UDP has no host names",
        ),
        (
            listener("{name: a, port: 1, protocol: TCP, hostname: a}"),
            E,
            format!("{at}.hostname"),
            "no host names",
        ),
        (
            listener(&format!("{{name: a, port: 1, protocol: HTTP, tls: {{{cert}}}}}")),
            E,
            format!("{at}.tls"),
            "not for",
        ),
        (listener("{name: a, port: 1, protocol: HTTPS}"), W, format!("{at}.tls"), "serves nobody"),
        (listener("{name: a, port: 1, protocol: TLS}"), E, format!("{at}.tls"), "required for protocol TLS"),
        (
            listener("{name: a, port: 1, protocol: HTTPS, tls: {mode: Passthrough}}"),
            E,
            format!("{at}.tls.mode"),
            "HTTPS ends at the gateway",
        ),
        (
            listener("{name: a, port: 1, protocol: TLS, tls: {}}"),
            E,
            format!("{at}.tls.certificateRefs"),
            "required to terminate",
        ),
        (
            listener("{name: a, port: 1, protocol: TCP}, {name: a, port: 2, protocol: TCP}"),
            E,
            "spec.listeners[1]".into(),
            "has the name of",
        ),
        (
            listener("{name: a, port: 1, protocol: TCP}, {name: b, port: 1, protocol: TCP}"),
            E,
            "spec.listeners[1]".into(),
            "port, protocol and hostname",
        ),
        (
            listener("{name: a, port: 1, protocol: TCP, allowedRoutes: {namespaces: {from: None}}}"),
            E,
            format!("{at}.allowedRoutes.namespaces.from"),
            "unknown value",
        ),
        (
            listener("{name: a, port: 1, protocol: TCP, allowedRoutes: {namespaces: {from: Selector}}}"),
            W,
            format!("{at}.allowedRoutes.namespaces.selector"),
            "no namespace is selected",
        ),
        (
            listener("{name: a, port: 1, protocol: TCP, allowedRoutes: {namespaces: {selector: {}}}}"),
            W,
            format!("{at}.allowedRoutes.namespaces.selector"),
            "has no effect",
        ),
        (
            listener(
                "{name: a, port: 1, protocol: TCP, allowedRoutes: {namespaces: {from: Selector, selector: {matchExpressions: [{key: a, operator: in, values: [b]}]}}}}",
            ),
            E,
            format!("{at}.allowedRoutes.namespaces.selector.matchExpressions[0]"),
            "unknown operator",
        ),
        (
            format!(
                "{{gatewayClassName: c, listeners: {}}}",
                repeated(65, |n| format!("{{name: a{n}, port: {}, protocol: TCP}}", n + 1))
            ),
            E,
            "spec.listeners".into(),
            "has 65 entries",
        ),
        (gateway("addresses: [{value: x}]"), E, "spec.addresses[0].value".into(), "is not an IP address"),
        (
            gateway("addresses: [{type: Hostname, value: A}]"),
            E,
            "spec.addresses[0].value".into(),
            "host name",
        ),
        (gateway("addresses: [{type: Ip, value: 1.1.1.1}]"), E, "spec.addresses[0]".into(), "unknown type"),
        (
            gateway("addresses: [{value: 1.1.1.1}, {value: 1.1.1.1}]"),
            E,
            "spec.addresses".into(),
            "is there twice",
        ),
        (
            gateway("infrastructure: {labels: {'a b': c}}"),
            E,
            "spec.infrastructure.labels[\"a b\"]".into(),
            "key",
        ),
        (
            gateway("infrastructure: {labels: {a: 'b c'}}"),
            E,
            "spec.infrastructure.labels.a".into(),
            "label value",
        ),
        (
            gateway("allowedListeners: {namespaces: {from: Selector}}"),
            W,
            "spec.allowedListeners.namespaces.selector".into(),
            "no namespace is selected",
        ),
        (gateway("defaultScope: All"), W, "spec.defaultScope".into(), "not supported"),
        (gateway("tls: {frontend: {}}"), E, "spec.tls.frontend".into(), "the field default is required"),
        (
            gateway("tls: {frontend: {default: {validation: {caCertificateRefs: []}}}}"),
            E,
            "spec.tls.frontend.default.validation.caCertificateRefs".into(),
            "must not be empty",
        ),
        (
            gateway("tls: {frontend: {default: {}, perPort: [{port: 1, tls: {}}, {port: 1, tls: {}}]}}"),
            E,
            "spec.tls.frontend.perPort[1]".into(),
            "has the port",
        ),
    ];
    let rows: Vec<_> = rows.iter().map(|(a, b, c, d)| (a.as_str(), *b, c.as_str(), *d)).collect();
    assert_rows("v1", "Gateway", &rows);
    assert_rows(
        "v1",
        "GatewayClass",
        &[
            ("{}", E, "spec", "the field controllerName is required"),
            ("{controllerName: a}", E, "spec.controllerName", "is not a controller name"),
            (
                &format!("{{controllerName: a/b, description: {}}}", "x".repeat(65)),
                E,
                "spec.description",
                "more than 64",
            ),
            (
                "{controllerName: a/b, parametersRef: {kind: a, name: b}}",
                E,
                "spec.parametersRef",
                "group is required",
            ),
        ],
    );
    let parsed = yaml("apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: x}\n");
    assert_eq!(parsed.findings[0].to_string(), "f.yaml:1 Error spec: required, but missing");
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table, one row per rule")]
fn grants_and_policies_are_read_and_checked() {
    let spec = good(
        "v1beta1",
        "ReferenceGrant",
        "{from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: a}], to: [{group: '', kind: Secret}, {group: '', kind: Secret, name: b}]}",
    );
    let Spec::ReferenceGrant(grant) = spec else { panic!("kind") };
    assert_eq!((&*grant.from[0].namespace, &grant.to[0].name), ("a", &None));
    assert_rows(
        "v1",
        "ReferenceGrant",
        &[
            ("{from: [], to: [{group: '', kind: A}]}", E, "spec.from", "must not be empty"),
            ("{from: [{group: '', kind: A}], to: []}", E, "spec.from[0]", "the field namespace is required"),
        ],
    );
    let policy = |validation: &str| {
        format!("{{targetRefs: [{{group: '', kind: Service, name: s}}], validation: {validation}}}")
    };
    let spec = good(
        "v1alpha3",
        "BackendTLSPolicy",
        &policy(
            "{hostname: a.b, caCertificateRefs: [{group: '', kind: ConfigMap, name: c}], subjectAltNames: [{type: Hostname, hostname: '*.a'}, {type: URI, uri: 'spiffe://td/ns/a/sa/b'}]}",
        ),
    );
    let Spec::BackendTlsPolicy(read) = spec else { panic!("kind") };
    assert!(matches!(&read.validation.ca, CaSource::Refs(refs) if refs.len() == 1));
    assert_eq!(read.validation.subject_alt_names[1], SubjectAltName::Uri("spiffe://td/ns/a/sa/b".into()));
    let system = good("v1", "BackendTLSPolicy", &policy("{hostname: a, wellKnownCACertificates: System}"));
    let Spec::BackendTlsPolicy(read) = system else { panic!("kind") };
    assert_eq!(read.validation.ca, CaSource::System);
    let at = "spec.validation";
    let rows: &[(String, Level, String, &str)] = &[
        (policy("{hostname: a}"), E, at.into(), "caCertificateRefs or wellKnownCACertificates is required"),
        (policy("{wellKnownCACertificates: System}"), E, at.into(), "the field hostname is required"),
        (policy("{hostname: '*.a', wellKnownCACertificates: System}"), E, format!("{at}.hostname"), "host name"),
        (policy("{hostname: a, wellKnownCACertificates: system}"), E, format!("{at}.wellKnownCACertificates"), "unknown"),
        (
            policy("{hostname: a, wellKnownCACertificates: System, caCertificateRefs: [{group: '', kind: A, name: b}]}"),
            E,
            format!("{at}.wellKnownCACertificates"),
            "cannot be combined",
        ),
        (
            policy("{hostname: a, wellKnownCACertificates: System, subjectAltNames: [{type: URI}]}"),
            E,
            format!("{at}.subjectAltNames[0]"),
            "uri is required",
        ),
        (
            policy("{hostname: a, wellKnownCACertificates: System, subjectAltNames: [{type: URI, uri: abc}]}"),
            E,
            format!("{at}.subjectAltNames[0].uri"),
            "is not a URI",
        ),
        (
            policy("{hostname: a, wellKnownCACertificates: System, subjectAltNames: [{type: Hostname, hostname: a, uri: a://b}]}"),
            E,
            format!("{at}.subjectAltNames[0].uri"),
            "not for type Hostname",
        ),
        (
            "{targetRefs: [], validation: {hostname: a, wellKnownCACertificates: System}}".into(),
            E,
            "spec.targetRefs".into(),
            "must not be empty",
        ),
        (
            "{targetRefs: [{group: '', kind: Service, name: s}, {group: '', kind: Service, name: s, sectionName: a}], validation: {hostname: a, wellKnownCACertificates: System}}".into(),
            E,
            "spec.targetRefs[1]".into(),
            "by other means",
        ),
        (
            "{targetRefs: [{group: x.io, kind: Service, name: s}], validation: {hostname: a, wellKnownCACertificates: System}}".into(),
            W,
            "spec.targetRefs[0].kind".into(),
            "not a kind this policy",
        ),
    ];
    let rows: Vec<_> = rows.iter().map(|(a, b, c, d)| (a.as_str(), *b, c.as_str(), *d)).collect();
    assert_rows("v1", "BackendTLSPolicy", &rows);
}

#[test]
fn kinds_and_versions_are_told_apart() {
    let cases = [
        ("v1alpha3", "UDPRoute", "UDPRoute is not served in this version"),
        ("v1alpha1", "HTTPRoute", "HTTPRoute is not served in this version"),
        ("v1", "HttpRoute", "there is no kind \"HttpRoute\""),
    ];
    for (version, kind, reason) in cases {
        let parsed = yaml(&document(version, kind, "{}"));
        assert!(
            parsed.objects.is_empty() && parsed.findings[0].reason.contains(reason),
            "{:?}",
            parsed.findings
        );
        assert!(parsed.findings[0].hint.is_some(), "{:?}", parsed.findings);
    }
    let both =
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec: {selector: {a: b}, \
                servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}\n---\n"
            .to_owned()
            + &document(
                "v1",
                "Gateway",
                "{gatewayClassName: c, listeners: [{name: a, port: 80, protocol: HTTP}]}",
            );
    let parsed = yaml(&both);
    let keys: Vec<_> = parsed.objects.iter().map(|object| object.key().to_string()).collect();
    assert_eq!(keys, ["Gateway default/g", "KubernetesGateway default/x"]);
}

#[test]
fn hosts_intersect() {
    let host = |text: &str| Hostname::try_from(text.to_owned()).expect("valid");
    let cases = [
        ("a.b", "a.b", Some("a.b")),
        ("a.b", "c.b", None),
        ("*.b", "a.b", Some("a.b")),
        ("a.b", "*.b", Some("a.b")),
        ("*.b", "x.a.b", Some("x.a.b")),
        ("*.b", "b", None),
        ("*.a.b", "*.b", Some("*.a.b")),
        ("*.a.b", "*.c.b", None),
        ("*.b", "*.ab", None),
        ("*.b", "a.cb", None),
    ];
    for (left, right, expected) in cases {
        let (left, right) = (host(left), host(right));
        assert_eq!(left.intersection(&right).map(|it| &**it), expected, "{left} {right}");
        assert_eq!(right.intersection(&left).map(|it| &**it), expected, "{right} {left}");
    }
    assert!(host("*.b").matches("a.b") && !host("*.b").matches(".b") && !host("*.b").matches("b"));
}

#[test]
fn hostile_routes_cost_little() {
    let long = "x".repeat(200_000);
    let regex = "((a{1,50}){1,50}|[\\\\pL]{1,40}){1,20}";
    let mut rules = String::new();
    for n in 0..4 {
        write!(rules, "{{name: r{n}, matches: [").expect("String takes all");
        for _ in 0..32 {
            write!(rules, "{{path: {{type: RegularExpression, value: \"{regex}\"}}}}, ")
                .expect("String takes all");
        }
        rules.push_str("]}, ");
    }
    let cases = [
        ("many parents", format!("{{parentRefs: {}}}", repeated(40_000, |_| "{name: a}".into()))),
        (
            "many different parents",
            format!("{{parentRefs: {}}}", repeated(40_000, |n| format!("{{name: a{n}}}"))),
        ),
        ("many rules", format!("{{rules: {}}}", repeated(100_000, |_| "{}".into()))),
        ("many hosts", format!("{{hostnames: {}}}", repeated(100_000, |_| "a.b".into()))),
        ("many wrong hosts", format!("{{hostnames: {}}}", repeated(100_000, |_| "A".into()))),
        ("a long host", format!("{{hostnames: [{long}]}}")),
        ("a long path", format!("{{rules: [{{matches: [{{path: {{value: /{long}}}}}]}}]}}")),
        ("a long duration", format!("{{rules: [{{timeouts: {{request: {}s}}}}]}}", "1".repeat(200_000))),
        (
            "many headers",
            format!(
                "{{rules: [{{matches: [{{headers: {}}}]}}]}}",
                repeated(40_000, |n| format!("{{name: h{}, value: x}}", n % 9))
            ),
        ),
        ("many regular expressions", format!("{{rules: [{rules}]}}")),
    ];
    for (name, spec) in cases {
        let text = document("v1", "HTTPRoute", &spec);
        assert!(text.len() <= 1 << 20, "{name} has {} bytes", text.len());
        let start = Instant::now();
        let parsed = yaml(&text);
        let took = start.elapsed();
        assert!(
            parsed.objects.is_empty() && parsed.findings.len() <= 50,
            "{name}: {}",
            parsed.findings.len()
        );
        assert!(parsed.findings.iter().all(|finding| finding.to_string().len() < 2_000), "{name}");
        assert!(took < Time::from_secs(10), "{name} took {took:?}");
    }
}

use super::*;
use crate::resource::{SourceFile, Spec, parse};

fn authorizer(provider: &str) -> Authorizer {
    let mesh = format!("extensionProviders: [{{name: own, {provider}}}]");
    let text = serde_json::json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "istio", "namespace": "istio-system"}, "data": {"mesh": mesh},
    });
    let parsed = parse(&SourceFile { name: "mesh.json", text: &text.to_string() });
    let Spec::ConfigMap(_) = &parsed.objects[0].spec else { panic!("kind") };
    let snapshot = crate::model::compile(&parsed.objects, &crate::model::CompileOptions::default()).snapshot;
    Authorizer::find(snapshot.mesh(), "own").expect("an authorizer")
}

fn by_http(more: &str) -> ByHttp {
    match authorizer(&format!("envoyExtAuthzHttp: {{service: a.b.svc.cluster.local, port: 80, {more}}}"))
        .asked
    {
        Asked::Http(it) => *it,
        Asked::Grpc => panic!("HTTP"),
    }
}

fn headers(all: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in all {
        headers.append(*name, HeaderValue::from_static(value));
    }
    headers
}

fn texts(headers: &HeaderMap) -> Vec<String> {
    let mut all: Vec<_> =
        headers.iter().map(|(name, value)| format!("{name}={}", value.to_str().unwrap())).collect();
    all.sort();
    all
}

#[test]
fn a_provider_is_read_with_what_it_leaves_out() {
    let least = authorizer("envoyExtAuthzGrpc: {service: ns/Authz.example, port: 9000}");
    assert_eq!((&*least.to.host, least.to.port), ("authz.example", Some(9000)));
    assert_eq!(least.timeout, Duration::from_secs(600));
    assert_eq!((least.fails_open, least.status_on_error.as_u16()), (false, 403));
    assert_eq!((least.asked, least.body), (Asked::Grpc, None));
    let more = authorizer(
        "envoyExtAuthzGrpc: {service: a, port: 1, timeout: 2s, failOpen: true, statusOnError: '503', \
         includeRequestBodyInCheck: {maxRequestBytes: 9}}",
    );
    assert_eq!(
        (more.timeout, more.fails_open, more.status_on_error.as_u16()),
        (Duration::from_secs(2), true, 503)
    );
    assert_eq!(more.body.map(|it| it.max_request_bytes), Some(9));
    for (words, opens) in [("", false), (", failOpen: false", false), (", failOpen: true", true)] {
        let by_http = authorizer(&format!("envoyExtAuthzHttp: {{service: a, port: 1{words}}}"));
        assert_eq!(by_http.fails_open, opens, "by HTTP{words}");
    }
    assert!(Authorizer::find(&MeshConfig::default(), "own").is_none());
}

#[test]
fn an_authorizer_is_shown_what_it_is_to_see() {
    let own = by_http(
        "pathPrefix: /check, includeRequestHeadersInCheck: [X-One, 'x-pre-*', '*-end', content-length], \
         includeAdditionalHeadersInCheck: {x-added: yes, x-one: ours, host: evil}",
    );
    assert_eq!(own.target("/a?b"), "/check/a?b");
    let request = headers(&[
        ("x-one", "theirs"),
        ("x-pre-a", "1"),
        ("x-the-end", "2"),
        ("x-other", "3"),
        ("authorization", "Basic x"),
        ("cookie", "secret"),
        ("content-length", "9"),
        ("x-pre-a", "again"),
    ]);
    let shown =
        ["authorization=Basic x", "x-added=yes", "x-one=ours", "x-pre-a=1", "x-pre-a=again", "x-the-end=2"];
    assert_eq!(texts(&own.headers(&request)), shown);
}

#[test]
fn what_it_says_goes_where_it_may() {
    let own = by_http(
        "headersToUpstreamOnAllow: [x-user, content-length, host], headersToDownstreamOnAllow: [x-seen], \
         headersToDownstreamOnDeny: [x-why]",
    );
    let said = headers(&[
        ("x-user", "ann"),
        ("x-user", "also"),
        ("x-seen", "1"),
        ("x-why", "no"),
        ("host", "evil"),
        ("content-length", "0"),
        ("x-envoy-auth-headers-to-remove", "cookie, x-gone ,host"),
        ("location", "/login"),
    ]);
    let Some(Verdict::Allowed(changes)) = own.verdict(StatusCode::OK, &said, Vec::new()) else {
        panic!("yes")
    };
    let mut request =
        headers(&[("x-user", "root"), ("cookie", "c"), ("x-gone", "g"), ("host", "h"), ("x-why", "w")]);
    changes.apply(&mut request);
    assert_eq!(texts(&request), ["host=h", "x-user=also", "x-user=ann", "x-why=w"]);
    assert_eq!(changes.answer.len(), 1);
    let denied = |status, own: &ByHttp| match own.verdict(status, &said, b"b".to_vec()) {
        Some(Verdict::Denied(denial)) => {
            let names = denial.headers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" ");
            format!("{} {names}", denial.status.as_u16())
        }
        other => format!("{other:?}"),
    };
    assert_eq!(denied(StatusCode::FORBIDDEN, &own), "403 x-why location");
    assert_eq!(denied(StatusCode::FOUND, &own), "302 x-why location");
    assert_eq!(denied(StatusCode::CREATED, &own), "201 x-why location", "only 200 says yes");
    let all = by_http("failOpen: true");
    let expected = "403 x-user x-user x-seen x-why x-envoy-auth-headers-to-remove location";
    assert_eq!(denied(StatusCode::FORBIDDEN, &all), expected);
    assert_eq!(own.verdict(StatusCode::SERVICE_UNAVAILABLE, &said, Vec::new()), None);
}

#[test]
fn headers_are_set_as_is_said() {
    let name = || HeaderName::from_static("x-a");
    let value = || HeaderValue::from_static("new");
    for (before, how, after) in [
        (&[][..], How::Replace, &["x-a=new"][..]),
        (&[("x-a", "old"), ("x-a", "older")], How::Replace, &["x-a=new"]),
        (&[("x-a", "old")], How::Append, &["x-a=new", "x-a=old"]),
        (&[("x-a", "old")], How::IfAbsent, &["x-a=old"]),
        (&[], How::IfAbsent, &["x-a=new"]),
        (&[], How::IfPresent, &[]),
        (&[("x-a", "old")], How::IfPresent, &["x-a=new"]),
    ] {
        let mut request = headers(before);
        Changes { set: vec![(name(), value(), how)], ..Changes::default() }.apply(&mut request);
        assert_eq!(texts(&request), after, "{how:?}");
    }
}

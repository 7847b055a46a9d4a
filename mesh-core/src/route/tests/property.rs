//! Generated rules and requests: the index never disagrees with trying all matches in order, and looks at few.

use http::{HeaderMap, HeaderValue, Method};
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::resource::networking::virtual_service::{Headers, HttpDestination, HttpMatch, HttpRoute};
use crate::resource::networking::{Destination, VirtualServiceSpec};
use crate::resource::value::{HeaderKey, Host, Regex, StringMatch};
use crate::route::condition::PathMatch;
use crate::route::index::{Entry, Index};

/// Expressions are compiled once, and shared from then on.
fn regex(patterns: &'static [&'static str]) -> impl Strategy<Value = StringMatch> {
    let compiled: Vec<_> = patterns.iter().map(|it| StringMatch::Regex(Regex::parse(it).unwrap())).collect();
    select(compiled)
}

/// Few letters, so that matches are as likely as misses.
fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(select(&["/", "a", "A", "b", "ab", "/a", "0"][..]), 0..5)
        .prop_map(|parts| parts.concat())
}

fn text(texts: &'static [&'static str]) -> impl Strategy<Value = StringMatch> {
    prop_oneof![
        4 => select(texts).prop_map(|text| StringMatch::Exact(text.to_owned())),
        2 => select(texts).prop_map(|text| StringMatch::Prefix(text.to_owned())),
        1 => regex(&["a+", "(?i)a", "[a-c]?", ".*", "a|b"]),
        1 => Just(StringMatch::Present),
    ]
}

fn uri() -> impl Strategy<Value = StringMatch> {
    prop_oneof![
        3 => path().prop_map(StringMatch::Exact),
        3 => path().prop_map(StringMatch::Prefix),
        2 => regex(&["/a.*", "(/a|/ab)b*", "(?i)/A.*", ".*b", "/a{1,3}", "[/a]+", "/ab?", ".*", "^/a$", "/(?s:.)a"]),
    ]
}

fn a_match() -> impl Strategy<Value = HttpMatch> {
    let header = |name: &'static str| {
        text(&["a", "b", "aa", "c", "d"])
            .prop_map(move |want| (HeaderKey::Name(resource::value::HeaderName::parse(name).unwrap()), want))
    };
    let headers = (prop::option::weighted(0.4, header("x")), prop::option::weighted(0.2, header("y")));
    let without = prop::option::weighted(0.1, header("x"));
    let query = prop::option::weighted(0.1, text(&["a", "b"]).prop_map(|want| ("q".to_owned(), want)));
    let method = prop::option::weighted(0.1, text(&["GET", "PUT"]));
    let uri = (prop::option::weighted(0.8, uri()), any::<bool>());
    (uri, headers, without, query, method).prop_map(|(uri, headers, without, query, method)| HttpMatch {
        uri: uri.0,
        ignore_uri_case: uri.1,
        method,
        headers: headers.0.into_iter().chain(headers.1).collect(),
        without_headers: without.into_iter().collect(),
        query_params: query.into_iter().collect(),
        ..HttpMatch::default()
    })
}

fn request() -> impl Strategy<Value = Request> {
    let value = || prop::collection::vec(select(&["a", "b", "aa", "c"][..]), 0..2);
    let method = select(vec![Method::GET, Method::PUT]);
    let query = prop::option::of(select(&["q=a", "q=b", "p=a", ""][..]).prop_map(str::to_owned));
    (path(), value(), value(), query, method).prop_map(|(path, x, y, query, method)| {
        let mut headers = HeaderMap::new();
        for (name, value) in x.iter().map(|x| ("x", x)).chain(y.iter().map(|y| ("y", y))) {
            headers.append(name, HeaderValue::from_static(value));
        }
        Request { method, query, headers, ..Request::parse(&format!("GET http://reviews:80/{path}")) }
    })
}

fn index(matches: Vec<HttpMatch>) -> Index {
    let destination = Destination { host: Host::parse("a").unwrap(), subset: String::new(), port: None };
    let to = HttpDestination { destination, weight: 1, headers: Headers::default() };
    let http = matches.into_iter().map(|it| HttpRoute {
        matches: vec![it],
        route: vec![to.clone()],
        ..HttpRoute::default()
    });
    let spec = VirtualServiceSpec {
        hosts: vec![Host::parse("reviews").unwrap()],
        http: http.collect(),
        ..VirtualServiceSpec::default()
    };
    let service = VirtualService { namespace: "default".into(), name: "a".into(), created: None, spec };
    Index::new(Virtuals::of([&service], &Settings::default()).entries_of_all())
}

/// What the index should do: tries all in order.
fn naive<'e>(entries: &'e [Entry], request: &RequestView<'_>) -> Option<&'e Entry> {
    entries.iter().find(|entry| {
        let path = match &entry.condition.path {
            PathMatch::Any => true,
            PathMatch::Exact(path) => **path == *request.path,
            PathMatch::Prefix(prefix) => request.path.starts_with(&**prefix),
            PathMatch::ExactFolded(path) => **path == request.path.to_lowercase(),
            PathMatch::PrefixFolded(prefix) => request.path.to_lowercase().starts_with(&**prefix),
            PathMatch::Regex(regex) => regex.matches(request.path.as_bytes()),
            PathMatch::Segments(path) => {
                let rest = request.path.strip_prefix(&**path);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
        };
        path && entry.condition.holds_beyond_path(request)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn the_index_finds_what_trying_all_finds(
        matches in prop::collection::vec(a_match(), 0..60),
        requests in prop::collection::vec(request(), 1..20),
    ) {
        let index = index(matches);
        for request in &requests {
            let request = request.view();
            let (found, expected) = (index.find(&request), naive(index.entries(), &request));
            prop_assert_eq!(
                found.map(std::ptr::from_ref), expected.map(std::ptr::from_ref), "{:?}", (found, expected, request)
            );
        }
    }
}

/// How many matches are evaluated to find the one for a request, which is that of `number`.
fn looked_at(index: &Index, number: usize, request: &str) -> usize {
    let request = Request::parse(request);
    let mut count = 0;
    let found = index.search(&request.view(), || count += 1).map(std::ptr::from_ref);
    assert_eq!(found, index.entries().get(number).map(std::ptr::from_ref), "{count} looked at");
    count
}

/// What one of many matches asks for, by its number.
type Nth = fn(usize) -> HttpMatch;

#[test]
fn few_matches_are_looked_at_among_ten_thousand() {
    let exact: Nth =
        |n| HttpMatch { uri: Some(StringMatch::Exact(format!("/api/{n}"))), ..HttpMatch::default() };
    let prefix: Nth =
        |n| HttpMatch { uri: Some(StringMatch::Prefix(format!("/api/{n}/"))), ..HttpMatch::default() };
    let folded: Nth = |n| HttpMatch {
        ignore_uri_case: true,
        ..HttpMatch { uri: Some(StringMatch::Prefix(format!("/API/{n}/"))), ..HttpMatch::default() }
    };
    let regex: Nth = |n| {
        let regex = Regex::parse(&format!("/api/{n}/[a-z]+")).unwrap();
        HttpMatch { uri: Some(StringMatch::Regex(regex)), ..HttpMatch::default() }
    };
    let header: Nth = |n| {
        let key = |name| HeaderKey::Name(resource::value::HeaderName::parse(name).unwrap());
        let same = (key("env"), StringMatch::Exact("prod".to_owned()));
        let headers = [same, (key("user"), StringMatch::Exact(format!("u{n}")))];
        HttpMatch { headers: headers.into(), ..HttpMatch::default() }
    };
    let both: Nth = |n| {
        let key = HeaderKey::Name(resource::value::HeaderName::parse("user").unwrap());
        let headers = [(key, StringMatch::Exact(format!("u{n}")))];
        let uri = Some(StringMatch::Exact("/api".to_owned()));
        HttpMatch { uri, headers: headers.into(), ..HttpMatch::default() }
    };
    let authority: Nth =
        |n| HttpMatch { authority: Some(StringMatch::Exact(format!("h{n}"))), ..HttpMatch::default() };
    for (id, nth, most, request) in [
        ("exact", exact, 10_000, "GET http://h/api/N"),
        ("prefix", prefix, 10_000, "GET http://h/api/N/x"),
        ("folded", folded, 10_000, "GET http://h/aPi/N/x"),
        ("regex", regex, 1_000, "GET http://h/api/N/x"),
        ("header", header, 10_000, "GET http://h/api\nuser: uN\nenv: prod"),
        ("path-and-header", both, 10_000, "GET http://h/api\nuser: uN"),
        ("authority", authority, 10_000, "GET http://hN/api"),
    ] {
        for routes in [10, most] {
            let index = index((0..routes).map(nth).chain([HttpMatch::default()]).collect());
            for number in [0, routes / 2, routes - 1, routes] {
                let looked_at = looked_at(&index, number, &request.replace('N', &number.to_string()));
                // A file of few matches is read in order.
                let most = 10;
                assert!(looked_at <= most, "{id}: {looked_at} looked at for number {number} of {routes}");
            }
        }
    }
}

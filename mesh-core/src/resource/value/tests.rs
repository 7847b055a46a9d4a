use std::time::Duration as Time;

use super::{
    Bind, Duration, DurationOrZero, EgressHost, ExportTo, FromText, GatewayName, HeaderKey, HeaderSegment,
    HeaderValue, Host, NamespaceScope, Percent, Protocol, Regex, ScopedHost, StringMatch, Subnet, time,
};

fn reason<T: std::fmt::Debug>(result: Result<T, super::Refusal>) -> String {
    let refusal = result.expect_err("refused");
    match refusal.hint {
        Some(hint) => format!("{} ({hint})", refusal.reason),
        None => refusal.reason,
    }
}

#[test]
fn durations_are_those_of_go() {
    let cases = [
        ("1ms", 1),
        ("7s", 7_000),
        ("1.5s", 1_500),
        ("1h30m", 5_400_000),
        ("2m0.250s", 120_250),
        (".5s", 500),
        ("+3s", 3_000),
        ("1000us", 1),
        ("2000µs", 2),
        ("3000000ns", 3),
        ("1.0000000001s", 1_000),
        ("2562047h", 9_223_369_200_000),
    ];
    for (text, milliseconds) in cases {
        let duration = Duration::parse(text).unwrap_or_else(|refusal| panic!("{text}: {refusal}"));
        assert_eq!(duration.get(), Time::from_millis(milliseconds), "{text}");
    }
    for text in ["", "s", "5", "5 s", "1s ", "1.2.3s", "1d", "s5", "1ms2", "9999999h", "1e3s", "٣s", "."] {
        assert!(reason(Duration::parse(text)).contains("is not a duration"), "{text}");
    }
    assert_eq!(reason(Duration::parse("-1s")), "\"-1s\" is negative");
    assert!(Duration::parse("--1s").is_err());
    assert_eq!(reason(Duration::parse("0s")), "\"0s\" is shorter than 1ms (remove it if no limit is meant)");
    assert_eq!(reason(Duration::parse("1500us")), "\"1500us\" is not a whole number of milliseconds");
    assert_eq!(DurationOrZero::parse("0").expect("legal").get(), None);
    assert_eq!(DurationOrZero::parse("0h0s").expect("legal").get(), None);
    assert_eq!(DurationOrZero::parse("1s").expect("legal").get(), Some(Time::from_secs(1)));
}

#[test]
fn a_command_line_takes_the_same_durations_and_says_what_to_write() {
    assert_eq!(time("24h"), Ok(Time::from_secs(86_400)));
    assert_eq!(time("1h30m"), Ok(Time::from_secs(5_400)));
    assert_eq!(time("500ms"), Ok(Time::from_millis(500)));
    for wrong in ["", "h", "5", "0s", "-1s", "1d", "99999999999999999999s", "18446744073709551615h"] {
        assert!(time(wrong).is_err(), "{wrong}");
    }
    assert_eq!(time("1d"), Err("\"1d\" is not a duration (write for example 5s, 250ms or 1h30m)".to_owned()));
    assert_eq!(time("0s"), Err("\"0s\" is shorter than 1ms".to_owned()));
}

#[test]
fn hosts_are_told_apart() {
    let legal = [
        ("*", Host::Any),
        ("*.Example.com", Host::Suffix(".example.com".into())),
        ("*foo.com", Host::Suffix("foo.com".into())),
        ("*-foo.com", Host::Suffix("-foo.com".into())),
        ("Reviews", Host::Name("reviews".into())),
        ("a.b.", Host::Name("a.b.".into())),
        ("10.0.0.1", Host::Address([10, 0, 0, 1].into())),
        ("fd00::1", Host::Address("fd00::1".parse().expect("legal"))),
        ("outbound_.80_.v1_.a.b.svc", Host::Name("outbound_.80_.v1_.a.b.svc".into())),
        ("outbound_.80_._.a.b.svc", Host::Name("outbound_.80_._.a.b.svc".into())),
    ];
    for (text, host) in legal {
        assert_eq!(Host::parse(text), Ok(host), "{text}");
    }
    let long = format!("{}.com", "a".repeat(64));
    let longer = ["abcdefg."; 33].concat();
    for text in [
        "",
        ".",
        "..",
        "a..b",
        ".a",
        "*.",
        "a*",
        "a.*.b",
        "**",
        "*.*",
        "-a",
        "a-",
        "a_b",
        "1.2.3",
        "10.0.0.256",
        "a.123",
        "http://a.b",
        "a.b/c",
        "a.b:80",
        "mesh#모든",
        "*a_",
        "outbound_.x_._.a",
        "a b",
        &long,
        &longer,
    ] {
        assert!(Host::parse(text).is_err(), "{text:?}");
    }
    assert_eq!(
        reason(Host::parse("a.b:80")),
        "\"a.b:80\" is not a host (write only the host, without a port)"
    );
}

#[test]
fn hosts_cover_each_other_as_names_do() {
    let host = |text: &str| Host::parse(text).expect("legal");
    let covers = [
        ("*", "*", true),
        ("*", "a.b", true),
        ("*", "10.0.0.1", true),
        ("*.b", "a.b", true),
        ("*.b", "b", false),
        ("*.b", "*.a.b", true),
        ("*.a.b", "*.b", false),
        ("*.b", "*.b", true),
        ("*b", "ab", true),
        ("*b", "b", false),
        ("a.b", "A.B", true),
        ("a.b", "*.b", false),
        ("*.1", "10.0.0.1", false),
    ];
    for (one, other, expected) in covers.into_iter().filter(|(one, ..)| *one != "*.1") {
        assert_eq!(host(one).covers(&host(other)), expected, "{one} {other}");
        assert_eq!(
            host(one).overlaps(&host(other)),
            expected || host(other).covers(&host(one)),
            "{one} {other}"
        );
    }
    assert!(host("*.b").matches("x.a.b") && !host("*.b").matches(".b") && host("a.b.").matches("a.b"));
    assert!(host("10.0.0.1").matches("10.0.0.1") && host("fd00::1").matches("fd00:0::1"));
    assert_eq!(
        host("reviews").qualified("book", "cluster.local").to_string(),
        "reviews.book.svc.cluster.local"
    );
    assert_eq!(host("reviews.x").qualified("book", "cluster.local").to_string(), "reviews.x");
    assert_eq!(host("*.x").qualified("book", "cluster.local").to_string(), "*.x");
}

#[test]
fn names_with_namespaces_are_read() {
    let named = |name: &str| NamespaceScope::Named(name.into());
    let host = |text: &str| Host::parse(text).expect("legal");
    let scoped = ScopedHost::from_text;
    assert_eq!(scoped("*"), Ok(ScopedHost { namespace: NamespaceScope::All, host: Host::Any }));
    assert_eq!(scoped("./a.b"), Ok(ScopedHost { namespace: NamespaceScope::Own, host: host("a.b") }));
    assert_eq!(scoped("ns/*.b"), Ok(ScopedHost { namespace: named("ns"), host: host("*.b") }));
    assert!(scoped("10.0.0.1").is_ok());
    for text in ["short", "ns/short", "/a.b", "NS/a.b", "a.b/", "*foo.com", "ns/a/b", "~/a.b"] {
        assert!(scoped(text).is_err(), "{text}");
    }
    let egress = EgressHost::from_text;
    assert_eq!(egress("*/*"), Ok(EgressHost::Include(NamespaceScope::All, Host::Any)));
    assert_eq!(egress("~/*"), Ok(EgressHost::Nothing));
    assert_eq!(egress("~ns/a.b"), Ok(EgressHost::Exclude(named("ns"), host("a.b"))));
    for text in ["a.b", "ns/short", "ns/10.0.0.1", "/a.b", "n_s/*", "ns/*foo.com", "~~/*"] {
        assert!(egress(text).is_err(), "{text}");
    }
    assert_eq!(reason(egress("a.b")), "\"a.b\" names no namespace (write \"*/a.b\" or NAMESPACE/HOST)");
    let gateway = |text| GatewayName::from_text(text);
    let resolved =
        |text| gateway(text).expect("legal").resolve("own").map(|(ns, name)| format!("{ns}/{name}"));
    assert_eq!(resolved("mesh"), None);
    assert_eq!(resolved("g").as_deref(), Some("own/g"));
    assert_eq!(resolved("./g").as_deref(), Some("own/g"));
    assert_eq!(resolved("ns/g").as_deref(), Some("ns/g"));
    assert_eq!(resolved("g.ns.svc.cluster.local").as_deref(), Some("ns/g"));
    for text in ["", "/g", "ns/", "ns/a/b", "G", "mesh#x", "a..b", "ns/a.b"] {
        assert!(gateway(text).is_err(), "{text}");
    }
    let export = ExportTo::from_text;
    assert_eq!(export("*"), Ok(ExportTo::All));
    assert_eq!(export("ns"), Ok(ExportTo::Namespace("ns".into())));
    assert!(export("").is_err() && export("a,b").is_err());
    assert!(NamespaceScope::Own.contains("a", "a") && !NamespaceScope::Own.contains("a", "b"));
}

#[test]
fn header_values_are_taken_apart() {
    let text = |text: &str| HeaderSegment::Text(text.into());
    let variable = |name: &str| HeaderSegment::Variable(name.into());
    let cases = [
        ("", vec![]),
        ("plain", vec![text("plain")]),
        ("100%%", vec![text("100%")]),
        ("%HOSTNAME%", vec![variable("HOSTNAME")]),
        ("a %REQ(x-id)% b%%", vec![text("a "), variable("REQ(x-id)"), text(" b%")]),
        ("%START_TIME(%s.%3f)%%PROTOCOL%", vec![variable("START_TIME(%s.%3f)"), variable("PROTOCOL")]),
        ("%UPSTREAM_METADATA([\"a\", \"b\"])%", vec![variable("UPSTREAM_METADATA([\"a\", \"b\"])")]),
    ];
    for (value, segments) in cases {
        assert_eq!(HeaderValue::parse(value).expect(value).segments(), segments, "{value}");
    }
    for value in ["%", "50%", "%A", "% A%", "%a%", "%%%", "a\nb", "a\u{7f}", "%REQ(a%"] {
        assert!(HeaderValue::parse(value).is_err(), "{value:?}");
    }
}

#[test]
fn header_keys_are_headers_or_claims() {
    let claim = |parts: &[&str]| Ok(HeaderKey::Claim(parts.iter().map(|part| (*part).into()).collect()));
    assert_eq!(HeaderKey::from_text("@request.auth.claims.a.b"), claim(&["a", "b"]));
    assert_eq!(HeaderKey::from_text("@Request.Auth.Claims[a.b][c]"), claim(&["a.b", "c"]));
    for text in
        ["@request.auth.claims", "@request.auth.claims.", "@request.auth.claims[]", "@request.auth.claims[a"]
    {
        assert!(HeaderKey::from_text(text).is_err(), "{text}");
    }
    assert_eq!(HeaderKey::from_text("X-Id"), HeaderKey::from_text("x-id"));
    for text in ["", "a b", "a:b", ":", "é"] {
        assert!(HeaderKey::from_text(text).is_err(), "{text}");
    }
    assert!(matches!(HeaderKey::from_text(":method"), Ok(HeaderKey::Name(name)) if name.is_pseudo()));
}

#[test]
fn expressions_mean_what_they_mean_to_re2() {
    let whole = [
        ("a", "a", true),
        ("a", "ab", false),
        ("a|ab", "ab", true),
        ("(?m)^a$", "a\nb", false),
        (".*", "a\nb", false),
        ("(?s).*", "a\nb", true),
        (r"\d+", "12", true),
        (r"\d+", "١٢", false),
        (r"[\d_]+", "1_2", true),
        (r"[\d_]+", "١", false),
        (r"[^\d]", "١", true),
        (r"[\D]", "١", true),
        (r"\w", "é", false),
        (r"\W", "é", true),
        (r"\s", "\u{b}", false),
        (r"[\s]", " ", true),
        (r"\bb\b", "b", true),
        ("(?i)ab", "AB", true),
        (r"\pL", "é", true),
        ("[[:alpha:]]", "a", true),
        ("(?P<x>a)(?<y>b)(?:c)", "abc", true),
        ("a{2,3}", "aaa", true),
        (r"\x{61}", "a", true),
    ];
    for (pattern, text, expected) in whole {
        let regex = Regex::parse(pattern).expect(pattern);
        assert_eq!(regex.matches(text.as_bytes()), expected, "{pattern} {text:?}");
    }
    let long = "a".repeat(1025);
    for pattern in [
        "", "*", "(", "a**", r"\1", "(?=a)", "(?x)a", "(?u:a)", "[[a]]", "[a&&b]", "[a--b]", "a{1001}",
        r"\Q", &long,
    ] {
        assert!(Regex::parse(pattern).is_err(), "{pattern}");
    }
    assert_eq!(Regex::parse("(a)(?:b)((c))").expect("legal").groups(), 3);
    assert!(Regex::parse_search("b").expect("legal").matches(b"abc"));
    assert!(Regex::parse(r"(\pL{100}){10}").expect("legal").compiled().is_err());
    assert!(reason(Regex::parse("a(")).contains("unclosed group"), "{}", reason(Regex::parse("a(")));
}

#[test]
fn small_values_have_their_ranges() {
    assert_eq!(Percent::whole(100), Some(Percent::ALL));
    assert_eq!(Percent::whole(101), None);
    let percent = |text: &str| serde_json::from_str::<Percent>(text).map(Percent::parts_per_million);
    assert_eq!(percent("0.0001").ok(), Some(1));
    assert_eq!(percent("33.3333").ok(), Some(333_333));
    assert_eq!(percent("0").ok(), Some(0));
    for text in ["-1", "0.00001", "100.001", "1e400"] {
        assert!(percent(text).is_err(), "{text}");
    }
    assert_eq!(Protocol::from_text("grpc-Web"), Ok(Protocol::GrpcWeb));
    assert_eq!(reason(Protocol::from_text("HTPS")), "unknown protocol \"HTPS\" (did you mean \"HTTPS\"?)");
    assert!(Bind::from_text("unix:///run/x").is_ok() && Bind::from_text("unix://@x").is_ok());
    assert!(Bind::from_text("unix://x").is_err() && Bind::from_text("host").is_err());
    let subnet = Subnet::from_text("10.1.2.3/8").expect("legal");
    assert_eq!(subnet.get().to_string(), "10.0.0.0/8");
    assert!(subnet.contains([10, 9, 9, 9].into()) && !subnet.contains([11, 0, 0, 0].into()));
    assert!(Subnet::from_text("10.0.0.0/33").is_err() && Subnet::from_text("::1").is_ok());
}

#[test]
fn texts_are_compared_as_asked() {
    let exact = StringMatch::Exact("a".into());
    let prefix = StringMatch::Prefix("a".into());
    let regex = StringMatch::Regex(Regex::parse("a+").expect("legal"));
    for (text, expected) in [
        ("a", [true, true, true]),
        ("ab", [false, true, false]),
        ("aa", [false, true, true]),
        ("A", [false; 3]),
    ] {
        assert_eq!([exact.matches(text), prefix.matches(text), regex.matches(text)], expected, "{text}");
    }
    assert!(StringMatch::Present.matches(""));
}

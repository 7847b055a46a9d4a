use http::HeaderValue;
use http::Method;
use serde_json::{Value, json};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::*;
use crate::model::{CompileOptions, compile};
use crate::resource::{SourceFile, parse};

/// A signature is right if it is the name of the algorithm, and the key is the first of its kind.
struct Pretend;

impl Verify for Pretend {
    fn verify(&self, _: &PublicKey, algorithm: Algorithm, _: &[u8], signature: &[u8]) -> bool {
        signature == algorithm.name().as_bytes()
    }
}

/// Nobody's signature is right.
struct Never;

impl Verify for Never {
    fn verify(&self, _: &PublicKey, _: Algorithm, _: &[u8], _: &[u8]) -> bool {
        false
    }
}

fn token(payload: &Value) -> String {
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"EdDSA"}"#);
    let payload = URL_SAFE_NO_PAD.encode(payload.to_string());
    format!("{header}.{payload}.{}", URL_SAFE_NO_PAD.encode("EdDSA"))
}

fn keys() -> String {
    json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode([7; 32])}]}).to_string()
}

fn snapshot(resources: &[(&str, Value)]) -> Snapshot {
    let text = resources.iter().enumerate().map(|(index, (namespace, spec))| {
        let meta = json!({"name": format!("r{index}"), "namespace": namespace});
        let version = "security.istio.io/v1";
        json!({"apiVersion": version, "kind": "RequestAuthentication", "metadata": meta, "spec": spec})
            .to_string()
    });
    let text = text.collect::<Vec<_>>().join("\n---\n");
    let parsed = parse(&SourceFile { name: "mesh.yaml", text: &text });
    assert_eq!(parsed.objects.len(), resources.len(), "{:?}", parsed.findings);
    compile(&parsed.objects, &CompileOptions::default()).snapshot
}

fn rules(all: &Value) -> (Authentication, Providers) {
    let authentication =
        Authentication::of(&snapshot(&[("shop", json!({ "jwtRules": all }))]), &Authentication::default());
    let providers = authentication.of_workload("shop", &BTreeMap::new());
    (authentication, providers)
}

fn request<'r>(headers: &'r HeaderMap, query: Option<&'r str>) -> RequestView<'r> {
    static GET: Method = Method::GET;
    RequestView {
        method: &GET,
        scheme: "http",
        authority: "shop",
        path: "/",
        query,
        headers,
        port: 80,
        claims: None,
    }
}

fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
    all.iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
        .collect()
}

/// The subject that a request is found to be of.
fn subject(
    providers: &Providers,
    all: &[(&'static str, &str)],
    query: Option<&str>,
) -> Result<Option<String>, Invalid> {
    let headers = headers(all);
    let passed = providers.authenticate(&request(&headers, query), 1000, &Pretend)?;
    Ok(passed.claims.map(|it| it.all()["sub"].as_str().unwrap().to_owned()))
}

#[test]
fn tokens_are_found_where_a_rule_says_and_each_must_be_accepted() {
    let ann = &token(&json!({"iss": "a", "sub": "ann"}));
    let bob = &token(&json!({"iss": "b", "sub": "bob"}));
    let bearer = |token: &str| format!("Bearer {token}");
    let (_, default) = rules(&json!([{"issuer": "a", "jwks": keys()}]));
    let ok = |subject: &str| Ok(Some(subject.to_owned()));
    assert_eq!(subject(&default, &[], None), Ok(None));
    assert_eq!(subject(&default, &[("authorization", &bearer(ann))], None), ok("ann"));
    assert_eq!(subject(&default, &[("authorization", &format!("bearer  {ann} "))], None), ok("ann"));
    assert_eq!(subject(&default, &[("authorization", "Basic YTpi")], None), Ok(None));
    assert_eq!(subject(&default, &[("authorization", "Bearer ")], None), Err(Invalid::Form));
    assert_eq!(subject(&default, &[], Some(&format!("x=y&access_token={ann}"))), ok("ann"));
    let escaped = ann.replace('.', "%2E");
    assert_eq!(subject(&default, &[], Some(&format!("access%5ftoken={escaped}"))), ok("ann"));
    assert_eq!(subject(&default, &[], Some("access_token")), Err(Invalid::Form));
    // A good token does not make up for a bad one.
    let both = [("authorization", &*bearer(ann))];
    assert_eq!(subject(&default, &both, Some(&format!("access_token={bob}"))), Err(Invalid::Issuer));
    let twice = [("authorization", &*bearer(ann)), ("authorization", &*bearer(bob))];
    assert_eq!(subject(&default, &twice, None), Err(Invalid::Issuer));
    let value = bearer(ann);
    let many = vec![("authorization", &*value); 9];
    assert_eq!(subject(&default, &many, None), Err(Invalid::TooMany));

    let (_, own) = rules(&json!([
        {"issuer": "a", "jwks": keys(), "fromHeaders": [{"name": "x-token", "prefix": "Ann "}], "fromCookies": ["ann"]},
        {"issuer": "b", "jwks": keys(), "fromParams": ["bob"], "fromHeaders": [{"name": "x-bob"}]},
    ]));
    assert_eq!(subject(&own, &[("authorization", &bearer(ann))], None), Ok(None));
    assert_eq!(subject(&own, &[("x-token", &format!("Ann {ann}"))], None), ok("ann"));
    assert_eq!(subject(&own, &[("x-token", &format!("ann {ann}"))], None), Ok(None));
    assert_eq!(subject(&own, &[("cookie", &format!("x=y; ann={ann}"))], None), ok("ann"));
    assert_eq!(subject(&own, &[("cookie", &format!("ann=\"{ann}\";x"))], None), ok("ann"));
    assert_eq!(subject(&own, &[("x-bob", bob)], None), ok("bob"));
    assert_eq!(subject(&own, &[], Some(&format!("bob={bob}"))), ok("bob"));
    // Each is accepted by the rule that looks there, and by no other.
    assert_eq!(subject(&own, &[("x-bob", ann)], None), Err(Invalid::Issuer));
    assert_eq!(subject(&own, &[("cookie", &format!("ann={bob}"))], None), Err(Invalid::Issuer));
    let both = [("x-bob", bob.as_str()), ("x-token", &format!("Ann {ann}"))];
    assert_eq!(subject(&own, &both, None), ok("ann"), "the first rule's token says who it is");
}

#[test]
fn a_rule_decides_by_issuer_time_audience_and_keys() {
    let rule = json!([{"issuer": "a", "audiences": ["x", "y"], "jwks": keys()}]);
    let (_, providers) = rules(&rule);
    let (_, any) = rules(&json!([{"jwks": keys()}]));
    let (_, no_keys) =
        rules(&json!([{"issuer": "https://a.example"}, {"issuer": "b", "jwks": "{\"keys\": []}"}]));
    let good = json!({"iss": "a", "sub": "s", "aud": ["z", "y"], "exp": 940, "nbf": 1060});
    let with = |name: &str, value: Value| {
        let mut token = good.clone();
        token[name] = value;
        token
    };
    for (of, payload, expected) in [
        (&providers, good.clone(), Ok(())),
        (&providers, with("aud", json!("x")), Ok(())),
        (&providers, with("aud", json!("z")), Err(Invalid::Audience)),
        (&providers, with("aud", json!([])), Err(Invalid::Audience)),
        (&providers, with("aud", json!(["x", 1])), Err(Invalid::Claim)),
        (&providers, with("exp", json!(939)), Err(Invalid::Expired)),
        (&providers, with("exp", json!(939.9)), Err(Invalid::Expired)),
        (&providers, with("exp", json!(1e30)), Ok(())),
        (&providers, with("exp", json!(-1)), Err(Invalid::Claim)),
        (&providers, with("exp", json!("2000")), Err(Invalid::Claim)),
        (&providers, with("exp", json!(null)), Err(Invalid::Claim)),
        (&providers, with("nbf", json!(1061)), Err(Invalid::NotYet)),
        (&providers, with("iss", json!("b")), Err(Invalid::Issuer)),
        (&providers, with("iss", json!(1)), Err(Invalid::Claim)),
        (&providers, with("sub", json!(["s"])), Err(Invalid::Claim)),
        (&providers, json!({"iss": "a"}), Err(Invalid::Audience)),
        (&providers, json!({"aud": "x"}), Err(Invalid::Issuer)),
        (&any, json!({"iss": "whoever"}), Ok(())),
        (&any, json!({}), Ok(())),
        (&no_keys, json!({"iss": "https://a.example"}), Err(Invalid::NoKeys)),
        (&no_keys, json!({"iss": "b"}), Err(Invalid::NoKeys)),
        (&no_keys, json!({"iss": "c"}), Err(Invalid::Issuer)),
    ] {
        let value = format!("Bearer {}", token(&payload));
        let headers = headers(&[("authorization", &value)]);
        let decided = of.authenticate(&request(&headers, None), 1000, &Pretend);
        assert_eq!(decided.map(|_| ()), expected, "{payload}");
    }
}

#[test]
fn what_was_checked_is_remembered_for_its_time_and_for_its_rule_only() {
    let rule = json!([{"issuer": "a", "jwks": keys()}]);
    let resources = snapshot(&[("shop", json!({ "jwtRules": rule }))]);
    let first = Authentication::of(&resources, &Authentication::default());
    let value = format!("Bearer {}", token(&json!({"iss": "a", "sub": "ann", "exp": 1100})));
    let headers = headers(&[("authorization", &value)]);
    let ask = |of: &Authentication, now, verify: &dyn Verify| {
        let providers = of.of_workload("shop", &BTreeMap::new());
        providers.authenticate(&request(&headers, None), now, verify).map(|passed| passed.claims.is_some())
    };
    assert_eq!(ask(&first, 1000, &Never), Err(Invalid::Signature));
    assert_eq!(ask(&first, 1000, &Pretend), Ok(true));
    assert_eq!(ask(&first, 1000, &Never), Ok(true), "no signature is checked");
    let second = Authentication::of(&resources, &first);
    assert_eq!(ask(&second, 1160, &Never), Ok(true), "an equal configuration knows it, up to its end");
    assert_eq!(ask(&second, 1161, &Pretend), Err(Invalid::Expired));
    let changed = json!([{"issuer": "a", "jwks": keys(), "forwardOriginalToken": true}]);
    let changed = Authentication::of(&snapshot(&[("shop", json!({ "jwtRules": changed }))]), &second);
    assert_eq!(ask(&changed, 1000, &Never), Err(Invalid::Signature), "another rule has checked nothing");
    let again = Authentication::of(&resources, &changed);
    assert_eq!(ask(&again, 1000, &Never), Err(Invalid::Signature), "nor has the one that was there before");
    let long = format!("Bearer {}", token(&json!({"iss": "a", "exp": 10_000})));
    let long: HeaderMap =
        [(http::header::AUTHORIZATION, HeaderValue::from_str(&long).unwrap())].into_iter().collect();
    let providers = again.of_workload("shop", &BTreeMap::new());
    assert!(providers.authenticate(&request(&long, None), 1000, &Pretend).is_ok());
    assert!(providers.authenticate(&request(&long, None), 1299, &Never).is_ok());
    assert!(providers.authenticate(&request(&long, None), 1300, &Never).is_err(), "checked again");
}

#[test]
fn the_workload_sees_what_the_rule_says_and_nothing_that_clients_made_up() {
    let outputs = json!([{
        "issuer": "a", "jwks": keys(), "outputPayloadToHeader": "x-payload",
        "fromHeaders": [{"name": "x-token", "prefix": "T "}], "fromParams": ["t"], "fromCookies": ["t"],
        "outputClaimToHeaders": [
            {"header": "x-sub", "claim": "sub"}, {"header": "x-deep", "claim": "deep.level"},
            {"header": "x-list", "claim": "groups"}, {"header": "x-bad", "claim": "bad"},
            {"header": "content-length", "claim": "sub"},
        ],
    }]);
    let (_, providers) = rules(&outputs);
    let payload = json!({"iss": "a", "sub": "ann", "deep": {"level": 3}, "groups": ["g"], "bad": "a\r\nb"});
    let token = token(&payload);
    let spoofed = [
        ("x-sub", "root"),
        ("x-payload", "forged"),
        ("x-list", "all"),
        ("x_sub", "root"),
        ("x-other", "kept"),
    ];
    let seen = |all: &[(&'static str, &str)], query: Option<&str>| {
        let mut headers = headers(all);
        let passed = providers.authenticate(&request(&headers, query), 1000, &Pretend).unwrap();
        let query = passed.query(query.unwrap_or_default());
        passed.apply(&mut headers);
        let mut all: Vec<_> =
            headers.iter().map(|(name, value)| format!("{name}={}", value.to_str().unwrap())).collect();
        all.sort();
        (all, query)
    };
    assert_eq!(seen(&spoofed, Some("t2=x")), (vec!["x-other=kept".to_owned()], None), "without a token");
    let encoded = token.split('.').nth(1).unwrap();
    let told = vec![
        "x-deep=3".to_owned(),
        "x-other=kept".to_owned(),
        format!("x-payload={encoded}"),
        "x-sub=ann".to_owned(),
    ];
    let header = ("x-token", &*format!("T {token}"));
    assert_eq!(seen(&[&spoofed[..], &[header]].concat(), None), (told.clone(), None));
    let other = ("x-token", "U other");
    let mut with_other = told.clone();
    with_other.insert(4, "x-token=U other".to_owned());
    assert_eq!(seen(&[&spoofed[..], &[header, other]].concat(), None), (with_other, None));
    let query = format!("a=b&t={token}&c");
    assert_eq!(seen(&spoofed, Some(&query)), (told.clone(), Some("a=b&c".to_owned())));
    let cookie = ("cookie", &*format!("t={token}; b=c"));
    let mut with_cookie = told;
    with_cookie.insert(0, "cookie=b=c".to_owned());
    assert_eq!(seen(&[&spoofed[..], &[cookie]].concat(), None), (with_cookie, None));

    let (_, forwards) = rules(&json!([{"issuer": "a", "jwks": keys(), "forwardOriginalToken": true}]));
    let query = format!("access_token={token}");
    let mut headers = headers(&[("authorization", &format!("Bearer {token}"))]);
    let passed = forwards.authenticate(&request(&headers, Some(&query)), 1000, &Pretend).unwrap();
    assert_eq!(passed.query(&query), None);
    passed.apply(&mut headers);
    assert!(headers.contains_key("authorization"));
}

#[test]
fn resources_are_for_those_that_they_select_or_target() {
    let rule = |issuer: &str| json!([{"issuer": issuer, "jwks": keys()}]);
    let target = |kind: &str, name: &str, group: &str| json!([{"kind": kind, "name": name, "group": group}]);
    let gateway = "gateway.networking.k8s.io";
    let resources = snapshot(&[
        ("istio-system", json!({"jwtRules": rule("mesh")})),
        ("istio-system", json!({"selector": {"matchLabels": {"app": "web"}}, "jwtRules": rule("mesh-web")})),
        ("shop", json!({"jwtRules": rule("shop")})),
        ("shop", json!({"selector": {"matchLabels": {"app": "web"}}, "jwtRules": rule("web")})),
        ("shop", json!({"selector": {"matchLabels": {"app": "db"}}, "jwtRules": rule("db")})),
        ("shop", json!({"targetRefs": target("Gateway", "edge", gateway), "jwtRules": rule("edge")})),
        ("shop", json!({"targetRefs": target("Service", "web", ""), "jwtRules": rule("service")})),
        ("other", json!({"jwtRules": rule("other")})),
        (
            "istio-system",
            json!({"targetRefs": target("GatewayClass", "istio-waypoint", gateway), "jwtRules": rule("class")}),
        ),
    ]);
    let all = Authentication::of(&resources, &Authentication::default());
    let issuers = |providers: &Providers| {
        let names = providers.all.iter().map(|it| it.rule.issuer.clone().unwrap_or_default());
        names.collect::<Vec<_>>().join(" ")
    };
    let labels: BTreeMap<_, _> = [("app".to_owned(), "web".to_owned())].into();
    assert_eq!(issuers(&all.of_workload("shop", &labels)), "mesh mesh-web shop web");
    assert_eq!(issuers(&all.of_workload("shop", &BTreeMap::new())), "mesh shop");
    assert_eq!(issuers(&all.of_workload("third", &labels)), "mesh mesh-web");
    let sightings = crate::own::Sightings::of("shop", "edge", []);
    assert_eq!(issuers(&all.of_gateway(&sightings.own())), "mesh shop edge");
    assert_eq!(issuers(&all.of_waypoint(("shop", "edge"), None)), "class edge");
    assert_eq!(issuers(&all.of_waypoint(("other", "edge"), None)), "class");
}

#[test]
fn nothing_that_strangers_send_is_too_much() {
    let (_, providers) = rules(&json!([{"jwks": keys()}]));
    let long = "a".repeat(MAX_TOKEN + 1);
    for text in
        ["", ".", "..", "...", "a.b", "a.b.c.d", "a.b.c", "\u{e9}.b.c", &long, "e30.e30.", "e30.e30.AA=="]
    {
        let mut map = HeaderMap::new();
        map.insert("authorization", HeaderValue::from_bytes(format!("Bearer {text}").as_bytes()).unwrap());
        assert!(providers.authenticate(&request(&map, None), 1000, &Pretend).is_err(), "{text}");
    }
    let mut map = HeaderMap::new();
    map.insert("authorization", HeaderValue::from_bytes(b"Bearer \xff.\xff.\xff").unwrap());
    assert_eq!(providers.authenticate(&request(&map, None), 1000, &Pretend).map(|_| ()), Err(Invalid::Form));
}

use std::time::Duration as Time;

use super::{Duration, KeySource};
use crate::resource::rows::{assert_rows, yaml};
use crate::resource::{Level, Spec};

fn document(spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1beta1\nkind: RequestAuthentication\nmetadata: {{name: x}}\nspec: {spec}\n"
    )
}

#[test]
fn every_field_is_read() {
    let parsed = yaml(&document(
        "
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: g}]
  jwtRules:
  - issuer: https://issuer.example.com
    audiences: [a, b]
    jwks_uri: http://keys:8080/jwks
    fromHeaders: [{name: X-Token, prefix: 'Bearer '}, {name: y}]
    fromParams: [token]
    fromCookies: [session]
    outputPayloadToHeader: x-payload
    forwardOriginalToken: true
    outputClaimToHeaders: [{header: x-sub, claim: sub}]
    timeout: 2s
    spaceDelimitedClaims: [roles]
  - {issuer: b}
  - {jwks: '{\"keys\": [{\"kty\": \"RSA\"}]}'}
",
    ));
    assert!(parsed.findings.is_empty(), "{:?}", parsed.findings);
    let Spec::RequestAuthentication(spec) = &parsed.objects[0].spec else { panic!("kind") };
    let rule = &spec.jwt_rules[0];
    assert_eq!(rule.keys(), KeySource::Url("http://keys:8080/jwks"));
    assert_eq!(
        (&rule.audiences[..], &rule.from_headers[0].prefix[..]),
        (&["a".into(), "b".into()][..], "Bearer ")
    );
    assert_eq!(rule.timeout.map(Duration::get), Some(Time::from_secs(2)));
    assert!(rule.forward_original_token);
    assert_eq!(spec.jwt_rules[1].keys(), KeySource::Issuer("b"));
    assert!(matches!(spec.jwt_rules[2].keys(), KeySource::Inline(_)));
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table, one row per rule")]
fn rules_are_checked() {
    use Level::{Error, Warning};
    let rule = |rule: &str| document(&format!("{{jwtRules: [{rule}]}}"));
    let at = |field: &str| format!("spec.jwtRules[0]{field}");
    let rows: &[(&str, Level, String, &str)] = &[
        ("{issuer: ''}", Error, at(".issuer"), "must not be empty"),
        ("{}", Warning, at(""), "every token is refused"),
        ("{issuer: a, audiences: ['']}", Error, at(".audiences[0]"), "must not be empty"),
        ("{issuer: a, jwksUri: ftp://a/b}", Error, at(".jwksUri"), "is not a URL"),
        ("{issuer: a, jwksUri: 'https://'}", Error, at(".jwksUri"), "is not a URL"),
        ("{issuer: a, jwksUri: 'https://:80/'}", Error, at(".jwksUri"), "is not a URL"),
        ("{issuer: a, jwksUri: ''}", Error, at(".jwksUri"), "is not a URL"),
        ("{issuer: a, jwksUri: https://a/b, jwks: '{\"keys\": []}'}", Error, at(".jwksUri"), "only one of"),
        ("{issuer: a, jwks: abc}", Error, at(".jwks"), "is not a JSON Web Key Set"),
        ("{issuer: a, jwks: '[]'}", Error, at(".jwks"), "is not a JSON Web Key Set"),
        ("{issuer: a, jwks: '{\"keys\": [{}]}'}", Error, at(".jwks"), "key 0 has no kty"),
        ("{issuer: a, jwks: '{\"keys\": []}'}", Warning, at(".jwks"), "has no keys"),
        (
            "{issuer: a, jwks: '{\"keys\": [{\"kty\": \"oct\", \"k\": \"c2VjcmV0\"}]}'}",
            Warning,
            at(".jwks"),
            "is secret",
        ),
        ("{issuer: a, fromHeaders: [{}]}", Error, at(".fromHeaders[0]"), "the field name is required"),
        (
            "{issuer: a, fromHeaders: [{name: 'a b'}]}",
            Error,
            at(".fromHeaders[0].name"),
            "is not a header name",
        ),
        ("{issuer: a, fromParams: ['']}", Error, at(".fromParams[0]"), "must not be empty"),
        ("{issuer: a, fromCookies: ['']}", Error, at(".fromCookies[0]"), "must not be empty"),
        (
            "{issuer: a, outputPayloadToHeader: 'a:'}",
            Error,
            at(".outputPayloadToHeader"),
            "is not a header name",
        ),
        (
            "{issuer: a, outputClaimToHeaders: [{header: a.b, claim: c}]}",
            Error,
            at(".outputClaimToHeaders[0].header"),
            "is not a header name",
        ),
        (
            "{issuer: a, outputClaimToHeaders: [{header: a, claim: ''}]}",
            Error,
            at(".outputClaimToHeaders[0].claim"),
            "must not be empty",
        ),
        (
            "{issuer: a, outputClaimToHeaders: [{header: a, claim: c}, {header: A, claim: d}]}",
            Warning,
            at(".outputClaimToHeaders[1].header"),
            "the same header",
        ),
        ("{issuer: a, timeout: 5}", Error, at(".timeout"), "expected duration"),
        ("{issuer: a, timeout: 0s}", Error, at(".timeout"), "shorter than 1ms"),
        ("{isuer: a}", Error, at(".isuer"), "unknown field"),
        ("{issuer: null}", Error, at(".issuer"), "null is not a value"),
    ];
    let rows: Vec<_> = rows.iter().map(|(a, b, c, d)| (*a, *b, c.as_str(), *d)).collect();
    assert_rows(rule, &rows);
    let claims = (0..65).fold(String::new(), |text, n| text + &format!("c{n}, "));
    assert_rows(
        document,
        &[
            (
                &format!("{{jwtRules: [{{issuer: a, spaceDelimitedClaims: [{claims}]}}]}}"),
                Error,
                "spec.jwtRules[0].spaceDelimitedClaims",
                "has 65 entries",
            ),
            (
                "{selector: {matchLabels: {a: b}}, targetRef: {kind: Service, name: s}}",
                Error,
                "spec",
                "only one of selector, targetRef and targetRefs",
            ),
            ("{selector: {matchLabels: {a: '*'}}}", Error, "spec.selector.matchLabels.a", "no wildcards"),
            ("{targetRefs: [{kind: Pod, name: p}]}", Error, "spec.targetRefs[0].kind", "cannot attach"),
        ],
    );
}

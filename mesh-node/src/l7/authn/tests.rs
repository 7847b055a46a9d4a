//! Tokens with real signatures, good ones and those that attackers make.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING,
    EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384,
    RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderValue, Method};
use mesh_core::authn::{Authentication, Invalid, Providers};
use mesh_core::model::{CompileOptions, compile};
use mesh_core::resource::{SourceFile, parse};
use mesh_core::route::RequestView;
use serde_json::{Value, json};

use super::*;

/// Somebody's keys, one of each kind.
struct Keys {
    rsa: RsaKeyPair,
    p256: EcdsaKeyPair,
    p384: EcdsaKeyPair,
    p521: EcdsaKeyPair,
    ed25519: Ed25519KeyPair,
}

impl Keys {
    fn new() -> Self {
        let ec = |algorithm: &'static EcdsaSigningAlgorithm| EcdsaKeyPair::generate(algorithm).unwrap();
        Self {
            rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
            p256: ec(&ECDSA_P256_SHA256_FIXED_SIGNING),
            p384: ec(&ECDSA_P384_SHA384_FIXED_SIGNING),
            p521: ec(&ECDSA_P521_SHA512_FIXED_SIGNING),
            ed25519: Ed25519KeyPair::generate().unwrap(),
        }
    }

    fn jwks(&self) -> String {
        let ec = |crv: &str, kid: &str, key: &EcdsaKeyPair| {
            let point = &key.public_key().as_ref()[1..];
            let (x, y) = point.split_at(point.len() / 2);
            json!({"kty": "EC", "crv": crv, "kid": kid, "x": text(x), "y": text(y)})
        };
        let modulus = self.rsa_modulus();
        let ed25519 = self.ed25519.public_key().as_ref();
        json!({"keys": [
            {"kty": "RSA", "kid": "rsa", "n": text(&modulus), "e": "AQAB"},
            {"kty": "RSA", "kid": "rs256", "alg": "RS256", "n": text(&modulus), "e": "AQAB"},
            ec("P-256", "p256", &self.p256), ec("P-384", "p384", &self.p384), ec("P-521", "p521", &self.p521),
            {"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": text(ed25519)},
            {"kty": "oct", "kid": "secret", "k": text(b"secret"), "alg": "HS256"},
        ]})
        .to_string()
    }

    fn rsa_modulus(&self) -> Vec<u8> {
        self.rsa.public_key().modulus().big_endian_without_leading_zero().to_vec()
    }

    fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        let rsa = |encoding: &'static dyn RsaEncoding| {
            let mut signature = vec![0; self.rsa.public_modulus_len()];
            self.rsa.sign(encoding, &random, message, &mut signature).unwrap();
            signature
        };
        let ec = |key: &EcdsaKeyPair| key.sign(&random, message).unwrap().as_ref().to_vec();
        match algorithm {
            "RS256" => rsa(&RSA_PKCS1_SHA256),
            "RS384" => rsa(&RSA_PKCS1_SHA384),
            "RS512" => rsa(&RSA_PKCS1_SHA512),
            "PS256" => rsa(&RSA_PSS_SHA256),
            "PS384" => rsa(&RSA_PSS_SHA384),
            "PS512" => rsa(&RSA_PSS_SHA512),
            "ES256" => ec(&self.p256),
            "ES384" => ec(&self.p384),
            "ES512" => ec(&self.p521),
            "EdDSA" => self.ed25519.sign(message).as_ref().to_vec(),
            // With a secret that an attacker has: the public key, as text.
            "HS256" | "HS384" | "HS512" => {
                let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &self.rsa_modulus());
                aws_lc_rs::hmac::sign(&key, message).as_ref().to_vec()
            }
            _ => Vec::new(),
        }
    }

    /// A token with this header and payload, signed as `algorithm` says.
    fn token(&self, algorithm: &str, header: &str, payload: &str) -> String {
        let signed = format!("{}.{}", text(header.as_bytes()), text(payload.as_bytes()));
        let signature = self.sign(algorithm, signed.as_bytes());
        format!("{signed}.{}", text(&signature))
    }
}

fn text(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn providers(rules: &Value) -> Providers {
    let text = json!({
        "apiVersion": "security.istio.io/v1", "kind": "RequestAuthentication",
        "metadata": {"name": "r", "namespace": "shop"}, "spec": {"jwtRules": rules},
    });
    let parsed = parse(&SourceFile { name: "r.json", text: &text.to_string() });
    assert_eq!(parsed.objects.len(), 1, "{:?}", parsed.findings);
    let snapshot = compile(&parsed.objects, &CompileOptions::default()).snapshot;
    let authentication = Authentication::of(&snapshot, &Authentication::default());
    authentication.of_workload("shop", &std::collections::BTreeMap::new())
}

fn ask(providers: &Providers, token: &str) -> Result<Option<String>, Invalid> {
    let mut headers = HeaderMap::new();
    headers.insert("authorization", HeaderValue::from_str(&format!("Bearer {token}")).unwrap());
    let view = RequestView {
        method: &Method::GET,
        scheme: "http",
        authority: "shop",
        path: "/",
        query: None,
        headers: &headers,
        port: 80,
        claims: None,
    };
    let passed = providers.authenticate(&view, NOW, &Signatures)?;
    Ok(passed.claims.and_then(|claims| claims.principal().map(str::to_owned)))
}

const NOW: u64 = 1_800_000_000;
const GOOD: &str = r#"{"iss":"i","sub":"s","aud":"a","exp":1800000600,"nbf":1799999000}"#;

#[test]
fn jwt_every_algorithm_of_a_key_is_checked_with_that_key() {
    let (own, other) = (Keys::new(), Keys::new());
    let providers = providers(&json!([{"issuer": "i", "audiences": ["a"], "jwks": own.jwks()}]));
    for (algorithm, kid) in [
        ("RS256", "rsa"),
        ("RS384", "rsa"),
        ("RS512", "rsa"),
        ("PS256", "rsa"),
        ("PS384", "rsa"),
        ("PS512", "rsa"),
        ("RS256", "rs256"),
        ("ES256", "p256"),
        ("ES384", "p384"),
        ("ES512", "p521"),
        ("EdDSA", "ed"),
    ] {
        for header in
            [format!(r#"{{"alg":"{algorithm}","kid":"{kid}"}}"#), format!(r#"{{"alg":"{algorithm}"}}"#)]
        {
            let token = own.token(algorithm, &header, GOOD);
            assert_eq!(ask(&providers, &token), Ok(Some("i/s".to_owned())), "{header}");
            let forged = other.token(algorithm, &header, GOOD);
            assert_eq!(ask(&providers, &forged), Err(Invalid::Signature), "{header}");
            let (signed, signature) = token.rsplit_once('.').unwrap();
            let raised = format!(
                "{}.{}.{signature}",
                signed.split_once('.').unwrap().0,
                text(br#"{"iss":"i","sub":"root","aud":"a"}"#)
            );
            assert_eq!(ask(&providers, &raised), Err(Invalid::Signature), "{header}");
        }
    }
}

#[expect(clippy::too_many_lines, reason = "a table, one row per token")]
#[test]
fn jwt_what_attackers_send_is_refused() {
    use Invalid::*;
    let own = Keys::new();
    let providers = providers(&json!([{"issuer": "i", "audiences": ["a"], "jwks": own.jwks()}]));
    let with = |from: &str, to: &str| GOOD.replacen(from, to, 1);
    let ed = r#"{"alg":"EdDSA","kid":"ed"}"#;
    for (name, algorithm, header, payload, expected) in [
        ("good", "EdDSA", ed, GOOD.to_owned(), Ok(())),
        ("alg-none", "none", r#"{"alg":"none"}"#, GOOD.to_owned(), Err(Form)),
        ("alg-none-signed", "EdDSA", r#"{"alg":"none"}"#, GOOD.to_owned(), Err(Algorithm)),
        ("alg-none-case", "EdDSA", r#"{"alg":"nOnE"}"#, GOOD.to_owned(), Err(Algorithm)),
        ("alg-empty", "EdDSA", r#"{"alg":""}"#, GOOD.to_owned(), Err(Algorithm)),
        ("alg-absent", "EdDSA", r#"{"kid":"ed"}"#, GOOD.to_owned(), Err(NoAlgorithm)),
        ("alg-list", "EdDSA", r#"{"alg":["EdDSA"]}"#, GOOD.to_owned(), Err(NoAlgorithm)),
        ("alg-twice", "EdDSA", r#"{"alg":"none","alg":"EdDSA"}"#, GOOD.to_owned(), Err(Header)),
        ("alg-case", "EdDSA", r#"{"alg":"eddsa"}"#, GOOD.to_owned(), Err(Algorithm)),
        ("hs-with-public-key", "HS256", r#"{"alg":"HS256","kid":"rsa"}"#, GOOD.to_owned(), Err(Algorithm)),
        ("hs-with-oct-key", "HS256", r#"{"alg":"HS256","kid":"secret"}"#, GOOD.to_owned(), Err(Algorithm)),
        ("rs-says-hs-signed", "HS256", r#"{"alg":"RS256","kid":"rsa"}"#, GOOD.to_owned(), Err(Signature)),
        ("key-for-one-alg", "RS384", r#"{"alg":"RS384","kid":"rs256"}"#, GOOD.to_owned(), Err(NoKey)),
        ("key-of-other-kind", "RS256", r#"{"alg":"RS256","kid":"ed"}"#, GOOD.to_owned(), Err(NoKey)),
        ("curve-of-other-alg", "ES256", r#"{"alg":"ES384","kid":"p384"}"#, GOOD.to_owned(), Err(Signature)),
        ("ps-says-rs", "PS256", r#"{"alg":"RS256","kid":"rsa"}"#, GOOD.to_owned(), Err(Signature)),
        ("hash-of-other-alg", "RS512", r#"{"alg":"RS256","kid":"rsa"}"#, GOOD.to_owned(), Err(Signature)),
        ("kid-unknown", "EdDSA", r#"{"alg":"EdDSA","kid":"other"}"#, GOOD.to_owned(), Err(NoKey)),
        ("kid-path", "EdDSA", r#"{"alg":"EdDSA","kid":"../../dev/null"}"#, GOOD.to_owned(), Err(NoKey)),
        ("kid-number", "EdDSA", r#"{"alg":"EdDSA","kid":1}"#, GOOD.to_owned(), Err(KeyId)),
        ("crit", "EdDSA", r#"{"alg":"EdDSA","crit":["x"],"x":1}"#, GOOD.to_owned(), Err(Critical)),
        ("crit-empty", "EdDSA", r#"{"alg":"EdDSA","crit":[]}"#, GOOD.to_owned(), Err(Critical)),
        (
            "own-jwk",
            "EdDSA",
            r#"{"alg":"EdDSA","kid":"x","jwk":{"kty":"oct","k":"AA"}}"#,
            GOOD.to_owned(),
            Err(NoKey),
        ),
        (
            "own-jku",
            "EdDSA",
            r#"{"alg":"EdDSA","kid":"x","jku":"http://evil.example/"}"#,
            GOOD.to_owned(),
            Err(NoKey),
        ),
        ("header-list", "EdDSA", "[]", GOOD.to_owned(), Err(Header)),
        ("header-text", "EdDSA", "alg", GOOD.to_owned(), Err(Header)),
        ("expired", "EdDSA", ed, with("1800000600", "1799999939"), Err(Expired)),
        ("expired-in-skew", "EdDSA", ed, with("1800000600", "1799999940"), Ok(())),
        ("exp-text", "EdDSA", ed, with("1800000600", "\"1800000600\""), Err(Claim)),
        ("exp-negative", "EdDSA", ed, with("1800000600", "-1"), Err(Claim)),
        ("exp-twice", "EdDSA", ed, with("\"exp\"", "\"exp\":1,\"exp\""), Err(Payload)),
        ("exp-absent", "EdDSA", ed, with(r#","exp":1800000600"#, ""), Ok(())),
        ("not-yet", "EdDSA", ed, with("1799999000", "1800000061"), Err(NotYet)),
        ("not-yet-in-skew", "EdDSA", ed, with("1799999000", "1800000060"), Ok(())),
        ("iss-other", "EdDSA", ed, with("\"i\"", "\"I\""), Err(Issuer)),
        ("iss-absent", "EdDSA", ed, with(r#""iss":"i","#, ""), Err(Issuer)),
        ("iss-list", "EdDSA", ed, with("\"i\"", "[\"i\"]"), Err(Claim)),
        ("iss-twice", "EdDSA", ed, with("{", r#"{"iss":"x","#), Err(Payload)),
        ("iss-escaped-twice", "EdDSA", ed, with("{", r#"{"i\u0073s":"x","#), Err(Payload)),
        ("sub-twice", "EdDSA", ed, with("{", r#"{"sub":"root","#), Err(Payload)),
        ("aud-absent", "EdDSA", ed, with(r#""aud":"a","#, ""), Err(Audience)),
        ("aud-other", "EdDSA", ed, with(r#""aud":"a""#, r#""aud":"b""#), Err(Audience)),
        ("aud-part", "EdDSA", ed, with(r#""aud":"a""#, r#""aud":"aa""#), Err(Audience)),
        ("aud-among", "EdDSA", ed, with(r#""aud":"a""#, r#""aud":["b","a"]"#), Ok(())),
        ("aud-object", "EdDSA", ed, with(r#""aud":"a""#, r#""aud":{"a":1}"#), Err(Claim)),
        ("payload-list", "EdDSA", ed, "[]".to_owned(), Err(Payload)),
        ("payload-empty", "EdDSA", ed, "{}".to_owned(), Err(Issuer)),
        (
            "payload-deep",
            "EdDSA",
            ed,
            with("{", &format!("{{\"d\":{}{},", "[".repeat(20), "]".repeat(20))),
            Err(Payload),
        ),
        ("payload-cut", "EdDSA", ed, GOOD[..20].to_owned(), Err(Payload)),
    ] {
        let token = own.token(algorithm, header, &payload);
        assert_eq!(ask(&providers, &token).map(|_| ()), expected, "{name}");
    }
    let good = own.token("EdDSA", ed, GOOD);
    let (signed, signature) = good.rsplit_once('.').unwrap();
    for (name, token, expected) in [
        ("unsigned", format!("{signed}."), Form),
        ("two-parts", signed.to_owned(), Form),
        ("four-parts", format!("{good}.{signature}"), Form),
        ("encrypted", format!("{good}.a.b"), Form),
        ("padded", format!("{good}="), SignatureEncoding),
        ("standard-alphabet", format!("{signed}.{}", signature.replace(['-', '_'], "+")), SignatureEncoding),
        (
            "cut-signature",
            format!("{signed}.{}", text(&own.sign("EdDSA", signed.as_bytes())[..63])),
            Signature,
        ),
        ("zero-signature", format!("{signed}.{}", text(&[0; 64])), Signature),
        ("spaced", format!("{signed} .{signature}"), PayloadEncoding),
        ("long", format!("{signed}{}.{signature}", "A".repeat(17 << 10)), Form),
        ("escaped", good.replace('.', "%2e"), Form),
    ] {
        // A signature of the right bytes by chance has none of the other alphabet in it.
        let refused = ask(&providers, &token);
        assert!(
            refused == Err(expected) || name == "standard-alphabet" && token == good,
            "{name}: {refused:?}"
        );
    }
    // A last character with other unused bits is another text of the same bytes, and no token.
    let last = signature.chars().last().unwrap();
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let at = alphabet.find(last).unwrap();
    let twin = format!("{}{}", &good[..good.len() - 1], &alphabet[at + 1..at + 2]);
    assert_eq!(ask(&providers, &twin), Err(SignatureEncoding));
}

#[test]
fn jwt_each_rule_is_asked_alone() {
    let (one, two) = (Keys::new(), Keys::new());
    let rules = json!([
        {"issuer": "i", "audiences": ["other"], "jwks": one.jwks()},
        {"issuer": "i", "audiences": ["a"], "jwks": two.jwks()},
        {"issuer": "j", "audiences": ["a"], "jwks": one.jwks()},
    ]);
    let providers = providers(&rules);
    let ed = r#"{"alg":"EdDSA","kid":"ed"}"#;
    assert!(ask(&providers, &two.token("EdDSA", ed, GOOD)).is_ok());
    assert_eq!(
        ask(&providers, &one.token("EdDSA", ed, GOOD)),
        Err(Invalid::Signature),
        "keys of another rule"
    );
    let other = GOOD.replace(r#""aud":"a""#, r#""aud":"other""#);
    assert!(ask(&providers, &one.token("EdDSA", ed, &other)).is_ok());
    assert!(ask(&providers, &two.token("EdDSA", ed, &other)).is_err(), "audience of another rule");
}

#[test]
fn every_reason_has_its_words_and_status() {
    for (invalid, status) in [(Invalid::Expired, 401), (Invalid::Audience, 403), (Invalid::NoKeys, 401)] {
        let refusal = Refusal::Token(invalid);
        assert_eq!(refusal.status().as_u16(), status);
        let words = invalid.text().replace(' ', "_");
        assert_eq!(refusal.details(), format!("jwt_authn_access_denied{{{words}}}"));
    }
}

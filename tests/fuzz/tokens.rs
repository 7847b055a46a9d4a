//! Tokens, and the keys that they are checked with.

use anyhow::{Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mesh_core::authn::{Algorithm, KeySet, MAX_TOKEN, Token};
use serde_json::Value;

use crate::Target;
use crate::engine::way;

pub(crate) fn targets() -> Vec<Target> {
    vec![
        Target { name: "token", seeds: tokens, words: PARTS, run: token },
        Target {
            name: "keys",
            seeds: || KEYS.iter().map(|keys| keys.as_bytes().to_vec()).collect(),
            words: FIELDS,
            run: keys,
        },
    ]
}

/// What passes for a token has three parts, says each thing once, and names an algorithm of which the secret is nobody's but the
/// issuer's. The input is the token, or header and payload as they are before they are encoded, a line each.
fn token(input: &[u8]) -> Result<u64> {
    let Ok(text) = std::str::from_utf8(input) else { return Ok(0) };
    let encoded = text.split_once('\n').map(|(header, payload)| {
        format!("{}.{}.c2ln", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload))
    });
    let text = encoded.as_deref().unwrap_or(text);
    let token = match Token::parse(text) {
        Ok(token) => token,
        Err(reason) => return Ok(way(reason.text())),
    };
    ensure!(text.len() <= MAX_TOKEN && text.matches('.').count() == 2, "no token has this form");
    ensure!(token.signed.len() < text.len() && text.starts_with(token.signed), "something else is signed");
    let header = text.split('.').next().and_then(|it| URL_SAFE_NO_PAD.decode(it).ok()).unwrap_or_default();
    let header: Value = serde_json::from_slice(&header)?;
    ensure!(header.get("crit").is_none(), "what must be understood is not");
    let named = header.get("alg").and_then(Value::as_str).and_then(Algorithm::parse);
    ensure!(named == Some(token.algorithm), "another algorithm than it names");
    let signed = URL_SAFE_NO_PAD.decode(token.payload_text)?;
    let payload: Value = serde_json::from_slice(&signed)?;
    ensure!(payload.as_object() == Some(&token.payload), "the payload is not what is signed");
    let known = KeySet::parse(KEYS[0].as_bytes())?;
    let candidates = known.candidates(token.algorithm, token.key.as_deref()).count();
    Ok(way(&format!("{:?} {candidates} {}", token.algorithm, token.expires.is_some())))
}

/// Keys that are taken are written as they were read, and none of them is secret.
fn keys(input: &[u8]) -> Result<u64> {
    let keys = match KeySet::parse(input) {
        Ok(keys) => keys,
        Err(reason) => return Ok(way(&reason.to_string())),
    };
    let text = keys.to_json();
    ensure!(!text.contains("\"d\":") && !text.contains("\"k\":"), "a secret is handed on");
    let again = KeySet::parse(text.as_bytes())?;
    ensure!(again == keys, "{text} is another key set");
    let has = ["RSA", "\"EC\"", "OKP", "\"alg\"", "\"kid\""].map(|word| text.contains(word));
    Ok(way(&format!("{} {has:?}", keys.len())))
}

fn tokens() -> Vec<Vec<u8>> {
    let plain = PAYLOADS.iter().map(|payload| format!("{}\n{payload}", HEADERS[0]));
    let plain: Vec<_> =
        plain.chain(HEADERS.iter().map(|header| format!("{header}\n{}", PAYLOADS[0]))).collect();
    let encoded =
        format!("{}.{}.c2ln", URL_SAFE_NO_PAD.encode(HEADERS[0]), URL_SAFE_NO_PAD.encode(PAYLOADS[0]));
    plain.into_iter().chain([encoded]).map(String::into_bytes).collect()
}

const HEADERS: &[&str] = &[
    r#"{"alg":"EdDSA","kid":"ed"}"#,
    r#"{"alg":"RS256"}"#,
    r#"{"alg":"none"}"#,
    r#"{"alg":"HS256","kid":"ed"}"#,
    r#"{"alg":"ES256","crit":["b64"],"b64":false}"#,
];
const PAYLOADS: &[&str] = &[
    r#"{"iss":"i","sub":"s","aud":["a","b"],"exp":1800000600,"nbf":1799999000}"#,
    r#"{"iss":"i","aud":"a","scope":"x y","deep":{"a":[1,{"b":null}]}}"#,
];
const PARTS: &[&str] = &[
    r#""alg":"#,
    r#""kid":"#,
    r#""crit":"#,
    r#""iss":"#,
    r#""aud":"#,
    r#""exp":"#,
    r#""nbf":"#,
    "none",
    "HS256",
    "PS512",
    "ES384",
    "EdDSA",
    "\\u0061",
    "1e999",
    "-0",
    "[[[[[[[[[[[[[[[[[[",
    "\n",
    ".",
    "=",
];
const KEYS: &[&str] = &[
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"ed","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#,
    r#"{"keys":[{"kty":"oct","k":"AAAA"},{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0","use":"sig","alg":"ES256"}]}"#,
    r#"{"keys":[{"kty":"RSA","e":"AQAB","n":"AAAA","d":"AAAA"}]}"#,
];
const FIELDS: &[&str] = &[
    r#""kty":"#,
    r#""crv":"#,
    r#""use":"#,
    r#""alg":"#,
    r#""key_ops":["verify"]"#,
    r#""d":"#,
    r#""k":"#,
    "RSA",
    "EC",
    "OKP",
    "P-521",
    "Ed448",
    "sig",
    "enc",
    "AQAB",
    "{}",
    "[",
    "\\u006b",
];

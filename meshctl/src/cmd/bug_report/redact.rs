//! Takes out of texts what nobody else may know, before they leave the machine.
//!
//! What is asked for is not supposed to hold secrets at all: this is for what somebody has written where it does not belong (a
//! token in a log, a key in an annotation). When in doubt it goes.

use serde_json::Value;

/// A text without secrets: JSON by its fields as well, anything else by lines.
pub(super) fn redact(text: &str) -> String {
    match serde_json::from_str::<Value>(text) {
        Ok(mut value) if value.is_object() || value.is_array() => {
            clean(&mut value);
            serde_json::to_string_pretty(&value).map_or_else(|_| lines(text), |text| text + "\n")
        }
        _ => lines(text),
    }
}

fn clean(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            let is_secret = fields.get("kind").is_some_and(|kind| kind == "Secret");
            for (name, value) in fields.iter_mut() {
                let is_data = is_secret && matches!(name.as_str(), "data" | "stringData");
                if is_data || (is_secret_name(name) && !value.is_boolean() && !value.is_number()) {
                    *value = Value::from(REDACTED);
                } else {
                    clean(value);
                }
            }
        }
        Value::Array(all) => all.iter_mut().for_each(clean),
        Value::String(text) => *text = lines(text),
        _ => {}
    }
}

/// Whether what is called so is a secret. Names of fields that only say where a secret is are not.
fn is_secret_name(name: &str) -> bool {
    let name: String = name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
    let is_place = ["name", "path", "file", "ref", "provider"].iter().any(|end| name.ends_with(end));
    !is_place && SECRETS.iter().any(|secret| name.contains(secret))
}

/// A text by lines: none of a private key, and what follows the name of a secret on its line.
fn lines(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_key = false;
    for line in text.split_inclusive('\n') {
        let begins = line.contains("-----BEGIN") && line.contains("PRIVATE KEY");
        if begins && !in_key {
            out.push_str(REDACTED);
            out.push('\n');
        }
        in_key |= begins;
        if !in_key {
            out.push_str(&words(line));
        }
        in_key &= !(line.contains("-----END") && line.contains("PRIVATE KEY"));
    }
    out
}

/// A line without tokens, and without what follows the name of a header that holds secrets.
fn words(line: &str) -> String {
    let line = headers(line);
    let mut out = String::with_capacity(line.len());
    let mut word = String::new();
    for c in line.chars().chain([' ']) {
        if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+' | '/' | '~') {
            word.push(c);
            continue;
        }
        out.push_str(if is_token(&word) { REDACTED } else { &word });
        word.clear();
        out.push(c);
    }
    out.pop();
    out
}

/// Up to the end of the line, or of the quotes, whatever a header says that holds secrets.
fn headers(line: &str) -> String {
    let mut rest = line.to_owned();
    let mut from = 0;
    while let Some((start, name)) = next_header(&rest, from) {
        let value = start + name.len();
        let tail = rest.get(value..).unwrap_or_default();
        let end = tail.find(['\n', '\r']).unwrap_or(tail.len());
        let quoted = tail.get(..end).unwrap_or_default();
        let opening = quoted.find(|c: char| !matches!(c, ':' | '=' | ' ' | '"' | '\\')).unwrap_or(end);
        let cut = tail.get(opening..end).unwrap_or_default();
        let cut = cut.find(['"', '\\']).map_or(end, |at| opening + at);
        if opening < cut {
            rest.replace_range(value + opening..value + cut, REDACTED);
        }
        from = value + opening + if opening < cut { REDACTED.len() } else { 0 };
        from = from.max(value).min(rest.len());
    }
    rest
}

/// The next name of a header that holds secrets and that something is said of.
fn next_header(text: &str, from: usize) -> Option<(usize, &'static str)> {
    let lower = text.get(from..)?.to_ascii_lowercase();
    let found = HEADERS.iter().filter_map(|name| {
        let mut places = lower.match_indices(name);
        let said = places.find(|(at, _)| {
            let after = lower.get(at + name.len()..).unwrap_or_default();
            after.trim_start_matches(['"', '\\', ' ']).starts_with([':', '='])
        });
        said.map(|(at, _)| (from + at, *name))
    });
    found.min_by_key(|(at, _)| *at)
}

/// Signed tokens (three parts, the first of which begins as JSON does in base64), and what looks like one of ours or of
/// Kubernetes.
fn is_token(word: &str) -> bool {
    let word = word.trim_matches(['.', '/']);
    let parts = word.split('.').count();
    let looks_signed = word.starts_with("eyJ") && word.len() > 20 && parts >= 2;
    looks_signed || (word.len() >= 16 && word.starts_with("mesh-join."))
}

const REDACTED: &str = "[redacted]";
/// What names of fields with secrets contain, in small letters without anything between.
const SECRETS: &[&str] = &[
    "privatekey",
    "password",
    "passwd",
    "secretdata",
    "clientsecret",
    "token",
    "authorization",
    "cookie",
    "cakey",
    "inlinebytes",
    "apikey",
];
/// Headers, and words of logs, what follows which is nobody's business.
const HEADERS: &[&str] =
    &["authorization", "set-cookie", "cookie", "x-api-key", "password", "access_token", "client_secret"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_json_go_and_everything_else_stays() {
        let text = r#"{"kind": "Secret", "metadata": {"name": "tls"}, "data": {"tls.key": "c2VjcmV0"},
            "items": [{"token": "abc", "tokenPath": "/var/run/token", "userAgent": "x", "automountToken": true}],
            "note": "cookie: session=5; and more", "tls": {"private_key": {"inline_bytes": "xx"}}}"#;
        let clean = redact(text);
        for gone in ["c2VjcmV0", "abc", "session=5", "xx"] {
            assert!(!clean.contains(gone), "{gone} in {clean}");
        }
        for kept in
            ["/var/run/token", "\"automountToken\": true", "\"userAgent\": \"x\"", "\"name\": \"tls\""]
        {
            assert!(clean.contains(kept), "{kept} in {clean}");
        }
    }

    #[test]
    fn secrets_of_logs_go() {
        let key = "before\n-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----\nafter\n";
        assert_eq!(redact(key), "before\n[redacted]\nafter\n");
        let token = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln";
        for (line, clean) in [
            (format!("GET /?jwt={token} 200\n"), "GET /?jwt=[redacted] 200\n"),
            ("Authorization: Basic dTpw\nnext\n".to_owned(), "Authorization: [redacted]\nnext\n"),
            ("{x \"cookie\":\"a=b\", \"code\":200".to_owned(), "{x \"cookie\":\"[redacted]\", \"code\":200"),
            ("password=hunter2 ok".to_owned(), "password=[redacted]"),
            ("the cookie jar and authorization rules".to_owned(), "the cookie jar and authorization rules"),
            (
                "spiffe://cluster.local/ns/a/sa/b 10.0.0.1:80".to_owned(),
                "spiffe://cluster.local/ns/a/sa/b 10.0.0.1:80",
            ),
        ] {
            assert_eq!(redact(&line), clean);
        }
    }

    #[test]
    fn half_a_key_goes_as_well() {
        assert_eq!(redact("a\n-----BEGIN PRIVATE KEY-----\nMHcC"), "a\n[redacted]\n");
    }
}

//! What a token that was found valid says.

use std::borrow::Cow;

use serde_json::{Map, Value};

/// The claims of a token that a RequestAuthentication accepted. Nothing else makes one, so that whoever holds one need not ask
/// whether it is true.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claims {
    principal: Option<String>,
    all: Map<String, Value>,
    /// Claims whose text is a list of words.
    lists: Vec<String>,
}

impl Claims {
    /// Those of a payload that has been verified. `lists` names the claims, besides `scope` and `permission`, that are words
    /// in one string.
    pub fn verified(claims: Map<String, Value>, lists: &[String]) -> Self {
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        let principal = match (text("iss"), text("sub")) {
            (Some(issuer), Some(subject)) => Some(format!("{issuer}/{subject}")),
            _ => None,
        };
        Self { principal, all: claims, lists: lists.to_vec() }
    }

    /// All of them, as the token has them.
    pub fn all(&self) -> &Map<String, Value> {
        &self.all
    }

    /// `<iss>/<sub>`, if the token has both. Istio's `request.auth.principal`.
    pub fn principal(&self) -> Option<&str> {
        self.principal.as_deref()
    }

    /// `aud`. Istio's `request.auth.audiences`.
    pub fn audiences(&self) -> Vec<Cow<'_, str>> {
        self.values(["aud"])
    }

    /// `azp`. Istio's `request.auth.presenter`.
    pub fn presenter(&self) -> Option<&str> {
        self.all.get("azp").and_then(Value::as_str)
    }

    /// The values of the claim at `path`, which leads through objects. A list has each of its items, a string that is a list of words
    /// has each word, and objects and null have none.
    pub fn values<'a>(&self, path: impl IntoIterator<Item = &'a str>) -> Vec<Cow<'_, str>> {
        let mut path = path.into_iter();
        let Some(name) = path.next() else { return Vec::new() };
        let mut value = self.all.get(name);
        let mut nested = false;
        for name in path {
            nested = true;
            value = value.and_then(|value| value.get(name));
        }
        let words = !nested && (LISTS.contains(&name) || self.lists.iter().any(|list| list == name));
        match value {
            Some(Value::Array(items)) => items.iter().filter_map(scalar).collect(),
            Some(Value::String(text)) if words => text.split_whitespace().map(Cow::from).collect(),
            Some(value) => scalar(value).into_iter().collect(),
            None => Vec::new(),
        }
    }
}

fn scalar(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(text.into()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string().into()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// RFC 8693 and Istio: words in one string.
const LISTS: [&str; 2] = ["scope", "permission"];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claims(value: &Value, lists: &[&str]) -> Claims {
        let lists: Vec<_> = lists.iter().map(|&list| list.to_owned()).collect();
        Claims::verified(value.as_object().unwrap().clone(), &lists)
    }

    #[test]
    fn a_claim_has_the_values_that_its_form_says() {
        let token = json!({
            "iss": "issuer", "sub": "ann", "aud": ["a", "b"], "azp": "app", "level": 3, "admin": true,
            "groups": "x y", "scope": "read write", "deep": {"roles": ["one", 2, null], "scope": "a b"}, "none": null,
        });
        let of = claims(&token, &[]);
        assert_eq!(of.principal(), Some("issuer/ann"));
        assert_eq!((of.audiences(), of.presenter()), (vec!["a".into(), "b".into()], Some("app")));
        for (path, values) in [
            (&["level"][..], &["3"][..]),
            (&["admin"], &["true"]),
            (&["groups"], &["x y"]),
            (&["scope"], &["read", "write"]),
            (&["deep", "roles"], &["one", "2"]),
            (&["deep", "scope"], &["a b"]),
            (&["deep"], &[]),
            (&["none"], &[]),
            (&["absent", "more"], &[]),
            (&[], &[]),
        ] {
            assert_eq!(of.values(path.iter().copied()), values, "{path:?}");
        }
        assert_eq!(claims(&token, &["groups"]).values(["groups"]), ["x", "y"]);
        assert_eq!(claims(&json!({"sub": "ann"}), &[]).principal(), None);
    }
}

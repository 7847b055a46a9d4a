//! A request as it is understood: what it is about, who asks, and how the answer should look.

use std::sync::Arc;

use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use http::request::Parts;
use serde_json::Value;

use super::authn::User;
use super::kinds::{Registry, Resource};
use super::status::Refusal;

/// A request for objects.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) verb: Verb,
    pub(super) resource: Arc<Resource>,
    /// The version in the path, in which the answer is given.
    pub(super) version: String,
    /// Empty for all, and for resources without namespaces.
    pub(super) namespace: String,
    /// Empty for a collection.
    pub(super) name: String,
    /// `status`, `token`, `finalize`, `log`, `portforward` or nothing.
    pub(super) subresource: String,
    pub(super) query: Query,
    pub(super) user: User,
    /// The form of the answer.
    pub(super) form: Form,
    /// The form of the body.
    pub(super) content_type: String,
    pub(super) body: Value,
    /// Whose fields a write makes: `fieldManager`, or the name of the program that asks.
    pub(super) manager: String,
}

/// What is asked for, in the words of access rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
}

/// The forms in which an answer can be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Whole,
    /// Metadata only.
    Partial,
}

/// The parameters after the question mark.
#[derive(Debug, Clone, Default)]
pub(super) struct Query(Vec<(String, String)>);

/// What a path leads to.
pub(super) enum Path {
    /// Objects: group, version and the rest.
    Objects { group: String, version: String, rest: Vec<String> },
    /// Something else.
    Other(Vec<String>),
}

impl Path {
    pub(super) fn parse(path: &str) -> Self {
        let parts: Vec<String> =
            path.split('/').filter(|part| !part.is_empty()).map(percent_decode).collect();
        let words: Vec<&str> = parts.iter().map(String::as_str).collect();
        let owned = |rest: &[&str]| rest.iter().copied().map(str::to_owned).collect();
        match words.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => {
                Self::Objects { group: String::new(), version: (*version).into(), rest: owned(rest) }
            }
            ["apis", group, version, rest @ ..] if !rest.is_empty() => {
                Self::Objects { group: (*group).into(), version: (*version).into(), rest: owned(rest) }
            }
            _ => Self::Other(parts),
        }
    }
}

impl Call {
    /// Understands a request for objects. The path has been taken apart already.
    pub(super) fn new(
        (group, version, rest): (&str, &str, &[String]),
        head: &Parts,
        body: &[u8],
        user: User,
        registry: &Registry,
    ) -> Result<Self, Refusal> {
        let words: Vec<&str> = rest.iter().map(String::as_str).collect();
        let (namespace, plural, name, subresource) = match words.as_slice() {
            ["namespaces", name, "status"] => ("", "namespaces", *name, "status"),
            ["namespaces", name, "finalize"] => ("", "namespaces", *name, "finalize"),
            ["namespaces", namespace, plural] => (*namespace, *plural, "", ""),
            ["namespaces", namespace, plural, name] => (*namespace, *plural, *name, ""),
            ["namespaces", namespace, plural, name, sub] => (*namespace, *plural, *name, *sub),
            [plural] => ("", *plural, "", ""),
            [plural, name] => ("", *plural, *name, ""),
            [plural, name, sub] => ("", *plural, *name, *sub),
            _ => return Err(Refusal::no_such_path()),
        };
        let resource = registry.find(group, version, plural).ok_or_else(Refusal::no_such_path)?;
        let known = match subresource {
            "" => true,
            "status" => resource.status,
            "token" => resource.plural == "serviceaccounts",
            "log" | "portforward" => resource.plural == "pods" && head.method == http::Method::GET,
            _ => false,
        };
        if !known || (!namespace.is_empty() && !resource.namespaced) {
            return Err(Refusal::no_such_path());
        }
        let query = Query::parse(head.uri.query().unwrap_or_default());
        let header = |name| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let verb = verb(head.method.as_str(), name, &query)?;
        let content_type = header(CONTENT_TYPE).split(';').next().unwrap_or_default().trim().to_owned();
        let program = header(USER_AGENT).split('/').next().unwrap_or_default();
        let manager =
            query.text("fieldManager").unwrap_or(if program.is_empty() { "unknown" } else { program });
        Ok(Self {
            verb,
            resource: Arc::clone(resource),
            version: version.into(),
            namespace: namespace.into(),
            name: name.into(),
            subresource: subresource.into(),
            form: form(header(ACCEPT))?,
            body: read_body(body, &content_type)?,
            content_type,
            manager: manager.into(),
            query,
            user,
        })
    }

    /// As access rules name what is asked for.
    pub(super) fn resource_name(&self) -> String {
        match self.subresource.as_str() {
            "" => self.resource.plural.clone(),
            sub => format!("{}/{sub}", self.resource.plural),
        }
    }
}

impl Verb {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
        }
    }
}

impl Query {
    fn parse(query: &str) -> Self {
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (percent_decode(&key.replace('+', " ")), percent_decode(&value.replace('+', " ")))
        });
        Self(pairs.collect())
    }

    /// A parameter; an empty one counts as none.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        let value = self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
        value.filter(|value| !value.is_empty())
    }

    pub(super) fn is_true(&self, key: &str) -> bool {
        matches!(self.text(key), Some("true" | "1"))
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<u64>, Refusal> {
        let bad = |text: &str| Refusal::bad_request(format!("{key}: invalid value {text:?}"));
        self.text(key).map(|text| text.parse().map_err(|_| bad(text))).transpose()
    }
}

fn verb(method: &str, name: &str, query: &Query) -> Result<Verb, Refusal> {
    match (method, name.is_empty()) {
        ("GET", _) if query.is_true("watch") => Ok(Verb::Watch),
        ("GET", true) => Ok(Verb::List),
        ("GET", false) => Ok(Verb::Get),
        ("POST", _) => Ok(Verb::Create),
        ("PUT", false) => Ok(Verb::Update),
        ("PATCH", false) => Ok(Verb::Patch),
        ("DELETE", true) => Ok(Verb::DeleteCollection),
        ("DELETE", false) => Ok(Verb::Delete),
        _ => Err(Refusal::method_not_allowed()),
    }
}

/// The first of the forms that the client takes and that there is.
fn form(accept: &str) -> Result<Form, Refusal> {
    if accept.is_empty() {
        return Ok(Form::Whole);
    }
    for wanted in accept.split(',').map(str::trim) {
        let (kind, parameters) = wanted.split_once(';').unwrap_or((wanted, ""));
        let as_kind = parameters.split(';').find_map(|it| it.trim().strip_prefix("as="));
        match (kind.trim(), as_kind) {
            ("application/json" | "application/*" | "*/*", None) => return Ok(Form::Whole),
            ("application/json", Some("PartialObjectMetadata" | "PartialObjectMetadataList")) => {
                return Ok(Form::Partial);
            }
            _ => {}
        }
    }
    let message = "only the following media types are accepted: application/json";
    Err(Refusal::new(406, "NotAcceptable", message))
}

fn read_body(body: &[u8], content_type: &str) -> Result<Value, Refusal> {
    if body.is_empty() {
        return Ok(Value::Null);
    }
    let bad =
        |error: &dyn std::fmt::Display| Refusal::bad_request(format!("the body cannot be read: {error}"));
    match content_type {
        "application/yaml" | "application/apply-patch+yaml" => {
            serde_yaml_ng::from_slice(body).map_err(|error| bad(&error))
        }
        "application/vnd.kubernetes.protobuf" => {
            Err(Refusal::new(415, "UnsupportedMediaType", "the body must be JSON or YAML"))
        }
        _ => serde_json::from_slice(body).map_err(|error| bad(&error)),
    }
}

fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let decoded = hex.filter(|_| *first == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(decoded.unwrap_or(*first));
        rest = if decoded.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

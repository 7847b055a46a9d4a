//! Who asks: bearer tokens, those that a test hands out and those that service accounts are given.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::request::Call;
use super::status::Refusal;
use super::store::{Key, Store};

/// Somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// For example `system:serviceaccount:NAMESPACE:NAME`.
    pub name: String,
    /// May be empty.
    pub uid: String,
    /// Without the ones that everybody is in.
    pub groups: Vec<String>,
    /// For example the node that a token is bound to.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// What a token proves.
#[derive(Debug, Clone)]
pub struct Token {
    /// To be whom.
    pub user: User,
    /// Towards whom; the API server itself is [`AUDIENCE`].
    pub audiences: Vec<String>,
    /// Until when.
    pub expires: SystemTime,
    /// The Pod it is bound to, by namespace, name and uid: it is worth nothing once that is gone.
    pub pod: Option<(String, String, String)>,
}

/// All tokens.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    known: HashMap<String, Token>,
    issued: u64,
}

impl User {
    /// Somebody who may do everything.
    pub fn admin() -> Self {
        Self::named("admin", &["system:masters"])
    }

    /// A service account of a namespace.
    pub fn service_account(namespace: &str, name: &str) -> Self {
        let groups = ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
        Self {
            groups: groups.to_vec(),
            ..Self::named(&format!("system:serviceaccount:{namespace}:{name}"), &[])
        }
    }

    /// Whoever shows no token.
    pub fn anonymous() -> Self {
        Self::named("system:anonymous", &["system:unauthenticated"])
    }

    /// Anybody.
    pub fn named(name: &str, groups: &[&str]) -> Self {
        let groups = groups.iter().copied().map(str::to_owned).collect();
        Self { name: name.into(), uid: String::new(), groups, extra: BTreeMap::new() }
    }

    /// As reviews show it.
    pub(super) fn to_json(&self) -> Value {
        let mut groups = self.groups.clone();
        if self.name != "system:anonymous" {
            groups.push("system:authenticated".into());
        }
        let mut user = json!({"username": self.name, "groups": groups});
        if !self.uid.is_empty() {
            user["uid"] = json!(self.uid);
        }
        if !self.extra.is_empty() {
            user["extra"] = json!(self.extra);
        }
        user
    }
}

impl Token {
    /// A token for the API server that outlives every test.
    pub fn of(user: User) -> Self {
        let expires = SystemTime::now() + Duration::from_secs(24 * 3600);
        Self { user, audiences: vec![AUDIENCE.into()], expires, pod: None }
    }
}

impl Tokens {
    pub(super) fn add(&mut self, text: &str, token: Token) {
        self.known.insert(text.into(), token);
    }

    pub(super) fn revoke(&mut self, text: &str) {
        self.known.remove(text);
    }

    /// Who shows this header; `Err` if it is worth nothing.
    pub(super) fn authenticate(&self, header: Option<&str>, store: &Store) -> Result<User, Refusal> {
        let Some(header) = header else { return Ok(User::anonymous()) };
        let token = header.strip_prefix("Bearer ").map(str::trim).unwrap_or_default();
        let known = self.valid(token, store).filter(|known| known.audiences.iter().any(|it| it == AUDIENCE));
        known.map(|known| known.user.clone()).ok_or_else(|| Refusal::new(401, "Unauthorized", "Unauthorized"))
    }

    /// The answer to a `TokenReview` of `authentication.k8s.io/v1`.
    pub(super) fn review(&self, review: &Value, store: &Store) -> Value {
        let spec = &review["spec"];
        let asked = spec["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let asked: Vec<&str> = asked.collect();
        let asked = if asked.is_empty() { vec![AUDIENCE] } else { asked };
        let found = self.valid(spec["token"].as_str().unwrap_or_default(), store);
        let status = match found {
            None => json!({"user": {}, "error": "invalid bearer token"}),
            Some(token) => {
                let shared = asked.into_iter().filter(|it| token.audiences.iter().any(|own| own == it));
                let shared: Vec<&str> = shared.collect();
                if shared.is_empty() {
                    json!({"user": {}, "error": "token audiences is invalid for the target audiences"})
                } else {
                    json!({"authenticated": true, "user": token.user.to_json(), "audiences": shared})
                }
            }
        };
        json!({
            "kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"creationTimestamp": null}, "spec": spec, "status": status,
        })
    }

    /// A token for a service account: `POST …/serviceaccounts/NAME/token`.
    pub(super) fn request(&mut self, call: &Call, store: &Store) -> Result<Value, Refusal> {
        let account = store.get(&key("serviceaccounts", &call.namespace, &call.name));
        let account = account.ok_or_else(|| Refusal::not_found("serviceaccounts", &call.name))?;
        let spec = &call.body["spec"];
        let seconds = spec["expirationSeconds"].as_u64().unwrap_or(3600);
        if seconds < SHORTEST {
            let why = "may not specify a duration less than 10 minutes";
            return Err(Refusal::invalid("TokenRequest", "", "spec.expirationSeconds", why));
        }
        let audiences = spec["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let mut audiences: Vec<String> = audiences.map(str::to_owned).collect();
        if audiences.is_empty() {
            audiences.push(AUDIENCE.into());
        }
        let mut user = User::service_account(&call.namespace, &call.name);
        user.uid = account["metadata"]["uid"].as_str().unwrap_or_default().into();
        let pod = bind(&mut user, &spec["boundObjectRef"], &call.namespace, store)?;
        let expires = SystemTime::now() + Duration::from_secs(seconds);
        let text = self.write(&user, &audiences, expires);
        self.add(&text, Token { user, audiences: audiences.clone(), expires, pod });
        let mut answer = call.body.clone();
        answer["kind"] = json!("TokenRequest");
        answer["apiVersion"] = json!("authentication.k8s.io/v1");
        answer["spec"]["audiences"] = json!(audiences);
        answer["spec"]["expirationSeconds"] = json!(seconds);
        answer["status"] = json!({"token": text, "expirationTimestamp": super::clock::rfc3339(expires)});
        Ok(answer)
    }

    fn valid(&self, text: &str, store: &Store) -> Option<&Token> {
        let token = self.known.get(text).filter(|token| token.expires > SystemTime::now())?;
        let lives = token.pod.as_ref().is_none_or(|(namespace, name, uid)| {
            let pod = store.get(&key("pods", namespace, name));
            pod.is_some_and(|pod| pod["metadata"]["uid"] == uid.as_str())
        });
        lives.then_some(token)
    }

    /// The text of a token: of the form of a JWT, for whoever looks into it. Its signature is a random number, as only this
    /// server can tell whether a token is good.
    fn write(&mut self, user: &User, audiences: &[String], expires: SystemTime) -> String {
        self.issued += 1;
        let seconds = expires.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let claims = json!({
            "iss": AUDIENCE, "sub": user.name, "aud": audiences, "exp": seconds, "jti": self.issued.to_string(),
        });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let header = json!({"alg": "RS256", "kid": "test"});
        let signature = URL_SAFE_NO_PAD.encode(super::clock::random().to_be_bytes());
        format!("{}.{}.{signature}", part(&header), part(&claims))
    }
}

/// Ties a token to a Pod, and with it to the Pod's node.
fn bind(
    user: &mut User,
    reference: &Value,
    namespace: &str,
    store: &Store,
) -> Result<Option<(String, String, String)>, Refusal> {
    if reference.is_null() {
        return Ok(None);
    }
    let name = reference["name"].as_str().unwrap_or_default();
    if reference["kind"] != "Pod" {
        let why = "this server binds tokens to Pods only";
        return Err(Refusal::invalid("TokenRequest", "", "spec.boundObjectRef.kind", why));
    }
    let pod = store.get(&key("pods", namespace, name));
    let pod = pod.ok_or_else(|| Refusal::not_found("pods", name))?;
    let uid = pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    let mut add = |what: &str, value: &str| {
        user.extra.insert(format!("authentication.kubernetes.io/{what}"), vec![value.to_owned()]);
    };
    add("pod-name", name);
    add("pod-uid", &uid);
    if let Some(node) = pod["spec"]["nodeName"].as_str() {
        add("node-name", node);
        let node = store.get(&key("nodes", "", node));
        if let Some(uid) = node.and_then(|node| node["metadata"]["uid"].as_str()) {
            add("node-uid", uid);
        }
    }
    Ok(Some((namespace.to_owned(), name.to_owned(), uid)))
}

fn key(resource: &str, namespace: &str, name: &str) -> Key {
    Key { resource: resource.into(), namespace: namespace.into(), name: name.into() }
}

/// The audience of tokens that are meant for the API server.
pub const AUDIENCE: &str = "https://kubernetes.default.svc.cluster.local";
/// Seconds; Kubernetes' own limit.
const SHORTEST: u64 = 600;

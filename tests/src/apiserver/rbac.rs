//! Who may do what: the rules of the roles that are bound to somebody.

use serde_json::Value;

use super::authn::User;
use super::request::{Call, Verb};
use super::state::State;
use super::status::Refusal;

/// Lets a request pass, or says why not.
pub(super) fn authorize(state: &State, call: &Call) -> Result<(), Refusal> {
    if !state.rbac || call.user.groups.iter().any(|group| group == "system:masters") {
        return Ok(());
    }
    let mut rules = rules(state, &call.user, &call.namespace);
    if rules.any(|rule| allows(rule, call)) { Ok(()) } else { Err(refuse(call)) }
}

/// Whether somebody may ask who the owner of a token is.
pub(super) fn may_review_tokens(state: &State, user: &User) -> bool {
    rules(state, user, "").any(|rule| {
        among(&rule["verbs"], "create")
            && among(&rule["apiGroups"], "authentication.k8s.io")
            && among(&rule["resources"], "tokenreviews")
    })
}

/// The rules of all roles that are bound to somebody, for the whole cluster and in a namespace.
fn rules<'s>(state: &'s State, user: &'s User, namespace: &'s str) -> impl Iterator<Item = &'s Value> {
    let cluster_wide = bindings(state, "clusterrolebindings", "").map(|binding| (binding, ""));
    let local = bindings(state, "rolebindings", namespace).filter(move |_| !namespace.is_empty());
    cluster_wide
        .chain(local.map(move |binding| (binding, namespace)))
        .filter(|(binding, _)| is_bound(binding, user))
        .filter_map(|(binding, namespace)| role_of(state, binding, namespace))
        .flat_map(|role| role["rules"].as_array().into_iter().flatten())
}

fn bindings<'s>(state: &'s State, plural: &str, namespace: &'s str) -> impl Iterator<Item = &'s Value> {
    let resource = format!("{plural}.rbac.authorization.k8s.io");
    let revision = state.store.revision();
    let found: Vec<_> = state.store.list_at(&resource, namespace, revision, None).collect();
    found.into_iter().map(|(_, object)| object.as_ref())
}

fn is_bound(binding: &Value, user: &User) -> bool {
    binding["subjects"].as_array().into_iter().flatten().any(|subject| {
        let name = subject["name"].as_str().unwrap_or_default();
        match subject["kind"].as_str() {
            Some("User") => user.name == name,
            Some("Group") => user.groups.iter().any(|group| group == name),
            Some("ServiceAccount") => {
                let namespace = subject["namespace"].as_str().unwrap_or_default();
                user.name == format!("system:serviceaccount:{namespace}:{name}")
            }
            _ => false,
        }
    })
}

fn role_of<'s>(state: &'s State, binding: &Value, namespace: &'s str) -> Option<&'s Value> {
    let reference = &binding["roleRef"];
    let name = reference["name"].as_str()?;
    let (plural, namespace) =
        if reference["kind"] == "ClusterRole" { ("clusterroles", "") } else { ("roles", namespace) };
    let key = super::store::Key {
        resource: format!("{plural}.rbac.authorization.k8s.io"),
        namespace: namespace.into(),
        name: name.into(),
    };
    state.store.get(&key).map(AsRef::as_ref)
}

fn allows(rule: &Value, call: &Call) -> bool {
    let named = rule["resourceNames"].as_array().is_some_and(|names| !names.is_empty());
    among(&rule["verbs"], call.verb.name())
        && among(&rule["apiGroups"], &call.resource.group)
        && among(&rule["resources"], &call.resource_name())
        && (!named || among(&rule["resourceNames"], &name_of(call)))
}

fn among(list: &Value, wanted: &str) -> bool {
    let mut listed = list.as_array().into_iter().flatten().filter_map(Value::as_str);
    listed.any(|it| it == "*" || it == wanted)
}

/// A list or a watch of one object is about that object.
fn name_of(call: &Call) -> String {
    if call.name.is_empty() && matches!(call.verb, Verb::List | Verb::Watch | Verb::DeleteCollection) {
        let fields = call.query.text("fieldSelector").unwrap_or_default();
        let named = fields.split(',').find_map(|field| field.strip_prefix("metadata.name="));
        return named.unwrap_or_default().trim_start_matches('=').to_owned();
    }
    call.name.clone()
}

fn refuse(call: &Call) -> Refusal {
    let scope = match call.namespace.as_str() {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace \"{namespace}\""),
    };
    let name = if call.name.is_empty() { String::new() } else { format!(" \"{}\"", call.name) };
    Refusal::forbidden(format!(
        "{}{name} is forbidden: User \"{}\" cannot {} resource \"{}\" in API group \"{}\" {scope}",
        call.resource.full_name(),
        call.user.name,
        call.verb.name(),
        call.resource_name(),
        call.resource.group,
    ))
}

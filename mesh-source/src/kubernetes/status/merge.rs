//! What a status becomes when what is ours is put into it: a pure function.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use mesh_core::allocate::same;
use mesh_core::resource::HostAddress;
use serde_json::{Map, Value, json};

/// What the mesh has to say in a status.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Status {
    /// Which object it is about (`Meta::uid`): another of the same name has to be told anew, and is not told this.
    pub uid: Option<Arc<str>>,
    /// Put among the others in `conditions`, each in place of the one of its type.
    pub conditions: Vec<Condition>,
    /// Types of conditions that are ours and are not to be there.
    pub absent: Vec<String>,
    /// Put among the others in a route's `parents`, or a policy's `ancestors`.
    pub parents: Option<Parents>,
    /// Fields that belong to nobody else, such as a Gateway's `listeners`; null removes one. Conditions in them are treated
    /// like all others.
    pub fields: BTreeMap<String, Value>,
    /// The addresses of a ServiceEntry's hosts.
    pub addresses: Option<Addresses>,
}

/// A decision about `addresses`, which is only good as long as the object shows what it was made on: what has been given
/// to a host meanwhile must not be taken from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// What the object showed.
    pub seen: Vec<HostAddress>,
    /// What it is to show, in any order.
    pub wanted: Vec<HostAddress>,
}

/// What there is to do about a status.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Merged {
    /// The fields that have to change; `None` if it says everything that it should.
    pub(super) changes: Option<Value>,
    /// Whether it shows something else than what was decided on. That part is left alone: news of it are on their way.
    pub(super) is_stale: bool,
}

/// One fact about an object. When it became a fact is noted when it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// For example `Accepted`.
    pub sort: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// One word for programs.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
    /// The generation of the object that was looked at.
    pub observed_generation: Option<i64>,
}

/// What the parents of a route say, or the ancestors of a policy, as far as they are ours.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Parents {
    /// `parents` or `ancestors`.
    pub field: &'static str,
    /// By this name ours are told from those of other controllers.
    pub controller: String,
    /// Each with `parentRef` or `ancestorRef`, and `conditions`; `controllerName` is added.
    pub entries: Vec<Value>,
}

impl Condition {
    /// As objects show it, but for the time.
    pub fn to_json(&self) -> Value {
        let mut condition = json!({
            "type": self.sort, "status": self.status, "reason": self.reason, "message": self.message,
        });
        if let Some(generation) = self.observed_generation {
            condition["observedGeneration"] = json!(generation);
        }
        condition
    }
}

/// What of `current` has to change for it to say what `wish` says. Nothing of others is changed, and a condition that has
/// not changed keeps its time.
pub(super) fn merge(current: &Value, wish: &Status, now: Timestamp) -> Merged {
    let mut changes = Map::new();
    let mut note = |field: &str, wanted: Value| {
        if current[field] != wanted {
            changes.insert(field.to_owned(), wanted);
        }
    };
    if !wish.conditions.is_empty() || current["conditions"].is_array() && !wish.absent.is_empty() {
        note("conditions", conditions(&current["conditions"], wish, now));
    }
    if let Some(parents) = &wish.parents {
        note(parents.field, entries(&current[parents.field], parents, now));
    }
    for (field, value) in &wish.fields {
        let mut value = value.clone();
        set_times(&current[field], &mut value, now);
        note(field, value);
    }
    let mut is_stale = false;
    if let Some(Addresses { seen, wanted }) = &wish.addresses {
        let (shown, is_all) = HostAddress::read(&current[ADDRESSES]);
        let is_right = is_all && same(&shown, wanted);
        is_stale = !is_right && shown != *seen;
        if !is_right && !is_stale {
            note(ADDRESSES, addresses(wanted));
        }
    }
    Merged { changes: (!changes.is_empty()).then_some(Value::Object(changes)), is_stale }
}

/// Null, which removes the field, if there are none.
fn addresses(wanted: &[HostAddress]) -> Value {
    if wanted.is_empty() {
        return Value::Null;
    }
    wanted.iter().map(|it| json!({"host": it.host.to_string(), "value": it.value})).collect()
}

fn conditions(current: &Value, wish: &Status, now: Timestamp) -> Value {
    let mut list = items(current);
    list.retain(|known| !wish.absent.iter().any(|sort| known["type"] == sort.as_str()));
    for mut condition in wish.conditions.iter().map(Condition::to_json) {
        if let Some(known) = list.iter_mut().find(|known| is_same(known, &condition)) {
            set_times(known, &mut condition, now);
            *known = condition;
        } else {
            set_times(&Value::Null, &mut condition, now);
            list.push(condition);
        }
    }
    Value::Array(list)
}

fn entries(current: &Value, parents: &Parents, now: Timestamp) -> Value {
    let known = items(current);
    let ours = parents.entries.iter().map(|entry| {
        let mut entry = entry.clone();
        entry["controllerName"] = json!(parents.controller);
        let before = known.iter().find(|it| is_same(it, &entry)).unwrap_or(&Value::Null);
        set_times(before, &mut entry, now);
        entry
    });
    let theirs = known.iter().filter(|entry| entry["controllerName"] != parents.controller.as_str());
    let mut list: Vec<_> = theirs.cloned().chain(ours).collect();
    // Where it stood it stays, or two controllers would take turns in changing the order for ever.
    let place = |entry: &Value| known.iter().position(|it| is_same(it, entry)).unwrap_or(usize::MAX);
    list.sort_by_key(place);
    Value::Array(list)
}

/// Gives conditions in `wanted` their times: those of `current` where their status is the same, `now` otherwise.
fn set_times(current: &Value, wanted: &mut Value, now: Timestamp) {
    match wanted {
        Value::Array(list) => {
            let known = items(current);
            for item in list {
                let before = known.iter().find(|it| is_same(it, item)).unwrap_or(&Value::Null);
                set_times(before, item, now);
            }
        }
        Value::Object(fields) if fields.contains_key("type") && fields.contains_key("status") => {
            if fields.contains_key(TIME) {
                return;
            }
            let since = match &current[TIME] {
                Value::String(since) if Some(&current["status"]) == fields.get("status") => json!(since),
                _ => json!(Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()),
            };
            fields.insert(TIME.to_owned(), since);
        }
        Value::Object(fields) => {
            for (key, value) in fields {
                set_times(&current[key], value, now);
            }
        }
        _ => {}
    }
}

/// Whether two items of a list are about the same.
fn is_same(left: &Value, right: &Value) -> bool {
    let by = |keys: &[&str]| keys.iter().all(|key| !left[key].is_null() && left[key] == right[key]);
    by(&["type"])
        || by(&["name"])
        || by(&["controllerName", "parentRef"])
        || by(&["controllerName", "ancestorRef"])
}

fn items(list: &Value) -> Vec<Value> {
    list.as_array().cloned().unwrap_or_default()
}

const TIME: &str = "lastTransitionTime";
const ADDRESSES: &str = "addresses";

#[cfg(test)]
mod tests;

//! Get, list and watch.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::request::{Call, Form};
use super::selector::Selector;
use super::state::{Shared, State};
use super::status::Refusal;
use super::store::{Event, Key};

/// One object.
pub(super) fn get(state: &State, call: &Call) -> Result<Value, Refusal> {
    let object = state.store.get(&call.key());
    let object = object.ok_or_else(|| Refusal::not_found(&call.resource.full_name(), &call.name))?;
    Ok(call.present(object))
}

/// A list, or a page of one.
pub(super) fn list(state: &State, call: &Call) -> Result<Value, Refusal> {
    let selector = call.selector()?;
    let limit = call.query.number("limit")?.filter(|limit| *limit > 0);
    let (revision, after) = starting_point(state, call, limit.is_some())?;
    let resource = call.resource.full_name();
    let mut matching = state
        .store
        .list_at(&resource, &call.namespace, revision, after.as_ref())
        .filter(|(_, object)| selector.matches(object));
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    let mut metadata = json!({"resourceVersion": revision.to_string()});
    let mut items = Vec::new();
    let mut last = None;
    for (key, object) in matching.by_ref().take(limit) {
        items.push(call.present_item(object));
        last = Some(key);
    }
    let rest = matching.count();
    if let (Some(last), true) = (last, rest > 0) {
        let token = json!({"v": 1, "rv": revision, "namespace": last.namespace, "name": last.name});
        metadata["continue"] = json!(URL_SAFE_NO_PAD.encode(token.to_string()));
        if selector.is_empty() {
            metadata["remainingItemCount"] = json!(rest);
        }
    }
    let (kind, api_version) = match call.form {
        Form::Whole => (format!("{}List", call.resource.kind), call.resource.api_version(&call.version)),
        Form::Partial => ("PartialObjectMetadataList".into(), "meta.k8s.io/v1".into()),
    };
    Ok(json!({"kind": kind, "apiVersion": api_version, "metadata": metadata, "items": items}))
}

/// As of which revision, and after which object.
fn starting_point(state: &State, call: &Call, in_pages: bool) -> Result<(u64, Option<Key>), Refusal> {
    let current = state.store.revision();
    let exists = |revision: u64, message: &str| match revision {
        _ if revision > current => Err(Refusal::too_large(revision, current)),
        _ if revision < state.store.compacted() => Err(Refusal::expired(message)),
        _ => Ok(revision),
    };
    if let Some(token) = call.query.text("continue") {
        let bad = || Refusal::bad_request("continue key is not valid");
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| bad())?;
        let token: Value = serde_json::from_slice(&bytes).map_err(|_| bad())?;
        let text = |key: &str| token[key].as_str().map(str::to_owned).ok_or_else(bad);
        let revision = token["rv"].as_u64().ok_or_else(bad)?;
        let revision =
            exists(revision, "The provided continue parameter is too old to display a consistent list")?;
        let key =
            Key { resource: call.resource.full_name(), namespace: text("namespace")?, name: text("name")? };
        return Ok((revision, Some(key)));
    }
    let asked = match call.query.number("resourceVersion")? {
        None | Some(0) => return Ok((current, None)),
        Some(asked) => asked,
    };
    let matching = call.query.text("resourceVersionMatch");
    let exact = matching == Some("Exact") || (matching.is_none() && in_pages);
    let too_old = format!("The resourceVersion for the provided list is too old: {asked}");
    if exact {
        Ok((exists(asked, &too_old)?, None))
    } else if asked > current {
        Err(Refusal::too_large(asked, current))
    } else {
        Ok((current, None))
    }
}

/// A watch, as a source of lines.
pub(super) struct Watch {
    shared: Arc<Shared>,
    call: Call,
    selector: Selector,
    /// Everything up to this revision has been told.
    position: u64,
    /// Lines that are due before anything that happens.
    first: Vec<u8>,
    news: watch::Receiver<u64>,
    cut: watch::Receiver<u64>,
    deadline: Instant,
    bookmark: Option<Instant>,
    ended: bool,
}

impl Watch {
    pub(super) fn new(shared: &Arc<Shared>, call: Call) -> Result<Self, Refusal> {
        let state = shared.lock();
        let selector = call.selector()?;
        let seconds = call.query.number("timeoutSeconds")?.unwrap_or(DEFAULT_SECONDS);
        let now = Instant::now();
        let bookmarks = call.query.is_true("allowWatchBookmarks");
        let mut watch = Self {
            position: state.store.revision(),
            first: Vec::new(),
            news: state.store.news(),
            cut: state.cut(),
            deadline: now + Duration::from_secs(seconds),
            bookmark: bookmarks.then(|| now + state.bookmark_interval),
            ended: false,
            shared: Arc::clone(shared),
            selector,
            call,
        };
        watch.begin(&state)?;
        Ok(watch)
    }

    /// The next lines; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        loop {
            if !self.first.is_empty() {
                return Some(std::mem::take(&mut self.first).into());
            }
            if self.ended {
                return None;
            }
            let lines = self.collect();
            if !lines.is_empty() {
                return Some(lines.into());
            }
            if self.ended {
                return None;
            }
            let bookmark = self.bookmark.unwrap_or(self.deadline);
            tokio::select! {
                _ = self.news.changed() => {}
                _ = self.cut.changed() => return None,
                () = sleep_until(self.deadline.min(bookmark)) => {
                    self.ended = Instant::now() >= self.deadline;
                    if self.bookmark.is_some() {
                        self.bookmark = Some(Instant::now() + self.shared.lock().bookmark_interval);
                        return Some(self.bookmark_line(self.position, false).into());
                    }
                }
            }
        }
    }

    /// Where the watch starts, and what it tells before anything happens.
    fn begin(&mut self, state: &State) -> Result<(), Refusal> {
        let all_first = self.call.query.is_true("sendInitialEvents");
        let matching = self.call.query.text("resourceVersionMatch");
        if all_first != (matching == Some("NotOlderThan")) || (all_first && self.bookmark.is_none()) {
            let why = "sendInitialEvents needs resourceVersionMatch NotOlderThan and allowWatchBookmarks";
            return Err(Refusal::invalid("ListOptions", "", "resourceVersionMatch", why));
        }
        match self.call.query.number("resourceVersion")? {
            Some(asked) if asked > self.position => {
                let refusal = Refusal::too_large(asked, self.position);
                self.first = line("ERROR", &refusal.to_json());
                self.ended = true;
            }
            Some(asked) if asked > 0 && !all_first => self.position = asked,
            _ => {
                let resource = self.call.resource.full_name();
                let objects = state.store.list_at(&resource, &self.call.namespace, self.position, None);
                for (_, object) in objects.filter(|(_, object)| self.selector.matches(object)) {
                    self.first.extend(line("ADDED", &self.call.present(object)));
                }
                if all_first {
                    self.first.extend(self.bookmark_line(self.position, true));
                }
            }
        }
        Ok(())
    }

    /// What has happened since.
    fn collect(&mut self) -> Vec<u8> {
        let state = self.shared.lock();
        let mut lines = Vec::new();
        match state.store.events_after(self.position) {
            Ok(events) => {
                for event in events {
                    self.tell(event, &mut lines);
                }
                self.position = state.store.revision();
            }
            Err(refusal) => {
                lines = line("ERROR", &refusal.to_json());
                self.ended = true;
            }
        }
        lines
    }

    /// An event as this watch sees it: an object that begins to match has come, one that no longer does has gone.
    fn tell(&self, event: &Event, lines: &mut Vec<u8>) {
        let key = &event.key;
        let about = key.resource == self.call.resource.full_name()
            && (self.call.namespace.is_empty() || key.namespace == self.call.namespace);
        if !about {
            return;
        }
        let matches = |object: &Option<Arc<Value>>| {
            object.as_deref().filter(|object| self.selector.matches(object)).cloned()
        };
        let (sort, mut object) = match (matches(&event.before), matches(&event.after)) {
            (None, Some(after)) => ("ADDED", after),
            (Some(_), Some(after)) => ("MODIFIED", after),
            (Some(before), None) => ("DELETED", before),
            (None, None) => return,
        };
        object["metadata"]["resourceVersion"] = json!(event.revision.to_string());
        lines.extend(line(sort, &self.call.present(&object)));
    }

    fn bookmark_line(&self, revision: u64, after_all: bool) -> Vec<u8> {
        let (kind, api_version) = match self.call.form {
            Form::Whole => {
                (self.call.resource.kind.clone(), self.call.resource.api_version(&self.call.version))
            }
            Form::Partial => ("PartialObjectMetadata".into(), "meta.k8s.io/v1".into()),
        };
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if after_all {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        line("BOOKMARK", &json!({"kind": kind, "apiVersion": api_version, "metadata": metadata}))
    }
}

impl Call {
    pub(super) fn key(&self) -> Key {
        Key {
            resource: self.resource.full_name(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }

    /// An object in the version and form that was asked for.
    pub(super) fn present(&self, object: &Value) -> Value {
        match self.form {
            Form::Whole => {
                let mut object = object.clone();
                object["kind"] = json!(self.resource.kind);
                object["apiVersion"] = json!(self.resource.api_version(&self.version));
                object
            }
            Form::Partial => json!({
                "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"],
            }),
        }
    }

    /// An item of a list: Kubernetes' own kinds do not repeat what the list has said.
    fn present_item(&self, object: &Value) -> Value {
        let mut item = self.present(object);
        if let (Form::Whole, false, Some(fields)) = (self.form, self.resource.custom, item.as_object_mut()) {
            fields.remove("kind");
            fields.remove("apiVersion");
        }
        item
    }

    fn selector(&self) -> Result<Selector, Refusal> {
        let fields = self.query.text("fieldSelector").unwrap_or_default();
        // A watch of one object.
        let fields = match self.name.as_str() {
            "" => fields.to_owned(),
            name => format!("metadata.name={name},{fields}"),
        };
        Selector::parse(self.query.text("labelSelector").unwrap_or_default(), &fields, &self.resource)
    }
}

fn line(sort: &str, object: &Value) -> Vec<u8> {
    let mut line = json!({"type": sort, "object": object}).to_string().into_bytes();
    line.push(b'\n');
    line
}

/// How long a watch lasts that does not say so; Kubernetes takes a random time of half an hour and more.
const DEFAULT_SECONDS: u64 = 1800;

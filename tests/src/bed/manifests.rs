//! The user's directory: which objects it holds, and the text that nodes get to see of it.
//!
//! Nodes read what a cluster would show them. So documents that the bed completes (pods get addresses, services get
//! cluster IPs, nodes get pod networks) are taken out of the copy and published complete; everything else, broken
//! documents included, is copied as it is, because reporting it is the node's task.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::Path;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use mesh_core::resource::{self, Level, SourceFile, Spec};
use serde_yaml_ng::Value;

use super::error::{Doing, Result};

/// Namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The objects that the bed acts on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Objects {
    pub(crate) namespaces: BTreeSet<String>,
    pub(crate) nodes: BTreeMap<String, Node>,
    pub(crate) services: BTreeMap<Key, Service>,
    pub(crate) pods: BTreeMap<Key, Pod>,
    pub(crate) deployments: BTreeMap<Key, Deployment>,
    pub(crate) slices: BTreeMap<Key, EndpointSlice>,
}

impl Objects {
    fn insert(&mut self, object: &resource::Object) {
        let key = Key::new(&*object.meta.namespace, &*object.meta.name);
        match &object.spec {
            Spec::Namespace(_) => drop(self.namespaces.insert(key.name)),
            Spec::Node(node) => drop(self.nodes.insert(key.name, (**node).clone())),
            Spec::Service(service) => drop(self.services.insert(key, (**service).clone())),
            Spec::Pod(pod) => drop(self.pods.insert(key, (**pod).clone())),
            Spec::Deployment(deployment) => drop(self.deployments.insert(key, (**deployment).clone())),
            Spec::EndpointSlice(slice) => drop(self.slices.insert(key, slice.clone())),
            _ => {}
        }
    }

    /// Adds what `self` lacks from `older`.
    fn keep(&mut self, older: Self) {
        self.namespaces.extend(older.namespaces);
        keep_missing(&mut self.nodes, older.nodes);
        keep_missing(&mut self.services, older.services);
        keep_missing(&mut self.pods, older.pods);
        keep_missing(&mut self.deployments, older.deployments);
        keep_missing(&mut self.slices, older.slices);
    }
}

fn keep_missing<K: Ord, V>(newer: &mut BTreeMap<K, V>, older: BTreeMap<K, V>) {
    for (key, value) in older {
        newer.entry(key).or_insert(value);
    }
}

/// One file of the user's directory.
#[derive(Debug, Clone, Default)]
pub(crate) struct ManifestFile {
    /// Its content, to see whether it changed.
    source: String,
    /// What nodes get to see of it.
    pub(crate) published: String,
    objects: Objects,
    problems: Vec<String>,
}

/// The whole directory.
#[derive(Debug, Clone, Default)]
pub(crate) struct Input {
    /// By file name.
    pub(crate) files: BTreeMap<String, ManifestFile>,
}

impl Input {
    /// Reads the directory again; answers whether anything changed. As with `kubectl apply`, an object whose document
    /// has become unreadable stays as it was.
    pub(crate) fn refresh(&mut self, directory: &Path) -> Result<bool> {
        let texts = read_directory(directory)?;
        let before = self.files.len();
        self.files.retain(|name, _| texts.contains_key(name));
        let mut changed = before != self.files.len();
        for (name, text) in texts {
            let old = self.files.get(&name);
            if old.is_some_and(|old| old.source == text) {
                continue;
            }
            changed = true;
            let mut file = ManifestFile::parse(&name, text);
            if let Some(old) = self.files.remove(&name).filter(|_| !file.problems.is_empty()) {
                file.objects.keep(old.objects);
            }
            self.files.insert(name, file);
        }
        Ok(changed)
    }

    /// All objects; of two with the same name, the one in the later file.
    pub(crate) fn objects(&self) -> Objects {
        let mut all = Objects::default();
        for file in self.files.values().rev() {
            all.keep(file.objects.clone());
        }
        all
    }

    /// What is wrong with the directory, one line each.
    pub(crate) fn problems(&self) -> Vec<String> {
        self.files.values().flat_map(|file| file.problems.iter().cloned()).collect()
    }
}

impl ManifestFile {
    fn parse(name: &str, source: String) -> Self {
        let mut file = Self::default();
        for (number, text) in documents(name, &source) {
            let parsed = resource::parse(&SourceFile { name, text });
            for mut finding in parsed.findings.into_iter().filter(|f| f.level == Level::Error) {
                finding.origin.document = number;
                file.problems.push(finding.to_string());
            }
            let completed = parsed.objects.iter().filter(|o| COMPLETED.contains(&o.meta.kind)).count();
            for object in &parsed.objects {
                file.objects.insert(object);
            }
            file.published.push_str(&publish(name, text, completed));
        }
        file.source = source;
        file
    }
}

/// The files that hold resources, by name. Sub-directories and hidden files are not looked at.
pub(super) fn read_directory(directory: &Path) -> Result<BTreeMap<String, String>> {
    let mut texts = BTreeMap::new();
    for entry in fs::read_dir(directory).at("read the directory", directory)? {
        let path = entry.at("read the directory", directory)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let known = path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        if !known || name.starts_with('.') || path.is_dir() {
            continue;
        }
        match fs::read(&path) {
            Ok(bytes) => drop(texts.insert(name, String::from_utf8_lossy(&bytes).into_owned())),
            // Editors replace files by renaming: the next look finds the new one.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(e).at("read", &path),
        }
    }
    Ok(texts)
}

/// The documents of a file with their numbers, counted from 1. Put together they are the file again.
fn documents<'a>(name: &str, text: &'a str) -> Vec<(usize, &'a str)> {
    let mut starts = vec![0];
    let mut position = 0;
    for line in text.split_inclusive('\n') {
        let marker = line.trim_end();
        let separates = marker == "---" || line.starts_with("--- ") || line.starts_with("---\t");
        if separates && position > 0 && !is_json(name) {
            starts.push(position);
        }
        position += line.len();
    }
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    let pieces: Vec<&str> =
        starts.iter().zip(ends).filter_map(|(start, end)| text.get(*start..end)).collect();
    // Comments above the first `---` belong to the first document and are none themselves.
    let preface = usize::from(pieces.len() > 1 && pieces.first().is_some_and(|p| is_blank(p)));
    pieces.into_iter().enumerate().map(|(i, piece)| ((i + 1).saturating_sub(preface).max(1), piece)).collect()
}

fn is_json(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|e| e == "json")
}

fn is_blank(text: &str) -> bool {
    text.lines().all(|line| line.trim().is_empty() || line.starts_with('#'))
}

/// What nodes see of a document of which `completed` objects are published elsewhere. Its place stays, so that later
/// documents keep their number.
fn publish(name: &str, text: &str, completed: usize) -> String {
    if completed == 0 {
        return text.to_owned();
    }
    let rest = without_completed(text);
    if is_json(name) {
        return rest.map_or_else(|| EMPTY_LIST.to_owned(), |v| serde_json::to_string(&v).unwrap_or_default());
    }
    let separator = if text.starts_with("---") { "---\n" } else { "" };
    let rest = rest.and_then(|v| serde_yaml_ng::to_string(&v).ok());
    format!("{separator}{}", rest.unwrap_or_else(|| REPLACED.to_owned()))
}

/// A `List` without the objects that are published elsewhere; `None` for a document that is such an object.
fn without_completed(text: &str) -> Option<Value> {
    let mut value: Value = serde_yaml_ng::from_str(text).ok()?;
    let items = value.get_mut("items")?.as_sequence_mut()?;
    items.retain(|item| {
        let kind = item.get("kind").and_then(Value::as_str);
        !kind.is_some_and(|kind| COMPLETED.contains(&kind))
    });
    Some(value)
}

/// Splits manifests into one text for each object, named after it, so that each can be replaced or removed alone.
/// Text that is no object is kept under a name of its own.
pub(crate) fn separate(source: &str) -> Vec<(String, String)> {
    let pieces =
        documents("", source).into_iter().map(|(_, text)| text).filter(|text| !is_blank_document(text));
    let mut named = Vec::new();
    for text in pieces {
        let value: Option<Value> = serde_yaml_ng::from_str(text).ok();
        let name = value.as_ref().and_then(object_file_name);
        let fallback = || format!("text-{:016x}.yaml", super::layout::digest(&text));
        named.push((name.unwrap_or_else(fallback), text.to_owned()));
    }
    named
}

fn is_blank_document(text: &str) -> bool {
    is_blank(text.strip_prefix("---").unwrap_or(text))
}

fn object_file_name(value: &Value) -> Option<String> {
    let kind = value.get("kind")?.as_str()?;
    let metadata = value.get("metadata")?;
    let namespace = metadata.get("namespace").and_then(Value::as_str).unwrap_or("default");
    let namespace = if CLUSTER_SCOPED.contains(&kind) { "" } else { namespace };
    Some(file_name(kind, namespace, metadata.get("name")?.as_str()?))
}

/// The name of the file that holds one object; `namespace` is empty for kinds without.
pub(crate) fn file_name(kind: &str, namespace: &str, name: &str) -> String {
    let parts = [kind, namespace, name].map(|part| part.replace(['/', '\0'], "_"));
    format!("{}.yaml", parts.join("."))
}

/// Kinds that the bed completes and publishes itself.
const COMPLETED: [&str; 3] = ["Pod", "Service", "Node"];

/// Kinds without a namespace that matter to the bed.
pub(crate) const CLUSTER_SCOPED: [&str; 2] = ["Namespace", "Node"];

const REPLACED: &str = "# Published complete, as a cluster would show it, in a file of its own.\n";
const EMPTY_LIST: &str = r#"{"apiVersion":"v1","kind":"List","items":[]}"#;

#[cfg(test)]
mod tests;

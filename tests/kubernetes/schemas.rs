//! Manifests against the schemas that Kubernetes publishes, of every version that the mesh is for.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jsonschema::{Retrieve, Uri, Validator};
use serde_json::{Value, json};

use super::manifests::{generated, program};

/// The versions of Kubernetes that the guide names, by their second number.
pub(super) const MINORS: std::ops::RangeInclusive<u32> = 30..=37;

/// The schemas of one version of Kubernetes; nothing may be in an object that its schema does not have.
pub(super) struct Published {
    directory: PathBuf,
    definitions: Definitions,
    validators: HashMap<String, Validator>,
}

/// What schemas refer to: all of them to one file.
#[derive(Clone)]
struct Definitions(Arc<Value>);

impl Retrieve for Definitions {
    fn retrieve(&self, uri: &Uri<String>) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
        if uri.path().as_str().ends_with("/_definitions.json") {
            return Ok((*self.0).clone());
        }
        Err(format!("{uri}: only _definitions.json is expected").into())
    }
}

impl Published {
    pub(super) fn load(minor: u32) -> Self {
        let target = program("meshctl").ancestors().nth(2).expect("a target directory").to_owned();
        let directory = target.join(format!("schemas/v1.{minor}"));
        assert!(directory.is_dir(), "there is no {} (`cargo xtask setup` fetches it)", directory.display());
        let definitions = Definitions(Arc::new(read(&directory.join("_definitions.json"))));
        Self { directory, definitions, validators: HashMap::new() }
    }

    /// What the schema of its kind says against an object.
    pub(super) fn complaints(&mut self, object: &Value) -> Vec<String> {
        let Self { directory, definitions, validators } = self;
        let name = schema_of(object);
        let validator = validators.entry(name.clone()).or_insert_with(|| {
            let options = jsonschema::options().with_retriever(definitions.clone());
            options.build(&read(&directory.join(&name))).expect("a schema")
        });
        let errors = validator.iter_errors(object);
        errors.map(|error| format!("{name}: {}: {error}", error.instance_path())).collect()
    }
}

fn read(path: &Path) -> Value {
    let text = fs::read(path).expect("a schema of this kind");
    serde_json::from_slice(&text).expect("JSON")
}

/// The file of a kind: the first part of its group, where it has one, and its version.
fn schema_of(object: &Value) -> String {
    let kind = object["kind"].as_str().expect("a kind").to_lowercase();
    match object["apiVersion"].as_str().expect("a version").split_once('/') {
        Some((group, version)) => {
            format!("{kind}-{}-{version}.json", group.split('.').next().expect("a part"))
        }
        None => format!("{kind}-v1.json"),
    }
}

#[test]
fn every_profile_is_what_the_published_schemas_say() {
    let more = ["node.cni.enabled=true", "control.autoscale.enabled=true", "image.pullSecrets[0]=s"];
    let more: Vec<&str> = more.into_iter().flat_map(|it| ["--set", it]).collect();
    let profiles = ["default", "demo", "minimal", "ambient", "empty"].map(|it| format!("profile={it}"));
    let of = |profile: &String| generated(&[&["--set", profile][..], &more].concat());
    let objects: Vec<Value> = profiles.iter().flat_map(of).collect();
    for minor in MINORS {
        let mut published = Published::load(minor);
        let said: Vec<String> = objects.iter().flat_map(|object| published.complaints(object)).collect();
        assert!(said.is_empty(), "Kubernetes 1.{minor}: {said:#?}");
        assert!(published.validators.len() >= 12, "{:?}", published.validators.keys());
    }
}

#[test]
fn a_field_that_is_not_there_and_a_value_of_another_type_are_found() {
    let mut published = Published::load(*MINORS.end());
    let object = json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "a"},
        "spec": {"selector": {}, "template": {"spec": {"containers": [{"name": "c", "imagePull": "Always"}], "hostNetwork": "yes"}}},
    });
    let said = published.complaints(&object).join("\n");
    for wanted in [
        "/spec/template/spec/containers/0: ",
        "'imagePull' was unexpected",
        "/spec/template/spec/hostNetwork: ",
    ] {
        assert!(said.contains(wanted), "{said}");
    }
}

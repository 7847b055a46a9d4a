//! Which pods there should be: the user's pods, and the replicas of deployments.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::layout::digest;
use super::manifests::{Key, Objects};

/// A pod that should exist.
#[derive(Debug, Clone)]
pub(crate) struct Desired {
    pub(crate) key: Key,
    /// With namespace, name, labels and owner filled in.
    pub(crate) manifest: Pod,
    /// Changes when the pod has to be made anew; labels and annotations change in place.
    pub(crate) spec_digest: u64,
    /// The deployment it is a replica of.
    pub(crate) deployment: Option<Key>,
}

/// All pods that should exist, in a stable order.
pub(crate) fn desired(objects: &Objects) -> Vec<Desired> {
    let mut pods = BTreeMap::new();
    for (key, deployment) in &objects.deployments {
        for pod in replicas(key, deployment) {
            pods.insert(pod.key.clone(), pod);
        }
    }
    for (key, manifest) in &objects.pods {
        pods.insert(key.clone(), single(key, manifest));
    }
    pods.into_values().collect()
}

fn single(key: &Key, manifest: &Pod) -> Desired {
    let mut manifest = manifest.clone();
    manifest.metadata.namespace = Some(key.namespace.clone());
    let spec_digest = json_digest(&manifest.spec);
    Desired { key: key.clone(), manifest, spec_digest, deployment: None }
}

fn replicas(key: &Key, deployment: &Deployment) -> Vec<Desired> {
    let spec = &deployment.spec;
    let spec_digest = json_digest(&spec.template);
    let hash = word(spec_digest, 10);
    let replica_set = format!("{}-{hash}", key.name);
    let count = u64::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    let make = |number: u64| {
        let name = format!("{replica_set}-{}", word(digest(&(&key.namespace, &replica_set, number)), 5));
        let mut metadata = spec.template.metadata.clone().unwrap_or_default();
        metadata.namespace = Some(key.namespace.clone());
        metadata.name = Some(name.clone());
        metadata.generate_name = Some(format!("{replica_set}-"));
        let labels = metadata.labels.get_or_insert_default();
        labels.insert("pod-template-hash".to_owned(), hash.clone());
        metadata.owner_references = Some(vec![OwnerReference {
            api_version: "apps/v1".to_owned(),
            kind: "ReplicaSet".to_owned(),
            name: replica_set.clone(),
            uid: uid(&(&key.namespace, &replica_set)),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }]);
        let manifest = Pod { metadata, spec: spec.template.spec.clone(), status: None };
        Desired { key: Key::new(&key.namespace, name), manifest, spec_digest, deployment: Some(key.clone()) }
    };
    (0..count).map(make).collect()
}

/// A UUID made of a digest: version 8, which RFC 9562 leaves to whoever makes it.
pub(crate) fn uid(of: &impl std::hash::Hash) -> String {
    let (a, b) = (digest(&(of, 1)), digest(&(of, 2)));
    format!(
        "{:08x}-{:04x}-8{:03x}-{:04x}-{:012x}",
        a >> 32,
        (a >> 16) & 0xffff,
        a & 0xfff,
        0x8000 | ((b >> 48) & 0x3fff),
        b & 0xffff_ffff_ffff
    )
}

fn json_digest(value: &impl serde::Serialize) -> u64 {
    digest(&serde_json::to_string(value).unwrap_or_default())
}

/// `length` letters and digits that Kubernetes uses for such names: no vowels, so no words.
fn word(mut number: u64, length: usize) -> String {
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let letter = || {
        let letter = LETTERS.get(usize::try_from(number % 27).unwrap_or(0));
        number /= 27;
        char::from(letter.copied().unwrap_or(b'x'))
    };
    std::iter::repeat_with(letter).take(length).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(image: &str, replicas: i32) -> Objects {
        let deployment = serde_json::json!({
            "metadata": {"name": "web"},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}}}
        });
        let mut objects = Objects::default();
        objects.deployments.insert(Key::new("default", "web"), serde_json::from_value(deployment).unwrap());
        objects
    }

    #[test]
    fn replicas_look_like_those_of_a_cluster() {
        let pods = desired(&objects("a", 3));
        assert_eq!(pods.len(), 3);
        let pod = &pods[0];
        let hash = &pod.manifest.metadata.labels.as_ref().unwrap()["pod-template-hash"];
        assert_eq!(pod.key.name.rsplit_once('-').unwrap().0, format!("web-{hash}"));
        let owner = &pod.manifest.metadata.owner_references.as_ref().unwrap()[0];
        assert_eq!(
            (owner.kind.as_str(), owner.name.as_str()),
            ("ReplicaSet", format!("web-{hash}").as_str())
        );
        assert_eq!(pod.manifest.metadata.labels.as_ref().unwrap()["app"], "web");
    }

    #[test]
    fn names_depend_on_the_template_only() {
        let names = |o: &Objects| desired(o).into_iter().map(|p| p.key.name).collect::<Vec<_>>();
        let two = names(&objects("a", 2));
        assert_eq!(two, names(&objects("a", 2)));
        assert!(two.iter().all(|name| names(&objects("a", 3)).contains(name)), "scaling keeps what there is");
        assert!(names(&objects("b", 2)).iter().all(|name| !two.contains(name)));
    }

    #[test]
    fn uids_are_uuids() {
        let uid = uid(&"x");
        assert_eq!(uid.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
        assert_eq!(uid.as_bytes()[14], b'8');
    }
}

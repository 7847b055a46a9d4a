//! What is in a cluster, and what would be there after some files had been applied to it. Nothing is written.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use anyhow::{Context as _, Result};
use mesh_core::analyze::{self, Options};
use mesh_core::resource::{Object, ObjectKey, Parsed};
use mesh_source::kubernetes::connect_to;
use mesh_source::kubernetes::once::Cluster;

use crate::note;

/// How to find a cluster; with nothing given, as `kubectl` does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Access<'a> {
    pub(super) kubeconfig: Option<&'a Path>,
    pub(super) context: Option<&'a str>,
}

/// The objects of the cluster with those of `files` in their place; of Secrets, those that an analysis of them all
/// would look at.
pub(super) fn with_files(access: &Access<'_>, files: &Parsed, options: &Options) -> Result<Parsed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (client, address) = connect_to(access.kubeconfig, access.context).await?;
        note(&format!("reading the cluster at {address}"));
        let cluster = Cluster::find(client).await.with_context(|| address.clone())?;
        let mut there = cluster.list().await.with_context(|| address.clone())?;
        note(&format!("{} objects in the cluster", there.objects.len()));
        // Gateways of the files may name Secrets of the cluster.
        let both = apply(&there, files);
        let secrets = analyze::secrets(&both, options);
        let secrets = cluster.secrets(&secrets).await.with_context(|| address.clone())?;
        for secret in secrets.rejected.iter().filter(|it| !is_told(&secrets, it.key.as_ref())) {
            note(&format!("{}: may not be read, so nothing is said about it", secret.origin));
        }
        there.append(secrets);
        Ok(apply(&there, files))
    })
}

/// What the cluster would hold if `files` were applied to it. An object that was there keeps its age; a document that would
/// be refused changes nothing.
fn apply(there: &Parsed, files: &Parsed) -> Parsed {
    let new: HashSet<ObjectKey> = files.objects.iter().map(Object::key).collect();
    let is_replaced = |key: &ObjectKey| new.contains(key);
    let replaced: HashSet<_> = there
        .objects
        .iter()
        .map(|object| (object.key(), &object.origin))
        .chain(there.rejected.iter().filter_map(|it| Some((it.key.clone()?, &it.origin))))
        .filter(|(key, _)| is_replaced(key))
        .map(|(_, origin)| origin)
        .collect();
    let mut both = there.clone();
    both.objects.retain(|object| !replaced.contains(&object.origin));
    both.rejected.retain(|rejected| !replaced.contains(&rejected.origin));
    both.findings.retain(|finding| !replaced.contains(&finding.origin));
    let old: HashMap<ObjectKey, &Object> = there.objects.iter().map(|it| (it.key(), it)).collect();
    let mut files = files.clone();
    for object in &mut files.objects {
        if let Some(old) = old.get(&object.key()) {
            object.meta.creation_timestamp = old.meta.creation_timestamp;
            object.meta.uid.clone_from(&old.meta.uid);
        }
    }
    both.append(files);
    both
}

/// Whether there is a finding about an object.
fn is_told(parsed: &Parsed, key: Option<&ObjectKey>) -> bool {
    let name = key.map(ToString::to_string);
    parsed.findings.iter().any(|finding| Some(&*finding.origin.file) == name.as_deref())
}

#[cfg(test)]
mod tests;

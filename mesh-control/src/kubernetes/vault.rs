//! A vault in a Secret. All entries are replaced in one step, on the condition that the Secret is still the one that was
//! read, so that of two replicas that make a CA at the same moment one does and the other finds it.
//!
//! A CA that somebody plugs in is the Secret `cacerts`, as in Istio; it is theirs, and only read. Otherwise the CA is in
//! `istio-ca-secret`, where Istio keeps its self-signed one: a mesh that changes over goes on with the root it has.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, Patch, PatchParams, PostParams};
use mesh_ca::{Change, Contents, Pending, Vault, VaultError};
use mesh_source::kubernetes::Client;
use serde_json::{Map, Value, json};

use super::{CallError, MANAGER, call};

/// A vault in a Secret of the mesh's own namespace.
#[derive(Clone)]
pub struct SecretVault {
    secrets: Api<Secret>,
    namespace: String,
    /// The Secret that is used in place of `own` if it exists, and never written.
    theirs: Option<&'static str>,
    own: &'static str,
    /// What `own` is made as.
    sort: &'static str,
}

impl SecretVault {
    /// The certificate authority.
    pub(super) fn ca(client: Client, namespace: &str) -> Self {
        Self::new(client, namespace, Some(PLUGGED_IN), (SELF_MADE, "istio.io/ca-root"))
    }

    /// Join tokens.
    pub(super) fn join(client: Client, namespace: &str) -> Self {
        Self::new(client, namespace, None, (JOIN_TOKENS, "Opaque"))
    }

    fn new(
        client: Client,
        namespace: &str,
        theirs: Option<&'static str>,
        (own, sort): (&'static str, &'static str),
    ) -> Self {
        let secrets = Api::namespaced(client, namespace);
        Self { secrets, namespace: namespace.to_owned(), theirs, own, sort }
    }

    async fn look(&self) -> Result<Contents, VaultError> {
        if let Some(name) = self.theirs
            && let Some(secret) = self.get(name).await?
        {
            return Ok(self.contents(name, secret));
        }
        let secret = self.get(self.own).await?;
        Ok(self.contents(self.own, secret.unwrap_or_default()))
    }

    /// None only if the server says that there is none: to take a failure for that would mean to make a second CA.
    async fn get(&self, name: &str) -> Result<Option<Secret>, VaultError> {
        call(self.secrets.get_opt(name)).await.map_err(|error| self.elsewhere(name, &error))
    }

    fn contents(&self, name: &str, secret: Secret) -> Contents {
        let version = secret.metadata.resource_version.unwrap_or_default();
        let entries = secret.data.unwrap_or_default().into_iter();
        // Istio writes what it does not have as an empty entry.
        let entries = entries.filter(|(_, data)| !data.0.is_empty()).map(|(name, data)| (name, data.0));
        let entries = completed(entries.collect());
        Contents::new(self.place(name), format!("{name}@{version}"), entries)
    }

    async fn change(&self, base: &Contents, changes: &[Change]) -> Result<(), VaultError> {
        let conflict = || VaultError::Conflict { place: self.place(self.own) };
        let (name, version) = base.version().rsplit_once('@').ok_or_else(conflict)?;
        if name != self.own {
            let reason = "it belongs to whoever made it: change it, or remove it, by hand".to_owned();
            return Err(VaultError::Elsewhere { place: self.place(name), reason });
        }
        let outcome = if version.is_empty() {
            let secret = self.first(changes);
            call(self.secrets.create(&PostParams::default(), &secret)).await
        } else {
            let patch = Patch::Merge(merge(version, base, changes));
            let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
            call(self.secrets.patch(self.own, &params, &patch)).await
        };
        match outcome {
            Ok(_) => Ok(()),
            // Not what it was, or gone, or there already.
            Err(error) if matches!(error.code(), Some(404 | 409)) => Err(conflict()),
            Err(error) => Err(self.elsewhere(self.own, &error)),
        }
    }

    fn first(&self, changes: &[Change]) -> Secret {
        let after = Contents::new(String::new(), String::new(), BTreeMap::new()).with(changes);
        let data = after.entries().iter().map(|(name, data)| (name.clone(), ByteString(data.clone())));
        let metadata = ObjectMeta { name: Some(self.own.to_owned()), ..ObjectMeta::default() };
        Secret {
            metadata,
            data: Some(data.collect()),
            type_: Some(self.sort.to_owned()),
            ..Secret::default()
        }
    }

    fn place(&self, name: &str) -> String {
        format!("Secret {}/{name} ", self.namespace)
    }

    fn elsewhere(&self, name: &str, error: &CallError) -> VaultError {
        VaultError::Elsewhere { place: self.place(name).trim_end().to_owned(), reason: error.to_string() }
    }
}

impl Vault for SecretVault {
    fn read(&self) -> Pending<'_, Contents> {
        Box::pin(self.look())
    }

    fn write<'a>(&'a self, base: &'a Contents, changes: &'a [Change]) -> Pending<'a, ()> {
        Box::pin(self.change(base, changes))
    }
}

/// The root and the chain of a self-signed CA go without saying for Istio: both are its certificate.
fn completed(mut entries: BTreeMap<String, Vec<u8>>) -> BTreeMap<String, Vec<u8>> {
    let has = |name: &str| entries.contains_key(name);
    let lacks_the_rest = has("ca-key.pem") && !has("root-cert.pem") && !has("cert-chain.pem");
    if let Some(certificate) = entries.get("ca-cert.pem").filter(|_| lacks_the_rest).cloned() {
        entries.insert("root-cert.pem".to_owned(), certificate.clone());
        entries.insert("cert-chain.pem".to_owned(), certificate);
    }
    entries
}

/// The patch that turns `base` into what it is after `changes`, if it still has this version. What others keep in the
/// Secret besides, labels for example, is left alone.
fn merge(version: &str, base: &Contents, changes: &[Change]) -> Value {
    let after = base.with(changes);
    let mut data: Map<String, Value> = Map::new();
    for name in base.entries().keys().filter(|name| after.get(name).is_none()) {
        data.insert(name.clone(), Value::Null);
    }
    // Also what has not changed: an entry that was completed above is not there yet.
    data.extend(after.entries().iter().map(|(name, bytes)| (name.clone(), STANDARD.encode(bytes).into())));
    json!({ "metadata": { "resourceVersion": version }, "data": data })
}

/// Where Istio looks for a CA that is brought along.
const PLUGGED_IN: &str = "cacerts";
/// Where Istio keeps the CA that it has made.
const SELF_MADE: &str = "istio-ca-secret";
const JOIN_TOKENS: &str = "mesh-join-tokens";

#[cfg(test)]
mod tests;

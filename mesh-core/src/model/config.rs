//! Resources of traffic management on their way to the data plane.
//!
//! A route means something else for every client (its labels, its namespace, its gateway), so whoever serves the client
//! compiles it; what travels is what the author wrote, checked.

use std::sync::Arc;

use super::alias::{EXPORT_TO, real_name};
use crate::policy::compile::DRY_RUN;
use crate::resource::{Level, Object, ObjectKey, Origin, ServedKind, Spec, from_json};
use crate::telemetry::READ_REQUESTS;

/// A `VirtualService`, `DestinationRule` or `Gateway`, a resource of the Gateway API, or a Service that is an alias.
#[derive(Debug, Clone)]
pub struct Config {
    key: Arc<ObjectKey>,
    object: Object,
    text: Arc<str>,
}

impl Config {
    /// `None` for an object of a kind that does not travel.
    pub fn of(object: &Object) -> Option<Self> {
        let text = object.spec_json.clone().or_else(|| alias_text(object))?;
        Some(Self { key: Arc::new(object.key()), object: object.clone(), text })
    }

    /// As [`Self::of`], with another spec, which `text` says in JSON.
    pub(super) fn with(object: &Object, spec: Spec, text: Arc<str>) -> Self {
        let object = Object { spec, spec_json: Some(Arc::clone(&text)), ..object.clone() };
        Self { key: Arc::new(object.key()), object, text }
    }

    /// Reads one that has travelled: its kind as [`ObjectKey::kind`], its namespace and name, when it was created in
    /// seconds since the Unix epoch, and its `spec` in JSON. It is checked again: who sent it may be of another version.
    pub fn read(
        kind: &str,
        (namespace, name): (&str, &str),
        created: Option<i64>,
        spec: &str,
    ) -> Result<Self, String> {
        let served = ServedKind::all().find(|served| served.key() == kind);
        let served = served.ok_or_else(|| format!("{kind} is no kind that is known here"))?;
        let origin: Arc<str> = format!("{kind} {namespace}/{name}").into();
        let origin = Origin { file: origin, document: usize::MAX };
        let metadata = serde_json::json!({ "namespace": namespace, "name": name });
        let text = format!("{{\"metadata\":{metadata},\"spec\":{spec}}}");
        let received = from_json(served, &text, &origin);
        let Some(mut object) = received.object else {
            let first = received.findings.into_iter().find(|one| one.level == Level::Error);
            return Err(first.map_or_else(|| "cannot be read".to_owned(), |one| one.to_string()));
        };
        object.meta.creation_timestamp = created;
        Self::of(&object).ok_or_else(|| format!("{kind} does not travel"))
    }

    /// What makes it unique.
    pub fn key(&self) -> Arc<ObjectKey> {
        Arc::clone(&self.key)
    }

    /// The resource.
    pub fn object(&self) -> &Object {
        &self.object
    }

    /// Whether it is for the same clients as `other`, another version of it.
    pub fn has_audience_of(&self, other: &Self) -> bool {
        match (&self.object.spec, &other.object.spec) {
            (Spec::VirtualService(one), Spec::VirtualService(other)) => {
                one.export_to == other.export_to && one.hosts == other.hosts && one.gateways == other.gateways
            }
            (Spec::DestinationRule(one), Spec::DestinationRule(other)) => {
                one.export_to == other.export_to && one.host == other.host
            }
            (Spec::HttpRoute(one), Spec::HttpRoute(other)) => one.parent_refs == other.parent_refs,
            (Spec::TlsRoute(one), Spec::TlsRoute(other)) => one.parent_refs == other.parent_refs,
            (Spec::TcpRoute(one), Spec::TcpRoute(other)) => one.parent_refs == other.parent_refs,
            (Spec::UdpRoute(one), Spec::UdpRoute(other)) => one.parent_refs == other.parent_refs,
            (Spec::GrpcRoute(one), Spec::GrpcRoute(other)) => one.parent_refs == other.parent_refs,
            _ => true,
        }
    }

    /// With annotations that are read besides the spec, as [`Self::annotations`] tells them.
    #[must_use]
    pub fn annotated(mut self, annotations: impl IntoIterator<Item = (String, String)>) -> Self {
        self.object.meta.annotations.extend(annotations);
        self
    }

    /// The annotations that are read besides the spec: for whom an alias is, whether a policy is only to be noted, and whether
    /// requests are read only to be told about.
    pub fn annotations(&self) -> impl Iterator<Item = (&String, &String)> {
        let is_alias = matches!(self.object.spec, Spec::Service(_));
        let is_policy = matches!(self.object.spec, Spec::AuthorizationPolicy(_));
        let is_telemetry = matches!(self.object.spec, Spec::Telemetry(_));
        let annotations = &self.object.meta.annotations;
        let alias = annotations.get_key_value(EXPORT_TO).filter(|_| is_alias);
        let dry_run = annotations.get_key_value(DRY_RUN).filter(|_| is_policy);
        let reads = annotations.get_key_value(READ_REQUESTS).filter(|_| is_telemetry);
        alias.into_iter().chain(dry_run).chain(reads)
    }

    /// Its `spec` in JSON.
    pub fn text(&self) -> &Arc<str> {
        &self.text
    }
}

/// Where it was written makes no difference.
impl PartialEq for Config {
    fn eq(&self, other: &Self) -> bool {
        let created = |one: &Self| one.object.meta.creation_timestamp;
        let is_same = self.key == other.key && created(self) == created(other) && self.text == other.text;
        is_same && self.annotations().eq(other.annotations())
    }
}

impl Eq for Config {}

/// What of a Service travels: that it is an alias, and of what.
fn alias_text(object: &Object) -> Option<Arc<str>> {
    let Spec::Service(service) = &object.spec else { return None };
    let spec = serde_json::json!({ "type": "ExternalName", "externalName": real_name(service)? });
    Some(spec.to_string().into())
}

#[cfg(test)]
mod tests;

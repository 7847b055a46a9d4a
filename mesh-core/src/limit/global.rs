//! Limits that a rate limit service counts for all: what it is asked about a request.

use std::sync::Arc;
use std::time::Duration;

use super::rule::{Call, Conditions, host};
use crate::resource::rate_limit::{DescriptorEntry, FailureMode, GlobalLimit, LimitKey};
use crate::resource::value::Duration as Written;
use crate::route::ClusterRef;

/// Where to ask, and what.
#[derive(Debug)]
pub struct Global {
    /// The service.
    pub to: ClusterRef,
    /// Whose limits are meant there.
    pub domain: Arc<str>,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Whether a request is refused of which the service says nothing.
    pub denies: bool,
    descriptors: Vec<(Conditions, Vec<DescriptorEntry>)>,
}

/// What the service looks up: keys and values, from the outermost to the innermost.
pub type Descriptor = Vec<(String, String)>;

impl Global {
    /// A limit of `namespace`, where a short name of a service is one of its own.
    pub(super) fn new(limit: &GlobalLimit, namespace: &str) -> Self {
        let host = limit.service.qualified(namespace, CLUSTER_DOMAIN);
        let to = ClusterRef { host: host.to_string().into(), subset: None, port: Some(limit.port.get()) };
        let descriptors = limit.descriptors.iter();
        let descriptors = descriptors.map(|one| (Conditions::of(&one.r#match), one.entries.clone()));
        Self {
            to,
            domain: limit.domain.as_str().into(),
            timeout: limit.timeout.map_or(DEFAULT_TIMEOUT, Written::get),
            denies: limit.on_failure == FailureMode::Deny,
            descriptors: descriptors.collect(),
        }
    }

    /// What is to be asked about a request; nothing if no descriptor is for it. A descriptor of which something is not there,
    /// such as a header, is not asked about.
    pub fn descriptors(&self, call: &Call<'_>) -> Vec<Descriptor> {
        let matching = self.descriptors.iter().filter(|(conditions, _)| conditions.match_any(call));
        let all = matching.map(|(_, entries)| {
            let entries = entries.iter().map(|entry| Some((entry.key.clone(), value(entry, call)?)));
            entries.collect::<Option<Descriptor>>()
        });
        all.flatten().collect()
    }
}

fn value(entry: &DescriptorEntry, call: &Call<'_>) -> Option<String> {
    let Some(from) = &entry.from else { return Some(entry.value.clone()) };
    let view = &call.view;
    Some(match from {
        LimitKey::Identity => call.caller.identity?.to_string(),
        LimitKey::Address => call.caller.address.to_canonical().to_string(),
        LimitKey::Host => host(view.authority).to_ascii_lowercase(),
        LimitKey::Route => call.route.to_owned(),
        LimitKey::Method => view.method.as_str().to_owned(),
        LimitKey::Path => view.path.to_owned(),
        LimitKey::Header(name) => {
            let value = view.headers.get(name.as_str())?;
            String::from_utf8_lossy(value.as_bytes()).into_owned()
        }
    })
}

/// What short names end with.
const CLUSTER_DOMAIN: &str = "cluster.local";
/// As Envoy's.
const DEFAULT_TIMEOUT: Duration = Duration::from_millis(20);

//! Services that the proxy tells of its own accord what it has seen: collectors of spans and of access logs.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use crate::external::may_be_set;
use crate::resource::mesh_config::provider::{HttpHeader, HttpHeaderValue};
use crate::resource::value::Duration as Written;

/// Where something is delivered, and how long that may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addressee {
    /// What Telemetry calls it.
    pub name: Arc<str>,
    /// What the service may be called in full; the first that there is.
    pub hosts: Vec<Arc<str>>,
    /// Of the service.
    pub port: u16,
    /// What is sent along.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Headers whose values the proxy's environment has.
    pub variables: Vec<(HeaderName, String)>,
    /// How long a delivery may take.
    pub timeout: Duration,
}

impl Addressee {
    /// The provider `name`, whose `service` is written `[NAMESPACE/]HOST`.
    pub fn new(name: &str, service: &str, port: u16) -> Self {
        Self {
            name: name.into(),
            hosts: hosts(service),
            port,
            headers: Vec::new(),
            variables: Vec::new(),
            timeout: TIMEOUT,
        }
    }

    /// With a time limit, if there is one, and with headers; those that say who is spoken to stay ours.
    #[must_use]
    pub fn with(mut self, timeout: Option<Written>, headers: &[HttpHeader]) -> Self {
        self.timeout = timeout.map_or(TIMEOUT, Written::get);
        for header in headers {
            let name = HeaderName::from_bytes(header.name.as_bytes()).ok().filter(may_be_set);
            let Some(name) = name else { continue };
            match &header.value {
                HttpHeaderValue::Text(text) => {
                    self.headers.extend(HeaderValue::from_str(text).map(|it| (name, it)));
                }
                HttpHeaderValue::Variable(variable) => self.variables.push((name, variable.clone())),
            }
        }
        self
    }
}

/// What a service may be called in full: before a slash stands the namespace whose view of the name is meant.
fn hosts(service: &str) -> Vec<Arc<str>> {
    let host = service.split_once('/').map_or(service, |(_, host)| host).to_ascii_lowercase();
    let ends = ["", ".svc.cluster.local", ".cluster.local"];
    ends.iter().map(|end| format!("{host}{end}").into()).collect()
}

/// Where a provider says nothing: Envoy's.
const TIMEOUT: Duration = Duration::from_secs(5);

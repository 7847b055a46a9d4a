//! Services that take access logs: the providers `envoyHttpAls`, `envoyTcpAls` and `envoyOtelAls` of `MeshConfig`.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::addressee::Addressee;
use crate::resource::mesh_config::provider::{
    ExtensionProvider, GrpcAccessLog, OpenTelemetryAccessLog, ProviderKind,
};

/// Somebody who takes access logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogService {
    /// Where entries are delivered.
    pub to: Addressee,
    /// What the log is called.
    pub log_name: String,
    /// What it is told, and in which words.
    pub takes: Takes,
}

/// What a service of access logs is told, and in which words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Takes {
    /// Requests, by Envoy's access log service.
    Requests {
        /// Names of headers of requests that it is told as well, in lower case.
        headers: Vec<String>,
    },
    /// Connections, by Envoy's access log service.
    Connections,
    /// Both, as records of OpenTelemetry.
    Records {
        /// The format of a record's body; `None` is Envoy's own.
        body: Option<String>,
        /// The formats of its attributes, by name.
        attributes: BTreeMap<String, String>,
    },
}

impl LogService {
    /// Of a provider; `None` if it is something else.
    pub fn of(provider: &ExtensionProvider) -> Option<Self> {
        match &provider.kind {
            ProviderKind::HttpAccessLog(it) => Some(Self::requests(&provider.name, it)),
            ProviderKind::TcpAccessLog(it) => Some(Self {
                to: Addressee::new(&provider.name, &it.service, it.port.get()),
                log_name: or(&it.log_name, TCP_NAME),
                takes: Takes::Connections,
            }),
            ProviderKind::OpenTelemetryAccessLog(it) => Some(Self::records(&provider.name, it)),
            _ => None,
        }
    }

    /// Whether it is told of requests.
    pub fn takes_requests(&self) -> bool {
        !matches!(self.takes, Takes::Connections)
    }

    /// Whether it is told of connections.
    pub fn takes_connections(&self) -> bool {
        !matches!(self.takes, Takes::Requests { .. })
    }

    fn requests(name: &str, it: &GrpcAccessLog) -> Self {
        let headers = it.additional_request_headers_to_log.iter().map(|name| name.to_ascii_lowercase());
        Self {
            to: Addressee::new(name, &it.service, it.port.get()),
            log_name: or(&it.log_name, HTTP_NAME),
            takes: Takes::Requests { headers: headers.collect() },
        }
    }

    fn records(name: &str, it: &OpenTelemetryAccessLog) -> Self {
        let format = it.log_format.clone().unwrap_or_default();
        let attributes = format.labels.unwrap_or_default().into_iter().map(|(name, value)| match value {
            Value::String(format) => (name, format),
            // What is no format says itself.
            other => (name, other.to_string().replace('%', "%%")),
        });
        Self {
            to: Addressee::new(name, &it.service, it.port.get()),
            log_name: or(&it.log_name, OTEL_NAME),
            takes: Takes::Records {
                body: format.text.filter(|text| !text.is_empty()),
                attributes: attributes.collect(),
            },
        }
    }
}

fn or(given: &str, default: &str) -> String {
    if given.is_empty() { default } else { given }.to_owned()
}

/// What logs are called where nobody says: Istio's names.
const HTTP_NAME: &str = "http_envoy_accesslog";
const TCP_NAME: &str = "tcp_envoy_accesslog";
const OTEL_NAME: &str = "otel_envoy_accesslog";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::Origin;
    use crate::resource::mesh_config::MeshConfig;

    #[test]
    fn services_are_what_providers_say() {
        let text = "
extensionProviders:
- {name: h, envoyHttpAls: {service: ns/als, port: 9001, additionalRequestHeadersToLog: [X-Who]}}
- {name: t, envoyTcpAls: {service: als.ns.svc.cluster.local, port: 9002, logName: own}}
- {name: o, envoyOtelAls: {service: otel, port: 4317, logFormat: {text: '%PROTOCOL%', labels: {a: '%DURATION%', b: 1}}}}
- {name: e, envoyOtelAls: {service: otel, port: 4317, logFormat: {text: ''}}}
- {name: f, envoyFileAccessLog: {path: /dev/stdout}}
";
        let (mesh, _) = MeshConfig::parse(text, &Origin { file: "f".into(), document: 1 });
        let all: Vec<_> = mesh.extension_providers.iter().map(LogService::of).collect();
        let [Some(http), Some(tcp), Some(otel), Some(empty), None] = &all[..] else { panic!("{all:?}") };
        assert_eq!((&*http.to.hosts[1], http.to.port), ("als.svc.cluster.local", 9001));
        assert_eq!(http.log_name, "http_envoy_accesslog");
        assert_eq!(http.takes, Takes::Requests { headers: vec!["x-who".to_owned()] });
        assert!(http.takes_requests() && !http.takes_connections());
        assert_eq!((&*tcp.log_name, tcp.takes_requests(), tcp.takes_connections()), ("own", false, true));
        let pair = |name: &str, format: &str| (name.to_owned(), format.to_owned());
        let attributes = [pair("a", "%DURATION%"), pair("b", "1")].into();
        assert_eq!(otel.takes, Takes::Records { body: Some("%PROTOCOL%".to_owned()), attributes });
        assert!(otel.takes_requests() && otel.takes_connections());
        assert_eq!(empty.takes, Takes::Records { body: None, attributes: BTreeMap::new() });
        assert_eq!((&*empty.log_name, &*empty.to.name), ("otel_envoy_accesslog", "e"));
    }
}

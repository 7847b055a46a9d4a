//! Where spans go: the providers of `MeshConfig` that are collectors, and the one that its proxies have.

use super::context::Forms;
use crate::addressee::Addressee;
use crate::resource::mesh_config::MeshConfig;
use crate::resource::mesh_config::provider::{
    ExtensionProvider, OpenTelemetryTracing, ProviderKind, ZipkinContext, ZipkinProvider,
};

/// Somebody who takes spans.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collector {
    /// Where spans are delivered.
    pub to: Addressee,
    /// How it is spoken to.
    pub speaks: Speaks,
    /// The headers by which a request carries its trace on.
    pub forms: Forms,
    /// Bytes of a tag's value.
    pub most: usize,
}

/// How a collector is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Speaks {
    /// Zipkin's format 2, to this path.
    Zipkin {
        /// For example `/api/v2/spans`.
        path: Box<str>,
        /// Whether trace ids have 64 bits.
        short: bool,
    },
    /// OTLP over gRPC.
    OtlpGrpc,
    /// OTLP over HTTP, to this path.
    OtlpHttp {
        /// For example `/v1/traces`.
        path: Box<str>,
    },
}

/// A provider that no spans are sent to, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unsupported {
    /// There is none of the name.
    #[error("there is no provider {0}")]
    Unknown(String),
    /// It is no collector that this mesh speaks to.
    #[error("provider {0} is neither zipkin nor opentelemetry")]
    Kind(String),
}

impl Collector {
    /// The one of this name.
    ///
    /// # Errors
    /// If there is none, or it is something else.
    pub fn find(mesh: &MeshConfig, name: &str) -> Result<Self, Unsupported> {
        let provider = mesh.extension_providers.iter().find(|provider| provider.name == name);
        let provider = provider.ok_or_else(|| Unsupported::Unknown(name.to_owned()))?;
        Self::of(provider).ok_or_else(|| Unsupported::Kind(name.to_owned()))
    }

    /// Of a provider; `None` if it is something else.
    pub fn of(provider: &ExtensionProvider) -> Option<Self> {
        match &provider.kind {
            ProviderKind::Zipkin(it) => Some(Self::zipkin(&provider.name, it)),
            ProviderKind::OpenTelemetry(it) => Some(Self::otlp(&provider.name, it)),
            _ => None,
        }
    }

    /// Whether trace ids have 64 bits.
    pub fn has_short_ids(&self) -> bool {
        matches!(self.speaks, Speaks::Zipkin { short: true, .. })
    }

    /// The Zipkin that `defaultConfig` says, if it says one and `enableTracing` does not forbid it.
    pub fn by_default(mesh: &MeshConfig) -> Option<Self> {
        let tracing = mesh.default_config.tracing.as_ref().and_then(|it| it.zipkin.as_ref());
        let address = tracing.map(|it| &it.address).or(mesh.default_config.zipkin_address.as_ref());
        let address = address.filter(|address| mesh.enable_tracing && !address.is_empty())?;
        let (host, port) = address.rsplit_once(':')?;
        Some(Self {
            to: Addressee::new(BY_DEFAULT, host, port.parse().ok()?),
            speaks: Speaks::Zipkin { path: ZIPKIN_PATH.into(), short: false },
            forms: B3,
            most: MOST,
        })
    }

    fn zipkin(name: &str, it: &ZipkinProvider) -> Self {
        let path = if it.path.is_empty() { ZIPKIN_PATH } else { &it.path };
        let with_w3c = it.trace_context_option == ZipkinContext::B3WithW3c;
        Self {
            to: Addressee::new(name, &it.service, it.port.get()).with(it.timeout, &it.headers),
            speaks: Speaks::Zipkin { path: path.into(), short: it.enable_64bit_trace_id },
            forms: Forms { w3c: with_w3c, ..B3 },
            most: most(it.max_tag_length),
        }
    }

    fn otlp(name: &str, it: &OpenTelemetryTracing) -> Self {
        let to = Addressee::new(name, &it.service, it.port.get());
        let (to, speaks) = match (&it.http, &it.grpc) {
            (Some(http), _) => {
                let path = if http.path.is_empty() { OTLP_PATH } else { &http.path };
                (to.with(http.timeout, &http.headers), Speaks::OtlpHttp { path: path.into() })
            }
            (None, Some(grpc)) => (to.with(grpc.timeout, &grpc.initial_metadata), Speaks::OtlpGrpc),
            (None, None) => (to, Speaks::OtlpGrpc),
        };
        let forms = Forms { w3c: true, b3: false, single: false };
        Self { to, speaks, forms, most: most(it.max_tag_length) }
    }
}

fn most(given: u32) -> usize {
    if given == 0 { MOST } else { usize::try_from(given).unwrap_or(MOST).min(MOST_EVER) }
}

const B3: Forms = Forms { w3c: false, b3: true, single: false };
/// What the Zipkin is called that proxies have without a provider: where it is written.
const BY_DEFAULT: &str = "defaultConfig.tracing.zipkin";
/// Where a provider says nothing: Envoy's.
const ZIPKIN_PATH: &str = "/api/v2/spans";
const OTLP_PATH: &str = "/v1/traces";
/// Bytes of a tag's value where nobody says how many: Envoy's.
pub(crate) const MOST: usize = 256;
/// However many somebody asks for.
const MOST_EVER: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderName;

    use super::*;
    use crate::resource::Origin;

    fn mesh(text: &str) -> MeshConfig {
        MeshConfig::parse(text, &Origin { file: "f".into(), document: 1 }).0
    }

    #[test]
    fn collectors_are_what_providers_say() {
        let mesh = mesh(
            "
extensionProviders:
- {name: z, zipkin: {service: zipkin.ns.svc.cluster.local, port: 9411, enable64bitTraceId: true, traceContextOption: USE_B3_WITH_W3C_PROPAGATION}}
- {name: g, opentelemetry: {service: ns/Otel, port: 4317, maxTagLength: 12}}
- {name: h, opentelemetry: {service: otel, port: 4318, http: {path: /x, timeout: 3s, headers: [{name: a, value: b}, {name: host, value: evil}, {name: token, envName: T}]}}}
- {name: d, datadog: {service: dd, port: 8126}}
",
        );
        let of = |name: &str| Collector::find(&mesh, name);
        let zipkin = of("z").unwrap();
        assert_eq!((&*zipkin.to.hosts[0], zipkin.to.port), ("zipkin.ns.svc.cluster.local", 9411));
        assert_eq!(zipkin.speaks, Speaks::Zipkin { path: "/api/v2/spans".into(), short: true });
        assert_eq!((zipkin.forms.w3c, zipkin.forms.b3, zipkin.most), (true, true, 256));
        let grpc = of("g").unwrap();
        assert_eq!((&*grpc.to.hosts[1], grpc.most), ("otel.svc.cluster.local", 12));
        assert_eq!((grpc.speaks, grpc.forms.w3c, grpc.forms.b3), (Speaks::OtlpGrpc, true, false));
        let http = of("h").unwrap();
        assert_eq!(http.speaks, Speaks::OtlpHttp { path: "/x".into() });
        assert_eq!(
            (http.to.timeout, http.to.headers.len()),
            (Duration::from_secs(3), 1),
            "who is spoken to stays ours"
        );
        assert_eq!(http.to.variables, [(HeaderName::from_static("token"), "T".to_owned())]);
        assert_eq!(of("d").unwrap_err().to_string(), "provider d is neither zipkin nor opentelemetry");
        assert_eq!(of("n").unwrap_err().to_string(), "there is no provider n");
    }

    #[test]
    fn the_zipkin_of_all_proxies_needs_an_address_and_leave() {
        let of = |text: &str| {
            Collector::by_default(&mesh(text)).map(|it| (it.to.hosts[1].to_string(), it.to.port))
        };
        let address = "defaultConfig: {tracing: {zipkin: {address: 'zipkin.istio-system:9411'}}}";
        assert_eq!(of(address), Some(("zipkin.istio-system.svc.cluster.local".to_owned(), 9411)));
        assert_eq!(of(&format!("enableTracing: false\n{address}")), None);
        assert_eq!(of("defaultConfig: {zipkinAddress: 'z:1'}"), Some(("z.svc.cluster.local".to_owned(), 1)));
        assert_eq!(of("defaultConfig: {tracing: {zipkin: {address: 'z'}}}"), None);
        assert_eq!(of(""), None);
    }
}

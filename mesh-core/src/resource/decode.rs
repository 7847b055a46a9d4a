//! One object: from a tree to a checked [`Object`].

use k8s_openapi::Metadata;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::kind::Kind;
use super::secret;
use super::strict::{self, Decoded, Unknown};
use super::tree::{MAX_PROBLEMS, Problem, Tree};
use super::validate::{self, Report};
use super::{Level, Object, ObjectStatus, Origin, Spec};

/// What came of a tree.
pub(super) struct Outcome {
    /// `None` if one of the problems is an error.
    pub(super) object: Option<Object>,
    /// All that was found.
    pub(super) problems: Vec<Problem>,
}

/// Reads and checks `tree` as an object of `kind`; fields in problems begin with `prefix`.
pub(super) fn object(kind: Kind, tree: &Tree, prefix: &str, origin: Origin) -> Outcome {
    checked(kind, tree, Report::new(prefix), origin)
}

/// As [`object`], of an object that an API server has let in.
pub(super) fn served(kind: Kind, tree: &Tree, unknown: Unknown, origin: Origin) -> Outcome {
    checked(kind, tree, Report::tolerating(unknown), origin)
}

fn checked(kind: Kind, tree: &Tree, mut report: Report<'_>, origin: Origin) -> Outcome {
    let read = read(kind, tree, &mut report);
    let object = read.map(|(metadata, spec)| {
        let meta = validate::metadata(kind, &metadata, &mut report);
        if kind.is_istio() {
            validate::annotations(&spec, &meta, &mut report);
        }
        validate::spec(&spec, &meta, &mut report);
        let version = tree.get("apiVersion").and_then(Tree::as_str).and_then(|it| it.rsplit('/').next());
        validate::version(&spec, version.unwrap_or("v1"), &mut report);
        if kind == Kind::AuthorizationPolicy {
            validate::empty_lists(tree, &mut report);
        }
        if !kind.is_enforced() {
            let reason = format!("{} is not enforced yet: this document has no effect", kind.name());
            report.warning("", reason);
        }
        let spec_json = kind.travels().then(|| tree.get("spec").map_or("{}".into(), Tree::to_json));
        Object { origin, meta, spec, digest: tree.digest(), spec_json, status: ObjectStatus::default() }
    });
    let problems = report.into_problems();
    let failed = problems.iter().any(|problem| problem.level == Level::Error);
    Outcome { object: object.filter(|_| !failed), problems }
}

/// The metadata and the typed rest of `tree`; what is wrong with it goes to `report`.
fn read(kind: Kind, tree: &Tree, report: &mut Report) -> Option<Read> {
    match kind {
        Kind::Namespace => whole(kind, tree, report, Spec::Namespace),
        Kind::Node => whole(kind, tree, report, |it| Spec::Node(Box::new(it))),
        Kind::Pod => whole(kind, tree, report, |it| Spec::Pod(Box::new(it))),
        Kind::Service => whole(kind, tree, report, |it| Spec::Service(Box::new(it))),
        Kind::ServiceAccount => whole(kind, tree, report, Spec::ServiceAccount),
        Kind::ConfigMap => whole(kind, tree, report, Spec::ConfigMap),
        Kind::Secret => {
            let (read, problems) = secret::read(tree, report.prefix());
            report.extend(problems);
            read.map(|(metadata, secret)| (metadata, Spec::Secret(Box::new(secret))))
        }
        Kind::EndpointSlice => whole(kind, tree, report, Spec::EndpointSlice),
        Kind::Deployment => whole(kind, tree, report, |it| Spec::Deployment(Box::new(it))),
        Kind::Gateway => custom(kind, tree, report, Spec::Gateway),
        Kind::VirtualService => custom(kind, tree, report, |it| Spec::VirtualService(Box::new(it))),
        Kind::DestinationRule => required(kind, tree, report, |it| Spec::DestinationRule(Box::new(it))),
        Kind::ServiceEntry => required(kind, tree, report, |it| Spec::ServiceEntry(Box::new(it))),
        Kind::WorkloadEntry => required(kind, tree, report, Spec::WorkloadEntry),
        Kind::WorkloadGroup => required(kind, tree, report, |it| Spec::WorkloadGroup(Box::new(it))),
        Kind::Sidecar => custom(kind, tree, report, |it| Spec::Sidecar(Box::new(it))),
        Kind::ProxyConfig => custom(kind, tree, report, Spec::ProxyConfig),
        Kind::PeerAuthentication => custom(kind, tree, report, Spec::PeerAuthentication),
        Kind::AuthorizationPolicy => custom(kind, tree, report, Spec::AuthorizationPolicy),
        Kind::RequestAuthentication => custom(kind, tree, report, Spec::RequestAuthentication),
        Kind::Telemetry => custom(kind, tree, report, Spec::Telemetry),
        Kind::GatewayClass => required(kind, tree, report, Spec::GatewayClass),
        Kind::KubernetesGateway => required(kind, tree, report, |it| Spec::KubernetesGateway(Box::new(it))),
        Kind::ListenerSet => required(kind, tree, report, |it| Spec::ListenerSet(Box::new(it))),
        Kind::HTTPRoute => required(kind, tree, report, |it| Spec::HttpRoute(Box::new(it))),
        Kind::GRPCRoute => required(kind, tree, report, |it| Spec::GrpcRoute(Box::new(it))),
        Kind::TLSRoute => required(kind, tree, report, |it| Spec::TlsRoute(Box::new(it))),
        Kind::TCPRoute => required(kind, tree, report, |it| Spec::TcpRoute(Box::new(it))),
        Kind::UDPRoute => required(kind, tree, report, |it| Spec::UdpRoute(Box::new(it))),
        Kind::ReferenceGrant => required(kind, tree, report, Spec::ReferenceGrant),
        Kind::BackendTLSPolicy => required(kind, tree, report, |it| Spec::BackendTlsPolicy(Box::new(it))),
        Kind::RateLimit => required(kind, tree, report, |it| Spec::RateLimit(Box::new(it))),
        Kind::HealthCheck => required(kind, tree, report, |it| Spec::HealthCheck(Box::new(it))),
    }
}

/// Checks what every object has, of a kind that is not read further. `strict`: no fields beside `spec` and `status`.
pub(super) fn envelope(tree: &Tree, prefix: &str, strict: bool) -> Vec<Problem> {
    let mut problems = if strict {
        strict::decode::<Custom<IgnoredAny>>(tree, prefix).problems
    } else {
        strict::decode::<Loose>(tree, prefix).problems
    };
    if !strict {
        // Fields beside `metadata` are those of a kind we know nothing of.
        let metadata = if prefix.is_empty() { "metadata".to_owned() } else { format!("{prefix}.metadata") };
        problems.retain(|problem| {
            problem
                .field
                .strip_prefix(&metadata)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        });
    }
    problems
}

/// An object of a custom kind.
#[derive(Deserialize)]
struct Custom<S> {
    #[serde(rename = "apiVersion")]
    _api_version: Option<IgnoredAny>,
    #[serde(rename = "kind")]
    _kind: Option<IgnoredAny>,
    metadata: Option<ObjectMeta>,
    spec: Option<S>,
    #[serde(rename = "status")]
    _status: Option<IgnoredAny>,
}

/// Any object.
#[derive(Deserialize)]
struct Loose {
    #[serde(rename = "metadata")]
    _metadata: Option<ObjectMeta>,
}

/// A Kubernetes object, and a copy of its metadata.
fn whole<T>(kind: Kind, tree: &Tree, report: &mut Report, make: impl FnOnce(T) -> Spec) -> Option<Read>
where
    T: for<'de> Deserialize<'de> + Metadata<Ty = ObjectMeta>,
{
    let object = accept::<T>(kind, tree, report)?;
    Some((object.metadata().clone(), make(object)))
}

/// A custom resource whose spec means something even if it is empty or absent.
fn custom<S>(kind: Kind, tree: &Tree, report: &mut Report, make: impl FnOnce(S) -> Spec) -> Option<Read>
where
    S: for<'de> Deserialize<'de> + Default,
{
    let object = accept::<Custom<S>>(kind, tree, report)?;
    if object.spec.is_none() && tree.get("spec").is_none() {
        report.warning("spec", "absent, which means the same as {}");
    }
    Some((object.metadata.unwrap_or_default(), make(object.spec.unwrap_or_default())))
}

/// A custom resource whose spec must be there.
fn required<S>(kind: Kind, tree: &Tree, report: &mut Report, make: impl FnOnce(S) -> Spec) -> Option<Read>
where
    S: for<'de> Deserialize<'de>,
{
    let object = accept::<Custom<S>>(kind, tree, report)?;
    if object.spec.is_none() && tree.get("spec").is_none() {
        report.error("spec", "required, but missing");
    }
    Some((object.metadata.unwrap_or_default(), make(object.spec?)))
}

/// Reads the whole object; what is wrong with it goes to `report`.
fn accept<T: for<'de> Deserialize<'de>>(kind: Kind, tree: &Tree, report: &mut Report) -> Option<T> {
    let Decoded { value, problems, null_fields, null_strings } =
        strict::decode_with(tree, report.prefix(), report.unknown());
    report.extend(problems);
    if kind.is_custom() {
        // Custom resources' schemas know no null: `from:` with nothing below it must not mean "from anywhere".
        let spec = report.full("spec");
        let nulls = null_fields.into_iter().chain(null_strings).filter(|field| field.starts_with(&spec));
        let hint = "give it a value or remove it";
        let problem = |field| Problem::error(field, "null is not a value").hint(hint);
        report.extend(nulls.take(MAX_PROBLEMS).map(problem));
    }
    value
}

/// The metadata of an object, and the rest of it.
type Read = (ObjectMeta, Spec);

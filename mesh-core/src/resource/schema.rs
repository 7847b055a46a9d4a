//! The `CustomResourceDefinitions` of Istio's kinds and of our own, made from the types that read them: what an API server lets in and
//! what the mesh understands cannot drift apart.
//!
//! Only the shape of single fields and what Kubernetes' schemas can say about several is here; the rest is left to
//! the checks of the parser, which run in any case.
//!
//! Kinds of Istio's that the mesh does not act on have a definition as well, which takes anything: what comes with them
//! in a Helm chart or a directory must not fail for a kind that the cluster lacks. That they have no effect is said by the
//! definition, by the webhook as they are written, and by a finding as long as they exist.

use std::borrow::Cow;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use super::kind::Kind;
use super::{
    AuthorizationPolicySpec, DestinationRuleSpec, GatewaySpec, HealthCheckSpec, PeerAuthenticationSpec,
    ProxyConfigSpec, RateLimitSpec, RequestAuthenticationSpec, ServedKind, ServiceEntrySpec, SidecarSpec,
    TelemetrySpec, VirtualServiceSpec, WorkloadEntrySpec, WorkloadGroupSpec,
};

pub(super) mod rules;
mod structural;

/// A `CustomResourceDefinition` and the name of its file.
#[derive(Debug, Clone)]
pub struct Crd {
    /// `PLURAL.GROUP.yaml`.
    pub file: String,
    /// The object.
    pub definition: Value,
}

/// What there is to say about a kind beside its type.
struct Row {
    kind: ServedKind,
    plural: Cow<'static, str>,
    short: Option<&'static str>,
    /// Whether an object without `spec` is refused.
    needs_spec: bool,
    /// Columns of `kubectl get` after the name; none means its own, the age.
    columns: &'static [Column],
    /// The type of `spec`; none where nothing reads it.
    spec: Option<fn(&mut SchemaGenerator) -> Schema>,
}

/// The definitions of all of Istio's kinds and of our own, by file name.
pub fn crds() -> Vec<Crd> {
    let mut crds: Vec<_> = rows().iter().chain(&unsupported()).map(Row::definition).collect();
    crds.sort_by(|one, other| one.file.cmp(&other.file));
    crds
}

/// Kinds of Istio's that are taken, and not acted on.
fn unsupported() -> Vec<Row> {
    let kinds = ServedKind::all().filter(|kind| !kind.is_supported() && kind.group().ends_with(".istio.io"));
    kinds.map(Row::unsupported).collect()
}

/// One row for each of Istio's kinds that the mesh reads and of our own; a test tells which is missing.
fn rows() -> Vec<Row> {
    vec![
        Row::new::<GatewaySpec>(Kind::Gateway, "gateways").short("gw"),
        Row::new::<VirtualServiceSpec>(Kind::VirtualService, "virtualservices").short("vs").columns(&[
            ("Gateways", ".spec.gateways"),
            ("Hosts", ".spec.hosts"),
            AGE,
        ]),
        Row::new::<DestinationRuleSpec>(Kind::DestinationRule, "destinationrules")
            .short("dr")
            .columns(&[("Host", ".spec.host"), AGE]),
        Row::new::<ServiceEntrySpec>(Kind::ServiceEntry, "serviceentries")
            .short("se")
            .columns(SERVICE_ENTRY_COLUMNS)
            .needs_spec(),
        Row::new::<WorkloadEntrySpec>(Kind::WorkloadEntry, "workloadentries")
            .short("we")
            .columns(&[AGE, ("Address", ".spec.address")])
            .needs_spec(),
        Row::new::<WorkloadGroupSpec>(Kind::WorkloadGroup, "workloadgroups")
            .short("wg")
            .columns(&[AGE])
            .needs_spec(),
        Row::new::<SidecarSpec>(Kind::Sidecar, "sidecars"),
        Row::new::<PeerAuthenticationSpec>(Kind::PeerAuthentication, "peerauthentications")
            .short("pa")
            .columns(&[("Mode", ".spec.mtls.mode"), AGE]),
        Row::new::<AuthorizationPolicySpec>(Kind::AuthorizationPolicy, "authorizationpolicies")
            .short("ap")
            .columns(&[("Action", ".spec.action"), AGE]),
        Row::new::<ProxyConfigSpec>(Kind::ProxyConfig, "proxyconfigs"),
        Row::new::<RequestAuthenticationSpec>(Kind::RequestAuthentication, "requestauthentications")
            .short("ra"),
        Row::new::<TelemetrySpec>(Kind::Telemetry, "telemetries").short("telemetry").columns(&[AGE]),
        Row::new::<RateLimitSpec>(Kind::RateLimit, "ratelimits").short("rl").columns(&[AGE]).needs_spec(),
        Row::new::<HealthCheckSpec>(Kind::HealthCheck, "healthchecks").columns(&[AGE]).needs_spec(),
    ]
}

impl Row {
    fn new<S: JsonSchema>(kind: Kind, plural: &'static str) -> Self {
        let spec = |generator: &mut SchemaGenerator| generator.root_schema_for::<S>();
        let (kind, plural) = (ServedKind::used(kind), Cow::Borrowed(plural));
        Self { kind, plural, short: None, needs_spec: false, columns: &[], spec: Some(spec) }
    }

    fn unsupported(kind: ServedKind) -> Self {
        let plural = format!("{}s", kind.name().to_ascii_lowercase()).into();
        Self { kind, plural, short: None, needs_spec: false, columns: &[AGE], spec: None }
    }

    fn short(self, short: &'static str) -> Self {
        Self { short: Some(short), ..self }
    }

    fn columns(self, columns: &'static [Column]) -> Self {
        Self { columns, ..self }
    }

    fn needs_spec(self) -> Self {
        Self { needs_spec: true, ..self }
    }

    fn definition(&self) -> Crd {
        let group = self.kind.group();
        let name = format!("{}.{group}", self.plural);
        let versions: Vec<_> = self.kind.versions().iter().map(|version| self.version(version)).collect();
        let of_group = group.replace('.', "-");
        let categories =
            if group.ends_with(".istio.io") { vec!["istio-io".to_owned(), of_group] } else { vec![of_group] };
        let mut names = json!({
            "categories": categories,
            "kind": self.kind.name(),
            "listKind": format!("{}List", self.kind.name()),
            "plural": self.plural,
            "singular": self.kind.name().to_ascii_lowercase(),
        });
        if let Some(short) = self.short {
            names["shortNames"] = json!([short]);
        }
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": name},
            "spec": {"group": group, "names": names, "scope": "Namespaced", "versions": versions},
        });
        Crd { file: format!("{name}.yaml"), definition }
    }

    fn version(&self, name: &str) -> Value {
        let mut schema = json!({
            "type": "object",
            "properties": {
                "spec": self.spec(),
                "status": anything(),
            },
        });
        if let Some(instead) = self.kind.instead() {
            schema["description"] = json!(format!("Accepted, and not acted on: {instead}."));
        }
        if self.needs_spec {
            schema["required"] = json!(["spec"]);
        }
        let mut version = json!({
            "name": name,
            "served": true,
            // All versions are the same but for their name.
            "storage": self.kind.versions().first() == Some(&name),
            "schema": {"openAPIV3Schema": schema},
            "subresources": {"status": {}},
        });
        if !self.columns.is_empty() {
            let column = |(name, path): &Column| {
                let kind = if *name == AGE.0 { "date" } else { "string" };
                json!({"name": name, "jsonPath": path, "type": kind})
            };
            version["additionalPrinterColumns"] = self.columns.iter().map(column).collect();
        }
        version
    }

    fn spec(&self) -> Value {
        let Some(spec) = self.spec else { return anything() };
        let settings = SchemaSettings::draft2020_12().with(|settings| {
            settings.inline_subschemas = true;
            settings.meta_schema = None;
        });
        let schema = spec(&mut settings.into_generator());
        structural::rewrite(schema.to_value())
    }
}

/// The schema of an object that may hold anything.
fn anything() -> Value {
    json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// Schemas of fields of which at most one may be given.
pub(super) fn at_most_one(names: &[&str]) -> Value {
    let mut schemas = vec![json!({"not": {"anyOf": alternatives(names)}})];
    schemas.extend(alternatives(names));
    Value::Array(schemas)
}

/// Schemas of fields of which exactly one must be given.
pub(super) fn exactly_one(names: &[&str]) -> Value {
    Value::Array(alternatives(names))
}

/// The schema of an object with a field of each of these groups.
pub(super) fn both(groups: &[&[&str]]) -> Value {
    let any = |names: &&[&str]| json!({"anyOf": alternatives(names)});
    json!({"allOf": groups.iter().map(any).collect::<Vec<_>>()})
}

fn alternatives(names: &[&str]) -> Vec<Value> {
    names.iter().map(|name| json!({"required": [name]})).collect()
}

/// Adds `mirror_percent`, which Istio's schema has beside `mirrorPercent`.
pub(super) fn with_older_name(schema: &mut Schema) {
    let Some(Value::Object(properties)) = schema.get_mut("properties") else { return };
    if let Some(percent) = properties.get("mirrorPercent").cloned() {
        properties.insert("mirror_percent".into(), percent);
    }
}

/// At most so many labels that a selector asks for.
pub(super) struct LabelsSchema<const MOST: u32>;

impl<const MOST: u32> JsonSchema for LabelsSchema<MOST> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Labels".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "maxProperties": MOST,
            "additionalProperties": {
                "type": "string",
                "maxLength": 63,
                "x-kubernetes-validations": (rules::rules(rules::LABEL_VALUE))
            },
            "x-kubernetes-validations": (rules::rules(rules::LABELS))
        })
    }
}

/// The name of a column and where its value is.
type Column = (&'static str, &'static str);

/// How long ago an object was made.
const AGE: Column = ("Age", ".metadata.creationTimestamp");
const SERVICE_ENTRY_COLUMNS: &[Column] =
    &[("Hosts", ".spec.hosts"), ("Location", ".spec.location"), ("Resolution", ".spec.resolution"), AGE];

#[cfg(test)]
mod tests;

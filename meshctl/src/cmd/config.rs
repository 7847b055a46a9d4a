//! `meshctl config`: what one proxy decides with, as it says itself.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Deserialize;
use serde_json::Value;

use crate::emit;
use crate::reach::Proxy;
use crate::table::{align, one_line};

mod traffic;

/// Show what a proxy decides with: workloads, services, endpoints, routes, listeners, policies, certificates, connections.
///
/// Asks the admin port of a node, a waypoint or a gateway, which answers its own machine or pod alone: in a cluster as `kubectl
/// port-forward` does, on a testbed at the address that `cargo xtask testbed status` tells.
#[derive(Debug, clap::Args)]
#[command(visible_aliases = ["proxy-config", "pc"], after_help = EXAMPLES)]
pub(crate) struct Args {
    /// What of it.
    #[arg(value_name = "WHAT")]
    what: What,
    /// Only those whose name begins so.
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Only those of this namespace.
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    #[command(flatten)]
    proxy: Proxy,
    /// How it is printed.
    #[arg(short, long, value_name = "FORMAT", default_value = "table", ignore_case = true)]
    output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Who is behind which address.
    #[value(alias = "workloads")]
    Workload,
    /// Addresses and endpoints of services.
    #[value(alias = "services")]
    Service,
    /// Where services lead to, and who of them is well.
    #[value(alias = "endpoints", alias = "ep")]
    Endpoint,
    /// Rules for requests and connections, and where they lead to.
    #[value(alias = "routes")]
    Route,
    /// Ports of a gateway, and what is served there.
    #[value(alias = "listeners")]
    Listener,
    /// Policies about connections, as they were compiled.
    #[value(alias = "policies")]
    Policy,
    /// Certificates that it holds, without their keys.
    #[value(alias = "certificates", alias = "cert", alias = "secret")]
    Certificate,
    /// Connections of its pods.
    #[value(alias = "connections")]
    Connection,
    /// Everything, as JSON.
    All,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Columns as `istioctl ztunnel-config` and `istioctl proxy-config` print them; what they do not have comes last.
    #[value(alias = "text", alias = "short")]
    Table,
    /// As the proxy says it.
    Json,
    /// The same, as YAML.
    Yaml,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let answer = args.proxy.find()?.get("/config_dump").context("asking the proxy")?;
    let dump: Value = serde_json::from_str(&answer).context("the proxy's answer is not JSON")?;
    let text = match (args.what, args.output) {
        (What::All, Format::Yaml) => serde_yaml_ng::to_string(&dump)?,
        (What::All, _) => serde_json::to_string_pretty(&dump)? + "\n",
        (what, Format::Table) => table(what, &dump, args)?,
        (what, Format::Json) => serde_json::to_string_pretty(&part(what, &dump, args))? + "\n",
        (what, Format::Yaml) => serde_yaml_ng::to_string(&part(what, &dump, args))?,
    };
    emit(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// What was asked for, of the whole.
fn part(what: What, dump: &Value, args: &Args) -> Value {
    let list = |key: &str| {
        let all = dump.get(key).and_then(Value::as_array).into_iter().flatten();
        Value::Array(
            all.filter(|one| args.wants(&text(one, "namespace"), &text(one, "name"))).cloned().collect(),
        )
    };
    match what {
        What::Workload => list("workloads"),
        What::Service | What::Endpoint => list("services"),
        What::Route => list("configs"),
        What::Listener => dump.get("listeners").cloned().unwrap_or_default(),
        What::Policy => list("policies"),
        What::Certificate => dump.get("certificates").cloned().unwrap_or_default(),
        What::Connection => dump.get("workloadState").cloned().unwrap_or_default(),
        What::All => dump.clone(),
    }
}

fn text(value: &Value, key: &str) -> String {
    value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn table(what: What, dump: &Value, args: &Args) -> Result<String> {
    let typed: Dump = serde_json::from_value(dump.clone()).context(
        "the proxy's answer has another shape: is it a node, a waypoint or a gateway of this mesh?",
    )?;
    let (head, mut rows): (&[&str], Vec<Vec<String>>) = match what {
        What::Workload => (WORKLOAD, typed.workloads.iter().filter_map(|it| it.row(args)).collect()),
        What::Service => (SERVICE, typed.services.iter().filter_map(|it| it.row(dump, args)).collect()),
        What::Endpoint => (ENDPOINT, traffic::endpoints(dump, args)),
        What::Route => (ROUTE, traffic::routes(dump, args)),
        What::Listener => (LISTENER, traffic::listeners(dump)?),
        What::Policy => (POLICY, typed.policies.iter().filter_map(|it| it.row(args)).collect()),
        What::Certificate => {
            let now = SystemTime::now();
            (CERTIFICATE, typed.certificates.iter().flat_map(|it| it.rows(now)).collect())
        }
        What::Connection => (CONNECTION, typed.pods.values().flat_map(|it| it.rows(args)).collect()),
        What::All => bail!("everything is no table: use -o json or -o yaml"),
    };
    rows.sort();
    let mut all = vec![head.iter().map(|&title| title.to_owned()).collect::<Vec<_>>()];
    all.extend(rows.into_iter().map(|row| row.iter().map(|cell| one_line(cell)).collect()));
    Ok(align(&all))
}

impl Args {
    fn wants(&self, namespace: &str, name: &str) -> bool {
        self.namespace.as_ref().is_none_or(|wanted| wanted == namespace)
            && self.name.as_ref().is_none_or(|wanted| name.starts_with(wanted.as_str()))
    }
}

/// `/config_dump`, as far as it is shown.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Dump {
    workloads: Vec<Workload>,
    services: Vec<Service>,
    policies: Vec<Policy>,
    certificates: Vec<Certificate>,
    #[serde(rename = "workloadState", default)]
    pods: BTreeMap<String, Pod>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Workload {
    namespace: String,
    name: String,
    #[serde(rename = "workloadIps")]
    addresses: Vec<String>,
    node: String,
    protocol: String,
    #[serde(default)]
    waypoint: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Service {
    namespace: String,
    name: String,
    vips: Vec<String>,
    endpoints: BTreeMap<String, Value>,
    #[serde(default)]
    waypoint: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Policy {
    namespace: String,
    name: String,
    action: String,
    scope: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Certificate {
    identity: String,
    state: String,
    cert_chain: Vec<Link>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Link {
    serial_number: Option<String>,
    valid_from: String,
    expiration_time: String,
}

#[derive(Debug, Deserialize)]
struct Pod {
    info: Info,
    connections: Connections,
}

#[derive(Debug, Deserialize)]
struct Info {
    name: String,
    namespace: String,
}

#[derive(Debug, Deserialize)]
struct Connections {
    inbound: Vec<Connection>,
    outbound: Vec<Connection>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Connection {
    src: String,
    original_dst: String,
    actual_dst: String,
    protocol: String,
    #[serde(default)]
    express: bool,
    service: Option<String>,
}

impl Workload {
    fn row(&self, args: &Args) -> Option<Vec<String>> {
        args.wants(&self.namespace, &self.name).then(|| {
            vec![
                self.namespace.clone(),
                self.name.clone(),
                self.addresses.join(","),
                or_none(&self.node),
                or_none(self.waypoint.as_deref().unwrap_or_default()),
                self.protocol.clone(),
            ]
        })
    }
}

impl Service {
    fn row(&self, dump: &Value, args: &Args) -> Option<Vec<String>> {
        args.wants(&self.namespace, &self.name).then(|| {
            // The part before the slash names a network; there is one.
            let vips: Vec<_> = self.vips.iter().map(|vip| vip.trim_start_matches('/')).collect();
            vec![
                self.namespace.clone(),
                self.name.clone(),
                or_none(&vips.join(",")),
                or_none(self.waypoint.as_deref().unwrap_or_default()),
                traffic::counted(dump, (&self.namespace, &self.name), &self.endpoints),
            ]
        })
    }
}

impl Policy {
    fn row(&self, args: &Args) -> Option<Vec<String>> {
        let Self { namespace, name, action, scope } = self;
        args.wants(namespace, name)
            .then(|| vec![namespace.clone(), name.clone(), action.clone(), scope.clone()])
    }
}

impl Certificate {
    fn rows(&self, now: SystemTime) -> Vec<Vec<String>> {
        let status = match &*self.state {
            "Valid" => "Available",
            "Pending" => "Initializing",
            "Expired" => "Unavailable",
            other => other,
        };
        let begin = || vec![self.identity.clone(), "Leaf".to_owned(), status.to_owned()];
        if self.cert_chain.is_empty() {
            return vec![[begin(), vec!["false".to_owned()]].concat()];
        }
        let row = |link: &Link| {
            let serial = or_none(link.serial_number.as_deref().unwrap_or_default());
            let mut row = begin();
            row.extend([
                link.is_valid(now).to_string(),
                serial,
                link.expiration_time.clone(),
                link.valid_from.clone(),
            ]);
            row
        };
        self.cert_chain.iter().map(row).collect()
    }
}

impl Link {
    /// Whether its time has begun, and has not ended.
    fn is_valid(&self, now: SystemTime) -> bool {
        let time =
            |text: &str| serde_json::from_value::<Time>(text.into()).ok().map(|it| SystemTime::from(it.0));
        let (from, until) = (time(&self.valid_from), time(&self.expiration_time));
        from.is_some_and(|from| from <= now) && until.is_some_and(|until| now < until)
    }
}

impl Pod {
    fn rows(&self, args: &Args) -> Vec<Vec<String>> {
        if !args.wants(&self.info.namespace, &self.info.name) {
            return Vec::new();
        }
        let of = |direction: &'static str, all: &[Connection]| -> Vec<Vec<String>> {
            let row = |it: &Connection| {
                let inbound = direction == "Inbound";
                let (local, remote) =
                    if inbound { (&it.original_dst, &it.src) } else { (&it.src, &it.actual_dst) };
                let target = it.service.clone().unwrap_or_else(|| it.original_dst.clone());
                let target = if inbound { String::new() } else { target };
                let protocol = if it.express { "express" } else { &it.protocol };
                vec![
                    format!("{}.{}", self.info.name, self.info.namespace),
                    direction.to_owned(),
                    local.clone(),
                    remote.clone(),
                    or_none(&target),
                    protocol.to_owned(),
                ]
            };
            all.iter().map(row).collect()
        };
        [of("Inbound", &self.connections.inbound), of("Outbound", &self.connections.outbound)].concat()
    }
}

fn or_none(text: &str) -> String {
    if text.is_empty() { "None".to_owned() } else { text.to_owned() }
}

const WORKLOAD: &[&str] = &["NAMESPACE", "POD NAME", "ADDRESS", "NODE", "WAYPOINT", "PROTOCOL"];
const SERVICE: &[&str] = &["NAMESPACE", "SERVICE NAME", "SERVICE VIP", "WAYPOINT", "ENDPOINTS"];
const ENDPOINT: &[&str] = &["ENDPOINT", "STATUS", "OUTLIER CHECK", "CLUSTER"];
const ROUTE: &[&str] = &["NAME", "VHOST NAME", "DOMAINS", "MATCH", "VIRTUAL SERVICE", "DESTINATION", "KIND"];
const LISTENER: &[&str] = &["ADDRESSES", "PORT", "MATCH", "DESTINATION", "PROTOCOL", "STATE", "TLS"];
const POLICY: &[&str] = &["NAMESPACE", "POLICY NAME", "ACTION", "SCOPE"];
const CERTIFICATE: &[&str] =
    &["CERTIFICATE NAME", "TYPE", "STATUS", "VALID CERT", "SERIAL NUMBER", "NOT AFTER", "NOT BEFORE"];
const CONNECTION: &[&str] = &["WORKLOAD", "DIRECTION", "LOCAL", "REMOTE", "REMOTE TARGET", "PROTOCOL"];

const EXAMPLES: &str = "\
Example: meshctl config workload --proxy node-1
         meshctl config route --proxy default/waypoint
         meshctl config service reviews -n default -o yaml
         meshctl config certificate --proxy http://127.0.0.1:15101";

#[cfg(test)]
mod tests;

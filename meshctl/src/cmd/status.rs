//! `meshctl proxy-status`: how far the proxies are with what the control plane has told them.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use serde::Deserialize;
use serde_json::Value;

use crate::emit;
use crate::reach::{ControlPlane, json};
use crate::table::{align, one_line};

/// Show how far every proxy is with the configuration.
///
/// Asks the control plane who subscribes to it. The columns are those of `istioctl`; STATUS is that of the type that is furthest
/// behind, and -o wide has one column for each type: SYNCED, STALE (something newer is on its way), NOT SENT, or - for a type
/// that the proxy does not ask for. LAST REJECTION is what a proxy said when it last refused something, until it has accepted
/// a newer version of that. Proxies that the control plane has sent away, because they speak a version of the mesh's protocol that it
/// does not, are named below, with the reason; they go on with what they were told before.
#[derive(Debug, clap::Args)]
#[command(visible_aliases = ["ps", "status"], after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Only proxies of this node, or with this id.
    #[arg(value_name = "NODE")]
    node: Option<String>,
    #[command(flatten)]
    control: ControlPlane,
    /// How proxies are printed.
    #[arg(short, long, value_name = "FORMAT", default_value = "table", ignore_case = true)]
    output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A line for each.
    #[value(alias = "text", alias = "short")]
    Table,
    /// With a column for each type of resource, and who the proxies are.
    Wide,
    /// As the control plane says it.
    Json,
    /// The same, as YAML.
    Yaml,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let answers = args.control.get_all("/debug/subscribers")?;
    let answers = answers.iter().map(|answer| json(answer).map(signed)).collect::<Result<Vec<_>>>();
    let mut answer = together(answers.context("asking the control plane")?);
    if let Some(node) = &args.node {
        let subscribers = answer.get_mut("subscribers").and_then(Value::as_array_mut);
        let subscribers = subscribers.context("the control plane's answer has no subscribers")?;
        let is = |proxy: &Value, field| proxy.get(field).and_then(Value::as_str) == Some(node);
        subscribers.retain(|proxy| is(proxy, "node") || is(proxy, "id"));
        if subscribers.is_empty() {
            bail!("no proxy of {node:?} is connected to the control plane");
        }
    }
    let text = match args.output {
        Format::Json => serde_json::to_string_pretty(&answer)? + "\n",
        Format::Yaml => serde_yaml_ng::to_string(&answer)?,
        format => {
            let status: Status = serde_json::from_value(answer).context("the control plane's answer")?;
            table(&status, format == Format::Wide)
        }
    };
    emit(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// With the replica's name at each of its proxies.
fn signed(mut answer: Value) -> Value {
    let name = answer.get("controlPlane").cloned().unwrap_or_default();
    let proxies = answer.get_mut("subscribers").and_then(Value::as_array_mut);
    for proxy in proxies.into_iter().flatten().filter_map(Value::as_object_mut) {
        proxy.insert("controlPlane".to_owned(), name.clone());
    }
    answer
}

/// What several replicas have said, as if one had: each knows the proxies that are connected to it.
fn together(answers: Vec<Value>) -> Value {
    let mut answers = answers.into_iter();
    let mut first = answers.next().unwrap_or_default();
    for mut answer in answers {
        for list in ["subscribers", "refused"] {
            let more = answer.get_mut(list).and_then(Value::as_array_mut).map(std::mem::take);
            if let Some(all) = first.get_mut(list).and_then(Value::as_array_mut) {
                all.extend(more.into_iter().flatten());
            }
        }
    }
    first
}

/// What `/debug/subscribers` answers, as far as it is shown.
#[derive(Debug, Deserialize)]
struct Status {
    subscribers: Vec<Proxy>,
    /// An older control plane does not say.
    #[serde(default)]
    refused: Vec<Refused>,
}

/// One that was sent away.
#[derive(Debug, Deserialize)]
struct Refused {
    name: String,
    reason: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Proxy {
    id: String,
    name: Option<String>,
    cluster: Option<String>,
    control_plane: Option<String>,
    version: Option<String>,
    node: Option<String>,
    identity: String,
    address: Option<String>,
    types: Vec<Type>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Type {
    #[serde(rename = "type")]
    name: String,
    status: String,
    last_rejection: Option<String>,
}

fn table(status: &Status, wide: bool) -> String {
    let refused = status.refused.iter().fold(String::new(), |text, it| {
        text + &format!("REFUSED {}: {}\n", one_line(&it.name), one_line(&it.reason))
    });
    if status.subscribers.is_empty() {
        return format!("No proxy is connected to the control plane.\n{refused}");
    }
    let types = types(status);
    let mut head: Vec<String> = HEAD.map(str::to_owned).to_vec();
    let more: &[&str] = if wide { &["NODE", "ID", "IDENTITY", "PEER"] } else { &["STATUS", "NODE"] };
    head.extend(more.iter().map(|title| (*title).to_owned()));
    if wide {
        head.extend(types.iter().map(|name| title(name)));
    }
    head.push("LAST REJECTION".to_owned());
    let mut rows: Vec<Vec<String>> = status.subscribers.iter().map(|proxy| proxy.row(wide, &types)).collect();
    rows.sort();
    rows.insert(0, head);
    align(&rows) + &refused
}

/// The usual types first, then whatever a newer control plane has.
fn types(status: &Status) -> Vec<&str> {
    let mut types: Vec<&str> = TYPES.to_vec();
    for name in status.subscribers.iter().flat_map(|proxy| &proxy.types).map(|kind| kind.name.as_str()) {
        if !types.contains(&name) {
            types.push(name);
        }
    }
    types
}

impl Proxy {
    fn row(&self, wide: bool, types: &[&str]) -> Vec<String> {
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let name = self.name.as_ref().unwrap_or(&self.id).clone();
        let mut subscribed: Vec<&str> = self.types.iter().map(|kind| kind.name.as_str()).collect();
        subscribed.sort_unstable();
        let count = subscribed.len();
        let subscribed =
            if count == 0 { "0".to_owned() } else { format!("{count} ({})", subscribed.join(",")) };
        let (cluster, version) = (or_none(&self.cluster), or_none(&self.version));
        let mut row = vec![name, cluster, or_none(&self.control_plane), version, subscribed];
        if wide {
            row.extend([or_none(&self.node), self.id.clone(), self.identity.clone(), or_none(&self.address)]);
            let of = |name: &&str| self.types.iter().find(|kind| kind.name == *name);
            row.extend(types.iter().map(|name| of(name).map_or("-", |kind| kind.status.as_str()).to_owned()));
        } else {
            row.extend([self.status().to_owned(), or_none(&self.node)]);
        }
        let rejections = self
            .types
            .iter()
            .filter_map(|kind| Some(format!("{}: {}", kind.name, kind.last_rejection.as_deref()?)));
        row.push(rejections.collect::<Vec<_>>().join("; "));
        row.iter().map(|cell| one_line(cell)).collect()
    }

    /// That of the type that is furthest behind; what there is nothing of is not sent, and nobody is behind with it.
    fn status(&self) -> &str {
        let statuses = || self.types.iter().map(|kind| kind.status.as_str());
        let behind = statuses().find(|it| !matches!(*it, "SYNCED" | "NOT SENT"));
        behind.or_else(|| statuses().find(|it| *it == "SYNCED")).or_else(|| statuses().next()).unwrap_or("-")
    }
}

/// The head of a type's column.
fn title(name: &str) -> String {
    name.strip_suffix("Bundle").unwrap_or(name).to_uppercase()
}

/// Types of resources, as the control plane names them.
const TYPES: [&str; 5] = ["TrustBundle", "Mesh", "Authorization", "LocalPod", "Address"];

/// As `istioctl proxy-status` has them.
const HEAD: [&str; 5] = ["NAME", "CLUSTER", "ISTIOD", "VERSION", "SUBSCRIBED TYPES"];

const EXAMPLES: &str = "\
Example: meshctl proxy-status
         meshctl proxy-status node-1 --control http://127.0.0.1:25014
         meshctl proxy-status -o wide";

#[cfg(test)]
mod tests;

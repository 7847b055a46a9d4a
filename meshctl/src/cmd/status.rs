//! `meshctl proxy-status`: how far the proxies are with what the control plane has told them.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use crate::emit;
use crate::output::Format;
use crate::reach::{ControlPlane, json};
use crate::table::{align, one_line};

/// Show how far every proxy is with the configuration.
///
/// Asks the control plane who subscribes to it. For each type of resource: SYNCED, STALE (something newer is on its
/// way), NOT SENT, or - for a type that the proxy does not ask for. LAST REJECTION is what a proxy said when it last
/// refused something, until it has accepted a newer version of that.
#[derive(Debug, clap::Args)]
#[command(visible_aliases = ["ps", "status"], after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Only proxies of this node, or with this id.
    #[arg(value_name = "NODE")]
    node: Option<String>,
    #[command(flatten)]
    control: ControlPlane,
    /// How proxies are printed.
    #[arg(short, long, value_name = "FORMAT", default_value = "text", ignore_case = true)]
    output: Format,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let answers = args.control.get_all("/debug/subscribers")?;
    let answers = answers.iter().map(|answer| json(answer)).collect::<Result<Vec<_>>>();
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
        Format::Text => {
            let status: Status = serde_json::from_value(answer).context("the control plane's answer")?;
            table(&status)
        }
    };
    emit(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// What several replicas have said, as if one had: each knows the proxies that are connected to it.
fn together(answers: Vec<Value>) -> Value {
    let mut answers = answers.into_iter();
    let mut first = answers.next().unwrap_or_default();
    let more =
        answers.filter_map(|mut answer| Some(answer.get_mut("subscribers")?.as_array_mut()?.split_off(0)));
    let more: Vec<Value> = more.flatten().collect();
    if let Some(subscribers) = first.get_mut("subscribers").and_then(Value::as_array_mut) {
        subscribers.extend(more);
    }
    first
}

/// What `/debug/subscribers` answers, as far as it is shown.
#[derive(Debug, Deserialize)]
struct Status {
    subscribers: Vec<Proxy>,
}

#[derive(Debug, Deserialize)]
struct Proxy {
    id: String,
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

fn table(status: &Status) -> String {
    if status.subscribers.is_empty() {
        return "No proxy is connected to the control plane.\n".to_owned();
    }
    // The usual types first, then whatever a newer control plane has.
    let mut types: Vec<&str> = TYPES.to_vec();
    for name in status.subscribers.iter().flat_map(|proxy| &proxy.types).map(|kind| kind.name.as_str()) {
        if !types.contains(&name) {
            types.push(name);
        }
    }
    let head = ["NODE", "ID", "IDENTITY", "PEER"].map(str::to_owned);
    let head = head.into_iter().chain(types.iter().map(|name| title(name)));
    let mut rows = vec![head.chain(["LAST REJECTION".to_owned()]).collect::<Vec<_>>()];
    for proxy in &status.subscribers {
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let mut row =
            vec![or_none(&proxy.node), proxy.id.clone(), proxy.identity.clone(), or_none(&proxy.address)];
        let of = |name: &&str| proxy.types.iter().find(|kind| kind.name == *name);
        row.extend(types.iter().map(|name| of(name).map_or("-", |kind| kind.status.as_str()).to_owned()));
        let rejections = proxy
            .types
            .iter()
            .filter_map(|kind| Some(format!("{}: {}", kind.name, kind.last_rejection.as_deref()?)));
        row.push(rejections.collect::<Vec<_>>().join("; "));
        rows.push(row.iter().map(|cell| one_line(cell)).collect());
    }
    align(&rows)
}

/// The head of a type's column.
fn title(name: &str) -> String {
    name.strip_suffix("Bundle").unwrap_or(name).to_uppercase()
}

/// Types of resources, as the control plane names them.
const TYPES: [&str; 5] = ["TrustBundle", "Mesh", "Authorization", "LocalPod", "Address"];

const EXAMPLES: &str = "\
Example: meshctl proxy-status
         meshctl proxy-status node-1 --control http://127.0.0.1:25014
         meshctl proxy-status -o json";

#[cfg(test)]
mod tests;

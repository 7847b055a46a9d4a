//! Messages as users and programs read them.

use anyhow::Result;
use mesh_core::analyze::Message;
use serde::Serialize;

/// The line of a message with the object first, as `istioctl` orders it.
pub(super) fn log(message: &Message) -> String {
    let shown = message.to_string();
    // What follows the code is shown as text shows it.
    let code = format!("[{}] ", message.code);
    let rest = shown.split_once(&code).map_or(shown.as_str(), |(_, rest)| rest);
    let place = match (&message.key, message.origin.document_in_file()) {
        (Some(key), Some(_)) => format!("{key} {}", message.origin),
        // In a cluster the name is the place.
        _ => message.origin.to_string(),
    };
    format!("{} {code}({place}) {rest}", message.level())
}

/// A list of objects, indented.
pub(super) fn json(messages: &[Message]) -> Result<String> {
    let rows: Vec<_> = messages.iter().map(Row::of).collect();
    Ok(serde_json::to_string_pretty(&rows)? + "\n")
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row<'a> {
    code: String,
    name: &'static str,
    level: String,
    origin: Place<'a>,
    field: &'a str,
    reason: &'a str,
    hint: Option<&'a str>,
    documentation_url: String,
}

#[derive(Serialize)]
struct Place<'a> {
    file: &'a str,
    /// Counted from 1; none in a cluster.
    document: Option<usize>,
    kind: Option<&'a str>,
    namespace: Option<&'a str>,
    name: Option<&'a str>,
}

impl<'a> Row<'a> {
    fn of(message: &'a Message) -> Self {
        let key = message.key.as_ref();
        Self {
            code: message.code.to_string(),
            name: message.code.name(),
            level: message.level().to_string(),
            origin: Place {
                file: &message.origin.file,
                document: message.origin.document_in_file(),
                kind: key.map(|key| key.kind),
                namespace: key.map(|key| &*key.namespace).filter(|namespace| !namespace.is_empty()),
                name: key.map(|key| &*key.name),
            },
            field: &message.field,
            reason: &message.reason,
            hint: message.hint.as_deref(),
            documentation_url: message.code.documentation_url(),
        }
    }
}

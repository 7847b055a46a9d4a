//! Every code: a document that triggers it exactly once, and the edit that mends it.

use super::*;
use crate::resource::{SourceFile, parse};

mod cases;
mod routes;
mod rules;
mod scale;

/// A namespace of the mesh with three services, which nobody has anything to say about.
const BOOK: &str = include_str!("tests/book.yaml");

fn read(texts: &[&str]) -> Parsed {
    let mut all = Parsed::default();
    for (number, text) in texts.iter().enumerate() {
        all.append(parse(&SourceFile { name: &format!("{number}.yaml"), text }));
    }
    // That nothing acts on a kind yet is no finding about the document.
    all.findings.retain(|finding| !finding.reason.contains("is not enforced yet"));
    all
}

/// What there is to say about `text` beside [`BOOK`].
fn messages(text: &str) -> Vec<Message> {
    analyze(&read(&[BOOK, text]), &Options::default())
}

fn lines(text: &str) -> Vec<String> {
    messages(text).iter().map(ToString::to_string).collect()
}

/// `CODE field` of each message.
fn places(text: &str) -> Vec<String> {
    messages(text).iter().map(|message| format!("{} {}", message.code, message.field)).collect()
}

/// A document of Istio's traffic in namespace `book`.
fn document(kind: &str, name: &str, spec: &str) -> String {
    let spec = spec.replace('\n', "\n  ");
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: book}}\nspec:\n  {spec}\n"
    )
}

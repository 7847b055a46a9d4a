//! Whether an object may be written: a pure function from an `AdmissionReview` of `admission.k8s.io/v1` to its answer.
//!
//! The code that reads objects decides, so that what is let in is what will be understood. Who is about to delete an
//! object may do with it what they like: a finalizer must be removable from what is wrong.

use mesh_core::resource::{Finding, Level, ObjectKey, Origin, ServedKind, from_json};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Why there is no answer: this is no review.
#[derive(Debug, thiserror::Error)]
pub(super) enum Malformed {
    /// Not the JSON that it should be.
    #[error("not an AdmissionReview: {0}")]
    Json(#[from] serde_json::Error),
    /// Another version.
    #[error("an AdmissionReview of {0:?}, not of {VERSION:?}")]
    Version(String),
    /// Nothing is asked.
    #[error("there is no request in it")]
    NoRequest,
    /// Something is to be written, and it is not said what.
    #[error("there is no object in it")]
    NoObject,
}

/// Decides about the review in `body`.
pub(super) fn review(body: &[u8]) -> Result<Answer, Malformed> {
    let review: Review<'_> = serde_json::from_slice(body)?;
    if review.api_version != VERSION {
        return Err(Malformed::Version(review.api_version));
    }
    let request = review.request.ok_or(Malformed::NoRequest)?;
    let response = decide(&request)?;
    Ok(Answer { api_version: VERSION, kind: "AdmissionReview", response })
}

/// The answer to a review.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer {
    api_version: &'static str,
    kind: &'static str,
    pub(super) response: Response,
}

#[derive(Debug, Serialize)]
pub(super) struct Response {
    uid: String,
    pub(super) allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Refusal>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Refusal {
    code: u16,
    reason: &'static str,
    message: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review<'a> {
    #[serde(default)]
    api_version: String,
    #[serde(borrow)]
    request: Option<Request<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    uid: String,
    kind: Kind,
    #[serde(default)]
    sub_resource: Option<String>,
    #[serde(default)]
    namespace: String,
    operation: String,
    #[serde(borrow)]
    object: Option<&'a RawValue>,
}

#[derive(Debug, Deserialize)]
struct Kind {
    #[serde(default)]
    group: String,
    kind: String,
}

/// What is looked at before the object is read.
#[derive(Debug, Deserialize)]
struct Header {
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    deletion_timestamp: Option<String>,
}

fn decide(request: &Request<'_>) -> Result<Response, Malformed> {
    let pass = Response { uid: request.uid.clone(), allowed: true, status: None, warnings: Vec::new() };
    let written = matches!(request.operation.as_str(), "CREATE" | "UPDATE");
    let whole = request.sub_resource.as_deref().is_none_or(str::is_empty);
    let kind =
        ServedKind::all().find(|kind| kind.name() == request.kind.kind && kind.group() == request.kind.group);
    // What the mesh does not use is none of its business.
    let Some(kind) = kind.filter(|_| written && whole) else { return Ok(pass) };
    let object = request.object.filter(|object| object.get() != "null").ok_or(Malformed::NoObject)?;
    let header: Header = serde_json::from_str(object.get())?;
    if header.metadata.deletion_timestamp.is_some() {
        return Ok(pass);
    }
    let key = ObjectKey {
        kind: kind.key(),
        namespace: request.namespace.as_str().into(),
        name: header.metadata.name.unwrap_or_default().into(),
    };
    let received = from_json(kind, object.get(), &Origin::in_cluster(&key));
    let (errors, others): (Vec<_>, Vec<_>) =
        received.findings.iter().partition(|finding| finding.level == Level::Error);
    let warnings = others.into_iter().filter(|finding| finding.level == Level::Warning).map(warning);
    let warnings = warnings.take(MAX_WARNINGS).collect();
    if errors.is_empty() && (received.object.is_some() || !kind.is_supported()) {
        return Ok(Response { warnings, ..pass });
    }
    let mut lines: Vec<_> = errors.iter().take(MAX_ERRORS).map(ToString::to_string).collect();
    if errors.len() > MAX_ERRORS {
        lines.push(format!("and {} more", errors.len() - MAX_ERRORS));
    }
    let status = Some(Refusal { code: 400, reason: "BadRequest", message: lines.join("; ") });
    Ok(Response { allowed: false, status, warnings, ..pass })
}

/// One warning; the API server cuts those that are longer than this, and clients show each on a line of its own.
fn warning(finding: &Finding) -> String {
    finding.to_string().chars().take(MAX_WARNING).collect()
}

/// What we read and write.
const VERSION: &str = "admission.k8s.io/v1";
/// Errors that are shown: whoever has mended so many will ask again.
const MAX_ERRORS: usize = 20;
const MAX_WARNINGS: usize = 16;
/// Characters.
const MAX_WARNING: usize = 250;

#[cfg(test)]
mod tests;

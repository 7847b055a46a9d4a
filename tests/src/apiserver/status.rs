//! What an API server says in place of what was asked for: a `Status` with its HTTP code and reason.

use serde_json::{Value, json};

/// A refusal.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// The HTTP status code.
    pub code: u16,
    /// What programs decide by, for example `AlreadyExists`.
    pub reason: String,
    /// What people read.
    pub message: String,
    /// More for programs; null for nothing.
    pub details: Value,
    /// Seconds for the header `Retry-After`.
    pub retry_after: Option<u64>,
}

impl Refusal {
    /// Any refusal.
    pub fn new(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Self { code, reason: reason.into(), message: message.into(), details: Value::Null, retry_after: None }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(403, "Forbidden", message)
    }

    pub(super) fn not_found(resource: &str, name: &str) -> Self {
        let details = json!({"name": name, "kind": resource});
        Self { details, ..Self::new(404, "NotFound", format!("{resource} \"{name}\" not found")) }
    }

    /// There is nothing at this path at all.
    pub(super) fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }

    pub(super) fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }

    pub(super) fn already_exists(resource: &str, name: &str) -> Self {
        let details = json!({"name": name, "kind": resource});
        Self { details, ..Self::new(409, "AlreadyExists", format!("{resource} \"{name}\" already exists")) }
    }

    pub(super) fn conflict(resource: &str, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {resource} \"{name}\": {why}");
        let details = json!({"name": name, "kind": resource});
        Self { details, ..Self::new(409, "Conflict", message) }
    }

    /// The version that a list or a watch was to begin at has been compacted.
    pub(super) fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    pub(super) fn invalid(kind: &str, name: &str, field: &str, why: &str) -> Self {
        let cause = json!({"reason": "FieldValueInvalid", "message": why, "field": field});
        let details = json!({"name": name, "kind": kind, "causes": [cause]});
        Self { details, ..Self::new(422, "Invalid", format!("{kind} \"{name}\" is invalid: {field}: {why}")) }
    }

    /// A version that has not come yet.
    pub(super) fn too_large(asked: u64, current: u64) -> Self {
        let message = format!("Too large resource version: {asked}, current: {current}");
        let cause = json!({"reason": "ResourceVersionTooLarge", "message": "Too large resource version"});
        Self {
            details: json!({"causes": [cause], "retryAfterSeconds": 1}),
            retry_after: Some(1),
            ..Self::new(504, "Timeout", message)
        }
    }

    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(500, "InternalError", message)
    }

    /// The object that is sent.
    pub fn to_json(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {},
            "status": "Failure", "message": self.message, "reason": self.reason, "code": self.code,
        });
        if !self.details.is_null() {
            status["details"] = self.details.clone();
        }
        status
    }
}

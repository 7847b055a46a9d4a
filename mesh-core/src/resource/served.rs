//! Objects as an API server sends them: JSON, one object at a time, defaults applied and checked once already.
//!
//! The same code that reads files decides what is valid. It differs in what it lets pass: a newer API server has
//! fields that we do not know, and most of what it sends is of no use to the mesh (see [`super::trim`]).

use super::decode;
use super::kind::Kind;
use super::strict::Unknown;
use super::tree::{self, Failure, Problem};
use super::trim::trim;
use super::{Finding, Object, Origin};

/// A kind that the mesh uses, with what is needed to ask an API server for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServedKind(Kind);

/// What came of an object that an API server sent.
#[derive(Debug, Clone)]
pub struct Received {
    /// `None` if one of the findings is an error.
    pub object: Option<Object>,
    /// All there is to say about it.
    pub findings: Vec<Finding>,
}

/// Reads one object of `kind`. An API server leaves out `apiVersion` and `kind` of the items of a list, so they are not
/// looked at. Unknown fields are passed over in Kubernetes' own kinds, are warnings in those of the Gateway API, whose
/// version is the cluster's choice, and are errors in Istio's, whose schemas are ours.
pub fn from_json(kind: ServedKind, text: &str, origin: &Origin) -> Received {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let built = tree::build(&mut deserializer);
    let built = built.and_then(|built| deserializer.end().map(|()| built).map_err(Failure::Syntax));
    match built {
        Ok((_, problems)) if !problems.is_empty() => refuse(problems, origin),
        Ok((mut tree, _)) => {
            trim(kind.0, &mut tree);
            let decoded = decode::served(kind.0, &tree, kind.unknown(), origin.clone());
            Received { object: decoded.object, ..refuse(decoded.problems, origin) }
        }
        Err(Failure::Limit(reason)) => refuse(vec![Problem::error("", reason)], origin),
        Err(Failure::Syntax(error)) => {
            refuse(vec![Problem::error("", format!("not valid JSON: {error}"))], origin)
        }
    }
}

impl ServedKind {
    /// Every kind that the mesh uses.
    pub fn all() -> impl Iterator<Item = Self> {
        Kind::all().map(Self)
    }

    /// As [`super::ObjectKey::kind`] spells it.
    pub fn key(self) -> &'static str {
        self.0.key()
    }

    /// As `kind:` spells it; two groups may use the same name.
    pub fn name(self) -> &'static str {
        self.0.name()
    }

    /// The API group; empty for Kubernetes' core.
    pub fn group(self) -> &'static str {
        self.0.group()
    }

    /// The versions that can be read, the one to prefer first.
    pub fn versions(self) -> &'static [&'static str] {
        self.0.versions()
    }

    /// Whether its objects live in a namespace.
    pub fn is_namespaced(self) -> bool {
        self.0.is_namespaced()
    }

    fn unknown(self) -> Unknown {
        match self.group() {
            "gateway.networking.k8s.io" => Unknown::Noted,
            _ if self.0.is_custom() => Unknown::RefusedInSpec,
            _ => Unknown::Ignored,
        }
    }
}

/// Nothing but what there is to say.
fn refuse(problems: Vec<Problem>, origin: &Origin) -> Received {
    let findings = problems.into_iter().map(|Problem { level, field, reason, hint }| Finding {
        origin: origin.clone(),
        level,
        field,
        reason,
        hint,
    });
    Received { object: None, findings: findings.collect() }
}

#[cfg(test)]
mod tests;

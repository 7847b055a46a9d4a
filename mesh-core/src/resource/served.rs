//! Objects as an API server sends them: JSON, one object at a time, defaults applied and checked once already.
//!
//! The same code that reads files decides what is valid. It differs in what it lets pass: a newer API server has
//! fields that we do not know, and most of what it sends is of no use to the mesh (see [`super::trim`]).

use super::decode;
use super::kind::{Kind, UNSUPPORTED, Unsupported};
use super::status;
use super::strict::Unknown;
use super::tree::{self, Failure, Problem};
use super::trim::trim;
use super::{Finding, Object, Origin};

/// A kind that the mesh has something to say about, with what is needed to ask an API server for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServedKind(Served);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Served {
    Used(Kind),
    /// Of its objects nothing is read but that they exist.
    Unsupported(&'static Unsupported),
}

/// What came of an object that an API server sent.
#[derive(Debug, Clone)]
pub struct Received {
    /// `None` if one of the findings is an error, and of a kind that is not supported.
    pub object: Option<Object>,
    /// All there is to say about it.
    pub findings: Vec<Finding>,
}

/// Reads one object of `kind`. An API server leaves out `apiVersion` and `kind` of the items of a list, so they are not
/// looked at. Unknown fields are passed over in Kubernetes' own kinds, are warnings in those of the Gateway API, whose
/// version is the cluster's choice, and are errors in Istio's, whose schemas are ours. Of a kind that is not supported
/// nothing is read, and one warning says so.
pub fn from_json(kind: ServedKind, text: &str, origin: &Origin) -> Received {
    let kind = match kind.0 {
        Served::Used(kind) => kind,
        Served::Unsupported(kind) => {
            return refuse(vec![Problem::warning("", kind.reason()).hint(kind.instead)], origin);
        }
    };
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let built = tree::build(&mut deserializer);
    let built = built.and_then(|built| deserializer.end().map(|()| built).map_err(Failure::Syntax));
    match built {
        Ok((_, problems)) if !problems.is_empty() => refuse(problems, origin),
        Ok((mut tree, _)) => {
            let (status, mut problems) = status::read(kind, &tree);
            trim(kind, &mut tree);
            let decoded = decode::served(kind, &tree, unknown(kind), origin.clone());
            problems.splice(..0, decoded.problems);
            let object = decoded.object.map(|object| {
                let digest = object.digest ^ status.digest();
                Object { digest, status, ..object }
            });
            Received { object, ..refuse(problems, origin) }
        }
        Err(Failure::Limit(reason)) => refuse(vec![Problem::error("", reason)], origin),
        Err(Failure::Syntax(error)) => {
            refuse(vec![Problem::error("", format!("not valid JSON: {error}"))], origin)
        }
    }
}

impl ServedKind {
    /// Every kind that the mesh uses, and after them those of which it only says that they are not supported.
    pub fn all() -> impl Iterator<Item = Self> {
        let used = Kind::all().map(Served::Used);
        used.chain(UNSUPPORTED.iter().map(Served::Unsupported)).map(Self)
    }

    #[cfg(feature = "schema")]
    pub(super) fn used(kind: Kind) -> Self {
        Self(Served::Used(kind))
    }

    /// What to use instead of a kind that is not supported.
    pub fn instead(self) -> Option<&'static str> {
        match self.0 {
            Served::Used(_) => None,
            Served::Unsupported(kind) => Some(kind.instead),
        }
    }

    /// Whether its objects are read at all.
    pub fn is_supported(self) -> bool {
        matches!(self.0, Served::Used(_))
    }

    /// As [`super::ObjectKey::kind`] spells it.
    pub fn key(self) -> &'static str {
        match self.0 {
            Served::Used(kind) => kind.key(),
            Served::Unsupported(kind) => kind.name,
        }
    }

    /// As `kind:` spells it; two groups may use the same name.
    pub fn name(self) -> &'static str {
        match self.0 {
            Served::Used(kind) => kind.name(),
            Served::Unsupported(kind) => kind.name,
        }
    }

    /// The API group; empty for Kubernetes' core.
    pub fn group(self) -> &'static str {
        match self.0 {
            Served::Used(kind) => kind.group(),
            Served::Unsupported(kind) => kind.group,
        }
    }

    /// The versions that can be read, the one to prefer first.
    pub fn versions(self) -> &'static [&'static str] {
        match self.0 {
            Served::Used(kind) => kind.versions(),
            Served::Unsupported(kind) => kind.versions,
        }
    }

    /// Whether its objects live in a namespace.
    pub fn is_namespaced(self) -> bool {
        match self.0 {
            Served::Used(kind) => kind.is_namespaced(),
            Served::Unsupported(_) => true,
        }
    }
}

fn unknown(kind: Kind) -> Unknown {
    match kind.group() {
        "gateway.networking.k8s.io" => Unknown::Noted,
        _ if kind.is_custom() => Unknown::RefusedInSpec,
        _ => Unknown::Ignored,
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

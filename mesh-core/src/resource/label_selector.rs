//! Kubernetes' label selectors, as `MeshConfig` and the Gateway API use them.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::strict::{Invalid, did_you_mean};
use super::tree::quote;

/// Selects objects by label: everything it says must hold. One that says nothing selects every object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelector {
    /// Labels that must be there with exactly this value.
    pub match_labels: BTreeMap<String, String>,
    /// What else must hold.
    pub match_expressions: Vec<Requirement>,
}

/// An entry of `matchExpressions`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawRequirement")]
pub struct Requirement {
    /// The label that it is about.
    pub key: String,
    /// What must hold for it.
    pub operator: Operator,
}

/// What must hold for a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operator {
    /// It is there, with one of these values; never empty.
    In(Vec<String>),
    /// It is not there, or has none of these values; never empty.
    NotIn(Vec<String>),
    /// It is there.
    Exists,
    /// It is not there.
    DoesNotExist,
}

impl LabelSelector {
    /// Whether it says nothing, and so selects every object.
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }

    /// Whether an object with these labels is selected.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|requirement| requirement.holds(labels))
    }
}

impl Requirement {
    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        match &self.operator {
            Operator::In(values) => value.is_some_and(|value| values.contains(value)),
            Operator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

#[derive(Deserialize)]
struct RawRequirement {
    key: String,
    operator: String,
    #[serde(default)]
    values: Vec<String>,
}

impl TryFrom<RawRequirement> for Requirement {
    type Error = Invalid;

    fn try_from(RawRequirement { key, operator, values }: RawRequirement) -> Result<Self, Invalid> {
        let named = |values: Vec<String>| {
            let reason = format!("values must not be empty for operator {operator}");
            if values.is_empty() { Err(Invalid::new(reason)) } else { Ok(values) }
        };
        let unnamed = |operator: Operator, word: &str| {
            let reason = format!("must not be given for operator {word}");
            if values.is_empty() { Ok(operator) } else { Err(Invalid::new(reason).field("values")) }
        };
        let operator = match operator.as_str() {
            "Exists" => unnamed(Operator::Exists, "Exists")?,
            "DoesNotExist" => unnamed(Operator::DoesNotExist, "DoesNotExist")?,
            "In" => Operator::In(named(values)?),
            "NotIn" => Operator::NotIn(named(values)?),
            other => {
                let hint = did_you_mean(other, OPERATORS)
                    .unwrap_or_else(|| format!("one of {}", OPERATORS.join(", ")));
                return Err(Invalid::new(format!("unknown operator {}", quote(other))).hint(hint));
            }
        };
        if key.is_empty() {
            return Err(Invalid::new("must not be empty").field("key"));
        }
        Ok(Self { key, operator })
    }
}

const OPERATORS: &[&str] = &["In", "NotIn", "Exists", "DoesNotExist"];

#[cfg(test)]
mod tests;

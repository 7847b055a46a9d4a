//! What is asked for, and what comes of it.

use anyhow::{Context as _, Result, bail};
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::objects::Object;
use super::values::{Values, merge};
use super::{chart, objects, operator, set, template};

/// What a user says about an installation.
#[derive(Debug, Default)]
pub(crate) struct Request {
    /// Names of files and what is in them: `IstioOperator`s, or values of the chart.
    pub(crate) files: Vec<(String, String)>,
    /// `PATH=VALUE`, in values of the chart or fields of an `IstioOperator`'s spec.
    pub(crate) sets: Vec<String>,
}

/// What is to be installed.
#[derive(Debug)]
pub(crate) struct Plan {
    /// All values.
    pub(crate) values: Value,
    /// The objects, in the order in which they are applied.
    pub(crate) objects: Vec<Object>,
    /// The templates' output with its comments, by the templates' names.
    pub(crate) texts: Vec<(&'static str, String)>,
    /// What was said and has no effect, a line each.
    pub(crate) warnings: Vec<String>,
}

impl Request {
    /// Makes a plan. Later files overrule earlier ones, and `sets` all of them; the profile comes first, wherever it is
    /// named.
    pub(crate) fn plan(&self) -> Result<Plan> {
        let (said, warnings) = self.said()?;
        let values = complete(&said)?;
        let typed = Values::read(&values)?;
        let root = json!({"Values": typed});
        let mut texts = Vec::new();
        for (name, text) in chart::TEMPLATES {
            let text = template::render(text, &root).with_context(|| format!("template {name}"))?;
            texts.push((*name, text.trim_start().to_owned()));
        }
        let objects = objects::read(&texts)?;
        Ok(Plan { values, objects, texts, warnings })
    }

    /// What is said, in values of the chart.
    fn said(&self) -> Result<(Value, Vec<String>)> {
        let (mut values, mut spec, mut warnings) = (json!({}), json!({}), Vec::new());
        for (name, text) in &self.files {
            for document in serde_yaml_ng::Deserializer::from_str(text) {
                let document = Value::deserialize(document).with_context(|| format!("{name} is not YAML"))?;
                if document["kind"] == "IstioOperator" {
                    let translated = operator::translate(&document["spec"]);
                    merge(&mut values, &translated.values);
                    warnings.extend(translated.warnings.into_iter().map(|it| format!("{name}: spec.{it}")));
                } else if let Some(kind) = document.get("kind") {
                    bail!("{name}: {kind} is not read here: an IstioOperator, or values of the chart");
                } else {
                    merge(&mut values, &document);
                }
            }
        }
        for assignment in &self.sets {
            let is_operators = OPERATORS.contains(&set::first(assignment));
            let target = if is_operators { &mut spec } else { &mut values };
            set::assign(target, assignment).with_context(|| format!("--set {assignment}"))?;
        }
        let translated = operator::translate(&spec);
        merge(&mut values, &translated.values);
        warnings.extend(translated.warnings.into_iter().map(|it| format!("--set {it}")));
        Ok((values, warnings))
    }
}

/// What holds for a profile where nothing else is said.
pub(crate) fn defaults(profile: &str) -> Result<Value> {
    let text = chart::profile(profile).with_context(|| {
        let names = chart::PROFILES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        format!("profile: there is no {profile:?}; there are {names}")
    })?;
    let mut values: Value = serde_yaml_ng::from_str(chart::VALUES).context("the chart's values")?;
    // Helm makes the namespace by itself.
    values["namespace"]["create"] = json!(true);
    merge(&mut values, &serde_yaml_ng::from_str(text).with_context(|| format!("profile {profile}"))?);
    Ok(values)
}

fn complete(said: &Value) -> Result<Value> {
    let profile = match &said["profile"] {
        Value::Null => "default",
        Value::String(name) => name,
        other => bail!("profile: {other} is no name"),
    };
    let mut values = defaults(profile)?;
    let mut model = values["gatewayDefaults"].clone();
    if let Some(said) = said.get("gatewayDefaults") {
        merge(&mut model, said);
    }
    for name in said["gateways"].as_object().into_iter().flatten().map(|(name, _)| name) {
        if values["gateways"].get(name).is_none() {
            // As the chart's template has it, so that all that is known of one can be checked.
            values["gateways"][name] = model.clone();
            merge(&mut values["gateways"][name]["labels"], &json!({"app": name, "istio": name}));
        }
    }
    merge(&mut values, said);
    // Where an IstioOperator names it. Certificates and configuration must not disagree.
    if said["trustDomain"].is_null() && !values["meshConfig"]["trustDomain"].is_null() {
        values["trustDomain"] = values["meshConfig"]["trustDomain"].clone();
    }
    Ok(values)
}

/// First names of paths that are an `IstioOperator`'s, as `istioctl --set` takes them.
const OPERATORS: [&str; 7] =
    ["components", "hub", "tag", "values", "addonComponents", "revision", "compatibilityVersion"];

#[cfg(test)]
mod tests;

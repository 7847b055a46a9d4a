//! The part of Go's templates that the chart is written in. What is outside of it is refused, and so is what Go would
//! print in a way of its own: a chart that is rendered here comes to the same with Helm.
//!
//! There are `if`, `else`, `with` and `range`, variables, pipelines, and the functions `deepCopy`, `dict`, `mustMergeOverwrite`,
//! `not`, `nindent`, `print`, `quote` and `toYaml`. A field that does not exist is an error, where Helm would print nothing.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use self::parse::{Base, Command, Node, Operand, Pipeline};
use super::values::merge;

mod parse;

/// Renders a template. `root` is what `$` is, and `.` outside of `with` and `range`.
pub(super) fn render(text: &str, root: &Value) -> Result<String> {
    let nodes = parse::parse(text)?;
    let mut out = String::new();
    Scope { root, dot: root, variables: Vec::new() }.render(&nodes, &mut out)?;
    Ok(out)
}

/// What names mean at a place.
struct Scope<'v> {
    root: &'v Value,
    dot: &'v Value,
    variables: Vec<(String, Value)>,
}

impl Scope<'_> {
    fn render(&self, nodes: &[Node], out: &mut String) -> Result<()> {
        let mut scope = self.inner(self.dot);
        for node in nodes {
            match node {
                Node::Let { name, value } => {
                    let value = scope.value(value)?;
                    scope.variables.push((name.clone(), value));
                }
                node => scope.node(node, out)?,
            }
        }
        Ok(())
    }

    fn node(&self, node: &Node, out: &mut String) -> Result<()> {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Print(pipeline) => out.push_str(&printed(&self.value(pipeline)?)?),
            Node::If { condition, then, otherwise } => {
                let branch = if is_true(&self.value(condition)?) { then } else { otherwise };
                self.render(branch, out)?;
            }
            Node::With { value, body } => self.with(&self.value(value)?, body, out)?,
            Node::Range { variables, over, body } => {
                self.range(variables, &self.value(over)?, body, out)?;
            }
            // For those after it alone.
            Node::Let { .. } => {}
        }
        Ok(())
    }

    fn with(&self, value: &Value, body: &[Node], out: &mut String) -> Result<()> {
        if !is_true(value) {
            return Ok(());
        }
        self.inner(value).render(body, out)
    }

    fn range(&self, names: &[String], over: &Value, body: &[Node], out: &mut String) -> Result<()> {
        let items: Vec<(Value, &Value)> = match over {
            Value::Object(map) => {
                // Go goes through the keys of a map in their order.
                let sorted: BTreeMap<_, _> = map.iter().collect();
                sorted.into_iter().map(|(key, value)| (key.as_str().into(), value)).collect()
            }
            Value::Array(items) => items.iter().enumerate().map(|(at, item)| (at.into(), item)).collect(),
            other => bail!("range over {other}, which is neither a list nor a map"),
        };
        for (key, value) in items {
            let mut inner = self.inner(value);
            match names {
                [] => {}
                [item] => inner.variables.push((item.clone(), value.clone())),
                [index, item, ..] => {
                    inner.variables.extend([(index.clone(), key), (item.clone(), value.clone())]);
                }
            }
            inner.render(body, out)?;
        }
        Ok(())
    }

    /// The same, with another dot.
    fn inner<'i>(&'i self, dot: &'i Value) -> Scope<'i> {
        Scope { root: self.root, dot, variables: self.variables.clone() }
    }

    /// A pipeline's value: that of each command is the last argument of the next.
    fn value(&self, pipeline: &Pipeline) -> Result<Value> {
        let mut last = None;
        for command in pipeline {
            last = Some(self.command(command, last)?);
        }
        last.context("an empty pipeline")
    }

    fn command(&self, command: &Command, last: Option<Value>) -> Result<Value> {
        match command {
            Command::Value(operand) if last.is_none() => self.operand(operand),
            Command::Value(_) => bail!("a value takes nothing from a pipe"),
            Command::Call { function, arguments } => {
                let mut values = arguments.iter().map(|it| self.operand(it)).collect::<Result<Vec<_>>>()?;
                values.extend(last);
                call(function, &values)
            }
        }
    }

    fn operand(&self, operand: &Operand) -> Result<Value> {
        let (base, path) = match operand {
            Operand::Literal(value) => return Ok(value.clone()),
            Operand::Field { base, path } => (base, path),
        };
        let mut value = match base {
            Base::Dot => self.dot,
            Base::Root => self.root,
            Base::Variable(name) => {
                let known = self.variables.iter().rev().find(|(known, _)| known == name);
                known.map(|(_, value)| value).with_context(|| format!("there is no variable ${name}"))?
            }
        };
        for field in path {
            value = value.get(field).with_context(|| format!("there is no field {}", path.join(".")))?;
        }
        Ok(value.clone())
    }
}

fn call(function: &str, arguments: &[Value]) -> Result<Value> {
    Ok(match (function, arguments) {
        ("not", [value]) => (!is_true(value)).into(),
        ("toYaml", [value]) => serde_yaml_ng::to_string(value)?.trim_end_matches('\n').into(),
        // JSON's way to write a string is one of YAML's.
        ("quote", [value]) => serde_json::to_string(&printed(value)?)?.into(),
        ("nindent", [width, Value::String(text)]) => {
            let width =
                width.as_u64().and_then(|it| usize::try_from(it).ok()).context("nindent takes a number")?;
            let indent = " ".repeat(width);
            format!("\n{indent}{}", text.replace('\n', &format!("\n{indent}"))).into()
        }
        // Values are never changed here, so that a copy is as good as what it is of.
        ("deepCopy", [value]) => value.clone(),
        ("dict", pairs) if pairs.len().is_multiple_of(2) => {
            let pair = |pair: &[Value]| match pair {
                [Value::String(key), value] => Ok((key.clone(), value.clone())),
                _ => bail!("dict takes names and values"),
            };
            Value::Object(pairs.chunks(2).map(pair).collect::<Result<_>>()?)
        }
        ("mustMergeOverwrite", [first, others @ ..]) => {
            let mut merged = first.clone();
            others.iter().for_each(|other| merge(&mut merged, other));
            merged
        }
        ("print", values) => {
            // Go puts blanks between what is no text.
            let texts = values.iter().map(|it| it.as_str().context("print takes text alone"));
            texts.collect::<Result<String>>()?.into()
        }
        _ => bail!("{function} is no function that takes {} arguments", arguments.len()),
    })
}

/// As Go prints it.
fn printed(value: &Value) -> Result<String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Bool(value) => Ok(value.to_string()),
        // Helm reads all numbers as floating, and writes large ones with an exponent.
        Value::Number(number) if number.as_u64().is_some_and(|it| it < 1_000_000) => Ok(number.to_string()),
        other => bail!("{other} cannot be printed; toYaml can"),
    }
}

/// What Go takes for true.
fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

#[cfg(test)]
mod tests;

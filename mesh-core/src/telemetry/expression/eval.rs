//! What an expression comes to.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::{Attributes, Method, Node, Operator, Value};

impl Node {
    /// `None` if there is no value: an attribute that is not there, or kinds of values that do not go together.
    pub(super) fn eval<'a>(&'a self, attributes: &'a dyn Attributes) -> Option<Value<'a>> {
        Some(match self {
            Self::Text(text) => Value::Text(Cow::Borrowed(text)),
            Self::Number(number) => Value::Number(*number),
            Self::Bool(bool) => Value::Bool(*bool),
            Self::Attribute(path) => attributes.get(path)?,
            Self::Has(path) => Value::Bool(attributes.get(path).is_some()),
            Self::Not(node) => Value::Bool(!node.bool(attributes)?),
            Self::Minus(node) => Value::Number(node.number(attributes)?.checked_neg()?),
            Self::Binary(operator, sides) => binary(*operator, (&sides.0, &sides.1), attributes)?,
            Self::Choice(parts) => {
                let (asked, yes, no) = &**parts;
                if asked.bool(attributes)? { yes.eval(attributes)? } else { no.eval(attributes)? }
            }
            Self::In(node, all) => {
                let value = node.eval(attributes)?;
                Value::Bool(all.iter().any(|one| one.eval(attributes).as_ref() == Some(&value)))
            }
            Self::Method(method, sides) => {
                let (text, part) = (sides.0.text(attributes)?, sides.1.text(attributes)?);
                Value::Bool(match method {
                    Method::Contains => text.contains(&*part),
                    Method::StartsWith => text.starts_with(&*part),
                    Method::EndsWith => text.ends_with(&*part),
                })
            }
            Self::Matches(node, pattern) => Value::Bool(pattern.is_match(&node.text(attributes)?)),
            Self::Size(node) => Value::Number(i64::try_from(node.text(attributes)?.chars().count()).ok()?),
            Self::ToText(node) => Value::Text(match node.eval(attributes)? {
                Value::Text(text) => text,
                Value::Number(number) => number.to_string().into(),
                Value::Bool(bool) => bool.to_string().into(),
            }),
            Self::ToNumber(node) => Value::Number(match node.eval(attributes)? {
                Value::Text(text) => text.parse().ok()?,
                Value::Number(number) => number,
                Value::Bool(_) => return None,
            }),
        })
    }

    fn bool(&self, attributes: &dyn Attributes) -> Option<bool> {
        match self.eval(attributes)? {
            Value::Bool(bool) => Some(bool),
            _ => None,
        }
    }

    fn number(&self, attributes: &dyn Attributes) -> Option<i64> {
        match self.eval(attributes)? {
            Value::Number(number) => Some(number),
            _ => None,
        }
    }

    fn text<'a>(&'a self, attributes: &'a dyn Attributes) -> Option<Cow<'a, str>> {
        match self.eval(attributes)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }
}

fn binary<'a>(
    operator: Operator,
    (left, right): (&'a Node, &'a Node),
    attributes: &'a dyn Attributes,
) -> Option<Value<'a>> {
    // One side may decide whatever the other comes to.
    let either = |deciding: bool| match (left.bool(attributes), right.bool(attributes)) {
        (Some(one), _) | (_, Some(one)) if one == deciding => Some(Value::Bool(deciding)),
        (Some(_), Some(_)) => Some(Value::Bool(!deciding)),
        _ => None,
    };
    match operator {
        Operator::Or => return either(true),
        Operator::And => return either(false),
        _ => {}
    }
    let (left, right) = (left.eval(attributes)?, right.eval(attributes)?);
    let ordered = |is: fn(Ordering) -> bool| {
        Some(Value::Bool(is(match (&left, &right) {
            (Value::Number(a), Value::Number(b)) => a.cmp(b),
            (Value::Text(a), Value::Text(b)) => a.cmp(b),
            _ => return None,
        })))
    };
    match operator {
        Operator::Equal => Some(Value::Bool(left == right)),
        Operator::Unequal => Some(Value::Bool(left != right)),
        Operator::Less => ordered(Ordering::is_lt),
        Operator::AtMost => ordered(Ordering::is_le),
        Operator::Greater => ordered(Ordering::is_gt),
        Operator::AtLeast => ordered(Ordering::is_ge),
        Operator::Plus => match (left, right) {
            (Value::Number(a), Value::Number(b)) => Some(Value::Number(a.checked_add(b)?)),
            (Value::Text(a), Value::Text(b)) => Some(Value::Text((a.into_owned() + &b).into())),
            _ => None,
        },
        Operator::Minus => match (left, right) {
            (Value::Number(a), Value::Number(b)) => Some(Value::Number(a.checked_sub(b)?)),
            _ => None,
        },
        Operator::Or | Operator::And => None,
    }
}

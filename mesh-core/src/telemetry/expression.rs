//! Expressions that choose requests to log, and that say what a label is: the part of CEL that is about attributes of
//! requests. Written by users, read once, evaluated for each request.
//!
//! Invariant: an expression is finite in length and depth, and whatever it is asked about, evaluating it ends and cannot fail
//! in another way than by having no value.

use std::borrow::Cow;
use std::fmt;

use regex::Regex;

use self::parse::Parser;

mod eval;
mod lex;
mod parse;

/// An expression. Two are equal if they were written alike.
#[derive(Clone)]
pub struct Expression {
    text: Box<str>,
    root: Node,
}

/// What an expression, or an attribute, comes to.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// A text.
    Text(Cow<'a, str>),
    /// A whole number.
    Number(i64),
    /// Yes or no.
    Bool(bool),
}

/// Where the values of attributes are, such as `request.headers['x-a']`.
pub trait Attributes {
    /// The value of an attribute by its parts; `None` if it has none.
    fn get(&self, path: &[Box<str>]) -> Option<Value<'_>>;
}

/// Why a text is no expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}, at character {at}")]
pub struct ExpressionError {
    /// What is wrong.
    reason: String,
    /// Where.
    at: usize,
}

#[derive(Debug, Clone)]
enum Node {
    Text(Box<str>),
    Number(i64),
    Bool(bool),
    Attribute(Box<[Box<str>]>),
    Has(Box<[Box<str>]>),
    Not(Box<Node>),
    Minus(Box<Node>),
    Binary(Operator, Box<(Node, Node)>),
    Choice(Box<(Node, Node, Node)>),
    In(Box<Node>, Box<[Node]>),
    Method(Method, Box<(Node, Node)>),
    Matches(Box<Node>, Regex),
    Size(Box<Node>),
    ToText(Box<Node>),
    ToNumber(Box<Node>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Or,
    And,
    Equal,
    Unequal,
    Less,
    AtMost,
    Greater,
    AtLeast,
    Plus,
    Minus,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Contains,
    StartsWith,
    EndsWith,
}

impl Expression {
    /// Reads one.
    ///
    /// # Errors
    /// If it is none, or is about something that nobody has here.
    pub fn parse(text: &str) -> Result<Self, ExpressionError> {
        if text.len() > MAX_LENGTH {
            return Err(ExpressionError { reason: format!("it is longer than {MAX_LENGTH} bytes"), at: 0 });
        }
        Ok(Self { root: Parser::new(lex::tokens(text)?).whole()?, text: text.into() })
    }

    /// Whether it may be about an attribute whose parts these are: whether all of them are written in it.
    pub fn mentions(&self, parts: [&str; 2]) -> bool {
        parts.iter().all(|part| self.text.contains(part))
    }

    /// What it comes to as a text; `None` if it has no value.
    pub fn text(&self, attributes: &dyn Attributes) -> Option<String> {
        Some(match self.root.eval(attributes)? {
            Value::Text(text) => text.into_owned(),
            Value::Number(number) => number.to_string(),
            Value::Bool(bool) => bool.to_string(),
        })
    }

    /// Whether it holds. What has no value does not.
    pub fn holds(&self, attributes: &dyn Attributes) -> bool {
        self.root.eval(attributes) == Some(Value::Bool(true))
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Expression {}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Bytes of an expression.
const MAX_LENGTH: usize = 4_096;

#[cfg(test)]
mod tests;

//! From text to nodes.

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::Value;

/// A part of a template.
#[derive(Debug, PartialEq)]
pub(super) enum Node {
    /// As it is.
    Text(String),
    /// A value.
    Print(Pipeline),
    /// One of two.
    If { condition: Pipeline, then: Vec<Node>, otherwise: Vec<Node> },
    /// With a value as the dot, if it is there.
    With { value: Pipeline, body: Vec<Node> },
    /// A variable, from here to the end of what it stands in.
    Let { name: String, value: Pipeline },
    /// For each item.
    Range { variables: Vec<String>, over: Pipeline, body: Vec<Node> },
}

/// Commands, each of which has what the one before it came to as its last argument.
pub(super) type Pipeline = Vec<Command>;

/// A step of a pipeline.
#[derive(Debug, PartialEq)]
pub(super) enum Command {
    /// A value.
    Value(Operand),
    /// A function of values.
    Call { function: String, arguments: Vec<Operand> },
}

/// Something that has a value.
#[derive(Debug, PartialEq)]
pub(super) enum Operand {
    /// Text or a number.
    Literal(Value),
    /// A field of a field of something.
    Field { base: Base, path: Vec<String> },
}

/// Where a path of fields begins.
#[derive(Debug, PartialEq)]
pub(super) enum Base {
    /// `.`
    Dot,
    /// `$`
    Root,
    /// `$name`
    Variable(String),
}

/// Parses a template.
pub(super) fn parse(text: &str) -> Result<Vec<Node>> {
    let mut parser = Parser { pieces: pieces(text)?.into_iter() };
    match parser.body()? {
        (nodes, Stop::Text) => Ok(nodes),
        (_, end) => bail!("{end:?} without a beginning"),
    }
}

/// What a template is made of, before it is known what belongs together.
#[derive(Debug)]
enum Piece {
    Text(String),
    Action(String),
}

/// Cuts at braces, and takes away the white space that dashes are for.
fn pieces(text: &str) -> Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    let (mut rest, mut is_trimmed) = (text, false);
    while let Some((before, after)) = rest.split_once("{{") {
        let (action, next) = after.split_once("}}").context("{{ without }}")?;
        let before = if is_trimmed { before.trim_start() } else { before };
        let (action, trims_before) = match action.strip_prefix("- ") {
            Some(action) => (action, true),
            None => (action, false),
        };
        pieces.push(Piece::Text(if trims_before { before.trim_end() } else { before }.to_owned()));
        let (action, trims_after) = match action.strip_suffix(" -") {
            Some(action) => (action, true),
            None => (action, false),
        };
        pieces.push(Piece::Action(action.trim().to_owned()));
        (rest, is_trimmed) = (next, trims_after);
    }
    pieces.push(Piece::Text(if is_trimmed { rest.trim_start() } else { rest }.to_owned()));
    Ok(pieces)
}

/// What ends a row of nodes.
#[derive(Debug, PartialEq)]
enum Stop {
    End,
    Else,
    Text,
}

struct Parser {
    pieces: std::vec::IntoIter<Piece>,
}

impl Parser {
    fn body(&mut self) -> Result<(Vec<Node>, Stop)> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            match piece {
                Piece::Text(text) => nodes.push(Node::Text(text)),
                Piece::Action(action) if action == "end" => return Ok((nodes, Stop::End)),
                Piece::Action(action) if action == "else" => return Ok((nodes, Stop::Else)),
                Piece::Action(action) => {
                    nodes.push(self.action(&action).with_context(|| format!("in {{{{ {action} }}}}"))?);
                }
            }
        }
        Ok((nodes, Stop::Text))
    }

    fn action(&mut self, action: &str) -> Result<Node> {
        let (word, rest) = action.split_once(' ').unwrap_or((action, ""));
        match word {
            "if" => {
                let condition = pipeline(rest)?;
                let (then, end) = self.body()?;
                let otherwise = if end == Stop::Else { self.until_end()? } else { Vec::new() };
                if end == Stop::Text {
                    bail!("an if without an end");
                }
                Ok(Node::If { condition, then, otherwise })
            }
            "with" => Ok(Node::With { value: pipeline(rest)?, body: self.until_end()? }),
            "range" => {
                let (names, over) = rest.split_once(":=").unwrap_or(("", rest));
                let name = |name: &str| {
                    let name = name.trim().strip_prefix('$').context("a variable begins with $");
                    name.map(str::to_owned)
                };
                let names = names.split(',').filter(|it| !it.trim().is_empty());
                let variables = names.map(name).collect::<Result<_>>()?;
                Ok(Node::Range { variables, over: pipeline(over)?, body: self.until_end()? })
            }
            variable if rest.starts_with(":= ") => {
                let name = variable.strip_prefix('$').context("a variable begins with $")?.to_owned();
                Ok(Node::Let { name, value: pipeline(rest.trim_start_matches(":= "))? })
            }
            "define" | "template" | "block" | "break" | "continue" => bail!("{word} is not known here"),
            _ => pipeline(action).map(Node::Print),
        }
    }

    fn until_end(&mut self) -> Result<Vec<Node>> {
        match self.body()? {
            (nodes, Stop::End) => Ok(nodes),
            (_, end) => bail!("{end:?} where there should be an end"),
        }
    }
}

fn pipeline(text: &str) -> Result<Pipeline> {
    let words = words(text)?;
    words.split(|word| word == "|").map(command).collect()
}

fn command(words: &[String]) -> Result<Command> {
    let (first, rest) = words.split_first().context("nothing between two pipes")?;
    if first.starts_with(|first: char| first.is_ascii_alphabetic()) {
        let arguments = rest.iter().map(|word| operand(word)).collect::<Result<_>>()?;
        return Ok(Command::Call { function: first.clone(), arguments });
    }
    if !rest.is_empty() {
        bail!("{first} is no function");
    }
    operand(first).map(Command::Value)
}

fn operand(word: &str) -> Result<Operand> {
    if word.starts_with('"') {
        return Ok(Operand::Literal(serde_json::from_str(word)?));
    }
    if let Ok(number) = word.parse::<u64>() {
        return Ok(Operand::Literal(number.into()));
    }
    let (base, path) = word.split_once('.').ok_or_else(|| anyhow!("what is {word}?")).or_else(|error| {
        // A variable alone.
        if word.starts_with('$') { Ok((word, "")) } else { Err(error) }
    })?;
    let base = match base.strip_prefix('$') {
        None if base.is_empty() => Base::Dot,
        None => bail!("what is {word}?"),
        Some("") => Base::Root,
        Some(name) => Base::Variable(name.to_owned()),
    };
    let path = path.split('.').filter(|field| !field.is_empty()).map(str::to_owned).collect();
    Ok(Operand::Field { base, path })
}

/// Words by blanks; quoted text is one, quotes and all.
fn words(text: &str) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let length = match rest.strip_prefix('"') {
            Some(quoted) => quoted.find('"').context("a quote without its end")? + 2,
            None => rest.find(char::is_whitespace).unwrap_or(rest.len()),
        };
        let (word, after) = rest.split_at(length);
        if word.contains(['(', ')', '\\', '`']) {
            bail!("{word}: brackets, backslashes and backquotes are not known here");
        }
        words.push(word.to_owned());
        rest = after.trim_start();
    }
    Ok(words)
}

//! Words become an expression: CEL's grammar, as far as it goes here.

use regex::Regex;

use super::lex::{Token, Word};
use super::{ExpressionError, Method, Node, Operator};

pub(super) struct Parser {
    tokens: std::iter::Peekable<std::vec::IntoIter<Token>>,
    depth: u32,
}

type Parsed = Result<Node, ExpressionError>;

impl Parser {
    pub(super) fn new(tokens: Vec<Token>) -> Self {
        Self { tokens: tokens.into_iter().peekable(), depth: 0 }
    }

    pub(super) fn whole(mut self) -> Parsed {
        let node = self.choice()?;
        match self.peek() {
            Word::End => Ok(node),
            _ => self.fail("this is one word too many"),
        }
    }

    fn peek(&mut self) -> Word {
        self.tokens.peek().map_or(Word::End, |token| token.word.clone())
    }

    fn fail<T>(&mut self, reason: impl Into<String>) -> Result<T, ExpressionError> {
        let at = self.tokens.peek().map_or(0, |token| token.at);
        Err(ExpressionError { reason: reason.into(), at })
    }

    fn takes(&mut self, sign: &str) -> bool {
        self.tokens.next_if(|token| matches!(token.word, Word::Sign(it) if it == sign)).is_some()
    }

    fn expect(&mut self, sign: &str) -> Result<(), ExpressionError> {
        if self.takes(sign) { Ok(()) } else { self.fail(format!("there should be a {sign}")) }
    }

    fn choice(&mut self) -> Parsed {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return self.fail("it is too deep");
        }
        let node = self.binary(0)?;
        let node = if self.takes("?") {
            let yes = self.choice()?;
            self.expect(":")?;
            let no = self.choice()?;
            Node::Choice(Box::new((node, yes, no)))
        } else {
            node
        };
        self.depth -= 1;
        Ok(node)
    }

    /// Operators of this level of binding and above, from the left.
    fn binary(&mut self, level: usize) -> Parsed {
        let Some(operators) = LEVELS.get(level) else { return self.unary() };
        let mut node = self.binary(level + 1)?;
        let mut count = 0;
        loop {
            if level == RELATIONS
                && self.tokens.next_if(|token| token.word == Word::Name("in".to_owned())).is_some()
            {
                node = Node::In(Box::new(node), self.list()?);
                continue;
            }
            let found = operators.iter().find(|(sign, _)| self.takes(sign));
            let Some((_, operator)) = found else { return Ok(node) };
            count += 1;
            if count > MAX_CHAIN {
                return self.fail("it is too long");
            }
            let right = self.binary(level + 1)?;
            node = Node::Binary(*operator, Box::new((node, right)));
        }
    }

    fn list(&mut self) -> Result<Box<[Node]>, ExpressionError> {
        self.expect("[")?;
        let mut all = Vec::new();
        while !self.takes("]") {
            if !all.is_empty() {
                self.expect(",")?;
            }
            all.push(self.choice()?);
        }
        Ok(all.into())
    }

    fn unary(&mut self) -> Parsed {
        let mut signs = Vec::new();
        loop {
            match (self.takes("!"), self.takes("-")) {
                (true, _) => signs.push('!'),
                (_, true) => signs.push('-'),
                _ => break,
            }
            if signs.len() > MAX_CHAIN {
                return self.fail("it is too long");
            }
        }
        let node = self.member()?;
        Ok(signs.iter().rev().fold(node, |node, sign| match sign {
            '!' => Node::Not(Box::new(node)),
            _ => Node::Minus(Box::new(node)),
        }))
    }

    fn member(&mut self) -> Parsed {
        let mut node = self.primary()?;
        loop {
            if self.takes(".") {
                let Word::Name(name) = self.peek() else { return self.fail("there should be a name") };
                self.tokens.next();
                node = if self.takes("(") { self.method(node, &name)? } else { self.inside(node, name)? };
            } else if self.takes("[") {
                let Word::Text(key) = self.peek() else { return self.fail("there should be a text") };
                self.tokens.next();
                self.expect("]")?;
                node = self.inside(node, key)?;
            } else {
                return Ok(node);
            }
        }
    }

    fn inside(&mut self, node: Node, name: String) -> Parsed {
        let Node::Attribute(path) = node else { return self.fail("this has no parts") };
        let mut path = path.into_vec();
        if path.len() >= MAX_PARTS {
            return self.fail("it is too deep");
        }
        path.push(name.into());
        Ok(Node::Attribute(path.into()))
    }

    fn method(&mut self, node: Node, name: &str) -> Parsed {
        if name == "size" {
            self.expect(")")?;
            return Ok(Node::Size(Box::new(node)));
        }
        let argument = self.choice()?;
        let method = match name {
            "contains" => Method::Contains,
            "startsWith" => Method::StartsWith,
            "endsWith" => Method::EndsWith,
            "matches" => {
                let Node::Text(pattern) = argument else { return self.fail("a pattern should be a text") };
                let Ok(regex) = Regex::new(&pattern) else {
                    return self.fail("this is no regular expression");
                };
                self.expect(")")?;
                return Ok(Node::Matches(Box::new(node), regex));
            }
            other => return self.fail(format!("there is no function {other}")),
        };
        self.expect(")")?;
        Ok(Node::Method(method, Box::new((node, argument))))
    }

    fn primary(&mut self) -> Parsed {
        if self.takes("(") {
            let node = self.choice()?;
            self.expect(")")?;
            return Ok(node);
        }
        let word = self.peek();
        match word {
            Word::Name(name) => {
                self.tokens.next();
                self.named(name)
            }
            Word::Text(text) => {
                self.tokens.next();
                Ok(Node::Text(text.into()))
            }
            Word::Number(number) => {
                self.tokens.next();
                Ok(Node::Number(number))
            }
            Word::Sign(_) | Word::End => self.fail("something is missing"),
        }
    }

    fn named(&mut self, name: String) -> Parsed {
        match name.as_str() {
            "true" => return Ok(Node::Bool(true)),
            "false" => return Ok(Node::Bool(false)),
            _ => {}
        }
        if !self.takes("(") {
            return Ok(Node::Attribute([name.into()].into()));
        }
        let argument = self.choice()?;
        self.expect(")")?;
        match (name.as_str(), argument) {
            ("has", Node::Attribute(path)) => Ok(Node::Has(path)),
            ("has", _) => self.fail("has() is about an attribute"),
            ("size", node) => Ok(Node::Size(Box::new(node))),
            ("string", node) => Ok(Node::ToText(Box::new(node))),
            ("int" | "uint", node) => Ok(Node::ToNumber(Box::new(node))),
            (other, _) => self.fail(format!("there is no function {other}")),
        }
    }
}

/// Operators by how strongly they bind, the weakest first.
const LEVELS: &[&[(&str, Operator)]] = &[
    &[("||", Operator::Or)],
    &[("&&", Operator::And)],
    &[
        ("==", Operator::Equal),
        ("!=", Operator::Unequal),
        ("<=", Operator::AtMost),
        (">=", Operator::AtLeast),
        ("<", Operator::Less),
        (">", Operator::Greater),
    ],
    &[("+", Operator::Plus), ("-", Operator::Minus)],
];
/// The level that `in` is of.
const RELATIONS: usize = 2;
/// Expressions in each other.
const MAX_DEPTH: u32 = 24;
/// Parts of an attribute's name.
const MAX_PARTS: usize = 8;
/// Operators of one level beside each other, which nest.
const MAX_CHAIN: usize = 64;

//! An expression's words.

use super::ExpressionError;

/// A word, and the character it begins at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) word: Word,
    pub(super) at: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Word {
    Name(String),
    Text(String),
    Number(i64),
    Sign(&'static str),
    End,
}

pub(super) fn tokens(text: &str) -> Result<Vec<Token>, ExpressionError> {
    let all: Vec<char> = text.chars().collect();
    let (mut tokens, mut at) = (Vec::new(), 0);
    while let Some(first) = all.get(at) {
        let rest = all.get(at..).unwrap_or_default();
        if first.is_whitespace() {
            at += 1;
            continue;
        }
        let (word, length) = word(rest).map_err(|reason| ExpressionError { reason, at })?;
        tokens.push(Token { word, at });
        at += length;
    }
    tokens.push(Token { word: Word::End, at });
    Ok(tokens)
}

/// The word that a text begins with, and its characters.
fn word(rest: &[char]) -> Result<(Word, usize), String> {
    let first = rest.first().copied().unwrap_or_default();
    let while_ = |is: fn(char) -> bool| rest.iter().take_while(|it| is(**it)).count();
    if first.is_ascii_alphabetic() || first == '_' {
        let length = while_(|it| it.is_ascii_alphanumeric() || it == '_');
        return Ok((Word::Name(rest.iter().take(length).collect()), length));
    }
    if first.is_ascii_digit() {
        let length = while_(|it| it.is_ascii_digit());
        let digits: String = rest.iter().take(length).collect();
        // An unsigned number is a number.
        let suffix = usize::from(matches!(rest.get(length), Some('u' | 'U')));
        let number = digits.parse().map_err(|_| format!("{digits} is too large"))?;
        return Ok((Word::Number(number), length + suffix));
    }
    if first == '"' || first == '\'' {
        return quoted(rest, first);
    }
    let begins = |sign: &str| sign.chars().zip(rest).filter(|(a, b)| a == *b).count() == sign.len();
    let sign = SIGNS.iter().find(|sign| begins(sign));
    sign.map(|sign| (Word::Sign(sign), sign.len())).ok_or_else(|| format!("{first:?} begins nothing"))
}

fn quoted(rest: &[char], quote: char) -> Result<(Word, usize), String> {
    let (mut text, mut at) = (String::new(), 1);
    loop {
        match rest.get(at).copied() {
            None => return Err("a text does not end".to_owned()),
            Some(end) if end == quote => return Ok((Word::Text(text), at + 1)),
            Some('\\') => {
                let escaped = rest.get(at + 1).copied().ok_or("a text does not end")?;
                text.push(match escaped {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    '\\' | '"' | '\'' | '`' | '?' => escaped,
                    other => return Err(format!("\\{other} is no escape")),
                });
                at += 2;
            }
            Some(other) => {
                text.push(other);
                at += 1;
            }
        }
    }
}

/// Longer ones first.
const SIGNS: &[&str] =
    &["&&", "||", "==", "!=", "<=", ">=", "<", ">", "!", "?", ":", "(", ")", "[", "]", ",", ".", "+", "-"];

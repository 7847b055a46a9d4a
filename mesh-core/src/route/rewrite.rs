//! Another path for a request.

use super::{MatchInfo, MatchedPath};
use crate::resource::networking::virtual_service::{self, PathRewrite, RegexRewrite};
use crate::resource::value::Regex;

/// What happens to the path of a request that is sent on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rewrite {
    /// This text takes the place of the prefix that matched, or of the whole path where none did. Nothing is done about
    /// slashes: prefix `/a`, text `/` and path `/a/b` make `//b`, as in Istio.
    Matched(Box<str>),
    /// As [`Self::Matched`], but by whole segments: text `/` or nothing takes prefix `/a` off `/a/b`, as in the Gateway API.
    Segments(Box<str>),
    /// This is the path.
    Whole(Box<str>),
    /// All that an expression finds is replaced.
    Regex(Regex, Vec<Piece>),
}

/// A part of what replaces a finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// This text.
    Text(Box<str>),
    /// What this group found; 0 is all of it.
    Group(usize),
}

impl Rewrite {
    /// `None` where the path stays.
    pub(super) fn of(rewrite: &virtual_service::Rewrite) -> Option<Self> {
        rewrite.path().map(|path| match path {
            PathRewrite::Matched(text) => Self::Matched(text.into()),
            PathRewrite::Regex(RegexRewrite { pattern, rewrite }) => {
                Self::Regex(pattern.clone(), pieces(rewrite))
            }
        })
    }

    /// The new path of a request that met `matched`, without a query as `path` is. It always begins with a slash,
    /// because no request can have another.
    pub fn path(&self, path: &str, matched: &MatchInfo) -> String {
        let path = match self {
            Self::Matched(text) => replace_matched(text, path, matched),
            Self::Segments(text) => replace_segments(text, path, matched),
            Self::Whole(text) => text.to_string(),
            Self::Regex(regex, pieces) => replace_all(regex, pieces, path),
        };
        if path.starts_with('/') { path } else { format!("/{path}") }
    }
}

/// `path` with `text` in the place of what `matched` is about.
pub(super) fn replace_matched(text: &str, path: &str, matched: &MatchInfo) -> String {
    let rest = match matched.path {
        MatchedPath::Prefix(length) => path.get(length..).unwrap_or_default(),
        MatchedPath::Whole => "",
    };
    [text, rest].concat()
}

/// As [`replace_matched`], for a match of whole segments: what follows it is nothing, or begins with a slash.
pub(super) fn replace_segments(text: &str, path: &str, matched: &MatchInfo) -> String {
    let path = replace_matched(text.strip_suffix('/').unwrap_or(text), path, matched);
    if path.is_empty() { "/".to_owned() } else { path }
}

fn replace_all(regex: &Regex, pieces: &[Piece], path: &str) -> String {
    let Ok(regex) = regex.compiled() else { return path.to_owned() };
    let mut out = Vec::with_capacity(path.len());
    let mut done = 0;
    for found in regex.captures_iter(path.as_bytes()) {
        let Some(whole) = found.get(0) else { continue };
        out.extend_from_slice(path.as_bytes().get(done..whole.start()).unwrap_or_default());
        for piece in pieces {
            out.extend_from_slice(match piece {
                Piece::Text(text) => text.as_bytes(),
                Piece::Group(group) => found.get(*group).map(|group| group.as_bytes()).unwrap_or_default(),
            });
        }
        done = whole.end();
    }
    out.extend_from_slice(path.as_bytes().get(done..).unwrap_or_default());
    // A finding that cuts a character in two cannot be put together again.
    String::from_utf8(out).unwrap_or_else(|_| path.to_owned())
}

/// `\0` to `\9` are groups, `\\` is a backslash; parsing refuses all else.
fn pieces(text: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match (c, c == '\\') {
            (_, true) => match rest.next() {
                Some(digit) if digit.is_ascii_digit() => {
                    if !literal.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut literal).into()));
                    }
                    pieces.push(Piece::Group(digit.to_digit(10).map_or(0, |digit| digit as usize)));
                }
                other => literal.extend(other),
            },
            (c, false) => literal.push(c),
        }
    }
    if !literal.is_empty() {
        pieces.push(Piece::Text(literal.into()));
    }
    pieces
}

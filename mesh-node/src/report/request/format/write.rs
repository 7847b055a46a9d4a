//! Values as bytes of a line, by hand: the machinery of `std::fmt` would be most of a line's cost.

use std::io::Write as _;

use super::Style;
use super::clock::Clock;
use super::operator::Value;
use crate::report::access::{escape, is_plain};
use crate::report::request::Flags;
use crate::report::text::{self, number};

/// Appends a value.
pub(super) fn value(out: &mut Vec<u8>, clock: &mut Clock, value: &Value<'_>, style: Style) {
    let is_quoted = style == Style::Value && !matches!(value, Value::Absent | Value::Number(_));
    if is_quoted {
        out.push(b'"');
    }
    match value {
        Value::Absent if style == Style::Value => out.extend_from_slice(b"null"),
        Value::Absent => out.push(b'-'),
        Value::Time(time) => clock.write(out, *time),
        Value::Number(value) | Value::Digits(value) => number(out, *value),
        Value::Bytes(bytes) => escaped(out, bytes),
        Value::Word(text) => word(out, text),
        Value::Flags(flags) => self::flags(out, *flags),
        Value::Address(address) => text::address(out, *address),
        Value::Ip(ip) => text::ip(out, *ip),
        Value::Owned(text) => escaped(out, text.as_bytes()),
    }
    if is_quoted {
        out.push(b'"');
    }
}

/// Something a peer may have sent: as the inside of a JSON string, capped; what is not UTF-8 is replaced.
fn escaped(out: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.len() <= MAX_VALUE && is_plain(bytes) {
        return out.extend_from_slice(bytes);
    }
    let mut text = String::new();
    escape(&mut text, &String::from_utf8_lossy(bytes), MAX_VALUE);
    out.extend_from_slice(text.as_bytes());
}

fn word(out: &mut Vec<u8>, text: &str) {
    if text.bytes().any(|byte| byte.is_ascii_whitespace()) {
        escaped(out, text.replace(|c: char| c.is_ascii_whitespace(), "_").as_bytes());
    } else {
        escaped(out, text.as_bytes());
    }
}

fn flags(out: &mut Vec<u8>, flags: Flags) {
    if flags.is_empty() {
        out.push(b'-');
    } else {
        write!(out, "{flags}").expect("a Vec takes all");
    }
}

/// Most bytes of a value, escapes included: paths are long more often than other names are.
const MAX_VALUE: usize = 2_048;

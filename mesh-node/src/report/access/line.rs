//! The text of an access-log line, in the format of ambient Istio's node proxy.
//!
//! Names and reasons may hold what a user or a peer has chosen: strings are escaped, so that a line stays one line, and
//! capped, so that it stays short.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use super::AccessLogFormat;
use super::ends::Ends;
use crate::report::request::Clock;
use crate::report::{ConnInfo, Failure, Party, text};

/// Everything a line says.
pub(in crate::report) struct Line<'a> {
    /// The time of the line, which is the connection's end.
    pub(in crate::report) time: SystemTime,
    pub(in crate::report) info: &'a ConnInfo,
    /// Bytes the local pod has sent.
    pub(in crate::report) sent: u64,
    /// Bytes the local pod has received.
    pub(in crate::report) received: u64,
    pub(in crate::report) duration: Duration,
    pub(in crate::report) failure: Option<&'a Failure>,
}

/// What stands before a value, in one piece.
struct Key {
    text: &'static str,
    json: &'static str,
}

macro_rules! key {
    ($name:literal) => {
        &Key { text: concat!(" ", $name, "="), json: concat!(",\"", $name, "\":") }
    };
}

/// The first of all, which is a column's beginning.
const SOURCE: Key = Key { text: "\tsrc.addr=", ..*key!("src.addr") };

impl Line<'_> {
    /// Appends the line with its newline. `clock` and `ends` are what the thread has kept of other lines.
    pub(in crate::report) fn write(
        &self,
        out: &mut Vec<u8>,
        (clock, ends): (&mut Clock, &mut Ends),
        format: AccessLogFormat,
    ) {
        let level = if self.failure.is_some() { "error" } else { "info" };
        let json = format == AccessLogFormat::Json;
        let [before, after, message, end] = if json {
            [
                "{\"time\":\"",
                "\",\"level\":\"",
                "\",\"scope\":\"access\",\"message\":\"connection complete\"",
                "}\n",
            ]
        } else {
            ["", "\t", "\taccess\tconnection complete", "\n"]
        };
        out.extend_from_slice(before.as_bytes());
        clock.write_micros(out, self.time);
        for text in [after, level, message] {
            out.extend_from_slice(text.as_bytes());
        }
        self.fields(&mut Fields { out, json }, ends);
        out.extend_from_slice(end.as_bytes());
    }

    fn fields(&self, fields: &mut Fields<'_>, ends: &mut Ends) {
        let info = self.info;
        let (source, destination) = ends.texts(info, fields.json);
        fields.address(&SOURCE, info.source.addr);
        fields.out.extend_from_slice(source);
        // The line looks from outside of the tunnel: its end first, then the address inside of it.
        fields.address(key!("dst.addr"), info.hbone_addr.unwrap_or(info.destination.addr));
        if info.hbone_addr.is_some() {
            fields.address(key!("dst.hbone_addr"), info.destination.addr);
        }
        fields.out.extend_from_slice(destination);
        fields.number(key!("bytes_sent"), self.sent);
        fields.number(key!("bytes_recv"), self.received);
        fields.milliseconds(key!("duration"), self.duration);
        if let Some(failure) = self.failure {
            fields.string(key!("stage"), failure.stage.token());
            fields.string(key!("response_flags"), failure.flag.label());
            fields.string(key!("error"), &failure.reason);
        }
    }
}

/// What stands behind the address of the source.
pub(super) fn about_source(fields: &mut Fields<'_>, info: &ConnInfo) {
    party(fields, &info.source, [key!("src.workload"), key!("src.namespace"), key!("src.identity")]);
}

/// What stands between the addresses of the destination and what was carried.
pub(super) fn about_destination(fields: &mut Fields<'_>, info: &ConnInfo) {
    match (&info.service, info.pseudo_service) {
        (Some(service), _) => fields.string(key!("dst.service"), &service.hostname),
        (None, Some(pseudo)) => fields.string(key!("dst.service"), pseudo.name()),
        (None, None) => {}
    }
    party(fields, &info.destination, [key!("dst.workload"), key!("dst.namespace"), key!("dst.identity")]);
    fields.string(key!("direction"), info.direction.name());
    if info.datagrams {
        fields.string(key!("protocol"), "udp");
    }
}

/// Pod name, namespace and proven identity of an end.
fn party(fields: &mut Fields<'_>, party: &Party, [name, namespace, identity]: [&Key; 3]) {
    if let Some(workload) = party.workload.as_deref() {
        fields.string(name, &workload.name);
        fields.string(namespace, &workload.namespace);
    }
    if let Some(id) = &party.identity {
        fields.string(identity, id.uri());
    }
}

/// Writes `key=value` or `,"key":value`.
pub(super) struct Fields<'a> {
    pub(super) out: &'a mut Vec<u8>,
    pub(super) json: bool,
}

impl Fields<'_> {
    fn key(&mut self, key: &Key) {
        let text = if self.json { key.json } else { key.text };
        self.out.extend_from_slice(text.as_bytes());
    }

    fn string(&mut self, key: &Key, value: &str) {
        self.key(key);
        self.out.push(b'"');
        if value.len() <= MAX_FIELD && is_plain(value.as_bytes()) {
            self.out.extend_from_slice(value.as_bytes());
        } else {
            let mut text = String::new();
            escape(&mut text, value, MAX_FIELD);
            self.out.extend_from_slice(text.as_bytes());
        }
        self.out.push(b'"');
    }

    fn address(&mut self, key: &Key, value: std::net::SocketAddr) {
        self.key(key);
        let quote: &[u8] = if self.json { b"\"" } else { b"" };
        self.out.extend_from_slice(quote);
        text::address(self.out, value);
        self.out.extend_from_slice(quote);
    }

    fn number(&mut self, key: &Key, value: u64) {
        self.key(key);
        text::number(self.out, value);
    }

    fn milliseconds(&mut self, key: &Key, value: Duration) {
        self.key(key);
        self.out.push(b'"');
        text::number(self.out, u64::try_from(value.as_millis()).unwrap_or(u64::MAX));
        self.out.extend_from_slice(b"ms\"");
    }
}

/// Appends a string as the inside of a JSON string, at most `most` bytes of it. Escaped are, besides what JSON asks for,
/// all control characters and those that reorder or break a line on a terminal.
pub(in crate::report) fn escape(out: &mut String, value: &str, most: usize) {
    if value.len() <= most && is_plain(value.as_bytes()) {
        return out.push_str(value);
    }
    let start = out.len();
    for c in value.chars() {
        let before = out.len();
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if is_hidden(c) => write!(out, "\\u{:04x}", u32::from(c)).expect("a String takes all"),
            c => out.push(c),
        }
        if out.len() - start > most - MORE.len() {
            // No room for this character and the mark that something is missing.
            out.truncate(before);
            out.push_str(MORE);
            return;
        }
    }
}

/// Whether there is nothing to escape. Looks at all bytes in any case, many at a time.
pub(in crate::report) fn is_plain(bytes: &[u8]) -> bool {
    let plain = |byte: u8| byte.wrapping_sub(b' ') < 0x5f && byte != b'"' && byte != b'\\';
    bytes.iter().fold(true, |all, byte| all & plain(*byte))
}

/// Control characters, line and paragraph separators, and bidirectional controls. All of them fit four hex digits.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Most bytes of a string, escapes included, quotes not.
const MAX_FIELD: usize = 256;
/// Ends a string that was too long.
const MORE: &str = "...";

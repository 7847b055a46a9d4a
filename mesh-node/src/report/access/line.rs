//! The text of an access-log line, in the format of ambient Istio's node proxy.
//!
//! Names and reasons may hold what a user or a peer has chosen: strings are escaped, so that a line stays one line, and
//! capped, so that it stays short.

use std::fmt::{Display, Write};
use std::time::{Duration, SystemTime};

use super::AccessLogFormat;
use crate::report::{ConnInfo, Failure, Party, Rfc3339};

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

impl Line<'_> {
    /// The line with its newline.
    pub(in crate::report) fn format(&self, format: AccessLogFormat) -> String {
        let mut out = String::with_capacity(TYPICAL);
        let level = if self.failure.is_some() { "error" } else { "info" };
        let time = Rfc3339(self.time);
        if format == AccessLogFormat::Json {
            plain(
                &mut out,
                format_args!("{{\"time\":\"{time}\",\"level\":\"{level}\",\"scope\":\"access\","),
            );
            plain(&mut out, format_args!("\"message\":\"connection complete\""));
            self.fields(&mut Fields { out: &mut out, json: true });
            out.push_str("}\n");
        } else {
            plain(&mut out, format_args!("{time}\t{level}\taccess\tconnection complete\t"));
            self.fields(&mut Fields { out: &mut out, json: false });
            out.push('\n');
        }
        out
    }

    fn fields(&self, fields: &mut Fields<'_>) {
        let info = self.info;
        fields.address("src.addr", info.source.addr);
        party(fields, &info.source, ["src.workload", "src.namespace", "src.identity"]);
        // The line looks from outside of the tunnel: its end first, then the address inside of it.
        fields.address("dst.addr", info.hbone_addr.unwrap_or(info.destination.addr));
        if info.hbone_addr.is_some() {
            fields.address("dst.hbone_addr", info.destination.addr);
        }
        match (&info.service, info.pseudo_service) {
            (Some(service), _) => fields.string("dst.service", &service.hostname),
            (None, Some(pseudo)) => fields.string("dst.service", pseudo.name()),
            (None, None) => {}
        }
        party(fields, &info.destination, ["dst.workload", "dst.namespace", "dst.identity"]);
        fields.string("direction", info.direction.name());
        if info.datagrams {
            fields.string("protocol", "udp");
        }
        fields.number("bytes_sent", self.sent);
        fields.number("bytes_recv", self.received);
        fields.milliseconds("duration", self.duration);
        if let Some(failure) = self.failure {
            fields.string("stage", failure.stage.token());
            fields.string("response_flags", failure.flag.label());
            fields.string("error", &failure.reason);
        }
    }
}

/// Pod name, namespace and proven identity of an end.
fn party(fields: &mut Fields<'_>, party: &Party, [name, namespace, identity]: [&str; 3]) {
    if let Some(workload) = party.workload.as_deref() {
        fields.string(name, &workload.name);
        fields.string(namespace, &workload.namespace);
    }
    if let Some(id) = &party.identity {
        fields.string(identity, id.uri());
    }
}

/// Writes `key=value` or `,"key":value`.
struct Fields<'a> {
    out: &'a mut String,
    json: bool,
}

impl Fields<'_> {
    fn key(&mut self, key: &str) {
        let (before, after) = match (self.json, self.out.ends_with('\t')) {
            (true, _) => (",\"", "\":"),
            (false, true) => ("", "="),
            (false, false) => (" ", "="),
        };
        self.out.extend([before, key, after]);
    }

    fn string(&mut self, key: &str, value: &str) {
        self.key(key);
        self.out.push('"');
        escape(self.out, value, MAX_FIELD);
        self.out.push('"');
    }

    fn address(&mut self, key: &str, value: std::net::SocketAddr) {
        self.key(key);
        if self.json {
            plain(self.out, format_args!("\"{value}\""));
        } else {
            plain(self.out, value);
        }
    }

    fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        plain(self.out, value);
    }

    fn milliseconds(&mut self, key: &str, value: Duration) {
        self.key(key);
        plain(self.out, format_args!("\"{}ms\"", value.as_millis()));
    }
}

/// Appends what needs no escaping.
fn plain(out: &mut String, value: impl Display) {
    write!(out, "{value}").expect("a String takes all");
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
            c if is_hidden(c) => plain(out, format_args!("\\u{:04x}", u32::from(c))),
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

/// Bytes of a line with all fields and names of usual length.
const TYPICAL: usize = 768;
/// Most bytes of a string, escapes included, quotes not.
const MAX_FIELD: usize = 256;
/// Ends a string that was too long.
const MORE: &str = "...";

//! Lines of a node's access log, as far as the demonstration reads them.

use std::collections::BTreeMap;

/// One connection as a node has logged it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Access {
    fields: BTreeMap<String, String>,
    /// The line as it was.
    pub(super) line: String,
}

impl Access {
    /// Reads a line; `None` for all others that a log has.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let mut parts = line.splitn(5, '\t').skip(2);
        if parts.next()? != "access" {
            return None;
        }
        let mut rest = parts.nth(1)?;
        let mut fields = BTreeMap::new();
        while let Some((name, tail)) = rest.trim_start().split_once('=') {
            let (value, tail) = value(tail)?;
            fields.insert(name.to_owned(), value);
            rest = tail;
        }
        Some(Self { fields, line: line.to_owned() })
    }

    /// All connections of a log.
    pub(super) fn all(log: &str) -> Vec<Self> {
        log.lines().filter_map(Self::parse).collect()
    }

    /// A field's value; empty where the line does not have it.
    pub(super) fn get(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    /// The local pod was the server.
    pub(super) fn inbound(&self) -> bool {
        self.get("direction") == "inbound"
    }

    /// The identities of client and server without what all have in common.
    pub(super) fn identities(&self) -> (String, String) {
        (short(self.get("src.identity")), short(self.get("dst.identity")))
    }

    /// The part of the line behind time and level, with only the fields that tell who, whom and what became of it.
    pub(super) fn essence(&self) -> String {
        let shown = ["src.workload", "src.identity", "dst.workload", "direction", "response_flags", "error"];
        let shown = shown.iter().filter(|name| !self.get(name).is_empty());
        shown.map(|name| format!("{name}=\"{}\"", self.get(name))).collect::<Vec<_>>().join(" ")
    }
}

/// `spiffe://cluster.local/ns/default/sa/sleep` as `default/sleep`; anything else as it is.
pub(super) fn short(identity: &str) -> String {
    let parts = identity.strip_prefix("spiffe://").and_then(|rest| rest.split_once("/ns/"));
    let parts = parts.and_then(|(_, rest)| rest.split_once("/sa/"));
    parts.map_or_else(|| identity.to_owned(), |(namespace, account)| format!("{namespace}/{account}"))
}

/// A value, quoted or not, and what follows it.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(' ').unwrap_or(text.len());
        let (value, rest) = text.split_at_checked(end)?;
        return Some((value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, quoted.get(at + 1..)?)),
            // Names and policies have nothing to escape: the character stands for itself well enough.
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const DENIED: &str = "2026-01-02T03:04:05.678901Z\terror\taccess\tconnection complete\tsrc.addr=10.244.1.7:40000 \
        src.workload=\"sleep\" src.identity=\"spiffe://cluster.local/ns/default/sa/sleep\" dst.addr=10.244.1.3:9080 \
        dst.workload=\"ratings-v1\" dst.identity=\"spiffe://cluster.local/ns/default/sa/bookinfo-ratings\" \
        direction=\"inbound\" bytes_sent=0 bytes_recv=17 duration=\"0ms\" stage=\"policy\" response_flags=\"DENY\" \
        error=\"AuthorizationPolicy default/\\\"x\\\" denies it, rule 0\"";

    #[test]
    fn reads_what_a_node_writes() {
        let access = Access::parse(DENIED).unwrap();
        assert_eq!(access.identities(), ("default/sleep".to_owned(), "default/bookinfo-ratings".to_owned()));
        assert!(access.inbound());
        assert_eq!(access.get("bytes_recv"), "17");
        assert_eq!(access.get("error"), "AuthorizationPolicy default/\"x\" denies it, rule 0");
        assert_eq!(access.get("dst.hbone_addr"), "");
        assert!(access.essence().starts_with("src.workload=\"sleep\" src.identity="), "{}", access.essence());
    }

    #[test]
    fn other_lines_are_no_connections() {
        for line in
            ["", "x", "2026-01-02T03:04:05Z  INFO mesh_node: Configuration loaded.", "a\tb\taccess\tc"]
        {
            assert_eq!(Access::parse(line), None, "{line}");
        }
        let unfinished = "t\tinfo\taccess\tconnection complete\tsrc.addr=1 src.workload=\"sle";
        assert_eq!(Access::parse(unfinished), None, "a line that is still being written");
        assert_eq!(Access::all(&format!("x\n{DENIED}\ny")).len(), 1);
    }

    #[test]
    fn identities_are_shortened() {
        assert_eq!(short("spiffe://td/ns/a/sa/b"), "a/b");
        assert_eq!(short("other"), "other");
    }
}

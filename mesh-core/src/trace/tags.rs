//! What a span says: the tags of Envoy and Istio, and somebody's own.

use std::fmt::{self, Write as _};

use super::span::{Facts, cut, is_error};

/// Tags and what they say, no two of one name, in one piece of memory: it is used again for the next span of a delivery, and none of the two
/// dozen costs an allocation of its own.
#[derive(Debug, Clone, Default)]
pub struct Tags {
    text: String,
    /// Where names and values end.
    ends: Vec<(usize, usize)>,
}

impl PartialEq for Tags {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Tags {}

impl Tags {
    /// Those of a request, instead of whatever was here.
    pub fn read(&mut self, facts: &Facts<'_>) {
        self.clear();
        self.add("component", "proxy");
        self.add("node_id", facts.node);
        let path = cut(facts.path, facts.most);
        self.write("http.url", format_args!("{}://{}{path}", facts.scheme, facts.authority));
        self.add("http.method", facts.method);
        self.add("http.protocol", facts.protocol);
        self.write("http.status_code", facts.code);
        self.add("user_agent", &facts.user_agent.map_or("-".into(), String::from_utf8_lossy));
        if let Some(id) = facts.request_id {
            self.add("guid:x-request-id", &String::from_utf8_lossy(id));
        }
        self.write("request_size", facts.received);
        self.write("response_size", facts.sent);
        self.add("response_flags", or_dash(facts.flags));
        self.add("upstream_cluster", or_dash(facts.cluster));
        self.add("upstream_cluster.name", or_dash(facts.cluster));
        self.add("downstream_cluster", "-");
        self.write("peer.address", facts.peer.ip().to_canonical());
        if let Some(status) = facts.grpc_status {
            self.write("grpc.status_code", status);
            self.add("grpc.path", path);
            self.add("grpc.authority", facts.authority);
        }
        if let Some(istio) = facts.istio {
            self.add("istio.canonical_service", istio.service);
            self.add("istio.canonical_revision", istio.revision);
            self.add("istio.mesh_id", istio.mesh);
            self.add("istio.namespace", istio.namespace);
            self.add("istio.cluster_id", istio.cluster);
        }
        if is_error(facts.code, facts.grpc_status) {
            self.add("error", "true");
        }
    }

    /// Has a tag say something, and nothing else.
    pub fn set(&mut self, name: &str, value: &str) {
        if self.iter().any(|(known, _)| known == name) {
            let others = std::mem::take(self);
            others.iter().filter(|(known, _)| *known != name).for_each(|(name, value)| self.add(name, value));
        }
        self.add(name, value);
    }

    /// Takes all of them away.
    pub fn clear(&mut self) {
        self.text.clear();
        self.ends.clear();
    }

    /// Every tag, and what it says.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut start = 0;
        self.ends.iter().map(move |(name, value)| {
            let from = std::mem::replace(&mut start, *value);
            let part = |from, to| self.text.get(from..to).unwrap_or_default();
            (part(from, *name), part(*name, *value))
        })
    }

    fn add(&mut self, name: &str, value: &str) {
        self.say(name, |text| text.push_str(value));
    }

    fn write(&mut self, name: &str, value: impl fmt::Display) {
        self.say(name, |text| _ = write!(text, "{value}"));
    }

    fn say(&mut self, name: &str, value: impl FnOnce(&mut String)) {
        self.text.push_str(name);
        let end = self.text.len();
        value(&mut self.text);
        self.ends.push((end, self.text.len()));
    }
}

/// What Envoy writes where it has nothing to say.
fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_is_said_once_and_last() {
        let mut tags = Tags::default();
        for (name, value) in [("a", "1"), ("ab", ""), ("a", "2"), ("", "3")] {
            tags.set(name, value);
        }
        assert_eq!(tags.iter().collect::<Vec<_>>(), [("ab", ""), ("a", "2"), ("", "3")]);
        tags.clear();
        assert_eq!(tags.iter().count(), 0);
    }

    #[test]
    fn a_request_is_told_as_envoy_and_istio_tell_it() {
        let facts = Facts {
            node: "sidecar~10.0.0.1~a.b~b.svc.cluster.local",
            scheme: "http",
            method: "GET",
            authority: "reviews:9080",
            path: "/reviews/0",
            protocol: "HTTP/1.1",
            user_agent: None,
            request_id: Some(b"id"),
            received: 0,
            sent: 295,
            code: 503,
            grpc_status: Some(14),
            flags: "",
            cluster: "",
            peer: "[::ffff:10.0.0.2]:5".parse().unwrap(),
            istio: None,
            most: 8,
        };
        let mut tags = Tags::default();
        tags.set("old", "one");
        tags.read(&facts);
        let said: Vec<_> = tags.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            said.join(" "),
            "component=proxy node_id=sidecar~10.0.0.1~a.b~b.svc.cluster.local http.url=http://reviews:9080/reviews \
             http.method=GET http.protocol=HTTP/1.1 http.status_code=503 user_agent=- guid:x-request-id=id request_size=0 \
             response_size=295 response_flags=- upstream_cluster=- upstream_cluster.name=- downstream_cluster=- \
             peer.address=10.0.0.2 grpc.status_code=14 grpc.path=/reviews grpc.authority=reviews:9080 error=true"
        );
    }
}

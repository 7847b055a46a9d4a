//! What is kept of a traced request that is over, until spans are written.
//!
//! Few requests are traced. Whatever is done for one of a hundred finds nothing in the processor's caches, and takes ten times as long as
//! in a row with others of its kind: as little as possible is done at once, and spans are written together when they are delivered.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh_core::trace::{Facts, Kind, Own, Span, Tags, cut, is_error};

use super::Teller;
use crate::report::{Flags, Perspective, RequestFacts, Told};

/// A traced request that is over. What is the same for others is shared with them, and its own texts are one piece of memory.
pub(in crate::l7) struct Noted {
    own: Own,
    teller: Rc<Teller>,
    told: Arc<Told>,
    reporter: Perspective,
    start: SystemTime,
    duration: Duration,
    secure: bool,
    received: u64,
    sent: u64,
    code: u16,
    grpc_status: Option<u32>,
    flags: Flags,
    peer: SocketAddr,
    texts: Texts,
    /// Tags of somebody's own.
    tags: Vec<(String, String)>,
}

/// Texts in one piece, by where they end; of those that a request may lack there is less than nothing.
struct Texts {
    all: String,
    ends: [u32; TEXTS],
    lacks: u8,
}

/// Which text, by its place among the others.
#[derive(Clone, Copy)]
enum Text {
    Method = 0,
    Authority = 1,
    Path = 2,
    Protocol = 3,
    UserAgent = 4,
    RequestId = 5,
    Cluster = 6,
    Service = 7,
}

impl Noted {
    /// Keeps what a span is written of. `tags` are somebody's own.
    pub(super) fn new(
        own: Own,
        (teller, told): (Rc<Teller>, &Arc<Told>),
        facts: &RequestFacts<'_>,
        (secure, tags): (bool, Vec<(String, String)>),
    ) -> Self {
        Self {
            own,
            told: Arc::clone(told),
            reporter: facts.reporter,
            start: facts.start,
            duration: facts.duration,
            secure,
            received: facts.bytes_received,
            sent: facts.bytes_sent,
            code: facts.code,
            grpc_status: facts.grpc_status,
            flags: facts.flags,
            peer: facts.downstream_remote,
            texts: Texts::of(facts, told, teller.text()),
            teller,
            tags,
        }
    }

    /// About how many bytes it has when it is written.
    pub(super) fn size(&self) -> usize {
        let own: usize = self.tags.iter().map(|(name, value)| name.len() + value.len()).sum();
        FRAME + self.texts.all.len() + own
    }

    /// Who tells it.
    pub(super) fn service(&self) -> &str {
        &self.teller.service
    }

    /// Has the span written by whoever knows the words of its collector. `tags` are whatever there is room in.
    pub(super) fn tell<T>(&self, tags: &mut Tags, write: impl FnOnce(&Span<'_>) -> T) -> T {
        tags.clear();
        if let Some(tracing) = &self.told.effective.tracing {
            let flags = self.flags.to_string();
            let istio = tracing.istio_tags.then(|| self.teller.istio());
            tags.read(&Facts { istio, most: tracing.most, ..self.facts(&flags) });
        }
        self.tags.iter().for_each(|(name, value)| tags.set(name, value));
        let name = self.name();
        write(&self.span(&name, tags))
    }

    fn span<'a>(&'a self, name: &'a str, tags: &'a Tags) -> Span<'a> {
        let start = self.start.duration_since(UNIX_EPOCH).unwrap_or_default();
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Span {
            own: self.own,
            kind: if self.reporter == Perspective::Source { Kind::Client } else { Kind::Server },
            name,
            service: &self.teller.service,
            address: self.teller.address,
            start: micros(start),
            duration: micros(self.duration),
            tags,
            failed: is_error(self.code, self.grpc_status),
        }
    }

    fn facts<'a>(&'a self, flags: &'a str) -> Facts<'a> {
        let text = |which| self.texts.get(which).unwrap_or_default();
        Facts {
            node: &self.teller.node,
            scheme: if self.secure { "https" } else { "http" },
            method: text(Text::Method),
            authority: text(Text::Authority),
            path: text(Text::Path),
            protocol: text(Text::Protocol),
            user_agent: self.texts.get(Text::UserAgent).map(str::as_bytes),
            request_id: self.texts.get(Text::RequestId).map(str::as_bytes),
            received: self.received,
            sent: self.sent,
            code: self.code,
            grpc_status: self.grpc_status,
            flags,
            cluster: text(Text::Cluster),
            peer: self.peer,
            istio: None,
            most: usize::MAX,
        }
    }

    /// What was asked for, as Istio names it: the service, its port, and the paths of the rule, which are all.
    fn name(&self) -> String {
        let text = |which| self.texts.get(which).unwrap_or_default();
        let port = text(Text::Cluster).split('|').nth(1).unwrap_or_default();
        match self.texts.get(Text::Service) {
            Some(service) => format!("{service}:{port}/*"),
            None if self.reporter == Perspective::Source => format!("egress {}", text(Text::Authority)),
            None => format!("ingress {}", text(Text::Authority)),
        }
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        self.teller.take_back(std::mem::take(&mut self.texts.all));
    }
}

impl Texts {
    /// Those of a request, written into `room`.
    fn of(facts: &RequestFacts<'_>, told: &Told, mut room: String) -> Self {
        let most = told.effective.tracing.as_ref().map_or(0, |tracing| tracing.most);
        let agent = facts.headers.user_agent.map(String::from_utf8_lossy);
        let id = facts.headers.request_id.map(String::from_utf8_lossy);
        // In the order of [`Text`].
        let all: [Option<&str>; TEXTS] = [
            Some(facts.method),
            Some(facts.authority),
            Some(cut(facts.path, most)),
            Some(facts.protocol),
            agent.as_deref(),
            id.as_deref(),
            Some(facts.upstream_cluster),
            facts.service.map(|service| &*service.hostname),
        ];
        room.reserve(all.iter().flatten().map(|text| text.len()).sum());
        let mut texts = Self { all: room, ends: [0; TEXTS], lacks: 0 };
        for (which, (text, end)) in all.into_iter().zip(&mut texts.ends).enumerate() {
            match text {
                Some(text) => texts.all.push_str(text),
                None => texts.lacks |= 1 << which,
            }
            *end = u32::try_from(texts.all.len()).unwrap_or(u32::MAX);
        }
        texts
    }

    fn get(&self, which: Text) -> Option<&str> {
        let which = which as usize;
        if self.lacks & (1 << which) != 0 {
            return None;
        }
        let end = |which: usize| self.ends.get(which).and_then(|end| usize::try_from(*end).ok());
        let start = which.checked_sub(1).map_or(Some(0), end)?;
        self.all.get(start..end(which)?)
    }
}

const TEXTS: usize = 8;
/// Bytes of what spans of the same teller have in common, and of what frames them in a delivery.
const FRAME: usize = 768;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_back_and_what_is_missing_is_not_empty() {
        let peer = "10.0.0.1:1".parse().unwrap();
        let facts =
            RequestFacts { method: "GET", authority: "", path: "/a/long/one", ..RequestFacts::nothing(peer) };
        let told = Told::default();
        let texts = Texts::of(&facts, &told, String::new());
        assert_eq!(texts.get(Text::Method), Some("GET"));
        assert_eq!(texts.get(Text::Authority), Some(""));
        assert_eq!(texts.get(Text::Path), Some(""), "nobody wants paths");
        assert_eq!((texts.get(Text::UserAgent), texts.get(Text::Service)), (None, None));
    }
}

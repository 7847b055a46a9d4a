//! Access logs for services that take them, and how they are delivered. Envoy keeps one stream of Envoy's protocol open for all
//! its messages; here each delivery has a stream of its own, which says again who tells.

use std::rc::Rc;
use std::sync::Arc;

use mesh_core::addressee::Addressee;
use mesh_core::log_service::{LogService, Takes};
use mesh_core::route::ClusterRef;
use mesh_proto::logs::{Teller, export, stream};

use super::call::{Answer, Call, grpc_head};
use super::engine::Engine;
use super::message::RequestHead;
use super::outbox::{self, Counted, Lanes, MAX_ANSWER, Outbox, Recipient};
use crate::report::Event;

/// The access log of one client at a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Journal {
    service: Arc<LogService>,
    teller: Arc<Teller>,
}

/// Has an entry delivered to a service.
pub fn put(engine: &Rc<Engine>, service: &Arc<LogService>, entry: Vec<u8>) {
    let journal = Journal { service: Arc::clone(service), teller: engine.teller().logs() };
    outbox::put(engine, &journal, entry);
}

impl Recipient for Journal {
    type Item = Vec<u8>;
    const COUNTED: Counted =
        Counted { sent: Event::LogSent, no_room: Event::LogNoRoom, undelivered: Event::LogUndelivered };
    const TASK: &'static str = "logs";

    fn lanes(outbox: &Outbox) -> &Lanes<Self> {
        &outbox.entries
    }

    fn to(&self) -> &Addressee {
        &self.service.to
    }

    fn size(entry: &Vec<u8>) -> usize {
        entry.len()
    }

    fn question(&self, entries: &[Vec<u8>], to: &ClusterRef) -> Result<(Call, RequestHead), String> {
        let (teller, name) = (&self.teller, &self.service.log_name);
        let (message, method) = match &self.service.takes {
            Takes::Requests { .. } => (stream(teller, name, entries, true), STREAM),
            Takes::Connections => (stream(teller, name, entries, false), STREAM),
            Takes::Records { .. } => (export(teller, name, entries), EXPORT),
        };
        let call = Call::of_message(&message, MAX_ANSWER)?;
        let head = grpc_head(to, method, call.framing())?;
        Ok((call, head))
    }

    fn took(&self, answer: Answer) -> Result<(), String> {
        answer.succeeded()
    }
}

const STREAM: &[u8] = b"/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs";
const EXPORT: &[u8] = b"/opentelemetry.proto.collector.logs.v1.LogsService/Export";

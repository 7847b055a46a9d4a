//! Protocols that are counted by their names: connections and bytes of those that are passed on as bytes, the commands of
//! `MongoDB`, the operations of `DynamoDB`.
//!
//! Istio's metrics know of neither: these are the mesh's own, named like those of Envoy's filters for the same protocols. Of
//! what peers say only names that [`mesh_core::mongo`] and [`mesh_core::dynamodb`] know become labels.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use mesh_core::model::{Named, Service};
use mesh_core::mongo::{Command, Op, Reader};
use prometheus_client::encoding::DescriptorEncoder;

use super::metrics::{Pairs, counters};
use super::{ConnInfo, Perspective, Reporter};
use crate::l4::relay::{Side, Watch};

/// Everything that is counted by the names of protocols.
#[derive(Debug, Default)]
pub(super) struct Protocols {
    connections: Mutex<HashMap<Key, Arc<Counts>>>,
    operations: Mutex<BTreeMap<(Place, Operation), u64>>,
}

/// A connection whose protocol is counted by its name, until it is dropped.
#[derive(Debug)]
pub struct Speaking {
    counts: Arc<Counts>,
    mongo: Option<Box<Conversation>>,
}

/// What client and server say, as far as it can be read.
#[derive(Debug, Default)]
struct Conversation {
    /// By [`Side`].
    readers: [Mutex<Reader>; 2],
    /// Something could not be read: the rest is not looked at.
    over: AtomicBool,
}

/// A request to `DynamoDB`, by names that are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Operation {
    /// What was asked for.
    pub name: &'static str,
    /// The status of the answer; 0 if there was none.
    pub code: u16,
    /// What the server calls what went wrong.
    pub error: Option<&'static str>,
}

/// Who reports, and of which service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Place {
    reporter: &'static str,
    /// Its host, namespace and name; of none: `unknown`.
    service: [Arc<str>; 3],
}

type Key = (Place, Named);

/// What the connections of one protocol to one service have come to.
#[derive(Debug, Default)]
struct Counts {
    opened: AtomicU64,
    closed: AtomicU64,
    /// Bytes of clients, and of servers.
    bytes: [AtomicU64; 2],
    mongo: Option<Box<Mongo>>,
}

#[derive(Debug)]
struct Mongo {
    /// By [`Op`], first those of requests and then those of replies.
    ops: [[AtomicU64; Op::ALL.len()]; 2],
    /// By [`Command::index`].
    commands: [AtomicU64; Command::COUNT],
    /// Connections with something that cannot be read.
    unreadable: AtomicU64,
}

impl Default for Mongo {
    fn default() -> Self {
        let ops = [(); 2].map(|()| Default::default());
        Self { ops, commands: std::array::from_fn(|_| AtomicU64::new(0)), unreadable: AtomicU64::new(0) }
    }
}

impl Protocols {
    /// A connection has been opened.
    pub(super) fn begin(&self, info: &ConnInfo, named: Named) -> Speaking {
        let place = Place::of(info.direction.reporter(), info.service.as_ref());
        let counts = {
            let mut all = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
            let place = if all.len() < MAX_SETS || all.contains_key(&(place.clone(), named)) {
                place
            } else {
                Place::of(info.direction.reporter(), None)
            };
            all.entry((place, named)).or_insert_with(|| Arc::new(Counts::of(named))).clone()
        };
        counts.opened.fetch_add(1, Ordering::Relaxed);
        Speaking { mongo: counts.mongo.as_ref().map(|_| Box::default()), counts }
    }

    /// A request to `DynamoDB` is over.
    pub(super) fn operation(
        &self,
        reporter: &'static str,
        service: Option<&Arc<Service>>,
        operation: Operation,
    ) {
        let mut all = self.operations.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (Place::of(reporter, service), operation);
        let known = all.len() < MAX_SETS || all.contains_key(&key);
        let key = if known {
            key
        } else {
            (Place::of(reporter, None), Operation { code: 0, error: None, ..operation })
        };
        *all.entry(key).or_default() += 1;
    }

    /// Shows what has been counted.
    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let all = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = all.iter().map(|(key, counts)| (key.clone(), Arc::clone(counts))).collect();
        all.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        for (name, help, value) in CONNECTIONS {
            let samples = all.iter().map(|((place, named), counts)| {
                let mut labels = place.labels();
                labels.push(("protocol", named.name()));
                (labels, value(counts).load(Ordering::Relaxed))
            });
            counters(encoder, name, help, samples)?;
        }
        let mongo = all.iter().filter_map(|((place, _), counts)| Some((place, counts.mongo.as_deref()?)));
        let mongo: Vec<_> = mongo.collect();
        mongo_counters(encoder, &mongo)?;
        self.encode_operations(encoder)
    }

    fn encode_operations(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let all = self.operations.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut by_code = BTreeMap::<_, u64>::new();
        let mut by_error = BTreeMap::<_, u64>::new();
        for ((place, operation), count) in &all {
            *by_code.entry((place, operation.name, operation.code.to_string())).or_default() += count;
            if let Some(error) = operation.error {
                *by_error.entry((place, operation.name, error)).or_default() += count;
            }
        }
        let samples = by_code.iter().map(|((place, name, code), count)| {
            (place.and(&[("operation", name), ("response_code", code)]), *count)
        });
        let help = "Requests to DynamoDB, by operation";
        counters(encoder, "mesh_dynamodb_operations", help, samples)?;
        let samples = by_error.iter().map(|((place, name, error), count)| {
            (place.and(&[("operation", name), ("error", error)]), *count)
        });
        let help = "Requests to DynamoDB that it has refused, by what it calls the reason";
        counters(encoder, "mesh_dynamodb_errors", help, samples)
    }
}

impl Reporter {
    /// Reports a request to `DynamoDB` that is over.
    pub fn dynamodb(&self, reporter: Perspective, service: Option<&Arc<Service>>, operation: Operation) {
        self.protocols.operation(reporter.reporter(), service, operation);
    }
}

impl Watch for Speaking {
    fn read(&self, side: Side, bytes: &[u8]) {
        let side = match side {
            Side::App => 0,
            Side::Far => 1,
        };
        if let Some(counter) = self.counts.bytes.get(side) {
            counter.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        if let (Some(conversation), Some(mongo)) = (&self.mongo, &self.counts.mongo) {
            mongo.read(conversation, side, bytes);
        }
    }
}

impl Drop for Speaking {
    fn drop(&mut self) {
        self.counts.closed.fetch_add(1, Ordering::Relaxed);
    }
}

impl Counts {
    fn of(named: Named) -> Self {
        Self { mongo: (named == Named::Mongo).then(Box::default), ..Self::default() }
    }
}

impl Mongo {
    fn read(&self, conversation: &Conversation, side: usize, bytes: &[u8]) {
        let Some(reader) = conversation.readers.get(side) else { return };
        if conversation.over.load(Ordering::Relaxed) {
            return;
        }
        let mut reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = reader.read(bytes, |message| {
            let ops = self.ops.get(usize::from(message.is_reply));
            let place = Op::ALL.iter().position(|op| *op == message.op).unwrap_or_default();
            let command = message.command.and_then(|command| self.commands.get(command.index()));
            for counter in ops.and_then(|ops| ops.get(place)).into_iter().chain(command) {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        });
        if let Err(reason) = outcome {
            conversation.over.store(true, Ordering::Relaxed);
            self.unreadable.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%reason, "What MongoDB says on a connection is not counted any more.");
        }
    }
}

impl Place {
    fn of(reporter: &'static str, service: Option<&Arc<Service>>) -> Self {
        let names = service.map(|it| [&it.hostname, &it.namespace, &it.name].map(Arc::clone));
        Self { reporter, service: names.unwrap_or_else(|| [(); 3].map(|()| UNKNOWN.into())) }
    }

    fn labels(&self) -> Pairs<'_> {
        let [host, namespace, name] = &self.service;
        vec![
            ("reporter", self.reporter),
            ("destination_service", host),
            ("destination_service_namespace", namespace),
            ("destination_service_name", name),
        ]
    }

    /// With more labels.
    fn and<'a>(&'a self, more: &[(&'static str, &'a str)]) -> Pairs<'a> {
        let mut labels = self.labels();
        labels.extend_from_slice(more);
        labels
    }
}

fn mongo_counters(encoder: &mut DescriptorEncoder<'_>, all: &[(&Place, &Mongo)]) -> fmt::Result {
    let ops = all.iter().flat_map(|(place, mongo)| {
        let both = mongo.ops.iter().zip(["request", "reply"]);
        both.flat_map(move |(counts, side)| {
            let counts = Op::ALL.iter().zip(counts);
            counts.map(move |(op, count)| (place.and(&[("op", op.name()), ("side", side)]), load(count)))
        })
    });
    let seen = ops.filter(|(_, count)| *count > 0);
    counters(encoder, "mesh_mongo_op", "Messages of MongoDB, by their kind", seen)?;
    let commands = all.iter().flat_map(|(place, mongo)| {
        let counts = Command::all().zip(&mongo.commands);
        counts.map(move |(command, count)| (place.and(&[("cmd", command.name())]), load(count)))
    });
    let seen = commands.filter(|(_, count)| *count > 0);
    counters(encoder, "mesh_mongo_cmd", "Commands to MongoDB", seen)?;
    let unreadable = all.iter().map(|(place, mongo)| (place.labels(), load(&mongo.unreadable)));
    let help = "Connections on which something could not be read as MongoDB's, and the rest is not counted";
    counters(encoder, "mesh_mongo_decoding_error", help, unreadable)
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

type Family = (&'static str, &'static str, fn(&Counts) -> &AtomicU64);

const CONNECTIONS: [Family; 4] = [
    ("mesh_protocol_connections_opened", "Connections of a protocol that is counted by its name", |it| {
        &it.opened
    }),
    ("mesh_protocol_connections_closed", "Of those, the ones that are over", |it| &it.closed),
    ("mesh_protocol_received_bytes", "Bytes that servers of the protocol received", |it| {
        let [of_clients, _] = &it.bytes;
        of_clients
    }),
    ("mesh_protocol_sent_bytes", "Bytes that servers of the protocol sent", |it| {
        let [_, of_servers] = &it.bytes;
        of_servers
    }),
];

const UNKNOWN: &str = "unknown";
/// Label sets of each kind; what comes later is counted for the service `unknown`.
const MAX_SETS: usize = 3_000;

#[cfg(test)]
mod tests;

//! The resolver of every captured pod: names of the mesh are answered here, others are asked of whom the pod had asked, from
//! inside the pod.
//!
//! What a query is and what answers it is decided in [`mesh_core::dns`]; here are its sockets. Nothing is kept between two
//! queries. Everything a pod can make this do is bounded: [`MAX_UNDER_WAY`] queries and connections of it at a time, each
//! over within [`upstream::PATIENCE`] or [`stream::IDLE`]; beyond that, and without any answer, clients are told of a
//! failure at once.

mod figures;
mod packets;
mod stream;
mod upstream;

use std::{io, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use mesh_core::dns::{Aliases, Answer, Code, Query, Transport, Unanswerable};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use figures::Count;
pub use figures::Figures;

use crate::{redirect::LocalPod, run::worker::Worker};

/// The resolver of one pod on one data thread.
pub struct Resolver {
    worker: Rc<Worker>,
    pod: Arc<LocalPod>,
    /// For each query and connection of the pod under way, on whatever thread.
    places: Arc<Semaphore>,
}

/// What comes of a packet.
enum Step {
    /// Nothing may be sent back.
    Silence,
    /// This goes back.
    Reply(Vec<u8>),
    /// The pod's own resolver has to be asked.
    Ask(Question),
}

/// A query that others have to be asked about.
struct Question {
    query: Query,
    /// What the name is an alias of, of which the last is what is to be asked about.
    aliases: Option<Aliases>,
}

impl Resolver {
    /// The resolver of a pod; `places` is shared by all threads.
    pub fn new(worker: Rc<Worker>, pod: Arc<LocalPod>, places: Arc<Semaphore>) -> Rc<Self> {
        Rc::new(Self { worker, pod, places })
    }

    fn decide(&self, packet: &[u8], transport: Transport) -> Step {
        self.count(Count::Requests);
        let query = match Query::parse(packet) {
            Ok(query) => query,
            Err(refused) => {
                self.count(Count::Malformed);
                return match refused {
                    Unanswerable::Silent => Step::Silence,
                    Unanswerable::Refused(reply) => Step::Reply(reply),
                };
            }
        };
        let snapshot = self.worker.snapshot();
        // Names that are the mesh's lead elsewhere outside of it: without knowing them nothing may be passed on.
        let Some(workload) = snapshot.workload_by_uid(&self.pod.workload) else {
            return Step::Reply(query.fail(Code::ServerFailure));
        };
        match snapshot.answer(workload, &query, self.worker.random()) {
            Answer::Known(records) => Step::Reply(query.reply(&records, transport)),
            Answer::Fail(code) => Step::Reply(query.fail(code)),
            Answer::Follow(aliases) => Step::Ask(Question { query, aliases: Some(aliases) }),
            Answer::Elsewhere => Step::Ask(Question { query, aliases: None }),
        }
    }

    /// A place for what takes time, unless the pod has them all.
    fn place(&self) -> Option<OwnedSemaphorePermit> {
        let place = self.places.clone().try_acquire_owned().ok();
        if place.is_none() {
            self.count(Count::Overload);
        }
        place
    }

    /// The resolvers that a UDP socket of the pod has asked, the last one first.
    fn asked(&self, server: SocketAddr, client: SocketAddr) -> io::Result<Vec<SocketAddr>> {
        self.worker.asked_resolvers(&self.pod, server, client)
    }

    fn count(&self, what: Count) {
        self.worker.names.count(what);
    }
}

/// Resolves when a pod is no longer captured and what it had asked before has been taken.
async fn over(mut released: watch::Receiver<bool>) {
    crate::redirect::released(&mut released).await;
    tokio::time::sleep(LAST_QUERIES).await;
}

/// Places for one pod.
pub fn places() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(MAX_UNDER_WAY))
}

/// Queries that wait for an answer from elsewhere, and connections, of one pod. Each has a socket or two, and memory for one
/// answer.
const MAX_UNDER_WAY: usize = 512;
/// The longest query: a name, an `OPT` record, and more options than anybody sends.
const MAX_QUERY: usize = 4096;
/// How long a released pod's sockets stay open.
const LAST_QUERIES: Duration = Duration::from_secs(1);

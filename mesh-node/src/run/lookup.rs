//! Names that clients ask for and a ServiceEntry with `resolution: DYNAMIC_DNS` lets them have: looked up when somebody asks, kept
//! for as long as the answer may be.
//!
//! Who asks decides how many different names there are, so everything is bounded: [`MAX_KNOWN`] names, [`MAX_RUNNING`] questions
//! under way, and [`PATIENCE`] for each.

use std::{
    collections::HashMap,
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, timeout},
};
use tracing::debug;

use super::{
    names::{Found, LONGEST, SHORTEST, Servers, look_up},
    tasks,
};

/// Asks for names; every data thread has one.
#[derive(Clone, Debug)]
pub struct Lookup {
    questions: mpsc::Sender<Question>,
    known: Arc<Mutex<Known>>,
}

/// Who wants to know.
type Asker = oneshot::Sender<Arc<[IpAddr]>>;

/// A name, and who wants to know.
struct Question {
    name: Arc<str>,
    asker: Asker,
}

/// The other end of a [`Lookup`], which answers.
pub struct Lookups {
    questions: mpsc::Receiver<Question>,
    known: Arc<Mutex<Known>>,
}

/// What answers said, and until when that holds.
#[derive(Debug, Default)]
struct Known(HashMap<Arc<str>, (Arc<[IpAddr]>, Instant)>);

impl Known {
    fn of(&self, name: &str, now: Instant) -> Option<Arc<[IpAddr]>> {
        self.0.get(name).filter(|(_, until)| *until > now).map(|(addresses, _)| Arc::clone(addresses))
    }

    /// What is too old goes first, then what will be soonest.
    fn keep(&mut self, name: Arc<str>, addresses: Arc<[IpAddr]>, (now, until): (Instant, Instant)) {
        if self.0.len() >= MAX_KNOWN && !self.0.contains_key(&name) {
            self.0.retain(|_, (_, until)| *until > now);
        }
        if self.0.len() >= MAX_KNOWN && !self.0.contains_key(&name) {
            let soonest =
                self.0.iter().min_by_key(|(_, (_, until))| *until).map(|(name, _)| Arc::clone(name));
            soonest.and_then(|name| self.0.remove(&name));
        }
        self.0.insert(name, (addresses, until));
    }
}

fn locked(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lookup {
    /// Both ends. Until [`Lookups::serve`] runs, questions wait; without it nothing is known of any name.
    pub fn new() -> (Self, Lookups) {
        let (sender, questions) = mpsc::channel(MAX_WAITING);
        let known = Arc::<Mutex<Known>>::default();
        (Self { questions: sender, known: Arc::clone(&known) }, Lookups { questions, known })
    }

    /// The addresses of a whole name; none if there are none, or nobody says so in time.
    pub async fn find(&self, name: &str) -> Arc<[IpAddr]> {
        if let Some(known) = locked(&self.known).of(name, Instant::now()) {
            return known;
        }
        let (asker, answer) = oneshot::channel();
        // What is beyond these bounds has no answer now, and may have one later.
        if self.questions.try_send(Question { name: name.into(), asker }).is_err() {
            return Arc::default();
        }
        timeout(PATIENCE, answer).await.ok().and_then(Result::ok).unwrap_or_default()
    }
}

/// Knows no name.
impl Default for Lookup {
    fn default() -> Self {
        Self::new().0
    }
}

impl Lookups {
    /// Answers on the calling thread, asking the servers of `resolv_conf`.
    pub fn serve(self, resolv_conf: PathBuf) {
        let servers = Servers::of(resolv_conf);
        let Self { questions, known } = self;
        let answering =
            Answering { questions, known, servers, waiting: HashMap::new(), running: JoinSet::new() };
        tasks::spawn_local("lookups", answering.run());
    }
}

struct Answering {
    questions: mpsc::Receiver<Question>,
    known: Arc<Mutex<Known>>,
    servers: Servers,
    /// Who wants to know of the names under way.
    waiting: HashMap<Arc<str>, Vec<Asker>>,
    running: JoinSet<(Arc<str>, Option<Found>)>,
}

impl Answering {
    async fn run(mut self) {
        loop {
            tokio::select! {
                Some(Ok((name, found))) = self.running.join_next() => self.take(name, found),
                question = self.questions.recv() => match question {
                    Some(question) => self.ask(question),
                    None => return,
                },
            }
        }
    }

    fn ask(&mut self, Question { name, asker }: Question) {
        if let Some(known) = locked(&self.known).of(&name, Instant::now()) {
            return drop(asker.send(known));
        }
        if let Some(waiting) = self.waiting.get_mut(&name) {
            if waiting.len() < MAX_WAITING {
                waiting.push(asker);
            }
            return;
        }
        if self.running.len() >= MAX_RUNNING {
            return;
        }
        let Some(resolver) = self.servers.resolver() else { return };
        self.waiting.insert(Arc::clone(&name), vec![asker]);
        self.running.spawn(async move {
            let found = timeout(PATIENCE, look_up(&resolver, &name)).await;
            let found = match found {
                Ok(Ok(found)) => Some(found),
                Ok(Err(error)) => {
                    debug!(%name, %error, "A name that a client asks for cannot be looked up.");
                    None
                }
                Err(_) => None,
            };
            (name, found)
        });
    }

    fn take(&mut self, name: Arc<str>, found: Option<Found>) {
        let now = Instant::now();
        let (addresses, until) = match found {
            Some((addresses, until)) => (addresses.into(), until.clamp(now + SHORTEST, now + LONGEST)),
            None => (Arc::default(), now + NOTHING),
        };
        let waiting = self.waiting.remove(&name).unwrap_or_default();
        waiting.into_iter().for_each(|asker| drop(asker.send(Arc::clone(&addresses))));
        locked(&self.known).keep(name, addresses, (now, until));
    }
}

/// Names that are known at a time.
const MAX_KNOWN: usize = 1024;
/// Questions to servers under way at a time.
const MAX_RUNNING: usize = 64;
/// Clients that wait, for all names or for one.
const MAX_WAITING: usize = 1024;
/// How long a client waits for an answer: resolvers ask several servers in that time.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long it holds that a name leads nowhere.
const NOTHING: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;

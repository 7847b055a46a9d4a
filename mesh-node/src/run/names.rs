//! Follows the names of DNS that services are behind: where they lead, asked again as soon as the answer is too old.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::LookupIpStrategy,
    net::{NetError, runtime::TokioRuntimeProvider},
    system_conf::parse_resolv_conf,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tracing::{debug, warn};

use super::tasks;

/// What is wanted, and what has been found.
#[derive(Debug)]
pub struct Names {
    wanted: watch::Sender<BTreeSet<Arc<str>>>,
    answers: mpsc::Receiver<Answer>,
}

/// A name, and all addresses that it leads to now.
pub type Answer = (Arc<str>, Vec<IpAddr>);

impl Names {
    /// Asks the servers of `resolv_conf`, which is read anew whenever it has changed.
    pub fn follow(resolv_conf: PathBuf) -> Self {
        let (wanted, names) = watch::channel(BTreeSet::new());
        let (sender, answers) = mpsc::channel(MAX_WAITING);
        let servers = Servers::of(resolv_conf);
        let follower = Follower { servers, due: BTreeMap::new(), running: JoinSet::new() };
        tasks::spawn_local("names", follower.run(names, sender));
        Self { wanted, answers }
    }

    /// These and no others.
    pub fn want<'n>(&self, names: impl Iterator<Item = &'n Arc<str>>) {
        let names: BTreeSet<_> = names.cloned().collect();
        self.wanted.send_if_modified(|known| {
            let differs = *known != names;
            if differs {
                *known = names;
            }
            differs
        });
    }

    /// The next answer. That it is the same as the last is for whoever asks to see.
    pub async fn next(&mut self) -> Answer {
        match self.answers.recv().await {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }
}

struct Follower {
    servers: Servers,
    /// When each name is to be asked for.
    due: BTreeMap<Arc<str>, Instant>,
    running: JoinSet<(Arc<str>, Result<Found, NetError>)>,
}

/// The servers of DNS that a file names.
pub(super) struct Servers {
    resolv_conf: PathBuf,
    /// As the file was last, and what it came to.
    known: Option<(String, TokioResolver)>,
}

/// Addresses, and until when they may be believed.
pub(super) type Found = (Vec<IpAddr>, Instant);

impl Follower {
    async fn run(mut self, mut wanted: watch::Receiver<BTreeSet<Arc<str>>>, answers: mpsc::Sender<Answer>) {
        loop {
            self.ask();
            let next = self.due.values().min().copied().unwrap_or_else(|| Instant::now() + IDLE);
            tokio::select! {
                changed = wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.adopt(&wanted.borrow_and_update());
                }
                Some(Ok((name, outcome))) = self.running.join_next() => {
                    if let Some(addresses) = self.take(&name, outcome)
                        && answers.send((name, addresses)).await.is_err()
                    {
                        return;
                    }
                }
                () = sleep_until(next) => {}
            }
        }
    }

    fn adopt(&mut self, wanted: &BTreeSet<Arc<str>>) {
        self.due.retain(|name, _| wanted.contains(name));
        for name in wanted {
            self.due.entry(Arc::clone(name)).or_insert_with(Instant::now);
        }
    }

    /// Asks for whatever is due, some at a time.
    fn ask(&mut self) {
        let now = Instant::now();
        let due: Vec<_> =
            self.due.iter().filter(|(_, at)| **at <= now).map(|(name, _)| name.clone()).collect();
        if due.is_empty() {
            return;
        }
        let Some(resolver) = self.servers.resolver() else {
            self.due.extend(due.into_iter().map(|name| (name, now + AFTER_FAILURE)));
            return;
        };
        for name in due {
            let later = now + if self.running.len() < MAX_RUNNING { OVERDUE } else { SOON };
            if self.running.len() < MAX_RUNNING {
                let (resolver, asked) = (resolver.clone(), name.clone());
                self.running.spawn(async move {
                    let outcome = look_up(&resolver, &asked).await;
                    (asked, outcome)
                });
            }
            self.due.insert(name, later);
        }
    }

    /// What is to be told. Without any answer the last one holds.
    fn take(&mut self, name: &Arc<str>, outcome: Result<Found, NetError>) -> Option<Vec<IpAddr>> {
        let due = self.due.get_mut(name)?;
        let now = Instant::now();
        match outcome {
            Ok((addresses, valid_until)) => {
                *due = valid_until.clamp(now + SHORTEST, now + LONGEST);
                debug!(%name, ?addresses, "A name was resolved.");
                Some(addresses)
            }
            Err(error) if error.is_no_records_found() => {
                *due = now + AFTER_FAILURE;
                debug!(%name, %error, "A name leads nowhere.");
                Some(Vec::new())
            }
            Err(error) => {
                *due = now + AFTER_FAILURE;
                warn!(%name, %error, "A name cannot be resolved; what it led to before holds.");
                None
            }
        }
    }
}

impl Servers {
    pub(super) fn of(resolv_conf: PathBuf) -> Self {
        Self { resolv_conf, known: None }
    }

    /// Whoever asks them, as the file is now; `None` where it cannot be read.
    pub(super) fn resolver(&mut self) -> Option<TokioResolver> {
        let path = self.resolv_conf.display();
        let text = std::fs::read_to_string(&self.resolv_conf);
        let text = text.inspect_err(|error| warn!(%path, %error, "No name can be resolved.")).ok()?;
        if let Some((_, resolver)) = self.known.as_ref().filter(|(known, _)| *known == text) {
            return Some(resolver.clone());
        }
        let build = || {
            let (config, mut options) = parse_resolv_conf(&text)?;
            options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
            // Answers are kept here, for as long as they may be.
            options.cache_size = 0;
            let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
            *builder.options_mut() = options;
            builder.build()
        };
        let built = build().inspect_err(|error| warn!(%path, %error, "No name can be resolved."));
        let resolver = built.ok()?;
        self.known = Some((text, resolver.clone()));
        Some(resolver)
    }
}

/// A name with a dot is a whole one, whatever domains are to be searched.
pub(super) async fn look_up(resolver: &TokioResolver, name: &str) -> Result<Found, NetError> {
    let whole = if name.contains('.') { format!("{name}.") } else { name.to_owned() };
    let found = resolver.lookup_ip(whole).await?;
    Ok((found.iter().collect(), found.valid_until().into()))
}

/// Answers that wait to be taken.
const MAX_WAITING: usize = 64;
/// Names asked for at the same time, and when to look whether there is room for the next.
const MAX_RUNNING: usize = 32;
const SOON: Duration = Duration::from_millis(50);
/// An answer is asked for again after its time to live, but within these.
pub(super) const SHORTEST: Duration = Duration::from_secs(1);
pub(super) const LONGEST: Duration = Duration::from_secs(300);
/// Without an answer, or with none that says anything.
const AFTER_FAILURE: Duration = Duration::from_secs(5);
/// A question that has not ended by then is asked again.
const OVERDUE: Duration = Duration::from_secs(30);
/// Nothing to ask for.
const IDLE: Duration = Duration::from_secs(3600);

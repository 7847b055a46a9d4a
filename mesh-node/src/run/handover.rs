//! A new process of a node beside the old one, as rolling updates start it: the old one steps aside and serves on until the new
//! one has every pod, so that no connection finds nobody.
//!
//! They talk over a socket that only root may use. The new one says which kernel objects it is about to take over; the old one
//! lets go of all that only one may have (the kernel objects' writing, files, the ports of the host), says so, and keeps accepting
//! in its pods. When the new one's listeners are in place it says that as well, and the old one ends its connections.
//!
//! The socket between them stays open: when the new one ends before the old one was told to, the old one ends as well, so that
//! whoever looks after it starts it anew. A process that has not captured anything yet keeps others waiting: what takes over
//! from it could not do more.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    time::{Instant, timeout},
};
use tracing::{info, warn};

use crate::cni::serve::listen;

/// A process that has stepped aside for this one.
#[derive(Debug)]
pub struct Predecessor(BufReader<UnixStream>);

/// Where a successor is waited for.
#[derive(Debug)]
pub struct Door {
    listener: UnixListener,
    pins: PathBuf,
}

/// A process that takes over from this one.
#[derive(Debug)]
pub struct Successor(BufReader<UnixStream>);

impl Predecessor {
    /// Has whoever serves the kernel objects in `pins` step aside, once `rehearse` has found nothing that this process would fail
    /// at; `None` if nobody serves them.
    ///
    /// # Errors
    /// What `rehearse` has found, and nobody has stepped aside then. If somebody does not, however long it is asked to: two would undo
    /// each other's work.
    pub async fn relieve(
        socket: &Path,
        pins: &Path,
        rehearse: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<Option<Self>> {
        let end = Instant::now() + BEGIN;
        let mut rehearse = Some(rehearse);
        let mut said = false;
        loop {
            // Nobody listens, or nobody has for long.
            let Ok(stream) = UnixStream::connect(socket).await else { return Ok(None) };
            if let Some(rehearse) = rehearse.take() {
                rehearse().context("the process before this one serves on")?;
            }
            let asked = timeout(ASIDE, ask(BufReader::new(stream), pins)).await;
            let reason = match asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(Answer::Aside(stream)) => {
                    info!("Taking over from the process before this one, which serves on meanwhile.");
                    return Ok(Some(Self(stream)));
                }
                Ok(Answer::NotMine) => return Ok(None),
                Ok(Answer::Later) => "it has not begun to serve yet".to_owned(),
                Err(error) => error.to_string(),
            };
            if Instant::now() > end {
                anyhow::bail!("the process before this one does not step aside: {reason}");
            }
            if !said {
                warn!(reason, "The process before this one does not step aside yet; waiting for it.");
                said = true;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Tells it that it is not needed any more, and stays in sight for as long as it is there.
    pub async fn dismiss(mut self) {
        if let Err(error) = self.0.write_all(DONE.as_bytes()).await {
            info!(%error, "The process before this one has ended already.");
        }
        while line(&mut self.0).await.is_ok() {}
    }
}

/// What a process says to who wants to take over from it.
enum Answer {
    Aside(BufReader<UnixStream>),
    Later,
    NotMine,
}

async fn ask(mut stream: BufReader<UnixStream>, pins: &Path) -> io::Result<Answer> {
    stream.write_all(format!("{HELLO}{}\n", pins.display()).as_bytes()).await?;
    match line(&mut stream).await?.as_str() {
        ASIDE_NOW => Ok(Answer::Aside(stream)),
        LATER => Ok(Answer::Later),
        NOT_MINE => Ok(Answer::NotMine),
        other => Err(io::Error::other(format!("it says {other:?}"))),
    }
}

impl Door {
    /// Waits for whoever wants to take over the kernel objects in `pins`.
    ///
    /// # Errors
    /// If the socket cannot be made.
    pub fn open(socket: &Path, pins: PathBuf) -> anyhow::Result<Self> {
        let listener = listen(socket);
        let listener = listener.with_context(|| format!("opening {} for a successor", socket.display()))?;
        Ok(Self { listener, pins })
    }

    /// The kernel objects that it is about.
    pub fn pins(&self) -> &Path {
        &self.pins
    }

    /// The next one that comes and may, once this process is `ready` to be followed by another.
    pub async fn successor(&self, ready: impl Fn() -> bool) -> Successor {
        loop {
            let met = async { self.meet(self.listener.accept().await?.0, &ready).await };
            match met.await {
                Ok(Some(successor)) => return successor,
                Ok(None) => {}
                Err(error) => {
                    warn!(%error, "Somebody who wanted to take over was refused.");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn meet(&self, stream: UnixStream, ready: &impl Fn() -> bool) -> io::Result<Option<Successor>> {
        let own = fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own))?;
        let user = stream.peer_cred()?.uid();
        if user != own {
            return Err(io::Error::other(format!("user {user} may not")));
        }
        let mut stream = BufReader::new(stream);
        let hello = timeout(ASIDE, line(&mut stream)).await??;
        let answer = match hello.strip_prefix(HELLO) {
            Some(pins) if Path::new(pins) != self.pins => NOT_MINE,
            Some(_) if ready() => return Ok(Some(Successor(stream))),
            Some(_) => LATER,
            None => return Err(io::Error::other(format!("it says {hello:?}"))),
        };
        stream.write_all(format!("{answer}\n").as_bytes()).await?;
        Ok(None)
    }
}

impl Successor {
    /// Tells it that it may begin, and waits until it has begun to serve.
    ///
    /// # Errors
    /// If it goes away first, or takes too long.
    pub async fn introduce(mut self) -> io::Result<Self> {
        self.0.write_all(format!("{ASIDE_NOW}\n").as_bytes()).await?;
        let answer = timeout(BEGIN, line(&mut self.0)).await??;
        if answer == DONE.trim_end() {
            Ok(self)
        } else {
            Err(io::Error::other(format!("it says {answer:?}")))
        }
    }

    /// Resolves when it has ended.
    pub async fn gone(&mut self) {
        while line(&mut self.0).await.is_ok() {}
    }
}

/// A line, without its end; the end of the stream is an error.
async fn line(stream: &mut BufReader<UnixStream>) -> io::Result<String> {
    let mut line = String::new();
    // Root on the other side is trusted to end its lines.
    if stream.read_line(&mut line).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end().to_owned())
}

const HELLO: &str = "mesh/1 takes over ";
const ASIDE_NOW: &str = "aside";
const LATER: &str = "later";
const NOT_MINE: &str = "not mine";
const DONE: &str = "done\n";
/// To let go of what only one may have.
const ASIDE: Duration = Duration::from_secs(3);
/// To read a configuration and be in all pods.
const BEGIN: Duration = Duration::from_secs(60);
/// After somebody who was refused.
const PAUSE: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn always() -> bool {
        true
    }

    async fn relieve(socket: &Path, pins: &str) -> Option<Predecessor> {
        Predecessor::relieve(socket, Path::new(pins), || Ok(())).await.unwrap()
    }

    #[tokio::test]
    async fn one_steps_aside_for_another_of_the_same_objects() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("agent.sock");
        assert!(relieve(&socket, "/pins/a").await.is_none(), "nobody is there");
        let door = Door::open(&socket, "/pins/a".into()).unwrap();
        let new = async {
            assert!(relieve(&socket, "/pins/b").await.is_none(), "those are another's");
            relieve(&socket, "/pins/a").await.unwrap().dismiss().await;
        };
        let old = async { drop(door.successor(always).await.introduce().await.unwrap()) };
        tokio::join!(new, old);
    }

    #[tokio::test]
    async fn nobody_steps_aside_for_one_that_cannot_begin() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("agent.sock");
        let door = Door::open(&socket, "/pins".into()).unwrap();
        let fails = || anyhow::bail!("no roots");
        let new = async {
            let refused = Predecessor::relieve(&socket, Path::new("/pins"), fails).await;
            assert_eq!(
                format!("{:#}", refused.unwrap_err()),
                "the process before this one serves on: no roots"
            );
        };
        tokio::select! {
            () = new => {}
            _ = door.successor(always) => panic!("it has stepped aside"),
        }
    }

    #[tokio::test]
    async fn one_that_goes_away_before_it_serves_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("agent.sock");
        let door = Door::open(&socket, "/pins".into()).unwrap();
        let new = async { drop(relieve(&socket, "/pins").await.unwrap()) };
        let ((), introduced) = tokio::join!(new, async { door.successor(always).await.introduce().await });
        assert_eq!(introduced.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn one_that_goes_away_after_it_has_taken_over_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("agent.sock");
        let door = Door::open(&socket, "/pins".into()).unwrap();
        let serves = relieve_and_serve(&socket, Duration::from_millis(300));
        let old = async {
            let mut successor = door.successor(always).await.introduce().await.unwrap();
            assert!(timeout(Duration::from_millis(100), successor.gone()).await.is_err(), "it is there");
            timeout(Duration::from_secs(5), successor.gone()).await.unwrap();
        };
        tokio::join!(serves, old);
    }

    async fn relieve_and_serve(socket: &Path, time: Duration) {
        let predecessor = relieve(socket, "/pins").await.unwrap();
        assert!(timeout(time, predecessor.dismiss()).await.is_err(), "it ended first");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_takes_over_from_one_that_has_not_begun() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("agent.sock");
        let door = Door::open(&socket, "/pins".into()).unwrap();
        let asked = Cell::new(0);
        let ready = || {
            asked.set(asked.get() + 1);
            asked.get() > 3
        };
        let new = async { drop(relieve(&socket, "/pins").await.unwrap()) };
        tokio::join!(new, async { drop(door.successor(ready).await.introduce().await) });
        assert_eq!(asked.get(), 4);
        let refused =
            async { Predecessor::relieve(&socket, Path::new("/pins"), || Ok(())).await.unwrap_err() };
        let error = tokio::select! {
            error = refused => error,
            _ = door.successor(|| false) => unreachable!("it is not ready"),
        };
        assert!(error.to_string().contains("does not step aside"), "{error}");
    }
}

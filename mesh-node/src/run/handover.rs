//! A new process of a node beside the old one, as rolling updates start it: the old one steps aside and serves on until the new
//! one has every pod, so that no connection finds nobody.
//!
//! They talk over a socket that only root may use. The new one says which kernel objects it is about to take over; the old one
//! lets go of all that only one may have (the kernel objects' writing, files, the ports of the host), says so, and keeps accepting
//! in its pods. When the new one's listeners are in place it says that as well, and the old one ends its connections.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    time::timeout,
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
    /// Has whoever serves the kernel objects in `pins` step aside; `None` if nobody does, or not in time.
    pub async fn relieve(socket: &Path, pins: &Path) -> Option<Self> {
        let stream = UnixStream::connect(socket).await.ok()?;
        let asked = timeout(ASIDE, ask(BufReader::new(stream), pins)).await;
        match asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(stream) => {
                info!("Taking over from the process before this one, which serves on meanwhile.");
                Some(Self(stream))
            }
            Err(error) => {
                warn!(%error, "The process before this one does not step aside.");
                None
            }
        }
    }

    /// Tells it that it is not needed any more.
    pub async fn dismiss(mut self) {
        if let Err(error) = self.0.write_all(DONE.as_bytes()).await {
            info!(%error, "The process before this one has ended already.");
        }
    }
}

async fn ask(mut stream: BufReader<UnixStream>, pins: &Path) -> io::Result<BufReader<UnixStream>> {
    stream.write_all(format!("{HELLO}{}\n", pins.display()).as_bytes()).await?;
    let answer = line(&mut stream).await?;
    if answer == ASIDE_NOW { Ok(stream) } else { Err(io::Error::other(format!("it says {answer:?}"))) }
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

    /// The next one that comes and may.
    pub async fn successor(&self) -> Successor {
        loop {
            let met = async { self.meet(self.listener.accept().await?.0).await };
            match met.await {
                Ok(successor) => return successor,
                Err(error) => {
                    warn!(%error, "Somebody who wanted to take over was refused.");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn meet(&self, stream: UnixStream) -> io::Result<Successor> {
        let own = fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own))?;
        let user = stream.peer_cred()?.uid();
        if user != own {
            return Err(io::Error::other(format!("user {user} may not")));
        }
        let mut stream = BufReader::new(stream);
        let hello = timeout(ASIDE, line(&mut stream)).await??;
        match hello.strip_prefix(HELLO) {
            Some(pins) if Path::new(pins) == self.pins => Ok(Successor(stream)),
            Some(pins) => Err(io::Error::other(format!("it is after {pins}"))),
            None => Err(io::Error::other(format!("it says {hello:?}"))),
        }
    }
}

impl Successor {
    /// Tells it that it may begin, and waits until it has begun to serve.
    ///
    /// # Errors
    /// If it goes away first, or takes too long.
    pub async fn introduce(mut self) -> io::Result<()> {
        self.0.write_all(format!("{ASIDE_NOW}\n").as_bytes()).await?;
        let answer = timeout(BEGIN, line(&mut self.0)).await??;
        if answer == DONE.trim_end() { Ok(()) } else { Err(io::Error::other(format!("it says {answer:?}"))) }
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
const DONE: &str = "done\n";
/// To let go of what only one may have.
const ASIDE: Duration = Duration::from_secs(3);
/// To read a configuration and be in all pods.
const BEGIN: Duration = Duration::from_secs(60);
/// After somebody who was refused.
const PAUSE: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_steps_aside_for_another_of_the_same_objects() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("agent.sock");
        let pins = PathBuf::from("/pins/a");
        assert!(Predecessor::relieve(&socket, &pins).await.is_none(), "nobody is there");
        let door = Door::open(&socket, pins.clone()).unwrap();
        let new = async {
            assert!(
                Predecessor::relieve(&socket, Path::new("/pins/b")).await.is_none(),
                "those are another's"
            );
            let predecessor = Predecessor::relieve(&socket, &pins).await.unwrap();
            predecessor.dismiss().await;
        };
        let old = async { door.successor().await.introduce().await.unwrap() };
        tokio::join!(new, old);
    }

    #[tokio::test]
    async fn one_that_goes_away_before_it_serves_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("agent.sock");
        let pins = PathBuf::from("/pins");
        let door = Door::open(&socket, pins.clone()).unwrap();
        let new = async { drop(Predecessor::relieve(&socket, &pins).await.unwrap()) };
        let ((), introduced) = tokio::join!(new, async { door.successor().await.introduce().await });
        assert_eq!(introduced.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}

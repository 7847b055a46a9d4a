//! Answers the plugin's questions on a Unix socket that only root may use: one line of JSON in, one out.

use std::{fs, io, os::unix::fs::PermissionsExt, path::Path, sync::Arc, time::Duration};

use mesh_core::{
    cni::{Answer, MAX_BYTES, Question, Standing, Verb, standing},
    model::Snapshot,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{sleep, timeout},
};
use tracing::{info, warn};

use crate::{redirect::Sandboxes, run::tasks};

/// Who answers.
#[derive(Clone)]
pub struct Desk {
    /// What is told is kept there.
    pub sandboxes: Arc<Sandboxes>,
    /// What is known of pods.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
}

/// Opens the socket, in place of a predecessor's.
///
/// # Errors
/// If the directory cannot be made or the socket not be bound.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    // Bound beside it and moved there: whoever connects meets the old one or the new one.
    let prepared = path.with_extension("new");
    let _ = fs::remove_file(&prepared);
    let listener = UnixListener::bind(&prepared)?;
    fs::set_permissions(&prepared, fs::Permissions::from_mode(0o600))?;
    fs::rename(&prepared, path)?;
    Ok(listener)
}

impl Desk {
    /// Answers until the process ends.
    pub async fn run(self, listener: UnixListener) {
        let places = Arc::new(Semaphore::new(MAX_QUESTIONS));
        loop {
            let accepted = listener.accept().await;
            let Ok(place) = places.clone().acquire_owned().await else { return };
            match accepted {
                Ok((stream, _)) => {
                    drop(tasks::spawn_local("cni question", self.clone().serve(stream, place)));
                }
                Err(error) => {
                    warn!(%error, "The CNI plugin cannot be listened to.");
                    sleep(RETRY).await;
                }
            }
        }
    }

    async fn serve(self, stream: UnixStream, place: OwnedSemaphorePermit) {
        if let Err(error) = self.attend(stream).await {
            warn!(%error, "A question of the CNI plugin broke off.");
        }
        drop(place);
    }

    async fn attend(self, stream: UnixStream) -> io::Result<()> {
        if stream.peer_cred()?.uid() != 0 {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it was not root who asked"));
        }
        let (read, mut write) = stream.into_split();
        let mut line = String::new();
        let mut bounded = BufReader::new(read.take(MAX_BYTES as u64));
        timeout(READ, bounded.read_line(&mut line)).await??;
        let answer = match serde_json::from_str::<Question>(&line) {
            Ok(question) => self.answer(question).await,
            Err(error) => Answer::Refused { reason: format!("the question cannot be read: {error}") },
        };
        let mut line = serde_json::to_vec(&answer)?;
        line.push(b'\n');
        timeout(READ, write.write_all(&line)).await?
    }

    async fn answer(mut self, question: Question) -> Answer {
        match question.verb {
            Verb::Del => {
                self.sandboxes.end(&question.container, &question.interface);
                Answer::Done
            }
            Verb::Gc => {
                self.sandboxes.keep_only(&question.containers);
                Answer::Done
            }
            Verb::Add | Verb::Check => {
                // The plugin gives up a moment later than this, so that it is told why.
                let patience = Duration::from_millis(question.patience_ms.min(MAX_PATIENCE_MS));
                let patience = patience.saturating_sub(MARGIN).max(MARGIN);
                let answer = self.admit(&question, patience).await;
                log(&question, &answer);
                answer
            }
            Verb::Status | Verb::Version => Answer::Done,
        }
    }

    /// Waits until the pod is captured, or known to stay outside.
    async fn admit(&mut self, question: &Question, patience: Duration) -> Answer {
        let Some(pod) = &question.pod else {
            return Answer::Refused { reason: "no pod was named".to_owned() };
        };
        let sandbox = match self.sandboxes.announce(question) {
            Ok(sandbox) => sandbox,
            Err(reason) => return Answer::Refused { reason },
        };
        let mut progress = self.sandboxes.progress();
        let over = sleep(patience);
        tokio::pin!(over);
        loop {
            let snapshot = self.snapshots.borrow_and_update().clone();
            let why = match standing(&snapshot, pod) {
                Standing::Outside(reason) => return Answer::Outside { reason },
                Standing::Unknown(why) => why,
                Standing::Enrolled => {
                    let now = progress.borrow_and_update();
                    if now.captured.contains(&sandbox.cookie()) {
                        return Answer::Captured;
                    }
                    let name = (pod.namespace.as_str().into(), pod.name.as_str().into());
                    let why = now.waiting.get(&name).map_or("capture has not begun", String::as_str);
                    format!("capture is not complete: {why}")
                }
            };
            tokio::select! {
                () = &mut over => return Answer::Refused { reason: why },
                changed = self.snapshots.changed() => if changed.is_err() {
                    return Answer::Refused { reason: "the agent stops".to_owned() };
                },
                // Its sender lives as long as the sandboxes.
                _ = progress.changed() => {}
            }
        }
    }
}

fn log(question: &Question, answer: &Answer) {
    let pod = question.pod.as_ref();
    let (namespace, name) = pod.map_or(("", ""), |pod| (&pod.namespace, &pod.name));
    let verb = question.verb;
    match answer {
        Answer::Refused { reason } => {
            warn!(namespace, pod = name, ?verb, reason, "A pod was not let start.");
        }
        Answer::Outside { reason } => {
            info!(namespace, pod = name, ?verb, reason, "A pod starts outside of the mesh.");
        }
        Answer::Captured | Answer::Done => info!(namespace, pod = name, ?verb, "A pod starts captured."),
    }
}

/// Sandboxes that are made at the same time; kubelets make tens.
const MAX_QUESTIONS: usize = 512;
/// For one line each way on this machine.
const READ: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_millis(100);
/// What the plugin allows is at most 90 s.
const MAX_PATIENCE_MS: u64 = 90_000;
/// Between the agent's end of waiting and the plugin's.
const MARGIN: Duration = Duration::from_millis(250);

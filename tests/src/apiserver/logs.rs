//! What containers have written, as a kubelet would tell it: by lines, from the end, since a while ago, and as it comes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::timeout;

use super::request::Call;
use super::state::{Shared, State};
use super::status::Refusal;
use super::store::Key;

/// Lines by namespace, pod and container.
pub(super) struct Logs {
    lines: HashMap<[String; 3], Vec<(Instant, String)>>,
    news: watch::Sender<u64>,
}

impl Default for Logs {
    fn default() -> Self {
        Self { lines: HashMap::new(), news: watch::Sender::new(0) }
    }
}

impl Logs {
    /// A container has written something.
    pub(super) fn write(&mut self, at: [&str; 3], text: &str) {
        let lines = text.lines().map(|line| (Instant::now(), format!("{line}\n")));
        self.lines.entry(at.map(str::to_owned)).or_default().extend(lines);
        self.news.send_modify(|count| *count += 1);
    }
}

/// The log of a container, on its way to a client.
pub(super) struct Reading {
    shared: Arc<Shared>,
    at: [String; 3],
    pod: Key,
    /// Lines that have been read.
    position: usize,
    /// Bytes that may still be told.
    left: usize,
    follows: bool,
    news: watch::Receiver<u64>,
}

impl Reading {
    pub(super) fn new(shared: &Arc<Shared>, call: &Call) -> Result<Self, Refusal> {
        let state = shared.lock();
        let pod = Key { resource: "pods".into(), namespace: call.namespace.clone(), name: call.name.clone() };
        let object = state.store.get(&pod).ok_or_else(|| Refusal::not_found("pods", &call.name))?;
        let container = container(call, object)?;
        let at = [call.namespace.clone(), call.name.clone(), container];
        let lines = state.logs.lines.get(&at).map(Vec::as_slice).unwrap_or_default();
        let seconds = call.query.number("sinceSeconds")?.map(Duration::from_secs);
        let is_old = |(when, _): &&(Instant, String)| seconds.is_some_and(|most| when.elapsed() > most);
        let mut position = lines.iter().take_while(is_old).count();
        if let Some(most) = call.query.number("tailLines")? {
            position = position.max(lines.len().saturating_sub(usize::try_from(most).unwrap_or(usize::MAX)));
        }
        let most = call.query.number("limitBytes")?.and_then(|most| usize::try_from(most).ok());
        Ok(Self {
            shared: Arc::clone(shared),
            pod,
            position,
            left: most.unwrap_or(usize::MAX),
            follows: call.query.is_true("follow"),
            news: state.logs.news.subscribe(),
            at,
        })
    }

    /// What comes next; nothing more once all is told that there is, or the pod is gone.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        loop {
            let (mut text, is_over) = self.look();
            text.truncate(self.left);
            self.left -= text.len();
            if !text.is_empty() {
                return Some(text.into());
            }
            if is_over || self.left == 0 {
                return None;
            }
            let _ = timeout(PAUSE, self.news.changed()).await;
        }
    }

    fn look(&mut self) -> (Vec<u8>, bool) {
        let state: &State = &self.shared.lock();
        let lines = state.logs.lines.get(&self.at).map(Vec::as_slice).unwrap_or_default();
        let new: String = lines.iter().skip(self.position).map(|(_, line)| line.as_str()).collect();
        self.position = lines.len();
        (new.into_bytes(), !self.follows || state.store.get(&self.pod).is_none())
    }
}

/// Of several containers one must be named.
fn container(call: &Call, pod: &Value) -> Result<String, Refusal> {
    let all = pod["spec"]["containers"].as_array().into_iter().flatten();
    let names: Vec<&str> = all.filter_map(|it| it["name"].as_str()).collect();
    match (call.query.text("container").filter(|name| !name.is_empty()), &names[..]) {
        (Some(name), _) if names.contains(&name) => Ok(name.to_owned()),
        (Some(name), _) => {
            Err(Refusal::bad_request(format!("container {name} is not valid for pod {}", call.name)))
        }
        (None, [only]) => Ok((*only).to_owned()),
        (None, _) => Err(Refusal::bad_request(format!(
            "a container name must be specified for pod {}, choose one of: [{}]",
            call.name,
            names.join(" ")
        ))),
    }
}

/// Between two looks whether a pod is still there.
const PAUSE: Duration = Duration::from_millis(200);

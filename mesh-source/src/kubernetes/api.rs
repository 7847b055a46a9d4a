//! Requests to the API server: with a limit on time and size, and answers that are either text or a [`Failure`].

use std::error::Error;
use std::future::Future;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use tokio::time::timeout;

use super::Pace;
use super::wire::{Failure, Status};

/// An API server, and how patient we are with it.
#[derive(Clone)]
pub(super) struct Api {
    client: Client,
    pub(super) pace: Pace,
}

/// The lines of an answer that goes on.
pub(super) struct Lines {
    body: Body,
    begun: BytesMut,
    /// So much of `begun` is known to have no end of line.
    searched: usize,
    silence: Duration,
}

impl Api {
    pub(super) fn new(client: Client, pace: Pace) -> Self {
        Self { client, pace }
    }

    /// The whole answer.
    pub(super) async fn read(&self, request: Request<Vec<u8>>) -> Result<String, Failure> {
        let body = self.send(request).await?;
        collect(body, MAX_ANSWER, self.pace.answer).await
    }

    /// The answer line by line.
    pub(super) async fn lines(&self, request: Request<Vec<u8>>) -> Result<Lines, Failure> {
        let body = self.send(request).await?;
        Ok(Lines { body, begun: BytesMut::new(), searched: 0, silence: self.pace.silence })
    }

    async fn send(&self, mut request: Request<Vec<u8>>) -> Result<Body, Failure> {
        // An API server compresses long answers by default, which costs it more than sending them as they are.
        let headers = request.headers_mut();
        headers.entry(header::ACCEPT_ENCODING).or_insert(http::HeaderValue::from_static("identity"));
        headers.entry(header::ACCEPT).or_insert(http::HeaderValue::from_static("application/json"));
        let sent = in_time(self.pace.answer, self.client.send(request.map(Body::from))).await?;
        let response = sent.map_err(|error| Failure::Unreachable(causes(&error)))?;
        let (head, body) = response.into_parts();
        if head.status.is_success() {
            return Ok(body);
        }
        let text = collect(body, MAX_REFUSAL, self.pace.answer).await.unwrap_or_default();
        Err(refused(head.status, &head.headers, &text))
    }
}

impl Lines {
    /// All lines that are complete, at least one; `None` when the answer has ended. Cancelling it loses nothing.
    pub(super) async fn next(&mut self) -> Result<Option<String>, Failure> {
        loop {
            let unsearched = self.begun.get(self.searched..).unwrap_or_default();
            if let Some(end) = unsearched.iter().rposition(|byte| *byte == b'\n') {
                let lines = self.begun.split_to(self.searched + end);
                self.begun.advance(1);
                self.searched = 0;
                return String::from_utf8(lines.into()).map(Some).map_err(Failure::malformed);
            }
            self.searched = self.begun.len();
            if self.begun.len() > MAX_LINE {
                return Err(Failure::Malformed(format!("a line of more than {} MiB", MAX_LINE >> 20)));
            }
            match in_time(self.silence, self.body.frame()).await? {
                None => return Ok(None),
                Some(Ok(frame)) => self.begun.extend(frame.into_data().unwrap_or_default()),
                Some(Err(error)) => return Err(Failure::Unreachable(causes(&error))),
            }
        }
    }
}

/// A whole body of at most `limit` bytes, no two parts of which may be further apart than `patience`.
async fn collect(mut body: Body, limit: usize, patience: Duration) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    while let Some(frame) = in_time(patience, body.frame()).await? {
        let frame = frame.map_err(|error| Failure::Unreachable(causes(&error)))?;
        bytes.extend_from_slice(&frame.into_data().unwrap_or_default());
        if bytes.len() > limit {
            return Err(Failure::Malformed(format!("more than {} MiB", limit >> 20)));
        }
    }
    String::from_utf8(bytes).map_err(Failure::malformed)
}

async fn in_time<T>(limit: Duration, future: impl Future<Output = T>) -> Result<T, Failure> {
    timeout(limit, future).await.map_err(|_| Failure::Silent)
}

fn refused(status: StatusCode, headers: &HeaderMap, text: &str) -> Failure {
    let said: Status = serde_json::from_str(text).unwrap_or_default();
    let reason = status.canonical_reason().unwrap_or_default();
    let said = Status {
        code: status.as_u16(),
        reason: if said.reason.is_empty() { reason.to_owned() } else { said.reason },
        // A proxy in between answers with a page of its own, of which the first line will do.
        message: if said.message.is_empty() { first_line(text) } else { said.message },
        ..said
    };
    let seconds = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    match Failure::from(said) {
        Failure::Refused { code, reason, message, retry_after } => {
            let retry_after = retry_after.or(seconds.map(Duration::from_secs));
            Failure::Refused { code, reason, message, retry_after }
        }
        other => other,
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(200).collect()
}

/// An error with all that lies beneath it: only the last of them says what happened.
fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// Bytes of an answer: a page of the largest objects that etcd takes.
const MAX_ANSWER: usize = 512 << 20;
/// Bytes of an event: etcd takes objects of 1.5 MiB, which JSON may make several times as long.
const MAX_LINE: usize = 16 << 20;
/// Bytes of an explanation.
const MAX_REFUSAL: usize = 64 << 10;

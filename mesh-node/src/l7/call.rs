//! A question of the proxy's own about a request, over the engine's connections: whoever is asked is a service like any other,
//! with its endpoints, its mutual TLS and its DestinationRule.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use mesh_core::route::{Action, ClusterRef, Route};
use mesh_core::trace::TraceWord;

use super::exchange::{Ended, Stage};
use super::forward;
use super::h1::{Authority, Framing, Target};
use super::message::{Broken, Piece, RequestHead, ResponseHead, Version, grpc_status};
use super::record::Record;
use super::transfer::{Body, Downstream, Sink};

/// The client that asks it, and what it has heard.
pub(super) struct Call {
    pieces: VecDeque<Piece>,
    length: usize,
    /// Bytes of an answer.
    most: usize,
    answer: Option<(StatusCode, HeaderMap)>,
    grpc: Option<u32>,
    heard: BytesMut,
}

/// What came back.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    grpc: Option<u32>,
}

impl Call {
    /// With this body, for an answer of at most so many bytes.
    pub(super) fn new(body: Bytes, most: usize) -> Self {
        let length = body.len();
        let data = Some(body).filter(|body| !body.is_empty()).map(Piece::Data);
        let pieces = data.into_iter().chain([Piece::End(None)]).collect();
        Self { pieces, length, most, answer: None, grpc: None, heard: BytesMut::new() }
    }

    /// With a message of gRPC.
    pub(super) fn of_message(message: &[u8], most: usize) -> Result<Self, String> {
        let mut body = BytesMut::with_capacity(message.len() + PREFIX);
        body.put_u8(0);
        body.put_u32(u32::try_from(message.len()).map_err(|_| "the question is too long".to_owned())?);
        body.put_slice(message);
        Ok(Self::new(body.freeze(), most))
    }

    /// Bytes of its body.
    pub(super) fn framing(&self) -> Framing {
        match u64::try_from(self.length) {
            Ok(0) => Framing::None,
            Ok(length) => Framing::Length(length),
            Err(_) => Framing::Chunked,
        }
    }

    /// Asks, and waits for the whole answer.
    pub(super) async fn ask(
        mut self,
        stage: &Stage<'_>,
        to: &ClusterRef,
        head: &mut RequestHead,
    ) -> Result<Answer, String> {
        // Who only takes in for an application asks as the application would.
        let engine = stage.engine.client.outbound().unwrap_or_else(|| Rc::clone(stage.engine));
        let stage = &Stage { engine: &engine, site: stage.site, facts: stage.facts };
        let route = Arc::new(Route { retries: None, ..Route::to(to.clone()) });
        let Action::Forward(forward) = &route.action else {
            return Err("there is nowhere to ask".to_owned());
        };
        let matched = route.unmatched();
        let job = forward::Job { route: &route, forward, matched: &matched, cors: None, limited: false };
        let mut record = Record::begin(stage, head);
        match forward::run(stage, job, head, &mut self, &mut record).await {
            Ok(()) => {}
            Err(Ended::Refused(refusal, reason)) => return Err(format!("{} {reason}", refusal.text())),
            Err(Ended::Answered(reply)) => return Err(format!("status {}", reply.head.status.as_u16())),
            Err(Ended::Gone(broken) | Ended::Cut(broken)) => return Err(broken.to_string()),
        }
        let Self { answer, grpc, heard, .. } = self;
        let (status, headers) = answer.ok_or("no answer")?;
        Ok(Answer { status, headers, body: heard.freeze(), grpc })
    }
}

impl Answer {
    /// Whether a call of gRPC went well; if not, why.
    pub(super) fn succeeded(&self) -> Result<(), String> {
        match (self.status, self.grpc) {
            (StatusCode::OK, Some(0)) => Ok(()),
            (StatusCode::OK, Some(code)) => Err(format!("gRPC status {code}")),
            (status, _) => Err(format!("status {}", status.as_u16())),
        }
    }

    /// The message of gRPC that it is.
    pub(super) fn into_message(self) -> Result<Bytes, String> {
        self.succeeded()?;
        let (prefix, message) = self.body.split_at_checked(PREFIX).ok_or("no message")?;
        let length = prefix.get(1..).and_then(|it| Some(u32::from_be_bytes(it.try_into().ok()?)));
        let whole = length.and_then(|it| usize::try_from(it).ok()) == Some(message.len());
        if prefix.first() != Some(&0) || !whole {
            return Err("what came back is no message of gRPC".to_owned());
        }
        Ok(self.body.slice(PREFIX..))
    }
}

/// The head of a call of gRPC to a service.
pub(super) fn grpc_head(
    to: &ClusterRef,
    method: &'static [u8],
    framing: Framing,
) -> Result<RequestHead, String> {
    let wrong = |_| format!("{} is no host", to.host);
    let authority = format!("{}:{}", to.host, to.port.unwrap_or_default());
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    Ok(RequestHead {
        method: Method::POST,
        secure: false,
        authority: Some(Authority::parse(authority.into()).map_err(wrong)?),
        target: Target::origin(Bytes::from_static(method)).map_err(wrong)?,
        client: None,
        version: Version::Http2,
        headers,
        framing,
        upgrade: None,
        expects_continue: false,
        claims: None,
        trace: TraceWord::Nothing,
    })
}

impl Body for Call {
    fn poll_piece(&mut self, _: &mut Context<'_>) -> Poll<Result<Piece, Broken>> {
        Poll::Ready(Ok(self.pieces.pop_front().unwrap_or(Piece::End(None))))
    }
}

impl Sink for Call {
    fn poll_room(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        Poll::Ready(Ok(()))
    }

    fn push(&mut self, data: Bytes) -> Result<(), Broken> {
        if self.heard.len().saturating_add(data.len()) > self.most {
            return Err(Broken::Protocol("the answer is too long".to_owned()));
        }
        self.heard.put(data);
        Ok(())
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), Broken> {
        self.grpc = trailers.as_ref().and_then(grpc_status).or(self.grpc);
        Ok(())
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        Poll::Ready(Ok(()))
    }
}

impl Downstream for Call {
    fn inform(&mut self, _: ResponseHead) {}

    fn respond(&mut self, head: ResponseHead) -> Result<(), Broken> {
        self.grpc = grpc_status(&head.headers);
        self.answer = Some((head.status, head.headers));
        Ok(())
    }

    fn poll_gone(&mut self, _: &mut Context<'_>) -> Poll<Broken> {
        Poll::Pending
    }

    fn leave_http(&mut self, _: ResponseHead) -> Result<(), Broken> {
        Err(Broken::Protocol("whoever is asked wants to leave HTTP".to_owned()))
    }
}

/// The flag of compression and the length before each message of gRPC.
const PREFIX: usize = 5;

//! How much of a request is taken in before all of it is there. A client that sends a large one and never ends it holds
//! what it has sent, on each of its streams: a stream gets little, and more only while it has a turn.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::Notify;
use tonic::Status;
use tonic::codegen::Service;
use tonic::server::NamedService;

/// Gives each call of a service an [`Intake`], which it finds among the extensions of the request.
#[derive(Debug, Clone)]
pub struct Metered<S>(pub S);

/// What a call may still send. It is not read any further when that is used up, and says so.
#[derive(Debug, Clone, Default)]
pub struct Intake(Arc<Shared>);

/// The body of a call with an [`Intake`].
#[derive(Debug)]
pub struct Rationed {
    body: tonic::body::Body,
    intake: Intake,
}

#[derive(Debug, Default)]
struct Shared {
    ration: Mutex<Ration>,
    used_up: Notify,
}

#[derive(Debug, Default)]
struct Ration {
    left: usize,
    reader: Option<Waker>,
}

impl Intake {
    /// Lets the call send so many bytes from now on, whatever it might before.
    pub fn grant(&self, bytes: usize) {
        let reader = {
            let mut ration = self.0.ration.lock().unwrap_or_else(PoisonError::into_inner);
            ration.left = bytes;
            ration.reader.take()
        };
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Resolves when the call has more to send than it may.
    pub async fn used_up(&self) {
        while !self.is_awaited() {
            self.0.used_up.notified().await;
        }
    }

    fn is_awaited(&self) -> bool {
        self.0.ration.lock().unwrap_or_else(PoisonError::into_inner).reader.is_some()
    }

    /// Whether there is anything left; if not, `context` is woken when there is.
    fn may_read(&self, context: &Context<'_>) -> bool {
        let mut ration = self.0.ration.lock().unwrap_or_else(PoisonError::into_inner);
        if ration.left == 0 {
            ration.reader = Some(context.waker().clone());
            self.0.used_up.notify_one();
        }
        ration.left > 0
    }

    fn spend(&self, bytes: usize) {
        let mut ration = self.0.ration.lock().unwrap_or_else(PoisonError::into_inner);
        ration.left = ration.left.saturating_sub(bytes);
    }
}

impl Body for Rationed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if !self.intake.may_read(context) {
            return Poll::Pending;
        }
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            self.intake.spend(frame.data_ref().map_or(0, Bytes::len));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<S: NamedService> NamedService for Metered<S> {
    const NAME: &'static str = S::NAME;
}

impl<S: Service<http::Request<Rationed>>> Service<http::Request<tonic::body::Body>> for Metered<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> S::Future {
        let intake = Intake::default();
        let mut request = request.map(|body| Rationed { body, intake: intake.clone() });
        request.extensions_mut().insert(intake);
        self.0.call(request)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tokio_stream::StreamExt as _;

    use super::*;

    fn poll_once<T>(future: impl Future<Output = T>) -> Poll<T> {
        std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn no_more_is_read_than_was_granted() {
        let parts = tokio_stream::iter([4, 4, 4])
            .map(|size| Ok::<_, Status>(Frame::data(Bytes::from(vec![0; size]))));
        let body = tonic::body::Body::new(http_body_util::StreamBody::new(parts));
        let intake = Intake::default();
        let mut body = Rationed { body, intake: intake.clone() };
        for (granted, expected) in [(0, 0), (1, 1), (5, 2)] {
            intake.grant(granted);
            let mut read = 0;
            // What cannot be read now never can in this test.
            while let Poll::Ready(Some(Ok(_))) = poll_once(body.frame()) {
                read += 1;
            }
            assert_eq!(read, expected, "of {granted} bytes; a part is not cut");
            assert!(poll_once(intake.used_up()).is_ready(), "it says that there is more");
        }
    }
}

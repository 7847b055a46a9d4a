//! A client of whose request some was read before anybody knew where it goes.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;

use super::message::{Broken, Piece, ResponseHead};
use super::transfer::{Body, Downstream, Sink};

/// See the module: what was read comes again.
pub struct Ahead<'a, D> {
    client: &'a mut D,
    pieces: VecDeque<Piece>,
}

impl<'a, D: Downstream> Ahead<'a, D> {
    /// Of a client that nothing was read of.
    pub fn new(client: &'a mut D) -> Self {
        Self { client, pieces: VecDeque::new() }
    }

    /// The beginning of the body, and whether it is all of it: at most so many bytes and a piece are read. To be asked once.
    pub async fn read(&mut self, most: usize) -> Result<(Bytes, bool), Broken> {
        let mut body = BytesMut::new();
        loop {
            let piece = poll_fn(|cx| self.client.poll_piece(cx)).await?;
            let ended = matches!(piece, Piece::End(_));
            if let Piece::Data(data) = &piece {
                body.extend_from_slice(data);
            }
            self.pieces.push_back(piece);
            if ended || body.len() > most {
                let is_whole = body.len() <= most;
                body.truncate(most);
                return Ok((body.freeze(), is_whole));
            }
        }
    }
}

impl<D: Downstream> Body for Ahead<'_, D> {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, Broken>> {
        match self.pieces.pop_front() {
            Some(piece) => Poll::Ready(Ok(piece)),
            None => self.client.poll_piece(cx),
        }
    }
}

impl<D: Downstream> Sink for Ahead<'_, D> {
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.client.poll_room(cx)
    }

    fn push(&mut self, data: Bytes) -> Result<(), Broken> {
        self.client.push(data)
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), Broken> {
        self.client.end(trailers)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.client.poll_flush(cx)
    }
}

impl<D: Downstream> Downstream for Ahead<'_, D> {
    fn inform(&mut self, head: ResponseHead) {
        self.client.inform(head);
    }

    fn respond(&mut self, head: ResponseHead) -> Result<(), Broken> {
        self.client.respond(head)
    }

    fn spare(&mut self) -> HeaderMap {
        self.client.spare()
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        self.client.poll_gone(cx)
    }

    fn leave_http(&mut self, head: ResponseHead) -> Result<(), Broken> {
        self.client.leave_http(head)
    }
}

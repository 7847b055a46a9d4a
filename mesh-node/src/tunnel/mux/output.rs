//! What waits to be written to a tunnel: frames in their order, in as few pieces as copying is worth.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf as _, Bytes};
use mesh_core::tunnel::frame::{Frame, StreamId, data_head};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Output {
    pieces: VecDeque<Bytes>,
    /// What follows them.
    tail: Vec<u8>,
    len: usize,
}

impl Output {
    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a frame by copying it.
    pub(super) fn push(&mut self, frame: &Frame<'_>) {
        let before = self.tail.len();
        frame.write(&mut self.tail);
        self.len += self.tail.len() - before;
    }

    /// Appends a frame of data; large ones without a copy.
    pub(super) fn push_data(&mut self, stream: StreamId, bytes: Bytes, fin: bool) {
        if bytes.len() < LARGE {
            return self.push(&Frame::Data { stream, bytes: &bytes, fin });
        }
        let head = data_head(stream, bytes.len(), fin);
        self.len += head.len() + bytes.len();
        self.tail.extend_from_slice(&head);
        self.close_tail();
        self.pieces.push_back(bytes);
    }

    /// What waits, front first, in as many slices as there is room for.
    pub(super) fn slices<'a>(&'a mut self, slices: &mut [IoSlice<'a>]) -> usize {
        self.close_tail();
        let filled =
            self.pieces.iter().zip(slices.iter_mut()).map(|(piece, slice)| *slice = IoSlice::new(piece));
        filled.count()
    }

    /// So many bytes are written.
    pub(super) fn advance(&mut self, mut written: usize) {
        self.len -= written;
        while let Some(piece) = self.pieces.front_mut() {
            if written < piece.len() {
                return piece.advance(written);
            }
            written -= piece.len();
            self.pieces.pop_front();
        }
    }

    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push_back(std::mem::take(&mut self.tail).into());
        }
    }
}

/// Bytes from which on a piece of its own is cheaper than a copy.
const LARGE: usize = 4 << 10;

#[cfg(test)]
mod tests {
    use mesh_core::tunnel::frame::first;

    use super::*;

    /// Writes everything, `step` bytes at a time.
    fn written(mut output: Output, step: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while !output.is_empty() {
            let mut slices = [IoSlice::new(&[]); 3];
            let count = output.slices(&mut slices);
            assert!(count > 0, "{} bytes wait", output.len());
            let joined: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
            let now = step.min(joined.len());
            all.extend_from_slice(&joined[..now]);
            output.advance(now);
        }
        all
    }

    #[test]
    fn frames_leave_in_order_whatever_their_size_and_however_little_is_taken() {
        let sizes = [1, 5_000, 0, 16_376, 4_095, 4_096, 10, 9_000];
        for step in [1, 7, 4_096, 100_000] {
            let mut output = Output::default();
            for (index, size) in sizes.into_iter().enumerate() {
                let stream = u32::try_from(index).expect("few") + 1;
                output.push_data(stream, Bytes::from(vec![u8::try_from(index).expect("few"); size]), true);
                output.push(&Frame::Credit(stream, 9));
            }
            let bytes = written(output, step);
            let mut rest = &bytes[..];
            for (index, size) in sizes.into_iter().enumerate() {
                let id = u32::try_from(index).expect("few") + 1;
                let (frame, length) = first(rest).expect("good").expect("whole");
                let Frame::Data { stream, bytes, fin: true } = frame else { panic!("{frame:?}") };
                assert_eq!((stream, bytes.len()), (id, size), "in steps of {step}");
                assert!(bytes.iter().all(|byte| usize::from(*byte) == index));
                rest = &rest[length..];
                let (frame, length) = first(rest).expect("good").expect("whole");
                assert_eq!(frame, Frame::Credit(id, 9));
                rest = &rest[length..];
            }
            assert!(rest.is_empty());
        }
    }
}

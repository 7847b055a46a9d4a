//! Messages of gRPC, counted as they pass in one direction of a call.

/// How many messages have begun. Each has a byte of flags and its length in four bytes in front.
#[derive(Debug, Clone, Default)]
pub struct Messages {
    count: u64,
    /// Of the bytes in front of the next one, those that were seen.
    head: [u8; HEAD],
    filled: usize,
    /// Bytes of the present one that are still to come.
    left: usize,
}

impl Messages {
    /// The next bytes of the body, however they are cut.
    pub fn pass(&mut self, mut bytes: &[u8]) {
        loop {
            let (_, rest) = bytes.split_at(self.left.min(bytes.len()));
            self.left -= bytes.len() - rest.len();
            let Some(open) = self.head.get_mut(self.filled..) else { return };
            let (taken, rest) = rest.split_at(open.len().min(rest.len()));
            open.iter_mut().zip(taken).for_each(|(to, from)| *to = *from);
            self.filled += taken.len();
            if self.filled < HEAD {
                return;
            }
            let [_, length @ ..] = self.head;
            self.left = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
            self.filled = 0;
            self.count += 1;
            bytes = rest;
        }
    }

    /// How many have begun.
    pub fn count(&self) -> u64 {
        self.count
    }
}

/// Bytes in front of a message.
const HEAD: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        let mut body = Vec::new();
        for length in [0_u8, 3, 0, 200] {
            body.extend([0, 0, 0, 0, length]);
            body.extend(std::iter::repeat_n(7, usize::from(length)));
        }
        for step in [1, 2, 5, 7, body.len()] {
            let mut messages = Messages::default();
            body.chunks(step).for_each(|part| messages.pass(part));
            assert_eq!(messages.count(), 4, "{step} bytes at a time");
        }
        let mut messages = Messages::default();
        messages.pass(&[1, 0xff, 0xff, 0xff, 0xff]);
        messages.pass(&[0; 100]);
        assert_eq!(messages.count(), 1, "one that does not end");
    }
}

//! Messages of gRPC, counted as they pass in one direction of a call.

use super::heads::Heads;

/// How many messages have begun. Each has a byte of flags and its length in four bytes in front.
#[derive(Debug, Clone)]
pub struct Messages {
    count: u64,
    heads: Heads<HEAD>,
}

impl Messages {
    /// The next bytes of the body, however they are cut.
    pub fn pass(&mut self, bytes: &[u8]) {
        self.heads.scan(bytes, |[_, length @ ..]| {
            self.count += 1;
            u32::from_be_bytes(length)
        });
    }

    /// How many have begun.
    pub fn count(&self) -> u64 {
        self.count
    }
}

impl Default for Messages {
    fn default() -> Self {
        Self { count: 0, heads: Heads::after(0) }
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

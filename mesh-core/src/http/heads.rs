//! Heads of a fixed size, each with so many bytes behind it, in a stream whose bytes come cut anyhow.

/// Where one direction of a connection is between two heads of `N` bytes.
#[derive(Debug, Clone)]
pub(super) struct Heads<const N: usize> {
    head: [u8; N],
    /// Bytes of the head that are there.
    filled: usize,
    /// Bytes until the next head.
    skip: usize,
}

impl<const N: usize> Heads<N> {
    /// The first head comes after `skip` bytes.
    pub(super) const fn after(skip: usize) -> Self {
        Self { head: [0; N], filled: 0, skip }
    }

    /// Goes through the next bytes; `visit` is called for each head that is complete with them, and says how many bytes follow it.
    pub(super) fn scan(&mut self, mut bytes: &[u8], mut visit: impl FnMut([u8; N]) -> u32) {
        loop {
            let (_, rest) = bytes.split_at(self.skip.min(bytes.len()));
            self.skip -= bytes.len() - rest.len();
            let Some(open) = self.head.get_mut(self.filled..) else { return };
            let (taken, rest) = rest.split_at(open.len().min(rest.len()));
            open.iter_mut().zip(taken).for_each(|(to, from)| *to = *from);
            self.filled += taken.len();
            if self.filled < N {
                return;
            }
            (self.filled, self.skip) = (0, usize::try_from(visit(self.head)).unwrap_or(usize::MAX));
            bytes = rest;
        }
    }
}

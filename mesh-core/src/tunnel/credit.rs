//! How many bytes of one direction of a stream may be under way: what a reader that has stopped costs its node at most.

use super::frame::MAX_PAYLOAD;

/// Bytes that may be sent before any were taken. Carries 4 Gb/s over 2 ms.
pub const FIRST: u32 = 1 << 20;

/// The receiving side.
#[derive(Debug)]
pub struct Inbound {
    /// Bytes that the peer may still send.
    left: u32,
    /// Bytes taken that it was not told of.
    owed: u32,
}

/// The sending side.
#[derive(Debug)]
pub struct Outbound {
    left: u32,
}

/// The peer has gone past what it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more was sent than credit was given for")]
pub struct Overdrawn;

impl Inbound {
    /// Of a new stream.
    pub const fn new() -> Self {
        Self { left: FIRST, owed: 0 }
    }

    /// So many bytes have come.
    ///
    /// # Errors
    ///
    /// [`Overdrawn`], which ends the tunnel.
    pub fn arrived(&mut self, bytes: usize) -> Result<(), Overdrawn> {
        let bytes = u32::try_from(bytes).map_err(|_| Overdrawn)?;
        self.left = self.left.checked_sub(bytes).ok_or(Overdrawn)?;
        Ok(())
    }

    /// So many of them were taken. What the peer is to be given for it, once it is worth a frame.
    #[must_use]
    pub fn taken(&mut self, bytes: usize) -> Option<u32> {
        self.owed = self.owed.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX)).min(FIRST - self.left);
        if self.owed < FIRST / 2 {
            return None;
        }
        self.left += self.owed;
        Some(std::mem::take(&mut self.owed))
    }
}

impl Default for Inbound {
    fn default() -> Self {
        Self::new()
    }
}

impl Outbound {
    /// Of a new stream.
    pub const fn new() -> Self {
        Self { left: FIRST }
    }

    /// How many of `wanted` bytes may go now, in one frame. One that could be full waits for credit for all of it, which comes
    /// once the peer has taken what is under way: a part of it would leave the rest for a frame and a record of its own, and so
    /// on with all that follow.
    #[must_use]
    pub fn allows(&self, wanted: usize) -> usize {
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let wanted = wanted.min(MAX_PAYLOAD);
        if wanted == MAX_PAYLOAD && left < MAX_PAYLOAD { 0 } else { wanted.min(left) }
    }

    /// So many go, no more than [`Outbound::allows`].
    pub fn spend(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub(u32::try_from(bytes).unwrap_or(u32::MAX));
    }

    /// The peer gives more.
    ///
    /// # Errors
    ///
    /// [`Overdrawn`] if that is more than it has taken, which ends the tunnel.
    pub fn given(&mut self, more: u32) -> Result<(), Overdrawn> {
        self.left = self.left.checked_add(more).filter(|left| *left <= FIRST).ok_or(Overdrawn)?;
        Ok(())
    }
}

impl Default for Outbound {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credit_goes_round_whatever_the_pieces() {
        let (mut sender, mut receiver) = (Outbound::new(), Inbound::new());
        let mut sent = 0_u64;
        for size in [1, 16_376, 300_000, 7, 1 << 20, 65_536].into_iter().cycle().take(6_000) {
            let now = sender.allows(size);
            assert!(now > 0, "everything was taken: there is always credit again");
            sender.spend(now);
            receiver.arrived(now).expect("within what was given");
            sent += now as u64;
            if let Some(more) = receiver.taken(now) {
                sender.given(more).expect("no more than was taken");
            }
        }
        assert!(sent > 60_000_000, "{sent}");
    }

    #[test]
    fn without_a_reader_no_more_than_the_first_credit_is_under_way() {
        let (mut sender, mut receiver) = (Outbound::new(), Inbound::new());
        let mut all = 0;
        while let now @ 1.. = sender.allows(usize::MAX) {
            assert_eq!(now, MAX_PAYLOAD, "frames are full");
            sender.spend(now);
            receiver.arrived(now).expect("as given");
            all += now;
        }
        let rest = sender.allows(MAX_PAYLOAD - 1);
        assert_eq!(all + rest, 1 << 20, "what fills no frame anyhow may use the rest");
        sender.spend(rest);
        receiver.arrived(rest).expect("as given");
        assert_eq!(sender.allows(1), 0);
        assert_eq!(receiver.arrived(1), Err(Overdrawn));
    }

    #[test]
    fn nobody_gives_more_than_was_taken() {
        let mut sender = Outbound::new();
        assert_eq!(sender.given(1), Err(Overdrawn));
        sender.spend(10);
        assert_eq!(sender.given(11), Err(Overdrawn));
        assert_eq!(sender.given(10), Ok(()));
        assert_eq!(sender.given(u32::MAX), Err(Overdrawn));
        let mut receiver = Inbound::new();
        assert_eq!(receiver.taken(1 << 20), None, "nothing has come that could have been taken");
    }
}

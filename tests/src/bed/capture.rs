//! Recording what crosses a network namespace, to prove what does and does not travel in plain sight.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use super::error::{Doing, Result};
use super::stop::{Stop, lock};
use crate::sys::{self, PacketSocket};

/// A recording in progress: every frame of every interface but loopback, from Ethernet header to payload.
#[derive(Debug)]
pub struct Capture {
    stop: Stop,
    packets: Arc<Mutex<Packets>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Packets {
    frames: Vec<Vec<u8>>,
    bytes: usize,
    lost: bool,
}

impl Capture {
    /// Starts recording in a network namespace; frames are seen from now on.
    pub(crate) fn start(netns: &Path) -> Result<Self> {
        let socket = sys::in_network(netns, PacketSocket::open).and_then(|socket| socket);
        let socket = socket.doing(|| format!("record packets in {}", netns.display()))?;
        let (stop, packets) = (Stop::default(), Arc::<Mutex<Packets>>::default());
        let (flag, store) = (stop.clone(), Arc::clone(&packets));
        let thread = thread::spawn(move || record(&socket, &flag, &store));
        Ok(Self { stop, packets, thread: Some(thread) })
    }

    /// Whether a frame recorded so far has these bytes anywhere in it.
    pub fn contains(&self, marker: &[u8]) -> bool {
        let packets = lock(&self.packets);
        packets.frames.iter().any(|frame| frame.windows(marker.len()).any(|window| window == marker))
    }

    /// The headers of the first frame with these bytes, if there is one.
    pub fn find(&self, marker: &[u8]) -> Option<Vec<u8>> {
        let packets = lock(&self.packets);
        let with = |frame: &&Vec<u8>| frame.windows(marker.len()).any(|window| window == marker);
        let frame = packets.frames.iter().find(with)?;
        Some(frame.iter().take(HEADERS).copied().collect())
    }

    /// How many frames were recorded so far.
    pub fn len(&self) -> usize {
        lock(&self.packets).frames.len()
    }

    /// Whether nothing was recorded so far.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether frames were dropped because there were more than 256 MiB of them: then "not seen" proves nothing.
    pub fn overflowed(&self) -> bool {
        lock(&self.packets).lost
    }

    /// Ends the recording and gives all frames, those that were still on their way to the recorder included.
    pub fn stop(mut self) -> Vec<Vec<u8>> {
        self.finish();
        std::mem::take(&mut lock(&self.packets).frames)
    }

    fn finish(&mut self) {
        self.stop.raise();
        // A recorder that panicked has left what it recorded.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.finish();
    }
}

fn record(socket: &PacketSocket, stop: &Stop, packets: &Mutex<Packets>) {
    let mut buffer = vec![0; MAX_FRAME];
    loop {
        match socket.receive(&mut buffer) {
            Ok(Some(frame)) if !frame.loopback => {
                let mut packets = lock(packets);
                if packets.bytes + frame.length > MAX_BYTES {
                    packets.lost = true;
                    continue;
                }
                packets.bytes += frame.length;
                packets.frames.extend(buffer.get(..frame.length).map(<[u8]>::to_vec));
            }
            // Only once the socket has nothing more is the recording complete.
            Ok(None) if stop.raised() => return,
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

/// Bytes of the headers down to TCP's.
const HEADERS: usize = 54;

/// Bytes of the largest frame: the kernel hands segmented TCP over in pieces of up to 64 KiB and headers.
const MAX_FRAME: usize = 128 << 10;

/// Bytes that a recording may grow to.
const MAX_BYTES: usize = 256 << 20;

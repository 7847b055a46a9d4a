//! A stream of numbers that comes back: what is lost, doubled, reordered or another flow's does not count on.

use std::io::{self, Read, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::torture::{Checker, Direction, Stream};

/// How a stream went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Bytes that were sent.
    pub sent: u64,
    /// Bytes that came back, each where it belongs.
    pub back: u64,
    /// The longest that nothing came back, milliseconds.
    pub longest_gap_ms: u64,
    /// What was wrong, if anything.
    pub error: Option<String>,
}

/// Sends numbers to a server that answers every byte (`ECHO`), in blocks of 64 KiB, so many a second, for so long, and checks
/// what comes back.
pub fn run(to: SocketAddr, blocks: u32, duration: Duration) -> Seen {
    let mut seen = Seen::default();
    if let Err(error) = exchange(to, (blocks, duration), &mut seen) {
        seen.error = Some(error.to_string());
    }
    seen
}

fn exchange(to: SocketAddr, (blocks, duration): (u32, Duration), seen: &mut Seen) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"ECHO\n")?;
    let mut byte = [0];
    while byte != *b"\n" {
        stream.read_exact(&mut byte)?;
    }
    let (mut writer, begun) = (stream.try_clone()?, Instant::now());
    let sender = std::thread::spawn(move || -> io::Result<u64> {
        let mut number = 0;
        while begun.elapsed() < duration {
            writer.write_all(&block(number))?;
            number += 1;
            let due = Duration::from_secs(1) * number / blocks;
            std::thread::sleep(due.saturating_sub(begun.elapsed()));
        }
        writer.shutdown(Shutdown::Write)?;
        Ok(u64::from(number) * BLOCK as u64)
    });
    let checked = check(&mut stream, seen);
    seen.sent = sender.join().map_err(|_| io::Error::other("the sender panicked"))??;
    checked
}

fn check(stream: &mut impl Read, seen: &mut Seen) -> io::Result<()> {
    let (mut checker, mut buffer, mut last) = (Checker::new(NUMBERS), vec![0; BLOCK], Instant::now());
    loop {
        let read = stream.read(&mut buffer)?;
        let gap = u64::try_from(last.elapsed().as_millis()).unwrap_or(u64::MAX);
        (seen.longest_gap_ms, last) = (seen.longest_gap_ms.max(gap), Instant::now());
        if read == 0 {
            return Ok(());
        }
        checker.check(buffer.get(..read).unwrap_or_default());
        if let Some(fault) = checker.fault() {
            return Err(io::Error::other(format!("byte {} is another", fault.at())));
        }
        seen.back = checker.bytes();
    }
}

fn block(number: u32) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    NUMBERS.fill(u64::from(number) * BLOCK as u64, &mut block);
    block
}

/// There and back it is one stream.
const NUMBERS: Stream = Stream { flow: 1, direction: Direction::ToServer };
const BLOCK: usize = 64 << 10;
/// The longest wait for the next byte.
const PATIENCE: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_or_doubled_is_found() {
        let good = [block(0), block(1)].concat();
        let mut seen = Seen::default();
        check(&mut &*good, &mut seen).unwrap();
        assert_eq!(seen.back, 2 * BLOCK as u64);
        let missing = [&good[..100], &good[108..]].concat();
        let mut seen = Seen::default();
        assert!(check(&mut &*missing, &mut seen).unwrap_err().to_string().contains("byte 103"));
        let doubled = [block(0), block(0)].concat();
        assert!(check(&mut &*doubled, &mut Seen::default()).is_err());
    }
}

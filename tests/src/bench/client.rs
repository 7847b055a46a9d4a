//! A client that opens a connection for each request, and counts all of it.
//!
//! `wrk` can do that for one server; but it starts its clock when the connection is there, and where a proxy stands in
//! between, that is long before the connection reaches anybody. This one starts it before `connect` and stops it at
//! the end of the answer, takes several servers in turn from one port range, as an application with several
//! dependencies does, and gives each connection of the wanted concurrency a thread.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

/// What is to be asked.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Servers, taken in turn.
    pub servers: Vec<SocketAddr>,
    /// How many connections at a time.
    pub connections: usize,
    /// For how long.
    pub duration: Duration,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Connections that were answered with status 200 and ended in order.
    pub requests: u64,
    /// Connections that were not.
    pub errors: u64,
    /// Time from the first connection to the end of the last one.
    pub seconds: f64,
    /// Median time of the answered ones in microseconds, from before `connect` to the end of the answer.
    pub p50_us: f64,
    /// Their 99th percentile.
    pub p99_us: f64,
    /// Why the first of the errors failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_error: Option<String>,
}

/// Asks until the time is over.
pub fn run(plan: &Plan) -> Report {
    let start = Instant::now();
    let deadline = start + plan.duration;
    let tallies: Vec<Tally> = thread::scope(|scope| {
        let ask = |number| move || ask(&plan.servers, number, deadline);
        let threads: Vec<_> = (0..plan.connections).map(|number| scope.spawn(ask(number))).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    report(tallies, start.elapsed())
}

/// What one connection, or one thread, has seen.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Of those that were answered.
    pub(super) times: Vec<Duration>,
    errors: u64,
    first_error: Option<String>,
}

impl Tally {
    /// Counts an error; the first one is kept.
    pub(super) fn fail(&mut self, reason: &str) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| reason.to_owned());
    }
}

fn ask(servers: &[SocketAddr], number: usize, deadline: Instant) -> Tally {
    let mut tally = Tally::default();
    let mut answer = Vec::with_capacity(4096);
    for server in servers.iter().cycle().skip(number % servers.len().max(1)) {
        let start = Instant::now();
        if start >= deadline {
            break;
        }
        match once(*server, &mut answer) {
            Ok(()) => tally.times.push(start.elapsed()),
            Err(error) => {
                tally.fail(&format!("{server}: {error}"));
                // What is refused at once must not become a busy loop beside the others.
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
    tally
}

fn once(server: SocketAddr, answer: &mut Vec<u8>) -> io::Result<()> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(REQUEST)?;
    answer.clear();
    stream.read_to_end(answer)?;
    if answer.starts_with(b"HTTP/1.1 200 ") {
        return Ok(());
    }
    let line: String = String::from_utf8_lossy(answer).chars().take_while(|c| *c != '\r').collect();
    Err(io::Error::new(io::ErrorKind::InvalidData, format!("answered {line:?}")))
}

/// All tallies together.
pub(super) fn report(tallies: Vec<Tally>, elapsed: Duration) -> Report {
    let mut report = Report { seconds: elapsed.as_secs_f64(), ..Report::default() };
    let mut times = Vec::new();
    for tally in tallies {
        times.extend(tally.times);
        report.errors += tally.errors;
        report.first_error = report.first_error.or(tally.first_error);
    }
    times.sort_unstable();
    report.requests = u64::try_from(times.len()).unwrap_or(u64::MAX);
    report.p50_us = percentile(&times, 50);
    report.p99_us = percentile(&times, 99);
    report
}

/// The smallest value that at least `percent` of 100 values do not exceed; in microseconds, 0 for none.
fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(rank).map_or(0.0, |time| time.as_secs_f64() * 1e6)
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n";

/// Longer than a SYN that is sent again: what stalls for a second is to be seen as slow, not as failed.
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn percentiles() {
        let times: Vec<Duration> = (1..=200).map(Duration::from_micros).collect();
        assert!((percentile(&times, 50) - 100.0).abs() < 0.01);
        assert!((percentile(&times, 99) - 198.0).abs() < 0.01);
        assert!((percentile(&times[..1], 99) - 1.0).abs() < 0.01);
        assert!(percentile(&[], 50).abs() < 0.01);
    }

    #[test]
    fn good_and_bad_servers() {
        let listen = |answer: &'static [u8]| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let addr = listener.local_addr().unwrap();
            thread::spawn(move || {
                for stream in listener.incoming() {
                    let mut stream = stream.unwrap();
                    let _ = stream.read(&mut [0; 512]);
                    let _ = stream.write_all(answer);
                }
            });
            addr
        };
        let good = listen(b"HTTP/1.1 200 OK\r\n\r\nyes");
        let bad = listen(b"HTTP/1.1 503 Unavailable\r\n\r\n");
        let plan = Plan { servers: vec![good, bad], connections: 2, duration: Duration::from_millis(200) };
        let report = run(&plan);
        assert!(report.requests > 0 && report.errors > 0 && report.p99_us >= report.p50_us, "{report:?}");
        assert!(report.seconds >= 0.2, "{report:?}");
        let error = report.first_error.unwrap();
        assert!(error.ends_with("answered \"HTTP/1.1 503 Unavailable\""), "{error}");
    }
}

//! A client that sends requests at a constant rate, whether or not answers keep up.
//!
//! A client that waits for an answer before it asks again is held up by the very delays that it is to measure, and
//! then does not count them. Here each request has a time at which it is due. It counts from then on if the connection
//! was still busy, and from its sending otherwise: that a thread wakes a little late is no fault of who is measured.
//! Each connection has a thread, which sleeps more precisely than timers of a runtime do.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use super::client::{Report, Tally, report};

/// What is to be asked.
#[derive(Debug, Clone)]
pub struct Pace {
    /// The server.
    pub server: SocketAddr,
    /// `Host`.
    pub host: String,
    /// The path.
    pub path: String,
    /// Requests in a second, all connections together.
    pub rate: f64,
    /// How many connections at a time.
    pub connections: u32,
    /// Whether each request has a connection of its own, which the server ends. They are kept otherwise.
    pub anew: bool,
    /// Whether all connections are asked at the same time. Requests come evenly otherwise.
    pub bursts: bool,
    /// For how long.
    pub duration: Duration,
}

/// Asks until the time is over.
pub fn run(pace: &Pace) -> Report {
    let start = Instant::now();
    // Requests come evenly, each connection having its turn; or one over each connection at the same time.
    let (threads, each) = if pace.bursts { (1, pace.connections) } else { (pace.connections, 1) };
    let tallies: Vec<Tally> = thread::scope(|scope| {
        let ask = |number| move || ask(pace, (number, each), start);
        let threads: Vec<_> = (0..threads).map(|number| scope.spawn(ask(number))).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    report(tallies, start.elapsed())
}

fn ask(pace: &Pace, (number, connections): (u32, u32), start: Instant) -> Tally {
    let mut tally = Tally::default();
    let turn = Duration::from_secs_f64(1.0 / pace.rate);
    let mut due = start + turn * number;
    let mut connections: Vec<_> = (0..connections).map(|_| None).collect();
    while due < start + pace.duration {
        let was_free = due.checked_duration_since(Instant::now()).map(thread::sleep).is_some();
        let since = if was_free { Instant::now() } else { due };
        let sent: Vec<_> = connections.iter_mut().map(|connection| send(connection, pace)).collect();
        for (connection, sent) in connections.iter_mut().zip(sent) {
            match sent.and_then(|()| receive(connection, pace)) {
                Ok(()) => {
                    tally.times.push(since.elapsed());
                    if pace.anew {
                        *connection = None;
                    }
                }
                Err(error) => {
                    *connection = None;
                    tally.fail(&format!("{}: {error}", pace.server));
                }
            }
        }
        due += turn * pace.connections;
    }
    tally
}

fn send(connection: &mut Option<BufReader<TcpStream>>, pace: &Pace) -> io::Result<()> {
    let reader = match connection {
        Some(reader) => reader,
        None => connection.insert(connect(pace.server)?),
    };
    let end = if pace.anew { "Connection: close\r\n" } else { "" };
    let request = format!("GET {} HTTP/1.1\r\nHost: {}\r\n{end}\r\n", pace.path, pace.host);
    reader.get_mut().write_all(request.as_bytes())
}

fn receive(connection: &mut Option<BufReader<TcpStream>>, pace: &Pace) -> io::Result<()> {
    let reader = connection.as_mut().ok_or(io::ErrorKind::NotConnected)?;
    answer(reader)?;
    // Whoever ends a connection first has its port taken for a while.
    if pace.anew && reader.read(&mut [0])? > 0 {
        return Err(wrong("more than an answer"));
    }
    Ok(())
}

fn connect(server: SocketAddr) -> io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect(server)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(BufReader::new(stream))
}

/// Reads one answer to its end: status 200, and either a length or chunks.
fn answer(reader: &mut impl BufRead) -> io::Result<()> {
    let mut line = String::new();
    read_line(reader, &mut line)?;
    if !line.starts_with("HTTP/1.1 200 ") {
        return Err(wrong(&format!("answered {line:?}")));
    }
    let (mut length, mut chunked) = (None, false);
    loop {
        read_line(reader, &mut line)?;
        let Some((name, value)) = line.split_once(':') else { break };
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            length = value.parse().ok();
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            chunked = value.eq_ignore_ascii_case("chunked");
        }
    }
    match length {
        Some(length) => skip(reader, length),
        None if chunked => chunks(reader, &mut line),
        None => Err(wrong("an answer without an end")),
    }
}

fn chunks(reader: &mut impl BufRead, line: &mut String) -> io::Result<()> {
    loop {
        read_line(reader, line)?;
        let size = u64::from_str_radix(line.trim(), 16).map_err(|_| wrong("no size of a chunk"))?;
        // The last one has no content, but the same line break.
        skip(reader, size + 2)?;
        if size == 0 {
            return Ok(());
        }
    }
}

fn read_line(reader: &mut impl BufRead, line: &mut String) -> io::Result<()> {
    line.clear();
    // Longer than any line of a server that is measured here.
    reader.take(16 << 10).read_line(line)?;
    if !line.ends_with('\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    line.truncate(line.trim_end().len());
    Ok(())
}

fn skip(reader: &mut impl BufRead, length: u64) -> io::Result<()> {
    if io::copy(&mut reader.take(length), &mut io::sink())? < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

fn wrong(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.to_owned())
}

/// What takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Answers each request of each connection after a while.
    fn server(text: &'static str, after: Duration) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                thread::spawn(move || serve(BufReader::new(stream), text, after));
            }
        });
        address
    }

    fn serve(mut reader: BufReader<TcpStream>, text: &str, after: Duration) {
        let mut line = String::new();
        while reader.read_line(&mut line).is_ok_and(|length| length > 0) {
            if line.trim().is_empty() {
                thread::sleep(after);
                reader.get_mut().write_all(text.as_bytes()).unwrap();
            }
            line.clear();
        }
    }

    fn pace(server: SocketAddr, rate: f64, connections: u32) -> Pace {
        let (host, path) = ("a.example".to_owned(), "/".to_owned());
        let duration = Duration::from_millis(500);
        Pace { server, host, path, rate, connections, anew: false, bursts: false, duration }
    }

    #[test]
    fn the_rate_is_kept() {
        let server = server("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", Duration::ZERO);
        let report = run(&pace(server, 200.0, 4));
        assert_eq!((report.requests, report.errors), (100, 0), "{report:?}");
        assert!(report.seconds >= 0.45, "{report:?}");
    }

    /// Whether there is another request, once it has been read.
    fn has_asked(reader: &mut BufReader<TcpStream>) -> bool {
        let lines = reader.lines().map(Result::unwrap);
        lines.take_while(|line| !line.is_empty()).count() > 0
    }

    #[test]
    fn a_burst_asks_over_all_connections_before_any_answers() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap();
        let rounds = thread::spawn(move || {
            let mut readers: Vec<_> =
                listener.incoming().take(3).map(|it| BufReader::new(it.unwrap())).collect();
            for round in 0.. {
                // Nobody is answered before all have asked.
                if !readers.iter_mut().all(has_asked) {
                    return round;
                }
                for reader in &mut readers {
                    reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
                }
            }
            0
        });
        let report = run(&Pace { bursts: true, ..pace(server, 60.0, 3) });
        assert_eq!((report.requests, report.errors), (30, 0), "{report:?}");
        assert_eq!(rounds.join().unwrap(), 10);
    }

    #[test]
    fn each_request_may_have_a_connection_of_its_own() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap();
        let accepted = thread::spawn(move || {
            listener.set_nonblocking(true).unwrap();
            let until = Instant::now() + Duration::from_secs(1);
            let mut accepted = 0;
            while Instant::now() < until {
                let Ok((mut stream, _)) = listener.accept() else {
                    thread::sleep(Duration::from_millis(1));
                    continue;
                };
                accepted += 1;
                stream.set_nonblocking(false).unwrap();
                let mut asked = [0; 256];
                let length = stream.read(&mut asked).unwrap();
                assert!(asked.get(..length).unwrap().ends_with(b"\r\nConnection: close\r\n\r\n"));
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
            }
            accepted
        });
        let report = run(&Pace { anew: true, ..pace(server, 100.0, 2) });
        assert_eq!((report.requests, report.errors), (50, 0), "{report:?}");
        assert_eq!(accepted.join().unwrap(), 50);
    }

    #[test]
    fn what_waits_for_a_slow_answer_counts_from_when_it_was_due() {
        let server = server("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Duration::from_millis(20));
        // Due every 10 ms, done every 20 ms: the last of 50 is half a second late.
        let report = run(&pace(server, 100.0, 1));
        assert_eq!(report.requests, 50, "{report:?}");
        assert!(report.p99_us > 400_000.0 && report.p50_us > 200_000.0, "{report:?}");
    }

    #[test]
    fn answers_end_where_they_say() {
        let read = |text: &str| {
            let mut rest = text.as_bytes();
            answer(&mut rest).map(|()| rest.len()).map_err(|error| error.to_string())
        };
        assert_eq!(read("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabcHTTP"), Ok(4));
        assert_eq!(
            read("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nx"),
            Ok(1)
        );
        assert!(read("HTTP/1.1 503 Busy\r\n\r\n").unwrap_err().contains("503 Busy"));
        assert!(read("HTTP/1.1 200 OK\r\n\r\n").unwrap_err().contains("without an end"));
        assert!(read("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc").is_err());
    }

    #[test]
    fn refusals_are_errors() {
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let report = run(&pace(nobody, 100.0, 2));
        assert_eq!((report.requests, report.errors), (0, 50), "{report:?}");
    }
}

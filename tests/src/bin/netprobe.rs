//! Real sockets for tests: a server and a client that show what an application sees of capture.
#![expect(clippy::print_stdout, reason = "its output is what tests read")]

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    thread,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand};
use mesh_tests::{
    ask::{Way, ask, flood},
    bench::{
        client::{self, Plan},
        grpc as echo, names,
        pace::{self, Pace},
        relay::{self, Route},
    },
    grpc::{self, Calls},
    mongo,
    origin::Origin,
    probe,
    sealed::{self, Sealing},
};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

/// Shows what applications see of their connections.
#[derive(Parser)]
struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Serve: the first line of a client says what to do.
    ///
    /// Example: netprobe serve --port 7000
    Serve {
        /// Port on all addresses, IPv4 and IPv6.
        #[arg(long)]
        port: u16,
    },
    /// Answer the first line of each client with a word before it, and end.
    ///
    /// Example: netprobe greet --port 9000 --word one
    Greet {
        /// Port on all addresses, IPv4 and IPv6.
        #[arg(long)]
        port: u16,
        /// The word.
        #[arg(long)]
        word: String,
    },
    /// Connect once and print what was seen as JSON.
    ///
    /// Example: netprobe dial 10.244.1.3:7000 --say ECHO
    Dial(Dial),
    /// Ask a resolver for a name and print what was seen as JSON.
    ///
    /// Example: netprobe ask 10.96.0.10:53 web.shop.svc.cluster.local --way connected
    Ask {
        /// Whom to ask.
        server: SocketAddr,
        /// For which name.
        name: String,
        /// Whom to ask as well, from the same socket.
        #[arg(long)]
        also: Vec<SocketAddr>,
        /// For which type of records.
        #[arg(long = "type", default_value = "A")]
        kind: String,
        /// From which socket.
        #[arg(long, value_enum, default_value_t = Way::Unconnected)]
        way: Way,
        /// Use an IPv6 socket and the IPv4-mapped address.
        #[arg(long)]
        mapped: bool,
        /// Milliseconds until giving up.
        #[arg(long, default_value_t = 5000)]
        timeout: u64,
    },
    /// Send queries without waiting for answers, then count those that came in time, by their code.
    ///
    /// Example: netprobe flood 10.96.0.10:53 www.example.com --count 600
    Flood {
        /// Whom to ask.
        server: SocketAddr,
        /// For which name.
        name: String,
        /// How often.
        #[arg(long, default_value_t = 600)]
        count: u16,
        /// For how many milliseconds to listen after the last query.
        #[arg(long, default_value_t = 1000)]
        listen: u64,
    },
    /// Connect several times and hold the connections until the server ends them; print how each ends.
    ///
    /// Example: netprobe hold 10.244.1.3:7000 --count 10
    Hold {
        /// Where to.
        to: SocketAddr,
        /// How many.
        #[arg(long, default_value_t = 1)]
        count: usize,
    },
    /// Connect again and again from many threads, and print as JSON, again and again, how often, and how often a server was there.
    ///
    /// Example: netprobe probe 10.244.1.3:7000 --seconds 10
    Probe {
        /// Where to.
        #[arg(required = true)]
        to: Vec<SocketAddr>,
        /// How long.
        #[arg(long, default_value_t = 60.0)]
        seconds: f64,
        /// At a time, for each of them.
        #[arg(long, default_value_t = 16)]
        threads: usize,
    },
    /// Send numbers to a server that answers every byte, check what comes back, and print the outcome as JSON.
    ///
    /// Example: netprobe numbered 10.244.1.3:7000 --blocks 100 --seconds 3
    Numbered {
        /// Where to.
        to: SocketAddr,
        /// Blocks of 64 KiB in a second.
        #[arg(long, default_value_t = 100)]
        blocks: u32,
        /// How long.
        #[arg(long, default_value_t = 1.0)]
        seconds: f64,
    },
    /// Ask web servers in turn, with a new connection for each request, and print the outcome as JSON.
    ///
    /// Example: netprobe load --connections 8 --seconds 3 10.244.1.3:8080 10.244.1.4:8080
    Load {
        /// Whom to ask.
        #[arg(required = true)]
        servers: Vec<SocketAddr>,
        /// How many connections at a time.
        #[arg(long, default_value_t = 1)]
        connections: usize,
        /// For how long.
        #[arg(long, default_value_t = 1.0)]
        seconds: f64,
    },
    /// Ask a web server at a constant rate, and print the outcome as JSON.
    ///
    /// Example: netprobe pace 127.0.0.1:8080 --host a.example --rate 20000 --connections 32 --seconds 3
    Pace {
        /// Whom to ask.
        server: SocketAddr,
        /// The name to ask for.
        #[arg(long, default_value = "bench")]
        host: String,
        /// The path to ask for.
        #[arg(long, default_value = "/")]
        path: String,
        /// Requests a second, all connections together.
        #[arg(long, value_parser = positive)]
        rate: f64,
        /// A connection for each request, instead of kept ones.
        #[arg(long)]
        connect_anew: bool,
        /// Ask over all connections at the same time, rather than evenly.
        #[arg(long)]
        bursts: bool,
        /// How many connections.
        #[arg(long, default_value_t = 1)]
        connections: u32,
        /// For how long.
        #[arg(long, default_value_t = 1.0)]
        seconds: f64,
    },
    /// Answer every gRPC call with its own message.
    ///
    /// Example: netprobe grpc 127.0.0.1:50051
    Grpc {
        /// Where to listen.
        #[arg(required = true)]
        listen: Vec<SocketAddr>,
    },
    /// Ask a resolver for a name again and again, and print the outcome as JSON.
    ///
    /// Example: netprobe names 10.96.0.10:53 web.shop.svc.cluster.local --window 32 --seconds 3
    Names {
        /// Whom to ask.
        server: SocketAddr,
        /// For which name.
        name: String,
        /// How many queries at a time.
        #[arg(long, default_value_t = 1)]
        window: u16,
        /// For how long.
        #[arg(long, default_value_t = 1.0)]
        seconds: f64,
    },
    /// Be a server of `MongoDB` without documents.
    ///
    /// Example: netprobe mongo --port 27017
    Mongo {
        /// Port on all addresses, IPv4 and IPv6.
        #[arg(long)]
        port: u16,
    },
    /// Answer calls of gRPC with the name of this host and the metadata that has come.
    ///
    /// Example: netprobe who --port 7070
    Who {
        /// Port on all addresses.
        #[arg(long)]
        port: u16,
    },
    /// Call a service of gRPC, and print how each call has ended as JSON.
    ///
    /// Example: `netprobe call http://echo.shop:7070 --metadata version=two --count 10`
    Call {
        /// `http://HOST:PORT`.
        to: String,
        /// `/SERVICE/METHOD`.
        #[arg(long, default_value = grpc::METHOD)]
        method: String,
        /// Metadata to send.
        #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
        metadata: Vec<(String, String)>,
        /// How many calls.
        #[arg(long, default_value_t = 1)]
        count: u32,
    },
    /// Answer requests with what they were, as JSON, over HTTP/1.1 and HTTP/2.
    ///
    /// Example: netprobe origin --port 8080
    Origin {
        /// Port on all addresses.
        #[arg(long)]
        port: u16,
        /// Port of TLS, with the files of a certificate and its key, for clients that ask for the name.
        #[arg(long, requires_all = ["certificate", "key", "name"])]
        tls_port: Option<u16>,
        #[arg(long)]
        certificate: Option<PathBuf>,
        #[arg(long)]
        key: Option<PathBuf>,
        #[arg(long)]
        name: Option<String>,
    },
    /// Copy bytes between connections, and do nothing else.
    ///
    /// Example: netprobe relay 127.0.0.1:9000=10.244.2.3:8080
    Relay {
        /// Where to listen and whom connections are for.
        #[arg(required = true, value_name = "LISTEN=TO")]
        routes: Vec<Route>,
        /// The network namespace to listen in, instead of the own one.
        #[arg(long, value_name = "FILE")]
        listen_in: Option<PathBuf>,
    },
}

#[derive(Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
struct Dial {
    /// Where to.
    to: SocketAddr,
    /// Connect from an IPv6 socket to the IPv4-mapped address.
    #[arg(long)]
    mapped: bool,
    /// Use multipath TCP.
    #[arg(long)]
    mptcp: bool,
    /// Send the first bytes with the SYN (`MSG_FASTOPEN`).
    #[arg(long)]
    fastopen: bool,
    /// Connect without blocking and wait for the outcome.
    #[arg(long)]
    nonblocking: bool,
    /// Bind to this address first.
    #[arg(long)]
    bind: Option<SocketAddr>,
    /// Put this mark on the socket (`SO_MARK`).
    #[arg(long)]
    mark: Option<u32>,
    /// What to tell the server.
    #[arg(long, default_value = "ECHO")]
    say: String,
    /// Bytes of payload to send after it.
    #[arg(long, default_value_t = 0)]
    bytes: usize,
    /// A marker to send at the start of the payload.
    #[arg(long, default_value = "")]
    marker: String,
    /// Milliseconds until giving up.
    #[arg(long, default_value_t = 5000)]
    timeout: u64,
}

fn main() -> anyhow::Result<()> {
    match Command::parse().verb {
        Verb::Serve { port } => serve(port, answer),
        Verb::Greet { port, word } => serve(port, move |stream, _| greet(stream, &word)),
        Verb::Dial(dial) => {
            println!("{}", dial.run());
            Ok(())
        }
        Verb::Ask { server, name, also, kind, way, mapped, timeout } => {
            let patience = Duration::from_millis(timeout);
            let seen = ask(&[&[server], &also[..]].concat(), (&name, &kind), (way, mapped), patience)?;
            show(&seen)
        }
        Verb::Flood { server, name, count, listen } => {
            let codes = flood(server, &name, count, Duration::from_millis(listen))?;
            show(&codes)
        }
        Verb::Hold { to, count } => hold(to, count),
        Verb::Probe { to, seconds, threads } => probe_all(&to, threads, seconds),
        Verb::Numbered { to, blocks, seconds } => {
            let duration = Duration::try_from_secs_f64(seconds).context("--seconds")?;
            show(&mesh_tests::numbered::run(to, blocks, duration))
        }
        Verb::Load { servers, connections, seconds } => {
            let duration = Duration::try_from_secs_f64(seconds).context("--seconds")?;
            let report = client::run(&Plan { servers, connections, duration });
            show(&report)
        }
        Verb::Pace { server, host, path, rate, connect_anew: anew, bursts, connections, seconds } => {
            let duration = Duration::try_from_secs_f64(seconds).context("--seconds")?;
            let report = pace::run(&Pace { server, host, path, rate, connections, anew, bursts, duration });
            show(&report)
        }
        Verb::Names { server, name, window, seconds } => {
            let duration = Duration::try_from_secs_f64(seconds).context("--seconds")?;
            let report = names::run(&names::Plan { server, name, window, duration })?;
            show(&report)
        }
        Verb::Mongo { port } => Ok(mongo::serve(&listener(port)?)?),
        Verb::Grpc { listen } => Ok(echo::run(&listen)?),
        Verb::Who { port } => grpc::serve(&host(), port),
        Verb::Call { to, method, metadata, count } => {
            let ended = grpc::call(&Calls { to, method, metadata, count })?;
            show(&ended)
        }
        Verb::Origin { port, tls_port, certificate, key, name } => {
            let _origin = Origin::serve(&[(host(), (Ipv6Addr::UNSPECIFIED, port).into())])?;
            if let (Some(at), Some(certificate), Some(key), Some(name)) = (tls_port, certificate, key, name) {
                let (certificate, key) = (fs::read_to_string(certificate)?, fs::read_to_string(key)?);
                return seal(
                    at,
                    port,
                    &Sealing { name: &name, certificate: &certificate, key: &key, clients: None },
                );
            }
            loop {
                thread::park();
            }
        }
        Verb::Relay { routes, listen_in } => Ok(relay::run(&routes, listen_in)?),
    }
}

/// Prints what was seen, on one line.
fn show(seen: &impl serde::Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string(seen)?);
    Ok(())
}

/// Opens TLS at a port of all addresses, and passes on what is inside to another.
fn seal(port: u16, plain: u16, sealing: &Sealing<'_>) -> anyhow::Result<()> {
    let acceptor = sealed::acceptor(sealing)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await?;
        sealed::pass_on(listener, acceptor, (Ipv4Addr::LOCALHOST, plain).into()).await;
        Ok(())
    })
}

/// The name of this host: in a pod, that of the pod.
fn host() -> String {
    std::env::var("HOSTNAME").unwrap_or_else(|_| "unknown".to_owned())
}

fn pair(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').ok_or_else(|| format!("{text:?} is not KEY=VALUE"))?;
    Ok((pair.0.to_owned(), pair.1.to_owned()))
}

fn positive(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    if number.is_normal() && number > 0.0 { Ok(number) } else { Err("it has to be positive".to_owned()) }
}

// What a server is told to do:
//   ECHO          answer every byte, end when the client ends
//   AFTER_EOF n   read until the client's end, then send n bytes and end
//   FIN_FIRST n   send n bytes and end, then read until the client's end
//   RESET n       send n bytes, then reset
// Each begins with a line that shows the server's view of the connection.

fn listener(port: u16) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    socket.listen(1024)?;
    Ok(TcpListener::from(socket))
}

fn serve(
    port: u16,
    answer: impl Fn(&TcpStream, SocketAddr) -> io::Result<()> + Clone + Send + 'static,
) -> anyhow::Result<()> {
    let listener = listener(port)?;
    loop {
        let (stream, accepted_from) = listener.accept()?;
        let answer = answer.clone();
        thread::spawn(move || {
            // A client that breaks off is what some tests do.
            let _ = answer(&stream, accepted_from);
        });
    }
}

fn greet(mut stream: &TcpStream, word: &str) -> io::Result<()> {
    let mut line = String::new();
    BufReader::new(stream).take(1 << 10).read_line(&mut line)?;
    writeln!(stream, "{word} {}", line.trim_end())
}

fn answer(stream: &TcpStream, accepted_from: SocketAddr) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let verb = words.next().unwrap_or_default();
    let count: usize = words.next().and_then(|n| n.parse().ok()).unwrap_or(0);
    let mut out = stream;
    let (accepted, peer, local) =
        (canonical(accepted_from), canonical(stream.peer_addr()?), stream.local_addr()?);
    writeln!(out, "accepted={accepted} peer={peer} local={}", canonical(local))?;
    match verb {
        "ECHO" => {
            io::copy(&mut reader, &mut out)?;
        }
        "AFTER_EOF" => {
            let read = io::copy(&mut reader, &mut io::sink())?;
            write!(out, "{read};")?;
            send(out, count)?;
        }
        "FIN_FIRST" => {
            send(out, count)?;
            stream.shutdown(Shutdown::Write)?;
            io::copy(&mut reader, &mut io::sink())?;
        }
        "RESET" => {
            send(out, count)?;
            // What was sent should arrive before the reset overtakes it.
            thread::sleep(Duration::from_millis(200));
            SockRef::from(stream).set_linger(Some(Duration::ZERO))?;
        }
        _ => {}
    }
    Ok(())
}

fn send(mut to: &TcpStream, count: usize) -> io::Result<()> {
    let chunk = [b'x'; 16 << 10];
    let mut left = count;
    while left > 0 {
        let n = left.min(chunk.len());
        to.write_all(&chunk[..n])?;
        left -= n;
    }
    Ok(())
}

impl Dial {
    fn run(&self) -> serde_json::Value {
        let stream = match self.connect() {
            Ok(stream) => stream,
            Err(error) => return serde_json::json!({ "error": format!("{:?}", error.kind()) }),
        };
        let shown = (stream.peer_addr().map(canonical).ok(), stream.local_addr().map(canonical).ok());
        let (received, end) = self.converse(stream);
        let text = String::from_utf8_lossy(&received);
        let (greeting, rest) = text.split_once('\n').unwrap_or((&text, ""));
        serde_json::json!({
            "peername": shown.0.map(|at| at.to_string()),
            "sockname": shown.1.map(|at| at.to_string()),
            "greeting": greeting,
            "received": rest.len(),
            "start": rest.chars().take(64).collect::<String>(),
            "end": end,
        })
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let to = match (self.mapped, self.to.ip()) {
            (true, IpAddr::V4(v4)) => SocketAddr::new(v4.to_ipv6_mapped().into(), self.to.port()),
            _ => self.to,
        };
        let protocol = if self.mptcp { Protocol::MPTCP } else { Protocol::TCP };
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(protocol))?;
        if let Some(at) = self.bind {
            socket.bind(&at.into())?;
        }
        if let Some(mark) = self.mark {
            socket.set_mark(mark)?;
        }
        let timeout = Duration::from_millis(self.timeout);
        let to = SockAddr::from(to);
        if self.fastopen {
            let hello = format!("{}\n", self.say);
            socket.send_to_with_flags(hello.as_bytes(), &to, libc::MSG_FASTOPEN)?;
        } else if self.nonblocking {
            // `connect_timeout` connects without blocking and polls, as event-driven applications do.
            socket.connect_timeout(&to, timeout)?;
        } else {
            socket.set_write_timeout(Some(timeout))?;
            socket.connect(&to)?;
        }
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(timeout))?;
        Ok(stream)
    }

    fn converse(&self, mut stream: TcpStream) -> (Vec<u8>, String) {
        let (say, marker, bytes) = (self.say.clone(), self.marker.clone(), self.bytes);
        let hello = (!self.fastopen).then(|| format!("{say}\n"));
        let Ok(mut out) = stream.try_clone() else { return (Vec::new(), "unusable".to_owned()) };
        let writer = thread::spawn(move || -> io::Result<()> {
            out.write_all(hello.unwrap_or_default().as_bytes())?;
            out.write_all(marker.as_bytes())?;
            send(&out, bytes)?;
            out.shutdown(Shutdown::Write)
        });
        let mut received = Vec::new();
        let end = match stream.read_to_end(&mut received) {
            Ok(_) => "eof".to_owned(),
            Err(error) => format!("{:?}", error.kind()),
        };
        // An error that the writer met first is no longer there for the reader, who then sees an end.
        let end = match writer.join() {
            Ok(Err(error)) if end == "eof" => format!("{:?}", error.kind()),
            _ => end,
        };
        (received, end)
    }
}

fn probe_all(to: &[SocketAddr], threads: usize, seconds: f64) -> anyhow::Result<()> {
    let duration = Duration::try_from_secs_f64(seconds).context("--seconds")?;
    probe::run(to, threads, duration, |probed| drop(show(&probed)));
    Ok(())
}

fn hold(to: SocketAddr, count: usize) -> anyhow::Result<()> {
    let mut held = Vec::new();
    for number in 0..count {
        let mut stream = TcpStream::connect(to).with_context(|| format!("connection {number}"))?;
        stream.write_all(b"ECHO\n")?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut greeting = String::new();
        reader.read_line(&mut greeting)?;
        if greeting.is_empty() {
            bail!("connection {number} was closed at once");
        }
        held.push(thread::spawn(move || {
            let mut rest = Vec::new();
            let end = match reader.read_to_end(&mut rest) {
                Ok(_) => "eof".to_owned(),
                Err(error) => format!("{:?}", error.kind()),
            };
            println!("ended {number} {end}");
            drop(stream);
        }));
    }
    println!("holding {count}");
    for connection in held {
        // A thread that panicked has said so already.
        let _ = connection.join();
    }
    Ok(())
}

fn canonical(at: SocketAddr) -> SocketAddr {
    SocketAddr::new(at.ip().to_canonical(), at.port())
}

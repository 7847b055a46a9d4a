//! The load of a case: its command line, its script, and what its output means.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::{
    contestant::Contestant,
    machine::{self, pinned},
    subject::Load,
    table::{GRPC_PORT, HTTP_PORT, REMOVED, RouteTable, TCP_PORT, Target},
};
use crate::bench::{
    figures::{Metric, Sample},
    load::TOLERABLE_ERRORS,
    output::{self, Bulk, Requests},
};

/// A load that is ready to run against anybody.
#[derive(Debug)]
pub(super) struct Generator {
    load: Load,
    host: String,
    path: String,
    dir: PathBuf,
}

/// Whom to ask and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    pub(super) contestant: Contestant,
    /// The processor to ask from.
    pub(super) core: usize,
    pub(super) seconds: u64,
    /// Requests a second; only [`Load::Paced`] looks at it.
    pub(super) rate: f64,
}

/// What a load has seen.
#[derive(Debug, Clone, Copy)]
pub(super) enum Seen {
    Requests(Requests),
    Bulk(Bulk),
}

impl Generator {
    /// Writes what the load needs into a directory.
    pub(super) fn new(load: Load, table: &RouteTable, dir: PathBuf) -> Result<Self> {
        let targets = table.targets();
        let first = targets.first().context("a table without routes")?;
        let (host, path) = (first.host.to_owned(), first.path.clone());
        fs::create_dir_all(&dir)?;
        fs::write(dir.join(SCRIPT), script(&targets))?;
        fs::write(dir.join(MESSAGE), MESSAGE_BYTES)?;
        Ok(Self { load, host, path, dir })
    }

    /// Another load with the same request.
    pub(super) fn with(&self, load: Load) -> Self {
        Self { load, host: self.host.clone(), path: self.path.clone(), dir: self.dir.clone() }
    }

    /// Asks for some seconds.
    pub(super) fn run(&self, turn: Turn) -> Result<Seen> {
        let words = self.words(turn);
        let (program, args) = words.split_first().context("no load without a program")?;
        let program = if program == "netprobe" {
            std::env::current_exe().context("where is this program?")?.with_file_name(program)
        } else {
            machine::find(program).with_context(|| format!("{program} is not installed"))?
        };
        // A load that hangs is an outcome, not a reason to hang as well.
        let patience = (turn.seconds + 20).to_string();
        let mut command = pinned(turn.core, Path::new("timeout"));
        let output = command.args(["--kill-after=5", &patience]).arg(program).args(args).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let said = || format!("{}\n{text}{}", words.join(" "), String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            bail!("{}: {}", output.status, said());
        }
        let seen = match self.load {
            Load::Same | Load::InTurn => output::wrk(&text),
            Load::Paced => output::client(&text),
            Load::H2 | Load::Grpc => output::h2load(&text),
            Load::Bulk => {
                return output::iperf3(&text)
                    .map(Seen::Bulk)
                    .map_err(|reason| anyhow!("{reason}: {}", said()));
            }
        };
        let seen = seen.map_err(|reason| anyhow!("{reason}: {}", said()))?;
        ensure!(
            seen.errors <= seen.count * TOLERABLE_ERRORS,
            "{} of {} failed: {}",
            seen.errors,
            seen.count,
            said()
        );
        Ok(Seen::Requests(seen))
    }

    fn words(&self, turn: Turn) -> Vec<String> {
        let at = format!("127.0.0.1:{}", turn.contestant.port_for(self.load));
        let address = match turn.contestant {
            Contestant::Direct if self.load == Load::Bulk => format!("127.0.1.1:{TCP_PORT}"),
            // Where services are is where the origin listens.
            Contestant::Direct if !self.load.is_h2() => format!("127.0.1.1:{HTTP_PORT}"),
            Contestant::Direct if self.load == Load::Grpc => format!("127.0.1.1:{GRPC_PORT}"),
            _ => at,
        };
        if self.load == Load::Bulk {
            return bulk(&address, turn.seconds);
        }
        let url = format!("http://{address}{}", self.path);
        let (seconds, rate) = (turn.seconds.to_string(), turn.rate.to_string());
        let (script, message) = (self.file(SCRIPT), self.file(MESSAGE));
        let (host, authority) = (format!("Host: {}", self.host), format!(":authority: {}", self.host));
        let mut words: Vec<&str> = match self.load {
            Load::Same | Load::InTurn => WRK.to_vec(),
            Load::Paced => vec!["netprobe", "pace", "--connections", "32", "--rate", &rate],
            Load::H2 | Load::Grpc | Load::Bulk => H2LOAD.to_vec(),
        };
        words.extend(match self.load {
            Load::Same => vec!["--duration", &seconds, "--header", &host, &url],
            Load::InTurn => vec!["--duration", &seconds, "--script", &script, &url],
            Load::Paced => vec!["--seconds", &seconds, "--host", &self.host, "--path", &self.path, &address],
            Load::H2 => vec!["--duration", &seconds, "--header", &authority, &url],
            Load::Grpc => {
                vec!["--duration", &seconds, "--header", &authority, "--header", GRPC, "--header", TRAILERS]
            }
            Load::Bulk => Vec::new(),
        });
        if self.load == Load::Grpc {
            words.extend(["--data", &message, &url]);
        }
        words.into_iter().map(str::to_owned).collect()
    }

    /// The request of this load, as a question to `curl` whose answer shows all headers and trailers.
    pub(super) fn question(&self, contestant: Contestant, path: &str) -> Vec<String> {
        let port = contestant.port_for(self.load);
        let mut words = vec!["--silent", "--show-error", "--max-time", "5", "--output", "/dev/null"];
        words.extend(["--dump-header", "-", "--header"]);
        let (host, internal) = (format!("Host: {}", self.host), format!("{REMOVED}: secret"));
        words.extend([host.as_str(), "--header", internal.as_str()]);
        let data = format!("@{}", self.file(MESSAGE));
        if self.load.is_h2() {
            words.push("--http2-prior-knowledge");
        }
        if self.load == Load::Grpc {
            words.extend(["--header", GRPC, "--header", TRAILERS, "--data-binary", data.as_str()]);
        }
        let url = format!("http://127.0.0.1:{port}{path}");
        words.into_iter().map(str::to_owned).chain([url]).collect()
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    fn file(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }
}

/// What a turn has shown, with the processor time that the proxy has used in it.
pub(super) fn sample(seen: &Seen, used: Option<f64>) -> Sample {
    let seen = match seen {
        Seen::Requests(seen) => seen,
        Seen::Bulk(seen) => {
            let mut sample = vec![(Metric::Gbps, seen.bits_per_second / 1e9)];
            sample.extend(used.map(|used| (Metric::CpuPerGb, used / (seen.bytes / 1e9))));
            return sample;
        }
    };
    let mut sample = vec![(Metric::Rps, seen.per_second)];
    // h2load says nothing of percentiles.
    if seen.p50_us > 0.0 {
        sample.extend([(Metric::P50, seen.p50_us), (Metric::P99, seen.p99_us)]);
    }
    sample.push((Metric::Errors, seen.errors));
    sample.extend(used.map(|used| (Metric::CpuPer1k, used / (seen.count / 1e3))));
    sample
}

fn bulk(address: &str, seconds: u64) -> Vec<String> {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    let words = format!("iperf3 --client {host} --port {port} --time {seconds} --json");
    words.split(' ').map(str::to_owned).collect()
}

/// A script of wrk that goes round all targets, each request ready to be sent.
fn script(targets: &[Target<'_>]) -> String {
    let mut text = "local requests = {\n".to_owned();
    for Target { host, path, .. } in targets {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "\"GET {path} HTTP/1.1\\r\\nHost: {host}\\r\\n{HEADERS}\\r\\n\",");
    }
    text + "}\nlocal at = 0\nfunction request()\n  at = at % #requests + 1\n  return requests[at]\nend\n"
}

const WRK: [&str; 8] = ["wrk", "--threads", "1", "--connections", "32", "--timeout", "5s", "--latency"];

/// 128 requests at a time.
const H2LOAD: [&str; 7] = ["h2load", "--clients", "8", "--max-concurrent-streams", "16", "--threads", "1"];

const GRPC: &str = "content-type: application/grpc";

const TRAILERS: &str = "te: trailers";

const SCRIPT: &str = "targets.lua";

const MESSAGE: &str = "message";

/// A message of gRPC: not compressed, 32 bytes.
const MESSAGE_BYTES: &[u8] = b"\0\0\0\0\x20\x0a\x1eone message of an average size";

/// About what a browser sends, as the text of a Lua string.
const HEADERS: &str = concat!(
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\\r\\n",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\\r\\n",
    "Accept-Language: en-US,en;q=0.5\\r\\nAccept-Encoding: gzip, deflate, br\\r\\n",
    "Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\\r\\nx-internal: secret\\r\\n"
);

#[cfg(test)]
mod tests {
    use super::*;

    fn generator(load: Load) -> Generator {
        Generator { load, host: "a.example".to_owned(), path: "/r0/item".to_owned(), dir: "/run/b".into() }
    }

    fn line(load: Load, contestant: Contestant) -> String {
        generator(load).words(Turn { contestant, core: 1, seconds: 3, rate: 123.5 }).join(" ")
    }

    #[test]
    fn messages_are_framed() {
        let (head, message) = MESSAGE_BYTES.split_at(5);
        assert_eq!(head, [0, 0, 0, 0, u8::try_from(message.len()).unwrap()]);
        assert_eq!(usize::from(message[1]), message.len() - 2, "the length of the only field");
    }

    #[test]
    fn everybody_is_asked_the_same() {
        let of = |contestant| line(Load::Same, contestant).replace(&contestant.port().to_string(), "PORT");
        assert_eq!(of(Contestant::Envoy), of(Contestant::Mesh));
        assert!(of(Contestant::Mesh).ends_with("--header Host: a.example http://127.0.0.1:PORT/r0/item"));
        assert!(line(Load::Same, Contestant::Direct).ends_with("http://127.0.1.1:21080/r0/item"));
        assert!(line(Load::Grpc, Contestant::Direct).ends_with("http://127.0.1.1:21081/r0/item"));
        assert!(line(Load::Paced, Contestant::Mesh).contains("--rate 123.5 "));
        // Where nginx and the origin serve HTTP/2.
        for contestant in [Contestant::Nginx, Contestant::Direct] {
            let port = format!("127.0.0.1:{}/", contestant.port() + 1);
            assert!(line(Load::H2, contestant).contains(&port));
        }
    }

    #[test]
    fn scripts_have_whole_requests() {
        let table = RouteTable::sized(2, 1);
        let text = script(&table.targets());
        assert_eq!(text.matches("x-internal: secret\\r\\n\\r\\n\",\n").count(), 2, "{text}");
        assert!(
            text.contains("\"GET /r0/item HTTP/1.1\\r\\nHost: host-1.example\\r\\nUser-Agent: "),
            "{text}"
        );
    }
}

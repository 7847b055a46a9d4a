//! `mesh-node ready`: asks the node process of its own pod, and no other's, whether it is ready.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::Context;

/// Which pod this process is of, where it was told.
pub fn instance() -> Option<String> {
    std::env::var(INSTANCE).ok().filter(|name| !name.is_empty())
}

/// Succeeds if the process of this pod is ready.
///
/// # Errors
/// If nobody answers, or somebody else does, or it is not ready; says which.
pub fn run() -> anyhow::Result<()> {
    ask(SocketAddr::from((Ipv4Addr::LOCALHOST, READY_PORT)), instance().as_deref())
}

fn ask(at: SocketAddr, instance: Option<&str>) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect_timeout(&at, PATIENCE).with_context(|| format!("asking {at}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let query = instance.map(|instance| format!("?of={instance}")).unwrap_or_default();
    write!(stream, "GET /healthz/ready{query} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).with_context(|| format!("hearing {at}"))?;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split(' ').nth(1);
    anyhow::ensure!(status == Some("200"), "{}", answer.rsplit("\r\n\r\n").next().unwrap_or_default().trim());
    Ok(())
}

/// The variable that says it.
const INSTANCE: &str = "MESH_INSTANCE";
const READY_PORT: u16 = 15021;
const PATIENCE: Duration = Duration::from_secs(3);
const MAX_ANSWER: u64 = 4096;

#[cfg(test)]
mod tests {
    use std::{io::BufRead, net::TcpListener, thread};

    use super::*;

    /// Answers one question, and returns its first line.
    fn asked(answer: &'static str, instance: Option<&str>) -> (anyhow::Result<()>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let mut stream = std::io::BufReader::new(listener.accept().unwrap().0);
            let mut lines = Vec::new();
            while lines.last().is_none_or(|line: &String| line != "\r\n") {
                lines.push(String::new());
                stream.read_line(lines.last_mut().unwrap()).unwrap();
            }
            stream.get_mut().write_all(answer.as_bytes()).unwrap();
            lines.remove(0)
        });
        (ask(at, instance), server.join().unwrap())
    }

    #[test]
    fn only_who_was_asked_for_counts() {
        let (outcome, line) = asked("HTTP/1.1 200 OK\r\n\r\nready", Some("a-1"));
        assert!(outcome.is_ok(), "{outcome:?}");
        assert_eq!(line, "GET /healthz/ready?of=a-1 HTTP/1.1\r\n");
        let (outcome, line) = asked("HTTP/1.1 503 No\r\n\r\nnot ready: why", None);
        assert_eq!(outcome.unwrap_err().to_string(), "not ready: why");
        assert_eq!(line, "GET /healthz/ready HTTP/1.1\r\n");
        assert!(asked("", None).0.is_err(), "nothing was said");
    }
}

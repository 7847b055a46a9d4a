//! The CNI plugin: a container runtime starts it for each pod; it asks the node's agent and waits for the answer.
//!
//! A program of its own and not a role of `mesh-node`: it is copied to the host, started tens of times a second, and may
//! have neither a runtime nor TLS nor kernel programs to load. What it decides is [`mesh_core::cni`]'s.

use std::{
    env,
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use mesh_core::cni::{Answer, Call, CniError, MAX_BYTES, Question};

fn main() -> ExitCode {
    let (text, code) = match run() {
        Ok(output) => (output.unwrap_or_default(), ExitCode::SUCCESS),
        Err((error, version)) => (error.render(&version), ExitCode::FAILURE),
    };
    // A runtime that has gone away does not read, and needs no answer.
    let _ = io::stdout().write_all(text.as_bytes());
    code
}

fn run() -> Result<Option<String>, (CniError, String)> {
    let mut input = Vec::new();
    let bounded = io::stdin().take(MAX_BYTES as u64).read_to_end(&mut input);
    let unread =
        |error: io::Error| CniError::new(CniError::IO, "standard input cannot be read", error.to_string());
    bounded.map_err(|error| (unread(error), USUAL_VERSION.to_owned()))?;
    let variable = |name: &str| env::var(name).ok();
    let call = Call::parse(variable, &input).map_err(|error| (error, USUAL_VERSION.to_owned()))?;
    let Some(question) = &call.question else {
        return Ok(call.output.as_ref().map(ToString::to_string));
    };
    call.conclude(ask(&call.socket, question)).map_err(|error| (error, call.version.clone()))
}

/// Asks until there is an answer or the patience is over: an agent that is being replaced comes back.
fn ask(socket: &str, question: &Question) -> Result<Answer, String> {
    let until = Instant::now() + Duration::from_millis(question.patience_ms);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let question =
            Question { patience_ms: u64::try_from(left.as_millis()).unwrap_or(0), ..question.clone() };
        let failed = match exchange(socket, &question, left.max(RETRY)) {
            Ok(answer) => return Ok(answer),
            Err(error) => error.to_string(),
        };
        if until.saturating_duration_since(Instant::now()) < RETRY {
            return Err(failed);
        }
        thread::sleep(RETRY);
    }
}

fn exchange(socket: &str, question: &Question, patience: Duration) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    let mut line = serde_json::to_vec(question)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream.take(MAX_BYTES as u64)).read_line(&mut answer)?;
    if answer.is_empty() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ended before it answered"));
    }
    Ok(serde_json::from_str(&answer)?)
}

/// Of an error about what has no version.
const USUAL_VERSION: &str = "1.0.0";
const RETRY: Duration = Duration::from_millis(100);

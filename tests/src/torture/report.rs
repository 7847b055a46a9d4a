//! What the two ends of a flow say of it, and whether that fits together.

use serde::{Deserialize, Serialize};

use super::{Case, Digest, Fault, Got, Path, Seen, Side, To};

/// How a flow ended for one of its ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// The other end said that nothing more comes.
    Fin,
    /// It was broken.
    Reset,
    /// It never came about.
    Refused,
    /// This end went first.
    Left,
    /// Nothing moved for too long.
    Stuck,
    /// Something else.
    Failed(String),
}

/// What one end says of a flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Name of the case.
    pub case: String,
    /// Number of the flow.
    pub flow: u32,
    /// Which end.
    pub side: Side,
    /// What the kernel has taken.
    pub sent: Digest,
    /// What has arrived.
    pub received: Digest,
    /// The first of it that was wrong.
    pub fault: Option<Fault>,
    /// How it ended.
    pub end: End,
    /// Whether urgent data has arrived.
    pub urgent: bool,
    /// Of the client: until the connection was made.
    pub connected_ms: u64,
}

/// Whether both ends of a flow have seen what the case says for this path; everything that they have not, otherwise.
/// Of a flow that should never have come about there must be no server, and a crowded one may turn some away.
pub fn judge(case: &Case, path: Path, client: &Report, server: Option<&Report>) -> Result<(), String> {
    let ends = case.on(path);
    let mut wrong = Vec::new();
    let none = Digest::default();
    let is_pair = |other: &Report| (&other.case, other.flow) == (&client.case, client.flow);
    match server {
        Some(server) if !is_pair(server) => wrong.push(format!("the server is of flow {}", server.flow)),
        Some(server) => {
            end(server, &ends.server, client.sent, &mut wrong);
            end(client, &ends.client, server.sent, &mut wrong);
        }
        None if case.to == To::Nobody => end(client, &ends.client, none, &mut wrong),
        // Linux forgets some of those for whom there is no room, after it has told them that they are connected.
        None if case.to == To::Crowded && client.end == End::Reset && client.received.bytes == 0 => {}
        None if ends.server.got == Got::Perhaps => {}
        None => wrong.push(format!("the server has not seen it, and the client ended by {:?}", client.end)),
    }
    if wrong.is_empty() {
        return Ok(());
    }
    Err(format!("{} (flow {}, {path}): {}", case.name, client.flow, wrong.join("; ")))
}

/// What is wrong at one end; `sent` is what the other has sent.
fn end(report: &Report, seen: &Seen, sent: Digest, wrong: &mut Vec<String>) {
    let Report { side, received, .. } = report;
    if let Some(fault) = &report.fault {
        wrong.push(format!("{side}: {}", fault.explain(sent.bytes, received.bytes)));
    }
    let whole = *received == sent;
    let (got, of) = (received.bytes, sent.bytes);
    match seen.got {
        Got::All if got != of => wrong.push(format!("{side} has received {got} of {of} bytes")),
        Got::All if !whole => wrong.push(format!("{side} has received {got} bytes with another hash")),
        // What is sent at the very end of a connection that breaks may arrive and yet not be counted as sent.
        Got::Beginning | Got::Perhaps if got > of + UNCOUNTED => {
            wrong.push(format!("{side} has received {got} bytes where {of} were sent"));
        }
        Got::All | Got::Beginning | Got::Perhaps => {}
    }
    if report.end != seen.end {
        wrong.push(format!("{side}: ended by {:?}, not by {:?}", report.end, seen.end));
    }
    if report.urgent != seen.urgent {
        wrong.push(format!("{side}: urgent data: {}, not {}", report.urgent, seen.urgent));
    }
}

/// One write.
const UNCOUNTED: u64 = 1 << 16;

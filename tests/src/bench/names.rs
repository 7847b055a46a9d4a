//! A client that asks for one name of DNS again and again, with some queries under way at a time, from one socket: what
//! answers it has one thread to do so.

use std::{
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};

use super::client::{Report, Tally, report};

/// What is to be asked.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The resolver.
    pub server: SocketAddr,
    /// The name, whose addresses of IPv4 are asked for.
    pub name: String,
    /// Queries under way at a time.
    pub window: u16,
    /// For how long.
    pub duration: Duration,
}

/// Asks until the time is over. An answer without records has failed, and so has one that does not come.
///
/// # Errors
/// If there is no socket, or nothing to ask.
pub fn run(plan: &Plan) -> Result<Report> {
    ensure!(plan.window > 0, "nothing is to be under way");
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(&plan.name).context("the name")?, RecordType::A));
    message.metadata.recursion_desired = true;
    let any = if plan.server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.connect(plan.server)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut asker = Asker { socket, packet: message.to_vec()?, sent: Vec::new(), tally: Tally::default() };
    let start = Instant::now();
    asker.sent.resize(plan.window.into(), start);
    for slot in 0..plan.window {
        asker.ask(slot);
    }
    while start.elapsed() < plan.duration {
        asker.hear();
    }
    Ok(report(vec![asker.tally], start.elapsed()))
}

struct Asker {
    socket: UdpSocket,
    /// A query, whose id is the place of its time in `sent`.
    packet: Vec<u8>,
    sent: Vec<Instant>,
    tally: Tally,
}

impl Asker {
    fn ask(&mut self, slot: u16) {
        if let (Some(id), Some(sent)) = (self.packet.first_chunk_mut(), self.sent.get_mut(usize::from(slot)))
        {
            *id = slot.to_be_bytes();
            *sent = Instant::now();
        }
        // What is not sent is not answered, which counts.
        let _ = self.socket.send(&self.packet);
    }

    fn hear(&mut self) {
        let mut answer = [0; 512];
        match self.socket.recv(&mut answer) {
            Ok(_) => {
                let [high, low, _, code, _, _, count @ ..] = answer;
                let (slot, code) = (u16::from_be_bytes([high, low]), code & 0x0f);
                let Some(sent) = self.sent.get(usize::from(slot)) else { return };
                if code == 0 && count.starts_with(&[0, 1]) {
                    self.tally.times.push(sent.elapsed());
                } else {
                    self.tally.fail(&format!("an answer with code {code} and without a record"));
                }
                self.ask(slot);
            }
            Err(error) => {
                for slot in 0..u16::try_from(self.sent.len()).unwrap_or(u16::MAX) {
                    self.tally.fail(&error.to_string());
                    self.ask(slot);
                }
            }
        }
    }
}

/// What takes longer has failed, and all that is under way with it.
const PATIENCE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers all but every `lost`th query, with one record or none.
    fn server(lost: usize, records: u8) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut packet = [0; 512];
            for number in 1.. {
                let (length, client) = socket.recv_from(&mut packet).unwrap();
                packet[7] = records;
                if number % lost != 0 {
                    socket.send_to(&packet[..length], client).unwrap();
                }
            }
        });
        address
    }

    fn asked(server: SocketAddr) -> Report {
        let duration = Duration::from_millis(700);
        run(&Plan { server, name: "web.shop.svc.cluster.local".to_owned(), window: 4, duration }).unwrap()
    }

    #[test]
    fn answers_are_counted_and_what_does_not_come_as_well() {
        let report = asked(server(usize::MAX, 1));
        assert!(report.requests > 100 && report.errors == 0, "{report:?}");
        let report = asked(server(10, 1));
        assert!(report.requests > 20 && report.errors >= 4, "{report:?}");
        let report = asked(server(usize::MAX, 0));
        assert!(report.requests == 0 && report.errors > 100, "{report:?}");
    }
}

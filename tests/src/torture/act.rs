//! One end of a flow at work.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};

use super::payload::{Checker, Stream};
use super::ways::{self, Outgoing, PATIENCE, is_timeout};
use super::{Case, End, In, Out, Report, Side, Step};

/// Plays an end of a case to its last step and closes.
pub(super) fn play(socket: TcpStream, case: &Case, (flow, side): (u32, Side)) -> Report {
    let mut actor = Actor {
        outgoing: Outgoing::new(Stream { flow, direction: side.sends() }),
        checker: Checker::new(Stream { flow, direction: side.other().sends() }),
        end: End::Left,
        urgent: false,
        socket,
    };
    let steps = case.steps(side).iter().filter(|step| **step != Step::Inherit);
    if let Err(error) = actor.begin().and_then(|()| steps.copied().try_for_each(|step| actor.step(step))) {
        actor.end = end_of(&error);
    }
    let Actor { outgoing, checker, end, urgent, socket } = actor;
    // What it waits for is part of the play.
    drop(socket);
    Report {
        case: case.name.clone(),
        flow,
        side,
        sent: outgoing.digest(),
        received: checker.digest(),
        fault: checker.fault(),
        end,
        urgent,
        connected_ms: 0,
    }
}

/// What an error says of a flow.
pub(super) fn end_of(error: &io::Error) -> End {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted => {
            End::Reset
        }
        io::ErrorKind::ConnectionRefused => End::Refused,
        _ if is_timeout(error) => End::Stuck,
        _ => End::Failed(error.to_string()),
    }
}

struct Actor {
    socket: TcpStream,
    outgoing: Outgoing,
    checker: Checker,
    end: End,
    urgent: bool,
}

impl Actor {
    fn begin(&self) -> io::Result<()> {
        self.socket.set_read_timeout(Some(PATIENCE))?;
        self.socket.set_write_timeout(Some(PATIENCE))
    }

    fn step(&mut self, step: Step) -> io::Result<()> {
        let socket = SockRef::from(&self.socket);
        match step {
            Step::Send(count, out) => self.outgoing.send(&self.socket, count, out)?,
            Step::Fill(quiet) => self.outgoing.fill(&self.socket, Duration::from_millis(quiet))?,
            Step::Receive(count, how) => ways::receive(&self.socket, &mut self.checker, Some(count), how)?,
            Step::Drain(how) => {
                ways::receive(&self.socket, &mut self.checker, None, how)?;
                self.end = End::Fin;
            }
            Step::Both(count, out, how) => self.both(count, out, how)?,
            Step::Fin => self.socket.shutdown(Shutdown::Write)?,
            Step::Pause(time) => thread::sleep(Duration::from_millis(time)),
            Step::Linger(time) => socket.set_linger(Some(Duration::from_secs(time)))?,
            Step::Keepalive => {
                let second = Duration::from_secs(1);
                let often = TcpKeepalive::new().with_time(second).with_interval(second).with_retries(2);
                socket.set_tcp_keepalive(&often)?;
            }
            Step::Urge => {
                socket.send_out_of_band(b"!")?;
            }
            Step::Heed => self.urgent = heed(&socket)?,
            Step::Inherit => {}
            Step::Reset => socket.set_linger(Some(Duration::ZERO))?,
        }
        Ok(())
    }

    /// Sends from a thread of its own.
    fn both(&mut self, count: u64, out: Out, how: In) -> io::Result<()> {
        let Self { socket, outgoing, checker, .. } = self;
        let socket: &TcpStream = socket;
        let (sent, received) = thread::scope(|scope| {
            let sender = scope.spawn(move || {
                outgoing.send(socket, count, out)?;
                socket.shutdown(Shutdown::Write)
            });
            let received = ways::receive(socket, checker, None, how);
            (sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), received)
        });
        sent.and(received)?;
        self.end = End::Fin;
        Ok(())
    }
}

/// Whether an urgent byte comes.
fn heed(socket: &SockRef<'_>) -> io::Result<bool> {
    let begun = Instant::now();
    while begun.elapsed() < HEEDED {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        match socket.recv_out_of_band(&mut byte) {
            Ok(1) => return Ok(true),
            Ok(_) => return Ok(false),
            // There is none, or it is announced and has not come yet.
            Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::WouldBlock) => {
                thread::sleep(Duration::from_millis(20));
            }
            Err(e) => return Err(e),
        }
    }
    Ok(false)
}

/// How long urgent data is waited for.
const HEEDED: Duration = Duration::from_secs(1);

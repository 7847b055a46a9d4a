use super::ends::Ends;
use super::*;
use crate::report::request::Clock;
use crate::report::tests::{Sink, info};
use crate::report::{ConnInfo, Direction, Failure, Flag, Party, PseudoService, Stage};
use std::sync::{Condvar, Mutex};
use std::time::SystemTime;

fn line(info: &ConnInfo, failure: Option<&Failure>, format: AccessLogFormat) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_micros(1_735_689_599_000_042);
    let line = Line { time, info, sent: 84, received: 358, duration: Duration::from_micros(15_900), failure };
    let mut out = Vec::new();
    line.write(&mut out, (&mut Clock::default(), &mut Ends::default()), format);
    String::from_utf8(out).unwrap()
}

fn write(log: &AccessLog, line: &str) {
    log.hand_over(|lane| lane.line.extend_from_slice(line.as_bytes()));
}

#[test]
fn a_tunnelled_connection_as_text() {
    assert_eq!(
        line(&info(Direction::Outbound), None, AccessLogFormat::Text),
        "2024-12-31T23:59:59.000042Z\tinfo\taccess\tconnection complete\t\
         src.addr=10.0.0.1:40000 src.workload=\"client-1\" src.namespace=\"default\" \
         src.identity=\"spiffe://cluster.local/ns/default/sa/client\" \
         dst.addr=10.0.1.1:15008 dst.hbone_addr=10.0.1.1:8080 dst.service=\"server.default.svc.cluster.local\" \
         dst.workload=\"server-1\" dst.namespace=\"default\" \
         dst.identity=\"spiffe://cluster.local/ns/default/sa/server\" \
         direction=\"outbound\" bytes_sent=84 bytes_recv=358 duration=\"15ms\"\n"
    );
}

#[test]
fn a_tunnelled_connection_as_json() {
    assert_eq!(
        line(&info(Direction::Inbound), None, AccessLogFormat::Json),
        "{\"time\":\"2024-12-31T23:59:59.000042Z\",\"level\":\"info\",\"scope\":\"access\",\
         \"message\":\"connection complete\",\
         \"src.addr\":\"10.0.0.1:40000\",\"src.workload\":\"client-1\",\"src.namespace\":\"default\",\
         \"src.identity\":\"spiffe://cluster.local/ns/default/sa/client\",\
         \"dst.addr\":\"10.0.1.1:15008\",\"dst.hbone_addr\":\"10.0.1.1:8080\",\
         \"dst.service\":\"server.default.svc.cluster.local\",\
         \"dst.workload\":\"server-1\",\"dst.namespace\":\"default\",\
         \"dst.identity\":\"spiffe://cluster.local/ns/default/sa/server\",\
         \"direction\":\"inbound\",\"bytes_sent\":84,\"bytes_recv\":358,\"duration\":\"15ms\"}\n"
    );
}

fn failed_passthrough() -> (ConnInfo, Failure) {
    let info = ConnInfo {
        direction: Direction::Outbound,
        source: Party::unknown("[fd00::1]:5".parse().unwrap()),
        destination: Party::unknown("1.1.1.1:443".parse().unwrap()),
        hbone_addr: None,
        service: None,
        pseudo_service: Some(PseudoService::Passthrough),
        encrypted: false,
        datagrams: false,
    };
    let reason = "peer says \"no\"\nand\u{202e} then\u{7} c:\\d ü".to_owned();
    (info, Failure { stage: Stage::Dial, flag: Flag::Connect, reason })
}

#[test]
fn a_failure_keeps_to_one_line_whatever_the_peer_says() {
    let (info, failure) = failed_passthrough();
    assert_eq!(
        line(&info, Some(&failure), AccessLogFormat::Text),
        "2024-12-31T23:59:59.000042Z\terror\taccess\tconnection complete\t\
         src.addr=[fd00::1]:5 dst.addr=1.1.1.1:443 dst.service=\"PassthroughCluster\" direction=\"outbound\" \
         bytes_sent=84 bytes_recv=358 duration=\"15ms\" stage=\"dial\" response_flags=\"CONNECT\" \
         error=\"peer says \\\"no\\\"\\nand\\u202e then\\u0007 c:\\\\d ü\"\n"
    );
}

#[test]
fn json_lines_are_json() {
    let (info, failure) = failed_passthrough();
    let value: serde_json::Value =
        serde_json::from_str(&line(&info, Some(&failure), AccessLogFormat::Json)).unwrap();
    assert_eq!(value["error"], serde_json::Value::from(failure.reason));
    assert_eq!(value["level"], "error");
    assert_eq!(value["bytes_sent"], 84);
}

#[test]
fn long_fields_are_capped() {
    let (info, mut failure) = failed_passthrough();
    for (reason, kept) in [
        ("é".repeat(4_000), 126),
        ("\u{1}".repeat(4_000), 42),
        ("x".repeat(257), 253),
        ("x".repeat(256), 256),
    ] {
        failure.reason.clone_from(&reason);
        let text = line(&info, Some(&failure), AccessLogFormat::Text);
        let error = text.trim_end().split_once("error=\"").unwrap().1.trim_end_matches('"');
        assert!(error.len() <= 256, "{} bytes", error.len());
        let first = error.trim_end_matches("...");
        assert_eq!(first.replace("\\u0001", "\u{1}").chars().count(), kept);
        assert_eq!(error.ends_with("..."), reason.chars().count() > kept);
    }
}

#[test]
fn lines_arrive_in_order_and_formats_have_names() {
    let sink = Sink::default();
    let log = AccessLog::start(AccessLogFormat::Text, Box::new(sink.clone())).unwrap();
    (0..1_000).for_each(|n| write(&log, &format!("{n}\n")));
    log.flush(Duration::from_secs(10));
    assert_eq!(sink.lines(), (0..1_000).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(log.dropped(), 0);
    for format in [AccessLogFormat::Off, AccessLogFormat::Text, AccessLogFormat::Json] {
        assert_eq!(<AccessLogFormat as clap::ValueEnum>::from_str(format.name(), false), Ok(format));
        log.set_format(format);
        assert_eq!(log.format(), Some(format).filter(|format| *format != AccessLogFormat::Off));
    }
}

/// A sink that does not take anything until it is told to.
#[derive(Clone, Default)]
struct Stuck(Arc<(Mutex<bool>, Condvar)>);

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (open, changed) = &*self.0;
        drop(changed.wait_while(open.lock().unwrap(), |open| !*open).unwrap());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_stuck_reader_costs_lines_and_never_time() {
    // Several times what a ring and a batch hold.
    const LINES: u64 = 25_000;
    let sink = Stuck::default();
    let log = AccessLog::start(AccessLogFormat::Text, Box::new(sink.clone())).unwrap();
    let start = std::time::Instant::now();
    let line = format!("{}\n", "x".repeat(99));
    (0..LINES).for_each(|_| write(&log, &line));
    log.flush(Duration::from_millis(50));
    assert!(start.elapsed() < Duration::from_secs(5));
    let dropped = log.dropped();
    assert!((LINES / 2..LINES).contains(&dropped), "{dropped} dropped");
    *sink.0.0.lock().unwrap() = true;
    sink.0.1.notify_all();
    log.flush(Duration::from_secs(10));
    write(&log, "x\n");
    assert_eq!(log.dropped(), dropped, "lines flow again");
}

#[test]
fn lines_that_cannot_be_written_are_counted() {
    struct Broken;
    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let log = AccessLog::start(AccessLogFormat::Text, Box::new(Broken)).unwrap();
    (0..10).for_each(|_| write(&log, "x\n"));
    log.flush(Duration::from_secs(10));
    assert_eq!(log.dropped(), 10);
}

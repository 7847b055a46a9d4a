//! The way of requests' lines to the sink.

use super::tests::World;
use super::*;
use crate::report::AccessLogFormat;
use crate::report::tests::{Sink, info, reporter};
use crate::report::{Direction, ReportOptions};
use std::collections::BTreeSet;
use std::time::{Instant, UNIX_EPOCH};

fn numbered(number: usize) -> String {
    format!("/{number}")
}

/// Waits until the sink has a number of lines, without asking for a flush; says how long it took.
fn wait_for(sink: &Sink, lines: usize) -> Duration {
    let start = Instant::now();
    while sink.lines().len() < lines {
        assert!(start.elapsed() < Duration::from_secs(20), "{} of {lines} lines", sink.lines().len());
        std::thread::sleep(Duration::from_millis(1));
    }
    start.elapsed()
}

#[test]
fn requests_are_logged_as_connections_are_unless_they_have_a_format_of_their_own() {
    let (world, (reporter, sink)) = (World::new(), reporter(AccessLogFormat::Off));
    let facts = world.facts(Perspective::Source);
    reporter.request(&facts);
    reporter.set_access_log(AccessLogFormat::Json);
    reporter.request(&facts);
    reporter.set_access_log(AccessLogFormat::Text);
    reporter.request(&facts);
    reporter.set_request_log(Some(AccessFormat::parse("own %RESPONSE_CODE%").unwrap()));
    reporter.request(&facts);
    reporter.set_access_log(AccessLogFormat::Off);
    reporter.request(&facts);
    reporter.set_request_log(None);
    reporter.request(&facts);
    reporter.flush_access_log(Duration::from_secs(10));
    let lines = sink.lines();
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert!(lines[0].starts_with("{\"start_time\":") && lines[1].starts_with("[2026-11-21T"));
    assert_eq!(lines[2..], ["own 200", "own 200"]);
}

#[test]
fn lines_appear_within_a_second_without_a_flush() {
    let (world, (reporter, sink)) = (World::new(), reporter(AccessLogFormat::Text));
    let facts = world.facts(Perspective::Source);
    // Pauses around those after which the writer looks less often, and then not at all, until it is called.
    for (round, pause) in [0, 10, 26, 60, 520, 600].into_iter().enumerate() {
        std::thread::sleep(Duration::from_millis(pause));
        reporter.request(&facts);
        let took = wait_for(&sink, round + 1);
        assert!(took < Duration::from_secs(1), "{took:?} after {pause} ms");
    }
}

#[test]
fn no_line_is_lost_or_torn_when_many_threads_log_and_then_flush() {
    const THREADS: usize = 4;
    const LINES: usize = 5_000;
    let (world, (reporter, sink)) = (World::new(), reporter(AccessLogFormat::Off));
    reporter.set_request_log(Some(AccessFormat::parse("%REQ(:PATH)% %REQ(:AUTHORITY)%").unwrap()));
    let authority = "x".repeat(60);
    let log = |thread: usize| {
        for number in thread * LINES..(thread + 1) * LINES {
            let facts = world.facts(Perspective::Source);
            reporter.request(&RequestFacts { path: &numbered(number), authority: &authority, ..facts });
        }
    };
    std::thread::scope(|scope| {
        let log = &log;
        (0..THREADS).for_each(|thread| drop(scope.spawn(move || log(thread))));
    });
    reporter.flush_access_log(Duration::from_secs(20));
    assert_eq!(reporter.counted(Event::AccessLogDropped), 0);
    let lines: BTreeSet<String> = sink.lines().into_iter().collect();
    let expected = (0..THREADS * LINES).map(|number| format!("{} {authority}", numbered(number))).collect();
    assert!(lines == expected, "{} lines", lines.len());
}

#[test]
fn the_lines_of_one_thread_stay_in_order_and_connections_lines_stay_whole() {
    let (world, (reporter, sink)) = (World::new(), reporter(AccessLogFormat::Text));
    reporter.set_request_log(Some(AccessFormat::parse("%REQ(:PATH)%").unwrap()));
    for number in 0..2_000 {
        reporter.request(&RequestFacts { path: &numbered(number), ..world.facts(Perspective::Source) });
        if number % 10 == 0 {
            drop(reporter.begin(info(Direction::Outbound)));
        }
    }
    reporter.flush_access_log(Duration::from_secs(10));
    let (requests, connections): (Vec<_>, Vec<_>) =
        sink.lines().into_iter().partition(|line| line.starts_with('/'));
    assert_eq!(requests, (0..2_000).map(numbered).collect::<Vec<_>>());
    assert_eq!(connections.len(), 200);
    assert!(connections.iter().all(|line| line.contains("\taccess\t") && line.ends_with("ms\"")));
}

#[test]
fn lines_of_a_reporter_that_is_gone_are_written_all_the_same() {
    let (world, (reporter, sink)) = (World::new(), reporter(AccessLogFormat::Text));
    for _ in 0..100 {
        reporter.request(&world.facts(Perspective::Source));
    }
    drop(reporter);
    wait_for(&sink, 100);
}

#[test]
fn a_stuck_reader_costs_lines_that_are_counted_and_never_time() {
    struct Stuck(std::sync::mpsc::Receiver<()>);
    impl std::io::Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            // Answers at last when the other end is gone.
            let _ = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let (open, stuck) = std::sync::mpsc::channel();
    let options = ReportOptions { access_log: AccessLogFormat::Json, ..ReportOptions::default() };
    let (world, reporter) = (World::new(), Reporter::new(options, Box::new(Stuck(stuck))).unwrap());
    let start = Instant::now();
    (0..5_000).for_each(|_| reporter.request(&world.facts(Perspective::Source)));
    reporter.flush_access_log(Duration::from_millis(50));
    assert!(start.elapsed() < Duration::from_secs(10));
    let dropped = reporter.counted(Event::AccessLogDropped);
    assert!((1_000..5_000).contains(&dropped), "{dropped} dropped");
    drop(open);
    reporter.flush_access_log(Duration::from_secs(10));
    reporter.request(&world.facts(Perspective::Source));
    assert_eq!(reporter.counted(Event::AccessLogDropped), dropped, "lines flow again");
}

#[test]
#[ignore = "a measurement: cargo test --release -p mesh-node --lib -- --ignored --nocapture cost_of_one_request"]
#[expect(clippy::print_stdout, reason = "a measurement prints")]
fn cost_of_one_request() {
    let world = World::new();
    let measured = |name: &str, threads: u32, reporter: &Arc<Reporter>| {
        let run = || {
            for n in 0..ROUNDS {
                let start = UNIX_EPOCH + Duration::from_micros(1_795_251_600_000_000 + u64::from(n) * 20);
                let facts = world.facts(Perspective::Source);
                reporter.request(&RequestFacts { start, bytes_sent: u64::from(n), ..facts });
                if n % 500 == 0 {
                    // A rest, so that the writer gets its turn as it does while requests travel.
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
        };
        run();
        let used = std::thread::scope(|scope| {
            let runs: Vec<_> = (0..threads).map(|_| scope.spawn(|| processor_time_of(run))).collect();
            runs.into_iter().map(|run| run.join().unwrap()).max()
        });
        let each = used.unwrap_or_default() / ROUNDS;
        let dropped = reporter.counted(Event::AccessLogDropped);
        println!("{name}, {threads} threads: {each:?} a request, {dropped} lines dropped");
    };
    for threads in [1, 2] {
        for format in [AccessLogFormat::Off, AccessLogFormat::Text, AccessLogFormat::Json] {
            let options = ReportOptions { access_log: format, ..ReportOptions::default() };
            measured(format.name(), threads, &Reporter::new(options, Box::new(std::io::sink())).unwrap());
        }
    }
    cost_of_the_line_alone(&world);
    cost_of_a_scrape(&world);
}

#[expect(clippy::print_stdout, reason = "a measurement prints")]
fn cost_of_the_line_alone(world: &World) {
    for format in [AccessLogFormat::Text, AccessLogFormat::Json] {
        let (mut line, mut clock) = (Vec::new(), Clock::default());
        let used = processor_time_of(|| {
            for _ in 0..ROUNDS {
                line.clear();
                AccessFormat::standard(format).write(
                    &mut line,
                    &mut clock,
                    &world.facts(Perspective::Source),
                );
            }
        });
        println!("{} of {} bytes: {:?}", format.name(), line.len(), used / ROUNDS);
    }
}

#[expect(clippy::print_stdout, reason = "a measurement prints")]
fn cost_of_a_scrape(world: &World) {
    let reporter = Reporter::new(ReportOptions::default(), Box::new(std::io::sink())).unwrap();
    for set in 0..1_000 {
        let (code, status) = (200 + set % 100, u32::from(set / 100));
        let facts = world.facts(Perspective::Source);
        reporter.request(&RequestFacts { code, grpc: true, grpc_status: Some(status), ..facts });
    }
    let mut bytes = 0;
    let used = processor_time_of(|| bytes = crate::report::tests::scrape(&reporter).len());
    println!("scrape of 1,000 label sets: {used:?}, {bytes} bytes");
}

/// What this thread needs of its processor, which other loads on the machine do not stretch as they do time.
fn processor_time_of(work: impl FnOnce()) -> Duration {
    let used = || {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        let nanos = text.split(' ').next().and_then(|nanos| nanos.parse().ok());
        Duration::from_nanos(nanos.unwrap_or_default())
    };
    let before = used();
    work();
    used().saturating_sub(before)
}

/// Requests of one measurement.
const ROUNDS: u32 = 300_000;

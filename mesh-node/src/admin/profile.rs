//! `/debug/pprof/profile`: where this process spends its CPU time, in the format of pprof (`profile.proto`), as Go programs
//! offer it at the same path.

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::GzEncoder;
use pprof::{ProfilerGuardBuilder, Report};
use prost::Message as _;

/// Looks for a while, and returns the profile, compressed with gzip.
///
/// # Errors
/// A sentence for people: somebody else is looking, or the system does not let it look.
pub(super) async fn take(time: Duration) -> Result<Vec<u8>, String> {
    if BUSY.swap(true, Ordering::AcqRel) {
        return Err("Another profile is being taken; there can be one at a time.".to_owned());
    }
    let _free = Free;
    let guard = ProfilerGuardBuilder::default()
        .frequency(HERTZ)
        // A sample in these may have come while they hold a lock that walking the stack takes.
        .blocklist(&["libc", "libgcc", "pthread", "vdso"])
        .build()
        .map_err(|error| format!("No profile can be taken: {error}."))?;
    tokio::time::sleep(time).await;
    // Names are looked up in the program's own file, which takes a while.
    let named = tokio::task::spawn_blocking(move || {
        let report = guard.report().build().map_err(|error| format!("The profile is lost: {error}."))?;
        compress(&profile(&report).encode_to_vec()).map_err(|error| format!("The profile is lost: {error}."))
    });
    named.await.unwrap_or_else(|_| Err("The profile is lost: looking up names went wrong.".to_owned()))
}

/// Clears [`BUSY`], also if whoever asked has gone.
struct Free;

impl Drop for Free {
    fn drop(&mut self) {
        BUSY.store(false, Ordering::Release);
    }
}

fn compress(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes)?;
    encoder.finish()
}

fn profile(report: &Report) -> wire::Profile {
    let mut builder = Builder::default();
    for (stack, count) in &report.data {
        let frames = stack.frames.iter().map(|inlined| {
            inlined
                .iter()
                .map(|it| Line { function: it.name(), file: it.filename().into_owned(), number: it.lineno() })
                .collect()
        });
        builder.add(frames.collect(), &stack.thread_name, i64::try_from(*count).unwrap_or(i64::MAX));
    }
    let start = report.timing.start_time.duration_since(UNIX_EPOCH).unwrap_or_default();
    builder.finish(start, report.timing.duration)
}

/// A line of source that a frame is at. Several for one frame are inlined into each other, the innermost first.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Line {
    function: String,
    file: String,
    number: u32,
}

/// Collects samples; everything in the format is a number in a table.
#[derive(Debug)]
struct Builder {
    profile: wire::Profile,
    strings: HashMap<String, i64>,
    functions: HashMap<(i64, i64), u64>,
    locations: HashMap<Vec<Line>, u64>,
}

impl Default for Builder {
    fn default() -> Self {
        let mut builder = Self {
            profile: wire::Profile::default(),
            strings: HashMap::new(),
            functions: HashMap::new(),
            locations: HashMap::new(),
        };
        // The first string is the empty one, as the format wants it.
        builder.string("");
        builder
    }
}

impl Builder {
    /// `frames` begins with where the thread was.
    fn add(&mut self, frames: Vec<Vec<Line>>, thread: &str, count: i64) {
        let location_id = frames.into_iter().map(|frame| self.location(frame)).collect();
        let label = wire::Label { key: self.string("thread"), str: self.string(thread) };
        let value = vec![count, count.saturating_mul(PERIOD_NS)];
        self.profile.sample.push(wire::Sample { location_id, value, label: vec![label] });
    }

    fn finish(mut self, start: Duration, duration: Duration) -> wire::Profile {
        let nanos = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
        let kind = |builder: &mut Self, r#type, unit| wire::ValueType {
            r#type: builder.string(r#type),
            unit: builder.string(unit),
        };
        let sample_type = vec![kind(&mut self, "samples", "count"), kind(&mut self, "cpu", "nanoseconds")];
        let period_type = Some(kind(&mut self, "cpu", "nanoseconds"));
        wire::Profile {
            sample_type,
            period_type,
            period: PERIOD_NS,
            time_nanos: nanos(start),
            duration_nanos: nanos(duration),
            ..self.profile
        }
    }

    fn location(&mut self, frame: Vec<Line>) -> u64 {
        if let Some(id) = self.locations.get(&frame) {
            return *id;
        }
        let line = frame
            .iter()
            .map(|it| wire::Line {
                function_id: self.function(&it.function, &it.file),
                line: it.number.into(),
            })
            .collect();
        let id = self.profile.location.len() as u64 + 1;
        self.profile.location.push(wire::Location { id, line });
        self.locations.insert(frame, id);
        id
    }

    fn function(&mut self, name: &str, file: &str) -> u64 {
        let key = (self.string(name), self.string(file));
        let id = self.profile.function.len() as u64 + 1;
        let known = *self.functions.entry(key).or_insert(id);
        if known == id {
            self.profile.function.push(wire::Function {
                id,
                name: key.0,
                system_name: key.0,
                filename: key.1,
            });
        }
        known
    }

    fn string(&mut self, text: &str) -> i64 {
        if let Some(index) = self.strings.get(text) {
            return *index;
        }
        let index = i64::try_from(self.profile.string_table.len()).unwrap_or(i64::MAX);
        self.profile.string_table.push(text.to_owned());
        self.strings.insert(text.to_owned(), index);
        index
    }
}

/// The messages of `profile.proto` (`perftools.profiles`), as far as they are used here.
mod wire {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Profile {
        #[prost(message, repeated, tag = "1")]
        pub(super) sample_type: Vec<ValueType>,
        #[prost(message, repeated, tag = "2")]
        pub(super) sample: Vec<Sample>,
        #[prost(message, repeated, tag = "4")]
        pub(super) location: Vec<Location>,
        #[prost(message, repeated, tag = "5")]
        pub(super) function: Vec<Function>,
        #[prost(string, repeated, tag = "6")]
        pub(super) string_table: Vec<String>,
        #[prost(int64, tag = "9")]
        pub(super) time_nanos: i64,
        #[prost(int64, tag = "10")]
        pub(super) duration_nanos: i64,
        #[prost(message, optional, tag = "11")]
        pub(super) period_type: Option<ValueType>,
        #[prost(int64, tag = "12")]
        pub(super) period: i64,
    }

    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub(super) struct ValueType {
        #[prost(int64, tag = "1")]
        pub(super) r#type: i64,
        #[prost(int64, tag = "2")]
        pub(super) unit: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Sample {
        #[prost(uint64, repeated, tag = "1")]
        pub(super) location_id: Vec<u64>,
        #[prost(int64, repeated, tag = "2")]
        pub(super) value: Vec<i64>,
        #[prost(message, repeated, tag = "3")]
        pub(super) label: Vec<Label>,
    }

    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub(super) struct Label {
        #[prost(int64, tag = "1")]
        pub(super) key: i64,
        #[prost(int64, tag = "2")]
        pub(super) str: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Location {
        #[prost(uint64, tag = "1")]
        pub(super) id: u64,
        #[prost(message, repeated, tag = "4")]
        pub(super) line: Vec<Line>,
    }

    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub(super) struct Line {
        #[prost(uint64, tag = "1")]
        pub(super) function_id: u64,
        #[prost(int64, tag = "2")]
        pub(super) line: i64,
    }

    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub(super) struct Function {
        #[prost(uint64, tag = "1")]
        pub(super) id: u64,
        #[prost(int64, tag = "2")]
        pub(super) name: i64,
        #[prost(int64, tag = "3")]
        pub(super) system_name: i64,
        #[prost(int64, tag = "4")]
        pub(super) filename: i64,
    }
}

/// Samples of a busy processor in a second: no multiple of what timers usually run at.
const HERTZ: i32 = 99;
const PERIOD_NS: i64 = 1_000_000_000 / HERTZ as i64;
/// The timer and the handler of its signal are the process's.
static BUSY: AtomicBool = AtomicBool::new(false);

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn line(function: &str, number: u32) -> Line {
        Line { function: function.to_owned(), file: "a.rs".to_owned(), number }
    }

    /// Keeps a processor busy until it is told to stop.
    #[inline(never)]
    fn turn_in_circles(stop: &AtomicBool) -> u64 {
        let mut sum = 0_u64;
        while !stop.load(Ordering::Relaxed) {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(7));
        }
        sum
    }

    #[tokio::test]
    async fn a_profile_says_what_the_processor_did() {
        static STOP: AtomicBool = AtomicBool::new(false);
        let busy = std::thread::spawn(|| turn_in_circles(&STOP));
        let (taken, second) = tokio::join!(take(Duration::from_secs(1)), async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            take(Duration::from_secs(1)).await
        });
        STOP.store(true, Ordering::Relaxed);
        busy.join().expect("it stops");
        assert!(second.is_err_and(|why| why.contains("one at a time")));
        let mut bytes = Vec::new();
        let zipped = taken.expect("a profile");
        flate2::read::GzDecoder::new(&*zipped).read_to_end(&mut bytes).expect("gzip");
        let profile = wire::Profile::decode(&*bytes).expect("a profile");
        assert!(profile.string_table.iter().any(|name| name.contains("turn_in_circles")), "{profile:?}");
        let samples: i64 = profile.sample.iter().map(|sample| sample.value[0]).sum();
        assert!((5..=1_000).contains(&samples), "{samples} samples in a second");
        assert!(take(Duration::from_millis(10)).await.is_ok(), "there is room for the next");
    }

    #[test]
    fn every_number_leads_to_what_it_stands_for() {
        let mut builder = Builder::default();
        let leaf = vec![line("inlined", 3), line("leaf", 9)];
        builder.add(vec![leaf.clone(), vec![line("main", 1)]], "data-0", 2);
        builder.add(vec![leaf, vec![line("other", 5)]], "data-1", 1);
        let profile = builder.finish(Duration::from_secs(7), Duration::from_secs(2));
        let text = |index: i64| profile.string_table[usize::try_from(index).expect("small")].as_str();
        assert_eq!(text(0), "");
        let kinds: Vec<_> = profile.sample_type.iter().map(|it| (text(it.r#type), text(it.unit))).collect();
        assert_eq!(kinds, [("samples", "count"), ("cpu", "nanoseconds")]);
        let stacks: Vec<Vec<&str>> = profile
            .sample
            .iter()
            .map(|sample| {
                let location = |id: &u64| profile.location.iter().find(|it| it.id == *id).expect("known");
                let lines = sample.location_id.iter().flat_map(|id| &location(id).line);
                let name = |id| profile.function.iter().find(|it| it.id == id).expect("known").name;
                lines.map(|line| text(name(line.function_id))).collect()
            })
            .collect();
        assert_eq!(stacks, [vec!["inlined", "leaf", "main"], vec!["inlined", "leaf", "other"]]);
        assert_eq!((profile.location.len(), profile.function.len()), (3, 4), "each of them once");
        assert_eq!(profile.sample[0].value, [2, 2 * PERIOD_NS]);
        assert_eq!(text(profile.sample[1].label[0].str), "data-1");
        assert_eq!((profile.time_nanos, profile.duration_nanos), (7_000_000_000, 2_000_000_000));
    }
}

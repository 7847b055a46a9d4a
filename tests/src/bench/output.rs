//! What the load generators print, read.

use serde::Deserialize;

/// One run of `iperf3`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Bulk {
    /// Payload bytes that arrived.
    pub(super) bytes: f64,
    /// Bits a second that arrived.
    pub(super) bits_per_second: f64,
}

/// One run of `wrk` or of our own client.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Requests {
    /// Answered.
    pub(super) count: f64,
    /// Answered in a second.
    pub(super) per_second: f64,
    /// Median of their times, microseconds.
    pub(super) p50_us: f64,
    /// 99th percentile.
    pub(super) p99_us: f64,
    /// Not answered, or answered wrongly.
    pub(super) errors: f64,
}

/// Reads the output of `iperf3 --json`. The error is the one that iperf3 itself reports, if it does.
pub(super) fn iperf3(text: &str) -> Result<Bulk, String> {
    #[derive(Deserialize)]
    struct Output {
        error: Option<String>,
        end: Option<End>,
    }
    #[derive(Deserialize)]
    struct End {
        sum_received: Option<Sum>,
    }
    #[derive(Deserialize)]
    struct Sum {
        bytes: f64,
        bits_per_second: f64,
    }
    let output: Output = serde_json::from_str(text).map_err(|error| format!("no JSON of iperf3: {error}"))?;
    if let Some(error) = output.error {
        return Err(error);
    }
    let sum = output.end.and_then(|end| end.sum_received).ok_or("no `end.sum_received`")?;
    if sum.bytes <= 0.0 {
        return Err("nothing arrived".to_owned());
    }
    Ok(Bulk { bytes: sum.bytes, bits_per_second: sum.bits_per_second })
}

/// Reads the output of `wrk --latency`.
pub(super) fn wrk(text: &str) -> Result<Requests, String> {
    let mut read = Requests { count: 0.0, per_second: 0.0, p50_us: 0.0, p99_us: 0.0, errors: 0.0 };
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["50%", time] => read.p50_us = microseconds(time)?,
            ["99%", time] => read.p99_us = microseconds(time)?,
            [count, "requests", "in", ..] => read.count = plain(count)?,
            ["Requests/sec:", rate] => read.per_second = plain(rate)?,
            ["Socket", "errors:", rest @ ..] => {
                for count in rest.iter().skip(1).step_by(2) {
                    read.errors += plain(count.trim_end_matches(','))?;
                }
            }
            ["Non-2xx", "or", "3xx", "responses:", count] => read.errors += plain(count)?,
            _ => {}
        }
    }
    if read.count <= 0.0 || read.per_second <= 0.0 || read.p50_us <= 0.0 || read.p99_us <= 0.0 {
        return Err("no request was answered".to_owned());
    }
    Ok(read)
}

/// Reads the output of `h2load`, which shows no percentiles: they are 0.
pub(super) fn h2load(text: &str) -> Result<Requests, String> {
    let mut read = Requests { count: 0.0, per_second: 0.0, p50_us: 0.0, p99_us: 0.0, errors: 0.0 };
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["finished", "in", _, rate, "req/s,", ..] => read.per_second = plain(rate)?,
            // `requests: 9 total, 9 started, 9 done, 9 succeeded, 0 failed, ...`; what failed includes errors and 4xx.
            ["requests:", _, _, _, _, _, _, _, _, failed, "failed,", ..] => read.errors += plain(failed)?,
            ["status", "codes:", good, "2xx,", elsewhere, "3xx,", ..] => {
                read.count = plain(good)?;
                read.errors += plain(elsewhere)?;
            }
            _ => {}
        }
    }
    if read.count <= 0.0 || read.per_second <= 0.0 {
        return Err("no request was answered".to_owned());
    }
    Ok(read)
}

/// Reads the report of our own client, [`super::client`].
pub(super) fn client(text: &str) -> Result<Requests, String> {
    let report: super::client::Report =
        serde_json::from_str(text).map_err(|error| format!("no report of the client: {error}"))?;
    if report.requests == 0 || report.seconds <= 0.0 {
        return Err(format!("no connection was answered: {}", report.first_error.unwrap_or_default()));
    }
    let count = count(report.requests);
    Ok(Requests {
        count,
        per_second: count / report.seconds,
        p50_us: report.p50_us,
        p99_us: report.p99_us,
        errors: self::count(report.errors),
    })
}

/// Counts here stay far below 2⁵², so nothing is lost.
#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
pub(super) fn count(count: u64) -> f64 {
    count as f64
}

/// `84.00us`, `1.23ms`, `2.00s`, `1.10m` as wrk writes them.
fn microseconds(time: &str) -> Result<f64, String> {
    // The longer ends first: "us" and "ms" end like "s".
    for (unit, factor) in [("us", 1.0), ("ms", 1e3), ("s", 1e6), ("m", 60e6), ("h", 3600e6)] {
        if let Some(number) = time.strip_suffix(unit) {
            return Ok(plain(number)? * factor);
        }
    }
    Err(format!("{time:?} is no time"))
}

fn plain(number: &str) -> Result<f64, String> {
    number.parse().map_err(|_| format!("{number:?} is no number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRK: &str = "Running 3s test @ http://10.244.1.3:8080/
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   195.23us  102.11us   4.67ms   91.22%
    Req/Sec   145.11k     9.90k  160.02k    80.00%
  Latency Distribution
     50%  174.00us
     75%  210.00us
     90%  290.00us
     99%    1.45ms
  433012 requests in 3.00s, 484.20MB read
Requests/sec: 144210.11
Transfer/sec:    161.25MB
";

    #[test]
    fn what_wrk_prints() {
        let read = wrk(WRK).unwrap();
        assert_eq!((read.count, read.per_second), (433_012.0, 144_210.11));
        assert_eq!((read.p50_us, read.p99_us, read.errors), (174.0, 1450.0, 0.0));
    }

    #[test]
    fn errors_that_wrk_prints() {
        let text = WRK.replace(
            "Requests/sec",
            "  Socket errors: connect 1, read 2, write 0, timeout 4\n  Non-2xx or 3xx responses: 8\nRequests/sec",
        );
        assert!((wrk(&text).unwrap().errors - 15.0).abs() < 1e-9);
        let text = WRK.replace("433012 requests", "0 requests");
        assert_eq!(wrk(&text).unwrap_err(), "no request was answered");
        assert!(wrk("unable to connect to 10.0.0.1:8080 Connection refused\n").is_err());
    }

    #[test]
    fn what_h2load_prints() {
        let text = "finished in 3.00s, 57695.00 req/s, 3.74MB/s
requests: 115390 total, 115390 started, 115390 done, 115387 succeeded, 3 failed, 1 errored, 0 timeout
status codes: 115387 2xx, 1 3xx, 2 4xx, 0 5xx
time for request:       98us      6.64ms      2.16ms       864us    73.07%
";
        let read = h2load(text).unwrap();
        assert_eq!((read.count, read.per_second, read.errors), (115_387.0, 57_695.0, 4.0));
        let none = "finished in 199us, 0.00 req/s, 0B/s\nstatus codes: 0 2xx, 0 3xx, 0 4xx, 0 5xx\n";
        assert_eq!(h2load(none).unwrap_err(), "no request was answered");
    }

    #[test]
    fn times_of_wrk() {
        for (text, wanted) in [("84.00us", 84.0), ("1.50ms", 1500.0), ("2.00s", 2e6), ("1.50m", 90e6)] {
            assert_eq!(microseconds(text), Ok(wanted), "{text}");
        }
        for wrong in ["", "12", "xms", "us"] {
            assert!(microseconds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_iperf3_prints() {
        let text = r#"{"start": {}, "end": {"streams": [], "sum_sent": {"bytes": 9, "bits_per_second": 9.5},
            "sum_received": {"seconds": 3.0, "bytes": 5250000000, "bits_per_second": 14000000000.5}}}"#;
        assert_eq!(iperf3(text), Ok(Bulk { bytes: 5.25e9, bits_per_second: 14_000_000_000.5 }));
        let refused = r#"{"start": {}, "end": {}, "error": "error - unable to connect to server"}"#;
        assert_eq!(iperf3(refused).unwrap_err(), "error - unable to connect to server");
        assert!(iperf3(r#"{"end": {}}"#).is_err());
        assert!(iperf3("iperf3: command not found").is_err());
    }

    #[test]
    fn what_our_client_prints() {
        let text = r#"{"requests": 3000, "errors": 2, "seconds": 1.5, "p50_us": 50.0, "p99_us": 90.0}"#;
        let read = client(text).unwrap();
        assert_eq!((read.per_second, read.errors, read.p99_us), (2000.0, 2.0, 90.0));
        let none = r#"{"requests": 0, "errors": 7, "seconds": 1.5, "p50_us": 0.0, "p99_us": 0.0, "first_error": "refused"}"#;
        assert_eq!(client(none).unwrap_err(), "no connection was answered: refused");
    }
}

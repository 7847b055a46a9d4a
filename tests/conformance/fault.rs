//! Faults that are made on purpose.

use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::client::{get, grpc, request};
use crate::row::{Row, Want, ok, row};

#[expect(clippy::too_many_lines, reason = "a table")]
pub(crate) fn rows() -> Vec<Row> {
    let abort = |fault: &str| format!("[{{fault: {{{fault}}}, ECHO}}]");
    let aborted = |status: u16| {
        Want::status(status)
            .body("fault filter abort")
            .flags("FI")
            .log("response_code_details", "fault_filter_abort")
            .unseen()
    };
    let counted = |id: &str, fault: &str, expected: std::ops::RangeInclusive<usize>| {
        row(id).http(&abort(fault)).act(async move |case| {
            let replies = case.many(200, &get("/")).await?;
            let aborted = replies.iter().filter(|it| it.status == 418).count();
            ensure!(expected.contains(&aborted), "{aborted} of 200 instead of {expected:?}");
            Ok(())
        })
    };
    vec![
        row("fault/abort")
            .http(&abort("abort: {httpStatus: 555, percentage: {value: 100}}"))
            .ask(get("/"), aborted(555).header("content-type", "text/plain"))
            .ask(get("/").h2(), aborted(555))
            .ask(request("HEAD", "/"), Want::status(555).body("")),
        row("fault/abort-half")
            .http(&abort("abort: {httpStatus: 418, percentage: {value: 50}}"))
            .act(async |case| {
                let replies = case.many(200, &get("/")).await?;
                let aborted = replies.iter().filter(|it| it.status == 418).count();
                ensure!((65..=135).contains(&aborted), "{aborted} of 200");
                Ok(())
            }),
        counted("fault/abort-rarely", "abort: {httpStatus: 418, percentage: {value: 0.001}}", 0..=2),
        counted("fault/abort-never", "abort: {httpStatus: 418, percentage: {value: 0}}", 0..=0),
        counted("fault/abort-without-percentage", "abort: {httpStatus: 418}", 0..=0),
        row("fault/abort-grpc-status")
            .http("[{fault: {abort: {grpcStatus: UNAVAILABLE, percentage: {value: 100}}}, route: [{destination: {host: grpc}}]}]")
            .ask(grpc("/s/m"), Want::status(200).header("grpc-status", "14").header("grpc-message", "fault filter abort").flags("FI").unseen()),
        row("fault/abort-of-grpc")
            .http("[{fault: {abort: {httpStatus: 503, percentage: {value: 100}}}, route: [{destination: {host: grpc}}]}]")
            .ask(grpc("/s/m"), Want::status(200).header("grpc-status", "14").flags("FI").unseen()),
        row("fault/abort-of-some-requests")
            .http("[{match: [{headers: {end-user: {exact: jason}}}], fault: {abort: {httpStatus: 500, percentage: {value: 100}}}, ECHO}, {ECHO}]")
            .ask(get("/").with("end-user", "jason"), aborted(500))
            .ask(get("/"), ok().flags("-")),
        row("fault/delay").http(&abort("delay: {fixedDelay: 0.4s, percentage: {value: 100}}")).act(async |case| {
            let begun = Instant::now();
            let reply = case.send(get("/").mark(&case.id)).await?;
            let took = begun.elapsed();
            ensure!(reply.status == 200 && took >= Duration::from_millis(400), "{took:?} {reply}");
            case.flags("DI").await
        }),
        row("fault/delay-and-abort")
            .http(&abort("delay: {fixedDelay: 0.3s, percentage: {value: 100}}, abort: {httpStatus: 500, percentage: {value: 100}}"))
            .act(async |case| {
                let begun = Instant::now();
                let reply = case.send(get("/").mark(&case.id)).await?;
                ensure!(reply.status == 500 && begun.elapsed() >= Duration::from_millis(300), "{reply}");
                case.flags("DI,FI").await
            }),
        row("fault/delay-never").http(&abort("delay: {fixedDelay: 5s, percentage: {value: 0}}")).ask(get("/"), ok().flags("-")),
        row("fault/delay-old-percent").http(&abort("delay: {fixedDelay: 0.3s, percent: 100}")).ask(get("/"), ok().flags("DI")),
        row("fault/delay-left-by-the-client").http(&abort("delay: {fixedDelay: 3s, percentage: {value: 100}}")).act(async |case| {
            let request = case.send(get("/").mark(&case.id));
            let left = tokio::time::timeout(Duration::from_millis(200), request).await;
            ensure!(left.is_err(), "it was answered");
            let line = case.stand.log(&case.id).await?;
            ensure!(line["response_flags"] == "DI,DC" && case.seen(&case.id).is_empty(), "{line}");
            Ok(())
        }),
    ]
}

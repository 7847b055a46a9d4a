//! The sample, as its reader tries it.

use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_tests::bed::Bed;
use mesh_tests::scenario::captured;
use mesh_tests::waypoint::{Source, pod};

use crate::routing::{ask, sample, until};

#[test]
fn the_sample_does_what_it_says() -> Result<()> {
    let bed = Bed::builder().nodes(2).manifests(sample("waypoint/waypoint.yaml")?).start()?;
    bed.apply(&pod(&bed, Source::Control, ("shop", "waypoint"), "node-2")?)?;
    bed.wait_ready(Duration::from_secs(30), |_| ())?;
    captured(&bed, Duration::from_secs(20))?;
    let (caller, tester, stranger) =
        (bed.pod("clients/caller")?, bed.pod("clients/tester")?, bed.pod("clients/stranger")?);
    let url = "http://hello.shop/headers";
    let served = until(&bed, &caller, &[url], |answer| answer.status == 200)?;
    ensure!(served.body.contains("\"x-served-by\":\"waypoint\""), "{served:?}");
    let jason = ask(&caller, &[&format!("{url}?n=[1-20]"), "-H", "end-user: jason"])?;
    ensure!(jason.iter().all(|answer| answer.body.contains("hello-v2")), "{jason:?}");
    let status = "http://hello.shop/status/200";
    until(&bed, &tester, &[status], |answer| answer.status == 418)?;
    until(&bed, &caller, &[status], |answer| answer.status == 200)?;
    until(&bed, &stranger, &[url], |answer| answer.status == 403)?;
    Ok(())
}

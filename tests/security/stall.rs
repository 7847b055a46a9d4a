//! A thread that stands still, as one does that turns without end in one piece of work.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::edge::process::{Gateway, wait};
use mesh_tests::halt::while_halted;

use crate::stand::Stand;

/// It is seen, counted and told, and the process is not ready until it turns again; one that does turn is left alone.
pub(crate) fn is_seen(_: &Stand) -> Result<()> {
    let gateway = Gateway::start(&[])?;
    let stalls = |thread: &str| gateway.metric(&format!("mesh_thread_stalls_total{{thread=\"{thread}\"}}"));
    ensure!(stalls("data-0")? == 0 && stalls("control")? == 0, "nothing stands still yet");
    let seen = while_halted(gateway.pid(), "data-0", || {
        wait(PATIENCE, || !gateway.is_ready()).context("it is ready while a thread stands still")?;
        ensure!(stalls("data-0")? == 1 && stalls("control")? == 0, "{}", gateway.log());
        Ok(())
    });
    seen.context("the thread")??;
    let log = gateway.log();
    ensure!(log.contains("A thread stands still") && log.contains("thread=data-0"), "{log}");
    wait(PATIENCE, || gateway.is_ready()).with_context(|| format!("not ready again:\n{}", gateway.log()))?;
    ensure!(stalls("data-0")? == 1, "one that turns again is no other one");
    Ok(())
}

const PATIENCE: Duration = Duration::from_secs(10);

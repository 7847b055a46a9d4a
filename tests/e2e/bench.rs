//! The benches run and say what they promise. How fast anything is, is no matter of a test.

use std::{fs, process::Command};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

#[test]
fn a_case_runs_through_all_systems() -> Result<()> {
    let file = std::env::temp_dir().join(format!("mesh-bench-{}.json", std::process::id()));
    let mut bench = Command::new(env!("CARGO_BIN_EXE_bench"));
    let output = bench.args(["--quick", "cross-node/http/1", "--json"]).arg(&file).output()?;
    let (tables, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{errors}");
    ensure!(tables.starts_with("cross-node/http/1\nsystem"), "{tables}");
    let rows: Vec<Value> = serde_json::from_str(&fs::read_to_string(&file)?)?;
    fs::remove_file(&file)?;
    for system in ["direct", "relay", "mesh"] {
        let row = rows.iter().find(|row| row["system"] == system && row["metric"] == "rps");
        let row = row.with_context(|| format!("no row of {system} in {rows:?}"))?;
        ensure!(row["case"] == "cross-node/http/1" && row["runs"] == 1, "{row}");
        ensure!(row["median"].as_f64() > Some(0.0) && row["ratio"].as_f64() > Some(0.0), "{row}");
    }
    let cpu = |system| rows.iter().any(|row| row["system"] == system && row["metric"] == "cpu_s_per_1k");
    ensure!(cpu("mesh") && cpu("relay") && !cpu("direct"), "{rows:?}");
    Ok(())
}

#[test]
fn the_control_plane_tells_all_nodes_of_every_change() -> Result<()> {
    let file = std::env::temp_dir().join(format!("mesh-bench-control-{}.json", std::process::id()));
    let mut bench = Command::new(env!("CARGO_BIN_EXE_bench"));
    let output = bench
        .args(["--quick", "control/1000x10", "control/change/1000-pods", "--json"])
        .arg(&file)
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows: Vec<Value> = serde_json::from_str(&fs::read_to_string(&file)?)?;
    fs::remove_file(&file)?;
    let median = |system: &str, metric: &str| {
        let row = rows.iter().find(|row| row["system"] == system && row["metric"] == metric);
        row.and_then(|row| row["median"].as_f64())
            .with_context(|| format!("no {metric} of {system}: {rows:?}"))
    };
    // What does not depend on how fast or busy the machine is.
    ensure!((1.0..=2000.0).contains(&median("mesh", "bytes_per_change")?), "{rows:?}");
    let (mesh, direct) = (median("mesh", "bytes_per_change")?, median("direct", "bytes_per_change")?);
    // Changes that come while a busy machine still tells of the one before go out together.
    ensure!((mesh / direct - 1.0).abs() < 0.25, "the baseline sends something else: {rows:?}");
    for metric in ["p99_ms", "cold_s", "rss_mb", "node_rss_mb", "world_us", "session_us", "snapshot_us"] {
        ensure!(median("mesh", metric)? > 0.0, "{metric}: {rows:?}");
    }
    Ok(())
}

#[test]
fn a_name_that_no_case_has_is_an_error() -> Result<()> {
    let output = Command::new(env!("CARGO_BIN_EXE_bench")).arg("crossnode").output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && errors.contains("\n  cross-node/http/32\n"), "{errors}");
    Ok(())
}

#[test]
fn a_peer_that_is_missing_is_a_row_with_the_reason() -> Result<()> {
    let file = std::env::temp_dir().join(format!("mesh-bench-l7-{}.json", std::process::id()));
    let mut bench = Command::new(env!("CARGO_BIN_EXE_bench"));
    let output =
        bench.args(["--quick", "l7/rss", "--envoy", "/nowhere/envoy", "--json"]).arg(&file).output()?;
    let tables = String::from_utf8_lossy(&output.stdout);
    ensure!(!output.status.success(), "somebody is missing, which must not pass for a result: {tables}");
    ensure!(tables.contains("\nenvoy  failed: there is no /nowhere/envoy"), "{tables}");
    ensure!(tables.contains("<= 25"), "what is demanded is shown in any case: {tables}");
    let rows: Vec<Value> = serde_json::from_str(&fs::read_to_string(&file)?)?;
    fs::remove_file(&file)?;
    let of = |system: &str| rows.iter().find(|row| row["system"] == system).context("no row");
    ensure!(of("nginx")?["metric"] == "rss_mb" && of("nginx")?["median"].as_f64() > Some(0.0), "{rows:?}");
    ensure!(of("envoy")?["runs"] == 0 && of("envoy")?["error"].is_string(), "{rows:?}");
    Ok(())
}

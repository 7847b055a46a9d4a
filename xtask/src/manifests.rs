//! `cargo xtask manifests`: the plain manifests in `deploy`, written from the chart, and the schema of the chart's values.
//!
//! The chart is rendered by `meshctl`, which is built first. That they agree is tested in the suite `kubernetes`.

use std::{fs, process::ExitCode};

use anyhow::{Context as _, Result};

use crate::{
    shell::{self, say},
    workspace,
};

/// Write deploy/manifests, deploy/rbac and deploy/webhook from the chart in deploy/helm/mesh, and the chart's values.schema.json.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: cargo xtask manifests && git diff deploy")]
pub(crate) struct Args {}

/// Runs the verb.
pub(crate) fn run(_: &Args) -> Result<ExitCode> {
    let target = workspace::root().join("target/manifests");
    if target.exists() {
        fs::remove_dir_all(&target).with_context(|| format!("{} cannot be emptied", target.display()))?;
    }
    let meshctl = || {
        let mut cargo = shell::cargo();
        cargo.current_dir(workspace::root()).args([
            "run",
            "--quiet",
            "--package",
            "meshctl",
            "--",
            "manifest",
        ]);
        cargo
    };
    shell::must(meshctl().args(["generate", "--output-dir"]).arg(&target))?;
    let schema = meshctl().arg("schema").output().context("meshctl does not start")?;
    anyhow::ensure!(schema.status.success(), "{}", String::from_utf8_lossy(&schema.stderr));
    write("deploy/helm/mesh/values.schema.json", &schema.stdout)?;
    for entry in fs::read_dir(&target).context("nothing was rendered")? {
        let path = entry?.path();
        let name = path.file_name().map(|it| it.to_string_lossy().into_owned()).unwrap_or_default();
        let file = match name.as_str() {
            "rbac.yaml" => "deploy/rbac/mesh-control.yaml".to_owned(),
            "webhook.yaml" => "deploy/webhook/validating.yaml".to_owned(),
            name => format!("deploy/manifests/{name}"),
        };
        write(&file, &fs::read(&path)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Unless that is what the file says.
fn write(file: &str, text: &[u8]) -> Result<()> {
    let to = workspace::root().join(file);
    if fs::read(&to).ok().as_deref() != Some(text) {
        fs::write(&to, text).with_context(|| format!("{file} cannot be written"))?;
        say(format_args!("{file} changed"));
    }
    Ok(())
}

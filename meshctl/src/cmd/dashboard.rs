//! `meshctl dashboard`: where the mesh page is.

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::emit;
use crate::http::Server;

/// Print the address of the mesh page, and forward it from a cluster where it is not on this machine.
///
/// The page answers this machine alone. Where a control plane answers here, its address is printed; else `kubectl
/// port-forward` is started, and runs until it is ended.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The control plane's monitoring address on this machine.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:15014")]
    control: Server,
    /// The namespace of the control plane in the cluster.
    #[arg(short, long, default_value = "istio-system")]
    namespace: String,
    /// The port of this machine that is forwarded.
    #[arg(long, default_value_t = 15014)]
    port: u16,
}

/// What `/api/v1/mesh` answers, as far as it is shown.
#[derive(Debug, Deserialize)]
struct Mesh {
    version: String,
    cluster: String,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if let Ok(answer) = args.control.get("/api/v1/mesh") {
        let mesh: Mesh = serde_json::from_str(&answer).context("the control plane's answer")?;
        let Mesh { version, cluster } = mesh;
        emit(&format!("{}/ (mesh-control {version}, cluster {cluster})\n", args.control.url()))?;
        return Ok(ExitCode::SUCCESS);
    }
    emit(&format!("http://localhost:{}/ as long as this runs\n", args.port))?;
    let forward = forward(args).status();
    let ended = forward.context("no control plane answers here, and kubectl cannot be started")?;
    Ok(if ended.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn forward(args: &Args) -> Command {
    let mut kubectl = Command::new("kubectl");
    kubectl.args(["port-forward", "--address=127.0.0.1", "--namespace"]).arg(&args.namespace);
    kubectl.arg("deployment/mesh-control").arg(format!("{}:15014", args.port));
    kubectl
}

const EXAMPLES: &str = "\
Example: meshctl dashboard
         meshctl dashboard -n istio-system --port 8080";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_reached_by_its_deployment() {
        let control = "http://127.0.0.1:1".parse().unwrap();
        let kubectl = forward(&Args { control, namespace: "mesh".to_owned(), port: 8080 });
        let words: Vec<_> = kubectl.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        let expected = [
            "port-forward",
            "--address=127.0.0.1",
            "--namespace",
            "mesh",
            "deployment/mesh-control",
            "8080:15014",
        ];
        assert_eq!(words, expected);
    }
}

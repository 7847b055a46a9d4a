//! `meshctl waypoint`: the Gateways that are waypoints, made, shown and removed.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Subcommand, ValueEnum};
use mesh_core::resource::value::time;

use self::cluster::Cluster;
use self::gateway::{Found, Wish};
use crate::kubeconfig::Kubeconfig;
use crate::output::Format;
use crate::table::align;
use crate::{emit, note};

mod cluster;
mod gateway;

/// Look after waypoints.
///
/// A waypoint is a Gateway of class istio-waypoint; the control plane deploys what runs it. Commands, flags and columns are
/// those of `istioctl waypoint`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: meshctl waypoint apply -n shop --enroll-namespace --wait")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
    /// Namespace [default: that of the kubeconfig's context].
    #[arg(short, long, value_name = "NAMESPACE", global = true)]
    namespace: Option<String>,
    #[command(flatten)]
    kubeconfig: Kubeconfig,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print a waypoint as YAML.
    #[command(after_help = "Example: meshctl waypoint generate -n shop --for all | kubectl apply -f -")]
    Generate(Kind),
    /// Make a waypoint, or change it.
    #[command(after_help = "\
Example: meshctl waypoint apply -n shop
         meshctl waypoint apply -n shop --enroll-namespace --wait
         meshctl waypoint apply -n shop --name workloads --for workload")]
    Apply(Apply),
    /// List waypoints.
    ///
    /// TRAFFIC TYPE is what the label istio.io/waypoint-for says, service without it.
    #[command(after_help = "Example: meshctl waypoint list -A -o json")]
    List(List),
    /// Show whether waypoints are programmed, and why not.
    #[command(after_help = "Example: meshctl waypoint status -n shop")]
    Status(Status),
    /// Delete waypoints, and with them what runs them.
    #[command(after_help = "\
Example: meshctl waypoint delete waypoint -n shop
         meshctl waypoint delete --all -n shop")]
    Delete(Delete),
}

/// What a waypoint is to be.
#[derive(Debug, clap::Args)]
struct Kind {
    /// Its name.
    #[arg(long, value_name = "NAME", default_value = DEFAULT_NAME)]
    name: String,
    /// The traffic that it takes [default: what its class says, else service].
    #[arg(long = "for", value_name = "TRAFFIC")]
    traffic: Option<Traffic>,
    /// The revision to label it with.
    #[arg(short, long, value_name = "REVISION")]
    revision: Option<String>,
}

/// The traffic that a waypoint takes.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Traffic {
    /// That to addresses of services.
    Service,
    /// That to addresses of pods.
    Workload,
    /// Both.
    All,
    /// None.
    None,
}

#[derive(Debug, clap::Args)]
struct Apply {
    #[command(flatten)]
    kind: Kind,
    /// Label the namespace, so that its services use the waypoint.
    #[arg(long)]
    enroll_namespace: bool,
    /// Do so even if it uses another one.
    #[arg(long)]
    overwrite: bool,
    /// Wait until the waypoint is ready.
    #[arg(short, long)]
    wait: bool,
    /// How long to wait.
    #[arg(long, value_name = "TIME", default_value = "90s", value_parser = time)]
    waypoint_timeout: Duration,
}

#[derive(Debug, clap::Args)]
struct List {
    /// Of all namespaces.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// How they are printed.
    #[arg(short, long, value_name = "FORMAT", default_value = "text", ignore_case = true)]
    output: Format,
}

#[derive(Debug, clap::Args)]
struct Status {
    /// Wait until all are programmed.
    #[arg(short, long)]
    wait: bool,
    /// How long to wait.
    #[arg(long, value_name = "TIME", default_value = "90s", value_parser = time)]
    waypoint_timeout: Duration,
}

#[derive(Debug, clap::Args)]
struct Delete {
    /// Their names.
    #[arg(value_name = "NAME", required_unless_present_any = ["all", "revision"], conflicts_with_all = ["all", "revision"])]
    names: Vec<String>,
    /// All of the namespace.
    #[arg(long)]
    all: bool,
    /// All of the namespace with this revision.
    #[arg(short, long, value_name = "REVISION")]
    revision: Option<String>,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if let Command::Generate(kind) = &args.command {
        let gateway = kind.wish()?.gateway(args.namespace.as_deref());
        emit(&serde_yaml_ng::to_string(&gateway)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let cluster = Cluster::of(args.kubeconfig.connect().await?.0);
        let namespace = args.namespace.clone().unwrap_or_else(|| cluster.namespace().to_owned());
        match &args.command {
            Command::Generate(_) => Ok(ExitCode::SUCCESS),
            Command::Apply(apply) => apply.run(&cluster, &namespace).await,
            Command::List(list) => list.run(&cluster, &namespace).await,
            Command::Status(status) => status.run(&cluster, &namespace).await,
            Command::Delete(delete) => delete.run(&cluster, &namespace).await,
        }
    })
}

impl Kind {
    fn wish(&self) -> Result<Wish> {
        let Self { name, traffic, revision } = self;
        if name == "none" {
            bail!("a waypoint cannot be named none: the name is reserved for those who use no waypoint");
        }
        let name = if name.is_empty() { DEFAULT_NAME } else { name };
        let traffic = traffic.and_then(|it| Some(it.to_possible_value()?.get_name().to_owned()));
        Ok(Wish { name: name.to_owned(), traffic, revision: revision.clone() })
    }
}

impl Apply {
    async fn run(&self, cluster: &Cluster, namespace: &str) -> Result<ExitCode> {
        let wish = self.kind.wish()?;
        let name = &wish.name;
        if self.enroll_namespace {
            let labels = cluster.labels_of(namespace).await?;
            let used = labels.get(gateway::USE_WAYPOINT).filter(|used| !used.is_empty());
            if let Some(used) = used.filter(|used| *used != name && !self.overwrite) {
                emit(&format!(
                    "⚠️ Warning: namespace ({namespace}) already has an enrolled Waypoint, {used}. Consider adding the \
                     `--overwrite` flag to your apply command.\n"
                ))?;
                return Ok(ExitCode::SUCCESS);
            }
            if labels.get("istio.io/dataplane-mode").is_none_or(|mode| mode != "ambient") {
                emit(&format!(
                    "⚠️ Warning: namespace is not enrolled in ambient. Consider running \
                     `kubectl label namespace {namespace} istio.io/dataplane-mode=ambient`\n"
                ))?;
            }
        }
        cluster.apply(namespace, &wish).await?;
        emit(&format!("✅ waypoint {namespace}/{name} applied\n"))?;
        if self.wait {
            let ready = cluster.wait(namespace, self.waypoint_timeout, |found| found.name == *name).await?;
            if ready.is_none() {
                bail!(
                    "timed out while waiting for waypoint {namespace}/{name}: see `meshctl waypoint status`"
                );
            }
            emit(&format!("✅ waypoint {namespace}/{name} is ready!\n"))?;
        }
        if self.enroll_namespace {
            cluster.label(namespace, gateway::USE_WAYPOINT, name).await?;
            let label = gateway::USE_WAYPOINT;
            emit(&format!("✅ namespace {namespace} labeled with \"{label}: {name}\"\n"))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl List {
    async fn run(&self, cluster: &Cluster, namespace: &str) -> Result<ExitCode> {
        let found = cluster.waypoints(Some(namespace).filter(|_| !self.all_namespaces)).await?;
        emit(&match self.output {
            Format::Json => serde_json::to_string_pretty(&found)? + "\n",
            Format::Text if found.is_empty() => NONE.to_owned(),
            Format::Text => {
                let columns = ["NAME", "REVISION", "TRAFFIC TYPE", "PROGRAMMED"];
                let row = |it: &Found| {
                    vec![it.name.clone(), it.revision.clone(), it.traffic_type.clone(), it.programmed.clone()]
                };
                table(&columns, &found, self.all_namespaces, row)
            }
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Status {
    async fn run(&self, cluster: &Cluster, namespace: &str) -> Result<ExitCode> {
        let is_late = self.wait && cluster.wait(namespace, self.waypoint_timeout, |_| true).await?.is_none();
        let found = cluster.waypoints(Some(namespace)).await?;
        let columns = ["NAME", "STATUS", "TYPE", "REASON", "MESSAGE"];
        let row = |it: &Found| {
            let programmed = "Programmed".to_owned();
            vec![it.name.clone(), it.programmed.clone(), programmed, it.reason.clone(), it.message.clone()]
        };
        emit(&if found.is_empty() { NONE.to_owned() } else { table(&columns, &found, false, row) })?;
        if is_late {
            bail!("timed out while retrieving status for waypoints of {namespace}");
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Delete {
    async fn run(&self, cluster: &Cluster, namespace: &str) -> Result<ExitCode> {
        let found = cluster.waypoints(Some(namespace)).await?;
        let is_meant = |it: &&Found| match &self.revision {
            Some(revision) => it.revision == *revision,
            None => self.all || self.names.contains(&it.name),
        };
        let meant: Vec<&Found> = found.iter().filter(is_meant).collect();
        if meant.is_empty() && self.names.is_empty() {
            emit(NONE)?;
        }
        for waypoint in &meant {
            cluster.delete(namespace, &waypoint.name).await?;
            emit(&format!("waypoint {namespace}/{} deleted\n", waypoint.name))?;
        }
        let missing: Vec<_> =
            self.names.iter().filter(|name| !meant.iter().any(|it| it.name == **name)).collect();
        missing.iter().for_each(|name| note(&format!("waypoint {namespace}/{name} not found")));
        Ok(if missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn table(
    columns: &[&str],
    found: &[Found],
    has_namespaces: bool,
    row: impl Fn(&Found) -> Vec<String>,
) -> String {
    let mut rows = vec![columns.iter().map(|&column| column.to_owned()).collect::<Vec<_>>()];
    rows.extend(found.iter().map(row));
    if has_namespaces {
        let namespaces = ["NAMESPACE"].into_iter().chain(found.iter().map(|it| it.namespace.as_str()));
        rows.iter_mut().zip(namespaces).for_each(|(row, namespace)| row.insert(0, namespace.to_owned()));
    }
    align(&rows)
}

const DEFAULT_NAME: &str = "waypoint";
const NONE: &str = "No waypoints found.\n";

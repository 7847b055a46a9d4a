//! `meshctl install`, `upgrade` and `uninstall`: the mesh in a cluster.

use std::io::{self, BufRead as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use mesh_core::resource::value::time;

use super::manifest::Wish;
use crate::install::cluster::{Cluster, cleanup, is_ours, release};
use crate::install::objects::STAGES;
use crate::install::{NAMESPACE, Object, Plan, Stage, chart};
use crate::kubeconfig::Kubeconfig;
use crate::{emit, note};

/// Install the mesh in a cluster, or change an installation.
///
/// Shows what it will do and asks; applies everything in order, each part when the one before it is ready. What is
/// installed already and is not asked for any more is removed. The same command again goes on where it was ended.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example: meshctl install
         meshctl install --set profile=demo -y
         meshctl install -f operator.yaml")]
pub(crate) struct Args {
    #[command(flatten)]
    wish: Wish,
    #[command(flatten)]
    place: Place,
    /// Do not wait for anything to be ready.
    #[arg(long)]
    no_wait: bool,
}

/// Upgrade an installation to this version: as install, but there must be one.
///
/// Values are not remembered: say again what was said at the installation. The control plane comes first, as nodes of an
/// older version understand it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: meshctl upgrade --set profile=demo")]
pub(crate) struct UpgradeArgs {
    #[command(flatten)]
    install: Args,
}

/// Remove the mesh from a cluster.
///
/// Every node is left as it was: pods there are outside of the mesh then, and their connections end. What users have
/// configured stays, and so does the certificate authority, for another installation. Deployments that were made for
/// Gateways of users stay with these; each is named, with the command that removes both.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example: meshctl uninstall
         meshctl uninstall --purge -y")]
pub(crate) struct UninstallArgs {
    #[command(flatten)]
    place: Place,
    /// Remove as well what users have configured, with the definitions of its kinds; the certificate authority; and the
    /// namespace.
    #[arg(long)]
    purge: bool,
    /// Leave in the kernels of nodes what is there: pods of the mesh stay cut off until `mesh-node cleanup` runs.
    #[arg(long)]
    keep_nodes: bool,
    /// Remove the agents and what they have left on nodes, and nothing else: what Helm's chart runs before Helm removes the
    /// rest.
    #[arg(long, conflicts_with_all = ["purge", "keep_nodes"])]
    nodes_only: bool,
}

/// Which cluster, and how patient to be with it.
#[derive(Debug, clap::Args)]
struct Place {
    #[command(flatten)]
    kubeconfig: Kubeconfig,
    /// Do not ask.
    #[arg(short = 'y', long = "skip-confirmation", visible_alias = "yes")]
    yes: bool,
    /// How long each part may take.
    #[arg(long, value_name = "TIME", default_value = "300s", value_parser = time)]
    timeout: Duration,
}

/// Runs `meshctl install`.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    block_on(install(args, false))
}

/// Runs `meshctl upgrade`.
pub(crate) fn run_upgrade(args: &UpgradeArgs) -> Result<ExitCode> {
    block_on(install(&args.install, true))
}

/// Runs `meshctl uninstall`.
pub(crate) fn run_uninstall(args: &UninstallArgs) -> Result<ExitCode> {
    block_on(uninstall(args))
}

fn block_on(work: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

async fn install(args: &Args, is_upgrade: bool) -> Result<ExitCode> {
    let plan = args.wish.plan()?;
    let cluster = args.place.find().await?;
    let present = cluster.parts().await?;
    not_helms(&present)?;
    if is_upgrade && present.is_empty() {
        bail!("there is no installation to upgrade (`meshctl install` makes one)");
    }
    let is_wanted = |it: &Object| plan.objects.iter().any(|wanted| wanted.title() == it.title());
    let superfluous: Vec<_> = present.iter().filter(|it| is_ours(it) && !is_wanted(it)).collect();
    let removed = lines("  removes ", superfluous.iter().copied());
    let what = if present.is_empty() { "install" } else { "change the installation of" };
    let question = format!(
        "This will {what} mesh {}, profile {}, in the cluster at {}:\n{}{removed}",
        env!("CARGO_PKG_VERSION"),
        plan.values["profile"],
        cluster.address,
        summary(&plan),
    );
    if !args.place.confirms(&question)? {
        return Ok(ExitCode::FAILURE);
    }
    let namespace = Object::of("v1", "Namespace", "", NAMESPACE);
    if cluster.get(&namespace).await?.is_some_and(|it| !it["metadata"]["deletionTimestamp"].is_null()) {
        bail!("namespace {NAMESPACE} is being deleted: wait until it is gone");
    }
    for (stage, title) in STAGES {
        let mut objects = plan.objects.iter().filter(|it| it.stage() == stage).peekable();
        if objects.peek().is_none() {
            continue;
        }
        for object in objects {
            cluster.apply(object).await?;
        }
        if !args.no_wait {
            cluster.wait(stage, &plan.objects, args.place.timeout).await?;
        }
        emit(&format!("✔ {title} installed\n"))?;
    }
    for object in superfluous {
        cluster.delete(object).await?;
    }
    emit("✔ Installation complete\n")?;
    Ok(ExitCode::SUCCESS)
}

async fn uninstall(args: &UninstallArgs) -> Result<ExitCode> {
    let cluster = args.place.find().await?;
    if args.nodes_only {
        return clean_nodes(&cluster, &args.place).await;
    }
    let mut parts = cluster.parts().await?;
    not_helms(&parts)?;
    let roots = cluster.roots().await?;
    let purged = if args.purge { purged() } else { Vec::new() };
    if parts.is_empty() && roots.is_empty() && !args.purge {
        emit("There is nothing to uninstall.\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    let lines = lines("  ", parts.iter());
    let certificates = match roots.len() {
        0 => String::new(),
        how_many => format!("  the root certificates in namespaces ({how_many})\n"),
    };
    let purge = if args.purge {
        "  everything that users have configured for the mesh, its certificate authority, and namespace istio-system\n"
    } else {
        ""
    };
    let question =
        format!("This will remove from the cluster at {}:\n{lines}{certificates}{purge}", cluster.address);
    if !args.place.confirms(&question)? {
        return Ok(ExitCode::FAILURE);
    }
    // Nobody is to be asked who is not there any more, and what depends on others goes before them.
    parts.reverse();
    let (classes, parts): (Vec<_>, Vec<_>) = parts.into_iter().partition(|part| part.kind == "GatewayClass");
    let mut code = ExitCode::SUCCESS;
    for part in &parts {
        if part.kind == "DaemonSet" && !args.keep_nodes && !clean(&cluster, part, args.place.timeout).await? {
            code = ExitCode::FAILURE;
        } else {
            cluster.delete(part).await?;
        }
    }
    remove_controls(&cluster, &classes, !roots.is_empty(), args.place.timeout).await?;
    unmark(&cluster).await?;
    for object in purged {
        cluster.delete(&object).await?;
    }
    emit("✔ Uninstallation complete\n")?;
    emit(&left(&cluster.made_for_users().await?))?;
    Ok(code)
}

/// Removes what the control plane has made by itself, and makes anew for as long as one of its pods is there.
async fn remove_controls(
    cluster: &Cluster,
    classes: &[Object],
    has_roots: bool,
    patience: Duration,
) -> Result<()> {
    let control = Object::of("apps/v1", "Deployment", NAMESPACE, "istiod");
    if (!classes.is_empty() || has_roots) && !cluster.wait_for_nobody(&control, patience).await? {
        note(
            "not all pods of the control plane have ended in time; one may make its GatewayClasses and the ConfigMaps \
             of root certificates again",
        );
    }
    for object in classes.iter().chain(&cluster.roots().await?) {
        cluster.delete(object).await?;
    }
    Ok(())
}

/// What is left running for Gateways of users, and how to remove it.
fn left(deployments: &[Object]) -> String {
    if deployments.is_empty() {
        return String::new();
    }
    let mut text = "Gateways of users stay, and what was made for them. It goes on with what it knows, and nobody tells it \
                    anything new. To remove a Gateway and all that was made for it:\n"
        .to_owned();
    for Object { namespace, name, value, .. } in deployments {
        let gateway = value["metadata"]["labels"]["gateway.networking.k8s.io/gateway-name"].as_str();
        let line = match gateway {
            Some(gateway) => {
                format!("  kubectl -n {namespace} delete gateways.gateway.networking.k8s.io {gateway}\n")
            }
            None => format!("  kubectl -n {namespace} delete deployment {name}\n"),
        };
        text.push_str(&line);
    }
    text
}

async fn unmark(cluster: &Cluster) -> Result<()> {
    match cluster.unmark().await? {
        0 => Ok(()),
        unmarked => Ok(emit(&format!("✔ {unmarked} pods are not said to be captured any more\n"))?),
    }
}

/// Of an installation, what is on nodes.
async fn clean_nodes(cluster: &Cluster, place: &Place) -> Result<ExitCode> {
    let agents = cluster.agents().await?;
    if agents.is_empty() {
        emit("There are no agents on nodes.\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    let lines = lines("  ", agents.iter());
    if !place.confirms(&format!(
        "This will remove from the nodes of the cluster at {}:\n{lines}",
        cluster.address
    ))? {
        return Ok(ExitCode::FAILURE);
    }
    let mut code = ExitCode::SUCCESS;
    for agents in &agents {
        if !clean(cluster, agents, place.timeout).await? {
            code = ExitCode::FAILURE;
        }
    }
    unmark(cluster).await?;
    Ok(code)
}

/// Removes the agents, then what they have left in the nodes' kernels; whether all nodes are clean.
async fn clean(cluster: &Cluster, agents: &Object, patience: Duration) -> Result<bool> {
    cluster.delete(agents).await?;
    // An agent that still ends its connections would find its ground gone.
    if !cluster.wait_for_nobody(agents, patience).await? {
        note("not all agents have ended in time; what is left of them in the kernel is removed all the same");
    }
    let cleaners = cleanup(agents);
    cluster.apply(&cleaners).await?;
    let outcome = cluster.wait_for_ends(&cleaners, patience).await?;
    cluster.delete(&cleaners).await?;
    match &outcome {
        Ok(nodes) => emit(&format!("✔ {nodes} nodes cleaned\n"))?,
        Err(how_many) => note(&format!(
            "only {how_many} were cleaned in time: pods of the mesh stay cut off on the others until \
             `mesh-node cleanup --node NAME` has run there"
        )),
    }
    Ok(outcome.is_ok())
}

/// What remains without being asked for.
fn purged() -> Vec<Object> {
    let secret = |name| Object::of("v1", "Secret", NAMESPACE, name);
    let mut objects = vec![
        secret("istio-ca-secret"),
        secret("mesh-join-tokens"),
        Object::of("coordination.k8s.io/v1", "Lease", NAMESPACE, "mesh-control"),
    ];
    let definition = |name: &str| {
        // The files have the name that users know, kind first.
        Object::of("apiextensions.k8s.io/v1", "CustomResourceDefinition", "", name)
    };
    objects.extend(chart::DEFINITIONS.iter().map(|(name, _)| definition(name)));
    objects.push(Object::of("v1", "Namespace", "", NAMESPACE));
    objects
}

fn not_helms(present: &[Object]) -> Result<()> {
    match present.iter().find_map(release) {
        Some(release) => {
            bail!("the mesh was installed by Helm: use `helm upgrade` or `helm uninstall {release}`")
        }
        None => Ok(()),
    }
}

fn lines<'o>(begin: &str, objects: impl Iterator<Item = &'o Object>) -> String {
    objects.fold(String::new(), |text, object| text + begin + &object.title() + "\n")
}

fn summary(plan: &Plan) -> String {
    let line = |(stage, title): &(Stage, &str)| {
        let names = plan.objects.iter().filter(|it| it.stage() == *stage).map(|it| match it.kind.as_str() {
            "Deployment" | "DaemonSet" => it.title(),
            _ => String::new(),
        });
        let runs = names.filter(|it| !it.is_empty()).collect::<Vec<_>>().join(", ");
        let count = plan.objects.iter().filter(|it| it.stage() == *stage).count();
        let runs = if runs.is_empty() { runs } else { format!(", among them {runs}") };
        (count > 0).then(|| format!("  {title}: {count} objects{runs}\n"))
    };
    STAGES.iter().filter_map(line).collect()
}

impl Place {
    async fn find(&self) -> Result<Cluster> {
        Ok(Cluster::of(self.kubeconfig.connect().await?))
    }

    /// Whether the user says yes.
    fn confirms(&self, what: &str) -> Result<bool> {
        emit(what)?;
        if self.yes {
            return Ok(true);
        }
        emit("Proceed? (y/N) ")?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        let is_yes = ["y", "yes"].contains(&answer.trim().to_lowercase().as_str());
        if !is_yes {
            emit("Nothing was done.\n")?;
        }
        Ok(is_yes)
    }
}

//! `meshctl logs`: what a part of the mesh has to say, wherever it writes it.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::emit;

mod cluster;

/// Show the log of a node, of the control plane, or of any pod such as a gateway's or a waypoint's.
///
/// In a cluster the pods of the mesh are looked for: `control` is the control plane, a node is named as Kubernetes names it,
/// and NAMESPACE/NAME is a pod, or a gateway or waypoint by its name. Of a pod with several containers the mesh's own is shown,
/// or the one that the pod's annotation kubectl.kubernetes.io/default-container names.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// control, the name of a node, or NAMESPACE/NAME.
    #[arg(value_name = "WHO")]
    who: String,
    /// Go on as more is written, until all the pods have ended or nobody reads it any more.
    #[arg(short, long)]
    follow: bool,
    /// The container of a pod (a cluster only).
    #[arg(short, long, value_name = "NAME", conflicts_with = "bed")]
    container: Option<String>,
    /// Only the last lines.
    #[arg(long, value_name = "LINES", value_parser = clap::value_parser!(u32).range(1..))]
    tail: Option<u32>,
    /// Only what is not older than so many seconds (a cluster only).
    #[arg(long, value_name = "SECONDS", conflicts_with = "bed")]
    since: Option<u32>,
    /// The state directory of a testbed, as `cargo xtask testbed status -o json` names it, instead of a cluster.
    #[arg(long, value_name = "DIR")]
    bed: Option<PathBuf>,
    /// The namespace of the mesh.
    #[arg(long, value_name = "NAMESPACE", default_value = "istio-system")]
    mesh_namespace: String,
    /// A kubeconfig other than the usual one.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig other than the current one.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if let Some(bed) = &args.bed {
        of_bed(args, &file_of(&bed.join("logs"), &args.who)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(cluster::show(args))?;
    Ok(ExitCode::SUCCESS)
}

/// The file of a testbed that is named so, or begins so.
fn file_of(logs: &Path, who: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(logs).with_context(|| logs.display().to_string())?;
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    let wanted = match who {
        "control" => "mesh-control.log".to_owned(),
        who => who.replace('/', "."),
    };
    let exact = [wanted.clone(), format!("{wanted}.mesh-node.log"), format!("{wanted}.log")];
    let is_exact = |name: &&String| exact.contains(*name);
    let begins = || names.iter().filter(|name| name.starts_with(&wanted)).collect::<Vec<_>>();
    let found = match names.iter().find(is_exact) {
        Some(name) => vec![name],
        None => begins(),
    };
    match found[..] {
        [name] => Ok(logs.join(name)),
        [] => bail!("there is no log of {who:?}; there are {}", names.join(", ")),
        _ => bail!("{who:?} could be any of {found:?}"),
    }
}

fn of_bed(args: &Args, path: &Path) -> Result<()> {
    let text = end_of(path, MAX_SHOWN)?;
    emit(args.tail.map_or(text.as_str(), |lines| last(&text, lines)))?;
    if args.follow { follow(path) } else { Ok(()) }
}

/// Shows what is written from now on, until nobody reads it any more.
fn follow(path: &Path) -> Result<()> {
    let mut at = fs::metadata(path)?.len();
    loop {
        thread::sleep(PAUSE);
        let length = fs::metadata(path)?.len();
        // One that has become shorter begins anew.
        at = if length < at { 0 } else { at };
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(at))?;
        let mut more = Vec::new();
        file.take(MAX_SHOWN).read_to_end(&mut more)?;
        at += u64::try_from(more.len()).unwrap_or_default();
        let mut stdout = io::stdout().lock();
        if stdout.write_all(&more).and_then(|()| stdout.flush()).is_err() {
            return Ok(());
        }
    }
}

/// The last bytes of a file, from the beginning of a line.
pub(super) fn end_of(path: &Path, most: u64) -> Result<String> {
    let mut file = File::open(path).with_context(|| path.display().to_string())?;
    let length = file.metadata()?.len();
    let skipped = length.saturating_sub(most);
    file.seek(SeekFrom::Start(skipped))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    match text.split_once('\n') {
        Some((_, rest)) if skipped > 0 => Ok(rest.to_owned()),
        _ => Ok(text),
    }
}

/// The last lines of a text.
fn last(text: &str, lines: u32) -> &str {
    let lines = usize::try_from(lines).unwrap_or(usize::MAX);
    let ends = text.trim_end_matches('\n').rmatch_indices('\n');
    let start = ends.map(|(at, _)| at + 1).nth(lines.saturating_sub(1)).unwrap_or_default();
    text.get(start..).unwrap_or_default()
}

/// Bytes that are shown of a log, from its end.
const MAX_SHOWN: u64 = 16 << 20;
/// Between two looks at a file.
const PAUSE: Duration = Duration::from_millis(300);

const EXAMPLES: &str = "\
Example: meshctl logs node-1
         meshctl logs control --tail 20 -f
         meshctl logs default/waypoint --since 300
         meshctl logs node-1 --bed /var/lib/mesh-testbed/bed -f";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_found_by_who_it_is_of() {
        let logs = tempfile::tempdir().unwrap();
        // One that only begins with the name of another is not meant.
        for name in [
            "mesh-control.log",
            "node-1.mesh-node.log",
            "node-10.mesh-node.log",
            "default.way-pod.way.log",
            "default.web-1.c.log",
        ] {
            fs::write(logs.path().join(name), "x").unwrap();
        }
        let found = |who: &str| file_of(logs.path(), who).map(|path| path.file_name().unwrap().to_owned());
        assert_eq!(found("control").unwrap(), "mesh-control.log");
        assert_eq!(found("node-1").unwrap(), "node-1.mesh-node.log");
        assert_eq!(found("default/way").unwrap(), "default.way-pod.way.log");
        assert!(found("default").unwrap_err().to_string().contains("could be any"));
        assert!(found("nobody").unwrap_err().to_string().contains("mesh-control.log"));
    }

    #[test]
    fn the_end_of_a_log_begins_with_a_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "first\nsecond\nthird\n").unwrap();
        assert_eq!(end_of(file.path(), 100).unwrap(), "first\nsecond\nthird\n");
        assert_eq!(end_of(file.path(), 9).unwrap(), "third\n");
        assert_eq!(last("a\nb\nc\n", 2), "b\nc\n");
        assert_eq!(last("a\nb\nc\n", 9), "a\nb\nc\n");
    }
}

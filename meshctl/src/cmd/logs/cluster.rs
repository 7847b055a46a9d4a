//! Logs of pods of a cluster: found by who they are of, and read from the API server.

use std::io::{self, Write as _};

use anyhow::{Context as _, Result, bail, ensure};
use http_body_util::BodyExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, LogParams};
use kube::client::Body;
use kube::{Client, Resource as _};
use mesh_source::kubernetes::connect_to;
use tokio::task::JoinSet;

use super::{Args, MAX_SHOWN};
use crate::{emit, note};

/// Shows the logs of all pods that are meant, and goes on if that is wanted.
pub(super) async fn show(args: &Args) -> Result<()> {
    let (client, _) = connect_to(args.kubeconfig.as_deref(), args.context.as_deref()).await?;
    let (namespace, pods) = find(args, &client).await?;
    ensure!(!pods.is_empty(), "there is no pod of {:?} in namespace {namespace:?}", args.who);
    let logs = pods.iter().map(|pod| log_of(pod, args.container.as_deref())).collect::<Result<Vec<_>>>()?;
    if args.follow {
        return follow(args, &client, &namespace, logs).await;
    }
    let api: Api<Pod> = Api::namespaced(client, &namespace);
    for Log { pod, container } in &logs {
        let params = LogParams {
            container: Some(container.clone()),
            limit_bytes: i64::try_from(MAX_SHOWN).ok(),
            ..params(args)
        };
        let text = api.logs(pod, &params).await.with_context(|| format!("the log of {pod}"))?;
        let head = if logs.len() > 1 { format!("==> {pod} <==\n") } else { String::new() };
        emit(&format!("{head}{text}"))?;
    }
    Ok(())
}

/// The log of a container.
#[derive(Debug, PartialEq, Eq)]
struct Log {
    pod: String,
    container: String,
}

/// Which pods are meant.
enum Wanted<'a> {
    /// One of this name, or those of the gateway or waypoint of this name.
    Name(&'a str),
    /// Those with these labels.
    Labels(&'static str),
    /// The node proxy of this node.
    Node(&'a str),
}

/// The pods that are meant, and their namespace.
async fn find(args: &Args, client: &Client) -> Result<(String, Vec<Pod>)> {
    let own = args.mesh_namespace.as_str();
    let (namespace, wanted) = match args.who.split_once('/') {
        Some((namespace, name)) => (namespace, Wanted::Name(name)),
        None if args.who == "control" => (own, Wanted::Labels("app=istiod")),
        None => (own, Wanted::Node(&args.who)),
    };
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let list = async |params: ListParams| anyhow::Ok(pods.list(&params).await.context("listing pods")?.items);
    let found = match wanted {
        Wanted::Name(name) => match pods.get_opt(name).await? {
            Some(pod) => vec![pod],
            None => list(ListParams::default().labels(&format!("{GATEWAY_NAME}={name}"))).await?,
        },
        Wanted::Labels(labels) => list(ListParams::default().labels(labels)).await?,
        Wanted::Node(node) => {
            let on_node = format!("spec.nodeName={node}");
            list(ListParams::default().labels("app=ztunnel").fields(&on_node)).await?
        }
    };
    Ok((namespace.to_owned(), found))
}

/// The container whose log is shown: the one that is named, else that which the pod says, else one of the mesh's own, else
/// the first.
fn log_of(pod: &Pod, named: Option<&str>) -> Result<Log> {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let spec = pod.spec.as_ref();
    let containers: Vec<&str> =
        spec.into_iter().flat_map(|it| &it.containers).map(|it| it.name.as_str()).collect();
    if let Some(wanted) = named {
        let all = spec.into_iter().flat_map(|it| it.init_containers.iter().flatten());
        let exists = containers.contains(&wanted) || all.into_iter().any(|it| it.name == wanted);
        ensure!(exists, "pod {name} has no container {wanted:?}; there are {}", containers.join(", "));
        return Ok(Log { pod: name, container: wanted.to_owned() });
    }
    let said = pod.metadata.annotations.as_ref().and_then(|it| it.get(DEFAULT_CONTAINER));
    let said = said.map(String::as_str).filter(|it| containers.contains(it));
    let ours = || OURS.into_iter().find(|it| containers.contains(it));
    let Some(container) = said.or_else(ours).or_else(|| containers.first().copied()) else {
        bail!("pod {name} has no containers");
    };
    if containers.len() > 1 && said.or_else(ours).is_none() {
        note(&format!("this is container {container} of {name}; there are {}", containers.join(", ")));
    }
    Ok(Log { pod: name, container: container.to_owned() })
}

fn params(args: &Args) -> LogParams {
    LogParams {
        tail_lines: args.tail.map(i64::from),
        since_seconds: args.since.map(i64::from),
        ..LogParams::default()
    }
}

/// Shows what comes of all of them, until they end or nobody reads it any more. Lines of several say whose each is.
async fn follow(args: &Args, client: &Client, namespace: &str, logs: Vec<Log>) -> Result<()> {
    let several = logs.len() > 1;
    let mut tasks = JoinSet::new();
    for Log { pod, container } in logs {
        let params = LogParams { follow: true, container: Some(container), ..params(args) };
        let path = Pod::url_path(&(), Some(namespace));
        let request = kube::core::Request::new(path).logs(&pod, &params)?;
        let head = if several { format!("{pod}: ") } else { String::new() };
        let client = client.clone();
        tasks.spawn(async move {
            let shown = pass_on(&client, request, &head).await;
            shown.with_context(|| format!("the log of {pod}"))
        });
    }
    while let Some(ended) = tasks.join_next().await {
        // Nobody reads it any more.
        if !ended?? {
            return Ok(());
        }
    }
    Ok(())
}

/// Shows the lines of one log as they come. Whether somebody has read them to the end.
async fn pass_on(client: &Client, request: http::Request<Vec<u8>>, head: &str) -> Result<bool> {
    let mut answer = client.send(request.map(Body::from)).await?;
    let status = answer.status();
    if !status.is_success() {
        let body = answer.into_body().collect().await?.to_bytes();
        bail!("the API server says {status}: {}", String::from_utf8_lossy(&body));
    }
    let mut begun = Vec::new();
    while let Some(frame) = answer.body_mut().frame().await {
        begun.extend_from_slice(frame?.data_ref().map(AsRef::as_ref).unwrap_or_default());
        if !tell(&whole_lines(&mut begun), head) {
            return Ok(false);
        }
    }
    begun.push(b'\n');
    Ok(begun.len() == 1 || tell(&begun, head))
}

/// Takes out all lines that have ended.
fn whole_lines(begun: &mut Vec<u8>) -> Vec<u8> {
    let end = begun.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let rest = begun.split_off(end);
    std::mem::replace(begun, rest)
}

/// Writes lines. Whether anybody reads them.
fn tell(lines: &[u8], head: &str) -> bool {
    let mut stdout = io::stdout().lock();
    let mut all = lines.split_inclusive(|byte| *byte == b'\n');
    all.try_for_each(|line| stdout.write_all(head.as_bytes()).and_then(|()| stdout.write_all(line)))
        .and_then(|()| stdout.flush())
        .is_ok()
}

/// What the pods of a Gateway of Kubernetes have its name in.
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
/// By which a pod says which container tools are to show.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
/// What the mesh's own containers are called.
const OURS: [&str; 3] = ["mesh-node", "discovery", "istio-proxy"];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(containers: &[&str], said: &str) -> Pod {
        let containers: Vec<_> = containers.iter().map(|name| json!({"name": name})).collect();
        let annotations = json!({DEFAULT_CONTAINER: said});
        serde_json::from_value(json!({
            "metadata": {"name": "p", "annotations": annotations},
            "spec": {"containers": containers, "initContainers": [{"name": "init"}]},
        }))
        .unwrap()
    }

    #[test]
    fn of_several_containers_the_one_that_matters_is_shown() {
        let of = |containers: &[&str], said: &str, named: Option<&str>| {
            log_of(&pod(containers, said), named).map(|it| it.container)
        };
        assert_eq!(of(&["a"], "", None).unwrap(), "a");
        assert_eq!(of(&["a", "istio-proxy"], "", None).unwrap(), "istio-proxy");
        assert_eq!(of(&["a", "b", "mesh-node"], "b", None).unwrap(), "b", "the pod says so itself");
        assert_eq!(of(&["a", "b"], "gone", None).unwrap(), "a");
        assert_eq!(of(&["a", "b"], "a", Some("b")).unwrap(), "b");
        assert_eq!(of(&["a"], "", Some("init")).unwrap(), "init");
        let refused = of(&["a", "b"], "", Some("c")).unwrap_err().to_string();
        assert_eq!(refused, "pod p has no container \"c\"; there are a, b");
        assert!(of(&[], "", None).is_err());
    }

    #[test]
    fn lines_are_shown_when_they_have_ended() {
        let mut begun = b"one\ntwo\nthr".to_vec();
        assert_eq!(whole_lines(&mut begun), b"one\ntwo\n");
        begun.extend_from_slice(b"ee\n");
        assert_eq!(whole_lines(&mut begun), b"three\n");
        assert!(whole_lines(&mut begun).is_empty() && begun.is_empty());
    }
}

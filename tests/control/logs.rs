//! `meshctl logs`, as users run it, over the suite's own API server.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use mesh_tests::apiserver::ApiServer;
use serde_json::json;

use crate::api::Cluster;
use crate::control::pod;
use crate::meshctl::Meshctl;

/// A cluster with a mesh's pods, which have written something, and a kubeconfig.
struct Bed {
    cluster: Cluster,
    meshctl: Meshctl,
}

impl Bed {
    fn new() -> Self {
        let cluster = Cluster::own();
        let meshctl = Meshctl::of(&cluster, None);
        let bed = Self { cluster, meshctl };
        bed.put(("istio-system", "node-a"), "n1", ("app", "ztunnel"), &["mesh-node"]);
        bed.put(("istio-system", "node-b"), "n2", ("app", "ztunnel"), &["mesh-node"]);
        bed.put(("istio-system", "control-a"), "n1", ("app", "istiod"), &["discovery"]);
        bed.put(("istio-system", "control-b"), "n2", ("app", "istiod"), &["discovery"]);
        let gateway = ("gateway.networking.k8s.io/gateway-name", "way");
        bed.put(("shop", "way-1"), "n1", gateway, &["helper", "istio-proxy"]);
        bed.put(("shop", "web-1"), "n1", ("app", "web"), &["main", "other"]);
        let server = bed.server();
        server.log(("istio-system", "node-a"), "mesh-node", "a1\na2\na3");
        server.log(("istio-system", "node-b"), "mesh-node", "b1");
        server.log(("istio-system", "control-a"), "discovery", "ca");
        server.log(("istio-system", "control-b"), "discovery", "cb");
        server.log(("shop", "way-1"), "istio-proxy", "proxied");
        server.log(("shop", "way-1"), "helper", "helped");
        server.log(("shop", "web-1"), "main", "mine");
        bed
    }

    fn server(&self) -> &ApiServer {
        self.cluster.ours.as_ref().expect("the suite's own")
    }

    fn put(&self, name: (&str, &str), node: &str, (label, value): (&str, &str), containers: &[&str]) {
        let mut pod = pod(name, (node, "10.0.0.1"), "x");
        pod["metadata"]["labels"] = json!({label: value});
        let containers = containers.iter().map(|name| json!({"name": name, "image": "i"}));
        pod["spec"]["containers"] = containers.collect();
        self.server().put(&pod);
    }

    fn command(&self, args: &[&str]) -> Command {
        self.meshctl.command(&[&["logs"], args].concat())
    }

    async fn logs(&self, args: &[&str]) -> Output {
        let mut command = self.command(args);
        tokio::task::spawn_blocking(move || command.output())
            .await
            .expect("no panic")
            .expect("meshctl starts")
    }

    async fn text(&self, args: &[&str]) -> String {
        let output = self.logs(args).await;
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }
}

#[tokio::test]
async fn the_log_of_whoever_is_meant_is_shown() {
    let bed = Bed::new();
    for (args, expected) in [
        (&["n1"][..], "a1\na2\na3\n"),
        (&["n2"], "b1\n"),
        (&["n1", "--tail", "2"], "a2\na3\n"),
        (&["control"], "==> control-a <==\nca\n==> control-b <==\ncb\n"),
        (&["istio-system/node-b"], "b1\n"),
        (&["shop/way"], "proxied\n"),
        (&["shop/way-1", "-c", "helper"], "helped\n"),
        (&["shop/web-1"], "mine\n"),
        (&["shop/web-1", "--container", "other"], ""),
    ] {
        assert_eq!(bed.text(args).await, expected, "{args:?}");
    }
    let said = |output: Output| String::from_utf8(output.stderr).expect("text");
    let first = bed.logs(&["shop/web-1"]).await;
    assert!(said(first).contains("this is container main of web-1; there are main, other"));
    let nobody = bed.logs(&["n9"]).await;
    assert!(!nobody.status.success());
    assert!(said(nobody).contains("there is no pod of \"n9\" in namespace \"istio-system\""));
    let wrong = said(bed.logs(&["shop/web-1", "-c", "gone"]).await);
    assert!(wrong.contains("pod web-1 has no container \"gone\"; there are main, other"), "{wrong}");
}

#[tokio::test]
async fn what_is_written_later_is_shown_as_it_comes() {
    let bed = Bed::new();
    let mut child =
        bed.command(&["control", "-f", "--tail", "1"]).stdout(Stdio::piped()).spawn().expect("it starts");
    let (sender, lines) = mpsc::channel();
    let stdout = BufReader::new(child.stdout.take().expect("piped"));
    thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let next = async || {
        for _ in 0..200 {
            match lines.try_recv() {
                Ok(line) => return line,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        panic!("nothing came");
    };
    let mut begun = [next().await, next().await];
    begun.sort();
    assert_eq!(begun, ["control-a: ca", "control-b: cb"]);
    bed.server().log(("istio-system", "control-b"), "discovery", "more");
    assert_eq!(next().await, "control-b: more");
    assert!(child.try_wait().expect("a child").is_none(), "it goes on");
    for name in ["control-a", "control-b"] {
        let path = format!("/api/v1/namespaces/istio-system/pods/{name}");
        bed.cluster.delete(&path).await.expect(200);
    }
    for _ in 0..200 {
        if let Some(status) = child.try_wait().expect("a child") {
            assert!(status.success(), "it ends with its pods");
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let _ = child.kill();
    panic!("it goes on after its pods have ended");
}

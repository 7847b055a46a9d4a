//! Pods that run already, without a plugin: found by their cgroups, in every layout that kubelets and runtimes have.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::stand::{Layout, Stand};

/// Serves and dials in a layout; `parent` is where the hooks of sockets have to be.
fn pods_are_captured(layout: Layout, parent: &str, prepare: impl FnOnce(&Stand) -> Result<()>) -> Result<()> {
    let stand = Stand::without_agent(Layout { plugin: false, ..layout })?;
    prepare(&stand)?;
    stand.start_agent()?;
    let mut pods = Vec::new();
    for name in ["server", "client"] {
        let pod = stand.pod("mesh", name)?;
        let (sandbox, ip) = stand.add(&pod)?;
        stand.serve(&sandbox)?;
        stand.publish(&pod, Some(&ip))?;
        pods.push((pod, sandbox, ip));
    }
    let [(server, _, ip), (client, from, _)] = pods.try_into().ok().context("two")?;
    stand.wait("hooks of both pods", || stand.hooks(&server) >= 3 && stand.hooks(&client) >= 3)?;
    stand.wait("a served connection", || stand.dial(&from, &ip).is_ok_and(|seen| seen.served()))?;
    let attached = Command::new("bpftool").args(["cgroup", "show"]).arg(stand.group(parent)).output()?;
    let attached = String::from_utf8_lossy(&attached.stdout).into_owned();
    ensure!(attached.contains("mesh_connect4"), "nothing is attached at {parent}: {attached}");
    Ok(())
}

#[test]
fn cgroupfs_guaranteed() -> Result<()> {
    pods_are_captured(Layout { pod: "kubepods/podUID/CID", ..Layout::default() }, "kubepods", |_| Ok(()))
}

#[test]
fn systemd_containerd() -> Result<()> {
    let pod =
        "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUNDER.slice/cri-containerd-CID.scope";
    pods_are_captured(Layout { pod, ..Layout::default() }, "kubepods.slice", |_| Ok(()))
}

#[test]
fn systemd_crio() -> Result<()> {
    let pod =
        "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUNDER.slice/crio-CID.scope/container";
    pods_are_captured(Layout { pod, ..Layout::default() }, "kubepods.slice", |_| Ok(()))
}

/// A node that is a container, as kind has it.
#[test]
fn a_node_in_a_container() -> Result<()> {
    let pod = "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/\
               kubelet-kubepods-burstable-podUNDER.slice/cri-containerd-CID.scope";
    pods_are_captured(Layout { pod, ..Layout::default() }, "kubelet.slice/kubelet-kubepods.slice", |_| Ok(()))
}

/// The agent is itself in a pod, of its node's network; another node's pods lie beside. It tells its own by where it is,
/// and takes neither itself nor the others for pods of its node.
#[test]
fn two_nodes_on_one_kernel() -> Result<()> {
    let agent =
        "node-1/kubepods/burstable/pod0a9e0000-0000-4000-8000-000000000001/0a9e0000000000000000000000000000";
    let pod = "node-1/kubepods/burstable/podUID/CID";
    pods_are_captured(Layout { pod, agent, ..Layout::default() }, "node-1/kubepods", |stand| {
        let host = "{apiVersion: v1, kind: Pod, metadata: {namespace: mesh, name: agent, uid: 0a9e0000-0000-4000-8000-000000000001}, \
                    spec: {nodeName: node-1, hostNetwork: true, containers: [{name: a, image: i}]}, status: {phase: Running}}";
        stand.object("pod-agent", host)?;
        fs::create_dir_all(stand.group("node-2/kubepods/burstable/pod0a9e0000-0000-4000-8000-000000000002"))?;
        Ok(())
    })
}

/// A runtime that knows nothing of cgroup v2 leaves its pods where it is itself; only v1 tells of them.
#[test]
fn only_v1_tells() -> Result<()> {
    let v1 = Some("kubepods/burstable/podUID/CID");
    pods_are_captured(Layout { pod: "system.slice/containerd.service", v1, ..Layout::default() }, "", |_| {
        Ok(())
    })
}

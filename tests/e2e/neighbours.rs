//! Those the mesh shares a node with: probes, host processes, pods outside, a CNI's own programs.
use anyhow::{Result, ensure};
use mesh_tests::{
    bed::Bed,
    scenario::{at, dial, manifests, start},
};

#[test]
fn others_on_the_node_are_left_alone() -> Result<()> {
    let outside = mesh_tests::scenario::pod("outside", "elsewhere", "node-1", &["netprobe", "serve", "--port", "7000"]);
    let bed = start(Bed::builder().nodes(2).manifests(manifests() + &outside))?;
    let (stranger, elsewhere) = (bed.pod("outside/stranger")?, bed.pod("outside/elsewhere")?);
    let seen = dial(&stranger, &[&at(&elsewhere)])?;
    ensure!(seen.served(), "pod to pod outside the mesh: {seen:?}");
    let node = bed.node("node-1")?;
    for pod in ["mesh/near", "outside/elsewhere"] {
        let to = at(&bed.pod(pod)?);
        let output = node.exec(&["netprobe", "dial", &to])?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(said.contains("accepted="), "a host process to {pod}: {said}");
    }
    Ok(())
}

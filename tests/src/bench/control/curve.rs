//! What one change costs at each step of its way, without any connection: in the compiler, on the shelf, for a
//! subscriber, in the model of a node, in a node's next snapshot.

use std::time::Instant;

use anyhow::Result;
use mesh_control::{
    session::{Session, View},
    shelf::Shelf,
};
use mesh_core::model::{CompileOptions, World};
use mesh_proto::{
    discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    names::ResourceType,
};

use super::{crowd::Crowd, crowd::node_name, node::Node};
use crate::bench::figures::{Metric, Sample, Summary};

/// Measures once: the medians of many changes, which others on the machine do little to.
pub(super) fn run(pods: u32) -> Result<Sample> {
    let crowd = Crowd { pods, nodes: NODES };
    let mut world = World::new(CompileOptions::default());
    crowd.objects().for_each(|object| world.upsert(&object));
    let mut shelf = Shelf::default();
    shelf.apply(world.commit());
    let mut session = subscribe(&shelf)?;
    let mut node = Node::new(&node_name(0));
    while let Some(response) = session.next(&shelf)? {
        session.request(answer(&response), &shelf)?;
        node.take(&response)?;
    }
    node.publish();
    let mut costs: [(Metric, Vec<f64>); 5] =
        [Metric::WorldUs, Metric::ShelfUs, Metric::SessionUs, Metric::MirrorUs, Metric::SnapshotUs]
            .map(|metric| (metric, Vec::new()));
    for number in 0..CHANGES {
        let objects = crowd.endpoint((number / 2).wrapping_mul(STRIDE) % pods, number % 2 == 1);
        let [compile, file, tell, apply, publish] = &mut costs;
        let news = timed(compile, || {
            objects.iter().for_each(|object| world.upsert(object));
            world.commit()
        });
        timed(file, || shelf.apply(news));
        let responses = timed(tell, || -> Result<Vec<DeltaDiscoveryResponse>> {
            let mut responses = Vec::new();
            while let Some(response) = session.next(&shelf)? {
                session.request(answer(&response), &shelf)?;
                responses.push(response);
            }
            Ok(responses)
        })?;
        anyhow::ensure!(responses.len() == 1, "a change was told in {} responses", responses.len());
        timed(apply, || responses.iter().try_for_each(|response| node.take(response).map(drop)))?;
        timed(publish, || node.publish());
    }
    let median = |(metric, times): (Metric, Vec<f64>)| Some((metric, Summary::of(&times)?.median));
    Ok(costs.into_iter().filter_map(median).collect())
}

fn subscribe(shelf: &Shelf) -> Result<Session> {
    let mut session = Session::new(View::of(Some(node_name(0).into())));
    for kind in ResourceType::ALL {
        let request =
            DeltaDiscoveryRequest { type_url: kind.url().to_owned(), ..DeltaDiscoveryRequest::default() };
        session.request(request, shelf)?;
    }
    Ok(session)
}

fn answer(response: &DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        ..DeltaDiscoveryRequest::default()
    }
}

/// Does something and notes the microseconds that it takes.
fn timed<T>((_, times): &mut (Metric, Vec<f64>), work: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let result = work();
    times.push(started.elapsed().as_secs_f64() * 1e6);
    result
}

/// As many in every mesh, so that only the number of pods differs.
const NODES: u32 = 100;
/// Enough for a median.
const CHANGES: u32 = 500;
/// Neighbours are pods of one service.
const STRIDE: u32 = 7919;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_is_measured() {
        let sample = run(200).unwrap();
        assert_eq!(sample.len(), 5);
        assert!(sample.iter().all(|(_, value)| *value > 0.0), "{sample:?}");
    }
}

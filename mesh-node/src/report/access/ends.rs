//! What lines say of the two ends of a connection, kept from one line to the next: most connections are between ends that others
//! were between, and the names of these are scattered all over memory.

use std::sync::Arc;

use mesh_core::id::SpiffeId;
use mesh_core::model::{Service, Workload};

use super::line::{Fields, about_destination, about_source};
use crate::report::series::address;
use crate::report::{ConnInfo, Direction, PseudoService};

/// The texts of pairs of ends that lines were about lately. A pair has one place, which it may have to leave to another.
#[derive(Default)]
pub(in crate::report) struct Ends(Vec<Option<Known>>);

/// A pair of ends, and what lines say of it.
struct Known {
    of: Of,
    /// Of the source, then of the destination.
    text: Vec<u8>,
    /// Where the destination's begins.
    middle: usize,
}

/// What the texts depend on. Objects are compared by address, and held, so that no other comes to stand there.
struct Of {
    json: bool,
    direction: Direction,
    datagrams: bool,
    pseudo_service: Option<PseudoService>,
    workloads: [Option<Arc<Workload>>; 2],
    service: Option<Arc<Service>>,
    identities: [Option<SpiffeId>; 2],
}

impl Ends {
    /// What a line says of its source behind the address, and of its destination behind the addresses.
    pub(super) fn texts(&mut self, info: &ConnInfo, json: bool) -> (&[u8], &[u8]) {
        if self.0.is_empty() {
            self.0.resize_with(PLACES, || None);
        }
        let place = self.0.get_mut(place(info)).expect("there are as many as there are numbers for");
        if place.as_ref().is_some_and(|known| !known.of.is(info, json)) {
            *place = None;
        }
        let known = place.get_or_insert_with(|| Known::new(info, json));
        known.text.split_at(known.middle)
    }
}

impl Known {
    fn new(info: &ConnInfo, json: bool) -> Self {
        let mut text = Vec::new();
        about_source(&mut Fields { out: &mut text, json }, info);
        let middle = text.len();
        about_destination(&mut Fields { out: &mut text, json }, info);
        text.shrink_to_fit();
        Self { of: Of::new(info, json), text, middle }
    }
}

impl Of {
    fn new(info: &ConnInfo, json: bool) -> Self {
        Self {
            json,
            direction: info.direction,
            datagrams: info.datagrams,
            pseudo_service: info.pseudo_service,
            workloads: [&info.source, &info.destination].map(|party| party.workload.clone()),
            service: info.service.clone(),
            identities: [&info.source, &info.destination].map(|party| party.identity.clone()),
        }
    }

    fn is(&self, info: &ConnInfo, json: bool) -> bool {
        let [source, destination] = &self.workloads;
        let [source_id, destination_id] = &self.identities;
        is_same(source.as_ref(), info.source.workload.as_ref())
            && is_same(destination.as_ref(), info.destination.workload.as_ref())
            && is_same(self.service.as_ref(), info.service.as_ref())
            && (self.json, self.direction, self.datagrams) == (json, info.direction, info.datagrams)
            && self.pseudo_service == info.pseudo_service
            && *source_id == info.source.identity
            && *destination_id == info.destination.identity
    }
}

fn is_same<T>(one: Option<&Arc<T>>, other: Option<&Arc<T>>) -> bool {
    address(one) == address(other)
}

/// Where the texts of a pair are kept. The two reports of a connection between pods of one node have a place each.
fn place(info: &ConnInfo) -> usize {
    let workloads = [&info.source, &info.destination].map(|party| address(party.workload.as_ref()));
    let mix = |sum: usize, address: usize| (sum ^ address).wrapping_mul(MIXER);
    let sum = workloads.into_iter().fold(address(info.service.as_ref()), mix);
    ((sum >> MIXED) ^ usize::from(info.direction == Direction::Inbound)) % PLACES
}

/// Pairs whose texts a thread keeps, half a kilobyte each. What was configured before is held no longer than its place is not needed.
const PLACES: usize = 128;
/// Odd, and larger than the bits of an address that differ, so that these have their say in the bits from [`MIXED`] on.
const MIXER: usize = 0x9e37_79b1;
const MIXED: u32 = 24;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Party;
    use crate::report::tests::{id, info, service, workload};

    /// How many values of each thing that a line says of ends there are in [`all`].
    const VALUES: [usize; 9] = [3, 3, 3, 3, 3, 3, 2, 2, 2];

    /// Every combination of these, as a number in which the first changes fastest.
    fn all() -> Vec<(ConnInfo, bool)> {
        let workloads = [None, Some(workload("client")), Some(workload("server"))];
        let services = [None, Some(service("server")), Some(service("other"))];
        let identities = [None, Some(id("client")), Some(id("server"))];
        let party = |workload: usize, identity: usize| Party {
            addr: ([10, 0, 0, 1], 80).into(),
            workload: workloads[workload].clone(),
            identity: identities[identity].clone(),
        };
        let combine = |mut number: usize| {
            let [from, from_id, to, to_id, service, direction, pseudo, datagrams, json] =
                VALUES.map(|count| {
                    let which = number % count;
                    number /= count;
                    which
                });
            let about = ConnInfo {
                source: party(from, from_id),
                destination: party(to, to_id),
                service: services[service].clone(),
                pseudo_service: [None, Some(PseudoService::Passthrough)][pseudo],
                datagrams: datagrams == 1,
                ..info(Direction::ALL[direction])
            };
            (about, json == 1)
        };
        (0..VALUES.iter().product()).map(combine).collect()
    }

    #[test]
    fn what_was_kept_is_used_for_nothing_else() {
        let all = all();
        for (number, (info, json)) in all.iter().enumerate() {
            let of = Of::new(info, *json);
            assert!(of.is(info, *json));
            let mut weight = 1;
            for count in VALUES {
                // The same but for one thing.
                let other = if number / weight % count + 1 < count { number + weight } else { number };
                let (info, json) = &all[other];
                assert_eq!(of.is(info, *json), other == number, "{number} and {other}");
                weight *= count;
            }
        }
    }

    #[test]
    fn what_was_kept_is_what_would_be_written() {
        let (all, mut ends) = (all(), Ends::default());
        // Others come to places that were taken.
        for stride in [1, 1_001] {
            for (info, json) in all.iter().cycle().step_by(stride).take(all.len()) {
                for _ in 0..2 {
                    let known = Known::new(info, *json);
                    let expected = known.text.split_at(known.middle);
                    assert_eq!(ends.texts(info, *json), expected, "{info:?}");
                }
            }
        }
    }

    #[test]
    fn connections_that_are_alike_share_texts_and_others_have_places_of_their_own() {
        let mut ends = Ends::default();
        let (client, servers) = (workload("client"), (0..32).map(|n| workload(&format!("server-{n}"))));
        let to = |server: &Arc<Workload>, direction| {
            let mut info = info(direction);
            info.source.workload = Some(Arc::clone(&client));
            info.destination.workload = Some(Arc::clone(server));
            info.service = None;
            info
        };
        let servers: Vec<_> = servers.collect();
        let mut seen = |server, direction| ends.texts(&to(server, direction), false).0.as_ptr();
        let first: Vec<_> = servers.iter().map(|server| seen(server, Direction::Outbound)).collect();
        let again = servers.iter().zip(first).filter(|(server, at)| seen(server, Direction::Outbound) == *at);
        assert!(again.count() > 16, "few of 32 pairs have kept their place");
        let both = [Direction::Outbound, Direction::Inbound];
        let first = both.map(|direction| seen(&servers[0], direction));
        assert_eq!(
            both.map(|direction| seen(&servers[0], direction)),
            first,
            "ends of one node's connections"
        );
    }

    #[test]
    fn nothing_is_kept_of_an_object_that_another_has_replaced() {
        let mut ends = Ends::default();
        let before = info(Direction::Outbound);
        let text = |ends: &mut Ends, info| String::from_utf8(ends.texts(info, false).0.to_vec()).unwrap();
        assert!(text(&mut ends, &before).contains("client-1"));
        let mut after = before.clone();
        let mut renamed = Workload::clone(before.source.workload.as_ref().unwrap());
        renamed.name = "client-2".into();
        after.source.workload = Some(Arc::new(renamed));
        assert!(text(&mut ends, &after).contains("client-2"));
        assert!(text(&mut ends, &before).contains("client-1"));
    }
}

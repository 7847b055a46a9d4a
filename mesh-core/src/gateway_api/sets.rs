//! What users are told of their ListenerSets.

use std::collections::BTreeMap;

use super::status::{ACCEPTED, LISTENERS_INVALID, ListenerSetStatus, PROGRAMMED, Report};
use super::{
    Condition, Facts, Gateway, Listener, ListenerSet, ListenerStatus, Name, Owner, OwnerKind, Resources,
};

/// Of all Gateways, their listeners, and how many routes are at each.
type Known<'k, 'n, 'a> = (&'k BTreeMap<Name<'n>, Vec<Listener<'a>>>, &'k BTreeMap<Name<'n>, Vec<usize>>);

impl<'a> Resources<'a> {
    /// Adds what there is to tell of ListenerSets; of Gateways everything has been told already.
    pub(super) fn report_sets(
        &self,
        (listeners, attached): Known<'_, '_, 'a>,
        facts: &Facts,
        report: &mut Report<'a>,
    ) {
        // One pass over the listeners of a Gateway, however many sets it has.
        let mut by_set: BTreeMap<Name<'a>, Vec<ListenerStatus>> = BTreeMap::new();
        for gateway in self.gateways() {
            let own = listeners.get(&gateway.name()).into_iter().flatten();
            let counts = attached.get(&gateway.name()).into_iter().flatten();
            for (listener, count) in own.zip(counts) {
                let Owner { kind: OwnerKind::ListenerSet, name } = listener.owner else { continue };
                let status = self.listener_status(gateway, (listener, *count), facts);
                by_set.entry(name).or_default().push(status);
            }
        }
        for (set, gateway) in self.listener_sets() {
            let listeners = by_set.remove(&set.name()).unwrap_or_default();
            let of_gateway = report.gateways.get(&gateway.object.key());
            let accepted = of_gateway.and_then(|it| it.conditions.iter().find(|it| it.sort == ACCEPTED));
            let conditions = self.of_set((set, &gateway), &listeners, accepted);
            report.sets.insert(set.object.key(), ListenerSetStatus { conditions, listeners });
        }
    }

    fn of_set(
        &self,
        (set, gateway): (&ListenerSet<'a>, &Gateway<'a>),
        listeners: &[ListenerStatus],
        of_gateway: Option<&Condition>,
    ) -> Vec<Condition> {
        let good = listeners.iter().filter(|it| it.holds(ACCEPTED)).count();
        let served = listeners.iter().filter(|it| it.holds(PROGRAMMED)).count();
        let both = |reason, message: &str| {
            vec![
                Condition::new(ACCEPTED, false, reason, message),
                Condition::new(PROGRAMMED, false, reason, "it is not accepted"),
            ]
        };
        if !self.takes(gateway, set) {
            let message =
                "the allowedListeners of the Gateway do not include the namespace of the ListenerSet";
            return both("NotAllowed", message);
        }
        // A Gateway none of whose own listeners is any good has those that others add all the same.
        if of_gateway.is_none_or(|it| !it.holds && it.reason != LISTENERS_INVALID) {
            return both("ParentNotAccepted", "the Gateway is not accepted, see its conditions");
        }
        if good == 0 {
            return both(LISTENERS_INVALID, "none of its listeners is served, see their conditions");
        }
        let accepted = match listeners.len() - good {
            0 => Condition::new(ACCEPTED, true, "Accepted", "the Gateway has its listeners"),
            bad => {
                let message = format!("{bad} of its listeners are not served, see their conditions");
                Condition::new(ACCEPTED, true, LISTENERS_INVALID, message)
            }
        };
        let programmed = match served {
            0 => Condition::new(PROGRAMMED, false, "Invalid", "none of its listeners is served"),
            _ => Condition::new(PROGRAMMED, true, "Programmed", "gateways are told of it"),
        };
        vec![accepted, programmed]
    }
}

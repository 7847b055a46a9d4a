//! Which policies are for a gateway, and what they say of those who come to it.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use mesh_core::model::Snapshot;
use mesh_core::own::Own;
use mesh_core::policy::{Connection, Decision, DeniedBy, Gate, Notes, Question, Seen, Targeted};

use crate::l7::engine::Engine;
use crate::l7::site::{Facts, Guard};

/// The policies of a gateway as a data thread knows them.
#[derive(Default)]
pub(super) struct EdgePolicies(RefCell<Option<Known>>);

/// What is in force, and in which version of the configuration for whom.
struct Known {
    snapshot: Arc<Snapshot>,
    own: Arc<Own>,
    gate: Rc<Gate>,
}

impl EdgePolicies {
    /// Whether there is any now.
    pub(super) fn guard(&self, engine: &Engine) -> Guard {
        if self.gate(engine).is_empty() { Guard::Later } else { Guard::Now }
    }

    /// What they say of a connection, or of a request on it.
    pub(super) fn decide(
        &self,
        engine: &Engine,
        facts: &Facts,
        (seen, approved): (Seen<'_>, &[Arc<str>]),
    ) -> Decision<Notes> {
        let Some(destination) = facts.local else { return DeniedBy::WrongDestination.into() };
        let connection = Connection {
            peer: facts.identity.as_ref(),
            source_ip: facts.peer.ip(),
            destination,
            encrypted: facts.secure,
        };
        self.gate(engine).decide(&Question { connection: &connection, seen, approved })
    }

    fn gate(&self, engine: &Engine) -> Rc<Gate> {
        let snapshot = engine.snapshot();
        // Whoever does not know who it is does not know what is for it.
        let Some(own) = engine.client.own().filter(|_| snapshot.is_loaded()) else { return Rc::default() };
        let mut known = self.0.borrow_mut();
        let current = known.as_ref().filter(|it| Arc::ptr_eq(&it.snapshot, &snapshot) && it.own == own);
        if let Some(current) = current {
            return Rc::clone(&current.gate);
        }
        let gate = Rc::new(Targeted::of_gateway(&snapshot, &own).gate(None));
        *known = Some(Known { snapshot, own, gate: Rc::clone(&gate) });
        gate
    }
}

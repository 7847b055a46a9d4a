//! Two objects that claim the same thing: both hear of it, because either may be the one to change.

use std::collections::HashSet;

use super::{Code, Message};
use crate::resource::{Object, ObjectKey};

/// A field of an object that claims something.
#[derive(Debug, Clone)]
pub(super) struct Claim<'a> {
    pub(super) object: &'a Object,
    pub(super) field: String,
}

/// Tells of conflicts of one kind, each field of an object once.
#[derive(Debug)]
pub(super) struct Conflicts<'m> {
    code: Code,
    hint: &'static str,
    messages: &'m mut Vec<Message>,
    told: HashSet<(ObjectKey, String)>,
}

impl Claim<'_> {
    /// Whether it is of the same object.
    pub(super) fn is_of(&self, object: &Object) -> bool {
        // Two of one name are no conflict of what they claim, but of their name.
        self.object.key() == object.key()
    }
}

impl<'m> Conflicts<'m> {
    pub(super) fn new(code: Code, hint: &'static str, messages: &'m mut Vec<Message>) -> Self {
        Self { code, hint, messages, told: HashSet::new() }
    }

    /// Tells both of `claims`; `reason` is given the other's name.
    pub(super) fn tell(&mut self, claims: [&Claim<'_>; 2], reason: impl Fn(&ObjectKey) -> String) {
        let [one, two] = claims;
        for (own, other) in [(one, two), (two, one)] {
            if self.told.insert((own.object.key(), own.field.clone())) {
                let reason = reason(&other.object.key());
                let message = Message::new(self.code, own.object, &own.field, reason);
                self.messages.push(message.hint(self.hint));
            }
        }
    }
}

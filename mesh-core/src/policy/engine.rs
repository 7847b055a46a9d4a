//! Decides about connections to a workload, and about the requests on them.
//!
//! The order is Istio's: PeerAuthentication, then what a CUSTOM policy matches is for somebody else to decide, then any
//! DENY match denies, then no ALLOW policy at all allows, then any ALLOW match allows, and everything else is denied.

use super::request::Seen;
use super::rule::Attributes;
use super::{Connection, Decision, Denied, DeniedBy, Permit, PolicySet, Question};
use crate::model::Workload;
use crate::net::{canonical, canonical_ip};

impl PolicySet {
    /// Decides whether `connection` may reach `workload`, whatever it carries: whatever needs more than addresses and
    /// identities gets the strict answer, and so does what somebody else would have to be asked about.
    ///
    /// The permit is for [`Connection::destination`], which must be an address of the workload.
    pub fn authorize(&self, workload: &Workload, connection: &Connection<'_>) -> Result<Permit, Denied> {
        self.decide(workload, &Question { connection, seen: Seen::Unread, approved: &[] }).strict()
    }

    /// Decides about a connection as far as it was looked into, or about one of its requests.
    ///
    /// Called for every connection and every request: looks the workload up once, tries only policies that apply to it,
    /// and does not allocate.
    pub fn decide(&self, workload: &Workload, question: &Question<'_>) -> Decision<Permit> {
        if !self.loaded {
            return DeniedBy::NotLoaded.into();
        }
        let Some(effective) = self.effective.get(&workload.uid) else {
            return DeniedBy::UnknownWorkload.into();
        };
        let attributes = question.attributes();
        if !workload.has_ip(attributes.destination.ip()) {
            return DeniedBy::WrongDestination.into();
        }
        effective
            .decide(&attributes, question.approved)
            .map(|notes| Permit::mint(attributes.destination, notes))
    }
}

impl<'a> Question<'a> {
    pub(super) fn attributes(&self) -> Attributes<'a> {
        let Connection { peer, source_ip, destination, .. } = *self.connection;
        Attributes {
            peer,
            source_ip: canonical_ip(source_ip),
            destination: canonical(destination),
            seen: self.seen,
        }
    }
}

//! What is asked, and what is answered.

use std::sync::Arc;

use super::request::Seen;
use super::rule::{Effect, Policy};
use super::{Connection, Denied, DeniedBy, PolicyName};

/// What policy is asked about.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// Who connects to what.
    pub connection: &'a Connection<'a>,
    /// What is known of what it carries.
    pub seen: Seen<'a>,
    /// The external authorizers (providers of `MeshConfig`) that were asked about just this, and have nothing against it.
    pub approved: &'a [Arc<str>],
}

/// What policy says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "nothing is decided by a decision that nobody looks at"]
pub enum Decision<T> {
    /// It may be.
    Allowed(T),
    /// It may not.
    Denied(Denied),
    /// That depends on what the connection carries: ask again for each request, or once it is known that there are none.
    /// Only ever an answer to [`Seen::Nothing`].
    NeedsRequest,
    /// That is for somebody else to say: ask them, and if they allow it, ask again with [`Question::approved`]. Whoever cannot
    /// ask them denies.
    NeedsExternal(External),
}

/// Who is to be asked, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct External {
    /// The policy that says so.
    pub policy: Arc<PolicyName>,
    /// Index into its `spec.rules`.
    pub rule: usize,
    /// The provider of `MeshConfig`.
    pub provider: Arc<str>,
}

/// What is to be recorded of something that is allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notes {
    /// The ALLOW policy that has allowed it; `None` where none applies.
    pub allowed_by: Option<Arc<PolicyName>>,
    /// The dry-run policy that would have denied it if it were enforced.
    pub would_be_denied: Option<Arc<PolicyName>>,
    /// The first AUDIT policy that matched.
    pub audited: Option<Arc<PolicyName>>,
}

impl<T> Decision<T> {
    /// The answer where nothing more can be found out and nobody can be asked.
    pub fn strict(self) -> Result<T, Denied> {
        match self {
            Self::Allowed(proof) => Ok(proof),
            Self::Denied(denied) => Err(denied),
            Self::NeedsExternal(External { policy, rule, .. }) => {
                Err(DeniedBy::Policy { policy, rule }.into())
            }
            // Never an answer where it is too late to ask again.
            Self::NeedsRequest => Err(DeniedBy::Undecided.into()),
        }
    }

    /// With something else for what is allowed.
    pub(super) fn map<U>(self, with: impl FnOnce(T) -> U) -> Decision<U> {
        match self {
            Self::Allowed(proof) => Decision::Allowed(with(proof)),
            Self::Denied(denied) => Decision::Denied(denied),
            Self::NeedsRequest => Decision::NeedsRequest,
            Self::NeedsExternal(external) => Decision::NeedsExternal(external),
        }
    }
}

impl<T> From<DeniedBy> for Decision<T> {
    fn from(by: DeniedBy) -> Self {
        Self::Denied(by.into())
    }
}

impl External {
    /// `None` if the policy does not say whom to ask.
    pub(super) fn of(policy: &Policy, rule: usize) -> Option<Self> {
        let provider = policy.provider.clone().filter(|_| policy.effect == Effect::Custom)?;
        Some(Self { policy: Arc::clone(&policy.name), rule, provider })
    }
}

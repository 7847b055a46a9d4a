//! Join tokens: how a machine outside of Kubernetes gets its first certificate.
//!
//! A token stands for one node or one identity, for a number of uses and a time. It is shown once, when it is made; what
//! is kept is the hash of it, and that is compared in constant time. A use is written down before it counts, so that a
//! token for one use is good for one, whoever races for it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use mesh_core::id::SpiffeId;

use crate::audit;
use crate::authorize::{Binding, Caller, NODE_NAMESPACE};
use crate::random::{hex, random, sha256};
use crate::vault::{Change, Vault, VaultError};

mod ledger;

use ledger::{Ledger, Record};

/// The join tokens of a vault of their own.
pub struct JoinTokens {
    vault: Arc<dyn Vault>,
}

/// What a new token is good for.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Whom it stands for.
    pub binding: Binding,
    /// How many times it lets somebody in, 1 to [`MAX_USES`].
    pub uses: u32,
    /// For how long it does, at most [`MAX_LIFETIME`].
    pub lifetime: Duration,
}

/// A token as the one who joins has it. It exists in full here and with them, nowhere else.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    id: [u8; ID_BYTES],
    secret: [u8; SECRET_BYTES],
}

/// A token as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenStatus {
    /// What it is revoked by; also its second part.
    pub id: String,
    /// Whom it stands for.
    pub binding: Binding,
    /// How many times it will still let somebody in.
    pub uses_left: u32,
    /// When it was made.
    pub created: SystemTime,
    /// Until when it is good.
    pub expires: SystemTime,
}

/// Why a token could not be made, or lets nobody in.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Not the form of a token.
    #[error("this is not a join token")]
    Malformed,
    /// No such token: never made, revoked, used up, or with another secret. Which of these is nobody's business.
    #[error("the join token is not known, or no longer")]
    Unknown,
    /// Its time is over.
    #[error("the join token has expired")]
    Expired,
    /// A number of uses or a lifetime outside of the limits.
    #[error(
        "a join token is for 1 to {MAX_USES} uses and at most {} days",
        MAX_LIFETIME.as_secs() / 86_400
    )]
    Terms,
    /// The identity of a node was asked for as that of a workload.
    #[error("{0} is the identity of a node: bind the token to the node instead")]
    NodeIdentity(SpiffeId),
    /// [`MAX_TOKENS`] are there already.
    #[error("there are {MAX_TOKENS} join tokens already: revoke some")]
    TooMany,
    /// The vault failed.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// What the vault holds are no tokens.
    #[error("{place}: {reason}")]
    Corrupt {
        /// The entry.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl JoinError {
    /// Stable token for metrics and logs.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Malformed => "join_malformed",
            Self::Unknown => "join_unknown",
            Self::Expired => "join_expired",
            Self::Terms => "join_terms",
            Self::NodeIdentity(_) => "node_identity",
            Self::TooMany => "join_too_many",
            Self::Vault(e) => e.reason(),
            Self::Corrupt { .. } => "join_corrupt",
        }
    }
}

impl JoinTokens {
    /// The tokens that `vault` keeps; for example [`crate::FileVault::join`].
    pub fn new(vault: Arc<dyn Vault>) -> Self {
        Self { vault }
    }

    /// Makes a token. This is the only time that anybody sees it.
    pub async fn create(&self, terms: Terms, now: SystemTime) -> Result<JoinToken, JoinError> {
        if !(1..=MAX_USES).contains(&terms.uses) || terms.lifetime.is_zero() || terms.lifetime > MAX_LIFETIME
        {
            return Err(JoinError::Terms);
        }
        if let Binding::Identity(id) = &terms.binding
            && id.namespace() == NODE_NAMESPACE
        {
            return Err(JoinError::NodeIdentity(id.clone()));
        }
        let token = JoinToken { id: random(), secret: random() };
        self.change(now, |ledger| ledger.insert(token.id_hex(), Record::new(&token, &terms, now))).await?;
        audit::join_token("created", &token.id_hex(), &terms.binding);
        Ok(token)
    }

    /// All tokens that are still good at `now`, by id.
    pub async fn list(&self, now: SystemTime) -> Result<Vec<TokenStatus>, JoinError> {
        let mut ledger = Ledger::load(&self.vault.read().await?)?;
        ledger.drop_expired(now);
        Ok(ledger.statuses())
    }

    /// Makes the token `id` good for nothing. Whoever has joined with it keeps what they have got.
    pub async fn revoke(&self, id: &str, now: SystemTime) -> Result<(), JoinError> {
        let binding = self.change(now, |ledger| ledger.remove(id).ok_or(JoinError::Unknown)).await?;
        audit::join_token("revoked", id, &binding);
        Ok(())
    }

    /// Takes one use of the token in `text` and says whom it stands for.
    ///
    /// The use is gone then, whatever comes of it: look at the rest of a request first.
    pub async fn redeem(&self, text: &str, now: SystemTime) -> Result<Caller, JoinError> {
        let token = JoinToken::parse(text)?;
        let binding = self.change(now, |ledger| ledger.take(&token, now)).await?;
        audit::join_token("used", &token.id_hex(), &binding);
        Ok(Caller::JoinToken(binding))
    }

    /// Reads, changes and writes, again if somebody else was faster.
    async fn change<T>(
        &self,
        now: SystemTime,
        mut edit: impl FnMut(&mut Ledger) -> Result<T, JoinError>,
    ) -> Result<T, JoinError> {
        let mut attempts = WRITE_ATTEMPTS;
        loop {
            let contents = self.vault.read().await?;
            let mut ledger = Ledger::load(&contents)?;
            // Its outcome comes first: an expired token is told apart from one that never was.
            let outcome = edit(&mut ledger)?;
            ledger.drop_expired(now);
            attempts -= 1;
            match self.vault.write(&contents, &[Change::put(ENTRY, ledger.to_text())]).await {
                Ok(()) => return Ok(outcome),
                Err(VaultError::Conflict { .. }) if attempts > 0 => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

impl fmt::Debug for JoinTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinTokens")
    }
}

impl JoinToken {
    /// Takes the form that [`JoinToken::text`] gives.
    pub fn parse(text: &str) -> Result<Self, JoinError> {
        let rest = text.strip_prefix(PREFIX).ok_or(JoinError::Malformed)?;
        let (id, secret) = rest.split_once('.').ok_or(JoinError::Malformed)?;
        let id = unhex(id).ok_or(JoinError::Malformed)?;
        let secret = unhex(secret).ok_or(JoinError::Malformed)?;
        Ok(Self { id, secret })
    }

    /// What is handed to whoever joins. A secret.
    pub fn text(&self) -> String {
        format!("{PREFIX}{}.{}", hex(&self.id), hex(&self.secret))
    }

    /// The part that is no secret: what it is listed and revoked by.
    pub fn id_hex(&self) -> String {
        hex(&self.id)
    }

    fn hash(&self) -> [u8; 32] {
        sha256(&self.secret)
    }
}

impl fmt::Debug for JoinToken {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({})", self.id_hex())
    }
}

/// Exactly `2 * N` lower-case hexadecimal digits.
fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() || pairs.len() != N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

/// All entries of a vault of join tokens.
pub(crate) const FILES: &[&str] = &[ENTRY];
const ENTRY: &str = "join-tokens.json";
/// So that people and secret scanners know one when they see it.
const PREFIX: &str = "mesh-join.";
const ID_BYTES: usize = 8;
/// As hard to guess as a key: a plain hash of it needs no salt and no slowness.
const SECRET_BYTES: usize = 32;
/// Tokens at one time: some for each of a few hundred machines that join together.
pub const MAX_TOKENS: usize = 1_000;
/// Uses of one token: an image for a large group of machines.
pub const MAX_USES: u32 = 10_000;
/// A token that outlives the month is a password.
pub const MAX_LIFETIME: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Each attempt that fails is somebody else's that succeeded.
const WRITE_ATTEMPTS: u32 = 32;

#[cfg(test)]
mod tests;

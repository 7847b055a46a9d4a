//! The tokens that are kept, as one small JSON text.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use mesh_core::id::SpiffeId;
use serde::{Deserialize, Serialize};

use super::{
    Binding, ENTRY, JoinError, JoinToken, MAX_TOKENS, Terms, TokenStatus, unhex, verify_slices_are_equal,
};
use crate::authorize::NodeName;
use crate::random::hex;
use crate::vault::Contents;

/// All tokens by id.
#[derive(Debug, Default, Clone)]
pub(super) struct Ledger {
    records: BTreeMap<String, Record>,
}

/// One token.
#[derive(Debug, Clone)]
pub(super) struct Record {
    /// SHA-256 of the secret.
    hash: [u8; 32],
    binding: Binding,
    uses_left: u32,
    created: SystemTime,
    expires: SystemTime,
}

/// A token as it is written down.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Line {
    hash: String,
    binding: BindingLine,
    uses_left: u32,
    created: u64,
    expires: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum BindingLine {
    Node(String),
    Identity(String),
}

impl Ledger {
    pub(super) fn load(contents: &Contents) -> Result<Self, JoinError> {
        let Some(text) = contents.get(ENTRY) else { return Ok(Self::default()) };
        let corrupt = |reason: String| JoinError::Corrupt { place: contents.place_of(ENTRY), reason };
        let lines: BTreeMap<String, Line> =
            serde_json::from_slice(text).map_err(|e| corrupt(e.to_string()))?;
        let record = |(id, line): (String, Line)| match line.parse() {
            Some(record) => Ok((id, record)),
            None => Err(corrupt(format!("the token {id} is malformed"))),
        };
        Ok(Self { records: lines.into_iter().map(record).collect::<Result<_, _>>()? })
    }

    pub(super) fn to_text(&self) -> Vec<u8> {
        let lines: BTreeMap<&str, Line> =
            self.records.iter().map(|(id, record)| (&**id, Line::of(record))).collect();
        serde_json::to_vec_pretty(&lines).expect("numbers and texts are JSON")
    }

    pub(super) fn insert(&mut self, id: String, record: Record) -> Result<(), JoinError> {
        self.drop_expired(record.created);
        if self.records.len() >= MAX_TOKENS {
            return Err(JoinError::TooMany);
        }
        self.records.insert(id, record);
        Ok(())
    }

    pub(super) fn remove(&mut self, id: &str) -> Option<Binding> {
        self.records.remove(id).map(|record| record.binding)
    }

    /// Takes one use of `token`; the last one takes the token with it.
    pub(super) fn take(&mut self, token: &JoinToken, now: SystemTime) -> Result<Binding, JoinError> {
        let id = token.id_hex();
        let record = self.records.get_mut(&id).ok_or(JoinError::Unknown)?;
        verify_slices_are_equal(&record.hash, &token.hash()).map_err(|_| JoinError::Unknown)?;
        if now >= record.expires {
            return Err(JoinError::Expired);
        }
        record.uses_left = record.uses_left.saturating_sub(1);
        let (binding, used_up) = (record.binding.clone(), record.uses_left == 0);
        if used_up {
            self.records.remove(&id);
        }
        Ok(binding)
    }

    pub(super) fn drop_expired(&mut self, now: SystemTime) {
        self.records.retain(|_, record| now < record.expires);
    }

    pub(super) fn statuses(&self) -> Vec<TokenStatus> {
        let status = |(id, record): (&String, &Record)| TokenStatus {
            id: id.clone(),
            binding: record.binding.clone(),
            uses_left: record.uses_left,
            created: record.created,
            expires: record.expires,
        };
        self.records.iter().map(status).collect()
    }
}

impl Record {
    pub(super) fn new(token: &JoinToken, terms: &Terms, now: SystemTime) -> Self {
        Self {
            hash: token.hash(),
            binding: terms.binding.clone(),
            uses_left: terms.uses,
            created: now,
            expires: now + terms.lifetime,
        }
    }
}

impl Line {
    fn of(record: &Record) -> Self {
        let binding = match &record.binding {
            Binding::Node(name) => BindingLine::Node(name.to_string()),
            Binding::Identity(id) => BindingLine::Identity(id.to_string()),
        };
        let (created, expires) = (seconds(record.created), seconds(record.expires));
        Self { hash: hex(&record.hash), binding, uses_left: record.uses_left, created, expires }
    }

    /// `None` if anything in it cannot be: a token of which something is wrong lets nobody in.
    fn parse(self) -> Option<Record> {
        let binding = match self.binding {
            BindingLine::Node(name) => Binding::Node(NodeName::parse(&name).ok()?),
            BindingLine::Identity(id) => Binding::Identity(SpiffeId::parse(&id).ok()?),
        };
        Some(Record {
            hash: unhex(&self.hash)?,
            binding,
            uses_left: Some(self.uses_left).filter(|uses| *uses > 0)?,
            created: time(self.created)?,
            expires: time(self.expires)?,
        })
    }
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn time(seconds: u64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

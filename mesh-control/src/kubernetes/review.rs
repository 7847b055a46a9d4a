//! Who holds the token of a service account: only the API server can tell, as a token is worth nothing once its pod is
//! gone, whatever its signature says.
//!
//! A good answer is remembered for a moment, by a hash of the token: a node asks for the certificates of all its pods
//! with the same one. A bad answer is not, so that nobody can fill the memory with tokens that they make up; they are
//! held back by the number of questions at one time.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::api::{Api, PostParams};
use mesh_ca::authorize::Caller;
use mesh_ca::token_review;
use mesh_source::kubernetes::Client;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::call;
use crate::authn::{ReviewError, ReviewToken};

/// Asks the API server, one question for each token and moment.
pub struct Reviewer {
    reviews: Api<TokenReview>,
    audiences: Vec<String>,
    known: Mutex<Known>,
    questions: Semaphore,
}

/// Answers that still count.
#[derive(Debug, Default)]
struct Known(HashMap<[u8; 32], (Instant, Caller)>);

impl Reviewer {
    /// Asks with `client`. A token must be for one of `audiences`.
    pub(super) fn new(client: Client, audiences: Vec<String>) -> Self {
        Self {
            reviews: Api::all(client),
            audiences,
            known: Mutex::default(),
            questions: Semaphore::new(QUESTIONS),
        }
    }

    async fn find(&self, token: &str) -> Result<Caller, ReviewError> {
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        if let Some(caller) = self.known().get(&key, Instant::now()) {
            return Ok(caller);
        }
        let unavailable = ReviewError::Unavailable;
        let place = timeout(WAIT, self.questions.acquire()).await;
        let Ok(Ok(_place)) = place else {
            return Err(unavailable("too many tokens are being checked".to_owned()));
        };
        let asked = Instant::now();
        let spec = TokenReviewSpec { audiences: Some(self.audiences.clone()), token: token.to_owned() };
        let review = TokenReview { spec, ..TokenReview::default() };
        let answer = call(self.reviews.create(&PostParams::default(), &review)).await;
        let answer = answer.map_err(|error| unavailable(error.to_string()))?;
        let caller = token_review::parse(&answer.status.unwrap_or_default(), &self.audiences);
        let caller = caller.map_err(|error| ReviewError::Refused(error.to_string()))?;
        self.known().put(key, asked, caller.clone());
        Ok(caller)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReviewToken for Reviewer {
    fn review<'a>(
        &'a self,
        token: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Caller, ReviewError>> + Send + 'a>> {
        Box::pin(self.find(token))
    }
}

impl Known {
    fn get(&self, key: &[u8; 32], now: Instant) -> Option<Caller> {
        let (asked, caller) = self.0.get(key)?;
        (now.saturating_duration_since(*asked) < MEMORY).then(|| caller.clone())
    }

    /// Remembers an answer, unless there are too many that still count.
    fn put(&mut self, key: [u8; 32], asked: Instant, caller: Caller) {
        if self.0.len() >= MAX_KNOWN {
            self.0.retain(|_, (since, _)| asked.saturating_duration_since(*since) < MEMORY);
        }
        if self.0.len() < MAX_KNOWN {
            self.0.insert(key, (asked, caller));
        }
    }
}

impl fmt::Debug for Reviewer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reviewer").field("audiences", &self.audiences).finish_non_exhaustive()
    }
}

/// For so long a token may outlive its pod.
const MEMORY: Duration = Duration::from_secs(10);
/// Answers that are remembered: more than a mesh of thousands of nodes asks for in [`MEMORY`].
const MAX_KNOWN: usize = 10_000;
/// Questions at one time: what an API server answers without noticing.
const QUESTIONS: usize = 32;
/// How long a caller waits for the turn of its token.
const WAIT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;

//! Whose turn it is to say what it has. Reading that takes memory, so few do it at once; and a machine that takes long
//! holds up itself, not the others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

/// The turns there are.
#[derive(Debug)]
pub struct Turns {
    all: Semaphore,
    /// Of each machine that has one or waits for one.
    own: Mutex<HashMap<IpAddr, Weak<Semaphore>>>,
}

/// Held while it lasts.
#[derive(Debug)]
pub struct Turn<'a> {
    _all: SemaphorePermit<'a>,
    _own: OwnedSemaphorePermit,
}

impl Turns {
    /// Waits for a turn of `machine`.
    pub async fn take(&self, machine: IpAddr) -> Turn<'_> {
        let own = self.own(machine);
        // Its own first: whoever waits for the others' turns to end holds none of them.
        let own = own.acquire_owned().await.expect("nobody closes a machine's turns");
        let all = self.all.acquire().await.expect("nobody closes the turns");
        Turn { _all: all, _own: own }
    }

    fn own(&self, machine: IpAddr) -> Arc<Semaphore> {
        let mut machines = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = machines.get(&machine).and_then(Weak::upgrade) {
            return own;
        }
        machines.retain(|_, own| own.strong_count() > 0);
        let own = Arc::new(Semaphore::new(OF_ONE_MACHINE));
        machines.insert(machine, Arc::downgrade(&own));
        own
    }
}

impl Default for Turns {
    fn default() -> Self {
        Self { all: Semaphore::new(AT_ONCE), own: Mutex::default() }
    }
}

/// What 8 nodes of a mesh of 100,000 pods have to say takes some 250 MB while it is read.
const AT_ONCE: usize = 8;
/// A node has one stream, and for a moment two when it restarts.
const OF_ONE_MACHINE: usize = 2;

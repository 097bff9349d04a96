//! Admission: how many at once, of all and of any one client: payments at work, and follow-ups that wait for their turn.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::key::Client;

/// Permits for payments under way, or places to wait in. A caller who merely waits for another's answer holds none.
#[derive(Debug)]
pub struct Admission {
    permits_max: usize,
    per_client_max: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    total: usize,
    by_client: HashMap<Client, usize>,
}

/// One payment under way, or waiting. Moves into the payment's task and is given back when that ends, however it ends.
#[derive(Debug)]
pub struct Permit {
    admission: Arc<Admission>,
    client: Client,
}

impl Admission {
    /// At the bound a payment is refused with `503` and nothing is recorded.
    pub fn new(permits_max: usize, per_client_max: usize) -> Arc<Self> {
        Arc::new(Self {
            permits_max,
            per_client_max,
            taken: Mutex::default(),
        })
    }

    pub fn try_admit(self: &Arc<Self>, client: &Client) -> Option<Permit> {
        let mut taken = self.taken();
        if taken.total >= self.permits_max {
            return None;
        }
        let of_client = taken.by_client.entry(client.clone()).or_default();
        if *of_client >= self.per_client_max {
            return None;
        }
        *of_client += 1;
        taken.total += 1;
        Some(Permit {
            admission: Arc::clone(self),
            client: client.clone(),
        })
    }

    /// How many are taken.
    pub fn under_way(&self) -> usize {
        self.taken().total
    }

    pub fn permits_max(&self) -> usize {
        self.permits_max
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut taken = self.admission.taken();
        taken.total -= 1;
        if let Some(of_client) = taken.by_client.get_mut(&self.client) {
            *of_client -= 1;
            if *of_client == 0 {
                taken.by_client.remove(&self.client);
            }
        }
    }
}

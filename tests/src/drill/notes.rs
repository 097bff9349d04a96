//! What callers wanted and what they were told, key by key.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gateway_core::operation::Verb;
use serde_json::Value;

use crate::world::Reply;

/// What a caller wants done under one key, and where it goes.
#[derive(Clone, Debug)]
pub(super) struct Intent {
    pub(super) key: String,
    pub(super) verb: Verb,
    /// Minor units.
    pub(super) minor: i64,
    pub(super) path: String,
    pub(super) body: Value,
}

/// A final answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) status: u16,
    pub(super) bytes: Vec<u8>,
}

impl Told {
    pub(super) fn by(reply: &Reply) -> Self {
        Self {
            status: reply.status,
            bytes: reply.bytes.clone(),
        }
    }
}

/// What is noted of one key.
#[derive(Clone, Debug)]
pub(super) struct Note {
    pub(super) verb: Verb,
    pub(super) minor: i64,
    /// The status of its final answer; that of the key before it was cancelled, where it was.
    pub(super) told: Option<u16>,
    /// A cancellation of the key was answered.
    pub(super) cancelled: bool,
    /// From the first answer that was none, or was not final, until the final one.
    pub(super) in_doubt: Option<Duration>,
    /// What its caller heard last that was not final.
    pub(super) heard: String,
}

/// The notes of all callers.
#[derive(Debug, Default)]
pub(super) struct Notes {
    keys: Mutex<BTreeMap<String, Note>>,
    contradictions: Mutex<Vec<String>>,
    told: AtomicU64,
}

impl Notes {
    /// Before its first request.
    pub(super) fn wished(&self, intent: &Intent) {
        let note = Note {
            verb: intent.verb,
            minor: intent.minor,
            told: None,
            cancelled: false,
            in_doubt: None,
            heard: String::new(),
        };
        self.keys().entry(intent.key.clone()).or_insert(note);
    }

    pub(super) fn told(&self, key: &str, told: &Told, in_doubt: Option<Duration>) {
        self.told.fetch_add(1, Ordering::Relaxed);
        let mut keys = self.keys();
        let Some(note) = keys.get_mut(key) else {
            return;
        };
        note.in_doubt = note.in_doubt.max(in_doubt);
        match note.told {
            None => note.told = Some(told.status),
            Some(before) if before == told.status => {}
            // The one change that the contract knows: the key was cancelled.
            Some(_) if told.status == GONE => {}
            Some(before) => {
                drop(keys);
                self.contradiction(format!("{key} was told {before}, then {}", told.status));
            }
        }
    }

    pub(super) fn heard(&self, key: &str, what: String) {
        if let Some(note) = self.keys().get_mut(key) {
            note.heard = what;
        }
    }

    pub(super) fn cancelled(&self, key: &str) {
        if let Some(note) = self.keys().get_mut(key) {
            note.cancelled = true;
        }
    }

    pub(super) fn contradiction(&self, what: String) {
        let mut contradictions = self.contradictions.lock();
        let contradictions = contradictions
            .as_mut()
            .unwrap_or_else(|poisoned| poisoned.get_mut());
        contradictions.push(what);
    }

    pub(super) fn contradictions(&self) -> Vec<String> {
        let contradictions = self.contradictions.lock();
        contradictions
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// How many final answers were given so far.
    pub(super) fn told_count(&self) -> u64 {
        self.told.load(Ordering::Relaxed)
    }

    pub(super) fn all(&self) -> BTreeMap<String, Note> {
        self.keys().clone()
    }

    pub(super) fn in_words(&self) -> String {
        let keys = self.keys();
        let open = keys.values().filter(|note| note.told.is_none()).count();
        format!("{} intents, {open} without a final answer", keys.len())
    }

    fn keys(&self) -> MutexGuard<'_, BTreeMap<String, Note>> {
        // One insert or one assignment at a time: nothing is half-written.
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The key was cancelled.
pub(super) const GONE: u16 = 410;

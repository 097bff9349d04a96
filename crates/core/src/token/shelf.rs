//! The ledger's copy of a token: how replicas come to use the same one.
//!
//! Nothing here fails: with the ledger away the keeper goes on from memory, and saves later.

use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio::time::timeout;

use super::{StoredToken, TokenKey, TokenStore};
use crate::clock::{Clock, Timestamp};

/// How often a lost race for the ledger's row is run again.
const SAVE_COUNT_MAX: usize = 3;

pub(super) struct Shelf {
    name: String,
    store: Option<Arc<dyn TokenStore>>,
    key: TokenKey,
    clock: Arc<dyn Clock>,
    /// The longest a question to the ledger may take.
    patience: Duration,
}

/// A token as replicas exchange it. `ledger_generation` is the row's own; of a token not saved yet, the newest that was
/// seen before it was fetched.
pub(super) struct Bearer {
    pub(super) value: SecretString,
    pub(super) ledger_generation: i64,
    pub(super) issued_at: Timestamp,
    pub(super) expires_at: Timestamp,
}

/// What the ledger says about the name.
pub(super) enum Seen {
    /// There is no ledger, or it did not answer.
    Nothing,
    /// The generation of a row that is of no use: absent (0), ended or unreadable.
    Useless(i64),
    /// A readable token that has not ended: another replica's, or ours.
    Living(Bearer),
}

/// How saving a fetched token ended.
pub(super) enum Saved {
    As(i64),
    /// Another replica's token, issued later, lies there: everybody uses that one.
    Overtaken(Bearer),
    Not,
}

impl Shelf {
    pub(super) fn new(
        name: &str,
        store: Option<Arc<dyn TokenStore>>,
        key: TokenKey,
        clock: Arc<dyn Clock>,
        patience: Duration,
    ) -> Self {
        Self {
            name: name.to_owned(),
            store,
            key,
            clock,
            patience,
        }
    }

    pub(super) fn exists(&self) -> bool {
        self.store.is_some()
    }

    /// What lies in the ledger now.
    pub(super) async fn load(&self) -> Seen {
        let Some(store) = &self.store else {
            return Seen::Nothing;
        };
        let row = match timeout(self.patience, store.load(&self.name)).await {
            Ok(Ok(row)) => row,
            Ok(Err(error)) => {
                tracing::warn!(
                    token = self.name,
                    error = &*error as &dyn std::error::Error,
                    "the ledger's token could not be read"
                );
                return Seen::Nothing;
            }
            Err(_) => {
                tracing::warn!(
                    token = self.name,
                    "the ledger's token could not be read in time"
                );
                return Seen::Nothing;
            }
        };
        let Some(row) = row else {
            return Seen::Useless(0);
        };
        let StoredToken {
            generation,
            ciphertext,
            expires_at,
            issued_at,
        } = row;
        if expires_at <= self.clock.now() {
            return Seen::Useless(generation);
        }
        let Some(value) = self.key.open(&self.name, generation, &ciphertext) else {
            tracing::warn!(
                token = self.name,
                generation,
                "the ledger's token was sealed under another key; it will be replaced"
            );
            return Seen::Useless(generation);
        };
        Seen::Living(Bearer {
            value,
            ledger_generation: generation,
            issued_at,
            expires_at,
        })
    }

    /// Puts a fetched token into the ledger; `seen` is the generation to replace, if it is known.
    pub(super) async fn save(&self, issued: &Bearer, mut seen: Option<i64>) -> Saved {
        let Some(store) = &self.store else {
            return Saved::Not;
        };
        for _ in 0..SAVE_COUNT_MAX {
            let expected = match seen {
                Some(expected) => expected,
                None => match self.load().await {
                    Seen::Nothing => return Saved::Not,
                    Seen::Useless(generation) => generation,
                    // An earlier attempt, whose acknowledgement was lost.
                    Seen::Living(theirs)
                        if theirs.value.expose_secret() == issued.value.expose_secret() =>
                    {
                        return Saved::As(theirs.ledger_generation);
                    }
                    // Two replicas fetched at once. Where a new token kills the old one, the later is the living one;
                    // issue times are two wall clocks, and if they mislead, one `401` more puts it right.
                    Seen::Living(theirs)
                        if theirs.ledger_generation > issued.ledger_generation
                            && theirs.issued_at >= issued.issued_at =>
                    {
                        return Saved::Overtaken(theirs);
                    }
                    Seen::Living(theirs) => theirs.ledger_generation,
                },
            };
            let generation = expected.max(issued.ledger_generation).saturating_add(1);
            let row = StoredToken {
                generation,
                ciphertext: self.key.seal(&self.name, generation, &issued.value),
                expires_at: issued.expires_at,
                issued_at: issued.issued_at,
            };
            match timeout(self.patience, store.store_if(&self.name, expected, &row)).await {
                Ok(Ok(true)) => return Saved::As(generation),
                Ok(Ok(false)) => seen = None,
                Ok(Err(error)) => {
                    tracing::warn!(
                        token = self.name,
                        error = &*error as &dyn std::error::Error,
                        "the token is not in the ledger yet"
                    );
                    return Saved::Not;
                }
                Err(_) => {
                    tracing::warn!(
                        token = self.name,
                        "the ledger did not take the token in time"
                    );
                    return Saved::Not;
                }
            }
        }
        Saved::Not
    }
}

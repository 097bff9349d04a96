//! The ledger's copy of a token: how replicas come to use the same one.
//!
//! Nothing here fails: with the ledger away the keeper goes on from memory, and saves later.

use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio::time::timeout;

use super::{TokenKey, TokenStore};
use crate::clock::{Clock, Timestamp};
use crate::store::TokenRow;

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
        let TokenRow {
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
            let row = TokenRow {
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

#[cfg(test)]
mod tests {
    use super::super::tests::Ledger;
    use super::*;
    use crate::clock::{SimulatedClock, Timestamp};

    fn bearer(value: &str, seen: i64, issued: i64) -> Bearer {
        Bearer {
            value: value.into(),
            ledger_generation: seen,
            issued_at: Timestamp::from_seconds(issued),
            expires_at: Timestamp::from_seconds(10_000),
        }
    }

    fn shelf() -> Shelf {
        let store: Arc<dyn TokenStore> = Arc::new(Ledger::default());
        let key = TokenKey::parse(&"07".repeat(32).into()).expect("long enough");
        let clock = Arc::new(SimulatedClock::new(Timestamp::from_seconds(0)));
        Shelf::new("acme-us", Some(store), key, clock, Duration::from_secs(2))
    }

    async fn lies_there(shelf: &Shelf) -> (i64, String) {
        let Seen::Living(bearer) = shelf.load().await else {
            panic!("a token lies there")
        };
        (
            bearer.ledger_generation,
            bearer.value.expose_secret().to_owned(),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_fetched_at_once_the_later_issued_stays() {
        let shelf = shelf();
        assert!(matches!(
            shelf.save(&bearer("first", 0, 100), Some(0)).await,
            Saved::As(1)
        ));
        // Both had seen generation 1 when they asked.
        assert!(matches!(
            shelf.save(&bearer("late", 1, 202), Some(1)).await,
            Saved::As(2)
        ));
        let saved = shelf.save(&bearer("early", 1, 201), Some(1)).await;
        assert!(
            matches!(saved, Saved::Overtaken(theirs) if theirs.value.expose_secret() == "late")
        );
        assert!(matches!(
            shelf.save(&bearer("later", 1, 203), Some(1)).await,
            Saved::As(3)
        ));
        assert_eq!(lies_there(&shelf).await, (3, "later".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_known_before_the_fetch_never_wins_though_its_clock_was_ahead() {
        let shelf = shelf();
        assert!(matches!(
            shelf.save(&bearer("refused", 0, 5000), Some(0)).await,
            Saved::As(1)
        ));
        // The look before the fetch failed, so the row's generation is known from memory only.
        assert!(matches!(
            shelf.save(&bearer("new", 1, 100), None).await,
            Saved::As(2)
        ));
        assert_eq!(lies_there(&shelf).await, (2, "new".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn generations_go_on_where_memory_is_ahead_of_a_restored_ledger() {
        let shelf = shelf();
        assert!(matches!(
            shelf.save(&bearer("restored", 0, 100), Some(0)).await,
            Saved::As(1)
        ));
        assert!(matches!(
            shelf.save(&bearer("new", 7, 200), Some(1)).await,
            Saved::As(8)
        ));
    }
}

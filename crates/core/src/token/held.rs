//! The token in memory: until when it serves, and when it is to be refreshed or saved.

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

use super::shelf::Bearer;
use super::{Token, TokenOptions};
use crate::clock::{Clock, Tick, Timestamp};

/// A life longer than this is taken for this, so that instants stay within range.
pub(super) const LIFE_MAX: Duration = Duration::from_hours(24 * 366);

#[derive(Clone)]
pub(super) struct Held {
    pub(super) token: Token,
    /// The ledger's number of this token once it is saved; before that, the newest seen before it was fetched.
    pub(super) ledger_generation: i64,
    pub(super) saved: bool,
    /// When to try again to save it.
    pub(super) save_at: Tick,
    pub(super) refresh_at: Tick,
    /// From here on a new token is waited for, and this one serves only if there is none.
    doubtful_at: Tick,
    pub(super) end: Tick,
    /// A `401` named it.
    pub(super) refused: bool,
    issued_at: Timestamp,
    expires_at: Timestamp,
}

impl Held {
    /// A token of our own fetch: its life is measured from before we asked, on our monotonic clock.
    pub(super) fn fetched(
        number: u64,
        bearer: Bearer,
        saved_as: Option<i64>,
        asked: Tick,
        life: Duration,
        options: &TokenOptions,
    ) -> Self {
        let part = options.part_of_life();
        let end = asked + life;
        Self {
            ledger_generation: saved_as.unwrap_or(bearer.ledger_generation),
            saved: saved_as.is_some(),
            ..Self::with(number, bearer, asked + life.mul_f64(part), end, end)
        }
    }

    /// A token of another replica: its end is that machine's wall clock, turned into a tick of ours here, once. If the
    /// clocks differ, it ends early (one refresh more) or late (a `401`, and one refresh more).
    pub(super) fn loaded(
        number: u64,
        bearer: Bearer,
        clock: &dyn Clock,
        options: &TokenOptions,
    ) -> Self {
        let now = clock.tick();
        let life = bearer.expires_at.since(bearer.issued_at).min(LIFE_MAX);
        let left = bearer.expires_at.since(clock.now()).min(life);
        let spare = life.mul_f64(1.0 - options.part_of_life());
        let skew = options.skew_max.min(life / 10);
        let refresh_at = now + left.saturating_sub(spare);
        let doubtful_at = now + left.saturating_sub(skew);
        Self {
            saved: true,
            ..Self::with(number, bearer, refresh_at, doubtful_at, now + left)
        }
    }

    fn with(number: u64, bearer: Bearer, refresh_at: Tick, doubtful_at: Tick, end: Tick) -> Self {
        Self {
            token: Token {
                value: Arc::new(bearer.value),
                generation: number,
            },
            ledger_generation: bearer.ledger_generation,
            saved: false,
            save_at: Tick::from_origin(Duration::ZERO),
            refresh_at,
            doubtful_at,
            end,
            refused: false,
            issued_at: bearer.issued_at,
            expires_at: bearer.expires_at,
        }
    }

    /// To be sent without a second thought.
    pub(super) fn is_sound(&self, now: Tick) -> bool {
        !self.refused && now < self.doubtful_at
    }

    /// To be sent if there is no other.
    pub(super) fn is_usable(&self, now: Tick) -> bool {
        !self.refused && now < self.end
    }

    /// When to begin looking for its successor.
    pub(super) fn due_at(&self, now: Tick) -> Tick {
        if self.refused { now } else { self.refresh_at }
    }

    pub(super) fn wants_saving(&self) -> bool {
        !self.saved && !self.refused
    }

    pub(super) fn seconds_left(&self, now: Tick) -> u64 {
        if self.refused {
            0
        } else {
            self.end.since(now).as_secs()
        }
    }

    pub(super) fn bearer(&self) -> Bearer {
        Bearer {
            value: SecretString::clone(&self.token.value),
            ledger_generation: self.ledger_generation,
            issued_at: self.issued_at,
            expires_at: self.expires_at,
        }
    }
}

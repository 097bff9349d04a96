//! The keeper of one upstream token: when to fetch, when to believe the ledger, when to stop.
//!
//! Callers read memory. Everything else happens in one *flight* at a time, a task of its own that all who need a new
//! token wait for; a caller that leaves does not end it. A flight asks the ledger first, then takes the lock, asks the
//! ledger again, and only then fetches. So where the upstream kills the old token when it issues a new one, the replica
//! whose token was killed finds the new one in the ledger and does not kill it in turn.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use secrecy::ExposeSecret;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::held::{Held, LIFE_MAX};
use super::shelf::{Bearer, Saved, Seen, Shelf};
use super::{FetchedToken, Token, TokenError, TokenKey, TokenOptions, TokenSource, TokenStore};
use crate::clock::{Clock, Tick};
use crate::lock::{Acquired, Lock};
use crate::task;

/// A shorter life than this is no life: the token would be fetched again for each payment.
const LIFE_MIN: Duration = Duration::from_secs(1);

type Flight = Shared<BoxFuture<'static, Result<Token, TokenError>>>;

/// Keeps one access token: one per set of credentials and upstream API.
pub struct TokenKeeper {
    name: String,
    source: Arc<dyn TokenSource>,
    shelf: Shelf,
    lock: Arc<dyn Lock>,
    clock: Arc<dyn Clock>,
    options: TokenOptions,
    state: Mutex<State>,
    /// Wakes the background: something it plans by has changed.
    changed: Arc<Notify>,
}

#[derive(Default)]
struct State {
    held: Option<Held>,
    flight: Option<(u64, Flight)>,
    failure: Option<Failure>,
    /// When tokens were fetched because of a `401`, within the storm window.
    forced: VecDeque<Tick>,
    storming: bool,
    counts: Counts,
}

/// The last flight's failure, and until when no other starts.
struct Failure {
    error: TokenError,
    until: Tick,
    in_a_row: u32,
}

#[derive(Default)]
struct Counts {
    flights: u64,
    /// Tokens held so far: the last one's is its generation.
    tokens: u64,
    fetches: u64,
    failures: u64,
    storms: u64,
}

/// What `/readyz` and the metrics tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenHealth {
    /// Until the held token's real end; zero if there is none or it was refused.
    pub seconds_left: u64,
    /// Tokens fetched since the start.
    pub fetches: u64,
    /// Flights that brought no token.
    pub failures: u64,
    /// Times that fetching was stopped because new tokens kept being refused. Any increase is an alert.
    pub storms: u64,
    pub storming: bool,
    /// Whether the other replicas can see the held token.
    pub saved: bool,
}

impl TokenKeeper {
    /// Starts the background task too, so it must be called inside a tokio runtime. Fetches nothing yet: that happens
    /// when somebody asks. `name` must be the same on every replica, and other for other credentials.
    pub fn new(
        name: &str,
        source: Arc<dyn TokenSource>,
        store: Option<Arc<dyn TokenStore>>,
        lock: Arc<dyn Lock>,
        key: TokenKey,
        clock: Arc<dyn Clock>,
        options: TokenOptions,
    ) -> Arc<Self> {
        let changed = Arc::new(Notify::new());
        let shelf = Shelf::new(name, store, key, Arc::clone(&clock), options.store_timeout);
        let keeper = Arc::new(Self {
            name: name.to_owned(),
            source,
            shelf,
            lock,
            clock,
            options,
            state: Mutex::default(),
            changed: Arc::clone(&changed),
        });
        let background = Arc::downgrade(&keeper);
        task::spawn(async move {
            while let Some(keeper) = background.upgrade() {
                let nap = keeper.tend().await;
                drop(keeper); // While this sleeps, only its users keep the keeper alive.
                let _ = timeout(nap, changed.notified()).await;
            }
        });
        keeper
    }

    /// A token to send now: from memory, or the one fetch that all wait for. May be dropped at any time.
    ///
    /// # Errors
    /// Why there is none; nothing was sent.
    pub async fn current(self: &Arc<Self>) -> Result<Token, TokenError> {
        let flight = {
            let mut state = self.state();
            let now = self.clock.tick();
            if let Some(held) = state.held.as_ref().filter(|held| held.is_sound(now)) {
                let token = held.token.clone();
                if now >= held.refresh_at {
                    // Nobody waits for it; if it cannot start now, the background tries later.
                    let _ = self.board(&mut state, now);
                }
                return Ok(token);
            }
            self.board(&mut state, now)
        };
        let outcome = match flight {
            Ok(flight) => flight.await,
            Err(paused) => Err(paused),
        };
        outcome.or_else(|error| {
            // With no new token to be had, the old one serves to its real end.
            let now = self.clock.tick();
            let state = self.state();
            let usable = state.held.as_ref().filter(|held| held.is_usable(now));
            usable.map(|held| held.token.clone()).ok_or(error)
        })
    }

    /// The upstream answered `401` to the token of `generation`: another one, fetched at most once however many report
    /// it. If a newer one is held already, that.
    ///
    /// # Errors
    /// As [`Self::current`]; [`TokenError::RefreshStorm`] if new tokens keep being refused.
    pub async fn replace(self: &Arc<Self>, generation: u64) -> Result<Token, TokenError> {
        self.report_unauthorized(generation);
        self.current().await
    }

    /// As [`Self::replace`], for who does not want another token: this one is not served again.
    pub fn report_unauthorized(&self, generation: u64) {
        let mut state = self.state();
        let State { held, failure, .. } = &mut *state;
        let Some(held) = held
            .as_mut()
            .filter(|held| held.token.generation == generation)
        else {
            return;
        };
        if held.refused {
            return;
        }
        held.refused = true;
        tracing::info!(token = self.name, generation, "an access token was refused");
        // Once for each token, even in the pause after a failed refresh: another replica may have had more luck, and
        // then the new token lies in the ledger.
        if let Some(failure) = failure {
            failure.until = self.clock.tick();
        }
        self.changed.notify_one();
    }

    /// Whether asking for a token makes sense: one is held, or a fetch may be tried now.
    pub fn is_hopeful(&self) -> bool {
        let state = self.state();
        let now = self.clock.tick();
        let usable = state.held.as_ref().is_some_and(|held| held.is_usable(now));
        usable
            || state
                .failure
                .as_ref()
                .is_none_or(|failure| failure.until <= now)
    }

    /// Until the held token's real end, for the gauge; zero if there is none or it was refused.
    pub fn seconds_left(&self) -> u64 {
        self.health().seconds_left
    }

    pub fn health(&self) -> TokenHealth {
        let state = self.state();
        let now = self.clock.tick();
        TokenHealth {
            seconds_left: state.seconds_left(now),
            fetches: state.counts.fetches,
            failures: state.counts.failures,
            storms: state.counts.storms,
            storming: state.storming,
            saved: state.held.as_ref().is_some_and(|held| held.saved),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No critical section can panic between two fields that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The flight under way, or a new one, or why none may start now.
    fn board(self: &Arc<Self>, state: &mut State, now: Tick) -> Result<Flight, TokenError> {
        if let Some((_, flight)) = &state.flight {
            #[cfg(feature = "sabotage")]
            if sabotaged!(RefreshDropsWaiter) {
                return Ok(futures_util::future::pending().boxed().shared());
            }
            return Ok(flight.clone());
        }
        if let Some(failure) = state.failure.as_ref().filter(|failure| now < failure.until) {
            return Err(match &failure.error {
                TokenError::RefreshStorm { .. } => self.storm(state, now),
                error => error.clone(),
            });
        }
        state.counts.flights += 1;
        let number = state.counts.flights;
        let landing = Landing {
            keeper: Arc::clone(self),
            number,
        };
        let task = task::spawn(async move {
            let result = landing.keeper.fly().await;
            landing.keeper.land(number, &result);
            result
        });
        let flight = task.map(|joined| joined.unwrap_or_else(|_| Err(ended_early())));
        let flight = flight.boxed().shared();
        state.flight = Some((number, flight.clone()));
        Ok(flight)
    }

    fn land(&self, number: u64, result: &Result<Token, TokenError>) {
        let mut state = self.state();
        if state
            .flight
            .as_ref()
            .is_none_or(|(flight, _)| *flight != number)
        {
            return;
        }
        state.flight = None;
        match result {
            Ok(_) => {
                state.failure = None;
                state.storming = false;
            }
            Err(error) => {
                let now = self.clock.tick();
                state.counts.failures += 1;
                let before = state.failure.as_ref().map_or(0, |failure| failure.in_a_row);
                let in_a_row = before.saturating_add(1);
                let until = now + self.pause_after(error, in_a_row);
                state.failure = Some(Failure {
                    error: error.clone(),
                    until,
                    in_a_row,
                });
                tracing::warn!(
                    token = self.name,
                    error = error as &dyn std::error::Error,
                    seconds_left = state.seconds_left(now),
                    "no new access token"
                );
            }
        }
        self.changed.notify_one();
    }

    fn pause_after(&self, error: &TokenError, in_a_row: u32) -> Duration {
        if matches!(error, TokenError::Refused { .. }) {
            return self.options.pause_refused;
        }
        let doubled = self
            .options
            .pause_min
            .saturating_mul(1 << (in_a_row - 1).min(16));
        doubled
            .min(self.options.pause_max)
            .mul_f64(self.options.randomness.part(0.5..1.0))
    }

    /// One round of the background: starts what is due, and says how long nothing will be.
    async fn tend(self: &Arc<Self>) -> Duration {
        let unsaved = {
            let mut state = self.state();
            let now = self.clock.tick();
            if state
                .held
                .as_ref()
                .is_some_and(|held| held.due_at(now) <= now)
            {
                let _ = self.board(&mut state, now);
            }
            let idle = self.shelf.exists() && state.flight.is_none();
            let held = state
                .held
                .as_ref()
                .filter(|held| idle && held.wants_saving());
            held.filter(|held| held.save_at <= now).cloned()
        };
        if let Some(held) = unsaved {
            self.save_again(&held).await;
        }
        let state = self.state();
        let now = self.clock.tick();
        let mut next = now + self.options.look_every;
        if let (Some(held), None) = (&state.held, &state.flight) {
            let due = held.due_at(now);
            let paused = state.failure.as_ref().map_or(due, |failure| failure.until);
            next = next.min(due.max(paused));
            if self.shelf.exists() && held.wants_saving() {
                next = next.min(held.save_at);
            }
        }
        // Never zero: a clock that stands still must not make this spin.
        next.since(now).max(Duration::from_millis(1))
    }

    async fn save_again(&self, unsaved: &Held) {
        let saved = self.shelf.save(&unsaved.bearer(), None).await;
        let mut state = self.state();
        let generation = unsaved.token.generation;
        let Some(held) = state
            .held
            .as_mut()
            .filter(|held| held.token.generation == generation)
        else {
            return; // A flight has landed meanwhile: this token is history.
        };
        match saved {
            Saved::As(ledger_generation) => {
                held.ledger_generation = ledger_generation;
                held.saved = true;
            }
            Saved::Overtaken(theirs) => {
                self.hold_loaded(&mut state, theirs);
            }
            Saved::Not => held.save_at = self.clock.tick() + self.options.pause_max,
        }
    }

    /// One flight, up to a token that is held.
    async fn fly(&self) -> Result<Token, TokenError> {
        if let Ok(token) = self.look().await {
            return Ok(token);
        }
        self.is_forced()?;
        let name = format!("token/{}", self.name);
        let lease = self.options.fetch_timeout + 3 * self.options.store_timeout;
        let guard = match self.lock.acquire(&name, lease, lease).await {
            Acquired::Held(guard) => Some(guard),
            Acquired::Busy => None,
            Acquired::Unavailable(_) => {
                if self.shelf.exists() {
                    sleep(
                        self.options
                            .lone_pause_max
                            .mul_f64(self.options.randomness.part(0.0..1.0)),
                    )
                    .await;
                }
                None
            }
        };
        let result = match self.look().await {
            Ok(token) => Ok(token),
            Err(seen) => self.fetch(seen).await,
        };
        // Not before the new token is in the ledger: the next in line reads it there.
        if let Some(guard) = guard {
            guard.release().await;
        }
        result
    }

    /// Reads the ledger, and holds what lies there if it is newer than ours.
    ///
    /// # Errors
    /// There is nothing that would end the flight; with the ledger's generation, if that could be read.
    async fn look(&self) -> Result<Token, Option<i64>> {
        let theirs = match self.shelf.load().await {
            Seen::Nothing => return Err(None),
            Seen::Useless(generation) => return Err(Some(generation)),
            Seen::Living(theirs) => theirs,
        };
        let seen = Some(theirs.ledger_generation);
        let mut state = self.state();
        if let Some(held) = &state.held {
            let same = held.token.expose() == theirs.value.expose_secret();
            if same || theirs.ledger_generation <= held.ledger_generation {
                return Err(seen);
            }
        }
        let token = self.hold_loaded(&mut state, theirs);
        let now = self.clock.tick();
        let sound = state.held.as_ref().is_some_and(|held| held.is_sound(now));
        sound.then_some(token).ok_or(seen)
    }

    /// Whether a fetch now would be because of a `401`.
    ///
    /// # Errors
    /// `RefreshStorm` if it would be one too many: it would not help, and might lock the account.
    fn is_forced(&self) -> Result<bool, TokenError> {
        let mut state = self.state();
        let now = self.clock.tick();
        let window = self.options.storm_window;
        state.forced.retain(|fetched| now.since(*fetched) < window);
        let forced = state.held.as_ref().is_some_and(|held| held.refused);
        if !forced || state.forced.len() < self.options.forced_count_max {
            return Ok(forced);
        }
        if !state.storming {
            state.storming = true;
            state.counts.storms += 1;
            tracing::error!(
                token = self.name,
                "new access tokens keep being refused: no more are fetched for now"
            );
        }
        Err(self.storm(&state, now))
    }

    fn storm(&self, state: &State, now: Tick) -> TokenError {
        let first = state.forced.front().copied().unwrap_or(now);
        TokenError::RefreshStorm {
            retry_after: (first + self.options.storm_window).since(now),
        }
    }

    async fn fetch(&self, seen: Option<i64>) -> Result<Token, TokenError> {
        // Asked again, because a `401` may have come while the lock was waited for.
        let forced = self.is_forced()?;
        // The life counts from before the question: the answer's way back is part of it.
        let (asked, asked_at) = (self.clock.tick(), self.clock.now());
        let question = timeout(self.options.fetch_timeout, self.source.fetch());
        let FetchedToken { value, expires_in } = question.await.unwrap_or_else(|_| {
            let detail = format!("no answer within {:?}", self.options.fetch_timeout);
            Err(TokenError::Unreachable { detail })
        })?;
        if value.expose_secret().is_empty() || expires_in < LIFE_MIN {
            let detail = format!("an empty token, or one that expires in {expires_in:?}");
            return Err(TokenError::Unusable { detail });
        }
        let life = expires_in.min(LIFE_MAX);
        let held_generation = {
            let mut state = self.state();
            state.counts.fetches += 1;
            if forced {
                state.forced.push_back(self.clock.tick());
            }
            state.held.as_ref().map_or(0, |held| held.ledger_generation)
        };
        let bearer = Bearer {
            value,
            ledger_generation: seen.unwrap_or(0).max(held_generation),
            issued_at: self.clock.now(),
            expires_at: asked_at + life,
        };
        let saved_as = match self.shelf.save(&bearer, seen).await {
            Saved::As(generation) => Some(generation),
            Saved::Overtaken(theirs) => return Ok(self.hold_loaded(&mut self.state(), theirs)),
            Saved::Not => None,
        };
        tracing::info!(
            token = self.name,
            ledger_generation = saved_as,
            expires_in = life.as_secs(),
            "a new access token"
        );
        let mut state = self.state();
        let number = state.counts.tokens + 1;
        let mut held = Held::fetched(number, bearer, saved_as, asked, life, &self.options);
        held.save_at = self.clock.tick() + self.options.pause_max;
        Ok(self.hold(&mut state, held))
    }

    fn hold_loaded(&self, state: &mut State, theirs: Bearer) -> Token {
        tracing::info!(
            token = self.name,
            ledger_generation = theirs.ledger_generation,
            "an access token from the ledger"
        );
        let number = state.counts.tokens + 1;
        let held = Held::loaded(number, theirs, &*self.clock, &self.options);
        self.hold(state, held)
    }

    fn hold(&self, state: &mut State, held: Held) -> Token {
        state.counts.tokens = held.token.generation;
        let token = held.token.clone();
        state.held = Some(held);
        self.changed.notify_one();
        token
    }
}

impl State {
    fn seconds_left(&self, now: Tick) -> u64 {
        self.held.as_ref().map_or(0, |held| held.seconds_left(now))
    }
}

/// Ends the flight even if its task panics: else everybody would wait for it for ever.
struct Landing {
    keeper: Arc<TokenKeeper>,
    number: u64,
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.keeper.land(self.number, &Err(ended_early()));
    }
}

fn ended_early() -> TokenError {
    TokenError::Unusable {
        detail: "the fetch ended early".to_owned(),
    }
}

impl Drop for TokenKeeper {
    fn drop(&mut self) {
        self.changed.notify_one(); // The background finds it gone.
    }
}

impl fmt::Debug for TokenKeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenKeeper")
            .field("name", &self.name)
            .field("health", &self.health())
            .finish_non_exhaustive()
    }
}

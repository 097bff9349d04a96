//! The keeper of one upstream token: when to fetch, when to believe the ledger, when to stop.
//!
//! Callers read memory. Everything else happens in one *flight* at a time, a task of its own that all who need a new
//! token wait for; a caller that leaves does not end it. A flight asks the ledger first, then takes the lock, asks the
//! ledger again, and only then fetches. So where the upstream kills the old token when it issues a new one, the replica
//! whose token was killed finds the new one in the ledger and does not kill it in turn.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use rand::RngExt as _;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::{
    FetchedToken, StoredToken, Token, TokenError, TokenKey, TokenOptions, TokenSource, TokenStore,
};
use crate::clock::{Clock, Tick, Timestamp};
use crate::lock::{Acquired, Lock};

/// A life longer than this is taken for this, so that instants stay within range.
const LIFE_MAX: Duration = Duration::from_hours(24 * 366);

/// How often a lost race for the ledger's row is run again.
const SAVE_COUNT_MAX: usize = 3;

type Flight = Shared<BoxFuture<'static, Result<Token, TokenError>>>;

/// Keeps one access token: one per set of credentials and upstream API.
pub struct TokenKeeper {
    name: String,
    source: Arc<dyn TokenSource>,
    store: Option<Arc<dyn TokenStore>>,
    lock: Arc<dyn Lock>,
    key: TokenKey,
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
    /// The last flight's failure, and until when no other starts.
    failure: Option<Failure>,
    /// When tokens were fetched because of a `401`, within the storm window.
    forced: VecDeque<Tick>,
    storming: bool,
    counts: Counts,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    flights: u64,
    tokens: u64,
    fetches: u64,
    failures: u64,
    storms: u64,
}

struct Failure {
    error: TokenError,
    until: Tick,
    in_a_row: u32,
}

#[derive(Clone)]
struct Held {
    token: Token,
    /// What the ledger had when this token was taken: its own generation once `saved`, before that its predecessor's.
    ledger_generation: i64,
    saved: bool,
    /// When to try again to save it.
    save_at: Tick,
    issued_at: Timestamp,
    expires_at: Timestamp,
    refresh_at: Tick,
    /// From here on a new token is waited for, and this one serves only if there is none.
    doubtful_at: Tick,
    end: Tick,
    /// A `401` named it.
    refused: bool,
}

/// A token that may become the held one.
struct Candidate {
    value: SecretString,
    ledger_generation: i64,
    issued_at: Timestamp,
    expires_at: Timestamp,
}

/// What the ledger says about the name.
enum Seen {
    /// There is no ledger, or it did not answer.
    Nothing,
    /// The generation of a row that is of no use: absent (0), expired, unreadable, or what we have already.
    Useless(i64),
    Newer(Candidate),
}

/// How saving a fetched token ended.
enum Saved {
    As(i64),
    /// Another replica's token, issued later, lies there: everybody uses that one.
    Overtaken(Candidate),
    Not,
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
        let keeper = Arc::new(Self {
            name: name.to_owned(),
            source,
            store,
            lock,
            key,
            clock,
            options,
            state: Mutex::default(),
            changed: Arc::clone(&changed),
        });
        let background = Arc::downgrade(&keeper);
        tokio::spawn(async move {
            while let Some(keeper) = background.upgrade() {
                let nap = keeper.tend().await;
                drop(keeper); // While it sleeps, nothing but its users keeps the keeper alive.
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
            if let Some(held) = state
                .held
                .as_ref()
                .filter(|held| held.serves(now, held.doubtful_at))
            {
                let token = held.token.clone();
                if now >= held.refresh_at {
                    // Nobody waits for it; if it cannot start now, the background tries later.
                    let _ = self.board(&mut state, now);
                }
                return Ok(token);
            }
            match self.board(&mut state, now) {
                Ok(flight) => flight,
                Err(error) => return self.last_resort(&state, error),
            }
        };
        match flight.await {
            Ok(token) => Ok(token),
            Err(error) => self.last_resort(&self.state(), error),
        }
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

    /// As [`Self::replace`], for who does not want another token: it is not served again.
    pub fn report_unauthorized(&self, generation: u64) {
        let mut state = self.state();
        if let Some(held) = state
            .held
            .as_mut()
            .filter(|held| held.token.generation == generation && !held.refused)
        {
            held.refused = true;
            tracing::info!(token = self.name, generation, "an access token was refused");
            // Once for each token, even in the pause after a failed refresh: another replica may have had more luck,
            // and then the new token lies in the ledger.
            if let Some(failure) = &mut state.failure {
                failure.until = self.clock.tick();
            }
            self.changed.notify_one();
        }
    }

    /// Whether a call would find a token without a fetch, or may hope for one: false while fetching is paused after a
    /// failure and nothing is held.
    pub fn is_hopeful(&self) -> bool {
        let state = self.state();
        let now = self.clock.tick();
        state
            .held
            .as_ref()
            .is_some_and(|held| held.serves(now, held.end))
            || state
                .failure
                .as_ref()
                .is_none_or(|failure| failure.until <= now)
    }

    /// Until the held token's real end; zero if there is none or it was refused.
    pub fn seconds_left(&self) -> u64 {
        self.health().seconds_left
    }

    pub fn health(&self) -> TokenHealth {
        let state = self.state();
        let now = self.clock.tick();
        let usable = state.held.as_ref().filter(|held| !held.refused);
        TokenHealth {
            seconds_left: usable.map_or(0, |held| held.end.since(now).as_secs()),
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

    /// With no new token to be had, the old one serves to its real end.
    fn last_resort(&self, state: &State, error: TokenError) -> Result<Token, TokenError> {
        let now = self.clock.tick();
        match state
            .held
            .as_ref()
            .filter(|held| held.serves(now, held.end))
        {
            Some(held) => Ok(held.token.clone()),
            None => Err(error),
        }
    }

    /// The flight under way, or a new one, or why none may start now.
    fn board(self: &Arc<Self>, state: &mut State, now: Tick) -> Result<Flight, TokenError> {
        if let Some((_, flight)) = &state.flight {
            return Ok(flight.clone());
        }
        if let Some(failure) = state.failure.as_ref().filter(|failure| now < failure.until) {
            return Err(match &failure.error {
                TokenError::RefreshStorm { .. } => TokenError::RefreshStorm {
                    retry_after: self.calm_after(state, now),
                },
                error => error.clone(),
            });
        }
        state.counts.flights += 1;
        let number = state.counts.flights;
        let landing = Landing {
            keeper: Arc::clone(self),
            number,
        };
        let task = tokio::spawn(async move {
            let result = landing.keeper.fly().await;
            landing.keeper.land(number, &result);
            result
        });
        let flight = async move { task.await.unwrap_or_else(|_| Err(ended_early())) }
            .boxed()
            .shared();
        state.flight = Some((number, flight.clone()));
        Ok(flight)
    }

    fn land(&self, number: u64, result: &Result<Token, TokenError>) {
        let mut state = self.state();
        let now = self.clock.tick();
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
                state.counts.failures += 1;
                let in_a_row = state
                    .failure
                    .as_ref()
                    .map_or(0, |failure| failure.in_a_row)
                    .saturating_add(1);
                let pause = self.pause_after(error, in_a_row);
                state.failure = Some(Failure {
                    error: error.clone(),
                    until: now + pause,
                    in_a_row,
                });
                tracing::warn!(
                    token = self.name,
                    error = error as &dyn std::error::Error,
                    seconds_left = state
                        .held
                        .as_ref()
                        .map_or(0, |held| held.end.since(now).as_secs()),
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
        doubled.min(self.options.pause_max).mul_f64(drawn(0.5..1.0))
    }

    /// One round of the background: starts what is due; returns how long nothing will be.
    async fn tend(self: &Arc<Self>) -> Duration {
        let unsaved = {
            let mut state = self.state();
            let now = self.clock.tick();
            if state
                .held
                .as_ref()
                .is_some_and(|held| held.refused || now >= held.refresh_at)
            {
                let _ = self.board(&mut state, now);
            }
            let lonely = self.store.is_some() && state.flight.is_none();
            state
                .held
                .clone()
                .filter(|held| lonely && !held.saved && !held.refused && now >= held.save_at)
        };
        if let Some(held) = unsaved {
            self.save_again(held).await;
        }
        let state = self.state();
        let now = self.clock.tick();
        let mut next = now + self.options.look_every;
        if let Some(held) = state.held.as_ref().filter(|_| state.flight.is_none()) {
            let due = if held.refused { now } else { held.refresh_at };
            next = next.min(
                state
                    .failure
                    .as_ref()
                    .map_or(due, |failure| failure.until.max(due)),
            );
            if self.store.is_some() && !held.saved && !held.refused {
                next = next.min(held.save_at);
            }
        }
        // Never zero: a clock that a test holds still must not make this spin.
        next.since(now).max(Duration::from_millis(1))
    }

    async fn save_again(&self, held: Held) {
        let candidate = held.as_candidate();
        let saved = self.save(&candidate, None).await;
        let mut state = self.state();
        let now = self.clock.tick();
        // A flight may have landed meanwhile; then this token is history.
        let Some(current) = state
            .held
            .as_mut()
            .filter(|now| now.token.generation == held.token.generation)
        else {
            return;
        };
        match saved {
            Saved::As(generation) => {
                current.ledger_generation = generation;
                current.saved = true;
            }
            Saved::Overtaken(theirs) => {
                self.adopt_loaded(&mut state, theirs);
            }
            Saved::Not => current.save_at = now + self.options.pause_max,
        }
    }

    /// One flight, up to a token that is held.
    async fn fly(&self) -> Result<Token, TokenError> {
        if let Some(token) = self.look().await.1 {
            return Ok(token);
        }
        self.is_forced()?;
        let name = format!("token/{}", self.name);
        let lease = self.options.fetch_timeout + 3 * self.options.store_timeout;
        let guard = match self.lock.acquire(&name, lease, lease).await {
            Acquired::Held(guard) => Some(guard),
            Acquired::Busy => None,
            Acquired::Unavailable(_) => {
                if self.store.is_some() {
                    sleep(self.options.lone_pause_max.mul_f64(drawn(0.0..1.0))).await;
                }
                None
            }
        };
        let result = match self.look().await {
            (_, Some(token)) => Ok(token),
            (seen, None) => self.fetch(seen).await,
        };
        // Not before the new token is in the ledger: the next in line reads it there.
        if let Some(guard) = guard {
            guard.release().await;
        }
        result
    }

    /// Reads the ledger, and holds what it has if that is better than ours. The token, if it is good enough to end the
    /// flight; else the generation seen.
    async fn look(&self) -> (Option<i64>, Option<Token>) {
        let (held_generation, held_value) = {
            let state = self.state();
            let held = state.held.as_ref();
            (
                held.map(|held| held.ledger_generation),
                held.map(|held| Arc::clone(&held.token.value)),
            )
        };
        match self.load().await {
            Seen::Nothing => (None, None),
            Seen::Useless(generation) => (Some(generation), None),
            Seen::Newer(candidate) => {
                let generation = candidate.ledger_generation;
                let old = held_generation.is_some_and(|held| generation <= held);
                let same = held_value
                    .is_some_and(|held| held.expose_secret() == candidate.value.expose_secret());
                if old || same {
                    return (Some(generation), None);
                }
                let mut state = self.state();
                let token = self.adopt_loaded(&mut state, candidate);
                let now = self.clock.tick();
                let sound = state
                    .held
                    .as_ref()
                    .is_some_and(|held| held.serves(now, held.doubtful_at));
                (Some(generation), sound.then_some(token))
            }
        }
    }

    async fn load(&self) -> Seen {
        let Some(store) = &self.store else {
            return Seen::Nothing;
        };
        let row = match timeout(self.options.store_timeout, store.load(&self.name)).await {
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
        Seen::Newer(Candidate {
            value,
            ledger_generation: generation,
            issued_at,
            expires_at,
        })
    }

    /// Whether a fetch now would be because of a `401`.
    ///
    /// # Errors
    /// `RefreshStorm` if it would be one too many: it would not help, and might lock the account.
    fn is_forced(&self) -> Result<bool, TokenError> {
        let mut state = self.state();
        let now = self.clock.tick();
        let window = self.options.storm_window;
        while state
            .forced
            .front()
            .is_some_and(|fetched| now.since(*fetched) >= window)
        {
            state.forced.pop_front();
        }
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
        Err(TokenError::RefreshStorm {
            retry_after: self.calm_after(&state, now),
        })
    }

    fn calm_after(&self, state: &State, now: Tick) -> Duration {
        state.forced.front().map_or(Duration::ZERO, |first| {
            (*first + self.options.storm_window).since(now)
        })
    }

    async fn fetch(&self, seen: Option<i64>) -> Result<Token, TokenError> {
        // Asked again, because a `401` may have come while the lock was waited for.
        let forced = self.is_forced()?;
        // The life counts from before the question: the answer's way back is not part of it.
        let (asked, asked_at) = (self.clock.tick(), self.clock.now());
        let question = timeout(self.options.fetch_timeout, self.source.fetch());
        let FetchedToken { value, expires_in } = question.await.unwrap_or_else(|_| {
            let detail = format!("no answer within {:?}", self.options.fetch_timeout);
            Err(TokenError::Unreachable { detail })
        })?;
        if value.expose_secret().is_empty() {
            return Err(TokenError::Unusable {
                detail: "the token is empty".to_owned(),
            });
        }
        if expires_in < Duration::from_secs(1) {
            return Err(TokenError::Unusable {
                detail: format!("it expires in {expires_in:?}"),
            });
        }
        let life = expires_in.min(LIFE_MAX);
        let candidate = Candidate {
            value,
            ledger_generation: self.held_generation(),
            issued_at: self.clock.now(),
            expires_at: asked_at + life,
        };
        {
            let mut state = self.state();
            state.counts.fetches += 1;
            if forced {
                state.forced.push_back(self.clock.tick());
            }
        }
        let saved = self.save(&candidate, seen).await;
        let mut state = self.state();
        match saved {
            Saved::Overtaken(theirs) => Ok(self.adopt_loaded(&mut state, theirs)),
            Saved::As(_) | Saved::Not => {
                let generation = if let Saved::As(generation) = saved {
                    Some(generation)
                } else {
                    None
                };
                let part = drawn(self.options.refresh_at.clone());
                let times = Times {
                    refresh_at: asked + life.mul_f64(part),
                    doubtful_at: asked + life,
                    end: asked + life,
                };
                tracing::info!(
                    token = self.name,
                    ledger_generation = generation,
                    expires_in = life.as_secs(),
                    "a new access token"
                );
                Ok(self.adopt(&mut state, candidate, generation, times))
            }
        }
    }

    /// Puts a fetched token into the ledger; `seen` is the generation to replace, if it is known.
    async fn save(&self, candidate: &Candidate, mut seen: Option<i64>) -> Saved {
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
                    Seen::Newer(theirs)
                        if theirs.value.expose_secret() == candidate.value.expose_secret() =>
                    {
                        return Saved::As(theirs.ledger_generation);
                    }
                    // Two replicas fetched at once. Where a new token kills the old one, the later is the living one;
                    // issue times are two wall clocks, and if they mislead, one `401` more puts it right.
                    Seen::Newer(theirs) if theirs.issued_at >= candidate.issued_at => {
                        return Saved::Overtaken(theirs);
                    }
                    Seen::Newer(theirs) => theirs.ledger_generation,
                },
            };
            let generation = expected.max(candidate.ledger_generation).saturating_add(1);
            let row = StoredToken {
                generation,
                ciphertext: self.key.seal(&self.name, generation, &candidate.value),
                expires_at: candidate.expires_at,
                issued_at: candidate.issued_at,
            };
            match timeout(
                self.options.store_timeout,
                store.store_if(&self.name, expected, &row),
            )
            .await
            {
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

    fn held_generation(&self) -> i64 {
        self.state()
            .held
            .as_ref()
            .map_or(0, |held| held.ledger_generation)
    }

    /// A token of another replica: its end is that machine's wall clock, turned into a tick of ours here, once.
    fn adopt_loaded(&self, state: &mut State, candidate: Candidate) -> Token {
        let now = self.clock.tick();
        let life = candidate
            .expires_at
            .since(candidate.issued_at)
            .min(LIFE_MAX);
        let left = candidate.expires_at.since(self.clock.now()).min(life);
        let part = drawn(self.options.refresh_at.clone());
        let skew = self.options.skew_max.min(life / 10);
        let times = Times {
            refresh_at: now + left.saturating_sub(life.mul_f64(1.0 - part)),
            doubtful_at: now + left.saturating_sub(skew),
            end: now + left,
        };
        let generation = candidate.ledger_generation;
        tracing::info!(
            token = self.name,
            ledger_generation = generation,
            "an access token from the ledger"
        );
        self.adopt(state, candidate, Some(generation), times)
    }

    fn adopt(
        &self,
        state: &mut State,
        candidate: Candidate,
        saved_as: Option<i64>,
        times: Times,
    ) -> Token {
        state.counts.tokens += 1;
        let token = Token {
            value: Arc::new(candidate.value),
            generation: state.counts.tokens,
        };
        state.held = Some(Held {
            token: token.clone(),
            ledger_generation: saved_as.unwrap_or(candidate.ledger_generation),
            saved: saved_as.is_some(),
            save_at: self.clock.tick() + self.options.pause_max,
            issued_at: candidate.issued_at,
            expires_at: candidate.expires_at,
            refresh_at: times.refresh_at,
            doubtful_at: times.doubtful_at,
            end: times.end,
            refused: false,
        });
        self.changed.notify_one();
        token
    }
}

/// A part of the whole from `range`; its start if it is empty.
fn drawn(range: Range<f64>) -> f64 {
    let part = if range.is_empty() {
        range.start
    } else {
        rand::rng().random_range(range)
    };
    part.clamp(0.0, 1.0)
}

#[derive(Clone, Copy)]
struct Times {
    refresh_at: Tick,
    doubtful_at: Tick,
    end: Tick,
}

impl Held {
    fn serves(&self, now: Tick, until: Tick) -> bool {
        !self.refused && now < until
    }

    fn as_candidate(&self) -> Candidate {
        Candidate {
            value: SecretString::clone(&self.token.value),
            ledger_generation: self.ledger_generation,
            issued_at: self.issued_at,
            expires_at: self.expires_at,
        }
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

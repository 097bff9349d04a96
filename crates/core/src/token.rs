//! Access tokens of upstreams: one fetch for all who wait, refreshed ahead of time, shared by all replicas.

mod held;
mod keeper;
mod seal;
mod shelf;
#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};

use crate::randomness::{Randomness, SystemRandomness};
use crate::store::{Store, TokenRow};

pub use keeper::{TokenHealth, TokenKeeper};
pub use seal::TokenKey;

/// Where tokens come from: the connector's call to the upstream's token endpoint.
#[async_trait]
pub trait TokenSource: Send + Sync + Debug {
    /// Asks for a new token. Called in a task of its own, once at a time.
    async fn fetch(&self) -> Result<FetchedToken, TokenError>;
}

/// What the token endpoint answered.
#[derive(Clone, Debug)]
pub struct FetchedToken {
    pub value: SecretString,
    /// Obeyed, never a constant of ours.
    pub expires_in: Duration,
}

/// Where replicas share tokens: the ledger. A row's instants are the wall clock of the replica that fetched it.
#[async_trait]
pub trait TokenStore: Send + Sync + Debug {
    async fn load(&self, name: &str) -> Result<Option<TokenRow>, TokenStoreError>;
    /// Replaces the row of `name` if its generation is still `expected_generation` (0: there is no row yet).
    async fn store_if(
        &self,
        name: &str,
        expected_generation: i64,
        new: &TokenRow,
    ) -> Result<bool, TokenStoreError>;
}

/// The keeper only logs it: with the ledger away it goes on from memory.
pub type TokenStoreError = Box<dyn std::error::Error + Send + Sync>;

/// The ledger as the place where replicas share tokens.
#[derive(Clone, Debug)]
pub struct LedgerTokens(pub Arc<dyn Store>);

#[async_trait]
impl TokenStore for LedgerTokens {
    async fn load(&self, name: &str) -> Result<Option<TokenRow>, TokenStoreError> {
        Ok(self.0.load_token(name).await?)
    }

    async fn store_if(
        &self,
        name: &str,
        expected_generation: i64,
        new: &TokenRow,
    ) -> Result<bool, TokenStoreError> {
        Ok(self.0.store_token(name, expected_generation, new).await?)
    }
}

/// A token to send. `Debug` masks it; clones share it.
#[derive(Clone, Debug)]
pub struct Token {
    value: Arc<SecretString>,
    generation: u64,
}

impl Token {
    /// The secret itself, for the `Authorization` header and nothing else.
    pub fn expose(&self) -> &str {
        self.value.expose_secret()
    }

    /// Which of the tokens served by this keeper it is, to be named in [`TokenKeeper::replace`]. Counted here and not
    /// taken from the ledger: a replica that could not reach the ledger would give one number to two tokens.
    pub fn generation(&self) -> u64 {
        self.generation
    }
}

/// Why there is no token. In every case nothing was sent to the payment endpoints.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The token endpoint could not be asked, or did not answer in time.
    #[error("the token endpoint could not be asked: {detail}")]
    Unreachable { detail: String },
    /// The token endpoint says no: the credentials are wrong. Asked again only after a longer pause.
    #[error("the token endpoint refused: {detail}")]
    Refused { detail: String },
    /// The token endpoint's answer was not understood.
    #[error("the token endpoint's answer makes no sense: {detail}")]
    Unusable { detail: String },
    /// New tokens keep being refused, so fetching more is stopped for a while: somebody must look.
    #[error("new tokens keep being refused by the upstream")]
    RefreshStorm { retry_after: Duration },
}

/// How a keeper behaves. All spans are measured on the monotonic clock.
#[derive(Clone, Debug)]
pub struct TokenOptions {
    /// A token is refreshed in the background after a part of its life drawn between these two, anew for each token, so
    /// that replicas do not refresh in the same moment.
    pub refresh_at: std::ops::Range<f64>,
    /// The longest a fetch may take; the connector's own timeout should be shorter.
    pub fetch_timeout: Duration,
    /// The longest a question to the ledger may take.
    pub store_timeout: Duration,
    /// Pause after a failed fetch; doubled each time, to `pause_max`. Who asks meanwhile gets the last error.
    pub pause_min: Duration,
    pub pause_max: Duration,
    /// Pause after the endpoint refused our credentials: repeating them may lock the account.
    pub pause_refused: Duration,
    /// A token that comes from the ledger is not trusted for the last part of its life (nor for more than a tenth of
    /// it): its end is another machine's wall clock, and the clocks may differ by that much.
    pub skew_max: Duration,
    /// So many new tokens may be fetched because of a `401` within `storm_window`; the next is a storm.
    pub forced_count_max: usize,
    pub storm_window: Duration,
    /// Without the lock, a random pause up to this before the fetch gives another replica time to be first.
    pub lone_pause_max: Duration,
    /// The background looks at least so often, in case the machine slept or its clock was moved.
    pub look_every: Duration,
    /// Of the refresh's place in a token's life, and of pauses.
    pub randomness: Arc<dyn Randomness>,
}

impl TokenOptions {
    /// After which part of its life a token is refreshed.
    fn part_of_life(&self) -> f64 {
        self.randomness
            .part(self.refresh_at.clone())
            .clamp(0.0, 1.0)
    }
}

impl Default for TokenOptions {
    fn default() -> Self {
        Self {
            refresh_at: 0.8..0.9,
            fetch_timeout: Duration::from_secs(10),
            store_timeout: Duration::from_secs(2),
            pause_min: Duration::from_millis(250),
            pause_max: Duration::from_secs(5),
            pause_refused: Duration::from_secs(30),
            skew_max: Duration::from_mins(1),
            forced_count_max: 2,
            storm_window: Duration::from_mins(1),
            lone_pause_max: Duration::from_millis(500),
            look_every: Duration::from_secs(30),
            randomness: Arc::new(SystemRandomness),
        }
    }
}

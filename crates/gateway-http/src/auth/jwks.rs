//! A key set fetched from a URL: refreshed in the background, and asked again for an unknown key, but not often.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;

use super::keys::{Algorithm, KeyError, KeySet};

/// A key set is a few kilobytes; whatever is larger is not one.
const BODY_BYTES_MAX: usize = 256 * 1024;

/// Why the key set could not be fetched. The old one stays in use.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("could not fetch the key set")]
    Http(#[from] reqwest::Error),
    #[error("the key set's server answered {0}")]
    Status(u16),
    #[error("the key set is larger than {BODY_BYTES_MAX} bytes")]
    TooLarge,
    #[error("the key set {0}")]
    Keys(#[from] KeyError),
}

/// The keys behind one URL.
#[derive(Debug)]
pub struct Jwks {
    url: reqwest::Url,
    http: reqwest::Client,
    refresh: Duration,
    cooldown: Duration,
    current: RwLock<Current>,
    /// Held while fetching: one fetch at a time, whoever wants it. Holds when the last one began.
    fetching: tokio::sync::Mutex<Option<Instant>>,
}

#[derive(Clone, Debug, Default)]
struct Current {
    keys: Arc<KeySet>,
    /// Raised by every change, so that tokens verified with dropped keys are verified again.
    generation: u64,
}

impl Jwks {
    /// # Errors
    /// When the machine has no usable TLS set-up.
    pub fn new(
        url: reqwest::Url,
        refresh: Duration,
        cooldown: Duration,
    ) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .https_only(url.scheme() == "https")
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(Duration::from_secs(3))
            .timeout(Duration::from_secs(5))
            .pool_max_idle_per_host(1)
            .user_agent("quittance-gateway")
            .build()?;
        Ok(Self {
            url,
            http,
            refresh,
            cooldown,
            current: RwLock::default(),
            fetching: tokio::sync::Mutex::default(),
        })
    }

    /// The keys as last fetched, with their generation. Empty until the first fetch succeeds.
    pub fn current(&self) -> (Arc<KeySet>, u64) {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        (Arc::clone(&current.keys), current.generation)
    }

    /// The keys after one more fetch for a key id that the current ones lack. However many forged ids ask at
    /// once or in turn, the URL is fetched at most once per cool-down.
    pub async fn fetched_for(&self, key_id: &str, algorithm: Algorithm) -> (Arc<KeySet>, u64) {
        let mut last = self.fetching.lock().await;
        let (keys, generation) = self.current();
        let arrived = keys.candidates(Some(key_id), algorithm).next().is_some();
        if arrived || last.is_some_and(|last| last.elapsed() < self.cooldown) {
            return (keys, generation);
        }
        *last = Some(Instant::now());
        self.fetch_and_keep().await;
        self.current()
    }

    /// Fetches now and then, for ever. After a failure the next attempt comes after a cool-down already.
    pub async fn keep_fresh(&self) {
        loop {
            let succeeded = {
                let mut last = self.fetching.lock().await;
                *last = Some(Instant::now());
                self.fetch_and_keep().await
            };
            let pause = if succeeded {
                self.refresh
            } else {
                self.cooldown.min(self.refresh)
            };
            // Spread over a tenth, so that replicas started together do not ask together for ever.
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.9..=1.0))).await;
        }
    }

    async fn fetch_and_keep(&self) -> bool {
        match self.fetch().await {
            Ok(keys) => {
                let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
                *current = Current {
                    keys: Arc::new(keys),
                    generation: current.generation + 1,
                };
                true
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the key set stays as it is"
                );
                false
            }
        }
    }

    async fn fetch(&self) -> Result<KeySet, FetchError> {
        let mut response = self
            .http
            .get(self.url.clone())
            .send()
            .await
            .map_err(reqwest::Error::without_url)?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(FetchError::Status(response.status().as_u16()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(reqwest::Error::without_url)?
        {
            if body.len() + chunk.len() > BODY_BYTES_MAX {
                return Err(FetchError::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(KeySet::from_jwks(&body)?)
    }
}

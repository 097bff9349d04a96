//! The health of each account's access token, as `/metrics` and `/readyz` tell it.

use std::fmt;
use std::sync::Arc;

use gateway_core::engine::Account;
use gateway_core::token::TokenHealth;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// The accounts whose tokens are watched. Asked anew for each scrape: what it tells ages by itself.
#[derive(Clone, Debug)]
pub struct TokenMetrics(Vec<Arc<Account>>);

impl TokenMetrics {
    pub fn new<'a>(accounts: impl IntoIterator<Item = &'a Arc<Account>>) -> Self {
        let mut accounts: Vec<_> = accounts.into_iter().cloned().collect();
        accounts.sort_by(|one, other| one.name.as_str().cmp(other.name.as_str()));
        Self(accounts)
    }

    /// Accounts for which no token is fetched just now, because new ones keep being refused.
    pub fn storms(&self) -> Vec<String> {
        let storming = self.healths().filter(|(_, health)| health.storming);
        storming.map(|(account, _)| account.to_owned()).collect()
    }

    fn healths(&self) -> impl Iterator<Item = (&str, TokenHealth)> {
        self.0.iter().filter_map(|account| {
            let health = account.connector.token_health()?;
            Some((account.name.as_str(), health))
        })
    }
}

impl Collector for TokenMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let healths: Vec<_> = self.healths().collect();
        let mut family = |name, help, unit, kind, value: fn(&TokenHealth) -> u64| {
            let mut metric = encoder.encode_descriptor(name, help, unit, kind)?;
            for (account, health) in &healths {
                let labels = [("account", *account)];
                let one = metric.encode_family(&labels)?;
                match kind {
                    MetricType::Counter => ConstCounter::new(value(health)).encode(one)?,
                    _ => ConstGauge::new(value(health)).encode(one)?,
                }
            }
            fmt::Result::Ok(())
        };
        family(
            "upstream_token_left",
            "Until the held access token really ends; zero if there is none or it was refused",
            Some(&Unit::Seconds),
            MetricType::Gauge,
            |health| health.seconds_left,
        )?;
        family(
            "upstream_token_storm",
            "1 while no access token is fetched because new ones keep being refused",
            None,
            MetricType::Gauge,
            |health| u64::from(health.storming),
        )?;
        family(
            "upstream_token_storms",
            "Times that fetching was stopped for that reason",
            None,
            MetricType::Counter,
            |health| health.storms,
        )?;
        family(
            "upstream_token_fetches",
            "Access tokens fetched",
            None,
            MetricType::Counter,
            |health| health.fetches,
        )?;
        family(
            "upstream_token_failures",
            "Attempts that brought no access token",
            None,
            MetricType::Counter,
            |health| health.failures,
        )
    }
}

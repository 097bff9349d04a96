//! Everything that is wrong with a configuration, at once; values are looked at together.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use gateway_core::store::each_host;
use reqwest::Url;

use super::secret::pick;
use super::{Account, Auth, Config, span, sqlite_path};

/// Faults, each with the key it is about.
#[derive(Default)]
struct Faults(Vec<String>);

impl Faults {
    fn push(&mut self, fault: impl Into<String>) {
        self.0.push(fault.into());
    }

    fn unless(&mut self, fine: bool, fault: impl FnOnce() -> String) {
        if !fine {
            self.0.push(fault());
        }
    }

    fn within<T: PartialOrd + Display + Copy>(
        &mut self,
        name: &str,
        value: T,
        bounds: &RangeInclusive<T>,
    ) {
        self.unless(bounds.contains(&value), || {
            format!(
                "{name} must be between {} and {}",
                bounds.start(),
                bounds.end()
            )
        });
    }

    fn span(&mut self, name: &str, value: Duration, bounds: [&'static str; 2]) {
        let [low, high] = bounds.map(|bound| span::parse(bound).expect("a span in this file"));
        self.unless((low..=high).contains(&value), || {
            format!("{name} must be between {} and {}", bounds[0], bounds[1])
        });
    }
}

impl Config {
    /// All faults. Empty: it can be used.
    pub fn validate(&self) -> Vec<String> {
        let mut faults = Faults::default();
        self.validate_server(&mut faults);
        validate_auth(&self.auth, &mut faults);
        self.validate_clients(&mut faults);
        self.validate_ledger(&mut faults);
        self.validate_resolver(&mut faults);
        faults.unless(!self.accounts.is_empty(), || {
            "accounts: at least one is needed".into()
        });
        for (name, account) in &self.accounts {
            self.validate_account(&format!("accounts.{name}"), account, &mut faults);
        }
        faults.0
    }

    fn validate_server(&self, faults: &mut Faults) {
        let server = &self.server;
        faults.unless(server.tls.is_some() || server.plaintext || server.listen.ip().is_loopback(), || {
            "server.listen is not loopback: set server.tls, or server.plaintext = true behind a proxy that has TLS".into()
        });
        faults.unless(server.tls.is_none() || !server.plaintext, || {
            "server.plaintext and server.tls exclude each other".into()
        });
        if let Some(tls) = &server.tls {
            faults.span("server.tls.reload_every", tls.reload_every, ["1s", "1d"]);
        }
        let metrics_are_private = server.metrics_plaintext
            || server.plaintext
            || server
                .metrics_listen
                .is_none_or(|address| address.ip().is_loopback());
        faults.unless(metrics_are_private, || {
            "server.metrics_listen is plain HTTP and not loopback: set server.metrics_plaintext = true on a private \
             network, or leave it out to serve /metrics on server.listen"
                .into()
        });
        faults.unless(server.metrics_listen != Some(server.listen), || {
            "server.metrics_listen must differ from server.listen; leave it out to serve both on one".into()
        });
        faults.within(
            "server.body_bytes_max",
            server.body_bytes_max,
            &(1_024..=1_048_576),
        );
        faults.span(
            "server.body_read_timeout",
            server.body_read_timeout,
            ["100ms", "2m"],
        );
        faults.span(
            "server.header_read_timeout",
            server.header_read_timeout,
            ["100ms", "2m"],
        );
        faults.within(
            "server.connections_max",
            server.connections_max,
            &(1..=1_000_000),
        );
        faults.span(
            "server.connection_age_max",
            server.connection_age_max,
            ["1s", "1d"],
        );
        faults.within("server.streams_max", server.streams_max, &(1..=10_000));
        faults.span(
            "server.request_timeout_max",
            server.request_timeout_max,
            ["100ms", "120s"],
        );
        faults.span("server.drain_timeout", server.drain_timeout, ["0s", "10m"]);
        if let Err(error) = self.telemetry.log.parse::<tracing_subscriber::EnvFilter>() {
            faults.push(format!("telemetry.log: {error}"));
        }
        if let Some(traces) = &self.telemetry.traces {
            // Not `secure_url`: collectors stand on the node or in the cluster, and a span holds nothing secret.
            let name = "telemetry.traces.endpoint";
            bare_url(name, &traces.endpoint, &["https", "http"], faults);
            faults.within("telemetry.traces.sampled", traces.sampled, &(0.0..=1.0));
            faults.within(
                "telemetry.traces.queue_max",
                traces.queue_max,
                &(512..=1_000_000),
            );
        }
    }

    fn validate_clients(&self, faults: &mut Faults) {
        faults.unless(!self.clients.is_empty(), || {
            "clients: at least one is needed".into()
        });
        let mut owners = BTreeMap::new();
        for (name, client) in &self.clients {
            faults.unless(!client.subjects.is_empty(), || {
                format!("clients.{name}.subjects must not be empty")
            });
            for subject in &client.subjects {
                faults.unless(!subject.is_empty(), || {
                    format!("clients.{name}.subjects: one is empty")
                });
                if let Some(other) = owners.insert(subject, name) {
                    faults.push(format!(
                        "clients.{name}.subjects: one is listed twice, also under clients.{other}"
                    ));
                }
            }
            let prefix = format!("clients.{name}");
            faults.within(
                &format!("{prefix}.rate_per_second"),
                client.rate_per_second,
                &(1..=1_000_000),
            );
            faults.within(&format!("{prefix}.burst"), client.burst, &(1..=1_000_000));
        }
    }

    fn validate_ledger(&self, faults: &mut Faults) {
        let (ledger, lock, keys) = (&self.ledger, &self.lock, &self.keys);
        if let Some(path) = sqlite_path(&ledger.url) {
            // In memory it would be forgotten, and parameters could turn off what keeps it.
            let is_file = path
                .to_str()
                .is_some_and(|path| !path.is_empty() && !path.contains([':', '?']));
            faults.unless(is_file, || {
                "ledger.url must name a file, as in sqlite:///var/lib/quittance/ledger.db".into()
            });
            let has_password = ledger.password_file.is_some() || ledger.password_env.is_some();
            faults.unless(!has_password, || {
                "ledger.password_*: SQLite has no password".into()
            });
        } else {
            for url in each_host(&ledger.url) {
                bare_url("ledger.url", &url, &["postgres", "postgresql"], faults);
            }
        }
        pick(
            "ledger.password",
            ledger.password_file.as_ref(),
            ledger.password_env.as_ref(),
            &mut faults.0,
        );
        faults.within(
            "ledger.work_connections",
            ledger.work_connections,
            &(1..=100),
        );
        faults.within(
            "ledger.read_connections",
            ledger.read_connections,
            &(1..=500),
        );
        faults.span(
            "ledger.connect_timeout",
            ledger.connect_timeout,
            ["10ms", "1m"],
        );
        faults.span(
            "ledger.acquire_timeout",
            ledger.acquire_timeout,
            ["10ms", "1m"],
        );
        faults.span("ledger.lock_timeout", ledger.lock_timeout, ["10ms", "1m"]);
        faults.span(
            "ledger.statement_timeout",
            ledger.statement_timeout,
            ["10ms", "5m"],
        );
        faults.unless(ledger.lock_timeout <= ledger.statement_timeout, || {
            "ledger.lock_timeout must not exceed ledger.statement_timeout: it would never be reached".into()
        });
        faults.within("ledger.writers", ledger.writers, &(1..=32));
        faults.within("ledger.batch_max", ledger.batch_max, &(1..=2_000));
        faults.within("ledger.queue_max", ledger.queue_max, &(1..=1_000_000));

        if lock.url != "local" {
            let schemes = [
                "redis",
                "rediss",
                "redis+unix",
                "redis+cluster",
                "rediss+cluster",
            ];
            // A cluster's list of nodes is not a URL; its first node makes one.
            bare_url(
                "lock.url",
                lock.url.split(',').next().unwrap_or_default(),
                &schemes,
                faults,
            );
        }
        pick(
            "lock.password",
            lock.password_file.as_ref(),
            lock.password_env.as_ref(),
            &mut faults.0,
        );
        faults.span("lock.command_timeout", lock.command_timeout, ["10ms", "5s"]);

        for (name, file, env) in [
            (
                "keys.fingerprint",
                &keys.fingerprint_file,
                &keys.fingerprint_env,
            ),
            ("keys.token", &keys.token_file, &keys.token_env),
        ] {
            pick(name, file.as_ref(), env.as_ref(), &mut faults.0);
            faults.unless(file.is_some() || env.is_some(), || {
                format!("{name}_file or {name}_env is required")
            });
        }
        faults.within(
            "keys.fingerprint_older_files",
            keys.fingerprint_older_files.len(),
            &(0..=8),
        );

        let payments = &self.payments;
        faults.span("payments.retention", payments.retention, ["1d", "3660d"]);
        faults.within(
            "payments.permits_max",
            payments.permits_max,
            &(1..=1_000_000),
        );
        faults.within(
            "payments.permits_per_client_max",
            payments.permits_per_client_max,
            &(1..=payments.permits_max.max(1)),
        );
        faults.within(
            "payments.waiting_max",
            payments.waiting_max,
            &(1..=1_000_000),
        );
        faults.within(
            "payments.waiting_per_client_max",
            payments.waiting_per_client_max,
            &(1..=payments.waiting_max.max(1)),
        );
        faults.span("payments.ask_every", payments.ask_every, ["5ms", "10s"]);
        faults.unless(ledger.queue_max >= payments.permits_max, || {
            "ledger.queue_max must be at least payments.permits_max: an admitted payment must find a place".into()
        });
    }

    fn validate_resolver(&self, faults: &mut Faults) {
        let resolver = &self.resolver;
        faults.within(
            "resolver.schedule: the number of spans",
            resolver.schedule.len(),
            &(1..=32),
        );
        for pause in &resolver.schedule {
            faults.span("resolver.schedule: each span", *pause, ["1ms", "1d"]);
        }
        faults.unless(resolver.schedule.is_sorted(), || {
            "resolver.schedule must ascend: each moment is counted from the same beginning".into()
        });
        faults.span(
            "resolver.repeat_every",
            resolver.repeat_every,
            ["1ms", "1d"],
        );
        faults.span("resolver.scan_every", resolver.scan_every, ["1ms", "1m"]);
        faults.within("resolver.checks_max", resolver.checks_max, &(1..=1_000));
        faults.span("resolver.beat_every", resolver.beat_every, ["1ms", "10s"]);
        faults.unless(resolver.beat_every * 4 <= resolver.gap_max, || {
            "resolver.gap_max must be at least four times resolver.beat_every: one slow beat must stop nobody".into()
        });
        faults.unless(resolver.gap_max < resolver.silent_after, || {
            "resolver.silent_after must exceed resolver.gap_max: an owner stops sending before anybody may adopt".into()
        });
        faults.span(
            "resolver.silent_after",
            resolver.silent_after,
            ["1ms", "5m"],
        );
    }

    fn validate_account(&self, prefix: &str, account: &Account, faults: &mut Faults) {
        let name = |key: &str| format!("{prefix}.{key}");
        secure_url(&name("base_url"), &account.base_url, faults);
        faults.unless(!account.currencies.is_empty(), || {
            format!("{prefix}.currencies must not be empty")
        });
        // Its messages carry no currency: with two of them, an amount in one could be taken in the other.
        faults.unless(account.currencies.len() <= 1, || {
            format!("{prefix}.currencies: a device of this processor has exactly one")
        });
        for (key, guid) in [
            ("device_guid", &account.device_guid),
            ("merchant_guid", &account.merchant_guid),
        ] {
            let is_guid =
                guid.len() == 36 && guid.parse::<uuid::Uuid>().is_ok_and(|guid| !guid.is_nil());
            faults.unless(is_guid, || format!("{prefix}.{key} must be a GUID"));
        }
        for (key, file, env) in [
            ("username", &account.username_file, &account.username_env),
            ("password", &account.password_file, &account.password_env),
        ] {
            pick(&name(key), file.as_ref(), env.as_ref(), &mut faults.0);
            faults.unless(file.is_some() || env.is_some(), || {
                format!("{prefix}.{key}_file or {prefix}.{key}_env is required")
            });
        }
        faults.span(&name("timeout"), account.timeout, ["10ms", "100s"]);
        faults.span(
            &name("connect_timeout"),
            account.connect_timeout,
            ["10ms", "30s"],
        );
        faults.unless(account.connect_timeout < account.timeout, || {
            format!("{prefix}.connect_timeout must be below {prefix}.timeout")
        });
        faults.unless(account.timeout < self.server.request_timeout_max, || {
            format!("{prefix}.timeout must be below server.request_timeout_max: callers must not leave first")
        });
        // A caller may wait request_timeout_max before the first byte leaves; the call may then last its timeout.
        let longest = account.timeout + self.server.request_timeout_max;
        faults.unless(account.late_arrival_horizon > longest, || {
            format!(
                "{prefix}.late_arrival_horizon must exceed {prefix}.timeout + server.request_timeout_max ({}): until then \
                 a request may still be on its way",
                span::show(longest)
            )
        });
        faults.unless(
            account.late_arrival_horizon < self.payments.retention,
            || format!("{prefix}.late_arrival_horizon must be below payments.retention"),
        );
        faults.within(
            &name("connections_per_host"),
            account.connections_per_host,
            &(1..=10_000),
        );
        faults.within(&name("waiters_max"), account.waiters_max, &(0..=1_000_000));
        faults.span(&name("wait_max"), account.wait_max, ["1ms", "1m"]);
        faults.span(
            &name("connection_age_max"),
            account.connection_age_max,
            ["1s", "300s"],
        );
        faults.unless(account.timeout <= account.connection_age_max / 3, || {
            format!("{prefix}.timeout must not exceed a third of {prefix}.connection_age_max: no request may outlive its connection")
        });
        faults.span(
            &name("connection_idle_max"),
            account.connection_idle_max,
            ["100ms", "300s"],
        );
        faults.unless(account.warm_min <= account.connections_per_host, || {
            format!("{prefix}.warm_min must not exceed {prefix}.connections_per_host")
        });
        faults.within(
            &name("answer_bytes_max"),
            account.answer_bytes_max,
            &(1_024..=16_777_216),
        );
        faults.within(
            &name("concurrency_max"),
            account.concurrency_max,
            &(1..=9_999),
        );
        // Payments that hang would else hold every connection, and the reversals that end them would find none.
        faults.unless(account.connections_per_host > account.concurrency_max, || {
            format!(
                "{prefix}.connections_per_host must exceed {prefix}.concurrency_max: reversals, look-ups and tokens need \
                 connections of their own"
            )
        });
        faults.within(
            &name("breaker.failures_max"),
            account.breaker.failures_max,
            &(1..=1_000_000),
        );
        faults.span(
            &name("breaker.open_for"),
            account.breaker.open_for,
            ["10ms", "1h"],
        );
    }
}

fn validate_auth(auth: &Auth, faults: &mut Faults) {
    faults.unless(!auth.issuer.is_empty(), || {
        "auth.issuer must not be empty".into()
    });
    faults.unless(!auth.audience.is_empty(), || {
        "auth.audience must not be empty".into()
    });
    faults.unless(!auth.algorithms.is_empty(), || {
        "auth.algorithms must not be empty".into()
    });
    faults.unless(auth.key_file.is_some() != auth.jwks_url.is_some(), || {
        "auth: exactly one of key_file and jwks_url is needed".into()
    });
    if let Some(url) = &auth.jwks_url {
        secure_url("auth.jwks_url", url, faults);
    }
    faults.span("auth.jwks_refresh", auth.jwks_refresh, ["1s", "1d"]);
    faults.span("auth.jwks_cooldown", auth.jwks_cooldown, ["1s", "1h"]);
    faults.span(
        "auth.jwt_lifetime_max",
        auth.jwt_lifetime_max,
        ["1m", "12h"],
    );
    faults.span("auth.leeway", auth.leeway, ["0s", "1m"]);
}

/// A URL of one of the schemes, without a password.
fn bare_url(name: &str, text: &str, schemes: &[&str], faults: &mut Faults) -> Option<Url> {
    let Ok(url) = Url::parse(text) else {
        faults.push(format!("{name} is not a URL"));
        return None;
    };
    faults.unless(schemes.contains(&url.scheme()), || {
        format!("{name} must begin with {}", schemes.join(":// or ") + "://")
    });
    let has_password =
        url.password().is_some() || url.query_pairs().any(|(name, _)| name == "password");
    faults.unless(!has_password, || {
        format!("{name} must not hold a password: use a file or an environment variable")
    });
    Some(url)
}

/// `https`, or `http` on this machine.
fn secure_url(name: &str, text: &str, faults: &mut Faults) {
    let Some(url) = bare_url(name, text, &["https", "http"], faults) else {
        return;
    };
    let host = url.host_str().unwrap_or_default();
    let bare_host = host.trim_matches(['[', ']']);
    let is_local =
        host == "localhost" || bare_host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    faults.unless(url.scheme() != "http" || is_local, || {
        format!("{name} must begin with https:// unless it is on this machine")
    });
    faults.unless(url.query().is_none() && url.fragment().is_none(), || {
        format!("{name} must have neither query nor fragment")
    });
}

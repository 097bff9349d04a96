//! One life of one replica: the product's own engine and connector on a simulated machine.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use gateway_core::clock::{Clock, SimulatedClock, Timestamp};
use gateway_core::engine::{Account, Engine, EngineOptions, Parts};
use gateway_core::idempotency::FingerprintKeys;
use gateway_core::journal::JournalOptions;
use gateway_core::key::{AccountName, ReplicaId};
use gateway_core::liveness::LivenessOptions;
use gateway_core::lock::Lock;
use gateway_core::metrics::Metrics;
use gateway_core::money::Currency;
use gateway_core::randomness::Randomness;
use gateway_core::resolver::ResolverOptions;
use gateway_core::store::Store;
use gateway_core::task::Machine;
use gateway_core::token::{LedgerTokens, TokenKeeper, TokenKey, TokenOptions};
use gateway_upstream::connexpay::{
    ConnexPay, ConnexPayConfig, ConnexPayParts, ConnexPayTokens, Credentials, Login,
};
use gateway_upstream::pool::{Breaker, BreakerConfig, Limit, LimitConfig, PoolMetrics};
use prometheus_client::registry::Registry;
use secrecy::SecretString;

use super::dice::{Dice, SharedDice};
use super::ledger_way::LedgerWay;
use super::lock_way::LockWay;
use super::log::Place;
use super::wire::Wire;
use super::world::World;
use crate::simulators::connexpay::{DEVICE_USD, MERCHANT_USD, PASSWORD, USERNAME};

/// The one account of a world.
pub(super) const ACCOUNT: &str = "acme-us";
pub(super) const ENDPOINT: &str = "https://connexpay.invalid/api/v1";
/// What the clocks of a world show when it begins.
pub(super) const START: Timestamp = Timestamp::from_seconds(1_800_000_000);
/// More than any world's timeout.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(10);

pub(super) static KEYS: LazyLock<Arc<FingerprintKeys>> = LazyLock::new(|| {
    let secret =
        SecretString::from("00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff");
    Arc::new(FingerprintKeys::parse(&secret, &[]).expect("32 bytes in hexadecimal"))
});
static TOKEN_KEY: LazyLock<TokenKey> =
    LazyLock::new(|| TokenKey::parse(&"07".repeat(32).into()).expect("32 bytes"));
/// Counted and never read: what is registered once per history would cost more than it.
static POOL_METRICS: LazyLock<PoolMetrics> =
    LazyLock::new(|| PoolMetrics::register(&mut Registry::default()));

pub(super) fn account_name() -> AccountName {
    AccountName::parse(ACCOUNT).expect("a name")
}

pub(super) fn usd() -> Currency {
    Currency::parse("USD").expect("a currency")
}

/// A running replica.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) place: Place,
    pub(super) machine: Arc<Machine>,
    pub(super) engine: Arc<Engine>,
    pub(super) clock: Arc<SimulatedClock>,
}

impl Life {
    /// Starts the product on a machine of its own. Inside the world's runtime.
    pub(super) fn begin(world: &Arc<World>, place: Place, mut dice: Dice) -> Self {
        let machine = Machine::new();
        let clock = Arc::new(SimulatedClock::new(START + world.log.now()));
        let engine = machine.run(|| engine(world, place, &clock, &mut dice));
        Self {
            place,
            machine,
            engine: Arc::new(engine),
            clock,
        }
    }
}

fn engine(
    world: &Arc<World>,
    place: Place,
    clock: &Arc<SimulatedClock>,
    dice: &mut Dice,
) -> Engine {
    let figures = &world.plan.figures;
    let plan = &world.plan.account;
    let way = LedgerWay {
        world: Arc::clone(world),
        place,
        dice: SharedDice::new(dice.fork()),
    };
    let store: Arc<dyn Store> = Arc::new(world.ledger.with_faults(Arc::new(way)));
    let lock: Arc<dyn Lock> = Arc::new(LockWay {
        world: Arc::clone(world),
        place,
        dice: SharedDice::new(dice.fork()),
    });
    let randomness: Arc<dyn Randomness> = Arc::new(SharedDice::new(dice.fork()));
    let wire = Arc::new(Wire {
        world: Arc::clone(world),
        place,
        clock: Arc::clone(clock),
        dice: SharedDice::new(dice.fork()),
    });
    let clock: Arc<dyn Clock> = Arc::clone(clock) as _;
    let login = Login::new(Credentials {
        username: SecretString::from(USERNAME),
        password: SecretString::from(PASSWORD),
    });
    let timeout = figures.upstream_timeout;
    let source = ConnexPayTokens::new(Arc::clone(&wire), Arc::clone(&login), timeout);
    let tokens = TokenKeeper::new(
        ACCOUNT,
        Arc::new(source),
        Some(Arc::new(LedgerTokens(Arc::clone(&store)))),
        Arc::clone(&lock),
        TOKEN_KEY.clone(),
        Arc::clone(&clock),
        TokenOptions {
            fetch_timeout: figures.upstream_timeout + Duration::from_millis(500),
            pause_max: Duration::from_secs(2),
            storm_window: Duration::from_secs(8),
            look_every: Duration::from_secs(10),
            randomness: Arc::clone(&randomness),
            ..TokenOptions::default()
        },
    );
    let breaker = BreakerConfig {
        failure_count_max: 6,
        open_for: Duration::from_secs(2),
    };
    let limit = LimitConfig {
        calls_max: 16,
        waiters_max: 16,
        wait_max: Duration::from_secs(1),
    };
    let config = ConnexPayConfig {
        timeout: figures.upstream_timeout,
        read_timeout: figures.upstream_timeout,
        trust_429: plan.trust_429,
        timeout_reversal: plan.timeout_reversal,
        partial_captures: plan.partial_captures,
        resend_identical: plan.resend_identical,
        ..ConnexPayConfig::new(ENDPOINT, DEVICE_USD, MERCHANT_USD, usd())
    };
    let connector = ConnexPay::new(
        config,
        ConnexPayParts {
            wire,
            tokens,
            login,
            breaker: Breaker::new(ACCOUNT, breaker, Arc::clone(&clock), &POOL_METRICS),
            limit: Limit::new(ACCOUNT, limit, &POOL_METRICS),
        },
    );
    let account = Account {
        name: account_name(),
        connector: Arc::new(connector.expect("figures that fit together")),
        endpoint: ENDPOINT.to_owned(),
        currencies: vec![usd()],
        timeout: figures.upstream_timeout,
        late_arrival_horizon: figures.horizon,
    };
    let parts = Parts {
        store,
        lock,
        replica: ReplicaId::generate(clock.now(), randomness.bytes()),
        clock,
        randomness,
        keys: Arc::clone(&KEYS),
        accounts: HashMap::from([(account_name(), Arc::new(account))]),
        metrics: Arc::new(Metrics::default()),
    };
    let options = EngineOptions {
        journal: JournalOptions {
            writers: 2,
            batch_max: 4,
            ..JournalOptions::default()
        },
        liveness: LivenessOptions {
            beat_every: figures.beat_every,
            ..LivenessOptions::default()
        },
        resolver: ResolverOptions {
            schedule: [1, 2, 4, 8].map(Duration::from_secs).to_vec(),
            repeat_every: figures.repeat_every,
            scan_every: figures.scan_every,
            ..ResolverOptions::default()
        },
        ask_every: figures.ask_every,
        wait_max: WAIT_MAX,
        ..EngineOptions::default()
    };
    Engine::start(parts, options)
}

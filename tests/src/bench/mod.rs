//! The benchmark: payments through the built gateway, against what its own ledger does by itself, in turn.
//!
//! Everything shares one machine: callers, gateway, upstream, Postgres. So nothing here is a number for a brochure; what
//! holds is the ratio of two sides measured in turn in one run.

mod gateway;
mod load;
mod outside;
mod pgbench;
mod report;
mod stub;
mod usage;
mod wire;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use sqlx::{Connection, Executor, PgConnection};

use self::load::{HOLE, Tally, Target};
use self::outside::Outside;
use self::pgbench::Twin;
use self::report::{Alone, Cost, Report, Turn};
use crate::simulators::connexpay::DEVICE_USD;
use crate::stack::{
    Algorithm, Doing, GatewayProcess, PostgresServer, StackError, TempDir, TestKey,
};
use crate::world::{claims, migrate, sale};

const DATABASE: &str = "quittance";
const USER: &str = "quittance";
const WARM_UP: Duration = Duration::from_secs(1);

/// Options of `bench`.
#[derive(Debug, Args)]
pub struct Bench {
    /// How often each side has its turn.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..100))]
    turns: u16,
    /// How long each measurement lasts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..300))]
    seconds: u64,
    /// Callers at once.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Clients of pgbench; the best of these counts.
    #[arg(long, default_values_t = [8, 16, 32], value_delimiter = ',')]
    clients: Vec<usize>,
    /// Where the report goes.
    #[arg(long, default_value = "target/bench/report.md")]
    report: PathBuf,
}

/// Measures, and prints what it found. An error means that something could not be measured, a refused payment included, or
/// that a figure falls short of what the product promises.
pub async fn run(bench: Bench) -> Result<(), StackError> {
    let rig = Rig::new().await?;
    let resting = rig.gateway.resident_bytes();

    // The first payments fetch a token, open connections, and leave a row that pgbench's are made like.
    rig.pay(bench.connections, WARM_UP).await?;
    let twin = Twin::of_last_payment(&mut rig.ledger().await?).await?;

    let span = Duration::from_secs(bench.seconds);
    let mut alone = Vec::new();
    for _ in 0..bench.turns {
        let direct = rig.outside.run(load::run(rig.direct(), 1, span)).await?;
        let paid = rig.pay(1, span).await?;
        alone.push(Alone {
            direct: direct.quantile(0.5),
            paid: paid.quantile(0.5),
        });
    }
    let mut turns = Vec::new();
    for turn in 0..bench.turns {
        rig.pay(bench.connections, WARM_UP).await?;
        let before = rig.used();
        let paid = rig.pay(bench.connections, span).await?;
        let cost = rig.cost_since(before, paid.answers);
        let mut ledger = Vec::new();
        for (i, &clients) in bench.clients.iter().enumerate() {
            let number = usize::from(turn) * bench.clients.len() + i;
            let before = rig.used();
            let run = rig.pgbench(&twin, number, clients, bench.seconds).await?;
            ledger.push((run, rig.cost_since(before, run.transactions)));
        }
        let turn = Turn { paid, cost, ledger };
        eprintln!("{turn}");
        turns.push(turn);
    }
    let report = Report {
        connections: bench.connections,
        span,
        resting,
        loaded: rig.gateway.resident_bytes(),
        postgres: rig.postgres_version().await?,
        alone,
        turns,
    };
    print!("{}", report.table());
    print!("{}", report.lines());
    report.write(&bench.report)?;
    eprintln!("written to {}", bench.report.display());
    match report.shortfalls() {
        short if short.is_empty() => Ok(()),
        short => Err(StackError::new(short.join("; "))),
    }
}

/// Ledger, upstream, gateway and callers.
struct Rig {
    outside: Outside,
    key: TestKey,
    gateway: GatewayProcess, // Before the ledger that it uses.
    address: SocketAddr,
    postgres: PostgresServer,
    folder: TempDir,
}

impl Rig {
    async fn new() -> Result<Self, StackError> {
        let postgres = PostgresServer::start_new().await?;
        let mut administrator = connect(&postgres.admin_url()).await?;
        administrator
            .execute(sqlx::AssertSqlSafe(format!("create database {DATABASE}")))
            .await
            .doing(|| format!("creating {DATABASE}"))?;
        let ledger = postgres.url(DATABASE);
        migrate(&ledger).await?;
        let outside = Outside::start()?;
        let key = TestKey::generate(Algorithm::EdDsa, "bench");
        let folder = TempDir::new("bench")?;
        let (gateway, address) = gateway::start(&ledger, outside.upstream(), &key, &folder).await?;
        Ok(Self {
            outside,
            key,
            gateway,
            address,
            postgres,
            folder,
        })
    }

    async fn ledger(&self) -> Result<PgConnection, StackError> {
        connect(&self.postgres.url(DATABASE)).await
    }

    /// Payments from so many callers at once. Each answer must have its approved operation in the ledger.
    async fn pay(&self, connections: usize, span: Duration) -> Result<Tally, StackError> {
        let before = self.approved().await?;
        let work = load::run(self.payments(), connections, span);
        let paid = self.outside.run(work).await?;
        self.expect_approved(before + paid.answers).await?;
        Ok(paid)
    }

    async fn pgbench(
        &self,
        twin: &Twin,
        number: usize,
        clients: usize,
        seconds: u64,
    ) -> Result<pgbench::Run, StackError> {
        let before = self.approved().await?;
        let server = pgbench::Server {
            port: self.postgres.port(),
            user: USER,
            database: DATABASE,
            folder: self.folder.path(),
        };
        let run = twin.run(&server, number, clients, seconds).await?;
        self.expect_approved(before + run.transactions).await?;
        Ok(run)
    }

    /// Approved operations whose two entries are there.
    async fn approved(&self) -> Result<u64, StackError> {
        let count: i64 = sqlx::query_scalar(
            "select least((select count(*) from operation where state = 'approved'),
                          (select count(*) from payment where captured = amount),
                          (select count(*) / 2 from ledger_entry),
                          (select count(*) / 2 from event where kind = 'transition'))",
        )
        .fetch_one(&mut self.ledger().await?)
        .await
        .doing(|| "counting payments".to_owned())?;
        Ok(u64::try_from(count).unwrap_or_default())
    }

    async fn expect_approved(&self, expected: u64) -> Result<(), StackError> {
        match self.approved().await? {
            found if found == expected => Ok(()),
            found => Err(StackError::new(format!(
                "the ledger holds {found} payments and not {expected}"
            ))),
        }
    }

    /// A sale as callers send it. Tokens last ten minutes, so each load has its own.
    fn payments(&self) -> Arc<Target> {
        let mut body = sale(150_000);
        body["order_reference"] = HOLE.into();
        let token = self.key.mint(&claims("shop-1"));
        let headers = format!("Authorization: Bearer {token}\r\nIdempotency-Key: {HOLE}\r\n");
        let path = "/v1/payments";
        Target::post(
            self.address,
            path,
            &headers,
            &body.to_string(),
            "HTTP/1.1 201",
        )
    }

    /// What the gateway sends for it, sent without the gateway.
    fn direct(&self) -> Arc<Target> {
        let body = format!(
            r#"{{"DeviceGuid":"{DEVICE_USD}","Amount":1500.00,"SequenceNumber":"{HOLE}A","OrderNumber":"{HOLE}A","RiskProcessingOnly":false,"SendReceipt":false,"ConnexPayTransaction":{{"ExpectedPayments":0}},"RiskData":{{"Gender":"F","BillingPhoneNumber":null,"ProductType":"Flight","ProductItem":"784GTWJFK856"}},"Card":{{"CardNumber":"4012000098765439","CardHolderName":"Jane Doe","Cvv2":"999","ExpirationDate":"3012","Customer":{{"FirstName":"Jane","LastName":"Doe","City":"New York","State":"NY","Country":"US","Email":"jane@example.com","Address1":"107 7th Av.","Zip":"10007"}}}}}}"#
        );
        let headers = "Authorization: Bearer a-token-of-the-benchmark\r\n";
        let path = "/api/v1/sales";
        Target::post(
            self.outside.upstream(),
            path,
            headers,
            &body,
            "HTTP/1.1 200",
        )
    }

    /// CPU time so far, where the system tells.
    fn used(&self) -> Option<Cost> {
        Some(Cost {
            gateway: usage::of(self.gateway.id()?)?,
            postgres: usage::with_children(self.postgres.id()?)?,
            outside: usage::of(std::process::id())?,
        })
    }

    /// Of each payment since `before`.
    fn cost_since(&self, before: Option<Cost>, payments: u64) -> Option<Cost> {
        Some(self.used()?.since(before?, payments))
    }

    async fn postgres_version(&self) -> Result<String, StackError> {
        sqlx::query_scalar("show server_version")
            .fetch_one(&mut self.ledger().await?)
            .await
            .doing(|| "asking for the version of Postgres".to_owned())
    }
}

async fn connect(url: &str) -> Result<PgConnection, StackError> {
    PgConnection::connect(url)
        .await
        .doing(|| "connecting to Postgres".to_owned())
}

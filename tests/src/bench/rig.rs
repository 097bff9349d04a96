//! What every scene shares: ledger, upstream and callers; and payments, each of which must be in the ledger afterwards.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use super::gateway::{Changes, Gateway};
use super::load::{self, HOLE, Tally, Target};
use super::outside::Outside;
use super::pgbench::{self, Twin};
use super::usage;
use crate::simulators::connexpay::DEVICE_USD;
use crate::stack::{Algorithm, Doing, PostgresServer, StackError, TempDir, TestKey};
use crate::world::{claims, migrate, sale};

const DATABASE: &str = "quittance";
const USER: &str = "quittance";

/// CPU time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    pub(super) gateway: Duration,
    pub(super) postgres: Duration,
    /// Callers and upstream, or pgbench.
    pub(super) outside: Duration,
}

impl Cost {
    /// Per payment, since `before`.
    pub(super) fn since(self, before: Self, payments: u64) -> Self {
        let count = u32::try_from(payments).unwrap_or(u32::MAX).max(1);
        Self {
            gateway: self.gateway.saturating_sub(before.gateway) / count,
            postgres: self.postgres.saturating_sub(before.postgres) / count,
            outside: self.outside.saturating_sub(before.outside) / count,
        }
    }
}

/// Ledger, upstream and callers.
pub(super) struct Rig {
    pub(super) outside: Outside,
    key: TestKey,
    postgres: PostgresServer,
    folder: TempDir,
}

impl Rig {
    pub(super) async fn new() -> Result<Self, StackError> {
        let postgres = PostgresServer::start_new().await?;
        let mut administrator = connect(&postgres.admin_url()).await?;
        administrator
            .execute(AssertSqlSafe(format!("create database {DATABASE}")))
            .await
            .doing(|| format!("creating {DATABASE}"))?;
        migrate(&postgres.url(DATABASE)).await?;
        Ok(Self {
            outside: Outside::start()?,
            key: TestKey::generate(Algorithm::EdDsa, "bench"),
            postgres,
            folder: TempDir::new("bench")?,
        })
    }

    pub(super) async fn gateway(&self, changes: Changes<'_>) -> Result<Gateway, StackError> {
        let (ledger, upstream) = (self.postgres.url(DATABASE), self.outside.upstream());
        Gateway::start(&ledger, upstream, &self.key, &self.folder, changes).await
    }

    pub(super) async fn ledger(&self) -> Result<PgConnection, StackError> {
        connect(&self.postgres.url(DATABASE)).await
    }

    /// Payments from so many callers at once. Each answer must have its approved operation in the ledger.
    pub(super) async fn pay(
        &self,
        gateways: &[&Gateway],
        connections: usize,
        span: Duration,
    ) -> Result<Tally, StackError> {
        let targets = gateways
            .iter()
            .map(|gateway| self.payments(gateway.address));
        let targets = targets.collect();
        self.counted(load::closed(targets, connections, span)).await
    }

    /// So many payments a second, whatever becomes of the earlier ones. Each must be in the ledger, too.
    pub(super) async fn pay_steadily(
        &self,
        gateway: &Gateway,
        rate: f64,
        span: Duration,
    ) -> Result<Tally, StackError> {
        let target = self.payments(gateway.address);
        self.counted(load::open(target, rate, span)).await
    }

    /// One payment from each of so many callers, one `gap` after the other.
    pub(super) async fn pay_once(
        &self,
        gateway: &Gateway,
        connections: usize,
        gap: Duration,
    ) -> Result<Tally, StackError> {
        let target = self.payments(gateway.address);
        self.counted(load::once(target, connections, gap)).await
    }

    async fn counted(
        &self,
        work: impl Future<Output = Result<Tally, StackError>> + Send + 'static,
    ) -> Result<Tally, StackError> {
        let before = self.approved().await?;
        let paid = self.outside.run(work).await?;
        self.expect_approved(before + paid.answers).await?;
        Ok(paid)
    }

    pub(super) async fn pgbench(
        &self,
        twin: &Twin,
        number: usize,
        clients: usize,
        span: Duration,
    ) -> Result<pgbench::Run, StackError> {
        let before = self.approved().await?;
        let server = pgbench::Server {
            port: self.postgres.port(),
            user: USER,
            database: DATABASE,
            folder: self.folder.path(),
        };
        let run = twin.run(&server, number, clients, span).await?;
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

    fn payments(&self, address: SocketAddr) -> Arc<Target> {
        let mut body = sale(1_000);
        body["order_reference"] = HOLE.into();
        let token = self.key.mint(&claims("shop-1"));
        let headers = format!("Authorization: Bearer {token}\r\nIdempotency-Key: {HOLE}\r\n");
        Target::post(
            address,
            "/v1/payments",
            &headers,
            &body.to_string(),
            "HTTP/1.1 201",
        )
    }

    /// What the gateway asks of the upstream for such a payment, asked by a caller.
    pub(super) fn direct(&self) -> Arc<Target> {
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
    pub(super) fn used(&self, gateways: &[&Gateway]) -> Option<Cost> {
        let mut gateway = Duration::ZERO;
        for each in gateways {
            gateway += usage::of(each.process.id()?)?;
        }
        Some(Cost {
            gateway,
            postgres: usage::with_children(self.postgres.id()?)?,
            outside: usage::of(std::process::id())?,
        })
    }

    /// Of each payment since `before`.
    pub(super) fn cost_since(
        &self,
        before: Option<Cost>,
        gateways: &[&Gateway],
        payments: u64,
    ) -> Option<Cost> {
        Some(self.used(gateways)?.since(before?, payments))
    }

    pub(super) async fn postgres_version(&self) -> Result<String, StackError> {
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

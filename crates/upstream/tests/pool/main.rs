//! What the transport pool promises, shown on real sockets.

mod ageing;
mod bounds;
mod calls;
mod server;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use gateway_core::clock::{Clock, SystemClock};
use gateway_core::connector::{AlwaysOpen, SendGate};
use gateway_upstream::pool::{Call, Exchange, Pool, PoolConfig, PoolMetrics, Resolve};
use http::{HeaderMap, Method, Uri};
use prometheus_client::registry::Registry;

/// Settings under which nothing happens by itself within a test.
fn config(base: Uri) -> PoolConfig {
    PoolConfig {
        connect_timeout: Duration::from_secs(10),
        wait_max: Duration::from_secs(10),
        ..PoolConfig::new("test", base)
    }
}

fn pool(config: PoolConfig) -> Arc<Pool> {
    pool_with(config, Arc::new(SystemClock))
}

fn pool_with(config: PoolConfig, clock: Arc<dyn Clock>) -> Arc<Pool> {
    Pool::new(
        config,
        clock,
        &PoolMetrics::register(&mut Registry::default()),
    )
    .expect("settings that fit")
}

async fn post(pool: &Pool, gate: &dyn SendGate) -> Exchange {
    post_within(pool, gate, Duration::from_secs(20)).await
}

async fn post_within(pool: &Pool, gate: &dyn SendGate, timeout: Duration) -> Exchange {
    let headers = HeaderMap::new();
    let call = Call {
        method: Method::POST,
        path: "/sales?kind=test",
        headers: &headers,
        body: Bytes::from_static(b"{\"Amount\":1500.00}"),
        timeout,
        gate,
        label: "POST /sales",
    };
    pool.call(call).await
}

fn text(exchange: &Exchange) -> &str {
    let response = exchange.result.as_ref().expect("an answer");
    std::str::from_utf8(&response.body).expect("UTF-8")
}

async fn post_open(pool: &Pool) -> Exchange {
    post(pool, &AlwaysOpen).await
}

/// Gives one address for every name, and counts how often it was asked.
#[derive(Debug)]
struct CountingResolver {
    address: SocketAddr,
    asked: AtomicUsize,
}

impl CountingResolver {
    fn new(address: SocketAddr) -> Arc<Self> {
        Arc::new(Self {
            address,
            asked: AtomicUsize::new(0),
        })
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

#[async_trait::async_trait]
impl Resolve for CountingResolver {
    async fn resolve(&self, _: &str, _: u16) -> std::io::Result<Vec<SocketAddr>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Ok(vec![self.address])
    }
}

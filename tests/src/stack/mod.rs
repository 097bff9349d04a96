//! What surrounds the product in a test: servers, processes, keys, and a network that fails on demand.

mod collector;
mod databases;
mod error;
mod eventually;
mod gateway_process;
mod jwks_server;
mod network;
mod postgres_server;
mod process;
mod programs;
mod redis_server;
mod stalls;
mod tcp_proxy;
mod temporary;
mod test_key;
mod trap;

pub use collector::{CollectedSpan, Collector};
pub use databases::{Database, Databases};
pub use error::{Doing, StackError};
pub use eventually::eventually;
pub use gateway_process::{GatewayOptions, GatewayProcess};
pub use jwks_server::JwksServer;
pub use network::reserve_port;
pub use postgres_server::PostgresServer;
pub use process::Process;
pub use programs::{built_binary, database_url, postgres_program, redis_url};
pub use redis_server::RedisServer;
pub use stalls::{Stalls, unix_ms};
pub use tcp_proxy::TcpProxy;
pub use temporary::TempDir;
pub use test_key::{Algorithm, TestKey, jwks, token_signed_with_secret, unsigned_token};
pub use trap::{Moment, Trap};

//! Where a Redis is, one server or a cluster, and what a connection to it is.

use std::fmt;

use ::redis::aio::{ConnectionLike, MultiplexedConnection};
use ::redis::cluster::{ClusterClient, ClusterClientBuilder};
use ::redis::cluster_async::ClusterConnection;
use ::redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, IntoConnectionInfo, Pipeline, RedisError,
    RedisFuture, RedisResult, Value,
};
use secrecy::{ExposeSecret, SecretString};

use super::super::LockError;
use super::RedisLockOptions;

/// Where to connect to.
pub(super) enum Target {
    Single(Box<ConnectionInfo>),
    /// Some of the cluster's nodes.
    Cluster(Vec<ConnectionInfo>),
}

impl Target {
    pub(super) fn parse(address: &str, options: &RedisLockOptions) -> Result<Self, LockError> {
        let unusable = |error: RedisError| LockError::Address {
            reason: error.to_string(),
        };
        let (scheme, rest) = address
            .split_once("://")
            .ok_or_else(|| LockError::Address {
                reason: "it has no scheme, as in redis://".to_owned(),
            })?;
        let Some(scheme) = scheme.strip_suffix("+cluster") else {
            return address
                .into_connection_info()
                .map(|single| Self::Single(Box::new(single)))
                .map_err(unusable);
        };
        let (login, hosts) = rest
            .rsplit_once('@')
            .map_or(("", rest), |(login, hosts)| (login, hosts));
        let at = if login.is_empty() { "" } else { "@" };
        let nodes: Vec<ConnectionInfo> = hosts
            .trim_end_matches('/')
            .split(',')
            .map(|host| format!("{scheme}://{login}{at}{host}").into_connection_info())
            .collect::<Result<_, _>>()
            .map_err(unusable)?;
        cluster(&nodes, None, options).map_err(unusable)?;
        Ok(Self::Cluster(nodes))
    }

    /// A new connection, with the password of this moment.
    pub(super) async fn connect(&self, options: &RedisLockOptions) -> Result<Wire, LockError> {
        let password = match &options.password {
            None => None,
            Some(password) => Some(
                password
                    .read()
                    .map_err(|reason| LockError::Password { reason })?,
            ),
        };
        let connected = match self {
            Self::Single(single) => {
                let mut single = single.as_ref().clone();
                if let Some(password) = password {
                    let login = single.redis_settings().clone();
                    single =
                        single.set_redis_settings(login.set_password(password.expose_secret()));
                }
                connect_single(single, options).await.map(Wire::Single)
            }
            Self::Cluster(nodes) => match cluster(nodes, password.as_ref(), options) {
                Ok(client) => client.get_async_connection().await.map(Wire::Cluster),
                Err(error) => Err(error),
            },
        };
        connected.map_err(LockError::Failed)
    }
}

async fn connect_single(
    info: ConnectionInfo,
    options: &RedisLockOptions,
) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(options.connect_timeout))
        .set_response_timeout(Some(options.command_timeout));
    Client::open(info)?
        .get_multiplexed_async_connection_with_config(&config)
        .await
}

fn cluster(
    nodes: &[ConnectionInfo],
    password: Option<&SecretString>,
    options: &RedisLockOptions,
) -> RedisResult<ClusterClient> {
    let mut builder = ClusterClientBuilder::new(nodes.to_vec())
        .connection_timeout(options.connect_timeout)
        .response_timeout(options.command_timeout);
    if let Some(password) = password {
        builder = builder.password(password.expose_secret());
    }
    builder.build()
}

/// One multiplexed connection, or one a node.
#[derive(Clone)]
pub(super) enum Wire {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl ConnectionLike for Wire {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Single(connection) => connection.req_packed_command(command),
            Self::Cluster(connection) => connection.req_packed_command(command),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Single(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Single(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Single(_) => "Wire(single)",
            Self::Cluster(_) => "Wire(cluster)",
        })
    }
}

//! A Redis of one test's own, to flush, stop and start.

use std::process::Command;
use std::time::Duration;

use super::{Doing, Process, StackError, TempDir, eventually, programs, reserve_port};

const START_WAIT: Duration = Duration::from_secs(30);
const ANSWER_WAIT: Duration = Duration::from_secs(10);
const START_COUNT_MAX: usize = 5;

/// Keeps nothing on disk: stopped, it has forgotten everything, as a crashed cache has.
#[derive(Debug)]
pub struct RedisServer {
    running: Option<Process>, // Before the folder: killed before its folder is removed.
    folder: TempDir,
    port: u16,
}

impl RedisServer {
    pub async fn start_new() -> Result<Self, StackError> {
        let mut failure = None;
        for _ in 0..START_COUNT_MAX {
            let mut server = Self {
                running: None,
                folder: TempDir::new("redis")?,
                port: reserve_port()?,
            };
            match server.start().await {
                Ok(()) => return Ok(server),
                Err(error) => failure = Some(error), // Another process may have taken the port.
            }
        }
        Err(failure.expect("the loop ran at least once"))
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Starts it again, empty, on the same port; nothing if it runs.
    pub async fn start(&mut self) -> Result<(), StackError> {
        if self.running.is_some() {
            return Ok(());
        }
        let mut command = Command::new(programs::redis_program()?);
        command.args([
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
            "--daemonize",
            "no",
        ]);
        command
            .arg("--port")
            .arg(self.port.to_string())
            .arg("--dir")
            .arg(self.folder.path());
        let mut process = Process::spawn("redis", self.folder.path(), &mut command)?;
        let url = self.url();
        let started = eventually(START_WAIT, "Redis to answer", async || {
            match process.ended() {
                Ok(None) => ping(&url).await.ok().map(Ok),
                Ok(Some(status)) => Some(Err(StackError::new(format!("Redis ended: {status}")))),
                Err(error) => Some(Err(error)),
            }
        });
        started.await??;
        self.running = Some(process);
        Ok(())
    }

    /// Kills it: connections break, new ones are refused, everything is forgotten.
    pub fn stop(&mut self) -> Result<(), StackError> {
        self.running
            .take()
            .map_or(Ok(()), |mut process| process.kill())
    }

    /// Removes every key.
    pub async fn flush(&self) -> Result<(), StackError> {
        let mut connection = connect(&self.url()).await?;
        redis::cmd("FLUSHALL")
            .query_async::<()>(&mut connection)
            .await
            .doing(|| "flushing Redis".to_owned())
    }
}

async fn connect(url: &str) -> Result<redis::aio::MultiplexedConnection, StackError> {
    let client = redis::Client::open(url).doing(|| format!("reading {url}"))?;
    // On a machine that is busy on purpose the driver's half second is no sign of a fault.
    let patient = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(Some(ANSWER_WAIT))
        .set_response_timeout(Some(ANSWER_WAIT));
    client
        .get_multiplexed_async_connection_with_config(&patient)
        .await
        .doing(|| format!("connecting to {url}"))
}

async fn ping(url: &str) -> Result<(), StackError> {
    let mut connection = connect(url).await?;
    redis::cmd("PING")
        .query_async::<()>(&mut connection)
        .await
        .doing(|| "asking Redis".to_owned())
}

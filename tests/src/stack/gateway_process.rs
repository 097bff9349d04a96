//! The product's own binary, as a process that can be killed, stopped and started again.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use rustix::process::Signal;

use super::{Doing, Process, StackError, TempDir, built_binary, eventually};

const READY_WAIT: Duration = Duration::from_secs(30);

/// How to run one gateway.
#[derive(Clone, Debug)]
pub struct GatewayOptions {
    /// Names its files and its errors.
    pub name: String,
    /// The configuration file. It must make the gateway listen at `base_url`.
    pub config: String,
    /// `http://host:port`, on a port of `reserve_port`.
    pub base_url: String,
    /// Set beside the environment of the test.
    pub environment: Vec<(String, String)>,
}

/// `gateway serve` with a configuration file in a folder of its own. Killed on drop.
#[derive(Debug)]
pub struct GatewayProcess {
    running: Option<Process>, // Before the folder: killed before its folder is removed.
    folder: TempDir,
    options: GatewayOptions,
}

impl GatewayProcess {
    /// Starts it, and waits until it is ready.
    pub async fn start_new(options: GatewayOptions) -> Result<Self, StackError> {
        let mut gateway = Self::spawn(options)?;
        gateway.ready().await?;
        Ok(gateway)
    }

    /// Starts it without waiting, for one that is not expected to become ready.
    pub fn spawn(options: GatewayOptions) -> Result<Self, StackError> {
        let mut gateway = Self {
            running: None,
            folder: TempDir::new(&options.name)?,
            options,
        };
        fs::write(gateway.config_path(), &gateway.options.config)
            .doing(|| "writing the gateway's configuration".to_owned())?;
        gateway.spawn_again()?;
        Ok(gateway)
    }

    /// After its end: starts it again with the same configuration, as a new process with an empty memory.
    pub async fn start_again(&mut self) -> Result<(), StackError> {
        self.spawn_again()?;
        self.ready().await
    }

    fn spawn_again(&mut self) -> Result<(), StackError> {
        if let Some(running) = &mut self.running
            && running.ended()?.is_none()
        {
            return Err(StackError::new(format!("{} still runs", self.options.name)));
        }
        let mut command = Command::new(built_binary("gateway")?);
        command
            .arg("serve")
            .arg("--config")
            .arg(self.config_path())
            .envs(
                self.options
                    .environment
                    .iter()
                    .map(|(name, value)| (name, value)),
            )
            .current_dir(self.folder.path());
        self.running = Some(Process::spawn(
            &self.options.name,
            self.folder.path(),
            &mut command,
        )?);
        Ok(())
    }

    /// Waits until `/readyz` says that it takes payments; an error as soon as the process ends, with what it said.
    pub async fn ready(&mut self) -> Result<(), StackError> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .build()
            .doing(|| "making an HTTP client".to_owned())?;
        let url = format!("{}/readyz", self.options.base_url);
        let what = format!("{} to be ready at {url}", self.options.name);
        let process = running(&mut self.running)?;
        let ready = eventually(READY_WAIT, &what, async || match process.ended() {
            Ok(None) => {
                let answer = client.get(&url).send().await.ok()?;
                answer.status().is_success().then_some(Ok(()))
            }
            Ok(Some(status)) => Some(Err(StackError::new(format!("it ended: {status}")))),
            Err(error) => Some(Err(error)),
        });
        match ready.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) | Err(error) => {
                let output = process.output()?;
                Err(error).doing(|| format!("starting {}, which said: {output}", self.options.name))
            }
        }
    }

    pub fn base_url(&self) -> &str {
        &self.options.base_url
    }

    pub fn config_path(&self) -> PathBuf {
        self.folder.path().join("gateway.toml")
    }

    /// The process id of the running gateway.
    pub fn id(&self) -> Option<u32> {
        self.running.as_ref().map(Process::id)
    }

    /// As of [`Process::leaves_no_core_file`].
    pub fn leaves_no_core_file(&mut self) -> Result<bool, StackError> {
        running(&mut self.running)?.leaves_no_core_file()
    }

    /// Everything it, and its earlier starts, have written: standard output, then standard error.
    pub fn output(&self) -> Result<String, StackError> {
        self.running
            .as_ref()
            .map_or_else(|| Ok(String::new()), Process::output)
    }

    /// SIGKILL; returns when it is gone.
    pub fn kill9(&mut self) -> Result<(), StackError> {
        running(&mut self.running)?.kill()
    }

    /// SIGSTOP; returns when no thread of it runs any more. Its connections stay open.
    pub async fn sigstop(&mut self) -> Result<(), StackError> {
        running(&mut self.running)?.stop().await
    }

    /// SIGCONT; returns when it runs again.
    pub async fn sigcont(&mut self) -> Result<(), StackError> {
        running(&mut self.running)?.resume().await
    }

    /// SIGTERM: it begins to drain. `ended` tells how that went.
    pub fn sigterm(&mut self) -> Result<(), StackError> {
        running(&mut self.running)?.signal(Signal::TERM)
    }

    /// Waits for it to end by itself.
    pub async fn ended(&mut self, within: Duration) -> Result<ExitStatus, StackError> {
        running(&mut self.running)?.wait(within).await
    }

    /// Resident memory in bytes, where the system tells (Linux: proc(5), `VmRSS`).
    pub fn resident_bytes(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id()?)).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kibibytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
        Some(kibibytes * 1024)
    }
}

fn running(process: &mut Option<Process>) -> Result<&mut Process, StackError> {
    process
        .as_mut()
        .ok_or_else(|| StackError::new("the gateway was never started"))
}

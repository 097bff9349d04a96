//! A child process that never outlives the test that started it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use super::{Doing, StackError, eventually};

/// How long a signalled process may take to stop or to go on: the kernel's work alone.
const SIGNAL_WAIT: Duration = Duration::from_secs(10);

/// A running program whose output goes to files. Killed, and waited for, on drop.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    output: PathBuf,
}

impl Process {
    /// Starts `command` without standard input; its output goes to `name.stdout` and `name.stderr` in `folder`, behind
    /// whatever an earlier start wrote there.
    pub fn spawn(name: &str, folder: &Path, command: &mut Command) -> Result<Self, StackError> {
        let output = folder.join(name);
        let open = |extension: &str| {
            let path = output.with_extension(extension);
            File::options()
                .create(true)
                .append(true)
                .open(&path)
                .doing(|| format!("opening {}", path.display()))
        };
        let child = command
            .stdin(Stdio::null())
            .stdout(open("stdout")?)
            .stderr(open("stderr")?)
            .spawn()
            .doing(|| format!("starting {name} ({})", command.get_program().display()))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            output,
        })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether a crash of it would leave no core file (Linux: proc(5), `limits`).
    pub fn leaves_no_core_file(&self) -> Result<bool, StackError> {
        let path = format!("/proc/{}/limits", self.id());
        let limits = std::fs::read_to_string(&path).doing(|| format!("reading {path}"))?;
        let line = limits
            .lines()
            .find_map(|line| line.strip_prefix("Max core file size"));
        Ok(line.is_some_and(|line| line.split_whitespace().take(2).eq(["0", "0"])))
    }

    /// Everything written so far to standard output, then to standard error.
    pub fn output(&self) -> Result<String, StackError> {
        let read = |extension: &str| {
            let path = self.output.with_extension(extension);
            std::fs::read(&path).doing(|| format!("reading {}", path.display()))
        };
        let mut bytes = read("stdout")?;
        bytes.extend(read("stderr")?);
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>, StackError> {
        self.child
            .try_wait()
            .doing(|| format!("asking after {}", self.name))
    }

    pub fn signal(&self, signal: Signal) -> Result<(), StackError> {
        kill_process(Pid::from_child(&self.child), signal)
            .doing(|| format!("sending signal {} to {}", signal.as_raw(), self.name))
    }

    /// SIGSTOP; returns when every thread has stopped.
    pub async fn stop(&self) -> Result<(), StackError> {
        self.signal(Signal::STOP)?;
        self.reported("the process to stop", WaitIdOptions::STOPPED)
            .await
    }

    /// SIGCONT; returns when it runs again.
    pub async fn resume(&self) -> Result<(), StackError> {
        self.signal(Signal::CONT)?;
        self.reported("the process to go on", WaitIdOptions::CONTINUED)
            .await
    }

    async fn reported(&self, what: &str, change: WaitIdOptions) -> Result<(), StackError> {
        let pid = Pid::from_child(&self.child);
        eventually(SIGNAL_WAIT, what, async || {
            // Without EXITED: an exit status is left to whoever waits for the process itself.
            waitid(WaitId::Pid(pid), change | WaitIdOptions::NOHANG)
                .ok()
                .flatten()
        })
        .await
        .map(drop)
    }

    /// SIGKILL, from which nothing is cleaned up; returns when the process is gone.
    pub fn kill(&mut self) -> Result<(), StackError> {
        self.child
            .kill()
            .doing(|| format!("killing {}", self.name))?;
        self.child
            .wait()
            .doing(|| format!("waiting for {}", self.name))
            .map(drop)
    }

    /// Waits for it to end by itself.
    pub async fn wait(&mut self, within: Duration) -> Result<ExitStatus, StackError> {
        let what = format!("{} to end", self.name);
        eventually(within, &what, async || self.ended().transpose()).await?
    }

    /// The same without a runtime, for `drop`; whether it ended in time is told by `ended`.
    pub(super) fn wait_blocking(&mut self, within: Duration) {
        let deadline = Instant::now() + within;
        while matches!(self.ended(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.kill();
    }
}

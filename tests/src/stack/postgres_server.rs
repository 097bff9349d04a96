//! A Postgres of one test's own, to stop and start, and a standby of it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Signal, geteuid};
use sqlx::{ConnectOptions, Connection, postgres::PgConnectOptions};

use super::{Doing, Process, StackError, TempDir, eventually, programs, reserve_port};

const START_WAIT: Duration = Duration::from_mins(1); // Recovery after an immediate stop included.
const STOP_WAIT: Duration = Duration::from_secs(30);
const START_COUNT_MAX: usize = 5;
const USER: &str = "quittance";

/// A cluster with the settings of production: every commit is on disk before it is acknowledged.
#[derive(Debug)]
pub struct PostgresServer {
    running: Option<Process>, // Before the folder: ended before its folder is removed.
    folder: TempDir,
    port: u16,
    /// Given at each start, before whatever the cluster's own files say.
    settings: Vec<String>,
}

impl PostgresServer {
    pub async fn start_new() -> Result<Self, StackError> {
        let folder = tokio::task::spawn_blocking(new_cluster)
            .await
            .doing(|| "making a Postgres cluster".to_owned())??;
        Self::start_on_some_port(folder, Vec::new()).await
    }

    /// A standby of this server, which takes reads and follows it. Nobody waits for it, until [`Self::wait_for_standby`].
    pub async fn start_standby(&self) -> Result<Self, StackError> {
        let port = self.port.to_string();
        let folder = tokio::task::spawn_blocking(move || copied_cluster(&port))
            .await
            .doing(|| "copying a Postgres cluster".to_owned())??;
        // The copy holds its primary's settings. Once promoted it has no standby to wait for.
        let alone = "synchronous_standby_names=".to_owned();
        Self::start_on_some_port(folder, vec![alone]).await
    }

    /// From now on no commit is acknowledged before a standby has it on disk, too.
    pub async fn wait_for_standby(&self) -> Result<(), StackError> {
        let url = self.admin_url();
        let doing = || "waiting for the standby".to_owned();
        execute(&url, "alter system set synchronous_standby_names = '*'")
            .await
            .doing(doing)?;
        execute(&url, "select pg_reload_conf()")
            .await
            .doing(doing)?;
        eventually(START_WAIT, "a synchronous standby", async || {
            // An error where there is none.
            const SYNCHRONOUS: &str =
                "select 1 / count(*) from pg_stat_replication where sync_state = 'sync'";
            execute(&url, SYNCHRONOUS).await.ok()
        })
        .await
    }

    /// Makes a primary of this standby; returns when it takes writes.
    pub async fn promote(&self) -> Result<(), StackError> {
        let url = self.admin_url();
        execute(&url, "select pg_promote(wait => true)")
            .await
            .doing(|| "promoting the standby".to_owned())
    }

    async fn start_on_some_port(
        folder: TempDir,
        settings: Vec<String>,
    ) -> Result<Self, StackError> {
        let mut server = Self {
            running: None,
            folder,
            port: reserve_port()?,
            settings,
        };
        for _ in 1..START_COUNT_MAX {
            if server.start().await.is_ok() {
                return Ok(server);
            }
            server.port = reserve_port()?; // Another process may have taken the port.
        }
        server.start().await.map(|()| server)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process id of the running server, whose children serve connections.
    pub fn id(&self) -> Option<u32> {
        self.running.as_ref().map(Process::id)
    }

    pub fn url(&self, database: &str) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/{database}", self.port)
    }

    /// The URL of the database that always exists, to create others from.
    pub fn admin_url(&self) -> String {
        self.url("postgres")
    }

    /// From now on this role must say its password. Everybody else is trusted, as before.
    pub async fn ask_password_of(&self, role: &str) -> Result<(), StackError> {
        let path = self.folder.path().join(DATA).join("pg_hba.conf");
        let doing = || format!("changing {}", path.display());
        let rules = fs::read_to_string(&path).doing(doing)?;
        let rule = format!("host all {role} 127.0.0.1/32 scram-sha-256\n{rules}");
        fs::write(&path, rule).doing(doing)?;
        // It reads the file when it gets round to it: until then a wrong password is as good as any.
        let wrong = self.admin_url().replace(USER, &format!("{role}:wrong"));
        let url = self.admin_url();
        eventually(START_WAIT, "Postgres to ask for a password", async || {
            execute(&url, "select pg_reload_conf()").await.ok()?;
            ping(&wrong).await.is_err().then_some(())
        })
        .await
    }

    /// Starts it again on the same port, with what was committed; nothing if it runs.
    pub async fn start(&mut self) -> Result<(), StackError> {
        if self.running.is_some() {
            return Ok(());
        }
        let mut command = server_command("postgres")?;
        command
            .arg("-D")
            .arg(self.folder.path().join(DATA))
            .arg("-p")
            .arg(self.port.to_string());
        let sockets = format!("unix_socket_directories={}", self.folder.path().display());
        for setting in [
            "listen_addresses=127.0.0.1",
            &sockets,
            "fsync=on",
            "synchronous_commit=on",
            "max_connections=200",
            "shared_buffers=128MB",
        ] {
            command.arg("-c").arg(setting);
        }
        for setting in &self.settings {
            command.arg("-c").arg(setting);
        }
        let mut process = Process::spawn("postgres", self.folder.path(), &mut command)?;
        let url = self.admin_url();
        let started = eventually(START_WAIT, "Postgres to answer", async || {
            match process.ended() {
                Ok(None) => ping(&url).await.ok().map(Ok),
                Ok(Some(status)) => {
                    let output = process.output().unwrap_or_default();
                    Some(Err(StackError::new(format!(
                        "Postgres ended: {status}: {output}"
                    ))))
                }
                Err(error) => Some(Err(error)),
            }
        });
        started.await??;
        self.running = Some(process);
        Ok(())
    }

    /// Ends it at once, as a crash would: transactions in progress are lost, the next start recovers from the log.
    pub async fn stop_immediate(&mut self) -> Result<(), StackError> {
        let Some(mut process) = self.running.take() else {
            return Ok(());
        };
        process.signal(Signal::QUIT)?;
        process.wait(STOP_WAIT).await.map(drop)
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        // Its helpers notice a killed parent by themselves, but only a parent that ends in order takes its shared memory
        // with it.
        if let Some(process) = &mut self.running
            && process.signal(Signal::QUIT).is_ok()
        {
            process.wait_blocking(STOP_WAIT);
        }
    }
}

async fn ping(url: &str) -> Result<(), sqlx::Error> {
    execute(url, "select 1").await
}

async fn execute(url: &str, statement: &'static str) -> Result<(), sqlx::Error> {
    let options: PgConnectOptions = url.parse()?;
    let mut connection = options.connect().await?;
    sqlx::query(statement).execute(&mut connection).await?;
    connection.close().await
}

/// The folder of the cluster inside its temporary folder.
const DATA: &str = "data";

/// A new cluster: a copy of the one that `initdb` made at first, which takes a tenth of the time.
fn new_cluster() -> Result<TempDir, StackError> {
    let template = template_cluster()?;
    let folder = TempDir::new("postgres")?;
    copy_folder(&template, &folder.path().join(DATA))
        .doing(|| format!("copying {}", template.display()))?;
    own(folder.path())?;
    Ok(folder)
}

/// A copy of the running cluster at that port, which follows it.
fn copied_cluster(port: &str) -> Result<TempDir, StackError> {
    let folder = TempDir::new("standby")?;
    own(folder.path())?;
    let copied = server_command("pg_basebackup")?
        .args(["--host", "127.0.0.1", "--port", port, "--username", USER])
        .args(["--write-recovery-conf", "--checkpoint", "fast", "--no-sync"])
        .arg("--pgdata")
        .arg(folder.path().join(DATA))
        .output()
        .doing(|| "starting pg_basebackup".to_owned())?;
    if !copied.status.success() {
        let words = String::from_utf8_lossy(&copied.stderr).into_owned();
        return Err(StackError::new(format!("pg_basebackup: {words}")));
    }
    Ok(folder)
}

/// Made once for each version of Postgres and kept in the target folder, from where this and later runs copy it.
fn template_cluster() -> Result<PathBuf, StackError> {
    let version = Command::new(programs::postgres_program("postgres")?)
        .arg("--version")
        .output()
        .doing(|| "asking Postgres for its version".to_owned())?;
    let name: String = String::from_utf8_lossy(&version.stdout)
        .trim()
        .chars()
        .map(|character| {
            if character.is_ascii_alphanumeric() {
                character
            } else {
                '-'
            }
        })
        .collect();
    let cache = programs::target_folder()
        .unwrap_or_else(std::env::temp_dir)
        .join("postgres-clusters");
    let template = cache.join(name);
    if template.is_dir() {
        return Ok(template);
    }

    let making = TempDir::new("initdb")?;
    own(making.path())?;
    let data = making.path().join(DATA);
    let made = server_command("initdb")?
        .args([
            "--auth",
            "trust",
            "--encoding",
            "UTF8",
            "--locale",
            "C",
            "--no-sync",
        ])
        .args(["--username", USER, "--pgdata"])
        .arg(&data)
        .output()
        .doing(|| "starting initdb".to_owned())?;
    if !made.status.success() {
        let words = String::from_utf8_lossy(&made.stderr).into_owned();
        return Err(StackError::new(format!("initdb: {words}")));
    }

    // Copied beside the template and renamed, so that a test which makes it at the same time sees all of it or nothing.
    let staged = cache.join(format!("{}.{}", making_name(&making), std::process::id()));
    copy_folder(&data, &staged).doing(|| format!("copying to {}", staged.display()))?;
    match fs::rename(&staged, &template) {
        Ok(()) => {}
        Err(_) if template.is_dir() => {
            fs::remove_dir_all(&staged).doing(|| format!("removing {}", staged.display()))?;
        }
        Err(error) => return Err(error).doing(|| format!("renaming to {}", template.display())),
    }
    Ok(template)
}

fn making_name(folder: &TempDir) -> String {
    folder
        .path()
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o700))?; // Postgres refuses a folder that others may read.
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Postgres refuses to run as root, so root runs it as someone who may do nothing.
fn server_command(program: &str) -> Result<Command, StackError> {
    let mut command = Command::new(programs::postgres_program(program)?);
    command.current_dir("/"); // Where whoever runs it may be.
    if let Some((user, group)) = server_user()? {
        command.uid(user).gid(group);
    }
    Ok(command)
}

/// Gives a folder and everything in it to whoever Postgres runs as.
fn own(folder: &Path) -> Result<(), StackError> {
    fn own_all(path: &Path, user: u32, group: u32) -> std::io::Result<()> {
        chown(path, Some(user), Some(group))?;
        if path.is_dir() {
            for entry in fs::read_dir(path)? {
                own_all(&entry?.path(), user, group)?;
            }
        }
        Ok(())
    }
    let Some((user, group)) = server_user()? else {
        return Ok(());
    };
    own_all(folder, user, group).doing(|| format!("giving away {}", folder.display()))
}

/// User and group id for Postgres to run as; `None` if we are not root, and it runs as we do.
fn server_user() -> Result<Option<(u32, u32)>, StackError> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd").doing(|| "reading /etc/passwd".to_owned())?;
    let ids_of = |wanted: &str| {
        users.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let (user, group) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
            (name == wanted).then_some((user, group))
        })
    };
    ids_of("postgres")
        .or_else(|| ids_of("nobody"))
        .map(Some)
        .ok_or_else(|| StackError::new("no user `postgres` or `nobody` to run Postgres as"))
}

//! Where the programs and the servers are that tests need.

use std::path::{Path, PathBuf};

use super::StackError;

/// A Postgres in which tests may create databases.
pub fn database_url() -> Result<String, StackError> {
    provided(
        "DATABASE_URL",
        "a Postgres that tests may create databases in",
    )
}

/// A Redis that tests share. Keys must be unique to a test; one that flushes or stops it starts its own `RedisServer`.
pub fn redis_url() -> Result<String, StackError> {
    provided("REDIS_URL", "a Redis that tests may write to")
}

fn provided(variable: &str, what: &str) -> Result<String, StackError> {
    std::env::var(variable).map_err(|_| {
        StackError::new(format!(
            "{variable} must name {what}; tests/run starts one and sets it"
        ))
    })
}

/// A binary of this workspace, of the same build as the running program. Cargo names the binaries of a test's own
/// package only, so it is looked for beside the running program, and beside `deps/`, where test programs lie.
pub fn built_binary(name: &str) -> Result<PathBuf, StackError> {
    let me = std::env::current_exe().map_err(|_| StackError::new("this program has no path"))?;
    me.ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            StackError::new(format!(
                "{name} is not built: cargo build --workspace --all-targets"
            ))
        })
}

/// Cargo's target folder, which outlives a run and is never committed.
pub(super) fn target_folder() -> Option<PathBuf> {
    let me = std::env::current_exe().ok()?;
    me.ancestors()
        .find(|folder| folder.join("CACHEDIR.TAG").is_file())
        .map(Path::to_owned)
}

/// A program of the Postgres server. `POSTGRES_BIN` first, which tests/run sets; then the places where distributions
/// keep it, newest version first; then `PATH`.
pub fn postgres_program(name: &str) -> Result<PathBuf, StackError> {
    let set = std::env::var_os("POSTGRES_BIN").map(PathBuf::from);
    set.into_iter()
        .chain(versioned_folders())
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .or_else(|| in_path(name))
        .ok_or_else(|| missing(name, "Postgres"))
}

fn versioned_folders() -> Vec<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    found.sort_unstable_by(|left, right| right.cmp(left));
    found.into_iter().map(|(_, folder)| folder).collect()
}

/// Valkey is Redis under the name that newer distributions ship.
pub(super) fn redis_program() -> Result<PathBuf, StackError> {
    ["redis-server", "valkey-server"]
        .into_iter()
        .find_map(in_path)
        .ok_or_else(|| missing("redis-server", "Redis"))
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

fn missing(program: &str, package: &str) -> StackError {
    StackError::new(format!(
        "{program} is not installed; tests/run installs {package}, or says how"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_address_says_in_one_line_what_to_do() {
        let error = provided("QUITTANCE_SET_BY_NOBODY", "a server").expect_err("nobody sets it");
        assert_eq!(
            format!("{error:?}"),
            "QUITTANCE_SET_BY_NOBODY must name a server; tests/run starts one and sets it"
        );
    }
}

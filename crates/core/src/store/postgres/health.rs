//! Whether this database keeps what it acknowledged, and whether its schema is ours.

use std::collections::HashMap;
use std::sync::Arc;

use sqlx::migrate::Migrator;

use super::connections::{Lane, Lease};
use super::reads::rows;
use crate::store::row::Columns;
use crate::store::{StoreError, migrations};

/// One sentence per fault; none means that an acknowledged commit survives a crash.
pub(super) async fn faults(lane: &Arc<Lane>, wanted: &Migrator) -> Result<Vec<String>, StoreError> {
    let settings = sqlx::query(
        "select name, setting from pg_settings
         where name in ('synchronous_commit', 'fsync', 'full_page_writes', 'synchronous_standby_names',
             'transaction_read_only')
         union all
         select 'standbys', count(*)::text from pg_stat_replication",
    );
    let mut found = HashMap::new();
    for row in rows(lane, settings).await? {
        found.insert(
            row.text("name")?.to_owned(),
            row.text("setting")?.to_owned(),
        );
    }
    let is = |name: &str, value: &str| found.get(name).is_some_and(|setting| setting == value);
    let mut faults = Vec::new();
    for weak in ["off", "local"] {
        if is("synchronous_commit", weak) {
            faults.push(format!(
                "synchronous_commit is {weak}: a commit is acknowledged before it is safe"
            ));
        }
    }
    if is("fsync", "off") {
        faults.push("fsync is off: a crash of the machine loses or corrupts commits".to_owned());
    }
    if is("full_page_writes", "off") {
        faults.push(
            "full_page_writes is off: a crash of the machine can leave torn pages".to_owned(),
        );
    }
    if is("synchronous_standby_names", "") && !is("standbys", "0") {
        faults.push(
            "standbys are attached and none is synchronous: a failover forgets payments".to_owned(),
        );
    }
    if is("transaction_read_only", "on") {
        faults.push("the database is read-only".to_owned());
    }
    faults.extend(schema_faults(lane, wanted).await?);
    Ok(faults)
}

async fn schema_faults(lane: &Arc<Lane>, wanted: &Migrator) -> Result<Vec<String>, StoreError> {
    let exists = sqlx::query("select to_regclass('_sqlx_migrations') is not null as there");
    let there = rows(lane, exists)
        .await?
        .first()
        .map(|row| row.boolean("there"))
        .transpose()?;
    if there != Some(true) {
        return Ok(migrations::faults(wanted, &[]));
    }
    let applied = sqlx::query("select version, success from _sqlx_migrations order by version");
    let mut done = Vec::new();
    for row in rows(lane, applied).await? {
        done.push((row.integer("version")?, row.boolean("success")?));
    }
    Ok(migrations::faults(wanted, &done))
}

/// Answers while the ledger can be written: a standby answers reads, and no payment.
pub(super) async fn ping(lane: &Arc<Lane>) -> Result<(), StoreError> {
    let query = sqlx::query("select not pg_is_in_recovery() as writable");
    let writable = rows(lane, query)
        .await?
        .first()
        .map(|row| row.boolean("writable"))
        .transpose()?;
    if writable == Some(true) {
        Ok(())
    } else {
        Err(StoreError::Unavailable("the ledger is a standby".into()))
    }
}

/// Applies what is missing. Safe to run from several places at once: the migrator takes a lock.
pub(super) async fn migrate(lane: &Arc<Lane>, wanted: &Migrator) -> Result<(), StoreError> {
    let mut lease = lane.lease().await?;
    let error = |error: sqlx::migrate::MigrateError| StoreError::Unavailable(Box::new(error));
    // An index over a large table takes longer than any statement of a payment may.
    let patient = sqlx::query("set statement_timeout = 0");
    let limit = lease.limit();
    Lease::answer(limit, patient.execute(&mut *lease)).await?;
    wanted
        .run_direct(None, &mut *lease, false)
        .await
        .map_err(error)
    // Not given back: its time-out is gone.
}

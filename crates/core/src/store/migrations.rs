//! Whether the schema in the database is one that this release can work with.

use sqlx::migrate::Migrator;

/// One sentence if the schema is older than ours, or half-applied. A newer one is fine: migrations expand before they
/// contract, in separate releases. `applied` holds version and success, ascending.
pub(super) fn faults(wanted: &Migrator, applied: &[(i64, bool)]) -> Vec<String> {
    let failed = applied.iter().filter(|(_, success)| !success);
    let mut faults: Vec<String> = failed
        .map(|(version, _)| {
            format!("migration {version} failed half-way: repair the schema by hand")
        })
        .collect();
    let missing = wanted
        .iter()
        .filter(|migration| !migration.migration_type.is_down_migration())
        .filter(|migration| {
            applied
                .iter()
                .all(|(version, _)| *version != migration.version)
        })
        .count();
    if missing > 0 {
        faults.push(format!(
            "the schema lacks {missing} migrations: run `gateway migrate`"
        ));
    }
    faults
}

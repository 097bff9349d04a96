//! What the ledger can do by itself: pgbench runs the product's own two statements, one payment at a time.
//!
//! Each transaction is one record and one settlement, in one round trip each. Their values are those of a payment that
//! the gateway wrote, but for what tells payments apart.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use gateway_core::store::statements::{RECORD, SETTINGS, SETTLE};
use sqlx::{AssertSqlSafe, PgConnection, Row};
use tokio::process::Command;

use crate::stack::{Doing, StackError, postgres_program};

/// What tells payments apart, in pgbench's variables. `:id` grows from transaction to transaction, as the product's ids
/// do with time; `:name` is random, as callers' keys are.
const OWN: [(&str, &str); 6] = [
    ("id", "lpad(:id::text, 32, '0')::uuid"),
    ("payment", "('1' || lpad(:id::text, 31, '0'))::uuid"),
    ("claim", "lpad(:id::text, 32, '0')::uuid"),
    ("key", ":name::text"),
    ("reference", "lpad(:name::text, 17, '0')"),
    ("order_reference", ":name::text"),
];

/// Where the value of every other parameter is found: in the operation, its payment and the event of its settlement.
const COPIED: [(&str, &str); 32] = [
    ("client", "o.client"),
    ("verb", "o.verb"),
    ("account", "o.account"),
    ("endpoint", "o.endpoint"),
    ("amount", "o.amount"),
    ("currency", "o.currency"),
    ("fingerprint", "o.fingerprint"),
    ("statement_descriptor", "o.statement_descriptor"),
    ("owner", "o.owner"),
    (
        "send_within",
        "(extract(epoch from o.send_by - o.recorded_at) * 1000000)::bigint",
    ),
    (
        "deadline_within",
        "(extract(epoch from o.deadline - o.recorded_at) * 1000000)::bigint",
    ),
    ("horizon", "o.late_arrival_horizon"),
    ("holds_while_unknown", "o.holds_while_unknown"),
    ("metadata", "null::text"),
    ("epoch", "o.epoch"),
    ("was", "e.from_state"),
    ("becomes", "o.state"),
    ("detail", "o.detail"),
    ("authorized", "p.authorized"),
    ("captured", "p.captured"),
    ("refunded", "p.refunded"),
    ("voids", "p.voided"),
    ("releases_capture", "0"),
    ("releases_refund", "0"),
    ("releases_payment", "false"),
    ("status", "'derive'"),
    ("check_after", "null::bigint"),
    ("evidence", "e.evidence"),
    ("reason", "e.reason"),
    ("ids", "p.upstream_ids"),
    ("card", "p.card"),
    ("final", "o.settled_at is not null"),
];

/// Parameters that are lists themselves, as text.
const LISTS: [(&str, &str); 2] = [
    (
        "lines",
        "(select array_agg(ledger_account order by line)::text from ledger_entry where operation = o.id)",
    ),
    (
        "minors",
        "(select array_agg(minor order by line)::text from ledger_entry where operation = o.id)",
    ),
];

/// The two statements as pgbench runs them.
#[derive(Debug)]
pub(super) struct Twin {
    script: String,
    /// Variables of the script, with one-element arrays as Postgres writes them.
    values: Vec<(&'static str, String)>,
}

/// Where pgbench runs, and where its script may lie.
pub(super) struct Server<'a> {
    pub(super) port: u16,
    pub(super) user: &'a str,
    pub(super) database: &'a str,
    pub(super) folder: &'a Path,
}

/// What pgbench did.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) transactions: u64,
    pub(super) per_second: f64,
}

impl Twin {
    /// In the likeness of the last payment that the gateway wrote.
    pub(super) async fn of_last_payment(ledger: &mut PgConnection) -> Result<Self, StackError> {
        let copied: Vec<(&'static str, &str)> = COPIED.into_iter().chain(LISTS).collect();
        let mut query = String::from("select ");
        for (_, expression) in &copied {
            write!(query, "array[{expression}]::text, ").doing(|| "writing a query".to_owned())?;
        }
        query.push_str(
            "o.id from operation o join payment p on p.id = o.payment
             join event e on e.operation = o.id and e.to_state = o.state
             where o.state = 'approved' and o.verb = 'sale' order by o.settled_at desc limit 1",
        );
        let row = sqlx::query(AssertSqlSafe(query))
            .fetch_one(ledger)
            .await
            .doing(|| "reading a payment that the gateway wrote".to_owned())?;
        let values = copied
            .iter()
            .enumerate()
            .map(|(i, (column, _))| Ok((*column, row.try_get::<String, _>(i)?)))
            .collect::<Result<Vec<_>, sqlx::Error>>()
            .doing(|| "reading a payment that the gateway wrote".to_owned())?;
        // The count of the client's transactions, above its number, below the number of the run.
        let script = format!(
            "\\set n :n + 1\n\\set id (:run * 1000000000 + :n) * 1000 + :client_id\n\\set name random(1, \
             99999999999999999)\n{};\n{};\n",
            with_variables(RECORD)?,
            with_variables(SETTLE)?,
        );
        Ok(Self { script, values })
    }

    /// Runs for some seconds on a database that holds nothing of another run with the same number.
    pub(super) async fn run(
        &self,
        server: &Server<'_>,
        number: usize,
        clients: usize,
        span: Duration,
    ) -> Result<Run, StackError> {
        let script = server.folder.join("payment.pgbench");
        std::fs::write(&script, &self.script).doing(|| "writing pgbench's script".to_owned())?;
        let settings: Vec<String> = SETTINGS
            .iter()
            .map(|(name, value)| format!("-c {name}={value}"))
            .collect();
        let mut command = Command::new(postgres_program("pgbench")?);
        command
            .env("PGOPTIONS", settings.join(" "))
            .args(["-h", "127.0.0.1", "-U", server.user, "-n", "-M", "prepared"])
            .args([
                "-p",
                &server.port.to_string(),
                "-T",
                &span.as_secs().to_string(),
            ])
            .args(["-c", &clients.to_string(), "-j", "2"])
            .args(["-D", "n=0", "-D", &format!("run={number}")]);
        for (name, value) in &self.values {
            command.arg("-D").arg(format!("{name}={value}"));
        }
        command.arg("-f").arg(&script).arg(server.database);
        let output = command
            .kill_on_drop(true)
            .output()
            .await
            .doing(|| "running pgbench".to_owned())?;
        let said = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            return Err(StackError::new(format!("pgbench: {error}{said}")));
        }
        read(&said)
            .ok_or_else(|| StackError::new(format!("pgbench said something unknown: {said}")))
    }
}

/// A statement whose `$1`, `$2`, … are the columns of its `input`, with a variable or an expression for each.
fn with_variables(statement: &str) -> Result<String, StackError> {
    let unlike = |what: &str| StackError::new(format!("{what}: {statement}"));
    let (before, rest) = statement
        .split_once("as i (")
        .ok_or_else(|| unlike("a statement without named parameters"))?;
    let (names, _) = rest
        .split_once(')')
        .ok_or_else(|| unlike("a list without end"))?;
    let names: Vec<&str> = names.split(',').map(str::trim).collect();
    let mut text = String::with_capacity(statement.len() * 2);
    let mut pieces = statement.split('$');
    text.extend(pieces.next());
    let mut expected = 1;
    for piece in pieces {
        let digits = piece.bytes().take_while(u8::is_ascii_digit).count();
        let (number, rest) = piece.split_at(digits);
        let name = names
            .get(expected - 1)
            .filter(|_| number.parse() == Ok(expected));
        let name = name.ok_or_else(|| unlike("parameters that are not its columns in order"))?;
        expected += 1;
        match OWN.iter().find(|(own, _)| own == name) {
            Some((_, expression)) => write!(text, "array[{expression}]{rest}"),
            None if COPIED
                .iter()
                .chain(&LISTS)
                .any(|(copied, _)| copied == name) =>
            {
                write!(text, ":{name}{rest}")
            }
            None => return Err(unlike(&format!("no value is known for {name}"))),
        }
        .doing(|| "writing a statement".to_owned())?;
    }
    if expected != names.len() + 1 || before.is_empty() {
        return Err(unlike("columns that are no parameters"));
    }
    Ok(text)
}

fn read(said: &str) -> Option<Run> {
    let value = |start: &str| {
        let line = said
            .lines()
            .rev()
            .find_map(|line| line.strip_prefix(start))?;
        line.split_whitespace().next()
    };
    // Not said by versions that cannot fail.
    let failed = value("number of failed transactions: ").unwrap_or("0");
    (failed == "0").then_some(())?;
    Some(Run {
        transactions: value("number of transactions actually processed: ")?
            .parse()
            .ok()?,
        per_second: value("tps = ")?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parameter_of_the_products_statements_has_a_value() {
        for statement in [RECORD, SETTLE] {
            let text = with_variables(statement).expect("a value for each");
            assert!(!text.contains('$'), "{text}");
            assert!(
                text.contains("array[lpad(:id::text, 32, '0')::uuid]::uuid[]"),
                "{text}"
            );
        }
    }

    #[test]
    fn a_parameter_that_nobody_knows_is_named() {
        let statement = "select * from unnest($1::uuid[], $2::text[]) as i (id, novelty)";
        let error = with_variables(statement).expect_err("unknown").to_string();
        assert!(
            error.starts_with("no value is known for novelty"),
            "{error}"
        );
    }

    #[test]
    fn only_a_run_without_failures_counts() {
        let said = "number of transactions actually processed: 7301\n\
                    number of failed transactions: 0 (0.000%)\n\
                    tps = 1460.217 (without initial connection time)\n";
        let run = read(said).expect("a run");
        assert_eq!(run.transactions, 7_301);
        assert!((run.per_second - 1_460.217).abs() < 1e-9);
        assert!(read(&said.replace(": 0 (", ": 1 (")).is_none());
    }
}

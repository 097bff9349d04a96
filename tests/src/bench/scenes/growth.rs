//! How cost grows: with callers at once, with replicas, and with the rows of the ledger.

use std::fmt::Write as _;

use sqlx::{AssertSqlSafe, Executor, PgConnection};

use super::super::gateway::{Changes, Gateway};
use super::super::report::{Figure, Section, median, millis};
use super::{Stage, cell, cells, memory};
use crate::stack::{Doing, StackError};

const CALLERS: [usize; 5] = [1, 10, 100, 1_000, 10_000];
const REPLICAS_MAX: usize = 4;
/// Of all tables together.
const ROWS: [u64; 3] = [10_000, 1_000_000, 10_000_000];
/// A payment, its operation, two entries and two events.
const ROWS_OF_A_PAYMENT: u64 = 6;
/// In one statement.
const FILL_PAYMENTS_MAX: u64 = 100_000;

pub(super) async fn play(stage: &Stage<'_>) -> Result<Section, StackError> {
    let mut section = Section {
        title: "How cost grows: median of the turns",
        table: vec![cells(&[
            "with",
            "payments/s",
            "p50 ms",
            "p99 ms",
            "µs CPU each: gateway",
            "Postgres",
        ])],
        figures: Vec::new(),
    };
    let gateway = stage.rig.gateway(memory::changes()).await?;
    for callers in CALLERS {
        let name = format!("callers_{callers}");
        measure(stage, &mut section, name, &[&gateway], callers).await?;
    }
    drop(gateway);
    let mut gateways = Vec::new();
    for count in 1..=REPLICAS_MAX {
        gateways.push(stage.rig.gateway(Changes::default()).await?);
        let all: Vec<&Gateway> = gateways.iter().collect();
        let name = format!("replicas_{count}");
        measure(stage, &mut section, name, &all, stage.connections).await?;
    }
    gateways.truncate(1);
    let mut ledger = stage.rig.ledger().await?;
    let mut filled = 0;
    for rows in ROWS {
        filled = fill(&mut ledger, filled, rows).await?;
        let all: Vec<&Gateway> = gateways.iter().collect();
        let name = format!("rows_{rows}");
        measure(stage, &mut section, name, &all, stage.connections).await?;
    }
    Ok(section)
}

async fn measure(
    stage: &Stage<'_>,
    section: &mut Section,
    name: String,
    gateways: &[&Gateway],
    callers: usize,
) -> Result<(), StackError> {
    let rig = stage.rig;
    rig.pay(gateways, callers, super::WARM_UP).await?;
    let mut columns: [Vec<f64>; 5] = Default::default();
    for _ in 0..stage.turns {
        let before = rig.used(gateways);
        let paid = rig.pay(gateways, callers, stage.span).await?;
        let cost = rig.cost_since(before, gateways, paid.answers);
        let micros = |of: Option<std::time::Duration>| of.map_or(f64::NAN, |of| millis(of) * 1e3);
        let values = [
            paid.per_second(),
            millis(paid.quantile(0.5)),
            millis(paid.quantile(0.99)),
            micros(cost.map(|cost| cost.gateway)),
            micros(cost.map(|cost| cost.postgres)),
        ];
        for (column, value) in columns.iter_mut().zip(values) {
            column.push(value);
        }
    }
    let mut row = vec![name.replace('_', " ")];
    for (column, decimals) in columns.iter().zip([0, 2, 2, 0, 0]) {
        row.push(cell(
            median(&mut column.clone()).unwrap_or(f64::NAN),
            decimals,
        ));
    }
    eprintln!("{}", row.join(" | "));
    section.table.push(row);
    let [rates, ..] = columns;
    section
        .figures
        .push(Figure::new(format!("payments_per_second_{name}"), 0, rates));
    Ok(())
}

/// Writes finished payments of another client until there are `rows` of them all, in the likeness of the last that the
/// gateway wrote; `filled` are there. How many there are then.
async fn fill(ledger: &mut PgConnection, filled: u64, rows: u64) -> Result<u64, StackError> {
    let doing = || "filling the ledger".to_owned();
    // History is written once: what guards that would look at every row.
    ledger
        .execute("set session_replication_role = replica")
        .await
        .doing(doing)?;
    let wanted = rows / ROWS_OF_A_PAYMENT;
    let mut from = filled;
    while from < wanted {
        let to = wanted.min(from + FILL_PAYMENTS_MAX);
        for table in ["operation", "payment", "ledger_entry", "event"] {
            let insert = copies(ledger, table, from, to).await?;
            ledger
                .execute(AssertSqlSafe(insert))
                .await
                .doing(|| format!("filling {table}"))?;
        }
        from = to;
    }
    for end in [
        "reset session_replication_role",
        "vacuum analyze",
        "checkpoint",
    ] {
        ledger.execute(end).await.doing(doing)?;
    }
    Ok(wanted.max(filled))
}

/// A statement that inserts copies `from` to `to` of one payment's rows in `table`, but for what tells payments apart.
async fn copies(
    ledger: &mut PgConnection,
    table: &str,
    from: u64,
    to: u64,
) -> Result<String, StackError> {
    let columns: Vec<String> = sqlx::query_scalar(
        "select column_name::text from information_schema.columns
         where table_schema = 'public' and table_name = $1 and is_identity = 'NO' and column_name <> 'transaction'
         order by ordinal_position",
    )
    .bind(table)
    .fetch_all(&mut *ledger)
    .await
    .doing(|| format!("reading the columns of {table}"))?;
    let (operation, payment) = ("md5('o' || n)::uuid", "md5('p' || n)::uuid");
    let mut values = String::new();
    for column in &columns {
        let value = match (table, column.as_str()) {
            ("operation", "id") | (_, "operation" | "opened_by") => operation,
            ("payment", "id") | (_, "payment") => payment,
            (_, "claim") => "md5('c' || n)::uuid",
            (_, "client") => "'archive'",
            (_, "key" | "reference") => "'archive-' || n",
            (_, "order_reference") => "'order-' || n",
            (_, other) => other,
        };
        let comma = if values.is_empty() { "" } else { ", " };
        write!(values, "{comma}{value}").doing(|| "writing a statement".to_owned())?;
    }
    let last = "select id, payment from operation where state = 'approved' and verb = 'sale' and client = 'shop'
         order by settled_at desc limit 1";
    let of_last = match table {
        "payment" => "id = (select payment from last)",
        "operation" => "id = (select id from last)",
        _ => "operation = (select id from last)",
    };
    Ok(format!(
        "with last as materialized ({last}), likeness as materialized (select * from {table} where {of_last})
         insert into {table} ({}) select {values} from likeness, generate_series({from} + 1, {to}) n",
        columns.join(", ")
    ))
}

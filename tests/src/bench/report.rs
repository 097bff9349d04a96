//! What was measured, as a table for people and as lines for programs.

use std::fmt::{self, Write as _};
use std::fs;
use std::path::Path;
use std::time::Duration;

use super::load::Tally;
use super::pgbench::Run;
use crate::stack::{Doing, StackError};

/// Of the payments per second that the ledger could do by itself, the service does at least this part.
const RATIO_MIN: f64 = 0.6;
/// At rest the gateway takes less than this.
const REST_MIB_LIMIT: f64 = 40.0;

/// CPU time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    pub(super) gateway: Duration,
    pub(super) postgres: Duration,
    /// Callers and upstream, or pgbench.
    pub(super) outside: Duration,
}

impl Cost {
    /// Per payment, since `before`.
    pub(super) fn since(self, before: Self, payments: u64) -> Self {
        let count = u32::try_from(payments).unwrap_or(u32::MAX).max(1);
        Self {
            gateway: self.gateway.saturating_sub(before.gateway) / count,
            postgres: self.postgres.saturating_sub(before.postgres) / count,
            outside: self.outside.saturating_sub(before.outside) / count,
        }
    }
}

/// Both sides once.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) paid: Tally,
    pub(super) cost: Option<Cost>,
    /// By number of clients, with what each transaction cost.
    pub(super) ledger: Vec<(Run, Option<Cost>)>,
}

impl Turn {
    fn best(&self) -> f64 {
        self.best_run().map_or(0.0, |(run, _)| run.per_second)
    }

    fn best_run(&self) -> Option<&(Run, Option<Cost>)> {
        self.ledger
            .iter()
            .max_by(|(one, _), (other, _)| one.per_second.total_cmp(&other.per_second))
    }

    fn cost_of_best(&self) -> Option<Cost> {
        self.best_run().and_then(|(_, cost)| *cost)
    }

    fn ratio(&self) -> f64 {
        self.paid.per_second() / self.best()
    }
}

impl fmt::Display for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (paid, best) = (self.paid.per_second(), self.best());
        write!(
            f,
            "{paid:.0} payments/s, pgbench {best:.0}: {:.2}",
            self.ratio()
        )
    }
}

/// Median latencies, one call at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Alone {
    pub(super) direct: Duration,
    pub(super) paid: Duration,
}

#[derive(Debug)]
pub(super) struct Report {
    pub(super) connections: usize,
    pub(super) span: Duration,
    /// Resident bytes of the gateway: before its first payment, and after the last.
    pub(super) resting: Option<u64>,
    pub(super) loaded: Option<u64>,
    pub(super) postgres: String,
    pub(super) alone: Vec<Alone>,
    pub(super) turns: Vec<Turn>,
}

impl Report {
    pub(super) fn table(&self) -> String {
        let mut text = String::new();
        let clients = self.turns.first().map_or(&[][..], |turn| &turn.ledger);
        let mut names = vec![
            format!("payments/s, {} callers", self.connections),
            "p50 ms".to_owned(),
            "p99 ms".to_owned(),
            "µs CPU each: gateway".to_owned(),
            "Postgres".to_owned(),
            "callers and upstream".to_owned(),
        ];
        names.extend(
            clients
                .iter()
                .map(|(run, _)| format!("pgbench/s, {} clients", run.clients)),
        );
        names.push("ratio".to_owned());
        row(&mut text, &names);
        row(&mut text, &vec!["---:".to_owned(); names.len()]);
        for turn in &self.turns {
            let cost = |of: fn(&Cost) -> Duration| {
                let each = turn.cost.as_ref().map(of);
                each.map_or_else(|| "?".to_owned(), |each| each.as_micros().to_string())
            };
            let mut values = vec![
                format!("{:.0}", turn.paid.per_second()),
                format!("{:.2}", millis(turn.paid.quantile(0.5))),
                format!("{:.2}", millis(turn.paid.quantile(0.99))),
                cost(|cost| cost.gateway),
                cost(|cost| cost.postgres),
                cost(|cost| cost.outside),
            ];
            values.extend(
                turn.ledger
                    .iter()
                    .map(|(run, _)| format!("{:.0}", run.per_second)),
            );
            values.push(format!("{:.2}", turn.ratio()));
            row(&mut text, &values);
        }
        text
    }

    /// `name=value`: medians, each with its least and greatest where there are several.
    pub(super) fn lines(&self) -> String {
        let turns = |of: fn(&Turn) -> f64| self.turns.iter().map(of).collect::<Vec<_>>();
        let alone = |of: fn(&Alone) -> f64| self.alone.iter().map(of).collect::<Vec<_>>();
        let micros = |of: fn(&Turn) -> Option<Duration>| {
            let each = |turn: &Turn| of(turn).map(|each| millis(each) * 1_000.0);
            self.turns.iter().filter_map(each).collect::<Vec<_>>()
        };
        let memory = |bytes: Option<u64>| bytes.map(mebibytes).into_iter().collect::<Vec<_>>();
        let added = |alone: &Alone| millis(alone.paid) - millis(alone.direct);
        let all = [
            ("payments_over_pgbench", 2, turns(Turn::ratio)),
            (
                "payments_per_second",
                0,
                turns(|turn| turn.paid.per_second()),
            ),
            ("pgbench_per_second", 0, turns(Turn::best)),
            ("added_p50_ms", 2, alone(added)),
            ("direct_p50_ms", 3, alone(|alone| millis(alone.direct))),
            ("gateway_rest_mib", 1, memory(self.resting)),
            ("gateway_after_load_mib", 1, memory(self.loaded)),
            (
                "gateway_cpu_us_per_payment",
                0,
                micros(|turn| Some(turn.cost?.gateway)),
            ),
            (
                "postgres_cpu_us_per_payment",
                0,
                micros(|turn| Some(turn.cost?.postgres)),
            ),
            (
                "callers_cpu_us_per_payment",
                0,
                micros(|turn| Some(turn.cost?.outside)),
            ),
            (
                "pgbench_postgres_cpu_us_per_payment",
                0,
                micros(|turn| Some(turn.cost_of_best()?.postgres)),
            ),
            (
                "pgbench_cpu_us_per_payment",
                0,
                micros(|turn| Some(turn.cost_of_best()?.outside)),
            ),
        ];
        let mut text = String::new();
        for (name, decimals, values) in all {
            text.push_str(&line(name, decimals, values));
        }
        text
    }

    /// What falls short of what the product promises, by its figure; where the system does not tell its memory, that is not
    /// judged.
    pub(super) fn shortfalls(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut ratios: Vec<f64> = self.turns.iter().map(Turn::ratio).collect();
        let ratio = median(&mut ratios).unwrap_or(f64::NAN);
        // No number at all is a shortfall, too.
        if ratio.is_nan() || ratio < RATIO_MIN {
            found.push(format!(
                "payments_over_pgbench is {ratio:.3}, below {RATIO_MIN}"
            ));
        }
        if let Some(rest) = self.resting.map(mebibytes)
            && rest >= REST_MIB_LIMIT
        {
            found.push(format!(
                "gateway_rest_mib is {rest:.2}, not below {REST_MIB_LIMIT}"
            ));
        }
        found
    }

    pub(super) fn write(&self, path: &Path) -> Result<(), StackError> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).doing(|| format!("making {}", folder.display()))?;
        }
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let text = format!(
            "# Benchmark\n\n{cores} cores, Postgres {}, {} s a measurement, everything on this machine.\n\n{}\n```text\n\
             {}```\n",
            self.postgres,
            self.span.as_secs(),
            self.table(),
            self.lines(),
        );
        fs::write(path, text).doing(|| format!("writing {}", path.display()))
    }
}

fn row(text: &mut String, cells: &[String]) {
    text.push_str("| ");
    text.push_str(&cells.join(" | "));
    text.push_str(" |\n");
}

/// The middle one, once they are in order.
fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn line(name: &str, decimals: usize, mut values: Vec<f64>) -> String {
    let mut text = String::new();
    let Some(median) = median(&mut values) else {
        return text;
    };
    let (least, greatest) = (values[0], values[values.len() - 1]);
    let _ = write!(text, "{name}={median:.decimals$}");
    if values.len() > 1 {
        let _ = write!(text, " ({least:.decimals$} to {greatest:.decimals$})");
    }
    text.push('\n');
    text
}

fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1_000.0
}

#[expect(clippy::cast_precision_loss, reason = "no process has 2^52 bytes")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_median_and_the_spread() {
        assert_eq!(line("x", 2, vec![0.9, 0.7, 0.8]), "x=0.80 (0.70 to 0.90)\n");
        assert_eq!(line("x", 0, vec![31.4]), "x=31\n");
        assert_eq!(line("x", 0, Vec::new()), "");
    }

    /// Of turns with so many payments a second, where pgbench does 1000.
    fn report(paid: &[u64], resting: u64) -> Report {
        let turn = |paid_in_time: &u64| Turn {
            paid: Tally {
                in_time: *paid_in_time,
                span: Duration::from_secs(1),
                ..Tally::default()
            },
            cost: None,
            ledger: vec![(
                Run {
                    clients: 8,
                    transactions: 1_000,
                    per_second: 1_000.0,
                },
                None,
            )],
        };
        Report {
            connections: 64,
            span: Duration::from_secs(1),
            resting: Some(resting),
            loaded: None,
            postgres: "18".to_owned(),
            alone: Vec::new(),
            turns: paid.iter().map(turn).collect(),
        }
    }

    #[test]
    fn what_falls_short_is_named() {
        let limit = 40 * 1024 * 1024;
        assert!(report(&[500, 600, 900], limit - 1).shortfalls().is_empty());
        let slow = report(&[500, 599, 900], limit - 1).shortfalls();
        assert_eq!(slow, ["payments_over_pgbench is 0.599, below 0.6"]);
        let large = report(&[600], limit).shortfalls();
        assert_eq!(large, ["gateway_rest_mib is 40.00, not below 40"]);
        assert_eq!(report(&[], limit).shortfalls().len(), 2);
    }
}

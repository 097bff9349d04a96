//! What a drill found: a table, lines for machines, and whether it is as promised.

use std::fmt;
use std::fs;
use std::path::Path;
use std::time::Duration;

use super::audit::Audit;
use super::hazards::Struck;
use super::rig::Spans;
use crate::quantile::quantile;
use crate::stack::{Doing, StackError};

/// What a look-up finds must be certain within this, 99 times of 100.
const FOUND_P99_MAX: Duration = Duration::from_mins(1);
/// From the promotion of the ledger's standby until payments go on.
const SERVING_AGAIN_MAX: Duration = Duration::from_secs(10);
/// Sentences of each kind that are printed.
const SHOWN_MAX: usize = 20;

#[derive(Debug)]
pub(super) struct Report {
    pub(super) seed: u64,
    pub(super) spans: Spans,
    pub(super) loaded: Duration,
    pub(super) struck: Struck,
    pub(super) fail_over: bool,
    pub(super) audit: Audit,
    /// Answers against the contract, and what gateways called their own bugs.
    pub(super) broken: Vec<String>,
}

impl Report {
    /// What is not as promised; empty if all is. `any_time`: how long outcomes stayed unknown is not looked at.
    pub(super) fn shortfalls(&self, any_time: bool) -> Vec<String> {
        let mut short: Vec<String> = self
            .findings()
            .iter()
            .filter(|(_, found)| !found.is_empty())
            .map(|(name, found)| format!("{name}: {}", found.len()))
            .collect();
        let certainty = &self.audit.certainty;
        let limits = [
            ("found", &certainty.found, FOUND_P99_MAX),
            (
                "by the horizon",
                &certainty.horizon,
                self.spans.certain_within(),
            ),
        ];
        for (name, spans, most) in limits {
            let p99 = quantile(spans, 0.99);
            if p99 > most && !any_time {
                short.push(format!("certain ({name}) p99 {p99:?}, not {most:?}"));
            }
        }
        let serving_again = self.struck.serving_again;
        if self.fail_over && (serving_again.is_zero() || serving_again > SERVING_AGAIN_MAX) {
            short.push(format!("serving again after {serving_again:?}"));
        }
        if self.audit.payments == 0 {
            short.push("no payment came through".to_owned());
        }
        // Nothing was shown by what never happened.
        if !self.fail_over {
            let never = self.struck.never();
            short.extend(never.iter().map(|what| format!("never struck: {what}")));
        }
        if certainty.unknowns() == 0 {
            short.push("no outcome was ever unknown".to_owned());
        }
        short
    }

    fn findings(&self) -> [(&'static str, &Vec<String>); 6] {
        let audit = &self.audit;
        [
            ("doubles", &audit.doubles),
            ("losses", &audit.losses),
            ("orphans", &audit.orphans),
            ("not_final", &audit.open),
            ("contradictions", &audit.contradictions),
            ("broken", &self.broken),
        ]
    }

    pub(super) fn write(&self, path: &Path) -> Result<(), StackError> {
        let doing = || format!("writing {}", path.display());
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).doing(doing)?;
        }
        fs::write(path, self.to_string()).doing(doing)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let certainty = &self.audit.certainty;
        writeln!(f, "| certain after, seconds | outcomes | p50 | p99 | max |")?;
        writeln!(f, "|---|---:|---:|---:|---:|")?;
        for (name, spans) in [
            ("found by a look-up or a reversal", &certainty.found),
            ("not found, until the horizon", &certainty.horizon),
            ("as callers saw it", &certainty.callers),
        ] {
            let [p50, p99, max] =
                [0.5, 0.99, 1.0].map(|share| quantile(spans, share).as_secs_f64());
            let count = spans.len();
            writeln!(f, "| {name} | {count} | {p50:.1} | {p99:.1} | {max:.1} |")?;
        }
        writeln!(f)?;
        writeln!(f, "seed={}", self.seed)?;
        writeln!(f, "seconds={}", self.loaded.as_secs())?;
        writeln!(f, "horizon_seconds={}", self.spans.horizon.as_secs())?;
        writeln!(f, "payments={}", self.audit.payments)?;
        writeln!(f, "intents={}", self.audit.intents)?;
        let struck = self.struck;
        for (name, count) in struck.each() {
            writeln!(f, "{name}={count}")?;
        }
        if self.fail_over {
            let seconds = struck.serving_again.as_secs_f64();
            writeln!(f, "serving_again_seconds={seconds:.1}")?;
        }
        writeln!(f, "unknowns={}", certainty.unknowns())?;
        writeln!(f, "parked={}", self.audit.parked)?;
        for (name, found) in self.findings() {
            writeln!(f, "{name}={}", found.len())?;
        }
        let timelines = [&certainty.slowest, &self.audit.timelines];
        for line in timelines.into_iter().flatten() {
            writeln!(f, "    {line}")?;
        }
        for (name, found) in self.findings() {
            for what in found.iter().take(SHOWN_MAX) {
                writeln!(f, "{name}: {what}")?;
            }
        }
        Ok(())
    }
}

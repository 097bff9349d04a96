//! Time to certainty: how long outcomes stayed unknown, read from the ledger's own history.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::PgConnection;
use sqlx::types::Uuid;

use super::notes::Note;
use crate::stack::{Doing, StackError};

/// The spans from the moment an outcome became unknown until it was final, sorted.
#[derive(Debug, Default)]
pub(super) struct Certainty {
    /// Ended by what a look-up or a reversal found.
    pub(super) found: Vec<Duration>,
    /// Not found anywhere: certain only when the horizon had passed.
    pub(super) horizon: Vec<Duration>,
    /// What happened to the slowest of each.
    pub(super) slowest: Vec<String>,
    /// As callers saw it: from the first answer that was none, or not final, until the final one.
    pub(super) callers: Vec<Duration>,
}

impl Certainty {
    pub(super) async fn read(ledger: &mut PgConnection) -> Result<Self, StackError> {
        // What was adopted became unknown when its owner died: at its record at the earliest, which is what counts here. A card
        // check that has no answer is over by that, and asks nothing.
        let rows: Vec<(Uuid, f64, bool)> = sqlx::query_as(
            "with doubt as (
                 select distinct on (operation) operation, at, transaction from event
                 where to_state = 'unknown' order by operation, id),
             taken as (select operation, transaction from event where kind = 'adopted'),
             ended as (
                 select operation, bool_or(reason = 'not_found_past_horizon') as waited from event
                 where kind = 'transition' group by operation)
             select operation.id, cast(extract(epoch from operation.settled_at
                     - case when taken.operation is null then doubt.at else operation.recorded_at end) as float8),
                 ended.waited
             from operation
             join doubt on doubt.operation = operation.id
             join ended on ended.operation = operation.id
             left join taken on taken.operation = doubt.operation and taken.transaction = doubt.transaction
             where operation.verb not in ('reversal', 'verify') and operation.settled_at is not null",
        )
        .fetch_all(&mut *ledger)
        .await
        .doing(|| "reading how long outcomes stayed unknown".to_owned())?;
        let mut certainty = Self::default();
        let mut slowest = [(Duration::ZERO, None); 2];
        for (operation, seconds, waited) in rows {
            let span = Duration::from_secs_f64(seconds.max(0.0));
            let (spans, slowest) = if waited {
                (&mut certainty.horizon, &mut slowest[1])
            } else {
                (&mut certainty.found, &mut slowest[0])
            };
            spans.push(span);
            *slowest = (*slowest).max((span, Some(operation)));
        }
        for (_, operation) in slowest {
            if let Some(operation) = operation {
                certainty.slowest.extend(timeline(ledger, operation).await?);
            }
        }
        certainty.found.sort_unstable();
        certainty.horizon.sort_unstable();
        Ok(certainty)
    }

    pub(super) fn callers(&mut self, notes: &BTreeMap<String, Note>) {
        self.callers = notes.values().filter_map(|note| note.in_doubt).collect();
        self.callers.sort_unstable();
    }

    pub(super) fn unknowns(&self) -> usize {
        self.found.len() + self.horizon.len()
    }
}

/// What the ledger knows of one operation, a line for each event.
pub(super) async fn timeline(
    ledger: &mut PgConnection,
    operation: Uuid,
) -> Result<Vec<String>, StackError> {
    let events: Vec<String> = sqlx::query_scalar(
        "select concat_ws(' ', to_char(at, 'HH24:MI:SS.MS'), verb, kind, from_state, '->', to_state, reason)
         from event where operation = $1 or operation in (select id from operation where reverses = $1) order by id",
    )
    .bind(operation)
    .fetch_all(ledger)
    .await
    .doing(|| "reading a timeline".to_owned())?;
    let of = format!("op_{}:", operation.simple());
    Ok(std::iter::once(of).chain(events).collect())
}

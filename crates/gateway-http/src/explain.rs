//! The proof of what happened to one operation: every transition, call and decision, for people and as JSON.

use std::fmt::Write as _;

use gateway_core::store::{Event, Operation};
use serde_json::{Value, json};

use crate::routes::documents::{EventDocument, OperationDocument, outcome};

/// One operation with everything the ledger holds about it.
#[derive(Debug)]
pub struct Story {
    operation: Operation,
    timeline: Vec<Event>,
    pub reversal: Option<Box<Story>>,
}

impl Story {
    pub fn of(operation: Operation, timeline: Vec<Event>) -> Self {
        Self {
            operation,
            timeline,
            reversal: None,
        }
    }

    fn value(&self) -> Value {
        let operation = &self.operation;
        json!({
            "operation": OperationDocument::of(operation),
            "client": operation.client,
            "idempotency_key": operation.key,
            "account": operation.account,
            "payment": operation.payment,
            "reference": operation.reference,
            "attempt": operation.attempt,
            "sends": operation.sends,
            "epoch": operation.epoch,
            "owner": operation.owner.to_string(),
            "resolves_by": operation.resolves_by().rfc3339(),
            "outcome": outcome(&operation.state),
            "late_answer": operation.late,
            "timeline": self.timeline.iter().map(|event| EventDocument::of(event, true)).collect::<Vec<_>>(),
            "reversal": self.reversal.as_ref().map(|reversal| reversal.value()),
        })
    }

    pub fn json(&self) -> String {
        format!("{:#}", self.value())
    }

    /// For a person at a terminal.
    pub fn text(&self) -> String {
        let mut text = String::new();
        self.tell(&mut text)
            .expect("writing into a string does not fail");
        text
    }

    fn tell(&self, text: &mut String) -> std::fmt::Result {
        let operation = &self.operation;
        writeln!(
            text,
            "{} {} of {} on {}: {}",
            operation.id,
            operation.verb.as_str(),
            operation.amount,
            operation.account,
            operation.state.name().as_str()
        )?;
        if let Some(payment) = operation.payment {
            writeln!(text, "  payment    {payment}")?;
        }
        writeln!(
            text,
            "  key        {} of client {}",
            operation.key, operation.client
        )?;
        writeln!(
            text,
            "  reference  {} (attempt {}, sent {} times, epoch {})",
            operation.reference, operation.attempt, operation.sends, operation.epoch
        )?;
        if let Some(reference) = OperationDocument::of(operation).upstream_reference {
            writeln!(text, "  processor  {reference}")?;
        }
        if !operation.state.is_final() {
            writeln!(text, "  resolves   by {}", operation.resolves_by())?;
        }
        if let Some(outcome) = outcome(&operation.state) {
            writeln!(text, "  outcome    {outcome}")?;
        }
        for event in &self.timeline {
            write!(text, "{}  {:<16}", event.at, event.kind.as_str())?;
            if let (Some(from), Some(to)) = (event.from, event.to) {
                write!(text, "  {} → {}", from.as_str(), to.as_str())?;
            } else if let Some(to) = event.to {
                write!(text, "  {}", to.as_str())?;
            }
            writeln!(text, "  {}", event.reason)?;
            for call in event.evidence["calls"].as_array().into_iter().flatten() {
                writeln!(text, "      {}", call_line(call))?;
            }
        }
        if let Some(reversal) = &self.reversal {
            writeln!(text, "reversed by")?;
            reversal.tell(text)?;
        }
        Ok(())
    }
}

/// What the wire saw of one call, in a line.
fn call_line(call: &Value) -> String {
    let text = |name: &str| call[name].as_str().unwrap_or("?").to_owned();
    let status = call["status"]
        .as_u64()
        .map_or_else(|| "no answer".to_owned(), |status| status.to_string());
    format!(
        "{}: {} bytes written to {}{}, {}, {}",
        text("call"),
        call["bytes_written"],
        text("address"),
        if call["reused"] == true {
            " (reused connection)"
        } else {
            ""
        },
        status,
        text("ended"),
    )
}

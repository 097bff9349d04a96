//! Commands that work on a running installation: `serve`, `migrate`, `resolve`, `explain`.

use std::time::Duration;

use gateway_core::by_hand::{self, Decider, Decision};
use gateway_core::key::OperationId;
use gateway_core::store::Store;
use tokio::signal::unix::{SignalKind, signal};

use crate::assemble::{Seams, check_ledger, pieces};
use crate::config::Config;
use crate::gateway::{Gateway, StartError};
use crate::{ledger, server, sinks};

/// Runs the gateway until SIGTERM or SIGINT, then drains.
pub async fn serve(config: Config) -> Result<(), StartError> {
    let sinks = sinks::start(&config.telemetry)
        .map_err(|error| StartError::because("telemetry", &error))?;
    let served = serve_until_told(config).await;
    sinks.end().await;
    served
}

async fn serve_until_told(config: Config) -> Result<(), StartError> {
    let pieces = pieces(&config, Seams::default()).await?;
    let mut stop = Box::pin(stop_signal()?);
    tokio::select! {
        trusted = trust(&*pieces.store) => trusted?,
        () = &mut stop => return Ok(()),
    }
    let address = config.server.listen;
    let listener =
        server::bind(address).map_err(|source| StartError::Listen { address, source })?;
    let gateway = Gateway::start(config, pieces)?;
    tracing::info!(%address, replica = %gateway.app.engine.replica(), "serving");
    gateway.run(listener, stop).await
}

/// Waits until the ledger answers, and refuses one that would forget or that has an older schema. Nothing is served
/// before: what nobody could look at yet is not to be trusted with payments once it answers.
async fn trust(store: &dyn Store) -> Result<(), StartError> {
    let mut asked: u64 = 0;
    while let Err(error) = store.faults().await {
        if asked.is_multiple_of(30) {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "waiting for the ledger"
            );
        }
        asked += 1;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    check_ledger(store).await
}

/// Ends with the first SIGTERM or SIGINT.
fn stop_signal() -> Result<impl Future<Output = ()> + Send, StartError> {
    let listen = |kind| signal(kind).map_err(|error| StartError::because("signals", &error));
    let (mut terminate, mut interrupt) = (
        listen(SignalKind::terminate())?,
        listen(SignalKind::interrupt())?,
    );
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Brings the ledger's schema up to this release.
pub async fn migrate(config: &Config) -> Result<(), StartError> {
    let store = ledger::open(&config.ledger).await?;
    store
        .migrate()
        .await
        .map_err(|error| StartError::because("migrate", &error))
}

/// Writes a person's decision about a parked operation.
pub async fn resolve(
    config: &Config,
    id: OperationId,
    decision: Decision,
    decider: &Decider,
) -> Result<String, StartError> {
    let store = ledger::open(&config.ledger).await?;
    let operation = by_hand::resolve(&*store, id, decision, decider)
        .await
        .map_err(|error| StartError::because("resolve", &error))?;
    Ok(format!("{id} is {} now", operation.state.name().as_str()))
}

/// What happened to an operation, step by step, with what the wire saw.
pub async fn explain(
    config: &Config,
    id: OperationId,
    as_json: bool,
) -> Result<String, StartError> {
    let store = ledger::open(&config.ledger).await?;
    let failed = |error| StartError::because("explain", &error);
    let Some(operation) = store.operation(id).await.map_err(failed)? else {
        return Err(StartError::Unusable {
            what: "explain".to_owned(),
            detail: format!("there is no operation {id}"),
        });
    };
    let reversal = store.reversal_of(id).await.map_err(failed)?;
    let mut told = crate::explain::Story::of(operation, store.timeline(id).await.map_err(failed)?);
    if let Some(reversal) = reversal {
        let timeline = store.timeline(reversal.id).await.map_err(failed)?;
        told.reversal = Some(Box::new(crate::explain::Story::of(reversal, timeline)));
    }
    Ok(if as_json { told.json() } else { told.text() })
}

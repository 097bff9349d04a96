//! The gateway as a process.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use sandbox::stack::{GatewayProcess, StackError};
use sandbox::world::World;

use super::PATIENCE;

/// How long a stopped process may leave a question unanswered before we believe that it is stopped.
const QUIET: Duration = Duration::from_millis(500);

async fn health(gateway: &GatewayProcess, within: Duration) -> Option<u16> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(within)
        .build()
        .expect("a client");
    let answer = client.get(format!("{}/healthz", gateway.base_url()));
    answer
        .send()
        .await
        .ok()
        .map(|answer| answer.status().as_u16())
}

#[tokio::test]
async fn a_gateway_is_stopped_killed_started_again_and_asked_to_end() -> Result<(), StackError> {
    let world = World::on_sqlite().await;
    let mut gateway = world.process("gateway").await;
    assert_eq!(health(&gateway, PATIENCE).await, Some(200));
    if cfg!(target_os = "linux") {
        assert!(
            gateway
                .resident_bytes()
                .is_some_and(|bytes| bytes > 1_000_000)
        );
    }

    gateway.sigstop().await?;
    assert_eq!(health(&gateway, QUIET).await, None);
    gateway.sigcont().await?;
    assert_eq!(health(&gateway, PATIENCE).await, Some(200));

    let (first, url) = (gateway.id(), gateway.base_url().to_owned());
    assert!(gateway.start_again().await.is_err(), "it still runs");
    gateway.kill9()?;
    assert_eq!(gateway.ended(PATIENCE).await?.signal(), Some(9));
    assert_eq!(health(&gateway, PATIENCE).await, None);

    gateway.start_again().await?;
    assert_ne!(gateway.id(), first);
    assert_eq!(gateway.base_url(), url);
    assert_eq!(health(&gateway, PATIENCE).await, Some(200));
    assert_eq!(gateway.output()?.matches("\"serving\"").count(), 2);

    gateway.sigterm()?;
    assert!(gateway.ended(PATIENCE).await?.success());
    Ok(())
}

#[tokio::test]
async fn a_gateway_that_does_not_start_says_why() -> Result<(), StackError> {
    let world = World::on_sqlite().await;
    let mut options = world.process_options("gateway");
    options.config.push_str("\n[nonsense]\n");
    let refused = GatewayProcess::start_new(options).await;
    let words = format!("{:?}", refused.expect_err("its configuration is nonsense"));
    assert!(
        words.starts_with("starting gateway, which said: ") && words.contains("nonsense"),
        "{words}"
    );
    Ok(())
}

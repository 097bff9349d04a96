//! A ledger with a standby: which server is written to, and which standby is no help.

use std::time::Duration;

use sandbox::stack::{PostgresServer, StackError, eventually};
use sandbox::world::migrate;

const PATIENCE: Duration = Duration::from_secs(30);
const DATABASE: &str = "postgres";

#[tokio::test]
async fn of_several_hosts_the_one_that_takes_writes_is_the_ledger() -> Result<(), StackError> {
    let mut primary = PostgresServer::start_new().await?;
    migrate(&primary.url(DATABASE)).await?;
    let standby = primary.start_standby().await?;
    let ledger = async |url: &str| gateway_http::ledger::at(url).await.expect("a URL");

    // A commit that the standby does not have yet would be lost with the primary.
    let faults = ledger(&primary.url(DATABASE)).await.faults().await;
    let faults = faults.expect("the primary answers");
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].contains("none is synchronous"), "{faults:?}");
    primary.wait_for_standby().await?;

    let both = format!("127.0.0.1:{},127.0.0.1:{}", standby.port(), primary.port());
    let alone = format!("127.0.0.1:{}", primary.port());
    let both = ledger(&primary.url(DATABASE).replace(&alone, &both)).await;
    assert_eq!(both.faults().await.expect("the primary answers"), [""; 0]);
    let behind = ledger(&standby.url(DATABASE)).await;
    assert!(behind.ping().await.is_err(), "reads of a standby are old");

    primary.stop_immediate().await?;
    assert!(both.ping().await.is_err(), "nobody takes writes");
    standby.promote().await?;
    for ledger in [both, behind] {
        let answers = async || ledger.ping().await.ok();
        eventually(PATIENCE, "the promoted standby to answer", answers).await?;
        assert_eq!(ledger.faults().await.expect("it answers"), [""; 0]);
    }
    Ok(())
}
